"""Graphs as text that a person can read, and that reads back as the same graph.

    where image.patches = 4 * total(image, image.tokens)
    %image.patches = input : f32[image.patches, 1176]
    %vit.patch_embed = patch_embed %image.patches {width = 1280, ...} : float[image.patches, 1280]
    %vit.patch_embed@video = patch_embed %video.patches {...} using vit.patch_embed frozen
    return features = %vit.patch_embed

Braces hold the facts of the operation; `using` names the node whose parameters it uses; the type
follows the colon once it is inferred; a `#` begins a remark, which is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

from .graph import Graph, Methods, Node
from .ops import OPERATIONS, Input, Operation
from .sizing import FUNCTIONS
from .types import (
    Call,
    DType,
    Option,
    Size,
    Symbol,
    TensorType,
    add,
    divide,
    maximum,
    minimum,
    multiply,
    total,
)

WIDTH = 100


def text(graph: Graph, *, places: bool = False) -> str:
    """The graph as text; with `places`, each node says where in the recipe it stands."""
    lines = [f"where {name} = {size}" for name, size in graph.meaning.items()]
    for node in graph:
        lines += _lines(node, places)
    lines += [f"return {name} = %{source}" for name, source in graph.outputs.items()]
    return "\n".join(lines) + "\n"


def text_of_methods(methods: Methods, *, places: bool = False) -> str:
    """Several graphs as text, each in the braces of its method."""
    shown = []
    for name, graph in methods.items():
        inside = text(graph, places=places).splitlines()
        shown.append("\n".join([f"method {name} {{", *(f"  {line}" for line in inside), "}\n"]))
    return "\n".join(shown)


def _lines(node: Node, places: bool) -> Iterator[str]:
    """A node on one line, or on several when it is long."""
    head = f"%{node.name} = {node.op.name}"
    inputs = [f"%{name}" for name in node.inputs]
    facts = [f"{name} = {value}" for name, value in _facts(node.op).items()]
    tail = [f"using {node.weights}"] if node.weights else []
    tail += ["frozen"] if node.frozen else []
    tail += [f"in {node.precision}"] if node.precision else []
    tail += [f": {node.type}"] if node.type else []
    remark = f"  # {node.loc}" if places and node.loc else ""
    line = " ".join([head, *inputs, *([f"{{{', '.join(facts)}}}"] if facts else []), *tail])
    if len(line) <= WIDTH:
        yield line + remark
        return
    first, *more = _filled(inputs, f"{head} ", "    ")
    yield first + remark
    yield from more
    if facts:
        yield from _filled(
            [f"{fact}," for fact in facts[:-1]] + [f"{facts[-1]}}}"], "    {", "     "
        )
    if tail:
        yield f"    {' '.join(tail)}"


def _filled(words: list[str], opening: str, indent: str) -> Iterator[str]:
    """Words behind an opening, as many on a line as there is room for."""
    line = opening
    for word in words:
        if len(line) + len(word) > WIDTH:
            yield line.rstrip()
            line = indent
        line += f"{word} "
    yield line.rstrip()


def _facts(op: Operation) -> dict[str, str]:
    """The facts of an operation that differ from their defaults; an input's type is the node's."""
    return {
        fact.name: _fact(getattr(op, fact.name))
        for fact in fields(op)  # type: ignore[arg-type]
        if fact.name != "type" and getattr(op, fact.name) != fact.default
    }


def _fact(value: bool | int | float | str | tuple[object, ...]) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)


_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)
      | (?P<number>\d+(\.\d+)?(e[+-]?\d+)?)
      | (?P<node>%[\w.@\[\]]+)
      | (?P<name>[A-Za-z_][\w.@]*)
      | (?P<mark>//|[-+*/(){}\[\],:=;])""",
    re.VERBOSE,
)


