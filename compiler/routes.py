"""Routes through a model: what its parts make of pictures, of texts, and of both together.

A part that reads text is called once for each route, over one set of parameters. The route says
where its text comes from: the host feeds `NAME.tokens`, padded on the right, `NAME.last`, the place
of the last token, and `NAME.picture`, which picture each text goes with.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..dsl.kinds import Selector, SelectorStep
from ..dsl.modes import Features, Retrieval
from ..dsl.objectives import Captioning, Contrastive, Hard, Matching
from ..dsl.parts import AttentionPool, LastToken, MeanScores, QueryDecoder, Resized, Scale, UnitSum
from ..dsl.recipe import Recipe
from . import ops
from .types import Size, TensorType, multiply
from .yields import dense

if TYPE_CHECKING:
    from .build import Builder


@dataclass(frozen=True, slots=True)
class Route:
    """The nodes that hold a text: its tokens, the place of the last one, and its picture."""

    name: str
    tokens: str
    last: str
    picture: str


OBJECTIVES = (Contrastive, Matching, Captioning)
"""Objectives that have routes of their own."""


QUESTION = "question"
"""The route of what a user asks, for parts that read it before the language model does."""


def is_spoken(recipe: Recipe, source: Selector | Resized) -> bool:
    """Whether a source is what a decoder with queries makes of a text."""
    if not isinstance(source, Selector) or len(source.parts) < 2:
        return False
    return isinstance(recipe.adapters.get(source.part), QueryDecoder)


def is_text(recipe: Recipe, source: Selector | Resized) -> bool:
    """Whether a source is made of text alone."""
    if not isinstance(source, Selector) or not is_spoken(recipe, source):
        return False
    return source.parts[1].name == "text"


def reads(recipe: Recipe, name: str) -> bool:
    """Whether a part is made of text, be it with pictures or without."""
    part = recipe.adapters.get(name)
    return part is not None and any(
        is_spoken(recipe, source) or reads(recipe, source.part) for source in part.in_
    )


def reader_of(recipe: Recipe, name: str) -> QueryDecoder | None:
    """The decoder with queries by which a part is made of text; None where it is not."""
    part = recipe.adapters.get(name)
    for source in part.in_ if part else ():
        giver = recipe.adapters.get(source.part)
        if is_spoken(recipe, source):
            assert isinstance(giver, QueryDecoder)
            return giver
        if giver and (found := reader_of(recipe, source.part)):
            return found
    return None


def fed(builder: Builder, name: str, texts: Size | str, length: str = "") -> Route:
    """A route whose texts the host feeds, so many of them, each so long."""
    sizes = (texts, length or f"{name}.length")
    builder.routes[name] = Route(
        name,
        builder.feed(f"{name}.tokens", TensorType(sizes, "i64")),
        builder.feed(f"{name}.last", TensorType((texts,), "i64")),
        builder.feed(f"{name}.picture", TensorType((texts,), "i64")),
    )
    return builder.routes[name]


# Parts -------------------------------------------------------------------------------------------


def attention_pool(builder: Builder, name: str, part: AttentionPool, medium: str) -> str:
    """The tokens of each picture -> one vector."""
    (source,) = part.in_
    given = dense(builder.recipe, name, source, medium)
    op = ops.AttentionPool(given.width, part.heads, part.out, part.norm.call, part.norm.eps)
    return builder.call(name, op, builder.source(source, medium), medium=medium)


def query_decoder(builder: Builder, name: str, part: QueryDecoder, medium: str) -> str:
    """The tokens of each picture -> what the queries become of it."""
    seen = builder.source(part.in_[0], medium)
    blocks = query_blocks(builder.recipe, name, part, medium, "queries")
    query = _queries(builder, name, part)
    hidden = builder.call(f"{name}.blocks", blocks, query, seen, medium=medium)
    return builder.call(f"{name}.norm", _norm(part), hidden, medium=medium)


def spoken(builder: Builder, source: Selector, medium: str) -> str:
    """What a decoder with queries makes of the text of the route: `text`, `joint` or `caption`."""
    name, use = source.part, source.parts[1].name
    part, route = builder.recipe.adapters[name], builder.route
    assert isinstance(part, QueryDecoder) and route
    embed = ops.Embed(part.vocab, part.width)
    given = [builder.call(f"{name}.embed", embed, route.tokens, route=route.name)]
    if use != "text":
        seen = builder.source(part.in_[0], medium)
        given = [_queries(builder, name, part), seen, *given, route.picture]
    if use == "joint":
        given.append(route.last)
    media = [medium] if medium else builder.reaching(name)
    blocks = query_blocks(builder.recipe, name, part, media[0], use)
    hidden = builder.call(f"{name}.blocks", blocks, *given, route=route.name)
    return builder.call(f"{name}.norm", _norm(part), hidden, route=route.name)


def generation(builder: Builder, medium: str) -> str:
    """Ids behind queries, with a cache -> a score for each entry of the vocabulary.

    The first places of each sequence are reserved for the queries, which look at its picture.
    """
    assert builder.recipe.lm
    name = builder.recipe.lm.in_[0].part
    part = builder.recipe.adapters[name]
    assert isinstance(part, QueryDecoder)
    (source,) = part.in_
    given = dense(builder.recipe, name, source, medium)
    assert given.tokens
    rows = builder.once(f"{name}.pictures", ops.Rows(), builder.source(source, medium))
    seen = builder.once(f"{name}.seen", ops.Pictures(given.tokens), rows)
    tokens = builder.feed("text.tokens", TensorType(("batch", "length"), "i64"))
    hidden = builder.call(f"{name}.embed", ops.Embed(part.vocab, part.width), tokens)
    table = TensorType(("batch", "length", part.head_dim), "f32")
    hidden = builder.call(
        f"{name}.blocks",
        query_blocks(builder.recipe, name, part, medium, "begin"),
        _queries(builder, name, part),
        seen,
        hidden,
        builder.feed("text.cos", table),
        builder.feed("text.sin", table),
        builder.feed("text.slot", TensorType(("batch", "length"), "i64")),
        builder.feed("text.first", TensorType(("batch",), "i64")),
        builder.once("cache", ops.Cache(part.depth, part.heads, part.head_dim)),
    )
    hidden = builder.call(f"{name}.norm", _norm(part), hidden)
    return builder.call(f"{name}.head", _head(part), hidden)


def last_token(builder: Builder, name: str, part: LastToken, medium: str) -> str:
    """What each text becomes -> one vector, of its last token."""
    (source,) = part.in_
    hidden, route = builder.source(source, medium), builder.route
    assert route
    row = builder.call(f"{name}.row", ops.TakeLast(), hidden, route.last, route=route.name)
    op = ops.Linear(_width(builder, source, medium), part.out, bias=False)
    return builder.call(name, op, row, route=route.name)


def mean_scores(builder: Builder, name: str, part: MeanScores, medium: str) -> str:
    """The tokens of each sequence -> the mean of their scores."""
    (source,) = part.in_
    given, place = builder.source(source, medium), builder.place(name, medium)
    op = ops.Linear(_width(builder, source, medium), part.out, bias=True)
    each = builder.call(name, op, given, **place)
    return builder.call(f"{name}.mean", ops.Mean(), each, **place)


def unit_sum(builder: Builder, name: str, part: UnitSum, medium: str) -> str:
    """The vectors of several parts -> one of each picture or text."""
    given = [builder.source(source, medium) for source in part.in_]
    return builder.call(name, ops.UnitSum(), *given, **builder.place(name, medium))


def scale(builder: Builder, name: str, part: Scale, medium: str) -> str:
    """The factor of similarities."""
    return builder.once(name, ops.Scale(part.temperature))


def query_blocks(
    recipe: Recipe, name: str, part: QueryDecoder, medium: str, use: ops.Use | str
) -> ops.QueryBlocks:
    """The blocks of a decoder with queries, for one use."""
    return ops.QueryBlocks(
        use,  # type: ignore[arg-type]  # the name of an output, which is checked, or a literal
        part.depth,
        part.width,
        dense(recipe, name, part.in_[0], medium).width,
        part.heads,
        part.ffn,
        part.act,
        part.norm.call,
        part.norm.eps,
        part.cross_every,
        part.pos.theta,
    )


def _width(builder: Builder, source: Selector, medium: str) -> int:
    part = builder.recipe.adapters.get(source.part)
    return part.width if isinstance(part, QueryDecoder) else builder.yields(source, medium).width


def _queries(builder: Builder, name: str, part: QueryDecoder) -> str:
    return builder.once(f"{name}.queries", ops.Queries(part.queries, part.width))


def _norm(part: QueryDecoder) -> ops.Norm:
    return ops.Norm(part.norm.call, part.width, part.norm.eps)


def _head(part: QueryDecoder) -> ops.Head:
    return ops.Head(part.vocab, part.width, part.tied)


# Objectives --------------------------------------------------------------------------------------


def contrast(builder: Builder, name: str, objective: Contrastive) -> str:
    """The loss of pictures and texts told apart; its node."""
    medium, pairs = _paired(builder, objective.image[0])
    builder.route = fed(builder, name, pairs)
    text = builder.source(objective.text, "")
    factor = builder.part(objective.scale, "")
    group = builder.feed(f"{name}.group", TensorType((pairs,), "i64"))
    weight = builder.feed(f"{name}.weight", TensorType((pairs,), "f32"))
    terms = [
        builder.call(
            f"loss.{name}.{source.part}",
            ops.Contrast(objective.smoothing),
            builder.source(source, medium),
            text,
            factor,
            group,
            weight,
        )
        for source in objective.image
    ]
    return builder.call(f"loss.{name}", ops.Add(), *terms)


def match(builder: Builder, name: str, objective: Matching) -> str:
    """The loss of pictures and texts that belong together or not; its node."""
    medium, pairs = _paired(builder, objective.scores)
    rows: Size | str = f"{name}.texts"
    if isinstance(objective.negatives, Hard):
        rows = multiply(3, pairs)
        builder.route = _hard(builder, name, objective.negatives.by, medium, pairs)
    else:
        builder.route = fed(builder, name, rows)
    scores = builder.source(objective.scores, medium)
    target = builder.feed(f"{name}.target", TensorType((rows,), "i64"))
    weight = builder.feed(f"{name}.weight", TensorType((rows,), "f32"))
    return builder.call(f"loss.{name}", ops.CrossEntropy(), scores, target, weight)


def _hard(builder: Builder, name: str, by: str, medium: str, pairs: Size) -> Route:
    """Each text with its own picture, with another picture, and each picture with another text."""
    told = builder.recipe.objectives[by]
    assert isinstance(told, Contrastive)
    add_objective(builder, by)
    plain = fed(builder, name, pairs)
    builder.route = builder.routes[by]
    given = (
        builder.source(told.image[0], medium),
        builder.source(told.text, ""),
        builder.part(told.scale, ""),
        f"{by}.group",
    )
    texts = builder.call(f"{name}.other_texts", ops.HardNegatives("texts"), *given)
    images = builder.call(f"{name}.other_images", ops.HardNegatives("images"), *given)
    tokens = builder.call(f"{name}.drawn", ops.Pick(), plain.tokens, texts)
    return Route(
        name, tokens, builder.call(f"{name}.drawn_last", ops.Pick(), plain.last, texts), images
    )


def caption(builder: Builder, name: str, objective: Captioning) -> str:
    """The loss of the next token behind the queries; its node."""
    medium, pairs = _paired(builder, objective.text)
    builder.route = fed(builder, name, pairs)
    hidden = builder.source(objective.text, medium)
    targets = f"{name}.targets"
    index = builder.feed(f"{name}.index", TensorType((targets,), "i64"))
    row = builder.call(f"{name}.rows", ops.TakeRows(), hidden, index)
    scores = _scores(builder, objective.text, row, name)
    target = builder.feed(targets, TensorType((targets,), "i64"))
    weight = builder.feed(f"{name}.weight", TensorType((targets,), "f32"))
    return builder.call(f"loss.{name}", ops.CrossEntropy(), scores, target, weight)


def _scores(builder: Builder, source: Selector, hidden: str, route: str) -> str:
    part = builder.recipe.adapters[source.part]
    assert isinstance(part, QueryDecoder)
    return builder.call(f"{source.part}.head", _head(part), hidden, route=route)


def _paired(builder: Builder, source: Selector) -> tuple[str, Size]:
    """The input whose pictures go with texts, and how many there are."""
    (medium,) = builder.reaching(source.part)[:1]
    return medium, TensorType((f"{medium}.pictures",)).sizes[0]


def add_objective(builder: Builder, name: str) -> str:
    """The loss of an objective that has routes of its own; its node."""
    if name in builder.losses:
        return builder.losses[name]
    objective = builder.recipe.objectives[name]
    if isinstance(objective, Contrastive):
        builder.losses[name] = contrast(builder, name, objective)
    elif isinstance(objective, Matching):
        builder.losses[name] = match(builder, name, objective)
    else:
        assert isinstance(objective, Captioning)
        builder.losses[name] = caption(builder, name, objective)
    return builder.losses[name]


# Modes -------------------------------------------------------------------------------------------


def retrieval(builder: Builder, mode: Retrieval) -> Mapping[str, str]:
    """Vectors of pictures and of texts, of length 1, and how they go together: output -> node."""
    outputs = dict[str, str]()
    for medium in builder.reaching(mode.image.part):
        vector = builder.source(mode.image, medium)
        outputs[medium] = builder.call(f"unit.{medium}", ops.UnitSum(), vector)
    builder.route = fed(builder, "text", "texts", "length")
    vector = builder.source(mode.text, "")
    outputs["text"] = builder.call("unit.text", ops.UnitSum(), vector)
    first = next(iter(outputs.values()))
    factor = [builder.part(mode.scale, "")] if mode.scale else []
    outputs["logits"] = builder.call(
        "similarities", ops.Similarities(), first, outputs["text"], *factor
    )
    return outputs


def features(builder: Builder, mode: Features) -> Mapping[str, str]:
    """What a part makes of each input: output -> node."""
    return {medium: builder.source(mode.of, medium) for medium in builder.reaching(mode.of.part)}


def loose_ends(builder: Builder) -> Mapping[str, str]:
    """What no other part takes, of each input or of a text: so that every parameter is called.

    Of a decoder with queries that is also the text that it writes.
    """
    recipe = builder.recipe
    taken = {source.part for part in recipe.adapters.values() for source in part.in_}
    taken |= {source.part for source in recipe.lm.in_} if recipe.lm else set()
    outputs = dict[str, str]()
    for name, part in recipe.adapters.items():
        for medium in builder.reaching(name) or [""]:
            if name not in taken:
                if read := _read(recipe, name):
                    builder.route = builder.routes.get(read) or fed(builder, read, "texts")
                node = builder.part(name, medium)
                outputs[node] = node
            if isinstance(part, QueryDecoder) and medium:
                source = Selector(
                    text=f"{name}.caption",
                    parts=(SelectorStep(name=name), SelectorStep(name="caption")),
                )
                builder.route = fed(builder, source.text, "texts")
                hidden = builder.source(source, medium)
                outputs["logits"] = _scores(builder, source, hidden, builder.route.name)
    return outputs


def _read(recipe: Recipe, name: str) -> str | None:
    """What a part reads of a decoder with queries, directly or not: `qllama.joint`."""
    part = recipe.adapters.get(name)
    for source in part.in_ if part else ():
        found = source.text if is_spoken(recipe, source) else _read(recipe, source.part)
        if found:
            return found
    return None
