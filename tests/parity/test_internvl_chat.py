"""InternVL-Chat without QLLaMA, against the official code of December 2023."""

from __future__ import annotations

import numpy as np
import torch

from triptych.blocks.input.sample import Sample, Seen
from triptych.compiler.pipeline import for_training
from triptych.tests.parity.golden import cases
from triptych.tests.parity.internvl import InternVLCase

BOUND = 1e-4  # the case's README: 1e-4 absolute, 1e-3 relative


def samples(case: InternVLCase) -> list[Sample]:
    """The rows of the case, with as many places as there are patches for the one placeholder."""
    places = (case.side // case.vision["patch_size"]) ** 2
    found = []
    for ids, labels, mask in zip(
        case.inputs["input_ids"], case.inputs["labels"], case.inputs["attention_mask"], strict=True
    ):
        tokens, scored = ids[mask.bool()].numpy(), labels[mask.bool()].numpy() != -100
        (start,) = np.nonzero(tokens == case.config["IMAGE_TOKEN_INDEX"])[0]
        whole = [tokens[:start], np.zeros(places, np.int64), tokens[start + 1 :]]
        marks = [scored[:start], np.zeros(places, np.bool_), scored[start + 1 :]]
        frames = np.zeros((1, case.side, case.side, 3), np.uint8)
        seen = Seen("image", frames, (case.side, case.side), {"projector": (int(start),)})
        found.append(Sample(np.concatenate(whole), np.concatenate(marks), (seen,)))
    return found


@cases("internvl_chat_llava", InternVLCase)
def test_forward_loss_and_gradients(case, kernels):
    program = for_training(case.chat, "pretrain")
    lowered = case.lower(program, case.chat)
    given = case.batches(program).train_batch([[sample] for sample in samples(case)])
    given["image.patches"] = case.patches(case.inputs["images"])
    length = given["text.tokens"].shape[1]
    prefix = lowered.methods["prefix"].values(given)
    wanted = case.expected
    kernels.check(
        prefix["vit.blocks.0.out.patches"],
        wanted["vision_feature_layer-4_patches"],
        "patches",
        BOUND,
    )
    made = {name: prefix[node] for name, node in lowered.methods["prefix"].outputs.items()}
    values = lowered.methods["step"].values(given | made)
    kernels.check(values["projector"], wanted["mm_projector_out"], "projector", BOUND)
    mask = wanted["attention_mask"].bool()
    assert length == mask.shape[1]
    kernels.check(values["lm.splice"][mask], wanted["inputs_embeds"][mask], "embeds", BOUND)
    logits = (values["lm.norm"] @ lowered.module.get_parameter("lm.head.weight").T)[:, -14:]
    seen = mask[:, -logits.shape[1] :]
    kernels.check(logits[seen], wanted["logits"][seen], "logits", BOUND)
    kernels.check(values["loss"][None], wanted["loss"], "loss", BOUND)
    trained = {name: lowered.module.get_parameter(name) for name in program.trained}
    gradients = torch.autograd.grad(values["loss"], list(trained.values()))
    published = {"fc1": "0", "fc2": "2"}
    for name, gradient in zip(trained, gradients, strict=True):
        _, layer, kind = name.split(".")
        official = wanted[f"grad/model.mm_projector.{published[layer]}.{kind}"]
        kernels.check(gradient, official, name, BOUND)
