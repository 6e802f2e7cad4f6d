"""Draws graphs as one picture: SVG that needs no other file and no script.

Nodes stand in layers from the inputs down; a layer's order is found by averaging the places of what
each node takes and gives. What the host feeds to one operation alone is drawn as one box.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from .graph import Graph, Methods, Node
from .ops import Cache, Input

LETTER = 7.0
"""Width of a letter of the text in a box, in pixels."""
LINE = 16
PAD = 10
GAP_X = 28
GAP_Y = 44
MARGIN = 24
TITLE = 34

STYLE = """
text { font: 12px ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; fill: #1c2430; }
.title { font: 600 16px system-ui, sans-serif; }
.method { font: 600 13px system-ui, sans-serif; }
.name { font-weight: 600; }
.faint { fill: #5b6675; }
.box { fill: #e8effc; stroke: #4a74c9; }
.owner { fill: #fff1dc; stroke: #c98a2b; }
.frozen { fill: #eceff3; stroke: #8b95a3; stroke-dasharray: 5 3; }
.fed { fill: #f6f8fa; stroke: #aeb7c2; }
.result { fill: #e3f5e6; stroke: #45985a; }
.edge { fill: none; stroke: #7d8896; stroke-width: 1.3; }
.arrow { fill: #7d8896; }
.paper { fill: #ffffff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6eaf0; }
  .faint { fill: #9aa6b5; }
  .paper { fill: #14181e; }
  .box { fill: #1d2b47; }
  .owner { fill: #40301a; }
  .frozen { fill: #262c34; }
  .fed { fill: #1b2027; }
  .result { fill: #1b3322; }
}
"""


@dataclass
class Box:
    """Something drawn: its lines of text, what it takes, and where it stands."""

    key: str
    lines: list[str]
    kind: str
    takes: list[str]
    layer: int = 0
    x: float = 0.0
    y: float = 0.0

    @property
    def width(self) -> float:
        """In pixels."""
        return max(len(line) for line in self.lines) * LETTER + 2 * PAD

    @property
    def height(self) -> float:
        """In pixels."""
        return len(self.lines) * LINE + PAD


def picture(methods: Methods, *, title: str = "") -> str:
    """The methods side by side, each with the nodes, types and parameter counts of its graph.

    Boxes with a dashed rim do not learn; those with a warm rim own parameters.
    """
    drawn, x, height = list[str](), float(MARGIN), 0.0
    top = MARGIN + (TITLE if title else 0)
    for name, graph in methods.items():
        boxes = _boxes(graph)
        _place(boxes)
        label = "" if len(methods) == 1 else name
        left, wide, tall = x, _right(boxes), _bottom(boxes) + (TITLE if label else 0)
        drawn.append(_method(boxes, label, left, top))
        x += wide + 2 * GAP_X
        height = max(height, tall)
    width, height = x - 2 * GAP_X + MARGIN, height + top + MARGIN
    head = f'<text class="title" x="{MARGIN}" y="{MARGIN + 14}">{escape(title)}</text>'
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}"'
            f' width="{width:.0f}" height="{height:.0f}" role="img">',
            f"<title>{escape(title or 'graph')}</title>",
            f"<style>{STYLE}</style>",
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"',
            'markerHeight="7" orient="auto">',
            '<path class="arrow" d="M0 0L8 4L0 8z"/></marker></defs>',
            f'<rect class="paper" width="{width:.0f}" height="{height:.0f}"/>',
            *([head] if title else []),
            *drawn,
            "</svg>\n",
        ]
    )


def _boxes(graph: Graph) -> dict[str, Box]:
    """A box for each operation, for what the host feeds it, and for each output."""
    boxes, home = dict[str, Box](), dict[str, str]()
    for node in graph:
        if isinstance(node.op, Input):
            users = [user.name for user in graph.users(node.name)]
            key = f"fed to {users[0]}" if len(users) == 1 else node.name
            box = boxes.setdefault(key, Box(key, [], "fed", []))
            box.lines.append(f"{node.name}  {node.type}" if node.type else node.name)
            home[node.name] = key
        else:
            takes = list(dict.fromkeys(home[source] for source in node.inputs))
            boxes[node.name] = Box(node.name, _lines(node), _kind(node), takes)
            home[node.name] = node.name
    for name, source in graph.outputs.items():
        key = f"output {name}"
        boxes[key] = Box(key, [name], "result", [home[source]])
    return boxes


def _lines(node: Node) -> list[str]:
    numbers = sum(param.count for param in node.parameters.values())
    owned = f", {numbers:,}" if numbers else ""
    shared = f" of {node.weights}" if node.weights else ""
    facts = [f"{node.op.name}{shared}{owned}"]
    return [node.name, *facts, *([str(node.type)] if node.type else [])]


def _kind(node: Node) -> str:
    if isinstance(node.op, Cache):
        return "fed"
    if node.frozen:
        return "frozen"
    return "owner" if node.parameters and node.weights is None else "box"


def _place(boxes: dict[str, Box]) -> None:
    """Layers by the longest way from above; then rows ordered, and spread without overlap.

    What takes nothing but the host's inputs stands as low as it can, next to what it is for.
    """
    for box in boxes.values():
        box.layer = 1 + max((boxes[name].layer for name in box.takes), default=-1)
    for box in reversed(list(boxes.values())):
        below = [other.layer for other in boxes.values() if box.key in other.takes]
        if below and all(boxes[name].kind == "fed" for name in box.takes):
            box.layer = min(below) - 1
    layers = [
        [box for box in boxes.values() if box.layer == layer]
        for layer in range(1 + max((box.layer for box in boxes.values()), default=0))
    ]
    for layer in layers:
        _spread(layer, [0.0] * len(layer))
    for _ in range(8):
        for layer in (*layers, *reversed(layers)):
            _spread(layer, [_pull(box, boxes) for box in layer])
    left = min((box.x for box in boxes.values()), default=0.0)
    y = 0.0
    for layer in layers:
        for box in layer:
            box.x -= left
            box.y = y
        y += max((box.height for box in layer), default=0.0) + GAP_Y


def _pull(box: Box, boxes: dict[str, Box]) -> float:
    """Where the neighbours of a box would have its middle."""
    near = [boxes[name] for name in box.takes]
    near += [other for other in boxes.values() if box.key in other.takes]
    if not near:
        return _middle(box)
    return sum(map(_middle, near)) / len(near)


def _spread(layer: list[Box], wanted: Sequence[float]) -> None:
    """Put the boxes of a layer side by side, as near to where they want to be as there is room."""
    order = sorted(range(len(layer)), key=lambda i: wanted[i])
    edge = float("-inf")
    for i in order:
        box = layer[i]
        box.x = max(wanted[i] - box.width / 2, edge)
        edge = box.x + box.width + GAP_X
    if not order:
        return
    shift = sum(wanted[i] - _middle(layer[i]) for i in order) / len(order)
    for box in layer:
        box.x += shift


def _right(boxes: dict[str, Box]) -> float:
    return max((box.x + box.width for box in boxes.values()), default=0.0)


def _bottom(boxes: dict[str, Box]) -> float:
    return max((box.y + box.height for box in boxes.values()), default=0.0)


def _method(boxes: dict[str, Box], label: str, left: float, top: float) -> str:
    shift = TITLE if label else 0
    parts = [f'<g transform="translate({left:.1f} {top + shift:.1f})">']
    if label:
        parts.append(f'<text class="method" x="0" y="-14">{escape(label)}</text>')
    parts += _edges(boxes.values(), boxes)
    parts += [_box(box) for box in boxes.values()]
    return "\n".join([*parts, "</g>"])


def _edges(drawn: Iterable[Box], boxes: dict[str, Box]) -> Iterable[str]:
    for box in drawn:
        # From left to right as the sources stand, so that no two edges into a box cross.
        for place, source in enumerate(sorted((boxes[n] for n in box.takes), key=_middle)):
            x0, y0 = _middle(source), source.y + source.height
            x1 = box.x + box.width * (place + 1) / (len(box.takes) + 1)
            bend = max(GAP_Y / 2, (box.y - y0) / 2)
            yield (
                f'<path class="edge" marker-end="url(#tip)" d="M{x0:.1f} {y0:.1f}'
                f'C{x0:.1f} {y0 + bend:.1f} {x1:.1f} {box.y - bend:.1f} {x1:.1f} {box.y:.1f}"/>'
            )


def _middle(box: Box) -> float:
    return box.x + box.width / 2


def _box(box: Box) -> str:
    rect = (
        f'<rect class="{box.kind}" x="{box.x:.1f}" y="{box.y:.1f}" rx="7"'
        f' width="{box.width:.1f}" height="{box.height:.1f}"/>'
    )
    texts = [
        f'<text class="{"name" if number == 0 and box.kind != "fed" else "faint"}"'
        f' x="{box.x + PAD:.1f}" y="{box.y + LINE * (number + 1):.1f}">{escape(line)}</text>'
        for number, line in enumerate(box.lines)
    ]
    return rect + "".join(texts)
