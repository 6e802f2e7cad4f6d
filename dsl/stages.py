"""What a recipe may say of a training stage."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .diagnostics import listing
from .inputs import Resizing
from .kinds import (
    Amount,
    CallModel,
    Count,
    CountRange,
    Flag,
    Model,
    Name,
    Positive,
    Selected,
    Selector,
    Seq,
    Share,
    Steps,
    Tok,
    Whole,
)
from .precision import TrainedPrecision
from .reading import Amounts, Calls, Choice, Measure, Members, OneOrMore, OrCall, Problem, complain


class Lora(CallModel):
    """Trains a low-rank change of the linear layers that the target selects.

    The change is scaled by `alpha / rank`, which is 1 when `alpha` is not written.
    """

    call: Literal["lora"] = "lora"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Selected
    rank: Count
    alpha: Positive | None = None

    @property
    def scale(self) -> float:
        """What the low-rank change is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class Lr(CallModel):
    """Trains the target at a multiple of the stage's learning rate."""

    call: Literal["lr"] = "lr"
    positional: ClassVar[tuple[str, ...]] = ("target", "factor")
    target: Selected
    factor: Positive


class LayerDecay(CallModel):
    """Trains the layers of the target at rates that fall from its top (Clark et al., 2020).

    The last block learns at `rate` times what stands above the blocks, each block below at `rate`
    times the one above it, and what stands below the blocks as one more layer. `lr` multiplies all.
    """

    call: Literal["decay"] = "decay"
    positional: ClassVar[tuple[str, ...]] = ("target", "rate")
    target: Selected
    rate: Annotated[float, Measure(), Field(gt=0, le=1)]
    lr: Positive = 1.0


Trained = Annotated[Selector | Lora | Lr | LayerDecay, Calls()]


class DropPath(CallModel):
    """Leaves out branches of the target's blocks, picture by picture (Huang et al., 2016).

    The chance is `rate` in the last block, and falls to 0 in the first, or is `uniform`. A block
    whose parameters are frozen is left out as well.
    """

    call: Literal["drop_path"] = "drop_path"
    positional: ClassVar[tuple[str, ...]] = ("target", "rate")
    target: Selected
    rate: Annotated[float, Measure(), Field(gt=0, lt=1)]
    over: Annotated[Literal["ramp", "uniform"], Choice()] = "ramp"


class DropTokens(CallModel):
    """Leaves out a share of each picture's tokens before the target's blocks (FLIP, 2022).

    Which ones is drawn anew each time; the class token stays.
    """

    call: Literal["drop_tokens"] = "drop_tokens"
    positional: ClassVar[tuple[str, ...]] = ("target", "rate")
    target: Selected
    rate: Annotated[float, Measure(), Field(gt=0, lt=1)]


class Ramp(CallModel):
    """A share that goes from one value to another in a straight line over the first steps."""

    call: Literal["ramp"] = "ramp"
    positional: ClassVar[tuple[str, ...]] = ("start", "end")
    start: Annotated[float, Measure(), Field(ge=0)]
    end: Positive
    over: Annotated[int, Measure("steps"), Field(gt=0)]


Weight = Annotated[Positive | Ramp, OrCall(Measure())]


class Mix(CallModel):
    """Kinds of data, and how often each is drawn in proportion to the others."""

    call: Literal["mix"] = "mix"
    open_arguments: ClassVar[str | None] = "shares"
    shares: dict[str, Weight] = Field(min_length=1)

    @model_validator(mode="after")
    def _never_nothing(self) -> "Mix":
        if all(isinstance(share, Ramp) and share.start == 0 for share in self.shares.values()):
            complain(
                Problem(
                    "V305",
                    "nothing is drawn at first",
                    reason="every share of the mixture starts at 0",
                    fix="let one of them start above 0",
                )
            )
        return self


class By(CallModel):
    """The layouts of each kind of data, by the names of the mixture."""

    call: Literal["by"] = "by"
    open_arguments: ClassVar[str | None] = "layouts"
    layouts: dict[str, Annotated[tuple[Name, ...], OneOrMore()]] = Field(min_length=1)


class RandomCrop(CallModel):
    """A random part of each picture: its share of the area, and its width over its height.

    With the input's resize behind it, it is the random resized crop of the field.
    """

    call: Literal["random_crop"] = "random_crop"
    scale: Annotated[tuple[Share, Share], Members()]
    ratio: Annotated[tuple[Positive, Positive], Members()] = (3 / 4, 4 / 3)


class Jpeg(CallModel):
    """Each picture as JPEG has it at a random quality out of a range."""

    call: Literal["jpeg"] = "jpeg"
    quality: CountRange


Augment = Annotated[RandomCrop | Jpeg, Calls()]


class AdamW(CallModel):
    """Adam with decoupled weight decay; `clip` bounds the norm of all gradients together."""

    call: Literal["adamw"] = "adamw"
    lr: Positive
    betas: Annotated[tuple[Share, Share], Members()] = (0.9, 0.999)
    weight_decay: Annotated[float, Measure(), Field(ge=0)] = 0.0
    decay: Annotated[Literal["matrices", "ndim", "all"], Choice()] = "matrices"
    """What the weight decay is for: tensors with two sizes above 1, with two or more of any size
    (a class token [1, 1, width] too), or all."""
    no_decay: Annotated[tuple[Selected, ...], OneOrMore()] = ()
    """What it is not for all the same."""
    eps: Positive = 1e-8
    clip: Positive | None = None


