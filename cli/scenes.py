"""`triptych scenes`: draw the demo's data set, scenes of two things and what they show.

A scene is a plain ground with two drawings beside or above one another. All of it follows from a
seed by integer arithmetic, so that every machine draws the same pixels.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from itertools import combinations, permutations, product
from pathlib import Path
from typing import Any

import click
from PIL import Image

NOUNS = (
    *("frog", "guitar", "key", "pizza", "star", "heart", "pineapple", "bicycle"),
    *("candle", "cactus", "fish", "moon", "ring", "ladybird", "helicopter", "car"),
)
"""Of the 72 things on the sheets, some that the training hands draw alike: where they do not agree,
nobody could know what another hand will draw."""
BESIDE, ABOVE = RELATIONS = ("to the left of", "above")
HANDS = ("noto_v1", "twemoji", "fluent_flat", "fluent", "emojione")
UNSEEN_HAND = "noto"
QUESTION = "Describe the picture."

SIDE = 96
"""Pixels of a scene's side; each of its two things has one half of it."""
SIZES = range(38, 49)
DRIFT = 10
"""How far a thing may stand from the middle line that both are on, in pixels."""
CELLS = 3
"""Rows and columns of a scene that is told in words; as many as the model has visual tokens."""
EMPTY = "."
PLACES = tuple(
    ((before, one), (after, other))
    for (before, after), (one, other) in product(
        combinations(range(CELLS), 2), product(range(CELLS), repeat=2)
    )
    if abs(one - other) < after - before
)
"""Where two things of a told scene may stand, along the way that its relation means and across it.

They are further apart along than across: the sentence must follow from the scene.
"""

VOCABULARY = 384
SPECIALS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    *("<|vision_start|>", "<|vision_end|>", "<|image_pad|>"),
)
"""The special tokens of `recipes/scenes.vlm`, in the order of their ids."""

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Statement:
    """What a scene shows. The thing further left or further up comes first.

    So the sentence is a function of the picture: with either order, no model could know which.
    """

    first: str
    relation: str
    second: str

    def __str__(self) -> str:
        return f"a {self.first} {self.relation} a {self.second}."

    @property
    def nouns(self) -> tuple[str, str]:
        """Both things."""
        return self.first, self.second

    @property
    def held_out(self) -> bool:
        """Whether it is kept from training: about one in ten, by a hash of the sentence."""
        digest = hashlib.sha256(str(self).encode()).digest()
        return int.from_bytes(digest[:8], "big") % 10 == 0


@dataclass(frozen=True, slots=True)
class Kind:
    """One of the files of a data set: which statements, drawn by which hands."""

    name: str
    title: str
    statements: tuple[Statement, ...]
    hands: tuple[str, ...]


STATEMENTS = tuple(
    Statement(first, relation, second)
    for (first, second), relation in product(permutations(NOUNS, 2), RELATIONS)
)
KNOWN = tuple(statement for statement in STATEMENTS if not statement.held_out)
NEW = tuple(statement for statement in STATEMENTS if statement.held_out)

TOLD = "told"
DRAWN = Kind("drawn", "scenes to train on", KNOWN, HANDS)
HELD_OUT = Kind("held_out", "scenes of new combinations", NEW, HANDS)
UNSEEN = Kind("unseen_hand", "scenes by an unseen hand", STATEMENTS, (UNSEEN_HAND,))


@dataclass(frozen=True, slots=True)
class Counts:
    """How many scenes of each kind a data set holds."""

    told: int = 16_000
    drawn: int = 40_000
    tests: int = 500
    """Of each of the two kinds that are kept for testing."""

    def of(self, kind: Kind) -> int:
        """The scenes of one kind."""
        return self.drawn if kind is DRAWN else self.tests


DEFAULT = Counts()
DONE = "data_set.json"
"""The file that says what stands in a folder; it is written last."""


