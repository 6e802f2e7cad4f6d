"""Language models alone: scaled rotary positions, scaled queries, and joined projections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from triptych.backends.weights import Weights
from triptych.blocks.input.batch import Prompts
from triptych.blocks.input.sample import Sample
from triptych.compiler.lower import Lowered
from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.weights import names
from triptych.dsl.load import load_text
from triptych.dsl.recipe import Recipe
from triptych.tests.parity.golden import Case, Taps, cases

# A tower and an adapter, so that features have a place: the cases give what these would yield.
TOWER = """
  input image {
    aspect = ..4
    resize = native(multiple: 8px, budget: 1tok..64tok)
    normalize = clip()
  }
  encoder vit : ViT {
    in = image patch = 4px depth = 1 width = 8 heads = 1 ffn = 8
    act = gelu norm = layernorm(eps: 1e-6) pos = rope2d(theta: 1e4)
  }
  adapter merger : MergeMLP {
    in = vit window = 2x2 norm = layernorm(eps: 1e-6) hidden = 32 out = lm.width act = gelu
  }
"""

TEXT = """
recipe tiny {{
  language = 1
  tokens {{
    tokenizer = tiktoken("qwen")
    special end = "<|end|>" @ {end}
    special place = "<|place|>" @ {place}
    pad = end
  }}
  {parts}
  lm : Decoder {{
    in = [{sources}]
    depth = {depth}
    width = {width}
    heads = {heads}
    kv_heads = {kv_heads}
    head_dim = {head_dim}
    ffn = {ffn}
    vocab = {vocab}
    qkv_bias = {qkv_bias}
    act = silu
    norm = rmsnorm(eps: {eps})
    {positions}
    context = 512tok
  }}
  weights {{
    from = hf("a/b")
    {maps}
  }}
  layout plain {{
    {places}
    user(b) -> b
    assistant(b) -> loss(b end)
  }}
  mode chat {{ layout = plain batch = 1..4 prompt = ..256tok new = 64tok }}
}}
"""


@dataclass(frozen=True)
class LanguageCase(Case):
    """A case with a language model, whatever else there is in its file."""

    @property
    def text(self) -> str:
        """The recipe in the sizes of the case."""
        raise NotImplementedError

    @cached_property
    def recipe(self) -> Recipe:
        return load_text(self.text, "tiny.vlm")

    @cached_property
    def lowered(self) -> Lowered:
        return self.lower(for_inference(self.recipe, "chat"), self.recipe, ["lm"])

    def batch(self, rows: list[Tensor]) -> Prompts:
        """Prompts of these tokens."""
        return self.batches(self.lowered.program).prompt_batch(
            [Sample(row.numpy(), np.zeros(len(row), bool), ()) for row in rows]
        )

    def values(self, prompts: Prompts, caches: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the prefill computes, with logits at every place."""
        with torch.no_grad():
            values = self.lowered.methods["prefill"].values(dict(prompts.inputs) | caches)
            head = self.lowered.module.get_submodule("lm.head")
            return values | {"logits": head(values["lm.norm"])}

    def greedy(self, prompts: Prompts, steps: int) -> tuple[Tensor, Tensor]:
        """The tokens of an answer, [B, N], and the scores that each was chosen by, [B, N, V]."""
        rows, length = prompts.inputs["text.tokens"].shape
        batches = self.batches(self.lowered.program)
        caches = self.caches(self.lowered, rows, length + steps)
        scores = [self.values(prompts, caches)["logits"][:, -1]]
        tokens = [scores[0].argmax(-1)]
        for slot in range(length, length + steps - 1):
            inputs = batches.next_inputs(prompts, tokens[-1], slot)
            with torch.no_grad():
                scores.append(self.lowered.methods["decode"](inputs | caches)["logits"])
            tokens.append(scores[-1].argmax(-1))
        return torch.stack(tokens, dim=1), torch.stack(scores, dim=1)


