"""`triptych schema`: what a recipe looks like as JSON."""

from __future__ import annotations

import click

from .output import echo_json

EXAMPLES = """\b
Examples:
  triptych schema > recipe.schema.json             for a validator, an editor, a language model
  triptych show qwen2_vl_2b --json > recipe.json   a recipe in that form
  triptych new my_model --from recipe.json         and back to a text
"""


@click.command("schema", epilog=EXAMPLES)
def schema_command() -> None:
    """Print the JSON Schema (draft 2020-12) of a recipe.

    It is made of the models that check recipes, and describes each setting.
    """
    from ..dsl.schema import schema

    echo_json(schema())