@cache
def sheet(hand: str) -> Image.Image:
    """All drawings of one hand."""
    with (files("triptych.recipes") / "pictures" / f"{hand}.png").open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def _cells() -> tuple[int, dict[str, tuple[int, int]]]:
    """The side of a sheet's cells, and the corner of each noun's."""
    text = (files("triptych.recipes") / "pictures" / "index.json").read_text(encoding="utf-8")
    index = json.loads(text)
    side, columns = index["cell"], index["columns"]
    corners = {
        picture["noun"]: (number % columns * side, number // columns * side)
        for number, picture in enumerate(index["pictures"])
    }
    return side, corners


@cache
def drawing(hand: str, noun: str, size: int) -> Image.Image:
    """One thing by one hand, `size` pixels a side."""
    side, corners = _cells()
    x, y = corners[noun]
    cell = sheet(hand).crop((x, y, x + side, y + side))
    return cell.resize((size, size), Image.Resampling.BICUBIC)


def draw(
    statement: Statement, hands: Sequence[str], rng: random.Random
) -> tuple[Image.Image, tuple[Box, Box]]:
    """A scene that the statement describes, and the boxes of its two things, in pixels."""
    scene = Image.new("RGB", (SIDE, SIDE), tuple(rng.randrange(128, 256) for _ in range(3)))
    boxes: list[Box] = []
    for half, noun in enumerate(statement.nouns):
        size = rng.choice(SIZES)
        along = half * SIDE // 2 + rng.randrange(SIDE // 2 - size + 1)
        across = (SIDE - size) // 2 + rng.randrange(-DRIFT, DRIFT + 1)
        x, y = (along, across) if statement.relation == BESIDE else (across, along)
        thing = drawing(rng.choice(hands), noun, size)
        scene.paste(thing, (x, y), thing)
        boxes.append((x, y, x + size, y + size))
    first, second = boxes
    return scene, (first, second)


def tell(statement: Statement, rng: random.Random) -> str:
    """A scene that the statement describes, told in words, one for each cell, row by row."""
    cells = [[EMPTY] * CELLS for _ in range(CELLS)]
    for (along, across), noun in zip(rng.choice(PLACES), statement.nouns, strict=True):
        row, column = (across, along) if statement.relation == BESIDE else (along, across)
        cells[row][column] = noun
    return "".join(f" {word}" for row in cells for word in row)


def record(statement: Statement, shown: str) -> dict[str, Any]:
    """A dialogue in LLaVA's form: what is shown with the question, and the statement."""
    return {
        "conversations": [
            {"from": "human", "value": f"{shown}\n{QUESTION}"},
            {"from": "gpt", "value": str(statement)},
        ]
    }


def tell_scenes(count: int, seed: int) -> list[dict[str, Any]]:
    """Scenes in words."""
    rng = random.Random(f"{seed}/{TOLD}")
    chosen = (rng.choice(KNOWN) for _ in range(count))
    return [record(statement, tell(statement, rng)) for statement in chosen]


def write_scenes(folder: Path, kind: Kind, seed: int, numbers: range) -> list[dict[str, Any]]:
    """Draw the scenes of these numbers, write their pictures, and return their records."""
    records = []
    for number in numbers:
        rng = random.Random(f"{seed}/{kind.name}/{number}")
        statement = rng.choice(kind.statements)
        scene, boxes = draw(statement, kind.hands, rng)
        name = f"{kind.name}/{number // 1000:02}/{number:05}.png"
        path = folder / name
        if number == numbers.start or number % 1000 == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
        # Stronger compression takes a third longer and saves a fifteenth.
        scene.save(path, compress_level=1)
        regions = [
            {"box": list(box), "label": f"a {noun}"}
            for box, noun in zip(boxes, statement.nouns, strict=True)
        ]
        records.append({"image": name, **record(statement, "<image>"), "regions": regions})
    return records


def write_tokenizer(path: Path, texts: Iterator[str]) -> None:
    """Train a byte-level BPE on the texts, and write it as `tokenizer.json`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.save(str(path))


def write_data_set(out: Path, counts: Counts, seed: int = 0) -> bool:
    """Write a data set into `out`, unless it is there already; whether anything was written.

    What stands there of another data set is removed first.
    """
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    settings = {**asdict(counts), "seed": seed, "source": source}
    done = out / DONE
    if done.is_file() and json.loads(done.read_text(encoding="utf-8")) == settings:
        return False
    done.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    _write(out / f"{TOLD}.json", tell_scenes(counts.told, seed))
    for kind in (DRAWN, HELD_OUT, UNSEEN):
        shutil.rmtree(out / kind.name, ignore_errors=True)
        _write(out / f"{kind.name}.json", list(_in_parts(out, kind, seed, counts.of(kind))))
    write_tokenizer(
        out / "tokenizer.json",
        (turn["value"] for one in tell_scenes(4000, seed) for turn in one["conversations"]),
    )
    _write(done, settings)
    return True


def _in_parts(
    out: Path, kind: Kind, seed: int, count: int, part: int = 2000
) -> Iterator[Mapping[str, Any]]:
    """The records of all scenes of a kind; each part is drawn by a process of its own."""
    parts = [range(begin, min(begin + part, count)) for begin in range(0, count, part)]
    if len(parts) < 2:
        for numbers in parts:
            yield from write_scenes(out, kind, seed, numbers)
        return
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for records in pool.map(
            write_scenes, *zip(*((out, kind, seed, numbers) for numbers in parts), strict=True)
        ):
            yield from records


EXAMPLES = """\b
Examples:
  triptych scenes --out data/scenes
  triptych scenes --out data/few --drawn 2000 --seed 7
"""


@click.command("scenes", epilog=EXAMPLES)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for the pictures, their records and the tokenizer.",
)
@click.option(
    "--drawn",
    type=click.IntRange(1, 99_999),
    default=DEFAULT.drawn,
    show_default=True,
    help="Scenes for training.",
)
@click.option(
    "--told",
    type=click.IntRange(min=1),
    default=DEFAULT.told,
    show_default=True,
    help="Scenes in words for training.",
)
@click.option(
    "--tests",
    type=click.IntRange(1, 99_999),
    default=DEFAULT.tests,
    show_default=True,
    help="Scenes of each of the two kinds that are kept for testing.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Another data set.")
def scenes_command(out: Path, drawn: int, told: int, tests: int, seed: int) -> None:
    """Draw scenes of two things, with what they show, in LLaVA's form.

    Three files name pictures: drawn.json for training, held_out.json with statements that are never
    trained on, and unseen_hand.json with drawings of a hand that is never trained on. Records hold
    the box of each thing. told.json tells scenes in words, and tokenizer.json is trained on it all.
    """
    wrote = write_data_set(out, Counts(told, drawn, tests), seed)
    click.echo(f"{'wrote' if wrote else 'unchanged:'} {out}")


def _write(path: Path, value: Any) -> None:
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(value, file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
