"""What holds of a graph between any two passes; a break is a mistake of the compiler."""

from __future__ import annotations

from .graph import Graph, Methods, Node
from .ops import Cast, Input


def verify(methods: Methods) -> None:
    """AssertionError, with the node's name, where a promise is broken."""
    for method, graph in methods.items():
        _verify(method, graph)


def _verify(method: str, graph: Graph) -> None:
    seen = set[str]()
    for name, node in graph.nodes.items():
        place = f"{method}: {name}"
        assert node.name == name, f"{place}: filed under another name, {node.name}"
        late = [source for source in node.inputs if source not in seen]
        assert not late, f"{place}: takes {late}, which does not stand before it"
        seen.add(name)
        if isinstance(node.op, Input):
            assert node.type == node.op.type, f"{place}: an input of another type than declared"
        if node.type is None:
            continue
        given = [graph[source].type for source in node.inputs]
        assert None not in given, f"{place}: typed before what it takes"
        result = node.result(*(type_ for type_ in given if type_))
        assert node.type == result, f"{place}: typed {node.type}, yields {result}"
        _verify_precision(place, graph, node)
    missing = [source for source in graph.outputs.values() if source not in graph]
    assert not missing, f"{method}: outputs that are not there: {missing}"
    _verify_parameters(method, graph)


def _verify_precision(place: str, graph: Graph, node: Node) -> None:
    """What a node takes is in the precision that it computes in; float32 tables fit them all."""
    if node.precision is None or isinstance(node.op, Cast):
        return
    for source in (graph[name] for name in node.inputs):
        dtype = source.type.dtype if source.type else None
        fits = dtype in (node.precision, "i64") or (dtype == "f32" and source.precision is None)
        assert fits, f"{place}: computes in {node.precision}, takes {dtype} of {source.name}"


def _verify_parameters(method: str, graph: Graph) -> None:
    """All calls of a module agree on its parameters, and a head that is tied finds its table."""
    shapes = dict[str, object]()
    for node in graph:
        for name, param in node.parameters.items():
            assert shapes.setdefault(name, param) == param, f"{method}: {name} has two shapes"
