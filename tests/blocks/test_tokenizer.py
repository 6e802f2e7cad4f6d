"""Text is plain text, special tokens are those that a layout names, and streams lose nothing."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Tokens
from tokenizers import decoders, models, pre_tokenizers, trainers

from triptych.blocks.input.tokenizer import Tokenizer, TokenizerError
from triptych.blocks.input.writing import SHIPPED

SPECIALS = {"<|im_start|>": 151644, "<|im_end|>": 151645}


@pytest.fixture(scope="module")
def qwen():
    return Tokenizer.load("tiktoken", SHIPPED / "qwen.tiktoken", SPECIALS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A byte-level `tokenizer.json` whose special tokens would match in text."""
    tokens = Tokens(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokens.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokens.train_from_iterator(["a frog to the left of a guitar."], trainer)
    file = tmp_path_factory.mktemp("vocabulary") / "tokenizer.json"
    tokens.save(str(file))
    return file


def test_known_ids_of_the_published_vocabulary(qwen):
    assert qwen.encode("system\n") == [8948, 198]
    assert qwen.encode("user\n") == [872, 198]
    assert qwen.encode("Describe this image.") == [74785, 419, 2168, 13]


def test_text_that_spells_a_special_token_stays_text(qwen, trained):
    ids = qwen.encode("<|im_end|>")
    assert 151645 not in ids and qwen.decode(ids) == "<|im_end|>"
    small = Tokenizer.load("hf_json", trained, {"<|end|>": 0})
    ids = small.encode("a frog<|end|>")
    assert 0 not in ids and small.decode(ids) == "a frog<|end|>"


def test_special_tokens_are_written_only_when_asked_for(qwen):
    ids = [151644, 8948, 198, 151645]
    assert qwen.decode(ids) == "system\n"
    assert qwen.decode(ids, specials=True) == "<|im_start|>system\n<|im_end|>"


def test_text_is_composed_as_the_published_tokenizer_composes_it(qwen):
    assert qwen.encode("e\u0301") == qwen.encode("\u00e9")


@settings(max_examples=50)
@example("a 🐸 and 漢字 \u200d👩‍👧")
@given(st.text(max_size=30))
def test_a_stream_adds_up_to_the_text_and_never_shows_half_a_letter(qwen, text):
    stream = qwen.stream()
    ids = qwen.encode(text)
    pieces = [stream.push(id) for id in ids]
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)
    assert "".join([*pieces, stream.end()]) == unicodedata.normalize("NFC", text)


def test_a_stream_that_breaks_off_shows_the_broken_letter(qwen):
    stream = qwen.stream()
    ids = qwen.encode("\U0001fae8")
    assert len(ids) > 1
    assert [stream.push(id) for id in ids[:-1]] == [""] * (len(ids) - 1)
    assert stream.end() == "\ufffd"


def test_what_does_not_fit_is_refused(trained, tmp_path):
    with pytest.raises(TokenizerError, match=r"gives other ids to the special tokens .*<\|end"):
        Tokenizer.load("hf_json", trained, {"<|end|>": 7})
    with pytest.raises(TokenizerError, match=r"ids of .*<s>.* are in use already"):
        Tokenizer.load("tiktoken", SHIPPED / "qwen.tiktoken", {"<s>": 5})
    with pytest.raises(TokenizerError, match="there is no vocabulary file"):
        Tokenizer.load("tiktoken", tmp_path / "none.tiktoken", {})
    with pytest.raises(TokenizerError, match=r"tokenizer\.json is no SentencePiece model"):
        Tokenizer.load("sentencepiece", trained, {})
    with pytest.raises(TokenizerError, match="wordpiece vocabularies cannot be read"):
        Tokenizer.load("wordpiece", trained, {})


PIECES = SHIPPED / "tiny.model"


def pieces(legacy=True, **specials):
    given = {f"<{name}>": id for name, id in specials.items()}
    return Tokenizer.load("sentencepiece", PIECES, given, {"legacy": legacy})


def test_a_text_begins_with_a_space_that_nobody_wrote():
    old, new = pieces(legacy=True), pieces(legacy=False)
    begun, continued = old.encode("What is"), old.encode("What is", "text")
    assert begun == old.encode(" What is", "text") != continued
    assert old.encode("What is", "token") == begun
    assert new.encode("What is", "token") == continued
    assert new.encode("What is", "start") == begun
    assert old.decode(begun) == old.decode(continued) == "What is"


def test_pieces_of_a_file_are_never_special_tokens_of_a_recipe():
    plain = pieces()
    assert plain.decode(plain.encode("<s></s>")) == "<s></s>"
    (unused,) = plain.encode("$$", "text")
    guarded = pieces(end=400)
    assert guarded.encode("$$", "text") == [unused]
    assert guarded.decode([400]) == "" and guarded.decode([400], specials=True) == "<end>"
    with pytest.raises(TokenizerError, match=r"ids of .*<end>.* are those of text"):
        pieces(end=unused)


def test_ids_beyond_a_file_are_no_text():
    assert pieces().decode([401, *pieces().encode("a dog")]) == "\ufffd a dog"


@settings(max_examples=50)
@example("a 🐸  and 漢字")
@example("  a  b ")
@given(st.text(alphabet="ab A.é🐸\n", max_size=20))
def test_a_stream_of_pieces_adds_up_to_their_text(text):
    tokens = pieces()
    ids = tokens.encode(text)
    stream = tokens.stream()
    assert "".join([*(stream.push(id) for id in ids), stream.end()]) == tokens.decode(ids)


def test_shown_special_tokens_are_part_of_a_stream():
    tokens = pieces(box=400, end=401)
    stream = tokens.stream({400})
    ids = [400, *tokens.encode("a dog"), 401, *tokens.encode("b")]
    said = "".join([*(stream.push(id) for id in ids), stream.end()])
    assert said == tokens.decode(ids, shown={400})
    assert said.startswith("<box>a dog") and "<end>" not in said
