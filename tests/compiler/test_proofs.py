"""What is proved of a recipe: each mistake has its code, both parties, a reason and a fix."""

from __future__ import annotations

import pytest

from triptych.compiler.pipeline import for_training, prove
from triptych.dsl.diagnostics import RecipeError, render
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe, load_text

OBJECTIVE = "add objective naming : RegionWords { regions = %s words = %s temperature = 0.1 }"
NO_CLIPS = "drop input video amend encoder vit { in = image }"
STAGE = " amend stage sft {{ {} }}"
MISTAKES = {
    "S404_widths": "amend adapter merger { out = 40 }",
    "S405_multiple": """amend input image {
      resize = native(multiple: 21px, budget: 4tok..64tok)
    }""",
    "S406_frames": "amend input video { frames = 4..9 }",
    "S415_packed_twice": """
      drop weights
      add encoder fine : ViT {
        in = image patch = 7px depth = 1 width = 32 heads = 4 ffn = 64 act = gelu
        norm = layernorm(eps: 1e-6) pos = rope2d(theta: 100)
      }
      add adapter join : SplitMLP { in = [vit, fine] each = 24 out = 48 act = gelu }
      amend adapter merger { in = join }
      drop input video
      amend encoder vit { in = image frames_per_patch = 1 }
      amend stage vision { train = [vit, fine, join, merger] }
      amend stage joint { train = [vit, fine, join, merger, lm] }
      amend stage sft { freeze = [vit, fine, join, merger] }
    """,
    "T504_picture": """amend input image {
      resize = native(multiple: 28px, budget: 4tok..40000tok)
    }""",
    "T504_clip": """amend input video {
      resize = native(multiple: 28px, budget: 128tok..768tok)
    }""",
    "T504_with_the_layout": """amend input image {
      resize = native(multiple: 28px, budget: 4tok..32760tok)
    }""",
    "T504_without_aspect": f"{NO_CLIPS} amend input image {{ drop aspect }}",
    "T506_pack": STAGE.format("pack = 65536tok"),
    "T506_prompt": "amend mode chat { prompt = ..40000tok }",
    "F601_part": STAGE.format("freeze = [vit]"),
    "F601_module": STAGE.format("freeze = [merger, vit.patch_embed]"),
    "F602_twice": STAGE.format("train = [lm, vit.blocks[1..1]]"),
    "F602_one": STAGE.format("train = [lm, vit.patch_embed.weight]"),
    "F602_adapted_and_trained": STAGE.format("train = [lora(lm.blocks.attn, rank: 2), lm]"),
    "F602_adapted_and_slow": STAGE.format(
        "train = [lora(lm.blocks.attn, rank: 2), lr(lm.blocks.attn.q, 0.1)] "
        "freeze = [lm.embed, lm.blocks.mlp, lm.blocks.norm1, lm.blocks.norm2, lm.norm, lm.head, "
        "vit, merger]"
    ),
    "F602_adapted_twice": STAGE.format(
        "train = [lora(lm.blocks.attn, rank: 2), lora(lm.blocks.attn.q, rank: 4)] "
        "freeze = [lm, vit, merger]"
    ),
    "F602_decayed_and_frozen": STAGE.format("train = [lm, decay(vit, 0.9)] freeze = [vit, merger]"),
    "F602_slow_and_frozen": STAGE.format(
        "train = [lm, lr(vit.blocks[0..0], 0.1)] freeze = [vit, merger]"
    ),
    "F603_nothing": STAGE.format("train = [lm, vit.blocks[7..9]]"),
    "F603_typo": STAGE.format("train = [lm, vit.blocs]"),
    "F603_no_linear_layer": STAGE.format(
        "train = [lm, lora(merger.norm, rank: 2)] freeze = [vit, merger]"
    ),
    "F603_not_decayed": STAGE.format(
        "freeze = [vit, merger] optim = adamw(lr: 1, no_decay: lm.nrm)"
    ),
    "F613_packed_tokens": "amend stage joint { drop_tokens = drop_tokens(vit, 0.5) }",
    "F612_decay": STAGE.format("train = [lm, decay(merger, 0.9)] freeze = vit"),
    "F612_drop_path": STAGE.format("freeze = [vit, merger] drop_path = drop_path(lm, 0.1)"),
    "F607_no_picture": """
      add layout plain { text(t) -> loss(t im_end) }
      amend stage vision { layout = plain }
    """,
    "F607_no_loss": OBJECTIVE % ("merger", "lm.embed") + " amend stage joint { loss = [naming] }",
    "F608_tied": "amend lm { tied = true }"
    + STAGE.format("train = [lm.head] freeze = [vit, merger, lm.embed, lm.blocks, lm.norm]"),
    "F608_tied_adapted": "amend lm { tied = true }"
    + STAGE.format("train = [lora(lm.head, rank: 2)] freeze = [vit, merger, lm]"),
    "F608_tied_frozen": "amend lm { tied = true }"
    + STAGE.format("train = [lm] freeze = [vit, merger, lm.head]"),
    "F616_branch": STAGE.format("after = vision"),
    "F616_starts_over": STAGE.format("drop after"),
    "F617_trains": STAGE.format(
        "train = [vit.blocks[1..1], lm] freeze = [vit.patch_embed, vit.blocks[0..0], merger] "
        "cache = vit"
    ),
    "F617_below_it_trains": STAGE.format(
        "train = [vit.patch_embed, lm] freeze = [vit.blocks, merger] cache = vit.blocks[0..0]"
    ),
    "F617_drop_path": STAGE.format("cache = vit drop_path = drop_path(vit, 0.2)"),
    "F617_augment": STAGE.format("cache = vit augment = jpeg(quality: 70..90)"),
    "F617_inside_a_block": STAGE.format("cache = vit.blocks.attn"),
    "F617_text": "amend stage vision { cache = lm.embed }",
    "F617_no_picture": """
      add layout plain { text(t) -> loss(t im_end) }
      amend stage sft { layout = plain cache = vit }
    """,
    "F618_missing": STAGE.format("precision = [bf16(lm), f32(vit)]"),
    "F618_mode": "amend mode chat { target = aot(precision: [bf16(lm), f32(vit)]) }",
    "F618_twice": STAGE.format("precision = [bf16(lm), f32(vit), bf16(vit), f32(merger)]"),
    "F618_reaches_the_tower": STAGE.format("precision = [bf16(lm), f32(blocks.mlp)]"),
    "F618_inside_a_part": STAGE.format("precision = [bf16(lm), f32(vit.blocks), f32(merger)]"),
    "F618_typo": STAGE.format("precision = [bf16(lm), f32(vut), f32(merger)]"),
    "F619_norms_and_tables": "amend mode chat { quantize = int8(lm) target = eager() }",
    "F619_no_linear_layer": "amend mode chat { quantize = int8(lm.embed) target = eager() }",
    "F619_empty": "amend mode chat { quantize = int8(lm.blocks[7..9]) target = eager() }",
    "F619_twice": """amend mode chat {
      quantize = [int8(lm.blocks), int8(lm.blocks.attn.q)]
      target   = eager()
    }""",
    "F619_group": "amend mode chat { quantize = int4(lm.blocks) target = eager() }",
    "F619_no_group": "amend mode chat { quantize = int4(vit.blocks, group: 24) target = eager() }",
    "F619_target": "amend mode chat { quantize = int8(lm.blocks) }",
    "F603_kept": STAGE.format("cache = vit.blocks[7..9]"),
    "F603_recomputed": STAGE.format("checkpoint = vit.blocs"),
    "L705_stage": """
      add layout plain { text(t) -> t im_end }
      amend stage sft { layout = plain }
    """,
    "L705_mode": """
      add layout plain { text(t) -> t im_end }
      amend mode chat { layout = plain }
    """,
    "L706_stop": """
      add layout plain { text(t) -> loss(im_start t) }
      amend stage sft { layout = plain }
    """,
    "L711_part": """
      add layout plain {
        image(x)   -> image_pad * x.vit
        pair(x, t) -> image(x) loss(t im_end)
      }
      amend stage sft { layout = plain }
    """,
    "L712_corners": """
      add layout plain {
        image(x)     -> image_pad * x.tokens
        box(b)       -> "(" b.corners ")"
        user(b)      -> b
        assistant(b) -> loss(b "\\n")
      }
      amend stage sft { layout = plain }
    """,
    "L707_places": """
      add layout plain {
        image(x)   -> image_pad * x.tokens
        pair(x, t) -> loss(image(x) t im_end)
      }
      amend stage sft { layout = plain }
    """,
    "N215_words": OBJECTIVE % ("merger", "merger"),
    "N215_regions": OBJECTIVE % ("lm.blocks", "lm.embed"),
    "W801_homeless": 'amend weights { drop map "model.norm.*" }',
    "W802_twice": 'amend weights { add map "visual.old.*" -> "vit.blocks.0.*" }',
    "W802_one_tensor": """amend weights {
      drop map "visual.merger.ln_q.*"
      add map "visual.merger.mlp.0*" -> "merger.norm*"
    }""",
    "W803_uneven": """amend weights {
      drop map "model.norm.*"
      add map "model.norm.weight" -> "lm.norm.*"
    }""",
    "W804_no_matrix": """amend weights {
      replace map "model.norm.*" -> transposed("lm.norm.*")
    }""",
    "W804_no_leading_one": """amend weights {
      replace map "model.norm.*" -> squeezed("lm.norm.*")
    }""",
    "W804_groups": """amend weights {
      replace map "visual.blocks.*" -> interleaved("vit.blocks.*", parts: 3, groups: vit.heads)
    }""",
    "W804_a_part_lacks": """amend weights {
      drop map "model.layers.*.self_attn.q_proj.*"
      drop map "model.layers.*.self_attn.o_proj.*"
      add map "model.layers.*.qo.*" -> joined(["lm.blocks.*.attn.q.*", "lm.blocks.*.attn.o.*"])
    }""",
    "W805_ignored": """amend weights { add ignore "visual.blocks.*.mlp.*" : "a slip" }""",
    "W805_fresh": """amend weights {
      drop map "visual.merger.mlp.2.*"
      add fresh "merger.fc2.*" : normal(0.02)
      add ignore "merger.fc2.*" : "a slip"
    }""",
    "W802_within_one_rule": """amend weights {
      drop map "model.norm.*"
      add map "model.norm.*" -> joined(["lm.norm.*", "lm.norm.*"])
    }""",
    "V314_assertion": "amend lm { context = 8000tok } amend stage sft { pack = 8000tok }"
    " amend mode chat { prompt = ..8000tok }",
}


