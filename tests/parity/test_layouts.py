"""Prompts, token ids and label masks of the golden cases, from layouts that a recipe can hold."""

from __future__ import annotations

import re

import pytest

from triptych.blocks.input.layout import (
    Layout,
    Medium,
    Message,
    Places,
    Special,
    Text,
    clean_caption,
)
from triptych.blocks.input.places import Box, Ref
from triptych.blocks.input.tokenizer import Tokenizer
from triptych.blocks.input.writing import tokenised, vocabulary_file
from triptych.compiler.spec import layout_json
from triptych.dsl.load import load_recipe, load_text
from triptych.tests.parity.golden import cases

IGNORED = -100
BEGIN_END = """
    special unk = "<unk>" @ 0
    special bos = "<s>" @ 1
    special eos = "</s>" @ 2
    pad = eos
"""


class Written:
    """The layouts of a recipe, with its tokenizer."""

    def __init__(self, recipe, *, resources=None, vocabulary=None):
        self.recipe = recipe
        given = recipe.tokens
        assert given is not None
        self.specials = {special.text: special.id for special in given.specials.values()}
        spec = given.tokenizer.model_dump()
        if vocabulary is None:
            file = vocabulary_file(spec, resources)
            self.tokenizer = Tokenizer.load(spec["call"], file, self.specials, spec)
        else:
            self.tokenizer = Tokenizer(vocabulary, self.specials)

    @classmethod
    def of(cls, tokens, layouts, *, parts="", resources=None, vocabulary=None):
        """The layouts of a recipe that holds little else."""
        text = f"recipe tiny {{ language = 1 tokens {{ {tokens} }} {parts} {layouts} }}"
        recipe = load_text(text, "tiny.vlm")
        return cls(recipe, resources=resources, vocabulary=vocabulary)

    def layout(self, name):
        return Layout(name, layout_json(self.recipe, self.recipe.layouts[name]))

    def prompt(self, name, *messages):
        return tokenised(self.layout(name).prompt(messages), self.tokenizer)[0]

    def learnt(self, name, *messages, lot=0):
        """Ids and labels of a whole dialogue."""
        layout = self.layout(name)
        ids, learns, _ = tokenised(layout.render(messages, lot), self.tokenizer, layout.longest)
        labels = [id if yes else IGNORED for id, yes in zip(ids, learns, strict=True)]
        return ids, labels

    def page(self, runs):
        """The runs as text; places as their token, a star and their number."""
        names = {id: text for text, id in self.specials.items()}
        return "".join(
            run.text
            if isinstance(run, Text)
            else names[run.id]
            if isinstance(run, Special)
            else f"{names[run.id]}*{run.count}"
            for run in runs
        )


def said(who, *parts):
    return Message(who, parts)


def picture(**tokens):
    return Medium("image", tokens)


# MiniGPT-4 ---------------------------------------------------------------------------------------

MINIGPT4 = """
    recipe tiny extends minigpt4_7b {{
      amend layout caption {{ answer = ..{stage1[max_txt_len]}tok }}
      amend layout describe {{ answer = ..{stage2[max_txt_len]}tok }}
    }}
"""


@pytest.fixture
def minigpt4(case):
    recipe = load_text(MINIGPT4.format_map(case.config["train"]), "tiny.vlm")
    return Written(recipe, resources=case.folder)


def lot(case, written):
    """The lot that picks the prompt of the case among the four."""
    prompt, shown = case.config["train"]["stage2"]["prompt"], said("pair", picture(proj=1), "")
    layout = written.layout("describe")
    pages = [written.page(layout.render([shown], one)).replace("*1", "") for one in range(4)]
    return next(one for one, page in enumerate(pages) if prompt in page)


@cases("minigpt4_full")
def test_minigpt4_answers_and_their_labels(case, minigpt4):
    train, queries = case.config["train"], case.config["qformer"]["num_query_tokens"]
    for stage, name in (("stage1", "caption"), ("stage2", "describe")):
        assert minigpt4.layout(name).stop_texts == (train[stage]["end_sym"],)
        labels = case.expected[f"{stage}/labels"].tolist()
        for answer, expected in zip(train[stage]["answers"], labels, strict=True):
            pair = said("pair", picture(proj=queries), answer)
            _, found = minigpt4.learnt(name, pair, lot=lot(case, minigpt4))
            assert found == expected[: len(found)]
            assert set(expected[len(found) :]) <= {IGNORED}


