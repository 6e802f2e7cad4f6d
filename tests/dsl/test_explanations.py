"""Every code has a page that says what it means, and what the page shows is true."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from triptych.cli.error_pages import findings, printed, run
from triptych.cli.main import cli
from triptych.dsl.codes import CODES, FAMILIES
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.explain import explanation, read
from triptych.dsl.format import format_text

ROOT = Path(__file__).parent.parent.parent
PUBLISHED = ROOT / "docs" / "errors"
PAGES = sorted(path.stem for path in (ROOT / "dsl" / "explanations").iterdir())


def test_every_code_has_a_page():
    assert set(CODES) == set(PAGES)
    assert {code[0] for code in CODES} == set(FAMILIES)


@pytest.mark.parametrize("code", PAGES)
def test_the_example_raises_its_code_and_no_other(code):
    about = explanation(code)
    if about.example.language == "console":
        assert f"error[{code}]" in printed(about)
        return
    found = {(one.code, one.severity) for one in findings(about.example)}
    errors = {other for other, severity in found if severity == "error"}
    assert errors == {code} or (not errors and (code, "warning") in found)


@pytest.mark.parametrize("code", PAGES)
def test_the_fix_mends_it(code):
    about = explanation(code)
    if about.mended.language == "console":
        assert run(about.mended).returncode == 0
        return
    found = findings(about.mended)
    assert not [one for one in found if one.severity == "error" or one.code == code]
    assert about.mended != about.example


@pytest.mark.parametrize("code", PAGES)
def test_recipes_are_in_the_canonical_form(code):
    """But for an example that no grammar takes."""
    about = explanation(code)
    for sample in (about.example, about.mended):
        if sample.language != "vlm":
            continue
        try:
            assert sample.text == format_text(sample.text)
        except RecipeError as error:
            assert sample is about.example and {one.code for one in error.diagnostics} == {code}


@pytest.mark.parametrize("code", PAGES)
def test_prose_is_short_and_fits_its_lines(code):
    about = explanation(code)
    for prose in (about.what, about.why, about.fix):
        assert len(prose.split()) <= 140
        assert max(map(len, prose.splitlines())) <= 100


def test_the_published_pages_are_up_to_date():
    done = CliRunner().invoke(cli, ["explain", "--write", str(PUBLISHED), "--check"])
    assert done.exit_code == 0, done.output
    assert {path.name for path in PUBLISHED.iterdir()} == {"README.md"} | {
        f"{code}.md" for code in PAGES
    }


WHOLE = """\
# V312: a division by zero

## What

Words.

## Why

Words.

## Example

```vlm
recipe a { }
```

## Fix

Words.

```vlm
recipe b { }
```
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("a division by zero", "something else"),
        ("## Why\n\nWords.\n\n", ""),
        ("## Why", "## Because"),
        ("## What\n\nWords.", "## What\n"),
        ("## Why\n\nWords.", "## Why\n\n```vlm\nrecipe c { }\n```"),
        ("```vlm\nrecipe a { }\n```", "Words."),
        ("```vlm\nrecipe a", "```python\nrecipe a"),
        ("## Fix\n\nWords.", "## Fix"),
        ("recipe b { }\n```\n", "recipe b { }\n```\n\nWords.\n"),
    ],
)
def test_a_page_that_is_not_whole_is_not_read(old, new):
    assert read("V312", WHOLE).mended.text == "recipe b { }\n"
    assert old in WHOLE
    with pytest.raises(AssertionError):
        read("V312", WHOLE.replace(old, new))
