"""Which parameters a stage trains, freezes and adapts: each of them in exactly one way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ..dsl.diagnostics import Diagnostic, Findings, Fix, listing, nearest, rename
from ..dsl.kinds import Selector, SelectorStep
from ..dsl.recipe import Recipe
from ..dsl.source import Span
from ..dsl.stages import LayerDecay, Lora, Lr
from .build import build
from .graph import Graph
from .ops import ZEROS, Embed, Head, Param, VisionBlocks
from .places import labels
from .repairs import listed, selectors_of


@dataclass(frozen=True)
class Coverage:
    """What becomes of each parameter in a stage, in the order of the model.

    `factors` gives the learning rate of each trained parameter in units of the stage's; `adapted`
    gives, for each matrix that keeps its values and learns a low-rank change, what was asked for.
    """

    trained: Mapping[str, Param]
    frozen: Mapping[str, Param]
    adapted: Mapping[str, Lora]
    factors: Mapping[str, float]

    @property
    def added(self) -> dict[str, Param]:
        """The matrices that adaptation adds: for `x.weight`, `x.lora_a` and `x.lora_b`."""
        every = dict[str, Param]()
        for name, lora in self.adapted.items():
            out, into = self.frozen[name].shape
            stem = name.removesuffix(".weight")
            every[f"{stem}.lora_a"] = Param((lora.rank, into))
            every[f"{stem}.lora_b"] = Param((out, lora.rank), ZEROS)
        return every

    @property
    def learnt(self) -> dict[str, Param]:
        """All that gets a gradient, added matrices included."""
        return {**self.trained, **self.added}

    @property
    def learning(self) -> frozenset[str]:
        """Their names."""
        return frozenset(self.learnt)


@dataclass(frozen=True)
class _Claim:
    """One entry of `train` or `freeze`, and the parameters that it speaks of."""

    path: str
    entry: Selector | Lora | Lr | LayerDecay
    trains: bool
    names: tuple[str, ...]

    @property
    def adapts(self) -> bool:
        """A low-rank change: the parameters themselves stay as they are."""
        return isinstance(self.entry, Lora)

    @property
    def keeps(self) -> bool:
        """Whether the parameters themselves stay as they are."""
        return self.adapts or not self.trains

    @property
    def selector(self) -> Selector:
        """What it selects."""
        return self.entry if isinstance(self.entry, Selector) else self.entry.target


def coverage(recipe: Recipe, stage: str) -> Coverage:
    """What becomes of each parameter in a stage; RecipeError when it is not exactly one thing."""
    findings = Findings()
    found = cover(recipe, stage, findings)
    findings.raise_if_any()
    return found


def cover(recipe: Recipe, stage: str, findings: Findings) -> Coverage:
    """The same, with the mistakes gathered; what is claimed twice goes to the first claim."""
    graph = build(recipe)
    parameters = graph.parameters()
    claims = list(_claims(recipe, stage, graph))
    adapted, owner = dict[str, Lora](), dict[str, _Claim]()
    for claim in claims:
        if not claim.names:
            head = _tied_head(graph, claim.selector)
            findings.add(
                _shared(recipe, claim, head) if head else _empty(recipe, claim, parameters)
            )
        clashes = dict.fromkeys(
            owner[name].path for name in claim.names if name in owner and _clash(claim, owner[name])
        )
        for path in clashes:
            findings.add(_overlap(recipe, claim, next(c for c in claims if c.path == path)))
        for name in claim.names:
            if isinstance(claim.entry, Lora):
                adapted[name] = claim.entry
            owner.setdefault(name, claim)
    for claim in _mentions(recipe, stage, parameters):
        if not claim.names:
            findings.add(_empty(recipe, claim, parameters))
        elif ".drop_" in claim.path and not droppable(graph, claim.selector):
            findings.add(without_blocks(recipe, claim.path, claim.selector))
    for claim in claims:
        by_layers = isinstance(claim.entry, LayerDecay) and claim.names
        if by_layers and not layers(claim.selector.part, parameters):
            findings.add(without_blocks(recipe, claim.path, claim.selector))
    missing = [name for name in parameters if name not in owner]
    if missing and all(claim.names for claim in claims):  # what was misspelt is told, once
        findings.add(_unlisted(recipe, stage, missing, parameters))
    trained = {
        n: p for n, p in parameters.items() if n in owner and not owner[n].keeps and not p.fixed
    }
    below = {
        claim.path: layers(claim.selector.part, parameters)
        for claim in claims
        if isinstance(claim.entry, LayerDecay)
    }
    factors = {name: _factor(owner[name], name, below) for name in trained}
    frozen = {name: param for name, param in parameters.items() if name not in trained}
    if not trained and not adapted and not findings:
        findings.add(_idle(recipe, stage, claims[0].selector.part))
    return Coverage(trained, frozen, adapted, factors)


def _claims(recipe: Recipe, name: str, graph: Graph) -> Iterator[_Claim]:
    stage, parameters = recipe.stages[name], graph.parameters()
    linear = linear_layers(graph)
    for setting, entries in (("train", stage.train), ("freeze", stage.freeze)):
        for index, entry in enumerate(entries):
            selector = entry if isinstance(entry, Selector) else entry.target
            chosen = [n for n in parameters if selector.matches(n)]
            if isinstance(entry, Lora):
                chosen = [n for n in chosen if n in linear]  # low rank is a notion of these
            path = f"{name}.{setting}[{index}]"
            yield _Claim(path, entry, setting == "train", tuple(chosen))


def linear_layers(graph: Graph) -> frozenset[str]:
    """The matrices of all linear layers: weights of two sizes that are no table of embeddings."""
    return frozenset(
        name
        for node in graph
        if not isinstance(node.op, Embed)
        for name, param in node.parameters.items()
        if len(param.shape) == 2 and name.endswith(".weight")
    )


def _mentions(recipe: Recipe, name: str, parameters: Mapping[str, Param]) -> Iterator[_Claim]:
    """What the other settings of a stage select, beside what becomes of it."""
    stage = recipe.stages[name]
    for setting, selectors in (
        ("optim.no_decay", stage.optim.no_decay),
        ("checkpoint", stage.checkpoint),
        ("cache", stage.cache),
        ("drop_path", [drop.target for drop in stage.drop_path]),
        ("drop_tokens", [drop.target for drop in stage.drop_tokens]),
    ):
        for index, selector in enumerate(selectors):
            chosen = tuple(n for n in parameters if selector.matches(n))
            yield _Claim(f"{name}.{setting}[{index}]", selector, False, chosen)


def _factor(claim: _Claim, name: str, below: Mapping[str, Mapping[str, int]]) -> float:
    """The learning rate of a parameter in units of the stage's; `below` has its layer, by claim."""
    match claim.entry:
        case Lr(factor=factor):
            return factor
        case LayerDecay(rate=rate, lr=lr):
            return lr * rate ** below[claim.path].get(name, 0)
    return 1.0


