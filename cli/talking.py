"""`triptych run --interactive`: a conversation in the terminal, turn by turn.

A line is what is said; a line that begins with `/` is a command.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..backends.conversation import Conversation
    from ..backends.sampling import Sampling
    from ..blocks.input.places import Place
    from ..blocks.input.sample import Attachment, Turn

HELP = """\
/image PATH   show a picture with what is said next
/video PATH   show a clip with what is said next
/reset        begin anew
/help         these lines
/quit         leave, as Ctrl-D does; Ctrl-C stops an answer"""


@dataclass
class Talk:
    """What a person types, and what is answered."""

    conversation: Conversation
    new: int | None
    sampling: Sampling
    seed: int
    system: str | None = None
    shown: list[Attachment] = field(default_factory=list)
    """What was attached and is not yet said anything about."""

    def go_on(
        self, images: Sequence[Path], videos: Sequence[Path], said: Sequence[str | Place]
    ) -> None:
        """Say what was given at the start, and read lines until one says to leave, or none come."""
        self.begin()
        for kind, files in (("image", images), ("video", videos)):
            for file in files:
                self.show(kind, file)
        if said:
            self.say(said)
        prompt = "> " if sys.stdin.isatty() else ""
        if prompt:
            click.echo(HELP, err=True)
        while True:
            try:
                line = input(prompt).strip()
            except EOFError:
                return
            except KeyboardInterrupt:
                click.echo()
                continue
            if line == "/quit":
                return
            self._take(line)

    def show(self, kind: str, file: Path) -> None:
        """Attach a picture or clip; UsageError where the model takes none."""
        from ..blocks.input.sample import Attachment

        inputs = self.conversation.session.inputs(kind)
        if not inputs:
            raise click.UsageError(f"the model takes no {kind}")
        if not file.is_file():
            raise click.UsageError(f"there is no file {file}")
        self.shown.append(Attachment(inputs[0], file))

    def say(self, said: Sequence[str | Place]) -> None:
        """Ask, and print the answer as it grows; what cannot be asked is said, and was not asked.

        A picture that cannot be used is forgotten with it.
        """
        from ..blocks.input.sample import Turn

        turn = Turn("user", (*self.shown, *said))
        self.shown = []
        try:
            self._listen(turn)
        except ValueError as problem:
            click.echo(f"error: {problem}", err=True)
            return
        click.echo()

    def begin(self) -> None:
        """Forget what was said, but for the system's words."""
        from ..blocks.input.sample import Turn

        self.conversation.reset()
        self.shown = []
        if self.system:
            self.conversation.turns = [Turn("system", (self.system,))]

    def _listen(self, turn: Turn) -> None:
        reply = self.conversation.chat(turn, new=self.new, sampling=self.sampling, seed=self.seed)
        try:
            for piece in reply:
                click.echo(piece, nl=False)
        except KeyboardInterrupt:
            reply.close()

    def _take(self, line: str) -> None:
        if not line:
            return
        if not line.startswith("/"):
            self.say([line])
            return
        name, _, rest = line.partition(" ")
        if name not in COMMANDS:
            click.echo(f"there is no {name}\n{HELP}", err=True)
            return
        try:
            COMMANDS[name](self, rest.strip())
        except (click.UsageError, ValueError) as problem:
            click.echo(f"error: {problem}", err=True)


def _show(kind: str) -> Callable[[Talk, str], None]:
    def show(talk: Talk, rest: str) -> None:
        files = shlex.split(rest)
        if len(files) != 1:
            raise click.UsageError(f"write /{kind} PATH, in quotes where it has spaces")
        talk.show(kind, Path(files[0]).expanduser())

    return show


COMMANDS: Mapping[str, Callable[[Talk, str], None]] = {
    "/image": _show("image"),
    "/video": _show("video"),
    "/reset": lambda talk, rest: talk.begin(),
    "/help": lambda talk, rest: click.echo(HELP, err=True),
}
"""What a command does, by its name; `/quit` ends the reading."""