@dataclass(frozen=True)
class GroupedCase(LanguageCase):
    """InternLM2: queries, keys and values in one matrix, key-value head by key-value head."""

    @property
    def text(self) -> str:
        config = self.config
        scaling = config["rope_scaling"]
        positions = (
            f"pos = rope(theta: {config['rope_theta']}, scaling: dynamic(factor: "
            f"{scaling['factor']}, from: {config['max_position_embeddings']}tok))"
        )
        maps = """
        map "language_model.model.tok_embeddings.weight" -> "lm.embed.weight"
        map "language_model.model.layers.*.attention.wqkv.*" -> joined(
          ["lm.blocks.*.attn.q.*", "lm.blocks.*.attn.k.*", "lm.blocks.*.attn.v.*"],
          groups: lm.kv_heads,
        )
        map "language_model.model.layers.*.attention.wo.*" -> "lm.blocks.*.attn.o.*"
        map "language_model.model.layers.*.attention_norm.*" -> "lm.blocks.*.norm1.*"
        map "language_model.model.layers.*.ffn_norm.*" -> "lm.blocks.*.norm2.*"
        map "language_model.model.layers.*.feed_forward.w1.*" -> "lm.blocks.*.mlp.gate.*"
        map "language_model.model.layers.*.feed_forward.w3.*" -> "lm.blocks.*.mlp.up.*"
        map "language_model.model.layers.*.feed_forward.w2.*" -> "lm.blocks.*.mlp.down.*"
        map "language_model.model.norm.*" -> "lm.norm.*"
        map "language_model.output.weight" -> "lm.head.weight"
        """
        return TEXT.format(
            end=config["eos_token_id"],
            place=config["vocab_size"] - 1,
            parts="",
            sources="",
            places="",
            depth=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["hidden_size"] // config["num_attention_heads"],
            ffn=config["intermediate_size"],
            vocab=config["vocab_size"],
            qkv_bias=str(config["bias"]).lower(),
            eps=config["rms_norm_eps"],
            positions=positions,
            maps=maps,
        )

    def rows(self, name: str) -> list[Tensor]:
        """The rows of a set of inputs, without their padding."""
        ids = self.inputs[f"{name}.input_ids"]
        mask = self.inputs.get(f"{name}.attention_mask", torch.ones_like(ids)).bool()
        return [row[kept] for row, kept in zip(ids, mask, strict=True)]


grouped_cases = cases("internlm2_lm", GroupedCase)


@grouped_cases
def test_a_grouped_matrix_is_taken_apart(case, kernels):
    found = dict(Weights.open(case.recipe, case.weights).tensors())
    for name, expected in case.expected.items():
        if name.startswith("unpacked.layers."):
            layer, part = name.removeprefix("unpacked.layers.").split(".")
            assert torch.equal(found[f"lm.blocks.{layer}.attn.{part}.weight"], expected)
    assert names(case.recipe).tensors.keys() == case.published.keys()


@grouped_cases
def test_long_sequences_turn_slower(case, kernels):
    rows = case.rows("long")
    assert min(map(len, rows)) > case.config["max_position_embeddings"]
    prompts = case.batch(rows)
    values = case.values(prompts, case.caches(case.lowered, len(rows), prompts.length))
    if "long.logits" in case.expected:
        kernels.check(values["logits"], case.expected["long.logits"], "long.logits")


@grouped_cases
def test_short_sequences_do_not(case, kernels):
    rows = case.rows("short")
    prompts = case.batch(rows)
    caches = case.caches(case.lowered, len(rows), prompts.length)
    values = case.values(prompts, caches)
    found = {
        "short.hidden.embed": values["lm.embed"],
        "short.hidden.final_norm": values["lm.norm"],
        "short.logits": values["logits"],
        "short.past.0.key": caches["cache.0.k"],
        "short.past.0.value": caches["cache.0.v"],
    }
    for name, tensor in found.items():
        if name not in case.expected:
            continue
        expected = case.expected[name]
        for number, row in enumerate(rows):
            ours, theirs = (t[number].narrow(-2, -len(row), len(row)) for t in (tensor, expected))
            kernels.check(ours, theirs, f"{name}[{number}]")


@grouped_cases
def test_greedy_tokens(case, kernels):
    if "short.generated" not in case.expected:
        pytest.skip("the case has none")
    expected = case.expected["short.generated"]
    tokens, _ = case.greedy(case.batch(case.rows("short")), expected.shape[1])
    assert torch.equal(tokens, expected)


