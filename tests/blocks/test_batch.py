"""Packing, sharding and padding change where numbers stand, and not what the model computes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from triptych.blocks.input.batch import Share
from triptych.blocks.input.processor import Processor, SampleError
from triptych.blocks.input.sample import Attachment, Region, Turn
from triptych.compiler.lower import lower
from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.types import evaluate
from triptych.dsl.load import load_text

RECIPE = """
recipe tiny extends qwen2_vl_2b {
  amend encoder vit { depth = 1  width = 16  heads = 2  ffn = 32 }
  amend lm {
    depth = 2  width = 32  heads = 4  kv_heads = 2  ffn = 48  pos = mrope([1, 1, 2], theta: 1e4)
  }
  add objective words : RegionWords { regions = merger  words = lm.embed  temperature = 0.1 }
  amend stage joint { loss = [lm, words] }
}
"""


def picture(width, height, seed):
    torch.manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    return Attachment("image", Image.fromarray(pixels.numpy()))


FROG = (
    [Turn("user", (picture(60, 90, 0), "What is it?")), Turn("assistant", ("A frog.",))],
    [Region((0, 0, 30, 90), "frog")],
)
TWO = (
    [Turn("user", (picture(56, 56, 1), "or")), Turn("assistant", ("A guitar, I think.",))],
    [Region((10, 0, 56, 56), "guitar"), Region((0, 0, 5, 5), "frog")],
)
NO_REGIONS: list[Region] = []
TEXT = ([Turn("user", ("Hello?",)), Turn("assistant", ("Hi.",))], NO_REGIONS)


@pytest.fixture(scope="module")
def recipe():
    return load_text(RECIPE)


@pytest.fixture(scope="module")
def training(recipe):
    lowered = lower(for_training(recipe, "joint"))
    lowered.init(0)
    return lowered, Processor(lowered.program.spec)


@pytest.fixture(scope="module")
def inference(recipe):
    lowered = lower(for_inference(recipe, "chat"))
    lowered.init(0)
    return lowered, Processor(lowered.program.spec)


def losses(lowered, inputs):
    """The losses by name, and the gradient of the merger."""
    step = lowered.methods["step"]
    found = step(inputs)
    (grad,) = torch.autograd.grad(found["loss"], lowered.module.get_parameter("merger.fc1.weight"))
    return {name: loss.detach() for name, loss in found.items()} | {"grad": grad}


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.allclose(one[name], other[name], atol=1e-5), name


def test_packed_samples_are_worth_the_same_as_rows_of_their_own(training):
    lowered, processor = training
    samples = [processor.sample(*given) for given in (FROG, TEXT, TWO)]
    apart = processor.train_batch([[sample] for sample in samples])
    packed = processor.train_batch([samples[:2], samples[2:]], length=80)
    assert packed["text.tokens"].shape == (2, 80)
    same(losses(lowered, apart), losses(lowered, packed))


def test_the_losses_of_the_parts_of_a_batch_add_up(training):
    lowered, processor = training
    samples = [processor.sample(*given) for given in (FROG, TWO, TEXT)]
    whole = losses(lowered, processor.train_batch([[sample] for sample in samples]))
    share = Share.of(samples)
    assert share.labels == ("frog", "guitar") and share.regions == 3
    parts = [losses(lowered, processor.train_batch([[one]], share=share)) for one in samples]
    same(whole, {name: sum(part[name] for part in parts) for name in whole})


def test_what_is_scored_are_the_tokens_of_the_answer(training):
    _, processor = training
    sample = processor.sample(*FROG)
    batch = processor.train_batch([[sample]])
    said = processor.tokenizer.decode(batch["loss.targets"].tolist(), specials=True)
    assert said == "A frog.<|im_end|>"
    assert batch["text.tokens"][0, batch["loss.index"][0] + 1] == batch["loss.targets"][0]
    assert batch["loss.weight"].sum().isclose(torch.tensor(1.0))


def test_regions_are_shares_of_their_own_pictures_features(training):
    _, processor = training
    samples = [processor.sample(*given) for given in (FROG, TWO)]
    batch = processor.train_batch([samples])
    first = processor.inputs["image"].tokens(samples[0].media[0])["merger"]
    pool = batch["regions.pool"]
    assert torch.allclose(pool.sum(1), torch.ones(3))
    assert pool[0, first:].eq(0).all() and pool[1:, :first].eq(0).all()
    assert batch["regions.target"].tolist() == [0, 1, 0]
    assert [processor.tokenizer.decode(row) for row in batch["regions.words"][:, :1].tolist()]


def caches(lowered, rows, slots):
    sizes = {"batch": rows, "slots": slots}
    return {
        name: torch.zeros([evaluate(size, sizes) for size in feed.sizes])
        for name, feed in lowered.methods["decode"].signature.items()
        if name.startswith("cache.")
    }


def prefill(lowered, prompts, store):
    features = torch.zeros(1, 32)
    if "image.patches" in prompts.inputs:
        rows = lowered.methods["vision_image"](prompts.inputs)
        features = lowered.methods["project"](rows)["merger"]
    inputs = {**prompts.inputs, "features": features}
    return lowered.methods["prefill"](inputs | store)["logits"]


@torch.no_grad()
def test_left_padding_changes_no_score(inference):
    lowered, processor = inference
    samples = [processor.prompt(turns[:1]) for turns, _ in (FROG, TEXT, TWO)]
    together = processor.prompt_batch(samples, length=64)
    slots = together.length + 2
    store = caches(lowered, 3, slots)
    batched = [prefill(lowered, together, store)]
    tokens = torch.tensor([5, 6, 7])
    batched.append(
        lowered.methods["decode"](processor.next_inputs(together, tokens, together.length) | store)[
            "logits"
        ]
    )
    for row, sample in enumerate(samples):
        alone = processor.prompt_batch([sample])
        store = caches(lowered, 1, slots)
        single = [prefill(lowered, alone, store)]
        inputs = processor.next_inputs(alone, tokens[row : row + 1], alone.length)
        single.append(lowered.methods["decode"](inputs | store)["logits"])
        for together_, alone_ in zip(batched, single, strict=True):
            assert torch.allclose(together_[row], alone_[0], atol=1e-5)


@torch.no_grad()
def test_decoding_over_the_cache_is_prefilling_the_longer_text(inference):
    lowered, processor = inference
    prompt = processor.prompt(FROG[0][:1])
    prompts = processor.prompt_batch([prompt])
    store = caches(lowered, 1, prompts.length + 1)
    prefill(lowered, prompts, store)
    inputs = processor.next_inputs(prompts, torch.tensor([99]), prompts.length)
    decoded = lowered.methods["decode"](inputs | store)["logits"]
    longer = prompt.__class__(
        torch.cat((torch.from_numpy(prompt.ids), torch.tensor([99]))).numpy(),
        torch.zeros(prompt.length + 1, dtype=torch.bool).numpy(),
        prompt.media,
    )
    batch = processor.prompt_batch([longer])
    assert torch.allclose(decoded, prefill(lowered, batch, caches(lowered, 1, 99)), atol=1e-5)


def test_a_dialogue_that_cannot_be_used_says_why(training, monkeypatch):
    _, processor = training
    with pytest.raises(SampleError, match="regions need one picture, and there are 0 media"):
        processor.sample(TEXT[0], FROG[1])
    with pytest.raises(SampleError, match="the model has no input `audio`"):
        processor.sample([Turn("user", (Attachment("audio", Path("a.wav")),))])
    with pytest.raises(
        SampleError, match=r"layout caption .* the layout chatml has no rule `tool`"
    ):
        processor.sample([Turn("user", ("hi",)), Turn("tool", ("x",))])
    monkeypatch.setattr(processor, "context", 20)
    with pytest.raises(SampleError, match="25 tokens are more than the context of 20"):
        processor.sample(TEXT[0])
