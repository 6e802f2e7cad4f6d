"""How long an editor waits: hover, completion and mistakes, of the longest recipe that ships.

Starts the language server as an editor does and speaks with it over standard input and output.
Each row is one question asked again and again: its median, its slowest, and what share of its
answers came within 100 ms. `typing` asks right behind a change of the text, while that is being
read and proved in the background; `mistakes` is the time from a change to the list of mistakes,
without the pause in which the server waits for the next key.

No GPU, no torch, no network.

    python benchmarks/editor.py --runs 30
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from triptych.cli.editor.server import PAUSE
from triptych.dsl.files import shipped_recipes

HOVER, COMPLETE = "textDocument/hover", "textDocument/completion"
LIMIT = 0.1
"""Seconds within which an answer feels immediate."""


class Editor:
    """Asks a language server, and waits for what it says."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text(encoding="utf-8")
        self._numbers = itertools.count(1)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "triptych", "lsp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.ask("initialize", {"processId": None, "rootUri": None, "capabilities": {}})
        self._send({"method": "initialized", "params": {}})
        # A copy beside no other file, so that only the recipe and its bases are read.
        self._uri = (path.parent.parent / "measured" / path.name).as_uri()
        document = {"uri": self._uri, "languageId": "triptych", "version": 0, "text": self.text}
        self._send({"method": "textDocument/didOpen", "params": {"textDocument": document}})
        self.mistakes()

    def _send(self, message: dict[str, Any]) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        assert self._server.stdin
        self._server.stdin.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self._server.stdin.flush()

    def _messages(self) -> Iterator[dict[str, Any]]:
        stream = self._server.stdout
        assert stream
        while header := stream.readline():
            length = int(header.partition(b":")[2])
            while stream.readline().strip():
                pass
            yield json.loads(stream.read(length))

    def ask(self, method: str, params: dict[str, Any]) -> Any:
        """A request, and its result."""
        number = next(self._numbers)
        self._send({"id": number, "method": method, "params": params})
        return next(one for one in self._messages() if one.get("id") == number)["result"]

    def ask_at(self, method: str, offset: int) -> Any:
        """A request about a place of the text."""
        before = self.text[:offset]
        line = before.count("\n")
        position = {"line": line, "character": offset - before.rfind("\n") - 1}
        return self.ask(method, {"textDocument": {"uri": self._uri}, "position": position})

    def put(self, text: str) -> None:
        """The text after a key was pressed."""
        self.text = text
        document = {"uri": self._uri, "version": next(self._numbers)}
        changes = {"textDocument": document, "contentChanges": [{"text": text}]}
        self._send({"method": "textDocument/didChange", "params": changes})

    def mistakes(self) -> None:
        """Wait until the server has said what is wrong."""
        wanted = "textDocument/publishDiagnostics"
        next(one for one in self._messages() if one.get("method") == wanted)

    def close(self) -> None:
        """Leave."""
        self.ask("shutdown", {})
        self._send({"method": "exit", "params": {}})
        self._server.wait()


def seconds(what: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    what()
    return time.perf_counter() - start


def rows(editor: Editor, runs: int) -> Iterator[tuple[str, list[float]]]:
    """What was asked, and how long each answer took."""
    text = editor.text
    part, setting = text.index("encoder ") + len("encoder "), text.index("width ")
    time.sleep(1)  # what is prepared behind the first list of mistakes
    for name, method, at in (
        ("hover on a part", HOVER, part),
        ("hover on a setting", HOVER, setting),
        ("completion", COMPLETE, setting),
    ):
        ask = partial(editor.ask_at, method, at)
        yield name, [seconds(ask) for _ in range(runs)]
    took: dict[str, list[float]] = {"typing, completion": [], "typing, hover": [], "mistakes": []}
    for number in range(runs):
        # A setting half written, as the keys come.
        word = "wi" + "d" * (number % 3)
        editor.put(f"{text[:setting]}{word}\n{text[setting:]}")
        ask = partial(editor.ask_at, COMPLETE, setting + len(word))
        took["typing, completion"].append(seconds(ask))
        editor.put(text + "\n" * (1 + number % 7))
        took["typing, hover"].append(seconds(partial(editor.ask_at, HOVER, setting)))
        took["mistakes"].append(seconds(editor.mistakes) - PAUSE)
    yield from took.items()


def main() -> None:
    """Print one row a question."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=30, help="how often each question is asked")
    parser.add_argument("--recipe", help="a shipped recipe; the longest by default")
    given = parser.parse_args()
    paths = {name: Path(str(file)) for name, file in shipped_recipes().items()}
    longest = max(paths, key=lambda name: paths[name].stat().st_size)
    name = given.recipe or longest
    lines = len(paths[name].read_text(encoding="utf-8").splitlines())
    print(f"{name}, {lines} lines")
    print(f"{'question':<22}{'median ms':>11}{'slowest ms':>12}{'within 100 ms':>15}")
    editor = Editor(paths[name])
    for question, took in rows(editor, given.runs):
        share = sum(one <= LIMIT for one in took) / len(took)
        middle, slowest = statistics.median(took), max(took)
        print(f"{question:<22}{1000 * middle:>11.1f}{1000 * slowest:>12.1f}{share:>14.0%}")
    editor.close()


if __name__ == "__main__":
    main()
