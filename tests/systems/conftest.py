"""What every published system has at a size that runs here: recipes whose name ends in `_tiny`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe
from triptych.dsl.recipe import Recipe

TINY = tuple(name for name in shipped_recipes() if "_tiny" in name)


@cache
def tiny(name: str) -> Recipe:
    """A recipe that ships, read once."""
    return load_recipe(name)


STAGES = [(name, stage) for name in TINY for stage in tiny(name).stages]
MODES = [(name, mode) for name in TINY for mode in tiny(name).modes]


@pytest.fixture(scope="session")
def picture(tmp_path_factory) -> Path:
    """A real picture in a file, wider than high."""
    file: Path = tmp_path_factory.mktemp("picture") / "sun.png"
    canvas = Image.new("RGB", (80, 50), "navy")
    ImageDraw.Draw(canvas).ellipse((20, 10, 50, 40), fill="gold")
    canvas.save(file)
    return file


@pytest.fixture(scope="session")
def data(tmp_path_factory) -> Path:
    """Pictures with captions, which every layout takes: as a caption, or as question and answer."""
    folder: Path = tmp_path_factory.mktemp("data")
    colours = ("red", "green", "blue", "gold")
    records = []
    for number, colour in enumerate(colours * 2):
        canvas = Image.new("RGB", (48 + 8 * number, 40), "white")
        ImageDraw.Draw(canvas).rectangle((8, 8, 24 + 4 * number, 32), fill=colour)
        canvas.save(folder / f"{number}.png")
        turns = [
            {"from": "human", "value": "<image>"},
            {"from": "gpt", "value": f"a {colour} square number {number}."},
        ]
        records.append({"image": f"{number}.png", "conversations": turns})
    file = folder / "pictures.json"
    file.write_text(json.dumps(records))
    return file
