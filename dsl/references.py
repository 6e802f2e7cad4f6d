"""What holds between the blocks of a recipe: each name leads to a thing of the right kind."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import syntax
from .diagnostics import Diagnostic, Findings, Fix, Label, listing, nearest, rename
from .evaluate import model_of, settings_of
from .kinds import Model, Selector
from .modes import Features, Mode, Retrieval
from .objectives import Captioning, Contrastive, Matching, RegionWords
from .parts import ADAPTERS, ENCODERS, LANGUAGE_MODELS, Decoder, Resized
from .precision import Fewer
from .recipe import Facts
from .source import Span
from .stages import By, LayerDecay, Lora, Lr, Stage
from .texts import Layout, SpecialItem, SpecialToken, Tokens
from .whole import Part, Whole, article

PARTS = ("encoder", "adapter", "lm")
"""The kinds of blocks that hold parameters."""
_FEEDS: Mapping[str, tuple[str, ...]] = {
    "encoder": ("input", "encoder", "adapter"),
    "adapter": ("encoder", "adapter"),
    "lm": ("encoder", "adapter"),
}
"""From the kind of a part to the kinds of what its `in` may name."""
PART_MODELS = (*ENCODERS.values(), *ADAPTERS.values(), *LANGUAGE_MODELS.values())
"""What may stand in such a block."""
ASSERTED_CALLS = ("worst",)
"""What an assert may ask of a layout: the most tokens of a sample with so many images or videos."""
ASSERTED_COUNTS = ("tokens",)
"""What an assert may ask of a part: the most tokens that it yields."""


def check_references(
    whole: Whole, models: Mapping[str, Model], facts: Facts, findings: Findings
) -> None:
    """Leave a finding for every name that leads nowhere, or to the wrong kind of thing.

    A model may lack settings that were wrong in themselves; its other names are looked up.
    """
    checker = _References(whole, models, facts, findings)
    for name, model in models.items():
        match model:
            case model if isinstance(model, PART_MODELS):
                checker.feeds(name, _if_good(model, "in_", ()))
            case Tokens():
                checker.tokens(name, model)
            case RegionWords():
                checker.part_at(f"{name}.regions", _if_good(model, "regions", None))
                checker.part_at(f"{name}.words", _if_good(model, "words", None))
            case Layout():
                checker.ends(name, model)
            case Stage():
                checker.stage(name, model)
            case Mode() | Retrieval() | Features():
                checker.follows(name, model)
                checker.quantized(name, _if_good(model, "quantize", ()))
                checker.routes(name, model)
            case Contrastive() | Matching() | Captioning():
                checker.routes(name, model)
    checker.circles()
    checker.asserts()


class _References:
    """Looks names up in one recipe."""

    def __init__(
        self, whole: Whole, models: Mapping[str, Model], facts: Facts, findings: Findings
    ) -> None:
        self._whole = whole
        self._models = models
        self._facts = facts
        self._findings = findings

    def _span(self, path: str, number: int = 0) -> Span:
        """Where the value at a path stands, or that member of it."""
        spans = self._facts.spans
        member = f"{path}[{number}]"
        return spans[member] if member in spans else spans[path]

    def _names(self, *kinds: str) -> list[str]:
        return [name for name, part in self._whole.parts.items() if part.kind in kinds]

    def _look_up(
        self, code: str, name: str, kinds: tuple[str, ...], wanted: str, span: Span, taker: str = ""
    ) -> bool:
        """Whether the name is a block of these kinds; a finding if it is not.

        What a part might take in its place is not itself, the `taker`.
        """
        part = self._whole.parts.get(name)
        if part and part.kind in kinds:
            return True
        known = [one for one in self._names(*kinds) if one != taker]
        if part:
            self._findings.add(
                Diagnostic(
                    "N215",
                    f"`{name}` is {article(part.kind)}",
                    (
                        Label(span, f"this takes {wanted}"),
                        Label(part.header, "declared here", False),
                    ),
                    fix=Fix(f"write {listing(known, last='or')}") if known else None,
                )
            )
            return False
        near = nearest(name, known)
        labels = [Label(span, f"this takes {wanted}")]
        if name in self._whole.dropped:
            labels.append(Label(self._whole.dropped[name], "dropped here", False))
        verb = "begin with" if wanted.startswith("a path") else "write"
        fix = Fix(f"{verb} {listing(known, last='or')}") if known else None
        noun = "part " if kinds == PARTS else f"{kinds[0]} " if len(kinds) == 1 else ""
        self._findings.add(
            Diagnostic(
                code,
                f"there is no {noun}`{name}`",
                tuple(labels),
                fix=_renamed(span, name, near) if near else fix,
            )
        )
        return False

    # parts

    def feeds(self, name: str, sources: Iterable[Selector | Resized]) -> None:
        """What flows into a part is there, and of a kind that can."""
        kinds = _FEEDS[self._whole.parts[name].kind]
        wanted = f"{', '.join(map(article, kinds[:-1]))} or {article(kinds[-1])}"
        for number, source in enumerate(sources):
            span = self._span(f"{name}.in", number)
            self._look_up("N204", source.part, kinds, wanted, span, taker=name)

    def part_at(self, path: str, name: str | None) -> None:
        """A path into a part starts at one."""
        if name is not None:
            first = name.partition(".")[0].partition("[")[0]
            self._look_up("N204", first, PARTS, "a part of the model", self._span(path))

    def routes(self, name: str, model: Model) -> None:
        """What a mode or an objective takes of parts is there, and so is its layout."""
        for setting in ("from", "of", "image", "text", "scores", "scale"):
            taken = _if_good(model, "from_" if setting == "from" else setting, None)
            several = taken if isinstance(taken, tuple) else [taken] if taken else []
            for number, source in enumerate(several):
                first = source.part if isinstance(source, Selector) else source
                span = self._span(f"{name}.{setting}", number)
                is_there = self._look_up("N204", first, PARTS, "a part of the model", span)
                if is_there and setting == "from":
                    self._writer(str(source), self._whole.parts[first], span)
        layout = _if_good(model, "layout", None)
        self.layouts_at(f"{name}.layout", [layout] if layout else ())

    def _writer(self, source: str, part: Part, span: Span) -> None:
        """What writes the answers of a mode is a text behind the queries of a decoder."""
        writers = [
            f"{other.name}.caption"
            for other in self._whole.parts.values()
            if other.kind == "adapter" and other.type == "QueryDecoder"
        ]
        if source in writers:
            return
        self._findings.add(
            Diagnostic(
                "N215",
                f"`{source}` writes no answers",
                (
                    Label(span, "this takes the `caption` of a `QueryDecoder`"),
                    Label(part.header, "declared here", False),
                ),
                fix=Fix(f"write {listing(writers, last='or')}")
                if writers
                else Fix("leave it out: the language model answers"),
            )
        )

    def layouts_at(self, path: str, names: Iterable[str]) -> None:
        """Layouts are there."""
        for number, name in enumerate(names):
            self._look_up("L704", name, ("layout",), "a layout", self._span(path, number))

    def ends(self, name: str, layout: Layout) -> None:
        """The special tokens that end an answer are there."""
        tokens = self._whole.parts.get("tokens")
        known = [special for kind, special in tokens.entries if kind == "special"] if tokens else []
        for number, end in enumerate(_if_good(layout, "stop", ())):
            if not isinstance(end, SpecialItem) or end.special in known:
                continue
            span, near = self._span(f"{name}.stop", number), nearest(end.special, known)
            self._findings.add(
                Diagnostic(
                    "L701",
                    f"there is no special token `{end.special}`",
                    (Label(span),),
                    fix=rename(span, near) if near else None,
                )
            )

    def circles(self) -> None:
        """Neither parts nor stages follow one another in a circle."""
        feeds = {
            name: [
                (source.part, self._span(f"{name}.in", number))
                for number, source in enumerate(_if_good(model, "in_", ()))
                if source.part in self._names(*_FEEDS[self._whole.parts[name].kind])
            ]
            for name, model in self._models.items()
            if isinstance(model, PART_MODELS)
        }
        _refuse_circle(feeds, _FEEDING, self._findings)
        follows = {
            name: [(after, self._span(f"{name}.after"))] if after else []
            for name, model in self._models.items()
            if isinstance(model, Stage)
            for after in [_if_good(model, "after", None)]
        }
        _refuse_circle(follows, _FOLLOWING, self._findings)

    # tokens

    def tokens(self, name: str, tokens: Tokens) -> None:
        """Special tokens are told apart by id and by text, and fit the vocabulary."""
        specials: Mapping[str, SpecialToken] = _if_good(tokens, "specials", {})
        pad = _if_good(tokens, "pad", None)
        named = [(pad, f"{name}.pad", 0)] if pad is not None else []
        new = enumerate(_if_good(tokens, "new", ()))
        named += [(special, f"{name}.new", number) for number, special in new]
        for special, path, number in named:
            if not specials or special in specials:
                continue
            near = nearest(special, specials)
            span = self._span(path, number)
            self._findings.add(
                Diagnostic(
                    "N204",
                    f"there is no special token `{special}`",
                    (Label(span),),
                    fix=rename(span, near) if near else None,
                )
            )
        by_id: dict[int, str] = {}
        by_text: dict[str, str] = {}
        lm = self._models.get("lm")
        vocab = _if_good(lm, "vocab", None) if isinstance(lm, Decoder) else None
        for special, token in specials.items():
            span = self._span(f"{name}.{special}")
            for code, what, first in (
                ("T502", f"the id {token.id}", by_id.setdefault(token.id, special)),
                ("T503", f"the text {token.text!r}", by_text.setdefault(token.text, special)),
            ):
                if first != special:
                    self._twice(code, what, name, first, span)
        outside = {n: t.id for n, t in specials.items() if vocab is not None and t.id >= vocab}
        if vocab is not None and outside:
            self._outside(name, outside, vocab)

    def _outside(self, name: str, outside: Mapping[str, int], vocab: int) -> None:
        """Ids for which the language model has no row, told once."""
        last = max(outside, key=lambda special: outside[special])
        those = f"the special token `{last}` lies"
        if outside.keys() != {last}:
            those = f"{len(outside)} special tokens lie"
        self._findings.add(
            Diagnostic(
                "T501",
                f"{those} outside the vocabulary",
                (
                    Label(self._span(f"{name}.{last}"), f"its id is {outside[last]}"),
                    Label(self._span("lm.vocab"), f"ids end at {vocab - 1}", False),
                ),
                "an id without a row is looked up behind the end of the embedding",
                Fix(f"take ids below {vocab}, or write `vocab = {outside[last] + 1}` or more"),
            )
        )

    def _twice(self, code: str, what: str, name: str, first: str, span: Span) -> None:
        self._findings.add(
            Diagnostic(
                code,
                f"two special tokens have {what}",
                (Label(span, "this one"), Label(self._span(f"{name}.{first}"), "and this", False)),
                "each token has an id and a text of its own, or one is read as the other",
                Fix(f"give one of them the {what.split()[1]} that the tokenizer has for it"),
            )
        )

    # stages

    def stage(self, name: str, stage: Stage) -> None:
        """A stage follows one that is there, on layouts, losses and parts that are there."""
        self.follows(name, stage)
        self.stage_layouts(name, _if_good(stage, "layout", ()))
        for number, loss in enumerate(_if_good(stage, "loss", ())):
            span = self._span(f"{name}.loss", number)
            if loss != "lm":
                self._look_up("N204", loss, ("objective",), "`lm` or an objective", span)
            elif "lm" not in self._whole.parts:
                self._findings.add(
                    Diagnostic(
                        "N213",
                        f"the stage `{name}` scores text, and there is no language model",
                        (Label(span),),
                        fix=Fix("add `lm : Decoder { ... }`, or name an objective in `loss`"),
                    )
                )
        trained = [
            item.target if isinstance(item, Lora | Lr | LayerDecay) else item
            for item in _if_good(stage, "train", ())
        ]
        optim = _if_good(stage, "optim", None)
        for setting, selectors in (
            ("train", trained),
            ("freeze", _if_good(stage, "freeze", ())),
            ("checkpoint", _if_good(stage, "checkpoint", ())),
            ("cache", _if_good(stage, "cache", ())),
            ("drop_path", [drop.target for drop in _if_good(stage, "drop_path", ())]),
            ("drop_tokens", [drop.target for drop in _if_good(stage, "drop_tokens", ())]),
            ("optim.no_decay", optim.no_decay if optim else ()),
        ):
            for number, selector in enumerate(selectors):
                self._selector(selector, self._span(f"{name}.{setting}", number))

    def follows(self, name: str, model: Model) -> None:
        """The stage that a stage or a mode goes on from is there."""
        after = _if_good(model, "after", None)
        if after is not None:
            self._look_up("F605", after, ("stage",), "a stage", self._span(f"{name}.after"))

    def quantized(self, name: str, entries: Iterable[Fewer]) -> None:
        """What a mode keeps in fewer bits belongs to parts that are there."""
        for number, entry in enumerate(entries):
            self._selector(entry.target, self._span(f"{name}.quantize", number))

    def stage_layouts(self, name: str, layouts: tuple[str, ...] | By) -> None:
        """The layouts of a stage are there, for each kind of data where it says so."""
        if not isinstance(layouts, By):
            self.layouts_at(f"{name}.layout", layouts)
            return
        for kind, names in layouts.layouts.items():
            self.layouts_at(f"{name}.layout.{kind}", names)

    def _selector(self, selector: Selector, span: Span) -> None:
        wanted = "a path that begins with a part" if selector.parts[1:] else "a part of the model"
        self._look_up("F604", selector.parts[0].name, PARTS, wanted, span)

    # asserts

    def asserts(self) -> None:
        """An assert speaks of settings, of the tokens of a part, of the worst case of a layout."""
        for found in self._whole.asserts.values():
            for side in (found.comparison.left, found.comparison.right):
                for value in syntax.walk(side):
                    if isinstance(value, syntax.Path):
                        self._asserted_path(value)
                    elif isinstance(value, syntax.Call):
                        self._asserted_call(value)
                    elif not isinstance(value, syntax.Number | syntax.Negative | syntax.Binary):
                        self._findings.add(
                            Diagnostic(
                                "V303",
                                "an assert compares numbers",
                                (Label(value.span, "this is none"),),
                            )
                        )

    def _asserted_path(self, path: syntax.Path) -> None:
        first, *rest = path.steps
        kinds = tuple({part.kind for part in self._whole.parts.values()})
        if not self._look_up("N204", first.name, kinds, "something of the recipe", first.span):
            return
        part = self._whole.parts[first.name]
        model = model_of(part)
        known = [*(settings_of(model) if model else ()), *ASSERTED_COUNTS]
        if rest and rest[0].name in known:
            return
        step = rest[0] if rest else first
        near = nearest(step.name, known) if rest else None
        self._findings.add(
            Diagnostic(
                "N204",
                f"`{path}` is nothing that an assert can speak of",
                (Label(step.span),),
                fix=rename(step.span, near)
                if near
                else Fix(f"write `{first.name}.NAME` with one of {listing(known, 30)}"),
            )
        )

    def _asserted_call(self, call: syntax.Call) -> None:
        steps = call.target.steps
        if len(steps) == 2 and steps[1].name in ASSERTED_CALLS:
            self._look_up("L704", steps[0].name, ("layout",), "a layout", steps[0].span)
            return
        self._findings.add(
            Diagnostic(
                "N214",
                f"an assert cannot call `{call.name}`",
                (Label(call.target.span),),
                fix=Fix("write `LAYOUT.worst(images: 1)`"),
            )
        )


def in_order(stages: Mapping[str, Stage]) -> dict[str, Stage]:
    """The stages, each after the one that it follows, otherwise in the order of the text."""
    ordered: dict[str, Stage] = {}
    for name in stages:
        waiting = []
        current: str | None = name
        while current is not None and current not in ordered:
            waiting.append(current)
            current = stages[current].after
        for ready in reversed(waiting):
            ordered[ready] = stages[ready]
    return ordered


def _if_good(model: Model, field: str, otherwise: Any) -> Any:
    """The value of a field, or something else when the field was wrong and is not there."""
    return getattr(model, field, otherwise)


def _renamed(span: Span, name: str, near: str) -> Fix:
    """The fix for a typo at the start of a path."""
    return rename(span, near + span.text[len(name) :] if span.text.startswith(name) else near)


@dataclass(frozen=True)
class _Circle:
    """How a circle is told: of its start, of each step, and how to break it."""

    code: str
    title: str
    step: str
    mend: str


_FEEDING = _Circle(
    "N208", "`{}` feeds itself", "`{}` takes `{}`", "let one of them take something else"
)
_FOLLOWING = _Circle(
    "F606",
    "the stage `{}` comes after itself",
    "`{}` comes after `{}`",
    "drop `after` in the one that comes first",
)


def _refuse_circle(
    edges: Mapping[str, Iterable[tuple[str, Span]]], told: _Circle, findings: Findings
) -> None:
    """A finding for each circle; `edges` go from a name to what it needs, and where it says so."""
    done: set[str] = set()
    for start in edges:
        path: list[str] = []
        spans: list[Span] = []
        pending = [(start, iter(edges[start]))]
        path.append(start)
        while pending:
            _, needs = pending[-1]
            needed = next(needs, None)
            if needed is None:
                pending.pop()
                done.add(path.pop())
                if spans:
                    spans.pop()
                continue
            name, span = needed
            if name in path:
                around = path[path.index(name) :]
                circle = [*spans[path.index(name) :], span]
                labels = [
                    Label(at, told.step.format(taker, giver), number == 0)
                    for number, (at, taker, giver) in enumerate(
                        zip(circle, around, [*around[1:], name], strict=True)
                    )
                ]
                findings.add(
                    Diagnostic(
                        told.code,
                        told.title.format(name),
                        tuple(labels),
                        " -> ".join([*around, name]),
                        Fix(told.mend),
                    )
                )
            elif name in edges and name not in done:
                path.append(name)
                spans.append(span)
                pending.append((name, iter(edges[name])))
