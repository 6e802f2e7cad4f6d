"""What the host does around the methods, as plain JSON data: all that a processor needs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from ..dsl.inputs import ImageInput, VideoInput
from ..dsl.modes import AnyMode, Features, Retrieval
from ..dsl.objectives import Captioning, Contrastive, Matching, Objective, Uniform
from ..dsl.parts import Decoder, Mrope, Ntk, QueryDecoder, Rope, Rope2d, ViT
from ..dsl.recipe import Recipe
from ..dsl.stages import Stage
from ..dsl.texts import (
    ApartItem,
    ChoiceItem,
    CornersItem,
    IndexItem,
    Layout,
    LayoutItem,
    LossItem,
    RepeatItem,
    RuleItem,
    SlotItem,
    SpecialItem,
    TextItem,
    end_of,
    has_content,
)
from .build import CHANNELS, reach
from .routes import reader_of, reads
from .scaling import mean_std
from .tokens import clip_rule, ends, size_rule
from .yields import View, views, yielded

FORMAT = 1
"""Raised when the meaning of a key changes."""


def feed_spec(recipe: Recipe, purpose: Stage | AnyMode, media: Iterable[str]) -> dict[str, Any]:
    """The host's part of a stage or a mode that takes the inputs `media`.

    Keys: `tokens` (tokenizer, special tokens, padding), `inputs`, `features` (the part and the
    input of each run of feature rows, in order), `text` (positions), `layouts` (all of them),
    `layout` (those of the purpose, the preferred first), `limits`, for a mode `kind` (chat,
    retrieval or features), `sampling` and `caption`, and for a stage `pairs`: what its
    objectives compare.
    """
    media = tuple(media)
    spec = {
        "format": FORMAT,
        "recipe": recipe.name,
        "tokens": _tokens(recipe),
        "inputs": {medium: _input(recipe, medium) for medium in media},
        "features": [
            [source.part, medium]
            for source in (recipe.lm.in_ if recipe.lm else ())
            for medium in reach(recipe)[source.part]
            if medium in media
        ],
        "text": _text(recipe, purpose),
        **_questions(recipe),
        "layouts": {name: layout_json(recipe, rules) for name, rules in recipe.layouts.items()},
    }
    limits: dict[str, Any] = {"context": recipe.speaker.context if recipe.speaker else 0}
    if isinstance(purpose, Stage):
        limits["pack"] = purpose.pack
        limits["truncate"] = purpose.truncate
        pairs = {
            name: _compared(recipe.objectives[name])
            for name in purpose.loss
            if isinstance(recipe.objectives.get(name), Contrastive | Matching | Captioning)
        }
        compared = {"pairs": pairs} if pairs else {}
        return spec | {"layout": list(purpose.layouts), "limits": limits} | compared
    limits["batch"] = [purpose.batch.at_least(1), purpose.batch.high]
    kind = {"kind": purpose.type.lower(), "limits": limits}
    if isinstance(purpose, Features):
        seen = [yielded(recipe, purpose.of, medium).class_token for medium in media]
        return spec | kind | {"layout": [], "class_token": any(seen)}
    limits["prompt"] = purpose.prompt.high
    if isinstance(purpose, Retrieval):
        return spec | kind | {"layout": [purpose.layout]}
    limits["new"] = purpose.new
    limits["history"] = purpose.history.high if purpose.history else None
    asked = {"layout": [purpose.layout], "sampling": purpose.sampling.model_dump()}
    return spec | kind | asked | {"caption": isinstance(recipe.lm, QueryDecoder)}


def _questions(recipe: Recipe) -> dict[str, Any]:
    """How what is asked is written for the part that reads it, where the language model has one."""
    for source in recipe.lm.in_ if recipe.lm else ():
        reader = reader_of(recipe, source.part)
        if reader and reader.layout:
            tokenizer = reader.tokenizer or (recipe.tokens and recipe.tokens.tokenizer)
            assert tokenizer
            return {"questions": {"layout": reader.layout, "tokenizer": tokenizer.model_dump()}}
    return {}


def _tokens(recipe: Recipe) -> dict[str, Any] | None:
    """The tokenizer and the special tokens; None for a model without text."""
    if recipe.tokens is None:
        return None
    return {
        "tokenizer": recipe.tokens.tokenizer.model_dump(),
        "specials": {
            name: {"text": token.text, "id": token.id}
            for name, token in recipe.tokens.specials.items()
        },
        "pad": recipe.tokens.specials[recipe.tokens.pad].id,
    }


def _compared(objective: Objective) -> dict[str, Any]:
    """What an objective is fed of pictures and texts."""
    match objective:
        case Contrastive(layout=layout, right=right, weight=weight):
            return {"kind": "contrast", "layout": layout, "right": right, "weight": weight}
        case Matching(layout=layout, negatives=negatives, weight=weight):
            drawn = negatives.share if isinstance(negatives, Uniform) else "hard"
            return {"kind": "match", "layout": layout, "negatives": drawn, "weight": weight}
        case Captioning(layout=layout, weight=weight):
            return {"kind": "caption", "layout": layout, "weight": weight}
    raise AssertionError("other objectives are fed by samples alone")


def _input(recipe: Recipe, medium: str) -> dict[str, Any]:
    given = recipe.inputs[medium]
    return {
        "kind": given.kind,
        "size": size_rule(recipe, medium).to_json(),
        **({"clip": asdict(clip_rule(given))} if isinstance(given, VideoInput) else {}),
        "alpha": given.alpha if isinstance(given, ImageInput) else "drop",
        "channels": CHANNELS,
        "views": {shown.name: _view(recipe, shown) for shown in views(recipe, medium)},
        "ends": {
            part: {
                "tokens": end.tokens,
                "grid": list(end.grid) if end.grid else None,
                "window": list(end.window),
                **({"reads": True} if reads(recipe, part) else {}),
            }
            for part, end in ends(recipe, medium).items()
        },
    }


def _view(recipe: Recipe, shown: View) -> dict[str, Any]:
    """What one tower sees of an input, and the positions of its patches."""
    given, tower = recipe.inputs[shown.medium], recipe.encoders[shown.encoder]
    normalize = tower.normalize or given.normalize
    assert normalize, "pixels without a scale are refused by prove_shapes"
    mean, std = mean_std(normalize)
    window = (1, 1)
    if shown.is_packed:
        folded = (end.window for end in ends(recipe, shown.medium).values() if end.is_packed)
        window = next(folded, window)
    pos = tower.pos if isinstance(tower, ViT) and isinstance(tower.pos, Rope2d) else None
    return {
        "patch": tower.patch,
        "frames_per_patch": tower.frames_per_patch,
        "folded": isinstance(given, ImageInput) and tower.frames_per_patch > 1,
        "mean": mean,
        "std": std,
        "dense": not shown.is_packed,
        "window": list(window),
        "rotary": {"head_dim": tower.width // tower.heads, "theta": pos.theta} if pos else None,
        "resize": shown.resized,
    }


def _text(recipe: Recipe, purpose: Stage | AnyMode) -> dict[str, Any] | None:
    """The positions of tokens; None for a model without text."""
    writer = recipe.speaker
    if writer is None:
        return None
    pos, scale = writer.pos, writer.query_scale if isinstance(writer, Decoder) else None
    scaling = pos.scaling if isinstance(pos, Rope) else None
    trains = isinstance(purpose, Stage)
    if trains and isinstance(scaling, Ntk):
        scaling = None
    return {
        "call": pos.call,
        "sections": list(pos.sections) if isinstance(pos, Mrope) else None,
        "head_dim": writer.head_dim,
        "theta": pos.theta,
        "scaling": scaling.model_dump(mode="json", by_alias=True) if scaling else None,
        "query_scale": scale.model_dump(mode="json", by_alias=True)
        if scale and not trains
        else None,
    }


def layout_json(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    """A layout with its special tokens resolved, and the ids and texts at which an answer ends."""
    rules = {
        name: {
            "params": list(rule.parameters),
            "items": [item_json(recipe, item) for item in rule.items],
        }
        for name, rule in layout.rules.items()
    }
    ids, texts = stops(recipe, layout)
    return {
        "system": layout.system,
        "strip": layout.strip,
        "gap": layout.gap,
        "answer": layout.answer.high if layout.answer else None,
        "clean": layout.clean.model_dump() if layout.clean else None,
        "coordinates": layout.coordinates.model_dump() if layout.coordinates else None,
        "rules": rules,
        "stop": list(ids),
        "stop_text": list(texts),
    }


def item_json(recipe: Recipe, item: LayoutItem) -> dict[str, Any]:
    """One item of a rule."""
    assert recipe.tokens
    specials = recipe.tokens.specials
    match item:
        case TextItem(text=text):
            return {"text": text}
        case SpecialItem(special=name):
            return {"special": name, "id": specials[name].id}
        case SlotItem(parameter=name):
            return {"slot": name}
        case RepeatItem(special=name, count=count, part=part):
            repeated = {"special": name, "id": specials[name].id}
            return {"repeat": repeated, "count": count, "part": part}
        case IndexItem(parameter=name):
            return {"index": name}
        case CornersItem(parameter=name):
            return {"corners": name}
        case RuleItem(rule=name, arguments=arguments):
            return {"rule": name, "args": list(arguments)}
        case LossItem(items=items):
            return {"loss": [item_json(recipe, inner) for inner in items]}
        case ApartItem(items=items):
            return {"apart": [item_json(recipe, inner) for inner in items]}
        case ChoiceItem(lines=lines):
            return {"choice": [[item_json(recipe, inner) for inner in line] for line in lines]}


def stops(recipe: Recipe, layout: Layout) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """The ids and the texts at which an answer ends: what stands behind the content of a loss.

    That is the first special token there, else the text; and what the layout names besides.
    """
    assert recipe.tokens
    losses = [
        item for rule in layout.rules.values() for item in rule.items if isinstance(item, LossItem)
    ]
    ends = [
        end
        for loss in [loss for loss in losses if has_content(loss)] or losses
        if (end := end_of(loss))
    ]
    specials = [end.special for end in (*ends, *layout.stop) if isinstance(end, SpecialItem)]
    texts = [end.text for end in (*ends, *layout.stop) if isinstance(end, TextItem)]
    ids = [recipe.tokens.specials[name].id for name in specials]
    return tuple(dict.fromkeys(ids)), tuple(dict.fromkeys(texts))
