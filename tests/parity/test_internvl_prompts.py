"""The layouts of the shipped InternVL recipes write what the official text code writes."""

from __future__ import annotations

from typing import Any

from PIL import Image

from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Sample, Turn
from triptych.compiler.pipeline import for_inference, for_training
from triptych.dsl.load import load_text
from triptych.tests.parity.golden import Case, cases

ROLES = {"human": "user", "gpt": "assistant"}
PICTURE = Attachment("image", Image.new("RGB", (30, 30)))


def shipped(case: Case, base: str, purpose: str, changes: str, legacy: str = "true") -> Processor:
    """The host's part of a shipped recipe, with the tokenizer of the case."""
    strip = "strip: true" if "qllama" in base else "strip: false"
    call = f'sentencepiece("tokenizer.model", legacy: {legacy}, {strip})'
    text = f"recipe t extends {base} {{ amend tokens {{ tokenizer = {call} }} {changes} }}"
    recipe = load_text(text, "t.vlm")
    made = for_training if purpose in recipe.stages else for_inference
    return Processor(made(recipe, purpose).spec, case.folder)


def with_queries(case: Case, purpose: str, legacy: str) -> Processor:
    config = case.config
    side = int(config["num_image_token"] ** 0.5) * 4
    names = ("img", "img_end", "img_context", "query", "query_end", "query_context")
    added = zip(names, config["added_tokens"], config["added_ids"], strict=True)
    specials = "\n".join(f'special {name} = "{text}" @ {id}' for name, text, id in added)
    own = 'sentencepiece("tokenizer.model", legacy: true)'
    changes = f"""
      amend tokens {{ {specials} }}
      amend input image {{ resize = square({side}px) }}
      amend stage sft {{ resize = square({side}px) }}
      amend adapter qllama {{ queries = {config["num_query_token"]} tokenizer = {own} }}
      amend lm {{ vocab = {max(config["added_ids"]) + 1} }}
    """
    return shipped(case, "internvl_chat_qllama_tiny", purpose, changes, legacy)


def turns(conversation: list[dict[str, str]]) -> list[Turn]:
    found = []
    for said in conversation:
        _, tag, asked = said["value"].partition("<image>\n")
        parts = (PICTURE, asked) if tag else (said["value"],)
        found.append(Turn(ROLES[said["from"]], parts))
    return found


def one_mark(sample: Sample, mark: int) -> tuple[list[int], list[bool]]:
    """The tokens, with one mark in place of the picture's, and which of them are learnt."""
    (starts,) = sample.media[0].starts.values()
    (start,) = starts
    places = 36
    ids, scored = sample.ids.tolist(), sample.supervised.tolist()
    rest = start + places
    return [*ids[:start], mark, *ids[rest:]], [*scored[:start], False, *scored[rest:]]


@cases("internvl_layout")
def test_chat_with_qllama(case):
    wanted: Any = case.expected
    whole = turns(case.config["conversation"])
    sample = with_queries(case, "sft", "false").sample(whole)
    assert sample.ids.tolist() == wanted["qllama/input_ids"].tolist()
    assert sample.supervised.tolist() == (wanted["qllama/labels"] != -100).tolist()
    first, _ = sample.media[0].questions
    assert first.tolist() == wanted["qllama/question_ids"].tolist()
    for legacy, name in (("false", "chat_prompt_ids"), ("true", "chat_prompt_ids_legacy")):
        prompt = with_queries(case, "chat", legacy).prompt(whole[:1])
        assert prompt.ids.tolist() == wanted[f"qllama/{name}"].tolist()


@cases("internvl_layout")
def test_chat_without_qllama(case):
    wanted, mark = case.expected, -200
    sample = shipped(case, "internvl_chat_tiny", "sft", "").sample(
        turns(case.config["conversation"])
    )
    ids, scored = one_mark(sample, mark)
    assert ids == wanted["llava_v1/input_ids"].tolist()
    assert scored == (wanted["llava_v1/labels"] != -100).tolist()
    answer = case.config["conversation_plain"][-1]["value"]
    plain = shipped(case, "internvl_chat_tiny", "pretrain", "")
    ids, scored = one_mark(plain.sample([Turn("pair", (PICTURE, answer))]), mark)
    assert ids == wanted["llava_plain/input_ids"].tolist()
    assert scored == (wanted["llava_plain/labels"] != -100).tolist()


@cases("internvl_layout")
def test_texts_and_captions(case):
    compared = shipped(case, "internvl_14b_tiny", "retrieval_c", "")
    for text, row in zip(
        case.config["contrastive_texts"], case.expected["contrastive/input_ids"], strict=True
    ):
        ids = compared.sample([Turn("text", (text,))]).ids.tolist()
        assert ids == row[: len(ids)].tolist()
        assert not row[len(ids) :].any()
    asked = shipped(case, "internvl_14b_tiny", "caption", "").prompt([Turn("user", (PICTURE,))])
    wanted = case.expected["caption/prompt_ids"].tolist()
    assert asked.ids.tolist()[-len(wanted) :] == wanted
    assert set(asked.ids.tolist()[: -len(wanted)]) == {0}
