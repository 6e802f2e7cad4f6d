"""A language server in a process of its own, and a client that speaks with it as editors do."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest

BASE = (Path(__file__).parent / "base.vlm").read_text(encoding="utf-8")
WAIT = 30
"""Seconds until a server that says nothing has failed; no figure is asserted."""


class RequestError(Exception):
    """The server refused a request, and said why."""


class Client:
    """Sends requests and notifications, and keeps what the server says unasked."""

    def __init__(self, folder: Path, encodings=("utf-16",)) -> None:
        self.folder = folder
        self.texts: list[Text] = []
        self.process = subprocess.Popen(
            [sys.executable, "-m", "triptych", "lsp"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=folder,
        )
        assert self.process.stdin and self.process.stdout
        self._to, self._from = self.process.stdin, self.process.stdout
        self._numbers = count(1)
        self._answers: dict[int, queue.Queue[Any]] = {}
        self.diagnostics: dict[str, queue.Queue[Any]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._listen, daemon=True).start()
        self.capabilities = self.ask(
            "initialize",
            {
                "processId": None,
                "rootUri": folder.as_uri(),
                "workspaceFolders": [{"uri": folder.as_uri(), "name": "folder"}],
                "capabilities": {"general": {"positionEncodings": list(encodings)}},
            },
        )["capabilities"]
        self.tell("initialized", {})

    def _listen(self) -> None:
        stream = self._from
        while header := stream.readline():
            length = 0
            while header.strip():
                name, _, value = header.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
                header = stream.readline()
            message = json.loads(stream.read(length))
            if message.get("method") == "textDocument/publishDiagnostics":
                params = message["params"]
                self._told(params["uri"]).put(params["diagnostics"])
            elif "id" in message and "method" not in message:
                self._answers[message["id"]].put(message)

    def _told(self, uri: str) -> queue.Queue[Any]:
        with self._lock:
            return self.diagnostics.setdefault(uri, queue.Queue())

    def _send(self, message) -> None:
        data = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._to.write(b"Content-Length: %d\r\n\r\n%s" % (len(data), data))
        self._to.flush()

    def tell(self, method: str, params) -> None:
        """A notification."""
        self._send({"method": method, "params": params})

    def ask(self, method: str, params):
        """A request, and its result."""
        number = next(self._numbers)
        self._answers[number] = queue.Queue()
        self._send({"id": number, "method": method, "params": params})
        answer = self._answers[number].get(timeout=WAIT)
        if "error" in answer:
            raise RequestError(answer["error"]["message"])
        return answer["result"]

    def close(self) -> int:
        """Leave as editors do; the exit status."""
        self.ask("shutdown", None)
        self.tell("exit", None)
        status = self.process.wait(timeout=WAIT)
        self._to.close()
        self._from.close()
        return status

    # texts

    def open(self, name: str, text: str, on_disk: bool = True) -> Text:
        """A text, open in the editor; `§` in it is where the cursor stands."""
        self.texts.append(Text(self, self.folder / name, text, on_disk))
        return self.texts[-1]


class Text:
    """One open text, and what the server says about the place of its cursor."""

    def __init__(self, client: Client, path: Path, text: str, on_disk: bool) -> None:
        self.client, self.path, self.uri, self.version = client, path, path.as_uri(), 1
        self._set(text)
        if on_disk:
            path.write_text(self.text, encoding="utf-8")
        document = {"uri": self.uri, "languageId": "triptych", "version": 1, "text": self.text}
        client.tell("textDocument/didOpen", {"textDocument": document})

    def _set(self, text: str) -> None:
        self.cursor = text.find("§")
        self.text = text.replace("§", "")

    def put(self, text: str) -> None:
        """Another text, not saved."""
        self._set(text)
        self.version += 1
        document = {"uri": self.uri, "version": self.version}
        changes = {"textDocument": document, "contentChanges": [{"text": self.text}]}
        self.client.tell("textDocument/didChange", changes)

    def close(self) -> None:
        """The editor closes it, and the file goes."""
        self.path.touch()
        self.client.tell("textDocument/didClose", {"textDocument": {"uri": self.uri}})
        self.ask("foldingRange")  # after its answer nothing more is said of the text
        self.path.unlink()
        self.client.diagnostics.pop(self.uri, None)

    def swap(self, old: str, new: str) -> None:
        """The text with a piece exchanged; `§` in `new` is where the cursor stands then."""
        assert self.text.count(old) == 1, self.text.count(old)
        self.put(self.text.replace(old, new))

    def move(self, marked: str) -> Text:
        """The cursor goes to `§` in this piece of the text."""
        piece = marked.replace("§", "")
        assert self.text.count(piece) == 1, (piece, self.text.count(piece))
        self.cursor = self.text.index(piece) + marked.index("§")
        return self

    def position(self, offset: int | None = None):
        """A place as the protocol writes it, in units of UTF-16."""
        before = self.text[: self.cursor if offset is None else offset]
        line = before.count("\n")
        column = before[before.rfind("\n") + 1 :]
        return {"line": line, "character": len(column.encode("utf-16-le")) // 2}

    def offset(self, position) -> int:
        """The offset of such a place."""
        lines = self.text.split("\n")
        start = sum(len(line) + 1 for line in lines[: position["line"]])
        raw = lines[position["line"]].encode("utf-16-le")[: 2 * position["character"]]
        return start + len(raw.decode("utf-16-le"))

    def at(self, range_) -> str:
        """What stands in a range of the text."""
        return self.text[self.offset(range_["start"]) : self.offset(range_["end"])]

    def ask(self, method: str, **more):
        """A request about the place of the cursor."""
        document = {"textDocument": {"uri": self.uri}, "position": self.position()}
        return self.client.ask(f"textDocument/{method}", document | more)

    # what editors show

    def mistakes(self, wanted=None):
        """What the server says is wrong: once it says something, or once it says `wanted` codes."""
        told, last = self.client._told(self.uri), None
        while True:
            try:
                last = told.get(timeout=WAIT)
            except queue.Empty:
                raise AssertionError(f"the server says {last}, not {wanted}") from None
            if wanted is None or sorted(one["code"] for one in last) == sorted(wanted):
                return last

    def hover(self) -> str:
        """What the pointer shows; empty for nothing."""
        found = self.ask("hover")
        return found["contents"]["value"] if found else ""

    def offers(self):
        """What completion offers, by label, in the order in which it is shown."""
        items = self.ask("completion")["items"]
        return {item["label"]: item for item in sorted(items, key=lambda one: one["sortText"])}

    def definition(self) -> tuple[Path, int] | None:
        """The file and the line, from 1, of a definition."""
        found = self.ask("definition")
        if found is None:
            return None
        return Path(found["uri"].removeprefix("file://")), found["range"]["start"]["line"] + 1

    def edited(self, edits) -> str:
        """The text after edits."""
        text = self.text
        for edit in sorted(edits, key=lambda one: self.offset(one["range"]["start"]), reverse=True):
            start, end = (self.offset(edit["range"][end]) for end in ("start", "end"))
            text = text[:start] + edit["newText"] + text[end:]
        return text


@pytest.fixture
def failed():
    """What a refused request raises."""
    return RequestError


@pytest.fixture
def start(tmp_path):
    """Starts servers in a folder of the test; each must leave with status 0."""
    clients = []

    def begin(**options) -> Client:
        clients.append(Client(tmp_path, **options))
        return clients[-1]

    yield begin
    for client in clients:
        assert client.close() == 0


@pytest.fixture(scope="module")
def _server(tmp_path_factory):
    client = Client(tmp_path_factory.mktemp("folder"))
    yield client
    assert client.close() == 0


@pytest.fixture
def editor(_server):
    """An editor with one empty folder open; the tests of a file share its server."""
    yield _server
    for text in _server.texts:
        text.close()
    _server.texts.clear()


@pytest.fixture
def base(editor):
    """A recipe without mistakes, open, and read once."""
    text = editor.open("base.vlm", BASE)
    assert text.mistakes() == []
    return text
