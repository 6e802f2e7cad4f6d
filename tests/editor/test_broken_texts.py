"""Whatever is cut out of a recipe or typed into it, every question is answered."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from triptych.cli.editor import diagnose, navigate, outline
from triptych.cli.editor.complete import Completion
from triptych.cli.editor.desk import Desk
from triptych.cli.editor.hover import Hover
from triptych.cli.editor.positions import Positions
from triptych.cli.editor.rename import CannotRename, rename

BASE = (Path(__file__).parent / "base.vlm").read_text(encoding="utf-8")
TYPED = [*'{}()[]=":.#@\n', "lm.", "->", "😀", "loss(", "x.", "4 *", "special", "amend ", "drop "]
TYPED += ["import vit from ", "extends "]


def changed(text, draw):
    """The text after a few slips: cut short, a piece typed into it, a piece gone."""
    for _ in range(draw.randint(1, 4)):
        at = draw.randrange(len(text) + 1)
        match draw.randrange(4):
            case 0:
                text = text[:at]
            case 1 | 2:
                text = text[:at] + draw.choice(TYPED) + text[at:]
            case _:
                text = text[:at] + text[at + draw.randint(1, 30) :]
    return text


@pytest.mark.parametrize("seed", range(80))
def test_every_question_is_answered(seed, tmp_path):
    draw, places, path = random.Random(seed), Positions(), (tmp_path / "a.vlm").resolve()
    desk, text = Desk(), changed(BASE, draw)
    desk.put(path, text)
    reading = desk.reading(path)
    for offset in draw.choices(range(len(text) + 1), k=5):
        Hover(desk, reading).at(offset)
        list(Completion(desk, reading, offset).proposals())
        navigate.definition(reading, offset)
        try:
            edits = rename(desk, reading, offset, "other")
        except CannotRename as why:
            assert str(why)
        else:
            assert all(edit.span.source == reading.source for edit in edits)
        at = places.position(reading.source, offset)
        assert places.offset(reading.source, at) == offset
    outline.symbols(reading, places)
    outline.folds(reading)
    assert all(number >= 0 for number in outline.colours(reading, places))
    checked = diagnose.check(reading.source, tmp_path, dict(desk.unsaved))
    for diagnostic in checked.diagnostics:
        diagnose.shown(diagnostic, reading.source, places)
    diagnose.fixes(checked, 0, len(text), places)
