"""Pictures of graphs: well formed, complete, and nothing lies on anything else."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from triptych.compiler.picture import picture
from triptych.compiler.pipeline import for_inference, for_training, model

SVG = "{http://www.w3.org/2000/svg}"


def drawn(methods, **options):
    return ElementTree.fromstring(picture(methods, **options))


def test_names_every_node_and_output(tiny):
    graph = model(tiny)
    words = {text.text for text in drawn({"model": graph}, title="tiny").iter(f"{SVG}text")}
    assert {node.name for node in graph if node.name.startswith(("vit", "lm", "merger"))} <= words
    assert {"tiny", "logits"} <= words


@pytest.mark.parametrize("stage", ["joint", "sft"])
def test_boxes_do_not_overlap(tiny, stage):
    programs = [for_training(tiny, stage).methods, for_inference(tiny, "chat").methods]
    for methods in programs:
        for group in drawn(methods).iter(f"{SVG}g"):
            boxes = [
                tuple(float(box.get(side)) for side in ("x", "y", "width", "height"))
                for box in group.iter(f"{SVG}rect")
            ]
            for index, (x, y, width, height) in enumerate(boxes):
                assert x >= 0
                for other_x, other_y, other_width, other_height in boxes[:index]:
                    apart_x = x >= other_x + other_width or other_x >= x + width
                    apart_y = y >= other_y + other_height or other_y >= y + height
                    assert apart_x or apart_y


def test_frozen_boxes_are_told_apart(tiny):
    kinds = {
        box.get("class") for box in drawn(for_training(tiny, "sft").methods).iter(f"{SVG}rect")
    }
    assert {"frozen", "owner", "fed", "result"} <= kinds


def test_needs_no_other_file(tiny):
    shown = picture({"model": model(tiny)}, title="<a & b>")
    assert "&lt;a &amp; b&gt;" in shown
    assert "href" not in shown and "<script" not in shown
