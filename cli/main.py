"""The `triptych` command: the table of commands, and the one place that prints errors."""

from __future__ import annotations

import importlib
import os
import sys

import click

from .colour import color_option, wants_colour
from .waiting import wait_a_little

# Command name -> (file in this folder, one line of help). A command's file is imported when the
# command is called, so `check`, `fmt`, `plan` and `diff` never wait for torch.
COMMANDS: dict[str, tuple[str, str]] = {
    "assumed": ("assumed", "List what a recipe says though no publication does."),
    "check": ("check", "Prove what can be proved about a recipe."),
    "compile": ("compile", "Compile a recipe to an executable artefact."),
    "demo": ("demo", "Train, compile and run a small model on drawn scenes."),
    "diff": ("diff", "Show how two recipes differ."),
    "explain": ("explain", "Say what a code of a message means, with an example."),
    "export": ("export", "Write weights under their published names."),
    "fmt": ("format", "Format recipe files."),
    "gallery": ("gallery", "Write the sections of a page that show recipes."),
    "inspect": ("inspect", "Say what an artefact is, and check every byte of it."),
    "list": ("list", "List the recipes that ship."),
    "lsp": ("lsp", "Answer an editor over standard input and output."),
    "new": ("new", "Write a commented recipe to start from."),
    "plan": ("plan", "Show what each training stage trains and freezes."),
    "preview": ("preview", "Show a sample as a layout writes it: text, ids, what is learnt."),
    "run": ("run", "Ask a recipe or an artefact about pictures, clips and text."),
    "scenes": ("scenes", "Draw the demo's data set of captioned scenes."),
    "schema": ("schema", "Print the JSON Schema of a recipe."),
    "show": ("show", "Show a recipe's parts, parameters or graph."),
    "tokens": ("tokens", "Count the tokens of pictures and clips."),
    "train": ("train", "Train a recipe through its stages."),
    "why": ("why", "Show where a value of a recipe came from."),
}

EXIT_CODES = """\b
Exit codes:
  0    done; for `diff`: the same; for `check`: no error is left; for `fmt --check` and
       `fmt --diff`: nothing would change
  1    the recipe, the data, the checkpoint or the artefact is wrong; for `diff`: different;
       for `fmt`: something would change
  2    the command line is wrong, or this machine lacks what the backend needs
  130  interrupted; what was done is saved where the command says so
"""

COMPLETION = """\b
Shell completion:
  bash  eval "$(_TRIPTYCH_COMPLETE=bash_source triptych)"
  zsh   eval "$(_TRIPTYCH_COMPLETE=zsh_source triptych)"
  fish  _TRIPTYCH_COMPLETE=fish_source triptych | source
"""


class Commands(click.Group):
    """Loads a command's file when the command is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names in the table, in its order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name; None when there is none."""
        if cmd_name not in COMMANDS:
            return None
        file, _ = COMMANDS[cmd_name]
        module = importlib.import_module(f".{file}", __package__)
        command: click.Command = getattr(module, f"{cmd_name}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table's own lines of help, so that `--help` imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, and with the nearest names when nothing matches."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from ..dsl.diagnostics import nearest

            near = nearest(args[0], COMMANDS)
            if near is None:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near}'?", ctx) from None


@click.group(
    cls=Commands,
    epilog=EXIT_CODES + "\n" + COMPLETION,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="triptych")
@color_option
def cli() -> None:
    """triptych compiles recipes of vision-language models.

    \b
    triptych list                          the recipes that ship
    triptych check my_model.vlm            prove what can be proved, before a weight is loaded
    triptych plan qwen2_vl_7b              what each stage trains and freezes
    triptych tokens qwen2_vl_7b --image 1280x720
    triptych diff qwen2_vl_7b qwen2_vl_2b
    triptych run qwen2_vl_2b --weights DIR --image cat.png --prompt "What is this?"
    """


def main() -> None:
    """Run the command line; print what is wrong and leave with its exit code."""
    wait_a_little()
    try:
        status = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        status = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        status = 130
    except OSError as error:
        # A file that is not there, or may not be read; anything else about the system is as clear.
        if isinstance(error, BrokenPipeError):
            # The reader (`| head`) has left: leave quietly, without Python's complaint at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            status = 141
        else:
            click.echo(f"error: {error}", err=True)
            status = 1
    except ModuleNotFoundError as error:
        # An installation that only runs artefacts has no language: requirements-run.txt.
        if error.name is None or error.name.startswith("triptych"):
            raise
        needs = "is not installed here, and this command needs it: pip install triptych"
        click.echo(f"error: {error.name} {needs}", err=True)
        status = 2
    except Exception as error:
        # An exception of our own speaks to the user; any other is a bug, and its traceback helps.
        if type(error).__module__.partition(".")[0] != __package__.partition(".")[0]:
            raise
        status = getattr(error, "exit_code", 1)
        # A recipe's mistakes show their places; nothing else needs the language to be loaded.
        if render := getattr(error, "render", None):
            click.echo(render(colour=wants_colour(sys.stderr)), err=True, nl=False)
        else:
            click.echo(f"error: {error}", err=True)
    sys.exit(status if isinstance(status, int) else 0)
