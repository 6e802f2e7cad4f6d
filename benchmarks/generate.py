"""Generation against the plain Hugging Face implementation: same sizes, same weights, one run.

A picture and a question are answered greedily by both, and the answers compared first. Printed are
medians in seconds and their ratio to the peer's: to the first token (tower, adapter and prefill),
and for each token after it. Weights are random.

Needs the extra `benchmarks` (transformers), and g++ for the backends that compile. `tiny` and
`small` run anywhere in a minute or two; `2b` needs 12 GB of memory in bf16. A quiet machine: what
else runs shows up in both columns, not always evenly.

    python benchmarks/generate.py --size small --backend aot --backend inductor
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triptych.backends import backend
from triptych.backends.generation import Session
from triptych.backends.job import job
from triptych.benchmarks.peer import SIZES, peer_model
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Sample, Turn
from triptych.compiler.lower import PRECISIONS
from triptych.dsl.load import load_recipe

QUESTION = "Describe this image in as much detail as you can, and say what might happen next."


def peer_inputs(processor: Processor, sample: Sample, image_pad: int) -> dict[str, Tensor]:
    """What the peer is fed: the same tokens and pixels, every frame of a patch written out."""
    folded = processor.prompt_batch([sample]).inputs["image.patches"]
    ids = torch.from_numpy(sample.ids)[None]
    frames = folded.unflatten(1, (3, 1, -1)).expand(-1, -1, 2, -1).flatten(1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": frames,
        "image_grid_thw": torch.tensor([processor.inputs["image"].grid(x) for x in sample.media]),
        "mm_token_type_ids": (ids == image_pad).int(),
    }


def timed(answer: Callable[[int], object], new: int, runs: int) -> tuple[float, float]:
    """Seconds to the first token, and for each token after it: medians."""
    answer(2)
    first: list[float] = []
    whole: list[float] = []
    for _ in range(runs):
        for count, times in ((1, first), (new, whole)):
            started = time.perf_counter()
            answer(count)
            times.append(time.perf_counter() - started)
    begin = statistics.median(first)
    return begin, (statistics.median(whole) - begin) / (new - 1)


def main() -> None:
    """Print one row a backend."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--backend", action="append", help="repeatable; aot unless given")
    parser.add_argument("--dtype", choices=PRECISIONS, default="f32")
    parser.add_argument("--pixels", type=int, default=448, help="sides of the picture")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--runs", type=int, default=5, help="answers a figure")
    options = parser.parse_args()

    recipe = load_recipe("qwen2_vl_2b", amend=[*SIZES[options.size], "chat.target = eager()"])
    work = job(recipe, "chat", weights=0, dtype=PRECISIONS[options.dtype])
    processor = Processor(work.spec)
    side = options.pixels
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    turns = [Turn("user", (Attachment("image", Image.fromarray(noise)), QUESTION))]
    sample = processor.prompt(turns)
    print(f"{options.size}, {options.dtype}: {sample.length} tokens in, {options.new} out")

    peer = peer_model(recipe, work.lowered.module.state_dict(), work.dtype)
    fed = peer_inputs(processor, sample, work.spec["tokens"]["specials"]["image_pad"]["id"])

    def ask_peer(new: int) -> list[int]:
        with torch.inference_mode():
            out = peer.generate(**fed, max_new_tokens=new, min_new_tokens=new, do_sample=False)
        tokens: list[int] = out[0, sample.length :].tolist()
        return tokens

    base = timed(ask_peer, options.new, options.runs)
    titles = f"{'first token':>12}{'x peer':>8}{'next token':>12}{'x peer':>8}"
    print(f"{'':<12}{titles}{'compiled in':>13}")
    print(f"{'transformers':<12}{base[0]:>12.4f}{1.0:>8.2f}{base[1]:>12.5f}{1.0:>8.2f}")
    for name in options.backend or ["aot"]:
        started = time.perf_counter()
        asked = Session(backend(name).compile(work), processor, work.spec)

        def ask(new: int, session: Session = asked) -> list[int]:
            (answer,) = session.answers([sample], [0], new=new)
            return list(answer.tokens)

        same = ask(4) == ask_peer(4)
        seconds = time.perf_counter() - started
        ours = timed(ask, options.new, options.runs)
        print(
            f"{name:<12}{ours[0]:>12.4f}{ours[0] / base[0]:>8.2f}{ours[1]:>12.5f}"
            f"{ours[1] / base[1]:>8.2f}{seconds:>12.0f}s"
            + ("" if same else "   the tokens differ from the peer's")
        )


if __name__ == "__main__":
    main()
