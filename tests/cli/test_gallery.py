"""`triptych gallery`: what a page shows of recipes is what they are."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

import triptych
from triptych.cli.gallery import gallery_command

PAGE = """\
# Mine

<!-- recipe: scenes -->
old
<!-- end -->

Between.

<!-- diff: scenes scenes_unstaged -->
<!-- end -->
"""


def gallery(*arguments):
    return CliRunner().invoke(gallery_command, list(map(str, arguments)))


DOCS = Path(triptych.__file__).parent / "docs"
PAGES = [page.name for page in sorted(DOCS.glob("*.md")) if "<!-- end -->" in page.read_text()]


@pytest.mark.parametrize("name", PAGES)
def test_our_own_pages_are_true(name, monkeypatch):
    monkeypatch.chdir(DOCS.parent)  # the pages name files of the repository
    done = gallery(DOCS / name, "--check")
    assert done.exit_code == 0, f"{done.output}run `triptych gallery docs/{name}`"


def test_a_command_is_shown_with_what_it_prints(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- command: tokens scenes --image 64x64 -->\n<!-- end -->\n")
    assert gallery(page).exit_code == 0
    assert "$ triptych tokens scenes --image 64x64\n" in page.read_text()
    page.write_text("<!-- command: check scenes --set lm.heads=5 -->\n<!-- end -->\n")
    assert gallery(page).exit_code == 0
    assert "error[S401]" in page.read_text()


def test_a_file_is_shown_below_its_own_words(tmp_path):
    page, recipe = tmp_path / "page.md", tmp_path / "mine.vlm"
    recipe.write_text("# Mine.\n# All mine.\nrecipe mine extends scenes {\n}\n")
    page.write_text(f"<!-- file: {recipe} -->\n<!-- end -->\n")
    assert gallery(page).exit_code == 0
    shown = "\nMine.\nAll mine.\n\n```vlm\nrecipe mine extends scenes {\n}\n```\n"
    assert shown in page.read_text()


def test_sections_are_written_anew_and_the_rest_is_left(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    assert gallery(page, "--check").exit_code == 1
    assert page.read_text() == PAGE
    assert gallery(page).exit_code == 0
    text = page.read_text()
    assert text.startswith("# Mine\n\n<!-- recipe: scenes -->\n")
    assert "old" not in text and "\nBetween.\n" in text
    assert "**853,344 parameters**" in text
    assert "| connect | 184,992 | 668,352 | merger |" in text
    assert "$ triptych diff scenes scenes_unstaged" in text
    assert (tmp_path / "pictures" / "scenes.svg").read_text().startswith("<svg")
    assert gallery(page, "--check").exit_code == 0