@cases("minigpt4_full")
def test_minigpt4_prompts(case, minigpt4):
    shown = picture(proj=1)
    ids, _ = minigpt4.learnt("describe", said("pair", shown, ""), lot=lot(case, minigpt4))
    place = ids.index(0)
    assert ids[1:place] == case.inputs["stage2/prompt_ids_0"].tolist()
    expected = case.inputs["stage2/prompt_ids_1"].tolist()
    assert ids[place + 1 :][: len(expected)] == expected
    ids = minigpt4.prompt("vicuna", said("user", shown, case.config["chat"]["question"]))
    place = ids.index(0)
    assert ids[:place] == case.inputs["chat/prompt_ids_0"].tolist()
    assert ids[place + 1 :] == case.inputs["chat/prompt_ids_1"].tolist()


@cases("minigpt4_full")
def test_minigpt4_tokenises_earlier_turns_as_one_text(case, minigpt4):
    asked = said("user", picture(proj=1), "What is it?")
    ids = minigpt4.prompt("vicuna", asked, said("assistant", " A frog."), said("user", "Sure?"))
    text = "</Img> What is it?###Assistant: A frog.###Human: Sure?###Assistant: "
    assert ids[ids.index(0) + 1 :] == minigpt4.tokenizer.encode(text, "token")


@cases("minigpt4_processor")
def test_minigpt4_captions_are_cleaned(case):
    cleaned = [clean_caption(text, 50) for text in case.config["captions_in"]]
    assert cleaned == case.config["captions_out"]


# InternVL ----------------------------------------------------------------------------------------

VICUNA = """
    system = "{system}"
    gap = "\\n"
    begin()      -> bos
    system(b)    -> b " "
    user(b)      -> "USER: " b " "
    assistant(b) -> "ASSISTANT:" loss(" " b eos)
"""
LLAVA = """
    layout chat { VICUNA image(x) -> unk * x.tokens }
    layout plain {
      begin()    -> bos
      image(x)   -> unk * x.tokens
      pair(x, t) -> image(x) loss(t "\\n")
    }
    layout summarize { text(t) -> bos "summarize:" t eos }
    layout english {
      begin() -> bos
      text(t) -> "English caption" loss(":") loss(apart(t) eos)
    }
"""
QLLAMA = """
    layout chat {
      VICUNA
      image(x)  -> img context * x.patches img_end query queries * x.asked query_end
      recall(x) -> query queries * x.asked query_end
    }
    layout question {
      begin() -> bos
      text(t) -> t eos
    }
"""
TWO_PARTS = """
    encoder patches : ViT {
      in = image patch = 14px depth = 1 width = 8 heads = 1 ffn = 8 act = gelu
      norm = layernorm(eps: 1e-6) pos = rope2d(theta: 1e4)
    }
    adapter asked : MergeMLP {
      in = patches window = 2x2 norm = layernorm(eps: 1e-6) hidden = 8 out = 8 act = gelu
    }
    input image {
      resize = native(multiple: 28px, budget: ..4tok)
      normalize = half()
    }
"""


def qllama(case, legacy):
    added = zip(
        ("img", "img_end", "context", "query", "query_end", "queries"),
        case.config["added_tokens"],
        case.config["added_ids"],
        strict=True,
    )
    lines = "\n".join(f'special {name} = "{text}" @ {id}' for name, text, id in added)
    call = f'tokenizer = sentencepiece("tokenizer.model", legacy: {legacy}, strip: true)'
    return internvl(case, f"{call} {BEGIN_END} {lines}", QLLAMA, parts=TWO_PARTS)


def internvl(case, tokens, layouts, **given):
    system = case.config["chat_prompt"].partition(" USER:")[0]
    rules = layouts.replace("VICUNA", VICUNA.replace("{system}", system))
    return Written.of(tokens, rules, resources=case.folder, **given)


def turns(conversation, shown):
    roles = {"human": "user", "gpt": "assistant"}
    for turn in conversation:
        before, tag, text = turn["value"].partition("<image>\n")
        parts = (shown, text) if tag else (before,)
        yield said(roles[turn["from"]], *parts)


@pytest.fixture
def llava(case):
    tokens = f'tokenizer = sentencepiece("tokenizer.model") {BEGIN_END}'
    return internvl(case, tokens, LLAVA)