@dataclass(frozen=True)
class SteppedCase(LanguageCase):
    """Qwen: the base grows in steps, and queries far behind are scaled; not in training."""

    @property
    def text(self) -> str:
        lm = self.config["lm"]
        begin = f"{lm['seq_length']}tok"
        maps = """
        map "vit.*" -> "vit.*"
        map "merger.*" -> "merger.*"
        ignore "transformer.visual.*" : "the case is about the language model"
        map "transformer.wte.weight" -> "lm.embed.weight"
        map "transformer.h.*.ln_1.*" -> "lm.blocks.*.norm1.*"
        map "transformer.h.*.ln_2.*" -> "lm.blocks.*.norm2.*"
        map "transformer.h.*.attn.c_attn.*" -> joined(
          ["lm.blocks.*.attn.q.*", "lm.blocks.*.attn.k.*", "lm.blocks.*.attn.v.*"],
        )
        map "transformer.h.*.attn.c_proj.*" -> "lm.blocks.*.attn.o.*"
        map "transformer.h.*.mlp.w1.*" -> "lm.blocks.*.mlp.up.*"
        map "transformer.h.*.mlp.w2.*" -> "lm.blocks.*.mlp.gate.*"
        map "transformer.h.*.mlp.c_proj.*" -> "lm.blocks.*.mlp.down.*"
        map "transformer.ln_f.*" -> "lm.norm.*"
        map "lm_head.weight" -> "lm.head.weight"
        """
        return TEXT.format(
            end=self.config["special"]["eod"],
            place=self.config["special"]["img_pad"],
            parts=TOWER,
            sources="merger",
            places="image(x) -> place * x.tokens",
            depth=lm["num_hidden_layers"],
            width=lm["hidden_size"],
            heads=lm["num_attention_heads"],
            kv_heads=lm["num_attention_heads"],
            head_dim=lm["kv_channels"],
            ffn=lm["intermediate_size"] // 2,
            vocab=lm["vocab_size"],
            qkv_bias="true",
            eps=lm["layer_norm_epsilon"],
            positions=(
                f"pos = rope(theta: {lm['rotary_emb_base']}, scaling: ntk(from: {begin})) "
                f"query_scale = logn(from: {begin})"
            ),
            maps=maps,
        )

    def prompt(self, name: str, more: Sequence[int] = ()) -> Prompts:
        """One of the prompts, with the features of its pictures in their places."""
        special = self.config["special"]
        ids = torch.cat([self.inputs[f"{name}.input_ids"][0], torch.tensor(more, dtype=torch.long)])
        begins, ends = (
            (ids == special[key]).nonzero().flatten() for key in ("img_start", "img_end")
        )
        index = torch.full_like(ids, -1)
        pictures = sorted(path.name for path in self.folder.glob("*.png"))
        for begin, end in zip(begins.tolist(), ends.tolist(), strict=True):
            # Between the tags stand the bytes of the picture's path, and then padding.
            held = ids[begin + 1 : end]
            path = bytes(held[held != special["img_pad"]].tolist()).decode()
            index[begin + 1 : end] = pictures.index(path) * len(held) + torch.arange(len(held))
        prompts = self.batch([ids])
        features = self.expected["image_features"].flatten(0, 1)
        given = {"text.feature_index": index[None], "features": features}
        return replace(prompts, inputs=dict(prompts.inputs) | given)


stepped_cases = cases("qwen_vl_full", SteppedCase)


@stepped_cases
def test_scores_of_prompts_within_and_beyond_the_trained_length(case, kernels):
    for name in case.config["prompts"]:
        prompts = case.prompt(name)
        taps = Taps(case.lowered)
        values = case.values(prompts, case.caches(case.lowered, 1, prompts.length))
        found = {
            "inputs_embeds": values["lm.splice"],
            "layer0_out": taps.seen["lm.blocks.0"][0],
            "logits": values["logits"],
        }
        if f"{name}.labels" in case.inputs:
            labels = case.inputs[f"{name}.labels"][0, 1:]
            found["loss"] = functional.cross_entropy(values["logits"][0, :-1], labels)
        for key, tensor in found.items():
            if f"{name}.{key}" in case.expected:
                kernels.check(tensor, case.expected[f"{name}.{key}"], f"{name}.{key}")