class WarmUp(CallModel):
    """How a rate begins: it rises in a straight line, over steps or over a share of the stage."""

    warmup: Steps = 0
    warmup_ratio: Annotated[float, Measure(), Field(gt=0, lt=1)] | None = None
    warmup_from: Annotated[float, Measure(), Field(ge=0)] | None = None
    """The rate of the first step; without it, it is one part of the rise."""

    @model_validator(mode="after")
    def _once(self) -> "WarmUp":
        if self.warmup and self.warmup_ratio:
            complain(
                Problem(
                    "F610",
                    "the warm-up has two lengths",
                    (("warmup_ratio", "a share of the stage"), ("warmup", "and steps")),
                    fix="leave one of them out",
                )
            )
        return self


class Falling(WarmUp):
    """A rate that falls to `min`, a learning rate, at the end of the stage.

    `over` says when the fall begins: with the `rest` of the stage, after the warm-up, or with the
    `stage`, so that the rate drops to where it would be by then as the warm-up ends (LAVIS).
    """

    min: Annotated[float, Measure(), Field(ge=0)] = 0.0
    over: Annotated[Literal["rest", "stage"], Choice()] = "rest"


class Constant(WarmUp):
    """The same rate throughout, after the warm-up."""

    call: Literal["constant"] = "constant"


class Linear(Falling):
    """Falls in a straight line."""

    call: Literal["linear"] = "linear"


class Cosine(Falling):
    """Falls along half a cosine."""

    call: Literal["cosine"] = "cosine"


class Stairs(WarmUp):
    """Falls in steps: from each share `at` of the stage on, the rate is its factor of the peak."""

    call: Literal["step"] = "step"
    at: Annotated[tuple[Annotated[float, Measure(), Field(gt=0, lt=1)], ...], Members()]
    factors: Annotated[tuple[Positive, ...], Members()]

    @model_validator(mode="after")
    def _agree(self) -> "Stairs":
        if len(self.at) != len(self.factors) or list(self.at) != sorted(set(self.at)):
            complain(
                Problem(
                    "F610",
                    "the steps of the rate do not fit together",
                    (("at", f"{len(self.at)} places"), ("factors", f"{len(self.factors)} factors")),
                    reason="each place has one factor, and places rise",
                )
            )
        return self


class Stage(Model):
    """What is trained, on what, for how long; every parameter is trained or frozen by name."""

    after: Name | None = None
    train: Annotated[tuple[Trained, ...], OneOrMore()] = Field(min_length=1)
    freeze: Annotated[tuple[Selected, ...], OneOrMore()] = ()
    layout: Annotated[Annotated[tuple[Name, ...], Field(min_length=1)] | By, OrCall(OneOrMore())]
    """The layouts of its samples; the first that has the rules that a sample needs is used."""
    data: Annotated[Mix, Calls()]
    apart: Annotated[tuple[Name, ...], OneOrMore()] = ()
    """Kinds of data with steps of their own; all others share theirs."""
    group_by_length: Steps = 0
    """Out of the samples of so many steps, those of like length share one."""
    stop: Annotated[Amount, Amounts(("steps", "seq", "tok", "epochs"))]
    batch: Seq
    """Samples of one optimizer step."""
    accumulate: Count = 1
    """Into how many parts the batch is cut, one after another."""
    optim: Annotated[AdamW, Calls()]
    schedule: Annotated[Constant | Linear | Cosine | Stairs, Calls()] = Constant()
    loss: Annotated[tuple[Name, ...], OneOrMore()] = ("lm",)
    """What is summed: `lm`, the next token where the layout says loss, or named objectives."""
    resize: Resizing | None = None
    """The resize of still pictures, in place of that of their inputs."""
    augment: Annotated[tuple[Augment, ...], OneOrMore()] = ()
    """What happens to still pictures by chance, in this order, before they are resized."""
    drop_path: Annotated[tuple[Annotated[DropPath, Calls()], ...], OneOrMore()] = ()
    drop_tokens: Annotated[tuple[Annotated[DropTokens, Calls()], ...], OneOrMore()] = ()
    precision: TrainedPrecision = "bf16"
    """What the whole model computes in, or each of its parts."""
    checkpoint: Annotated[tuple[Selected, ...], OneOrMore()] = ()
    """Whose activations are computed again in the backward pass instead of being kept."""
    cache: Annotated[tuple[Selected, ...], OneOrMore()] = ()
    """Whose values are kept on disk, picture by picture: frozen parts, up to a whole block."""
    pack: Tok | None = None
    """Samples are joined up to this length; each attends to itself only."""
    pack_by_kind: Flag = False
    """Whether only samples of one kind of data are joined."""
    truncate: Tok | None = None
    """The text of a longer sample is cut off behind so many tokens; None: it is refused."""
    seed: Whole = 0

    @property
    def layouts(self) -> tuple[str, ...]:
        """All layouts of its samples, each once."""
        if isinstance(self.layout, By):
            every = (name for names in self.layout.layouts.values() for name in names)
            return tuple(dict.fromkeys(every))
        return self.layout

    @model_validator(mode="after")
    def _kinds(self) -> "Stage":
        said = {"layout": self.layout.layouts} if isinstance(self.layout, By) else {}
        for setting, names in ({"apart": self.apart} | said).items():
            for name in names:
                if name not in self.data.shares:
                    place = f"layout.{name}" if setting == "layout" else setting
                    complain(
                        Problem(
                            "F611",
                            f"the stage draws no `{name}`",
                            ((place, f"`{name}` is named here"), ("data", "not in the mixture")),
                            fix=f"name {listing(self.data.shares, last='or')}",
                        )
                    )
        left = [name for name in self.data.shares if said and name not in said["layout"]]
        if left:
            complain(
                Problem(
                    "F611",
                    f"the stage has no layout for {listing(left)}",
                    (("layout", "none here"), (f"data.{left[0]}", "drawn here")),
                    fix=f"add `{left[0]}: LAYOUT`",
                )
            )
        return self
