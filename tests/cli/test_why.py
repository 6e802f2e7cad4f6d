"""`triptych why` and `triptych assumed`: where values came from, link by link."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.cli.assumed import assumed_command
from triptych.cli.main import cli
from triptych.cli.why import why_command
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe, load_text
from triptych.dsl.why import chain, paths_of
from triptych.dsl.worth import Found, at

PATHS = {
    "derived": "merger.out",
    "default_derived": "lm.head_dim",
    "default": "sft.seed",
    "inherited": "vit.width",
    "amended": "lm.tied",
    "assumed": "sft.optim",
    "argument": "image.resize.budget",
    "argument_derived": "image.resize.multiple",
    "argument_default": "sft.optim.no_decay",
    "member": "sft.train[0]",
    "special": "tokens.im_end",
    "rule_and_setting": "chatml.system",
    "map": "weights.rules[3]",
    "block": "lm",
    "tokens": "vit.tokens",
}
RECIPE = """
recipe base extends qwen2_vl_7b {
  amend encoder vit { final_norm = vit.norm }
  assert merger.out == lm.width
}
recipe case extends base {
  replace lm : Decoder {
    in      = merger
    depth   = assumed(2 * vit.heads)
    width   = 1024
    heads   = 8
    ffn     = 4 * lm.width
    vocab   = 152064
    act     = silu
    norm    = rmsnorm(eps: 1e-5)
    pos     = mrope([16, 24, 24], theta: 1e6)
    context = 40ktok
  }
}
"""


def run(command, *argv):
    done = CliRunner().invoke(command, argv, catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


@pytest.mark.parametrize("name", PATHS)
def test_chains(golden, name):
    golden.check(f"cli/why_{name}.txt", run(why_command, "qwen2_vl_2b", PATHS[name]))


def test_what_the_command_line_sets(golden):
    shown = run(why_command, "qwen2_vl_2b", "merger.hidden", "--set", "vit.width=640")
    golden.check("cli/why_set.txt", shown)


def test_links_as_data():
    first, second, third = json.loads(run(why_command, "qwen2_vl_2b", "merger.out", "--json"))
    assert first["how"] == "derived"
    assert first["text"] == "lm.width"
    assert first["via"] == "inherited"
    assert (second["relation"], second["worth"]) == ("from", "1536")
    assert second["source"].strip().startswith("width")
    assert (third["relation"], third["text"]) == ("over", "3584")
    assert third["file"] == "recipes/qwen2_vl_7b.vlm"


def told(path):
    return [
        (link.relation, link.path, link.how, link.text)
        for link in chain(load_text(RECIPE, "case.vlm"), path)
    ]


def test_a_replaced_block_remembers_what_it_replaced():
    assert told("lm.width") == [
        ("is", "lm.width", "given", "1024"),
        ("over", "lm.width", "given", "3584"),
    ]


def test_what_is_assumed_may_be_computed():
    assert told("lm.depth")[:2] == [
        ("is", "lm.depth", "assumed", "assumed(2 * vit.heads)"),
        ("from", "vit.heads", "given", "16"),
    ]


def test_an_argument_of_a_call_that_was_referred_to():
    assert told("vit.final_norm.eps") == [
        ("is", "vit.final_norm.eps", "derived", "vit.norm.eps"),
        ("part", "vit.final_norm", "derived", "vit.norm"),
        ("from", "vit.norm", "given", "layernorm(eps: 1e-6)"),
    ]


IMPORTER = """
recipe other {
  language = 1
  import vit as tower, image, video from qwen2_vl_tiny
  encoder extra : ViT {
    in = image patch = 14px depth = 2 width = 32 heads = 2 ffn = 4 * tower.width act = gelu
    norm = tower.norm pos = rope2d(theta: 1e4)
  }
}
recipe case extends other { amend encoder tower { depth = 3 } }
"""


def test_what_an_import_brought_says_so():
    recipe = load_text(IMPORTER, "case.vlm")

    def said(path):
        return [(link.path, link.worth, link.recipe, link.via) for link in chain(recipe, path)]

    assert said("tower.depth") == [
        ("tower.depth", "3", "case", ""),
        ("tower.depth", "", "qwen2_vl_tiny", "imported"),
        ("tower.depth", "", "qwen2_vl_7b", "imported"),
    ]
    assert said("extra.ffn")[:2] == [
        ("extra.ffn", "128", "other", "inherited"),
        ("tower.width", "32", "qwen2_vl_tiny", "imported"),
    ]
    assert said("image.resize.multiple")[:2] == [
        ("image.resize.multiple", "28px", "qwen2_vl_tiny", "imported"),
        ("tower.patch", "14px", "qwen2_vl_7b", "imported"),
    ]


def test_an_assert_names_what_it_speaks_of():
    last = f"asserts[{len(load_text(RECIPE, 'case.vlm').asserts) - 1}]"
    assert told(last)[:2] == [
        ("is", last, "asserted", "merger.out == lm.width"),
        ("from", "merger.out", "derived", "lm.width"),
    ]


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("lm.widht", "width"),
        ("mergr.out", "merger"),
        ("image.resize.buget", "budget"),
        ("tokens.im_edn", "im_end"),
        ("chatml.asistant", "assistant"),
    ],
)
def test_a_wrong_path_is_told_the_nearest(path, meant):
    with pytest.raises(RecipeError) as caught:
        chain(load_recipe("qwen2_vl_2b"), path)
    (found,) = caught.value.diagnostics
    assert found.code == "N204"
    assert found.fix
    assert found.fix.text == f"write `{meant}`"


@pytest.mark.parametrize(
    "path", ["", ".", "lm.", "[0]", "sft.train[9]", "lm.width.x", "é", "lm..x"]
)
def test_what_is_no_path(path):
    with pytest.raises(RecipeError) as caught:
        chain(load_recipe("qwen2_vl_2b"), path)
    assert caught.value.render().startswith("error[N204]")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_value_of_every_recipe_has_a_chain(name):
    recipe = load_recipe(name)
    for path in paths_of(recipe):
        links = chain(recipe, path)
        assert links[0].relation == "is"
        assert links[0].worth
        assert links[0].span or links[0].how == "default"
        if not path.startswith("asserts"):
            assert isinstance(at(recipe, path), Found)


def test_the_shell_completes_paths():
    def completed(*words):
        return (
            CliRunner()
            .invoke(
                cli,
                [],
                prog_name="triptych",
                env={
                    "_TRIPTYCH_COMPLETE": "bash_complete",
                    "COMP_WORDS": " ".join(("triptych", "why", *words)),
                    "COMP_CWORD": str(len(words) + 1),
                },
            )
            .output
        )

    assert "plain,lm.width\n" in completed("qwen2_vl_2b", "lm.w")
    assert completed("no_such_recipe", "lm.w").strip() == ""


# Assumed -----------------------------------------------------------------------------------------


def test_what_is_assumed(golden):
    golden.check("cli/assumed.txt", run(assumed_command, "qwen2_vl_2b"))


def test_what_is_assumed_as_data():
    rows = json.loads(run(assumed_command, "qwen2_vl_2b", "--json"))
    assert {"path": "sft.pack", "value": "32768tok"}.items() <= rows[7].items()
    every = json.loads(run(assumed_command, "--all", "--json"))
    assert every["qwen2_vl_2b"] == rows
    assert set(every) == set(shipped_recipes())


def test_one_recipe_or_all():
    assert CliRunner().invoke(assumed_command, []).exit_code == 2