@stepped_cases
def test_an_answer_keeps_the_turns_of_its_prompt(case, kernels):
    for name in case.config["prompts"]:
        if f"{name}.decode_tokens" not in case.expected:
            continue
        expected = case.expected[f"{name}.decode_tokens"]
        tokens, scores = case.greedy(case.prompt(name), expected.shape[1])
        assert torch.equal(tokens, expected)
        again = case.prompt(name, tokens[0, :-1].tolist())
        last = case.values(again, case.caches(case.lowered, 1, again.length))["logits"][:, -1]
        found = {"decode_logits": scores, "rerun_last_logits": last}
        for key, tensor in found.items():
            if f"{name}.{key}" in case.expected:
                kernels.check(tensor, case.expected[f"{name}.{key}"], f"{name}.{key}")


@stepped_cases
def test_training_scales_nothing(case):
    spec = for_inference(case.recipe, "chat").spec["text"]
    assert spec["scaling"]["call"] == "ntk" and spec["query_scale"]["call"] == "logn"
    text = """recipe trained extends tiny { add stage tune {
      train = lm freeze = [vit, merger] layout = plain data = mix(chat: 1) stop = 1steps
      batch = 1seq optim = adamw(lr: 1e-3)
    } }"""
    recipe = load_text(case.text + text, "tiny.vlm")
    program = for_training(recipe, "tune")
    assert program.spec["text"]["scaling"] is program.spec["text"]["query_scale"] is None
    assert "text.query_scale" not in program.methods["step"]


@dataclass(frozen=True)
class JoinedCase(LanguageCase):
    """Phi-3: joined projections, and a factor for each frequency, by the length so far."""

    @property
    def text(self) -> str:
        config = self.config
        begin, end = config["original_max_position_embeddings"], config["max_position_embeddings"]
        maps = """
        map "model.embed_tokens.weight" -> "lm.embed.weight"
        map "model.layers.*.input_layernorm.*" -> "lm.blocks.*.norm1.*"
        map "model.layers.*.self_attn.qkv_proj.*" -> joined(
          ["lm.blocks.*.attn.q.*", "lm.blocks.*.attn.k.*", "lm.blocks.*.attn.v.*"],
        )
        map "model.layers.*.self_attn.o_proj.*" -> "lm.blocks.*.attn.o.*"
        map "model.layers.*.post_attention_layernorm.*" -> "lm.blocks.*.norm2.*"
        map "model.layers.*.mlp.gate_up_proj.*" -> joined(
          ["lm.blocks.*.mlp.gate.*", "lm.blocks.*.mlp.up.*"],
        )
        map "model.layers.*.mlp.down_proj.*" -> "lm.blocks.*.mlp.down.*"
        map "model.norm.*" -> "lm.norm.*"
        map "lm_head.weight" -> "lm.head.weight"
        """
        return TEXT.format(
            end=config["eos_token_id"],
            place=config["vocab_size"] - 1,
            parts="",
            sources="",
            places="",
            depth=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            kv_heads=config["num_key_value_heads"],
            head_dim=config["hidden_size"] // config["num_attention_heads"],
            ffn=config["intermediate_size"],
            vocab=config["vocab_size"],
            qkv_bias="false",
            eps=config["rms_norm_eps"],
            positions=(
                f"pos = rope(theta: {config['rope_theta']}, scaling: su("
                f"short: {config['short_factor']}, long: {config['long_factor']}, "
                f"from: {begin}tok, to: {end}tok))"
            ),
            maps=maps,
        )


joined_cases = cases("phi3_lm", JoinedCase)


@joined_cases
def test_long_sequences_have_factors_of_their_own(case, kernels):
    for name in ("short", "long"):
        prompts = case.batch(list(case.inputs[f"{name}.input_ids"]))
        values = case.values(prompts, case.caches(case.lowered, 1, prompts.length))
        kernels.check(values["logits"], case.expected[f"{name}.logits"], f"{name}.logits")


@joined_cases
def test_an_answer_takes_the_long_factors_where_it_grows_long(case, kernels):
    expected = case.expected["cross.decode_tokens"]
    prompts = case.batch(list(case.inputs["cross.input_ids"]))
    tokens, scores = case.greedy(prompts, expected.shape[1])
    assert torch.equal(tokens, expected)
    kernels.check(scores, case.expected["cross.decode_logits"], "cross.decode_logits")