@pytest.fixture(scope="module")
def complaint(variant):
    def of(body: str) -> str:
        with pytest.raises(RecipeError) as caught:
            prove(variant(body))
        errors = [found for found in caught.value.diagnostics if found.severity == "error"]
        return render(errors)

    return of


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(golden, complaint, name):
    shown = complaint(MISTAKES[name])
    assert f"error[{name.partition('_')[0]}]" in shown
    golden.check(f"proofs/{name}.txt", shown)


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_recipes_that_ship_hold(name):
    assert all(found.severity == "warning" for found in prove(load_recipe(name)))


def test_the_published_limits_let_a_clip_outgrow_the_context(golden):
    """The sheet's figures: 548 frames of 1280x720, by the floor that breaks the cap."""
    unsaid = "recipe mine extends qwen2_vl_7b { amend input video { drop overlong } }"
    with pytest.raises(RecipeError) as caught:
        prove(load_text(unsaid, "mine.vlm"))
    golden.check("proofs/T504_published.txt", render(caught.value.diagnostics))
    (error,) = caught.value.diagnostics
    assert "548 frames" in error.reason


def test_what_is_said_to_be_refused_is_no_mistake():
    assert not prove(load_recipe("qwen2_vl_7b"))


WARNINGS = {
    "L713_end": """
      add layout plain { user(b) -> b assistant(b) -> loss(b endoftext) }
      amend mode chat { layout = plain }
    """,
    "V305_rank": STAGE.format("train = lora(lm.blocks.mlp, rank: 40) freeze = [vit, merger, lm]"),
}