def layers(part: str, parameters: Iterable[str]) -> dict[str, int]:
    """How many layers below the top of its part each parameter lies; nothing where no blocks are.

    What comes after the blocks is the top, and what comes before the first of them lies one layer
    below it: the layers of BEiT and of those that took its rule over.

    >>> names = ["vit.embed.weight", "vit.blocks.0.weight", "vit.blocks.1.weight", "vit.norm.bias"]
    >>> list(layers("vit", names).values())
    [3, 2, 1, 0]
    """
    own = [name for name in parameters if name.partition(".")[0] == part]
    numbers = {n: int(next(w for w in n.split(".") if w.isdigit())) for n in own if _numbered(n)}
    if not numbers:
        return {}
    depth, first = max(numbers.values()) + 1, own.index(next(iter(numbers)))
    return {
        name: depth - numbers[name] if name in numbers else (depth + 1) * (place < first)
        for place, name in enumerate(own)
    }


def _numbered(name: str) -> bool:
    return any(word.isdigit() for word in name.split("."))


def droppable(graph: Graph, selector: Selector) -> dict[str, list[int]]:
    """The modules whose blocks drop path can leave out, and which of these a selector names."""
    found = dict[str, list[int]]()
    for node in graph:
        if isinstance(node.op, VisionBlocks) and node.weights is None:
            named = (n for n in node.parameters if selector.matches(n))
            numbers = {n.removeprefix(f"{node.name}.").partition(".")[0] for n in named}
            found[node.name] = [block for block in range(node.op.depth) if str(block) in numbers]
    return {name: blocks for name, blocks in found.items() if blocks}