class _Reader:
    """Reads tokens from left to right; raises ValueError at the first that does not belong."""

    def __init__(self, source: str) -> None:
        self.tokens: list[tuple[str, str]] = []
        at = 0
        while at < len(source):
            match = _TOKEN.match(source, at)
            if match is None:
                raise ValueError(f"cannot read {source[at : at + 20]!r}")
            at = match.end()
            if match.lastgroup and match.lastgroup != "skip":
                self.tokens.append((match.lastgroup, match.group()))
        self.at = 0

    @property
    def next(self) -> str:
        """The text of the next token; empty at the end."""
        return self.tokens[self.at][1] if self.at < len(self.tokens) else ""

    @property
    def kind(self) -> str:
        """What the next token is; empty at the end."""
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, expected: str | None = None, kind: str | None = None) -> str:
        """The next token, which must be the expected one, or of the expected kind."""
        got = self.next
        if (expected is not None and got != expected) or (kind is not None and self.kind != kind):
            raise ValueError(f"expected {expected or kind}, got {got or 'the end'!r}")
        self.at += 1
        return got

    def skip(self, mark: str) -> bool:
        """Take a token if it is the next one."""
        if self.next != mark:
            return False
        self.at += 1
        return True

    def graph(self) -> Graph:
        """Everything up to the end of the text or of a method."""
        meaning, nodes, outputs = dict[str, Size](), list[Node](), dict[str, str]()
        while self.kind and self.next != "}":
            if self.skip("where"):
                name = self.take(kind="name")
                self.take("=")
                meaning[name] = self.size()
            elif self.skip("return"):
                name = self.take(kind="name")
                self.take("=")
                outputs[name] = self.take(kind="node")[1:]
            else:
                nodes.append(self.node())
        return Graph.of(nodes, outputs, meaning)

    def node(self) -> Node:
        """One operation."""
        name = self.take(kind="node")[1:]
        self.take("=")
        operation = OPERATIONS.get(self.take(kind="name"))
        if operation is None:
            raise ValueError(f"no operation {self.tokens[self.at - 1][1]}")
        inputs = []
        while self.kind == "node" and self.tokens[self.at + 1][1] != "=":
            inputs.append(self.take()[1:])
        facts = self.facts(operation) if self.next == "{" else {}
        weights = self.take(kind="name") if self.skip("using") else None
        frozen = self.skip("frozen")
        precision = self.dtype() if self.skip("in") else None
        type_ = self.type() if self.skip(":") else None
        if operation is Input:
            facts["type"] = type_
        return Node(name, operation(**facts), tuple(inputs), weights, type_, frozen, precision)

    def facts(self, operation: type[Operation]) -> dict[str, Any]:
        """What stands in braces, each fact as its field wants it."""
        kinds = {fact.name: str(fact.type) for fact in fields(operation)}  # type: ignore[arg-type]
        found: dict[str, Any] = {}
        self.take("{")
        while not self.skip("}"):
            name = self.take(kind="name")
            self.take("=")
            if name not in kinds:
                raise ValueError(f"{operation.name} has no {name}")
            found[name] = self.numbers() if self.next == "[" else _value(self.take(), kinds[name])
            if self.next != "}":
                self.take(",")
        return found

    def numbers(self) -> tuple[Option, ...]:
        """Numbers in brackets."""
        found = list[Option]()
        self.take("[")
        while not self.skip("]"):
            found.append(_number(self.take(kind="number")))
            if self.next != "]":
                self.take(",")
        return tuple(found)

    def type(self) -> TensorType:
        """A dtype and sizes in brackets."""
        dtype, sizes = self.dtype(), list[Size]()
        self.take("[")
        while not self.skip("]"):
            sizes.append(self.size())
            if self.next != "]":
                self.take(",")
        return TensorType(sizes, dtype)

    def dtype(self) -> DType:
        """What numbers are."""
        dtype = self.take(kind="name")
        if dtype not in get_args(DType):
            raise ValueError(f"no dtype {dtype}")
        return dtype  # type: ignore[return-value]

    def size(self) -> Size:
        """Terms added up."""
        terms = [self.term()]
        while self.skip("+"):
            terms.append(self.term())
        return add(*terms)

    def term(self) -> Size:
        """Factors multiplied and divided, from left to right."""
        found = self.factor()
        while self.next in ("*", "//"):
            if self.take() == "*":
                found = multiply(found, self.factor())
            else:
                found = divide(found, int(self.take(kind="number")))
        return found

    def factor(self) -> Size:
        """A number, a name, a call, or a size in brackets."""
        if self.kind == "number":
            return int(self.take())
        if self.skip("("):
            found = self.size()
            self.take(")")
            return found
        name = self.take(kind="name")
        return self.call(name) if self.skip("(") else Symbol(name)

    def call(self, name: str) -> Size:
        """What a name and its bracket mean; the bracket is open."""
        if name == "total":
            kind = self.take(kind="name")
            self.take(",")
            found = total(kind, self.size())
            self.take(")")
            return found
        if name == "ceil":
            dividend = self.size()
            self.take("/")
            found = divide(dividend, int(self.take(kind="number")), up=True)
            self.take(")")
            return found
        arguments, options = [self.size()], list[tuple[str, Option]]()
        while self.skip(","):
            arguments.append(self.size())
        while self.skip(";") or self.skip(","):
            option = self.take(kind="name")
            self.take("=")
            options.append((option, _number(self.take(kind="number"))))
        self.take(")")
        if name in ("max", "min"):
            return (maximum if name == "max" else minimum)(*arguments)
        if name not in FUNCTIONS:
            raise ValueError(f"no function {name}")
        return Call(FUNCTIONS[name], tuple(arguments), tuple(options))


def _number(digits: str) -> Option:
    return int(digits) if digits.isdigit() else float(digits)


def _value(word: str, kind: str) -> bool | int | float | str:
    if kind == "bool":
        return word == "true"
    if kind == "int":
        return int(word)
    return float(word) if kind.startswith("float") else word


def read_graph(source: str) -> Graph:
    """The graph of a text that `text` wrote, or that a person did; ValueError when it is none.

    >>> graph = read_graph('''
    ...     %ids = input : i64[batch, length]
    ...     %embed = embed %ids {vocab = 8, width = 4}
    ...     return rows = %embed
    ... ''')
    >>> graph["embed"].op
    Embed(vocab=8, width=4)
    """
    reader = _Reader(source)
    graph = reader.graph()
    if reader.kind:
        raise ValueError(f"expected the end, got {reader.next!r}")
    return graph


def read_methods(source: str) -> Methods:
    """The methods of a text that `text_of_methods` wrote."""
    reader, methods = _Reader(source), Methods()
    while reader.kind:
        reader.take("method")
        name = reader.take(kind="name")
        reader.take("{")
        methods[name] = reader.graph()
        reader.take("}")
    return methods


def read_size(source: str) -> Size:
    """The size of a text: `4 * total(image, image.tokens)`."""
    reader = _Reader(source)
    size = reader.size()
    if reader.kind:
        raise ValueError(f"expected the end, got {reader.next!r}")
    return size
