"""InternVL-14B against the official code: tower, pools, QLLaMA in its uses, losses and captions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from triptych.blocks.vision.positions import resized
from triptych.compiler.lower import Lowered
from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.types import evaluate
from triptych.tests.parity.golden import Taps, cases
from triptych.tests.parity.internvl import InternVLCase, both, texts

TOWER = 1e-5
BOUND = 1e-4  # the cases' READMEs; gradients and logits 1e-3 of a value beside it


def near(found: Tensor, expected: Tensor, name: str) -> None:
    """Within 1e-4 and a thousandth of the value."""
    assert found.shape == expected.shape, f"{name} has the shape {list(found.shape)}"
    torch.testing.assert_close(found, expected, atol=BOUND, rtol=1e-3, msg=lambda m: f"{name}: {m}")


def routes(case: InternVLCase, mode: str) -> tuple[Lowered, dict[str, Tensor]]:
    """A mode of the model with the weights that the case has, and its inputs."""
    program = for_inference(case.contrastive, mode)
    lowered = case.filled(program, case.contrastive)
    return lowered, {"image.patches": case.patches(case.inputs["pixel_values"])}


@cases("internvl_vit", InternVLCase)
def test_tower_and_pool(case, kernels):
    lowered, given = routes(case, "retrieval_c")
    taps = Taps(lowered)
    values = lowered.methods["image"].values(given)
    blocks = [taps.seen[f"vit.blocks.{n}"][0] for n in range(case.vision["num_hidden_layers"])]
    states, last = [values["vit.positions"], *blocks], values["vit.blocks"]
    inner = {
        f"hook/encoder.layers.{n}.{part}": taps.seen[f"vit.blocks.{n}.{part}"][0]
        for n in range(len(blocks))
        for part in ("norm1", "attn", "mlp")
    }
    found = inner | {
        "hook/embeddings": states[0],
        "pooler_output": last[:, 0],
        "cls_patch_concat": torch.cat((last[:, 0], last[:, 1:].mean(1)), dim=1),
        "clip_projector_out": values["pool"],
    }
    found |= {f"hidden_states/{number}": state for number, state in enumerate(states)}
    found |= {f"select_layer_-{n}_no_cls": states[-n][:, 1:] for n in range(1, len(states) + 1)}
    for ours, official, name in both(found, case.expected):
        kernels.check(ours, official, name, TOWER)


@cases("internvl_vit", InternVLCase)
def test_tower_at_another_size(case, kernels):
    """The table stays as it is, and is resized in the forward."""
    for name in case.inputs.keys() - {"pixel_values"}:
        pixels, size = case.inputs[name], name.removeprefix("pixel_values")
        recipe = case.resized(pixels.shape[-1])
        lowered = case.filled(for_inference(recipe, "features"), recipe)
        positions = lowered.module.get_submodule("vit.positions")
        found = {
            f"last_hidden_state{size}": lowered.methods["image"](
                {"image.patches": case.patches(pixels)}
            )["image"],
            f"resized_position_embedding{size}": resized(
                positions.table, positions.sizes, positions.grid
            ).detach(),
        }
        for ours, official, kind in both(found, case.expected):
            kernels.check(ours, official, kind, TOWER)


@cases("internvl_c", InternVLCase, where=lambda case: "clip_embed_dim" in case.config)
def test_contrastive(case, kernels):
    lowered, given = routes(case, "retrieval_c")
    ids, wanted, taps = case.inputs["input_ids"], case.expected, Taps(lowered)
    mask = ids > 0
    image = lowered.methods["image"].values(given)
    text = lowered.methods["text"].values(texts(ids, mask, "text"))
    pooled = {"image_features": image["pool"], "text_features": text["sentence"]}
    for ours, official, name in both(pooled, wanted):
        kernels.check(ours, official, name, BOUND)
    states = {"text_hidden": text["qllama.norm"]} | {
        f"hook_text/qllama.model.layers.{n}": taps.seen[f"qllama.blocks.{n}"][0]
        for n in range(case.config["qllama_config"]["num_hidden_layers"])
    }
    for ours, official, name in both(states, wanted):
        kernels.check(ours[mask], official[mask], name, BOUND)
    logits = lowered.methods["logits"]({"image": image["unit.image"], "text": text["unit.text"]})[
        "logits"
    ]
    for compared in both({"logits_per_image": logits, "logits_per_text": logits.T}, wanted):
        near(*compared)


@cases("internvl_g", InternVLCase)
def test_generative(case, kernels):
    lowered, given = routes(case, "retrieval_g")
    ids, wanted, taps = case.inputs["input_ids"], case.expected, Taps(lowered)
    image = lowered.methods["image"].values(given)
    names = {"self_attn": "attn.o", "cross_attn": "cross"}
    for name, tensor in wanted.items():
        _, found, path = name.partition("hook_image/qllama.model.layers.")
        if found:
            layer, _, inner = path.partition(".")
            module = f"qllama.blocks.{layer}.{names[inner]}" if inner else f"qllama.blocks.{layer}"
            near(taps.seen[module][0], tensor, name)
    text = lowered.methods["text"].values(texts(ids, ids > 0, "text"))
    logits = lowered.methods["logits"]({"image": image["unit.image"], "text": text["unit.text"]})[
        "logits"
    ]
    made = {
        "query_hidden": image["qllama.norm"],
        "backbone_feature": image["pool"],
        "query_feature": image["query_pool"],
        "image_features": image["both"],
        "text_features": text["sentence"],
        "logits_per_image": logits,
        "logits_per_text": logits.T,
    }
    for compared in both(made, wanted):
        near(*compared)


@cases("internvl_g", InternVLCase)
@pytest.mark.parametrize("padding", [0, 3])
def test_caption(case, kernels, padding):
    """Prefill and greedy steps with a cache, whatever padding stands to the left."""
    program = for_inference(case.contrastive, "caption")
    lowered = case.filled(program, case.contrastive)
    batches, wanted = case.batches(program), case.expected
    ids = case.inputs["caption/input_ids"]
    patches = case.patches(case.inputs["pixel_values"][: len(ids)])
    prompts = batches.prompt_batch(
        case.captions(ids), length=case.pooling["num_query_token"] + ids.shape[1] + padding
    )
    greedy = wanted["caption/greedy_ids"]
    caches = case.caches(lowered, len(ids), prompts.length + greedy.shape[1])
    seen = lowered.methods["vision_image"]({"image.patches": patches})
    (features,) = lowered.methods["project"](seen).values()
    values = lowered.methods["prefill"].values(
        dict(prompts.inputs) | caches | {"features": features}
    )
    head = lowered.module.get_parameter("qllama.head.weight")
    logits = values["qllama.norm"][:, -ids.shape[1] :] @ head.T
    scores = [values["qllama.head"]]
    for step in range(1, greedy.shape[1]):
        slot = prompts.length + step - 1
        inputs = batches.next_inputs(prompts, greedy[:, step - 1], slot)
        scores += lowered.methods["decode"](inputs | caches).values()
    steps = torch.stack(scores, dim=1)
    assert torch.equal(steps.argmax(-1), greedy)
    for compared in both({"caption/prefill_logits": logits, "caption/step_logits": steps}, wanted):
        near(*compared)


def gradients(lowered: Lowered, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the sum of the losses, by the published names of the case."""
    trained = {name: lowered.module.get_parameter(name) for name in lowered.program.trained}
    found = torch.autograd.grad(values["loss"], list(trained.values()), allow_unused=True)
    return {
        name: torch.zeros_like(tensor) if gradient is None else gradient
        for (name, tensor), gradient in zip(trained.items(), found, strict=True)
    }


