"""A training step against the plain Hugging Face implementation: same sizes, weights and batch.

Both take the same batch of pictures with questions and answers, compute the loss over the answers,
the gradients of what the stage trains, clip them and move the weights by AdamW. The first losses
are compared; printed are medians of a step in seconds and their ratio to the peer's, taken in turn,
and the seconds until the first step was done.

Needs the extra `benchmarks` (transformers), and g++ for all backends but eager. `tiny` and `small`
run anywhere in a minute or two. A quiet machine: what else runs shows up in every row.

    python benchmarks/train.py --size small --stage sft --backends eager inductor aot
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from triptych.cli.waiting import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from triptych.backends.data import Example
from triptych.backends.from_stage import methods_of, stage_artefact
from triptych.backends.gradients import threads
from triptych.backends.optim import decays
from triptych.backends.options import Options
from triptych.backends.samples import Samples
from triptych.backends.stage_job import StageJob
from triptych.backends.toolchain import cache_folder, code_in
from triptych.backends.training import completed, overridden
from triptych.backends.training_stage import StageRun
from triptych.benchmarks.peer import SIZES, peer_model
from triptych.blocks.input.media import MediaInput
from triptych.blocks.input.sample import Attachment, Sample, Turn
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import StagePlan, plan
from triptych.compiler.text import text_of_methods
from triptych.dsl.load import load_recipe
from triptych.dsl.stages import AdamW

RATE = 1e-4


def examples(count: int, pixels: int) -> list[Example]:
    """Pictures of noise with a question and an answer."""
    noise = np.random.default_rng(0).integers(0, 256, (count, pixels, pixels, 3), np.uint8)
    return [
        Example(
            (
                Turn("user", (Attachment("image", Image.fromarray(one)), "What is to be seen?")),
                Turn("assistant", ("Nothing but noise, in every colour there is, without end.",)),
            )
        )
        for one in noise
    ]


def peer_batch(
    samples: list[Sample], shard: dict[str, Tensor], image: MediaInput, image_pad: int
) -> dict[str, Any]:
    """What the peer is fed: the same tokens and pixels, every frame of a patch written out."""
    ids = torch.stack([torch.from_numpy(sample.ids) for sample in samples])
    scored = torch.stack([torch.from_numpy(sample.supervised) for sample in samples])
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": ids.masked_fill(~scored, -100),
        "pixel_values": shard["image.patches"]
        .unflatten(1, (3, 1, -1))
        .expand(-1, -1, 2, -1)
        .flatten(1),
        "image_grid_thw": torch.tensor([image.grid(x) for one in samples for x in one.media]),
        "mm_token_type_ids": (ids == image_pad).int(),
    }


def peer_step(
    model: Any, planned: StagePlan, weights: Mapping[str, Tensor], batch: dict[str, Any]
) -> Callable[[], float]:
    """A step as a plain training loop has it; the model has just these weights."""
    model.train().requires_grad_(False)
    learns = {weights[name].data_ptr() for name in planned.trained}
    trained = [one for one in model.parameters() if one.data_ptr() in learns]
    assert len(trained) == len(learns)
    for one in trained:
        one.requires_grad_(True)
    rule: AdamW = planned.settings.optim
    groups = [
        {"params": [one for one in trained if decays(one)], "weight_decay": rule.weight_decay},
        {"params": [one for one in trained if not decays(one)], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=RATE, betas=rule.betas, eps=rule.eps, fused=True)

    def step() -> float:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, rule.clip or float("inf"))
        adamw.step()
        adamw.zero_grad()
        return float(loss.detach())

    return step


def main() -> None:
    """Print the two steps and their ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--stage", choices=["joint", "sft"], default="joint")
    parser.add_argument(
        "--backends", choices=["eager", "inductor", "aot"], nargs="+", default=["eager"]
    )
    parser.add_argument("--workers", type=int, default=1, help="threads that share a batch")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pixels", type=int, default=224, help="sides of the pictures")
    parser.add_argument("--steps", type=int, default=5, help="steps a figure")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="amend")
    options = parser.parse_args()

    amend = [*SIZES[options.size], "joint.layout = chatml", *options.amend]
    recipe = load_recipe("qwen2_vl_2b", amend=amend)
    recipe = overridden(recipe, Options(precision="f32", batch=options.batch))
    planned = plan(recipe)[options.stage]
    program = for_training(recipe, options.stage, media=["image"])
    weights = completed({}, program, seed=0)
    peer = peer_model(recipe, weights, torch.float32)

    stage = recipe.stages[options.stage].model_copy(update={"pack": None})
    samples = Samples(program.spec, stage, workers=options.workers)
    ready = [samples.prepare(example) for example in examples(options.batch, options.pixels)]
    shards = samples.collate(ready)
    whole = samples.processor.train_batch([[sample] for sample in ready])
    pad = program.spec["tokens"]["specials"]["image_pad"]["id"]
    image = samples.processor.inputs["image"]
    theirs = peer_step(peer, planned, weights, peer_batch(ready, whole, image, pad))
    job = StageJob.of(recipe.name, program, planned)

    runs: dict[str, StageRun] = {}
    steps: dict[str, Callable[[], float]] = {}
    first: dict[str, float] = {}
    ready_after: dict[str, float] = {}
    for backend in options.backends:
        started = time.perf_counter()
        run = runs[backend] = StageRun(
            program,
            planned,
            weights,
            workers=options.workers,
            compiled=backend == "inductor",
            code=partial(methods_of, stage_artefact(job)) if backend == "aot" else None,
        )
        steps[backend] = partial(_loss, run, shards, options.workers)
        with code_in(cache_folder("train", text_of_methods(program.methods))):
            first[backend] = steps[backend]()
        ready_after[backend] = time.perf_counter() - started
    # Last, as it moves the weights that the others start from.
    started = time.perf_counter()
    steps["transformers"] = theirs
    first["transformers"] = theirs()
    ready_after["transformers"] = time.perf_counter() - started
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(options.steps):
        for name, step in steps.items():
            started = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - started)
    for run in runs.values():
        run.close()

    title = f"{options.size}, {options.stage}, workers {options.workers}"
    print(
        f"{title}: {options.batch} x {ready[0].length} tokens; {len(planned.trained)} tensors learn"
    )
    base = statistics.median(seconds["transformers"])
    for name, times in seconds.items():
        middle = statistics.median(times)
        print(
            f"{name:<14}first loss {first[name]:.6f} after {ready_after[name]:>6.1f} s"
            f"{middle:>10.4f} s a step{middle / base:>8.2f} x peer"
        )


def _loss(run: StageRun, shards: Sequence[Mapping[str, Tensor]], workers: int) -> float:
    with threads(workers):
        return run.step(shards, RATE)[0]["loss"]


if __name__ == "__main__":
    main()