@pytest.mark.parametrize("name", WARNINGS)
def test_what_may_be_meant_is_told_and_not_refused(golden, variant, name):
    found = prove(variant(WARNINGS[name]))
    assert [(one.code, one.severity) for one in found] == [(name.partition("_")[0], "warning")]
    golden.check(f"proofs/{name}.txt", render(found))


@pytest.mark.parametrize(
    "body",
    [
        "drop overlong frames = 4..480 by 2",
        """drop overlong
        resize = native(multiple: 28px, budget: 4tok..768tok, clip: 16384tok, slack: 1.05)""",
    ],
)
def test_other_limits_do_not(variant, body):
    try:
        found = prove(variant(f"amend input video {{ {body} }}"))
    except RecipeError as error:
        found = error.diagnostics
    assert not [one for one in found if "1280x720" in one.reason]


@pytest.mark.parametrize(
    "claim",
    [
        "image.tokens == 16384tok",
        "merger.tokens >= image.tokens",
        "lm.width == 12 * lm.heads",
        "chatml.worst(images: 1) - caption.worst(images: 1) < 100tok",
        "chatml.worst(images: 2) == chatml.worst(images: 1) + 16386tok",
        "2 * vit.patch == 28px",
    ],
)
def test_what_is_asserted_and_holds(variant, claim):
    prove(variant(f"assert {claim}"))


