"""InternVL-Chat without and with QLLaMA, against the official code of December 2023."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from triptych.blocks.input.sample import Sample, Seen
from triptych.compiler.pipeline import for_inference, for_training
from triptych.tests.parity.golden import cases
from triptych.tests.parity.internvl import InternVLCase, both

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
    layer = case.config["mm_vision_select_layer"]
    block = case.vision["num_hidden_layers"] + layer
    made = {name: prefix[node] for name, node in lowered.methods["prefix"].outputs.items()}
    values = lowered.methods["step"].values(given | made)
    found = {
        f"vision_feature_layer{layer}_patches": prefix[f"vit.blocks.{block}.out.patches"],
        "mm_projector_out": values["projector"],
        "loss": values["loss"][None],
    }
    for ours, official, name in both(found, wanted):
        kernels.check(ours, official, name, BOUND)
    mask = wanted["attention_mask"].bool()
    assert length == mask.shape[1]
    logits = values["lm.norm"] @ lowered.module.get_parameter("lm.head.weight").T
    of_text = {"inputs_embeds": values["lm.splice"], "logits": logits}
    for ours, official, name in both(of_text, wanted):
        last = official.shape[1]  # of the logits, a case holds the last ones
        seen = mask[:, -last:]
        kernels.check(ours[:, -last:][seen], official[seen], name, BOUND)
    trained = {name: lowered.module.get_parameter(name) for name in program.trained}
    gradients = torch.autograd.grad(values["loss"], list(trained.values()))
    published = {"fc1": "0", "fc2": "2"}
    for name, gradient in zip(trained, gradients, strict=True):
        _, part, kind = name.split(".")
        place = f"grad/model.mm_projector.{published[part]}.{kind}"
        if place in wanted:
            kernels.check(gradient, wanted[place], name, BOUND)


def near(found: Tensor, expected: Tensor, name: str) -> None:
    """Within 1e-4 and a thousandth of the value."""
    assert found.shape == expected.shape, f"{name} has the shape {list(found.shape)}"
    torch.testing.assert_close(found, expected, atol=BOUND, rtol=1e-3, msg=lambda m: f"{name}: {m}")


def runs(ids: np.ndarray, token: int) -> list[int]:
    """Where each run of a token begins."""
    (places,) = np.nonzero(ids == token)
    return [int(place) for place in places if place == 0 or ids[place - 1] != token]


def rounds(case: InternVLCase, ids: Tensor, labels: Tensor | None, count: int) -> Sample:
    """A dialogue about one picture, with so many questions."""
    tokens, special = ids.numpy(), case.config["special_ids"]
    starts = {
        "patch_mlp": runs(tokens, special["IMG_CONTEXT"]),
        "query_mlp": runs(tokens, special["QUERY_CONTEXT"]),
    }
    frames = np.zeros((1, case.side, case.side, 3), np.uint8)
    masks = case.inputs["question_attention_mask"][0].bool()
    asked = case.inputs["question_input_ids"][0]
    questions = tuple(row[mask].numpy() for row, mask in zip(asked, masks, strict=True))[:count]
    seen = Seen("image", frames, (case.side, case.side), starts, questions)
    scored = np.zeros(len(tokens), np.bool_) if labels is None else labels.numpy() != -100
    return Sample(tokens, scored, (seen,))


@cases("internvl_chat_qllama", InternVLCase)
def test_two_rounds_loss_and_gradients(case, kernels):
    recipe = case.chat_with_queries
    program = for_training(recipe, "align")
    lowered = case.filled(program, recipe)
    inputs, wanted = case.inputs, case.expected
    count = inputs["question_input_ids"].shape[1]
    (ids,), (labels,) = inputs["input_ids"], inputs["labels"]
    given = case.batches(program).train_batch([[rounds(case, ids, labels, count)]])
    given["image.patches"] = case.patches(inputs["pixel_values"])
    prefix = lowered.methods["prefix"].values(given)
    block = case.vision["num_hidden_layers"] + case.config["select_layer"]
    made = {name: prefix[node] for name, node in lowered.methods["prefix"].outputs.items()}
    values = lowered.methods["step"].values(given | made)
    logits = values["lm.norm"] @ lowered.module.get_parameter("lm.head.weight").T
    made = {
        "vit_embeds": prefix[f"vit.blocks.{block}.out"],
        "query_embeds": prefix["qllama.norm"],
        "mlp1_out": values["patch_mlp"],
        "mlp2_out": values["query_mlp"],
        "inputs_embeds": values["lm.splice"],
        "logits": logits,
        "loss": values["loss"][None],
    }
    for ours, official, name in both(made, wanted):
        near(ours[:, -official.shape[1] :] if name == "logits" else ours, official, name)
    trained = {name: lowered.module.get_parameter(name) for name in program.trained}
    found = torch.autograd.grad(values["loss"], list(trained.values()))
    gradients = dict(zip(trained, found, strict=True))
    for parameter, gradient in case.gradients(recipe, ""):
        near(gradients[parameter], gradient, parameter)


@cases("internvl_chat_qllama", InternVLCase)
def test_greedy(case, kernels):
    recipe = case.chat_with_queries
    program = for_inference(recipe, "chat")
    lowered = case.filled(program, recipe)
    batches, greedy = case.batches(program), case.expected["greedy_ids"]
    ids = case.inputs["input_ids"][0, : case.config["prompt_len_round1"]]
    prompts = batches.prompt_batch([rounds(case, ids, None, 1)])
    seen = lowered.methods["vision_image"](
        {"image.patches": case.patches(case.inputs["pixel_values"])}
    )
    made = lowered.methods["project"](seen | dict(prompts.inputs))
    features = torch.cat([made["patch_mlp.rows"], made["query_mlp.rows"]])
    caches = case.caches(lowered, 1, prompts.length + greedy.shape[1])
    given = dict(prompts.inputs) | caches | {"features": features}
    scores = lowered.methods["prefill"](given)["logits"]
    for step in range(greedy.shape[1]):
        assert torch.equal(scores.argmax(-1), greedy[:, step])
        inputs = batches.next_inputs(prompts, greedy[:, step], prompts.length + step)
        scores = lowered.methods["decode"](inputs | caches)["logits"]
