"""What the host does around the methods, as plain JSON data: all that a processor needs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..dsl.recipe import (
    CallModel,
    Clip,
    Half,
    ImageInput,
    Imagenet,
    IndexItem,
    Layout,
    LayoutItem,
    LossItem,
    MeanStd,
    Mode,
    Mrope,
    Normalize,
    Recipe,
    RepeatItem,
    RuleItem,
    SlotItem,
    SpecialItem,
    Stage,
    TextItem,
)
from .build import CHANNELS
from .tokens import size_rule

FORMAT = 1
"""Raised when the meaning of a key changes."""

NORMALIZE: dict[type[CallModel], tuple[list[float], list[float]]] = {
    # The constants of OpenAI's CLIP, and of torchvision for ImageNet.
    Clip: ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    Half: ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    Imagenet: ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
"""Mean and deviation of red, green and blue, on the scale from 0 to 1."""


def feed_spec(recipe: Recipe, purpose: Stage | Mode, media: Iterable[str]) -> dict[str, Any]:
    """The host's part of a stage or a mode that takes the inputs `media`.

    Keys: `tokens` (tokenizer, special tokens, padding), `inputs` in the order of the feature rows,
    `vision` and `text` (positions), `layouts` (all of them), `layout` (those of the purpose, the
    preferred first), `limits`, and for a mode `sampling`.
    """
    assert recipe.tokens and recipe.lm
    chosen = purpose.layout if isinstance(purpose, Stage) else (purpose.layout,)
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
        "vision": _vision(recipe),
        "text": _text(recipe),
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
    given, size = recipe.inputs[medium], size_rule(recipe, medium)
    mean, std = _mean_std(given.normalize)
    still = isinstance(given, ImageInput)
    return {
        "kind": given.kind,
        "size": size.to_json(),
        "alpha": given.alpha if isinstance(given, ImageInput) else "drop",
        "mean": mean,
        "std": std,
        "channels": CHANNELS,
        "folded": still and size.frames_per_patch > 1,
    }


def _mean_std(normalize: Normalize) -> tuple[list[float], list[float]]:
    if isinstance(normalize, MeanStd):
        return list(normalize.mean), list(normalize.std)
    return NORMALIZE[type(normalize)]


def _vision(recipe: Recipe) -> dict[str, Any] | None:
    """The positions of patches; None where nothing is seen."""
    tower = next(iter(recipe.encoders.values()), None)
    if tower is None:
        return None
    return {"head_dim": tower.width // tower.heads, "theta": tower.pos.theta}


def _text(recipe: Recipe) -> dict[str, Any]:
    assert recipe.lm
    pos = recipe.lm.pos
    return {
        "call": pos.call,
        "sections": list(pos.sections) if isinstance(pos, Mrope) else None,
        "head_dim": recipe.lm.head_dim,
        "theta": pos.theta,
    }


def layout_json(recipe: Recipe, layout: Layout) -> dict[str, Any]:
    """A layout with its special tokens resolved, and the ids at which an answer ends."""
    rules = {
        name: {
            "params": list(rule.parameters),
            "items": [item_json(recipe, item) for item in rule.items],
        }
        for name, rule in layout.rules.items()
    }
    return {"system": layout.system, "rules": rules, "stop": list(stops(recipe, layout))}


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
        case RepeatItem(special=name, count=count):
            return {"repeat": {"special": name, "id": specials[name].id}, "count": count}
        case IndexItem(parameter=name):
            return {"index": name}
        case RuleItem(rule=name, arguments=arguments):
            return {"rule": name, "args": list(arguments)}
        case LossItem(items=items):
            return {"loss": [item_json(recipe, inner) for inner in items]}


def stops(recipe: Recipe, layout: Layout) -> tuple[int, ...]:
    """The ids at which an answer ends: the last special token inside each loss, each id once."""
    assert recipe.tokens
    found = dict[int, None]()
    for rule in layout.rules.values():
        for item in rule.items:
            if isinstance(item, LossItem) and isinstance(item.items[-1], SpecialItem):
                found[recipe.tokens.specials[item.items[-1].special].id] = None
    return tuple(found)
