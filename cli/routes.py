"""What `triptych run` prints of modes that compare pictures with texts, or only look."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .output import table

if TYPE_CHECKING:
    from ..backends.embedding import Embedder, Looker

PLAIN = ("a photo of a {}",)
"""How a class is told where no template is given."""


def run_routes(
    session: Looker,
    images: Sequence[Path],
    texts: Sequence[str],
    classes: Sequence[str],
    templates: Sequence[str],
    out: Path | None,
    as_json: bool,
) -> None:
    """Show how well pictures go with texts or classes, or write what is made of the pictures."""
    from ..backends.embedding import Embedder

    if not images:
        raise click.UsageError("this mode looks at pictures: give one with --image")
    if not isinstance(session, Embedder):
        _features(session, images, out)
    elif bool(texts) == bool(classes):
        raise click.UsageError("give --text to compare pictures with, or --class, not both")
    else:
        _scores(session, images, texts, classes, templates or PLAIN, out, as_json)


def _scores(
    session: Embedder,
    images: Sequence[Path],
    texts: Sequence[str],
    classes: Sequence[str],
    templates: Sequence[str],
    out: Path | None,
    as_json: bool,
) -> None:
    pictures = session.pictures(images)
    said = session.texts(texts) if texts else session.classes(classes, templates)
    cosines, logits = session.cosines(pictures, said), session.logits(pictures, said)
    shares = logits.softmax(1)
    rows = [
        {
            "image": str(image),
            "class" if classes else "text": name,
            "cosine": cosines[i, j].item(),
            "logit": logits[i, j].item(),
            "share": shares[i, j].item(),
        }
        for i, image in enumerate(images)
        for j, name in enumerate(classes or texts)
    ]
    if out:
        _write(out, {"image": pictures, "text": said, "cosine": cosines, "logit": logits})
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False))
        return
    table([_cells(row) for row in rows], tuple(rows[0]))


def _cells(row: dict[str, Any]) -> list[str]:
    return [f"{value:.4f}" if isinstance(value, float) else value for value in row.values()]


def _features(session: Looker, images: Sequence[Path], out: Path | None) -> None:
    """Every token; and for towers with a class token, it and the mean of the patches."""
    if out is None:
        raise click.UsageError("features are written to a file: name one with --out")
    tokens = session.pictures(images)
    made = {"tokens": tokens}
    if session.class_token:
        made |= {"class": tokens[:, 0], "patches": tokens[:, 1:], "mean": tokens[:, 1:].mean(1)}
    _write(out, made)
    table(
        [(name, " x ".join(map(str, tensor.shape))) for name, tensor in made.items()],
        ("tensor", "sizes"),
    )


def _write(out: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    out.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, out)
