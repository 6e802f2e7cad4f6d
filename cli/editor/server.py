"""The language server: what an editor sends, what it is answered, and what it is told unasked."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from lsprotocol import types
from pygls.exceptions import JsonRpcInvalidParams
from pygls.lsp.server import LanguageServer
from pygls.uris import to_fs_path

from ...dsl.diagnostics import RecipeError
from ...dsl.format import format_text
from . import diagnose, navigate, outline
from .complete import Completion
from .desk import Desk, Reading
from .diagnose import Checked
from .hover import Hover
from .positions import Positions
from .proposals import Proposal
from .rename import CannotRename, renamable, rename

PAUSE = 0.15
"""How many seconds nothing may be typed before a text is checked."""


class Server(LanguageServer):
    """Keeps the open texts, and checks them in the background while questions are answered."""

    def __init__(self) -> None:
        super().__init__(
            "triptych",
            version("triptych"),
            text_document_sync_kind=types.TextDocumentSyncKind.Full,
        )
        self.desk = Desk()
        self.places = Positions()
        self.checked: dict[Path, Checked] = {}
        self._published: set[Path] = set()
        self._waiting: dict[Path, asyncio.Task[None]] = {}
        self._background = ThreadPoolExecutor(1, "check")

    def path(self, uri: str) -> Path:
        """The file of an address; a text that has none yet gets a place that nothing has."""
        found = to_fs_path(uri) if uri.startswith("file:") else None
        path = Path(found or Path("/untitled") / uri.replace("/", "_")).resolve()
        self.places.uris.setdefault(path, uri)
        return path

    def at(
        self, document: types.TextDocumentIdentifier, position: types.Position | None = None
    ) -> tuple[Reading, int]:
        """What can be read of a text, and the offset of a position in it."""
        reading = self.desk.reading(self.path(document.uri))
        return reading, self.places.offset(reading.source, position) if position else 0

    # what changes

    def changed(self, path: Path, text: str | None) -> None:
        """The editor has another text for a file; None: it has closed it."""
        self.desk.put(path, text)
        if text is None:
            self.checked.pop(path, None)
            self._stop(path)
            self.publish()
        for other, checked in list(self.checked.items()):
            if path in checked.read:
                self.check_soon(other)
        if text is not None:
            self.check_soon(path)

    def check_all_soon(self) -> None:
        """Files have changed on disk."""
        self.desk.changed()
        for path in self.desk.unsaved:
            self.check_soon(path)

    def check_soon(self, path: Path) -> None:
        """Check a text once nothing has been typed for a moment."""
        self._stop(path)
        self._waiting[path] = asyncio.get_running_loop().create_task(self._check(path))

    def _stop(self, path: Path) -> None:
        waiting = self._waiting.pop(path, None)
        if waiting:
            waiting.cancel()

    async def _check(self, path: Path) -> None:
        await asyncio.sleep(PAUSE)
        loop, source = asyncio.get_running_loop(), self.desk.source(path)
        unsaved = dict(self.desk.unsaved)
        self.checked[path] = await loop.run_in_executor(
            self._background, diagnose.check, source, path.parent, unsaved
        )
        self.publish()
        reading = self.desk.reading(path)
        await loop.run_in_executor(self._background, self._prepare, reading)

    def _prepare(self, reading: Reading) -> None:
        """Find what a pointer will ask for, so that it need not wait."""
        for node in reading.file.recipes:
            computed = self.desk.computed(reading, node)
            if computed:
                computed.prepare()

    def publish(self) -> None:
        """Tell the editor what is wrong in every file, those that are only extended too."""
        shown: dict[Path, list[types.Diagnostic]] = {path: [] for path in self._published}
        for checked in self.checked.values():
            for path, diagnostics in checked.by_file.items():
                there = shown.setdefault(path, [])
                for diagnostic in diagnostics:
                    one = diagnose.shown(diagnostic, checked.source, self.places)
                    if one not in there:
                        there.append(one)
        for path, several in shown.items():
            self.text_document_publish_diagnostics(
                types.PublishDiagnosticsParams(self.places.uri(path), several)
            )
        self._published = {path for path, several in shown.items() if several}


def make_server() -> Server:
    """A server that answers everything that it says it can."""
    # A refused rename is an answer, not a failure to be logged with its traceback.
    logging.getLogger("pygls.protocol.json_rpc").addFilter(_is_failure)
    server = Server()
    _listens(server)
    _answers(server)
    _changes(server)
    return server


def _is_failure(record: logging.LogRecord) -> bool:
    return not (record.exc_info and isinstance(record.exc_info[1], JsonRpcInvalidParams))


def _listens(server: Server) -> None:
    """What the editor tells."""

    @server.feature(types.INITIALIZED)
    def _initialized(_: types.InitializedParams) -> None:
        uris = server.places.uris
        server.places = Positions(server.workspace.position_encoding or "utf-16")
        server.places.uris = uris
        server.desk.folders = [
            Path(path).resolve()
            for uri in (server.workspace.folders or {server.workspace.root_uri: None})
            if uri and (path := to_fs_path(uri))
        ]

    @server.feature(types.TEXT_DOCUMENT_DID_OPEN)
    def _opened(params: types.DidOpenTextDocumentParams) -> None:
        server.changed(server.path(params.text_document.uri), params.text_document.text)

    @server.feature(types.TEXT_DOCUMENT_DID_CHANGE)
    def _edited(params: types.DidChangeTextDocumentParams) -> None:
        document = server.workspace.get_text_document(params.text_document.uri)
        server.changed(server.path(params.text_document.uri), document.source)

    @server.feature(types.TEXT_DOCUMENT_DID_CLOSE)
    def _closed(params: types.DidCloseTextDocumentParams) -> None:
        path = server.path(params.text_document.uri)
        server.changed(path, None)
        server.places.uris.pop(path, None)

    @server.feature(types.TEXT_DOCUMENT_DID_SAVE)
    def _saved(_: types.DidSaveTextDocumentParams) -> None:
        server.check_all_soon()

    @server.feature(types.WORKSPACE_DID_CHANGE_WATCHED_FILES)
    def _on_disk(_: types.DidChangeWatchedFilesParams) -> None:
        server.check_all_soon()


def _answers(server: Server) -> None:
    """What the editor asks."""

    @server.feature(types.TEXT_DOCUMENT_HOVER)
    def _hover(params: types.HoverParams) -> types.Hover | None:
        reading, offset = server.at(params.text_document, params.position)
        found = Hover(server.desk, reading).at(offset)
        if found is None:
            return None
        text, span = found
        content = types.MarkupContent(types.MarkupKind.Markdown, text)
        return types.Hover(content, server.places.range(span))

    @server.feature(
        types.TEXT_DOCUMENT_COMPLETION,
        types.CompletionOptions(trigger_characters=[".", "=", ":", "(", "[", ",", " "]),
    )
    def _complete(params: types.CompletionParams) -> types.CompletionList:
        reading, offset = server.at(params.text_document, params.position)
        completion = Completion(server.desk, reading, offset)
        start, end = completion.replaced or (offset, offset)
        where = server.places.range(reading.source.span(start, end))
        return types.CompletionList(
            False, [_item(proposal, where) for proposal in completion.proposals()]
        )

    @server.feature(types.TEXT_DOCUMENT_DEFINITION)
    def _definition(params: types.DefinitionParams) -> types.Location | None:
        span = navigate.definition(*server.at(params.text_document, params.position))
        return server.places.location(span) if span else None

    @server.feature(types.TEXT_DOCUMENT_REFERENCES)
    def _references(params: types.ReferenceParams) -> list[types.Location]:
        reading, offset = server.at(params.text_document, params.position)
        mention = reading.mention_at(offset)
        found = navigate.uses(server.desk, mention) if mention else ()
        return [
            server.places.location(use.span)
            for _, use in found
            if params.context.include_declaration or not use.declares
        ]

    @server.feature(types.TEXT_DOCUMENT_DOCUMENT_HIGHLIGHT)
    def _highlight(params: types.DocumentHighlightParams) -> list[types.DocumentHighlight]:
        reading, offset = server.at(params.text_document, params.position)
        mention = reading.mention_at(offset)
        return [
            types.DocumentHighlight(server.places.range(other.span))
            for other in reading.mentions
            if mention and navigate.identity(other) == navigate.identity(mention)
        ]

    @server.feature(types.TEXT_DOCUMENT_DOCUMENT_SYMBOL)
    def _symbols(params: types.DocumentSymbolParams) -> list[types.DocumentSymbol]:
        return outline.symbols(server.at(params.text_document)[0], server.places)

    @server.feature(types.TEXT_DOCUMENT_FOLDING_RANGE)
    def _folds(params: types.FoldingRangeParams) -> list[types.FoldingRange]:
        return outline.folds(server.at(params.text_document)[0])

    @server.feature(
        types.TEXT_DOCUMENT_SEMANTIC_TOKENS_FULL,
        types.SemanticTokensLegend(list(outline.WORD_KINDS), []),
    )
    def _colours(params: types.SemanticTokensParams) -> types.SemanticTokens:
        reading, _ = server.at(params.text_document)
        return types.SemanticTokens(outline.colours(reading, server.places))


def _changes(server: Server) -> None:
    """What changes texts."""

    @server.feature(types.TEXT_DOCUMENT_FORMATTING)
    def _format(params: types.DocumentFormattingParams) -> list[types.TextEdit] | None:
        source = server.desk.source(server.path(params.text_document.uri))
        try:
            text = format_text(source.text, source.name)
        except RecipeError:
            return None  # what is wrong is shown already
        return _edits(source.text, text, lambda a, b: server.places.range(source.span(a, b)))

    @server.feature(
        types.TEXT_DOCUMENT_CODE_ACTION,
        types.CodeActionOptions([types.CodeActionKind.QuickFix, types.CodeActionKind.SourceFixAll]),
    )
    def _actions(params: types.CodeActionParams) -> list[types.CodeAction]:
        reading, start = server.at(params.text_document, params.range.start)
        checked = server.checked.get(reading.path)
        if checked is None or checked.source != reading.source:
            unsaved = dict(server.desk.unsaved)
            checked = diagnose.check(reading.source, reading.path.parent, unsaved)
        end = server.places.offset(reading.source, params.range.end)
        only = params.context.only
        found = []
        if only is None or any(kind in ("", "quickfix") for kind in only):
            found += diagnose.fixes(checked, start, end, server.places)
        if only and any(kind in ("source", "source.fixAll") for kind in only):
            every = diagnose.fix_all(checked, server.places)
            found += [every] if every else []
        return found

    @server.feature(types.TEXT_DOCUMENT_PREPARE_RENAME)
    def _prepare(params: types.PrepareRenameParams) -> types.PrepareRenamePlaceholder:
        reading, offset = server.at(params.text_document, params.position)
        try:
            mention = renamable(server.desk, reading, offset)
        except CannotRename as why:
            raise JsonRpcInvalidParams(str(why)) from why
        where = server.places.range(mention.span)
        return types.PrepareRenamePlaceholder(where, mention.key[-1])

    @server.feature(types.TEXT_DOCUMENT_RENAME, types.RenameOptions(prepare_provider=True))
    def _rename(params: types.RenameParams) -> types.WorkspaceEdit:
        reading, offset = server.at(params.text_document, params.position)
        try:
            edits = rename(server.desk, reading, offset, params.new_name)
        except CannotRename as why:
            raise JsonRpcInvalidParams(str(why)) from why
        return diagnose.edit_of(edits, server.places)


def _item(proposal: Proposal, where: types.Range) -> types.CompletionItem:
    """A proposal as an editor takes it; the label itself filters, and ranks sort."""
    about = types.MarkupContent(types.MarkupKind.Markdown, proposal.about)
    return types.CompletionItem(
        proposal.label,
        kind=proposal.kind,
        detail=proposal.detail or None,
        documentation=about if proposal.about else None,
        sort_text=f"{proposal.rank}{proposal.label}",
        filter_text=proposal.label,
        insert_text_format=types.InsertTextFormat.Snippet if proposal.snippet else None,
        text_edit=types.TextEdit(where, proposal.snippet or proposal.label),
    )


def _edits(
    before: str, after: str, range_of: Callable[[int, int], types.Range]
) -> list[types.TextEdit]:
    """The change from one text to another, without what they share at their ends."""
    if before == after:
        return []
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    shared = 0
    limit = min(len(before), len(after)) - start
    while shared < limit and before[-1 - shared] == after[-1 - shared]:
        shared += 1
    text = after[start : len(after) - shared]
    return [types.TextEdit(range_of(start, len(before) - shared), text)]
