"""Greedy decoding of the golden cases: prefill, then one token at a time over the cache."""

from __future__ import annotations

import torch

from triptych.compiler.pipeline import for_inference
from triptych.tests.parity.qwen2_vl import generate_cases


@generate_cases
def test_greedy_tokens_scores_and_positions_are_those_of_the_official_model(case, kernels):
    (feed,) = case.feeds
    program = for_inference(case.recipe, "chat")
    lowered, batches, samples = (
        case.lower(program, case.recipe),
        case.batches(program),
        feed.samples(),
    )
    prompts = batches.prompt_batch(samples)
    steps = case.expected["step_logits"].shape[1]
    caches = case.caches(lowered, len(samples), prompts.length + steps)
    said = []
    with torch.no_grad():
        logits = case.prefill(lowered, dict(prompts.inputs) | feed.patches(), caches)
        for step in range(steps):
            kernels.check(logits, case.expected["step_logits"][:, step], f"step {step}")
            tokens = logits.argmax(-1)
            said.append(tokens)
            slot = prompts.length + step
            inputs = batches.next_inputs(prompts, tokens, slot)
            if step + 1 < steps:
                position = case.expected["last_position_per_step"][:, :, step + 1 : step + 2]
                for table, given in zip(
                    batches.positions.tables(position), ("text.cos", "text.sin"), strict=True
                ):
                    assert torch.equal(table, inputs[given])
            logits = lowered.methods["decode"](inputs | caches)["logits"]
    assert torch.equal(torch.stack(said, dim=1), case.expected["generated"][:, prompts.length :])
