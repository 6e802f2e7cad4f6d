"""`triptych show`: a recipe's parts, parameters or graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..dsl.load import load_recipe
from ..dsl.recipe import Recipe
from .output import amend_option, echo_json, heading, table

if TYPE_CHECKING:
    from ..compiler.graph import Methods
    from ..compiler.pipeline import Watcher

EXAMPLES = """\b
Examples:
  triptych show qwen2_vl_2b                              the parts, and what each module holds
  triptych show qwen2_vl_2b --parameters --stage sft     every tensor: name, shape, trained or not
  triptych show qwen2_vl_2b --ir                         the graph of the whole model
  triptych show qwen2_vl_2b --ir --mode chat --method decode
  triptych show qwen2_vl_2b --ir --stage sft --after add_losses --times
  triptych show qwen2_vl_2b --svg graph.svg              the graph as a picture
  triptych show qwen2_vl_2b --json                       the recipe as JSON; see `triptych schema`
"""


@click.command("show", epilog=EXAMPLES)
@click.argument("recipe")
@click.option("--parameters", is_flag=True, help="Every tensor: names, shape, size.")
@click.option("--ir", is_flag=True, help="The graph as text.")
@click.option("--stage", help="As this training stage sees it.")
@click.option("--mode", help="As this mode sees it.")
@click.option("--after", metavar="PASS", help="With --ir: what there was after this pass.")
@click.option("--method", help="With --ir or --svg: one method alone.")
@click.option("--places", is_flag=True, help="With --ir: where in the recipe each node stands.")
@click.option("--times", is_flag=True, help="With --ir: how long each pass took.")
@click.option(
    "--svg", type=click.Path(path_type=Path, dir_okay=False), help="Draw the graph to a file."
)
@click.option("--json", "as_json", is_flag=True, help="The recipe as JSON, nothing inherited.")
@amend_option
def show_command(
    recipe: str,
    parameters: bool,
    ir: bool,
    stage: str | None,
    mode: str | None,
    after: str | None,
    method: str | None,
    places: bool,
    times: bool,
    svg: Path | None,
    as_json: bool,
    amend: Sequence[str],
) -> None:
    """Show the parts of RECIPE, its parameters, or its graph before and after each pass.

    Without --stage and --mode it is the whole model, as both begin with it.
    """
    loaded = load_recipe(recipe, amend=amend)
    if stage and mode:
        raise click.UsageError("Choose a stage or a mode, not both.")
    _known("stage", stage, loaded.stages)
    _known("mode", mode, loaded.modes)
    if as_json:
        from ..dsl.schema import to_json

        echo_json(to_json(loaded))
        return
    if parameters:
        _show_parameters(loaded, stage, mode)
        return
    if not ir and svg is None:
        _show_parts(loaded)
        return
    from ..compiler.text import text, text_of_methods

    watcher = _compile(loaded, stage, mode)
    methods = _chosen(watcher, after, method)
    if svg is not None:
        _draw(loaded, methods, svg)
    if ir and len(methods) == 1:
        click.echo(text(next(iter(methods.values())), places=places), nl=False)
    elif ir:
        click.echo(text_of_methods(methods, places=places), nl=False)
    if times:
        click.echo()
        table([(step.name, f"{1000 * step.seconds:.2f} ms") for step in watcher.steps])


def _known(what: str, name: str | None, names: Iterable[str]) -> None:
    if name is not None and name not in list(names):
        there = ", ".join(names) or "none"
        raise click.UsageError(f"There is no {what} {name}; there is {there}.")


def _compile(recipe: Recipe, stage: str | None, mode: str | None) -> Watcher:
    """Run the passes of a stage, of a mode, or of the model alone."""
    from ..compiler.pipeline import Watcher, for_inference, for_training, model

    watcher = Watcher()
    if stage:
        for_training(recipe, stage, watcher=watcher)
    elif mode:
        for_inference(recipe, mode, watcher=watcher)
    else:
        model(recipe, watcher=watcher)
    return watcher


def _chosen(watcher: Watcher, after: str | None, method: str | None) -> Methods:
    names = [step.name for step in watcher.steps]
    if after is not None and after not in names:
        raise click.UsageError(f"There is no pass {after}; there is {', '.join(names)}.")
    methods = watcher.after(after or names[-1])
    _known("method", method, list(methods))
    return {method: methods[method]} if method else methods


def _show_parts(recipe: Recipe) -> None:
    from ..compiler.pipeline import model
    from ..compiler.plan import count

    graph = model(recipe)
    rows = [
        (node.name, node.op.name, f"{count(node.parameters):,}", _form(node.type))
        for node in graph
        if node.weights is None and node.parameters
    ]
    rows += [
        (node.name, node.op.name, f"is {node.weights}", _form(node.type))
        for node in graph
        if node.weights and not node.parameters
    ]
    total = graph.parameters()
    heading(f"{recipe.name}: {count(total):,} parameters in {len(total):,} tensors")
    table(rows, ("module", "operation", "parameters", "yields"))
    click.echo()
    used: list[tuple[str, Mapping[str, object]]] = [
        ("inputs", recipe.inputs),
        ("layouts", recipe.layouts),
        ("stages", recipe.stages),
        ("modes", recipe.modes),
    ]
    table([(name, ", ".join(there)) for name, there in used if there])


def _form(type_: object) -> str:
    return "" if type_ is None else str(type_)


def _show_parameters(recipe: Recipe, stage: str | None, mode: str | None) -> None:
    from ..compiler.coverage import coverage
    from ..compiler.pipeline import model
    from ..compiler.quantization import quantized
    from ..compiler.weights import names

    published = names(recipe).published
    covered = coverage(recipe, stage) if stage else None
    few = quantized(recipe, recipe.modes[mode]) if mode else {}
    rows = []
    for name, param in model(recipe).parameters().items():
        state = [] if covered is None else ["trained" if name in covered.trained else "frozen"]
        if covered is not None and name in covered.adapted:
            state = ["adapted"]
        if few:
            state.append(str(few.get(name, "")))
        shape = " x ".join(map(str, param.shape))
        rows.append((name, shape, f"{param.count:,}", *state, published[name]))
    more = [*(["state"] if stage else []), *(["kept in"] if few else [])]
    table(rows, ("parameter", "shape", "numbers", *more, "published as"))


def _draw(recipe: Recipe, methods: Methods, path: Path) -> None:
    from ..compiler.picture import picture

    path.write_text(picture(methods, title=recipe.name), encoding="utf-8")
    click.echo(f"wrote {path}", err=True)
