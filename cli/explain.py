"""`triptych explain`: what a code of a message means, with an example."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ..dsl.codes import CODES, FAMILIES
from ..dsl.diagnostics import ansi, nearest
from ..dsl.explain import Explanation, explanation
from ..dsl.files import write_text
from .output import echo_json, heading, json_option, table

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = """\b
Examples:
  triptych explain                       every code, by what it is about
  triptych explain T504                  what, why, an example with its message, the fix
  triptych explain s401 n204             several
  triptych explain --write docs/errors   the same as pages; --check says whether they are old
"""


def _known(
    context: click.Context, parameter: click.Parameter, given: Sequence[str]
) -> tuple[str, ...]:
    """The codes as messages write them; they may be given in lower case."""
    codes = tuple(code.upper() for code in given)
    for code in codes:
        if code not in CODES:
            near = nearest(code, CODES)
            hint = f"Did you mean {near}?" if near else "`triptych explain` lists all."
            raise click.BadParameter(f"No message has the code {code}. {hint}", context, parameter)
    return codes


def _begun(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The codes that begin so, with their titles."""
    return [
        CompletionItem(code, help=title)
        for code, title in CODES.items()
        if code.startswith(incomplete.upper())
    ]


@click.command("explain", epilog=EXAMPLES)
@click.argument("codes", nargs=-1, metavar="[CODE]...", callback=_known, shell_complete=_begun)
@json_option
@click.option(
    "--write", "folder", type=click.Path(path_type=Path), help="Write the pages of FOLDER."
)
@click.option("--check", is_flag=True, help="With --write: write nothing; exit 1 if one is old.")
@click.pass_context
def explain_command(
    context: click.Context, codes: Sequence[str], as_json: bool, folder: Path | None, check: bool
) -> None:
    """Say what a code of a message means: why it is an error, an example, and how to mend it.

    Without a code, lists all of them.
    """
    if check and folder is None:
        raise click.UsageError("--check goes with --write.")
    if folder is not None:
        context.exit(_write(folder, check))
    if as_json:
        echo_json([_data(code) for code in codes or CODES])
    elif codes:
        _show(codes)
    else:
        _list()


def _list() -> None:
    for letter, subject in FAMILIES.items():
        heading(f"{letter}: {subject}")
        table([(code, title) for code, title in CODES.items() if code.startswith(letter)])


def _data(code: str) -> dict[str, str]:
    from .error_pages import printed

    about = explanation(code)
    return {
        "code": code,
        "title": about.title,
        "what": about.what,
        "why": about.why,
        "example": about.example.text,
        "message": printed(about),
        "fix": about.fix,
        "mended": about.mended.text,
    }


def _show(codes: Sequence[str]) -> None:
    """Each page: drawn on a terminal, Markdown in a pipe."""
    if not sys.stdout.isatty():
        from .error_pages import page

        click.echo("\n".join(page(explanation(code)) for code in codes), nl=False)
        return
    from rich.console import Console

    console = Console(highlight=False, markup=False, width=min(100, Console().width))
    for code in codes:
        draw(explanation(code), console)


def draw(about: Explanation, console: Console) -> None:
    """A page as a terminal shows it: prose in its width, recipes and messages in colour."""
    from rich.markdown import Markdown
    from rich.padding import Padding
    from rich.rule import Rule
    from rich.text import Text

    from .error_pages import printed
    from .highlight import highlighted

    def section(title: str, *shown: Markdown | Text) -> None:
        console.print(Text(title, "bold cyan"))
        for piece in shown:
            if isinstance(piece, Markdown):
                console.print(Padding(piece, (0, 0, 1, 2)))
            else:
                # Lines of recipes and messages are the terminal's to wrap: columns line up in them.
                lines = Text("\n").join(Text("  ") + line for line in piece.split("\n"))
                console.print(lines, "", sep="\n", soft_wrap=True)

    console.print(Rule(Text(f"{about.code}  {about.title}", "bold"), align="left", style="cyan"))
    console.print()
    section("What", Markdown(about.what))
    section("Why", Markdown(about.why))
    section("Example", highlighted(about.example), Text.from_ansi(printed(about, ansi)))
    section("Fix", Markdown(about.fix), highlighted(about.mended))


def _write(folder: Path, check: bool) -> int:
    """Write the pages that are not as they should be; the exit status."""
    from .error_pages import pages

    stale = {
        folder / name: text
        for name, text in pages().items()
        if not (folder / name).is_file() or (folder / name).read_text(encoding="utf-8") != text
    }
    for path, text in stale.items():
        if check:
            click.echo(f"{path} is old: run `triptych explain --write {folder}`")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
            click.echo(f"wrote {path}", err=True)
    return 1 if check and stale else 0
