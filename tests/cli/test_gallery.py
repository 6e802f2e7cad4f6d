"""`triptych gallery`: what a page shows of recipes is what they are."""

from __future__ import annotations

from pathlib import Path

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


def test_the_page_of_the_recipes_that_ship_is_true():
    done = gallery(Path(triptych.__file__).parent / "docs" / "recipes.md", "--check")
    assert done.exit_code == 0, f"{done.output}run `triptych gallery docs/recipes.md`"


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
