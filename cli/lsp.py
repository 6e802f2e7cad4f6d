"""`triptych lsp`: the language server that editors start."""

from __future__ import annotations

import sys

import click

EPILOG = """\b
Editors start it themselves; docs/editors.md says in two lines how, for VS Code, Neovim and Helix.
"""


@click.command("lsp", epilog=EPILOG)
@click.option("--stdio", is_flag=True, hidden=True, help="What some editors add; always so.")
def lsp_command(stdio: bool) -> None:
    """Answer an editor over standard input and output, as the Language Server Protocol says.

    Mistakes as you type, with their fixes; what a value is worth and where it came from; what can
    be written; definitions, uses, renaming and formatting.
    """
    from .editor.server import make_server

    if sys.stdin.isatty():
        click.echo("waiting for an editor (docs/editors.md says how one starts this)", err=True)
    make_server().start_io()