@cases("internvl_layout")
def test_internvl_chat_without_qllama(case, llava):
    def check(name, found):
        ids, labels = found
        assert [-200 if id == 0 else id for id in ids] == expected[f"{name}/input_ids"].tolist()
        assert labels == expected[f"{name}/labels"].tolist()

    expected, shown = case.expected, picture(projector=1)
    check("llava_v1", llava.learnt("chat", *turns(case.config["conversation"], shown)))
    answer = case.config["conversation_plain"][-1]["value"]
    check("llava_plain", llava.learnt("plain", said("pair", shown, answer)))


@cases("internvl_layout")
def test_internvl_chat_with_qllama(case):
    config, expected = case.config, case.expected
    shown = picture(patches=config["num_image_token"], asked=config["num_query_token"])
    new = qllama(case, "false")
    ids, labels = new.learnt("chat", *turns(config["conversation"], shown))
    assert ids == expected["qllama/input_ids"].tolist()
    assert labels == expected["qllama/labels"].tolist()
    asked = said("user", shown, config["question"])
    assert new.prompt("chat", asked) == expected["qllama/chat_prompt_ids"].tolist()
    old = qllama(case, "true")
    assert old.prompt("chat", asked) == expected["qllama/chat_prompt_ids_legacy"].tolist()
    ids, _ = new.learnt("question", said("text", config["question"]))
    assert ids == expected["qllama/question_ids"].tolist()


@cases("internvl_layout")
def test_internvl_texts_of_the_contrastive_and_the_caption_route(case, llava):
    for text, expected in zip(
        case.config["contrastive_texts"],
        case.expected["contrastive/input_ids"].tolist(),
        strict=True,
    ):
        ids, _ = llava.learnt("summarize", said("text", text))
        assert ids == expected[: len(ids)]
        assert set(expected[len(ids) :]) <= {0}
    assert llava.prompt("english") == case.expected["caption/prompt_ids"].tolist()


# Qwen-VL -----------------------------------------------------------------------------------------

LAYOUTS = {"base_vqa": "question", "base_caption": "describe", "base_grounding": "find_box"}
QUERIES = 256
PLACES = re.compile(r"((?:Picture \d+: )?<img>.*?</img>\n?|<ref>.*?</ref>|<box>.*?</box>)")


def content(text):
    """The parts of a written message."""
    for piece in PLACES.split(text):
        if piece.startswith("<ref>"):
            yield Ref(piece[5:-6])
        elif piece.startswith("<box>("):
            left, top, right, bottom = map(int, re.findall(r"\d+", piece))
            yield Box((left, top, right, bottom))
        elif "<img>" in piece:
            yield Medium("image", {"resampler": QUERIES}, (1000, 1000))
        elif piece:
            yield piece


