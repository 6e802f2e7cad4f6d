"""What the host does around the methods, as plain JSON data: all that a processor needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..dsl.recipe import (
    ApartItem,
    ChoiceItem,
    CornersItem,
    ImageInput,
    IndexItem,
    Layout,
    LayoutItem,
    LossItem,
    Mode,
    Mrope,
    Ntk,
    Recipe,
    RepeatItem,
    Rope,
    Rope2d,
    RuleItem,
    SlotItem,
    SpecialItem,
    Stage,
    TextItem,
    ViT,
    end_of,
    has_content,
)
from .build import CHANNELS, reach
from .tokens import ends, mean_std, size_rule
from .yields import View, views

FORMAT = 1
"""Raised when the meaning of a key changes."""


def feed_spec(recipe: Recipe, purpose: Stage | Mode, media: Iterable[str]) -> dict[str, Any]:
    """The host's part of a stage or a mode that takes the inputs `media`.

    Keys: `tokens` (tokenizer, special tokens, padding), `inputs`, `features` (the part and the
    input of each run of feature rows, in order), `text` (positions), `layouts` (all of them),
    `layout` (those of the purpose, the preferred first), `limits`, and for a mode `sampling`.
    """
    assert recipe.tokens and recipe.lm
    media = tuple(media)
    chosen = purpose.layouts if isinstance(purpose, Stage) else (purpose.layout,)
    spec = {
        "format": FORMAT,
        "recipe": recipe.name,
        "tokens": {
            "tokenizer": recipe.tokens.tokenizer.model_dump(),
            "specials": {
                name: {"text": token.text, "id": token.id}
                for name, token in recipe.tokens.specials.items()
            },
            "pad": recipe.tokens.specials[recipe.tokens.pad].id,
        },
        "inputs": {medium: _input(recipe, medium) for medium in media},
        "features": [
            [source.part, medium]
            for source in recipe.lm.in_
            for medium in reach(recipe)[source.part]
            if medium in media
        ],
        "text": _text(recipe, purpose),
        "layouts": {name: layout_json(recipe, rules) for name, rules in recipe.layouts.items()},
        "layout": list(chosen),
    }
    if isinstance(purpose, Stage):
        return spec | {"limits": {"context": recipe.lm.context, "pack": purpose.pack}}
    return spec | {
        "limits": {
            "context": recipe.lm.context,
            "batch": [purpose.batch.at_least(1), purpose.batch.high],
            "prompt": purpose.prompt.high,
            "new": purpose.new,
        },
        "sampling": purpose.sampling.model_dump(),
    }


def _input(recipe: Recipe, medium: str) -> dict[str, Any]:
    given = recipe.inputs[medium]
    return {
        "kind": given.kind,
        "size": size_rule(recipe, medium).to_json(),
        "alpha": given.alpha if isinstance(given, ImageInput) else "drop",
        "channels": CHANNELS,
        "views": {shown.name: _view(recipe, shown) for shown in views(recipe, medium)},
        "ends": {
            part: {
                "tokens": end.tokens,
                "grid": list(end.grid) if end.grid else None,
                "window": list(end.window),
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
    frames = getattr(tower, "frames_per_patch", 1)
    window = next(
        (end.window for end in ends(recipe, shown.medium).values() if end.is_packed), (1, 1)
    )
    pos = tower.pos if isinstance(tower, ViT) and isinstance(tower.pos, Rope2d) else None
    return {
        "patch": tower.patch,
        "frames_per_patch": frames,
        "folded": isinstance(given, ImageInput) and frames > 1,
        "mean": mean,
        "std": std,
        "dense": not shown.is_packed,
        "window": list(window),
        "rotary": {"head_dim": tower.width // tower.heads, "theta": pos.theta} if pos else None,
        "resize": shown.resized,
    }


def _text(recipe: Recipe, purpose: Stage | Mode) -> dict[str, Any]:
    assert recipe.lm
    pos, scale = recipe.lm.pos, recipe.lm.query_scale
    scaling = pos.scaling if isinstance(pos, Rope) else None
    trains = isinstance(purpose, Stage)
    if trains and isinstance(scaling, Ntk):
        scaling = None
    return {
        "call": pos.call,
        "sections": list(pos.sections) if isinstance(pos, Mrope) else None,
        "head_dim": recipe.lm.head_dim,
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
