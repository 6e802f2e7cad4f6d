"""The outline, the format and the colours of a text, and how places are counted."""

from __future__ import annotations

import pytest

from triptych.dsl.format import format_text

WIDE = """recipe wide extends qwen2_vl_7b {
  # 😀 日本語
  amend tokens { add special more = "😀日本" @ 151660 } amend lm { widht = 4 }
}
"""


def test_a_text_is_formatted_as_fmt_does(base):
    base.put(base.text.replace("  lm : Decoder {", "lm:Decoder{").replace("depth = 4", "depth=4"))
    edits = base.ask("formatting", options={"tabSize": 2, "insertSpaces": True})
    assert base.edited(edits) == format_text(base.text)
    base.put(base.edited(edits))
    assert base.ask("formatting", options={"tabSize": 2, "insertSpaces": True}) == []


def test_a_broken_text_is_left_as_it_is(base):
    base.swap("    depth = 4\n", "    depth = (\n")
    assert base.ask("formatting", options={"tabSize": 2, "insertSpaces": True}) is None


def test_the_outline_has_recipes_blocks_and_what_is_in_them(base):
    (recipe,) = base.ask("documentSymbol")
    blocks = {block["name"]: block for block in recipe["children"]}
    assert recipe["name"] == "base"
    assert list(blocks)[:5] == ["tokens", "image", "vit", "merger", "lm"]
    assert base.at(blocks["vit"]["selectionRange"]) == "vit"
    assert [one["name"] for one in blocks["caption"]["children"]] == ["image", "pair"]
    assert blocks["vit"]["detail"] == "encoder ViT"


def test_blocks_fold_up_to_their_brace(base):
    folds = base.ask("foldingRange")
    lines = base.text.splitlines()
    header = next(i for i, line in enumerate(lines) if "encoder vit" in line)
    fold = next(one for one in folds if one["startLine"] == header)
    assert lines[fold["endLine"] + 1] == "  }"


def test_words_are_coloured_by_what_they_mean(base):
    legend = base.client.capabilities["semanticTokensProvider"]["legend"]["tokenTypes"]
    data = base.ask("semanticTokens/full")["data"]
    line = column = 0
    found: dict[str, str] = {}
    for down, right, length, kind, _ in zip(*[iter(data)] * 5, strict=True):
        line, column = line + down, right + (column if not down else 0)
        place = {"line": line, "character": column}
        end = {"line": line, "character": column + length}
        found.setdefault(base.at({"start": place, "end": end}), legend[kind])
    wanted = {
        "encoder": "keyword",
        "vit": "class",
        "ViT": "type",
        "depth": "property",
        "im_end": "enumMember",
        "rope2d": "function",
        "user": "function",
        "x": "parameter",
    }
    assert {word: found[word] for word in wanted} == wanted


def test_places_behind_wide_letters_and_emoji(editor):
    text = editor.open("wide.vlm", WIDE)
    (found,) = text.mistakes(["N209"])
    assert text.at(found["range"]) == "widht"
    line = WIDE.splitlines()[2]
    assert found["range"]["start"]["character"] == line.index("widht") + 1  # the emoji counts twice
    (action,) = text.ask("codeAction", range=found["range"], context={"diagnostics": []})
    assert text.edited(action["edit"]["changes"][text.uri]) == WIDE.replace("widht", "width")


@pytest.mark.parametrize(
    ("encoding", "column"),
    [("utf-8", lambda before: len(before.encode())), ("utf-32", len)],
)
def test_places_are_counted_as_the_editor_asks(start, encoding, column):
    client = start(encodings=(encoding, "utf-16"))
    assert client.capabilities["positionEncoding"] == encoding
    text = client.open("wide.vlm", WIDE)
    (found,) = text.mistakes(["N209"])
    line = WIDE.splitlines()[2]
    assert found["range"]["start"]["character"] == column(line[: line.index("widht")])


def test_line_ends_of_other_systems(editor):
    text = editor.open("crlf.vlm", WIDE.replace("\n", "\r\n"))
    (found,) = text.mistakes(["N209"])
    assert found["range"]["start"]["line"] == 2


def test_two_texts_are_kept_apart(editor, base):
    other = editor.open("other.vlm", base.text.replace("recipe base", "recipe other"))
    other.swap("    heads = 4\n    ffn   = 4 *", "    heads = 3\n    ffn   = 4 *")
    assert other.mistakes(["S401"])
    assert "vit.heads = 4" in base.move("    hea§ds = 4\n    ffn   = 4 *").hover()
    assert "vit.heads = 3" not in base.hover()
