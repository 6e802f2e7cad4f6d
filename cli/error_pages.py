"""The pages of docs/errors: what is written about a code, and what its example prints."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache

from ..dsl.codes import CODES, FAMILIES
from ..dsl.diagnostics import Diagnostic, Painter, RecipeError, message, plain
from ..dsl.explain import Explanation, Sample, explanation
from ..dsl.load import load_text

FILE = "example.vlm"
"""The name that an example has in its message."""


def pages() -> dict[str, str]:
    """The published pages by file name: one a code, and the index."""
    return {
        "README.md": _index(),
        **{f"{code}.md": page(explanation(code)) for code in CODES},
    }


def page(about: Explanation) -> str:
    """All that is known about a code, as Markdown."""
    return f"""\
# {about.code}: {about.title}

## What

{about.what}

## Why

{about.why}

## Example

{_block(about.example)}
{"prints" if about.example.language == "console" else "`triptych check` says"}

```text
{printed(about)}
```

## Fix

{about.fix}

{_block(about.mended)}"""


def printed(about: Explanation, paint: Painter = plain) -> str:
    """The message that the example of a code prints, without a line end."""
    if about.example.language == "console":
        return run(about.example).stderr.partition("\n\nmore: ")[0].rstrip("\n")
    found = [found for found in findings(about.example) if found.code == about.code]
    return "\n\n".join(message(diagnostic, paint) for diagnostic in found)


@cache
def findings(sample: Sample) -> Sequence[Diagnostic]:
    """All that `triptych check` finds in a recipe."""
    from ..compiler.pipeline import prove

    try:
        return prove(load_text(sample.text, FILE))
    except RecipeError as error:
        return error.diagnostics


@cache
def run(sample: Sample) -> subprocess.CompletedProcess[str]:
    """Run the commands of a sample, lines that begin with `$ `, in an empty folder."""
    ours = f'triptych() {{ {shlex.quote(sys.executable)} -m triptych "$@"; }}'
    commands = [line.removeprefix("$ ") for line in sample.text.splitlines()]
    with tempfile.TemporaryDirectory() as folder:
        return subprocess.run(
            ["sh", "-ec", "\n".join([ours, *commands])],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )


def _block(sample: Sample) -> str:
    return f"```{sample.language}\n{sample.text}```\n"


def _index() -> str:
    lines = [
        "# Messages by their codes",
        "",
        "What each code means, why it is an error, a recipe that has it, and how to mend that.",
        "`triptych explain CODE` shows the same in a terminal. A code is never renumbered.",
        "These pages are written by `triptych explain --write docs/errors`.",
    ]
    for letter, subject in FAMILIES.items():
        lines += ["", f"## {letter}: {subject}", "", "| code | |", "| --- | --- |"]
        lines += [
            f"| [{code}]({code}.md) | {title} |"
            for code, title in CODES.items()
            if code.startswith(letter)
        ]
    return "\n".join(lines) + "\n"