def drop_rates(recipe: Recipe, stage: str) -> dict[str, tuple[float, ...]]:
    """The chance of each block to be left out in a stage, by module; only where it drops paths."""
    found = dict[str, list[float]]()
    graph = build(recipe)
    for drop in recipe.stages[stage].drop_path:
        for module, blocks in droppable(graph, drop.target).items():
            last = recipe.encoders[module.partition(".")[0]].depth - 1
            rates = found.setdefault(module, [0.0] * (last + 1))
            for block in blocks:
                along = block / last if last and drop.over == "ramp" else 1.0
                rates[block] = drop.rate * along
    return {module: tuple(rates) for module, rates in found.items()}


def token_rates(recipe: Recipe, stage: str) -> dict[str, float]:
    """The share of tokens that a stage leaves out, by module."""
    graph = build(recipe)
    return {
        module: drop.rate
        for drop in recipe.stages[stage].drop_tokens
        for module in droppable(graph, drop.target)
    }


def without_blocks(recipe: Recipe, path: str, selector: Selector) -> Diagnostic:
    """The complaint that something goes by the blocks of a part that has none."""
    return Diagnostic(
        "F612",
        f"`{selector.part}` has no blocks to go by",
        labels(
            recipe,
            (path, "this goes from block to block"),
            (selector.part, "this part has none"),
        ),
        fix=Fix("name a part with blocks, such as a tower"),
    )


def _clash(one: _Claim, other: _Claim) -> bool:
    """A frozen matrix may be adapted; any other double claim is a mistake."""
    return not (one.keeps and other.keeps and one.adapts != other.adapts)


def _tied_head(graph: Graph, selector: Selector) -> str | None:
    """The tied head that a selector names, which owns no parameter that it could match."""
    for node in graph:
        if isinstance(node.op, Head) and node.op.tied and selector.matches(f"{node.name}.weight"):
            return node.name
    return None


def _shared(recipe: Recipe, claim: _Claim, head: str) -> Diagnostic:
    part = head.partition(".")[0]
    return Diagnostic(
        "F608",
        f"`{head}` has no parameters of its own",
        labels(
            recipe,
            (claim.path, f"{_verb(claim)} the head alone"),
            (f"{part}.tied", "the head and the embedding are one matrix"),
        ),
        _MERGED if claim.adapts else "tied weights are trained together or frozen together",
        Fix(
            "leave the head out"
            if claim.adapts
            else f"write `{part}.embed`, which is the matrix of both"
        ),
    )


def _empty(recipe: Recipe, claim: _Claim, parameters: Mapping[str, Param]) -> Diagnostic:
    what = "no linear layer" if claim.adapts else "no parameter"
    return Diagnostic(
        "F603",
        f"`{claim.selector}` matches {what}",
        labels(
            recipe,
            (claim.path, f"{what} of this model is at or below it"),
            (claim.selector.part, _contents(claim.selector.part, parameters)),
        ),
        "a selector that matches nothing is a slip: the stage would do less than it says",
        _advice(recipe, claim, parameters),
    )


def _contents(part: str, parameters: Iterable[str]) -> str:
    """What a part has to select: the names that stand right below its own."""
    below = [name.split(".") for name in parameters if name.startswith(f"{part}.")]
    known = dict.fromkeys(next(word for word in words[1:] if not word.isdigit()) for words in below)
    return f"it has {listing(known, 6)}" if known else "it has no parameters"