def weights(scored: Tensor) -> Tensor:
    """The share of each row in a mean over those that are scored."""
    return scored.float() / scored.sum()


def step(case: InternVLCase, lowered: Lowered, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a training step computes; the frozen part first, where there is one."""
    for method in lowered.methods.values():  # nothing is left out by chance
        for name, feed in method.signature.items():
            if name.endswith(".drop_path"):
                sizes = {"image.pictures": len(given["image.patches"])}
                given[name] = torch.ones([evaluate(size, sizes) for size in feed.sizes])
    if "prefix" in lowered.methods:
        given = given | lowered.methods["prefix"](given)
    return lowered.methods["step"].values(given)


def check_gradients(case, lowered, values, prefix):
    found = gradients(lowered, values)
    for name, official in case.gradients(case.contrastive, prefix):
        near(found[name], official, name)
    name = f"{prefix}grad_norm_all_trainable"
    if name in case.expected:
        norm = torch.stack([gradient.square().sum() for gradient in found.values()]).sum().sqrt()
        near(norm[None], case.expected[name], name)


@cases("internvl_stage2", InternVLCase)
def test_generative_stage(case, kernels):
    program = for_training(case.contrastive, "generative")
    lowered = case.filled(program, case.contrastive)
    inputs, wanted = case.inputs, case.expected
    pairs = len(inputs["input_ids"])
    group = torch.arange(pairs)
    last = inputs["summarize_attention_mask"].sum(1) - 1
    empty = last == len(case.config["train"]["prefix_ids_summarize"]) + 1
    itc = texts(inputs["summarize_input_ids"], inputs["summarize_attention_mask"], "itc")
    itc |= {"itc.group": group, "itc.weight": weights(~empty)}
    half = pairs - pairs // 2
    ids, masks = (
        torch.cat((inputs[f"negative_{kind}"][:half], inputs[f"positive_{kind}"][half:]))
        for kind in ("input_ids", "attention_mask")
    )
    itm = texts(ids, masks, "itm")
    itm |= {"itm.target": (group >= half).long(), "itm.weight": weights(masks.sum(1) > 2)}
    labels = inputs["labels"][:, 1:]
    rows, places = (labels != -100).nonzero(as_tuple=True)
    itg = texts(inputs["input_ids"], inputs["attention_mask"], "itg")
    itg |= {
        "itg.index": rows * inputs["labels"].shape[1] + places,
        "itg.targets": labels[rows, places],
        "itg.weight": torch.full((len(rows),), 1 / len(rows)),
    }
    patches = {"image.patches": case.patches(inputs["pixel_values"])}
    values = step(case, lowered, patches | itc | itm | itg)
    parts = {f"loss_{name}": values[f"loss.{name}"][None] for name in ("itc", "itm", "itg")}
    for compared in both(parts | {"loss": values["loss"][None]}, wanted):
        near(*compared)
    check_gradients(case, lowered, values, "")
    text = for_inference(case.contrastive, "retrieval_c")
    spoken = case.filled(text, case.contrastive).methods["text"]
    mask = inputs["summarize_attention_mask"].bool()
    hidden = spoken.values(texts(inputs["summarize_input_ids"], mask, "text"))["qllama.norm"]
    for prefix in ("", "retrieval/"):
        name = f"{prefix}qllama_hidden_itc_text"
        if name in wanted:
            near(hidden[mask], wanted[name][mask], name)


@cases("internvl_stage2", InternVLCase)
def test_retrieval_stage(case, kernels):
    program = for_training(case.contrastive, "retrieval")
    lowered = case.filled(program, case.contrastive)
    inputs, wanted = case.inputs, case.expected
    pairs = len(inputs["input_ids"])
    itc = texts(inputs["summarize_input_ids"], inputs["summarize_attention_mask"], "itc_both")
    itc |= {
        "itc_both.group": inputs["retrieval/image_ids"][:, 0],
        "itc_both.weight": torch.full((pairs,), 1 / pairs),
    }
    ids, masks = (
        torch.cat((inputs[f"negative_{kind}"], inputs[f"positive_{kind}"]))
        for kind in ("input_ids", "attention_mask")
    )
    itm = texts(ids, masks, "itm_both")
    itm |= {
        "itm_both.picture": torch.arange(pairs).repeat(2),
        "itm_both.target": torch.arange(2).repeat_interleave(pairs),
        "itm_both.weight": torch.full((2 * pairs,), 1 / (2 * pairs)),
    }
    patches = {"image.patches": case.patches(inputs["pixel_values"])}
    values = step(case, lowered, patches | itc | itm)
    losses = {
        "retrieval/loss_itc": values["loss.itc_both"][None],
        "retrieval/loss_itm": values["loss.itm_both"][None],
        "retrieval/loss": values["loss"][None],
    }
    for compared in both(losses, wanted):
        near(*compared)
    check_gradients(case, lowered, values, "retrieval/")


@cases("internvl_stage2", InternVLCase, where=lambda case: "stage1_clip_loss" in case.expected)
def test_contrastive_stage(case, kernels):
    """The loss that the paper names for stage 1, on the rows that have a text."""
    program = for_training(case.contrastive, "contrastive_224")
    lowered = case.filled(program, case.contrastive)
    inputs = case.inputs
    last = inputs["summarize_attention_mask"].sum(1) - 1
    rows = last != len(case.config["train"]["prefix_ids_summarize"]) + 1
    kept = {name: inputs[f"summarize_{name}"][rows] for name in ("input_ids", "attention_mask")}
    given = texts(kept["input_ids"], kept["attention_mask"], "contrast")
    given |= {
        "contrast.group": torch.arange(len(last[rows])),
        "contrast.weight": weights(last[rows] > 0),
    }
    patches = {"image.patches": case.patches(inputs["pixel_values"][rows])}
    values = step(case, lowered, patches | given)
    near(values["loss"][None], case.expected["stage1_clip_loss"], "loss")


@cases("internvl_stage2", InternVLCase)
def test_masks(case):
    """What may be seen in each third of the batch, row by row of what is no padding."""
    from triptych.blocks.language.query_decoder import causal_mask, joint_mask, prefix_mask

    inputs, queries = case.inputs, case.pooling["num_query_token"]
    length = inputs["input_ids"].shape[1]
    nowhere = torch.device("cpu")
    apart = torch.zeros(queries + length, queries + length, dtype=torch.bool)
    apart[:queries, :queries] = True
    apart[queries:, queries:] = causal_mask(length, nowhere)[0]
    itm = torch.cat((inputs["negative_attention_mask"][:1], inputs["positive_attention_mask"][:1]))
    joint = joint_mask(queries, length, itm.sum(1) - 1).expand(-1, queries + length, -1)
    prefix = prefix_mask(queries, length, nowhere)[0]
    itc, itg = inputs["summarize_attention_mask"][0], inputs["attention_mask"][0]
    for wanted, found in (
        ("attention_visible", ((joint[0], itm[0]), (apart, itc), (prefix, itg))),
        ("retrieval/attention_visible", ((joint[0], itm[0]), (joint[1], itm[1]), (apart, itc))),
    ):
        if wanted not in case.expected:
            continue
        for official, (mask, real) in zip(case.expected[wanted], found, strict=True):
            rows = torch.cat((torch.ones(queries, dtype=torch.bool), real.bool()))
            assert torch.equal(mask[rows], official.bool()[rows])
