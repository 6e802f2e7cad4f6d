"""`triptych export`: trained weights under their published names."""

from __future__ import annotations

from pathlib import Path

import click

from ..dsl.load import load_recipe
from .output import amend_option

EXAMPLES = """\b
Examples:
  triptych export my.vlm --weights runs/my --out my.safetensors
  triptych export my.vlm --weights runs/my --part lm --out lm.safetensors
"""


@click.command("export", epilog=EXAMPLES)
@click.argument("recipe")
@click.option(
    "--weights",
    type=click.Path(exists=True, path_type=Path),
    required=True,
    help="A run, a checkpoint, a .safetensors file, or a folder of published ones.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The .safetensors file to write.",
)
@click.option(
    "--part", "parts", multiple=True, help="Only this part of the recipe, such as lm. Repeatable."
)
@amend_option
def export_command(
    recipe: str, weights: Path, out: Path, parts: tuple[str, ...], amend: tuple[str, ...]
) -> None:
    """Write the weights of RECIPE under their published names, in their published form.

    The recipe's map says both, so that the code which published the model can read the file.
    """
    loaded = load_recipe(recipe, amend=amend)

    from safetensors.torch import save_file

    from ..backends.weights import Weights, as_published, checked_parts

    chosen = checked_parts(loaded, parts) if parts else None
    tensors = dict(Weights.open(loaded, weights, chosen).tensors())
    published = {name: tensor.contiguous() for name, tensor in as_published(loaded, tensors)}
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.part")
    save_file(published, unfinished, metadata={"format": "pt"})
    unfinished.replace(out)
    click.echo(f"{len(published)} tensors  {out}")