def _advice(recipe: Recipe, claim: _Claim, parameters: Mapping[str, Param]) -> Fix:
    """What the author of an empty selector may have meant."""
    steps = claim.selector.parts
    names = [step.name for step in steps]
    bare = Selector(text=".".join(names), parts=tuple(SelectorStep(name=name) for name in names))
    below = [name for name in parameters if bare.matches(name)]
    if below and claim.adapts:
        return Fix("name linear layers, such as `lm.blocks.attn`")
    if below:
        numbers = {int(word) for name in below for word in name.split(".") if word.isdigit()}
        return Fix(f"its blocks are numbered from {min(numbers)} to {max(numbers)}")
    known = {".".join(n for n in name.split(".") if not n.isdigit()) for name in parameters}
    prefixes = {name.rsplit(".", depth)[0] for name in known for depth in range(1, 5)}
    near = nearest(bare.text, sorted(prefixes))
    if near is None:
        return Fix("name a part of the model, or leave it out")
    words, span = near.split("."), recipe.span(claim.path)
    if len(words) != len(steps) or span is None or span.text.count(claim.selector.text) != 1:
        return Fix(f"write `{near}`")
    meant = ".".join(
        word if step.first is None else f"{word}[{step.first}..{step.last}]"
        for word, step in zip(words, steps, strict=True)
    )
    start = span.start + span.text.index(claim.selector.text)
    return rename(Span(span.source, start, start + len(claim.selector.text)), meant)


def _overlap(recipe: Recipe, claim: _Claim, other: _Claim) -> Diagnostic:
    others = set(other.names)
    shared = [name for name in claim.names if name in others]
    more = f", and {len(shared) - 1:,} more" if len(shared) > 1 else ""
    return Diagnostic(
        "F602",
        f"`{claim.entry}` and `{other.entry}` both claim `{shared[0]}`",
        labels(
            recipe,
            (claim.path, f"{_verb(claim)} it{more}"),
            (other.path, f"{_verb(other)} it"),
        ),
        _UNDONE if claim.adapts != other.adapts else _ONE_THING,
        Fix("name them in one place: narrow one of the two selectors"),
    )


_MERGED = "a low-rank change of the head would change the embedding too, once it is merged"
_ONE_THING = "a stage does one thing with each parameter, or nobody can say what it does"
_UNDONE = "a low-rank change is for a matrix that stays as it is; training it undoes that"


def _verb(claim: _Claim) -> str:
    return "adapts" if claim.adapts else "trains" if claim.trains else "freezes"


def _unlisted(recipe: Recipe, stage: str, missing: list[str], every: Iterable[str]) -> Diagnostic:
    tops, left = short_names(missing, every), selectors_of(missing, every)
    return Diagnostic(
        "F601",
        f"stage `{stage}` does not say what becomes of {listing(tops, 4)}",
        labels(
            recipe,
            (f"{stage}.train", f"{len(missing):,} parameters are in neither list"),
            (tops[0].partition(".")[0], f"`{tops[0]}` is declared here"),
        ),
        "every parameter is trained or frozen by name; there is no default",
        Fix(
            f"add {listing(left, 4)} to `train` or to `freeze`",
            listed(recipe, f"{stage}.freeze", left),
            safe=False,
        ),
    )


def short_names(names: Iterable[str], every: Iterable[str]) -> list[str]:
    """A short way to name parameters: by their part where all of it is meant, else by module."""
    names = list(names)
    rest = {name.partition(".")[0] for name in set(every) - set(names)}
    depth = {name: 2 if name.partition(".")[0] in rest else 1 for name in names}
    return list(dict.fromkeys(".".join(name.split(".")[: depth[name]]) for name in names))


def _idle(recipe: Recipe, stage: str, part: str) -> Diagnostic:
    return Diagnostic(
        "F609",
        f"stage `{stage}` trains nothing",
        labels(
            recipe,
            (f"{stage}.train", "nothing of this learns"),
            (part, "what it trains of this stays as it starts"),
        ),
        "a stage without a trained parameter cannot change the model",
        Fix("name a part in `train`, or drop the stage"),
    )
