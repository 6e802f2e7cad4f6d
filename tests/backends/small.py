"""An artefact whose files are a few bytes: what is said of it is what is tested."""

from __future__ import annotations

import torch

from triptych.backends.base import Limit, Method, Port
from triptych.backends.manifest import MANIFEST, Manifest, RecipeRecord, Target, versions
from triptych.backends.packing import State, finish
from triptych.backends.records import (
    Binding,
    LimitRecord,
    MethodRecord,
    PortRecord,
    WeightsRecord,
)

DIGEST = "0123abcd" * 8
WEIGHTS = "weights/00001.safetensors"
CONTENT = {
    "aoti/methods.pt2": b"machine code",
    "programs/decode.pt2": b"a program",
    "tokenizer/qwen.tiktoken": b"a vocabulary",
    "weights/00001.safetensors": b"numbers",
}
CACHE = Port(("batch", 2, "slots", 16), torch.float32)
DECODE = Method(
    "decode",
    {"text.tokens": Port(("batch", 1), torch.int64), "cache.0.k": CACHE, "cache.0.v": CACHE},
    ("logits",),
    ("lm.embed.weight", "lm.norm.weight"),
)
SPEC = {
    "tokens": {"tokenizer": {"call": "tiktoken", "name": "qwen.tiktoken"}},
    "inputs": {
        "image": {
            "kind": "image",
            "size": {"call": "native", "multiple": 28, "cap": None},
            "views": {"image": {"patch": 14, "mean": [0.48145466], "std": [0.26862954]}},
        }
    },
    "layout": ["chatml"],
    "limits": {"context": 512, "batch": [1, 4], "history": None},
    "sampling": {"call": "greedy", "repetition_penalty": 1.0},
}


def small(place):
    """Writes one into a folder."""
    for name, content in CONTENT.items():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(content)
    manifest = Manifest(
        recipe=RecipeRecord(name="tiny", mode="chat", digest=DIGEST),
        backend="aot",
        versions={**versions(), "c++": "g++ 12"},
        target=Target.here(),
        dtype="float32",
        quantized={"lm.head.weight": "int4(group: 64)"},
        weight_rounding={"lm": 0.09},
        rounding={"decode": 0.002},
        methods={"decode": MethodRecord.of(DECODE, "programs/decode.pt2", "aoti/methods.pt2")},
        limits={
            "batch": LimitRecord.of(Limit(1, 4)),
            "slots": LimitRecord.of(Limit(32, 512, 16)),
        },
        parameters={name: PortRecord.of(Port((8,), torch.float32)) for name in DECODE.parameters},
        tokens=8,
        weights=WeightsRecord(
            kind="inside",
            bindings=tuple(
                Binding(tensor=name, shape=(8,), holds={name: (8,)}, file=WEIGHTS)
                for name in DECODE.parameters
            ),
        ),
        spec=SPEC,
        files={},
    )
    finish(
        manifest, place, {"aoti/methods.pt2": State("executed", "Xeon", "eager", {"decode": 3e-7})}
    )
    return place


def rewritten(folder, **update):
    """The manifest as another machine would have written it."""
    manifest = Manifest.read(folder / MANIFEST).model_copy(update=update)
    (folder / MANIFEST).write_text(manifest.text(), encoding="utf-8")
    return manifest
