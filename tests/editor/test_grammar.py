"""The TextMate grammar colours every word of the language, and none that is not of it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import triptych
from triptych.dsl.files import shipped_recipes
from triptych.dsl.units import UNITS
from triptych.dsl.whole import NAMED_BLOCKS, SINGLE_BLOCKS

ROOT = Path(triptych.__file__).parent
FOLDER = ROOT / "docs" / "editors" / "vscode"
GRAMMAR = json.loads((FOLDER / "triptych.tmLanguage.json").read_text(encoding="utf-8"))
LARK = (ROOT / "dsl" / "grammar.lark").read_text(encoding="utf-8")
WORDS = set(re.findall(r'"([a-z]+)"', re.sub(r"(?m)//.*$", "", LARK)))
KINDS = {*SINGLE_BLOCKS, *NAMED_BLOCKS}

# Each word of the grammar where it may stand.
SENTENCES = {
    "recipe": "recipe a {",
    "extends": "recipe a extends b {",
    "import": "import vit from b",
    "from": "import vit from b",
    "as": "import vit as tower from b",
    "amend": "amend lm {",
    "add": 'add special x = "x" @ 4',
    "replace": "replace stage sft {",
    "drop": "drop after",
    "assert": "assert lm.width == 4",
    "by": "frames = 4..768 by 2",
    "special": 'special x = "x" @ 4',
    "map": 'map "a.*" -> "b.*"',
    "fresh": 'fresh "a.*" : normal(0.02)',
    "ignore": 'ignore "a" : "why"',
    "loss": "user(b) -> loss(b)",
    "apart": "user(b) -> apart(b)",
    "choice": 'user(b) -> choice("a", "b")',
}


def scopes(line):
    """From each coloured piece of a line to its scope, as an editor finds them."""
    found, at = [], 0
    while at < len(line):
        matches = []
        for order, rule in enumerate(GRAMMAR["patterns"]):
            match = re.compile(rule.get("match") or rule["begin"]).search(line, at)
            if match and match.end() > at:
                matches.append((match.start(), order, match, rule))
        if not matches:
            break
        _, _, match, rule = min(matches, key=lambda one: one[:2])
        at = match.end()
        if "begin" in rule:
            end = re.compile(r'(?:\\.|[^"\\])*("|$)').match(line, at)
            assert end
            found.append((line[match.start() : end.end()], rule["name"]))
            at = end.end()
            continue
        if "name" in rule:
            found.append((match[0], rule["name"]))
        for group, scope in rule.get("captures", {}).items():
            if match[int(group)]:
                found.append((match[int(group)], scope["name"]))
    return found


def test_every_word_of_the_grammar_has_a_sentence():
    assert set(SENTENCES) == WORDS


@pytest.mark.parametrize("word", sorted(WORDS))
def test_a_word_of_the_grammar_is_a_keyword(word):
    (scope,) = {scope for piece, scope in scopes(SENTENCES[word]) if piece == word}
    assert scope.startswith("keyword")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_kind_of_block_is_a_keyword_before_its_block(kind):
    header = f"{kind} {{" if kind in SINGLE_BLOCKS else f"{kind} name {{"
    assert (kind, "keyword.other.block.triptych") in scopes(header)
    assert (kind, "keyword.other.block.triptych") in scopes(f"drop {kind} name")


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_is_told_from_its_number(unit):
    assert (unit, "keyword.other.unit.triptych") in scopes(f"x = 14{unit}")


def test_what_is_no_unit_is_not_coloured():
    assert not [piece for piece, scope in scopes("x = 14foo") if "unit" in scope]


def test_words_are_names_where_they_are_settings():
    assert ("layout", "variable.other.property.triptych") in scopes("layout = chatml")
    assert ("from", "variable.other.property.triptych") in scopes('from = hf("a")')


def test_no_word_is_coloured_that_the_language_lacks():
    said = set()
    for rule in GRAMMAR["patterns"]:
        for words in re.findall(r"\((?!\?)([A-Za-z|]+)\)", rule.get("match", "")):
            said |= set(words.split("|"))
    assert said == WORDS | KINDS | set(UNITS) | {"rule", "assumed", "true", "false"}


def test_no_text_of_a_shipped_recipe_is_wrong():
    for recipe in shipped_recipes().values():
        for line in recipe.read_text(encoding="utf-8").splitlines():
            assert not [piece for piece, scope in scopes(line) if scope.startswith("invalid")]


def test_the_extension_names_files_that_are_there():
    extension = json.loads((FOLDER / "package.json").read_text(encoding="utf-8"))
    (language,) = extension["contributes"]["languages"]
    (grammar,) = extension["contributes"]["grammars"]
    assert language["extensions"] == [".vlm"] and language["id"] == grammar["language"]
    assert grammar["scopeName"] == GRAMMAR["scopeName"]
    for path in (language["configuration"], grammar["path"]):
        json.loads((FOLDER / path).read_text(encoding="utf-8"))
