"""What `triptych preview` shows is what the systems publish, and what their models are fed."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner
from PIL import Image

from triptych.backends.preview import choose, example, preview
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Turn
from triptych.cli.main import cli
from triptych.compiler.pipeline import for_inference, for_training
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe
from triptych.tests.parity.qwen2_vl import prompts_cases

PICTURE = {"type": "image", "image": "a.png"}
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)
DEEPSEEK = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
MINIGPT4 = (
    "Give the following image: <Img>ImageContent</Img>. You will be able to see the image once I "
    "provide it to you. Please answer my questions."
)
QWEN = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
QLLAMA = "<IMG><IMG_CONTEXT>*256</IMG><QUERY><QUERY_CONTEXT>*96</QUERY>\n"
TILE = "<img><IMG_CONTEXT>*256</img>\n"

# recipe, layout -> the prompt, and the answer that is learnt, by the system's fact sheet. A picture
# of 448 x 448 is shown, and the question is "What?"; places are a token, a star and their number
# (of InternVL-Chat without QLLaMA `<unk>`, for the official placeholder -200 is no token).
TEMPLATES = {
    ("minigpt4_7b", "caption"): ("<s><ImageHere>*32", "⟦a frog\n⟧"),
    ("minigpt4_7b", "describe"): (
        "<s>###Human: <Img><ImageHere>*32</Img> Describe this image in detail. ###Assistant: ",
        "⟦A frog.###⟧",
    ),
    ("minigpt4_7b", "vicuna"): (
        f"<s>{MINIGPT4}###Human: <Img><ImageHere>*32</Img> What?###Assistant: ",
        None,
    ),
    ("qwen_vl_7b", "chatml"): (
        f"{QWEN}<|im_start|>user\nPicture 1: <img><imgpad>*256</img>\nWhat?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "⟦A frog.<|im_end|>⟧",
    ),
    ("qwen_vl_7b", "english_caption"): (
        "<img><imgpad>*256</img>Generate the caption in English:",
        "⟦ A frog.<|endoftext|>⟧",
    ),
    ("qwen_vl_7b", "describe"): (
        "<img><imgpad>*256</img>Describe the image in English:",
        "⟦ A frog.<|endoftext|>⟧",
    ),
    ("qwen_vl_7b", "question"): (
        "<img><imgpad>*256</img>What? Answer:",
        "⟦ A frog.<|endoftext|>⟧",
    ),
    ("internvl_chat_7b", "vicuna"): (
        f"<s>{VICUNA}USER: <unk>*576\nWhat? ASSISTANT:",
        "⟦ A frog.</s>⟧",
    ),
    ("internvl_chat_7b", "plain"): ("<s><unk>*576", "⟦A frog.\n⟧"),
    ("internvl_chat_qllama_7b", "vicuna"): (
        f"<s>{VICUNA}USER: {QLLAMA}What? ASSISTANT:",
        "⟦ A frog.</s>⟧",
    ),
    ("deepseek_vl_7b", "deepseek"): (
        f"<｜begin▁of▁sentence｜>{DEEPSEEK}\n\nUser: <image_placeholder>*576What?\n\nAssistant:",
        "⟦ A frog.<｜end▁of▁sentence｜>⟧",
    ),
    ("internvl_1_5_26b", "chat_template"): (
        "<s><|im_start|>system\nYou are an AI assistant whose name is InternLM (书生·浦语)."
        f"<|im_end|><|im_start|>user\n{TILE}What?<|im_end|><|im_start|>assistant\n",
        "⟦A frog.<|im_end|>⟧",
    ),
    ("internvl_1_5_mini_4b", "chat_template"): (
        "<s><|system|>\nYou are an AI assistant whose name is Phi-3.<|end|><|user|>\n"
        f"{TILE}What?<|end|><|assistant|>\n",
        "⟦A frog.<|end|>⟧",
    ),
    ("qwen2_vl_7b", "chatml"): (
        f"{QWEN}<|im_start|>user\n<|vision_start|><|image_pad|>*256<|vision_end|>What?<|im_end|>\n"
        "<|im_start|>assistant\n",
        "⟦A frog.<|im_end|>⟧",
    ),
}
WITHOUT_QUESTION = {"caption", "describe", "english_caption", "plain"}


def previewed(tmp_path, recipe, *options, messages):
    """What the command prints as data for one record."""
    file = tmp_path / "sample.json"
    file.write_text(json.dumps({"messages": messages}), encoding="utf-8")
    run = CliRunner().invoke(
        cli, ["preview", recipe, "--sample", str(file), "--json", *options], catch_exceptions=False
    )
    assert run.exit_code == 0, run.output
    return json.loads(run.stdout)


def written(page):
    """A page as text: places as their token and number; what is learnt in brackets."""
    text = "".join(
        f"⟦{piece['text']}⟧" if piece["learnt"] else piece["text"] + counted(piece)
        for piece in page["pieces"]
    )
    return text.replace("⟧⟦", "")


def counted(piece):
    return f"*{len(piece['ids'])}" if piece["kind"] == "places" else ""


@pytest.mark.parametrize(("recipe", "layout"), TEMPLATES)
def test_templates_are_those_of_the_fact_sheets(tmp_path, recipe, layout):
    prompt, answer = TEMPLATES[recipe, layout]
    asked = [] if layout in WITHOUT_QUESTION else [{"type": "text", "text": "What?"}]
    messages = [
        {"role": "user", "content": [PICTURE, *asked]},
        {"role": "assistant", "content": "A frog."},
    ]
    shown = previewed(tmp_path, recipe, "--layout", layout, "--size", "448x448", messages=messages)
    assert written(shown["prompt"]) == prompt
    if answer is not None:
        assert written(shown["sample"]).startswith(prompt + answer)


@prompts_cases
def test_ids_are_those_of_the_official_processor(tmp_path, case):
    given = case.prompts["training_turn"]
    expected = [id for id, count in given["ids_rle"] for _ in range(count)]
    messages = [
        {"role": "user", "content": [PICTURE, {"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello."},
    ]
    Image.new("RGB", (224, 224)).save(tmp_path / "a.png")
    shown = previewed(tmp_path, "qwen2_vl_7b", messages=messages)
    assert shown["sample"]["ids"] == expected
    learnt = [id for id, yes in zip(expected, shown["sample"]["learnt"], strict=True) if yes]
    assert learnt == [9707, 13, 151645]
    assert shown["prompt_is_sample_before_answer"]


TINY = [name for name in shipped_recipes() if name.endswith("_tiny")]


@pytest.mark.parametrize("name", TINY)
def test_what_is_shown_is_what_a_stage_is_fed_and_a_mode_is_asked(tmp_path, name):
    """Token for token, for each layout that a stage or a mode of a tiny recipe uses."""
    recipe = load_recipe(name)
    Image.new("RGB", (70, 50)).save(tmp_path / "a.png")
    checked = 0
    for layout in recipe.layouts:
        chosen = choose(recipe, layout)
        turns = [
            Turn(
                turn.role,
                tuple(
                    Attachment(part.input, tmp_path / "a.png")
                    if isinstance(part, Attachment)
                    else part
                    for part in turn.parts
                ),
            )
            for turn in example(recipe, chosen)
        ]
        shown = preview(recipe, chosen, turns)
        paired = chosen.stage and "lm" not in recipe.stages[chosen.stage].loss
        if chosen.stage and not paired:
            fed = Processor(for_training(recipe, chosen.stage).spec)
            sample = fed.sample(turns, layouts=[layout])
            assert shown.whole.ids == tuple(sample.ids.tolist())
            assert shown.whole.mask == tuple(sample.supervised.tolist())
            checked += 1
        if chosen.mode and shown.prompt:
            asked = Processor(for_inference(recipe, chosen.mode).spec)
            assert shown.prompt.ids == tuple(asked.prompt(turns[:-1]).ids.tolist())
            checked += 1
    assert checked