@pytest.mark.parametrize(
    ("claim", "code"),
    [
        ("lm.act == 3", "V303"),
        ("lm.width == 47", "V314"),
        ("chatml.worst(pictures: 1) < 9tok", "V303"),
        ("lm.width < lm.context", "V306"),
    ],
)
def test_what_is_asserted_and_does_not(variant, claim, code):
    with pytest.raises(RecipeError) as caught:
        prove(variant(f"assert {claim}"))
    assert code in {found.code for found in caught.value.diagnostics}


def test_several_mistakes_are_told_at_once_what_is_written_here_first(complaint):
    shown = complaint("""
      amend adapter merger { out = 40 }
      amend stage vision { freeze = [lm.embed] }
      amend stage sft { freeze = [vit] }
    """)
    assert [line[:11] for line in shown.splitlines() if line.startswith("error")] == [
        "error[S404]",
        "error[F601]",
        "error[F601]",
    ]


def test_a_wrong_stage_cannot_be_compiled(variant):
    recipe = variant(STAGE.format("freeze = [vit]"))
    for_training(recipe, "joint")
    with pytest.raises(RecipeError, match="F601"):
        for_training(recipe, "sft")


def test_an_objective_alone_needs_no_text(variant):
    recipe = variant(
        OBJECTIVE % ("merger", "lm.embed") + " amend stage vision { loss = [naming] freeze = [lm] }"
    )
    prove(recipe)
    methods = for_training(recipe, "vision").methods
    assert set(methods["step"].outputs) == {"loss", "loss.naming"}
    assert set(methods["prefix"].outputs) == {"loss.naming.words"}
    assert "text.tokens" not in methods["prefix"]


def test_a_branch_that_a_mode_answers_with_is_not_lost(variant):
    prove(variant("amend stage sft { after = vision } amend mode chat { after = joint }"))