def chatml(text):
    """The messages of a written dialogue, without the open turn."""
    for role, inner in re.findall(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", text, re.DOTALL):
        yield said(role, *content(inner))


@pytest.fixture(scope="module")
def qwen():
    return Written(load_recipe("qwen_vl_7b"))


@cases("qwen_vl_full")
def test_qwen_vl_prompts(case, qwen):
    for name, prompt in case.prompts.items():
        expected = [id for id, count in prompt["ids_rle"] for _ in range(count)]
        text = prompt["text"]
        if name.startswith("assistant"):
            answer = text.removesuffix("<|im_end|>")
            shown = said("user", *content("<img>a.jpg</img>"))
            ids, labels = qwen.learnt("chatml", shown, said("assistant", *content(answer)))
            assert [label for label in labels if label != IGNORED] == expected, name
            continue
        if text.startswith("<|im_start|>"):
            ids = qwen.prompt("chatml", *chatml(text))
        else:
            fixed = {
                "base_vqa": " Answer:",
                "base_caption": "Describe the image in English:",
                "base_grounding": "<box>",
            }[name]
            assert text.endswith(fixed), name
            ids = qwen.prompt(LAYOUTS[name], said("user", *content(text.removesuffix(fixed))))
        assert ids == blanked(expected), name


def blanked(ids):
    """The ids with pads for the name of the file, which features take the places of."""
    found, inside = [], False
    for id in ids:
        inside = id != 151858 and (inside or id == 151857)
        found.append(151859 if inside and id != 151857 else id)
    return found


# DeepSeek-VL -------------------------------------------------------------------------------------

DEEPSEEK = """
    recipe tiny extends deepseek_vl_1_3b {{
      amend tokens {{
        special bos         = "<｜begin▁of▁sentence｜>" @ {vocab[<｜begin▁of▁sentence｜>]}
        special eos         = "<｜end▁of▁sentence｜>"   @ {vocab[<｜end▁of▁sentence｜>]}
        special placeholder = "<image_placeholder>"     @ {vocab[<image_placeholder>]}
      }}
    }}
"""


class Letters:
    """Every character is a token."""

    def __init__(self, ids):
        self._ids = ids

    def encode(self, text, behind="start"):
        return [self._ids[letter] for letter in text]


@cases("deepseek_vl_processor")
def test_deepseek_vl_prompts(case):
    given = case.prompts
    vocab, tag, count = given["vocab"], given["image_tag"], case.config["num_image_tokens"]
    recipe = load_text(DEEPSEEK.format_map(given), "tiny.vlm")
    written = Written(recipe, vocabulary=Letters(vocab))
    layout, eos = written.layout("deepseek"), vocab[given["template"]["sep2"]]
    assert (layout.stops, layout.stop_texts) == ((eos,), ("User:",))
    for name, prompt in given["prompts"].items():
        messages = [deepseek_turn(turn, tag, count) for turn in prompt["conversation"]]
        is_open = not messages[-1].parts
        runs = layout.prompt(messages[:-1]) if is_open else layout.render(messages)
        page = written.page(runs[1:]).replace(f"{tag}*{count}", tag)
        assert page == prompt["sft_format"], name
        if "input_ids" in prompt:
            assert tokenised(runs, written.tokenizer)[0] == prompt["input_ids"], name


def deepseek_turn(turn, tag, count):
    pieces = re.split(f"({re.escape(tag)})", turn["content"])
    parts = [picture(aligner=count) if piece == tag else piece for piece in pieces if piece]
    return said(turn["role"].lower(), *parts)


# InternVL 1.5 ------------------------------------------------------------------------------------

HERMES = """
    replace layout chat_template {
      strip  = true
      gap    = "\\n"
      image(x)     -> img_start img_context * x.tokens img_end
      system(b)    -> im_start "system\\n" b im_end
      user(b)      -> im_start "user\\n" b im_end
      assistant(b) -> im_start "assistant\\n" loss(b im_end)
    }
"""
TEMPLATES_15 = {
    "internlm2-chat": ("internvl_1_5_26b", ""),
    "Hermes-2": ("internvl_1_5_26b", HERMES),  # of the 40B, which does not ship
    "phi3-chat": ("internvl_1_5_mini_4b", ""),
}


def internvl_15(template, message):
    """The layouts of the shipped recipe that has this template, with another system message."""
    base, other = TEMPLATES_15[template]
    change = f'amend layout chat_template {{ system = "{message}" }}'
    text = f"recipe mine extends {base} {{ {other} }} recipe tiny extends mine {{ {change} }}"
    return Written(load_text(text, "tiny.vlm"), vocabulary=Letters({}))


def internvl_15_parts(text, counts):
    """The parts of a message, its pictures with so many places as the expected text has."""
    for piece in re.split(r"(<image>\n?)", text):
        if piece.startswith("<image>"):
            yield picture(mlp1=next(counts))
        elif piece:
            yield piece


def counted(text):
    return iter(int(count) for count in re.findall(r"<IMG_CONTEXT>\*(\d+)", text))


@cases("internvl_1_5_chat")
def test_internvl_1_5_prompts(case):
    for name, prompt in case.prompts["prompts"].items():
        written = internvl_15(prompt["template"], prompt["system_message"])
        counts = counted(prompt["prompt"])
        messages = []
        for question, answer in prompt["turns"]:
            messages.append(said("user", *internvl_15_parts(question, counts)))
            messages += [said("assistant", answer)] if answer else []
        page = written.page(written.layout("chat_template").prompt(messages))
        assert page.removeprefix("<s>") == prompt["prompt"], name


@cases("internvl_1_5_chat")
def test_internvl_1_5_learns_answers_and_their_ends(case):
    roles = {"human": "user", "gpt": "assistant"}
    for name, mask in case.prompts["loss_masks"].items():
        (message,) = re.findall(r"system\n(.*?)<\|im_end\|>", mask["text"])
        written = internvl_15("internlm2-chat", message)
        counts = counted(mask["text"])
        runs = written.layout("chat_template").render(
            [
                said(roles[turn["from"]], *internvl_15_parts(turn["value"], counts))
                for turn in mask["conversation"]
            ]
        )
        assert written.page(runs) == mask["text"], name
        learnt = [[run] for run in runs if not isinstance(run, Places) and run.loss]
        assert written.page([run for one in learnt for run in one]) == "".join(mask["in_loss"])
        letters = [len(run.text) if isinstance(run, Text) else 1 for (run,) in learnt]
        assert sum(letters) == mask["n_loss"], name
