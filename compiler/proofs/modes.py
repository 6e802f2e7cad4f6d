"""A mode admits no more than some stage has trained, unless it says so, and its answers can end."""

from __future__ import annotations

from ...dsl.diagnostics import Diagnostic, Findings, Fix
from ...dsl.inputs import ImageInput, Native, Resizing, Tiles
from ...dsl.modes import AnyMode, Features, Mode
from ...dsl.parts import Decoder, QueryDecoder
from ...dsl.recipe import Recipe
from ..places import labels
from ..repairs import amended
from ..tokens import as_seen, shown


def prove_modes(recipe: Recipe, findings: Findings) -> None:
    """Gather the modes whose pictures or texts outgrow those of every stage without saying so, and
    those whose answers can never end.

    `amend resize = ...` and `amend prompt = ...` say so, in the mode or in a variant of it.
    """
    for name, mode in recipe.modes.items():
        if isinstance(mode, Mode) and (found := _answers(recipe, name, mode)):
            findings.add(found)
    if not recipe.stages:
        return
    told = set[str]()
    for name, mode in recipe.modes.items():
        for found in (_pictures(recipe, name, mode, told), _texts(recipe, name, mode)):
            if found:
                findings.add(found)


def _answers(recipe: Recipe, name: str, mode: Mode) -> Diagnostic | None:
    """No token may end an answer before the most tokens that it takes."""
    least = mode.sampling.min_new
    if least <= mode.new:
        return None
    return Diagnostic(
        "V305",
        f"an answer of mode `{name}` has at least {least:,} tok and at most {mode.new:,}",
        labels(
            recipe,
            (f"{name}.sampling", f"nothing ends it before {least:,} tok"),
            (f"{name}.new", f"it is broken off behind {mode.new:,}"),
        ),
        "no answer could end where its text does",
        Fix(f"write a `min_new` of at most {mode.new}tok, or a larger `new`"),
    )


def _pictures(recipe: Recipe, name: str, mode: AnyMode, told: set[str]) -> Diagnostic | None:
    """The largest picture of a mode has more pixels than that of any stage.

    Of modes that see an input in the same way the first is reported.
    """
    medium = next((m for m in shown(recipe, mode) if isinstance(recipe.inputs[m], ImageInput)), "")
    stages = [stage for stage, one in recipe.stages.items() if medium in shown(recipe, one)]
    if not medium or not stages or f"{name}.resize" in recipe.facts.amended:
        return None
    resizes = {
        f"{user}.resize" if own else f"{medium}.resize": own or recipe.inputs[medium].resize
        for user, own in ((stage, recipe.stages[stage].resize) for stage in stages)
    }
    widest = max(resizes, key=lambda path: pixels(resizes[path]))
    path = f"{name}.resize" if mode.resize else f"{medium}.resize"
    admitted = pixels(mode.resize or recipe.inputs[medium].resize)
    if admitted <= pixels(resizes[widest]) or path in told:
        return None
    told.add(path)
    return Diagnostic(
        "T509",
        f"mode `{name}` admits larger pictures than any stage trains",
        labels(
            recipe,
            (path, f"up to {admitted:,} pixels of a picture are seen"),
            (widest, f"no stage sees more than {pixels(resizes[widest]):,}"),
            (name, "this mode takes them"),
        ),
        "what the model makes of larger pictures has been learnt by nothing in this recipe",
        Fix(
            "write `amend resize = ...` in the mode if that is meant",
            amended(recipe, f"{name}.resize"),
            safe=False,
        ),
    )


def pixels(resize: Resizing) -> int:
    """The most pixels that are seen of one picture, all of its tiles together.

    >>> pixels(Tiles.model_validate({"side": 448, "count": {"low": 1, "high": 12}})) // 448**2
    13
    """
    match resize:
        case Native(multiple=multiple, budget=budget):
            return budget.high * multiple**2
        case Tiles(side=side, count=count, thumbnail=thumbnail):
            return (count.high + (thumbnail and count.high > 1)) * side**2
    return resize.side**2


def _texts(recipe: Recipe, name: str, mode: AnyMode) -> Diagnostic | None:
    """A prompt and its answer may be longer than any sample of a stage."""
    writer = as_seen(recipe, mode).lm or recipe.speaker
    is_meant = {f"{name}.prompt", f"{name}.new"} & recipe.facts.amended
    if isinstance(mode, Features) or writer is None or is_meant:
        return None
    rooms = dict(_room(recipe, stage, writer) for stage in recipe.stages)
    widest = max(rooms, key=lambda path: rooms[path])
    new = mode.new if isinstance(mode, Mode) else 0
    length = min(mode.prompt.high + new, writer.context)
    if length <= rooms[widest]:
        return None
    return Diagnostic(
        "T509",
        f"mode `{name}` admits longer texts than any stage trains",
        labels(
            recipe,
            (f"{name}.prompt", f"with the answer up to {length:,} tok"),
            (widest, f"no stage sees more than {rooms[widest]:,}"),
        ),
        "positions behind those of every sample have been learnt by nothing in this recipe",
        Fix(
            "write `amend prompt = ...` if that is meant",
            amended(recipe, f"{name}.prompt"),
            safe=False,
        ),
    )


def _room(recipe: Recipe, name: str, writer: Decoder | QueryDecoder) -> tuple[str, int]:
    """How long a sample of a stage may be, and where that stands."""
    stage = recipe.stages[name]
    if stage.truncate:
        return f"{name}.truncate", stage.truncate
    if stage.pack:
        return f"{name}.pack", stage.pack
    return f"{'lm' if recipe.lm else name}.context", writer.context
