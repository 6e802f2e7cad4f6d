"""`triptych plan`: what each training stage trains and freezes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from ..dsl.load import load_recipe, shipped_recipes
from .output import amend_option, echo_json, heading, json_option, table

if TYPE_CHECKING:
    from ..compiler.plan import Plan, StagePlan

EXAMPLES = """\b
Examples:
  triptych plan qwen2_vl_7b                     each stage: trained, frozen, rates, what is assumed
  triptych plan --all                           one line a stage, for every recipe that ships
  triptych plan my.vlm --set "sft.train=[lm]"   as if the recipe said so
"""


@click.command("plan", epilog=EXAMPLES)
@click.argument("recipes", nargs=-1, metavar="RECIPE...")
@click.option("--all", "shipped", is_flag=True, help="Every recipe that ships, in short.")
@amend_option
@json_option
def plan_command(
    recipes: Sequence[str], shipped: bool, amend: Sequence[str], as_json: bool
) -> None:
    """Show what each training stage of a RECIPE trains and freezes, by part and exactly.

    A stage must say of each parameter what becomes of it; where it does not, the exit code is 1.
    """
    from ..compiler.plan import plan

    if not recipes and not shipped:
        raise click.UsageError("Name a recipe, or say --all.")
    plans = [
        plan(load_recipe(name, amend=amend))
        for name in (*recipes, *(shipped_recipes() if shipped else ()))
    ]
    if as_json:
        data = [made.to_json() for made in plans]
        echo_json(data[0] if len(data) == 1 and not shipped else data)
    elif shipped:
        _in_short(plans)
    else:
        for number, made in enumerate(plans):
            if number:
                click.echo()
            _in_full(made)


def _in_short(plans: Sequence[Plan]) -> None:
    from ..compiler.plan import count

    rows = [
        (
            made.recipe,
            stage.name,
            f"{count(stage.trained):,}",
            f"{count(stage.coverage.frozen):,}",
            ", ".join(selector_texts(stage)),
        )
        for made in plans
        for stage in made.stages
    ]
    table(rows, ("recipe", "stage", "trained", "frozen", "what is trained"))


def selector_texts(stage: StagePlan) -> list[str]:
    """What the stage's `train` lists, as written."""
    from ..dsl.recipe import Lora, Lr

    shown = []
    for entry in stage.settings.train:
        match entry:
            case Lora(target=target, rank=rank):
                shown.append(f"lora({target}, rank: {rank})")
            case Lr(target=target, factor=factor):
                shown.append(f"lr({target}, {factor:g})")
            case _:
                shown.append(entry.text)
    return shown


def _in_full(made: Plan) -> None:
    from ..compiler.plan import by_part

    heading(f"{made.recipe}: {made.total:,} parameters in {len(made.parameters):,} tensors")
    table([("  parts", _sum(by_part(made.parameters)))])
    for stage in made.stages:
        click.echo()
        heading(f"stage {stage.name}")
        table([(f"  {name}", value) for name, value in _rows(made, stage) if value])
    if made.assumed:
        click.echo()
        heading("assumed, since nothing published says it")
        click.echo(f"  {', '.join(made.assumed)}")


def _rows(made: Plan, stage: StagePlan) -> list[tuple[str, str]]:
    from ..compiler.plan import by_part, count

    covered, settings = stage.coverage, stage.settings
    adapted = sorted({lora.target.text for lora in covered.adapted.values()})
    rates = [
        f"{count({name: stage.trained[name] for name in names}):,} at {factor:g}"
        for factor, names in stage.groups.items()
    ]
    kept = count({name: param for name, param in stage.trained.items() if name in stage.handed})
    state = f"optimizer state kept for {kept:,}" if kept else "no optimizer state to keep"
    after = f"{settings.after}; {state}" if settings.after else ""
    unit = settings.stop.unit
    stop = f"{settings.stop.value:,} {unit.removesuffix('s') if settings.stop.value == 1 else unit}"
    split = f", in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    return [
        ("after", after),
        ("train", _sum(by_part(covered.trained))),
        ("adapt", f"{', '.join(adapted)}: {count(covered.added):,} added" if adapted else ""),
        ("freeze", _sum(by_part(covered.frozen))),
        ("rates", ", ".join(rates) if len(rates) > 1 else ""),
        ("recompute", ", ".join(selector.text for selector in settings.checkpoint)),
        ("loss", " + ".join(settings.loss)),
        ("layout", ", ".join(settings.layout)),
        ("pack", f"{settings.pack:,} tok" if settings.pack else ""),
        ("data", ", ".join(f"{name} {share:g}" for name, share in settings.data.shares.items())),
        ("stop", f"{stop}, {settings.batch:,} seq a step{split}, {settings.precision}"),
        ("optim", _call(settings.optim.model_dump())),
        ("schedule", _call(settings.schedule.model_dump())),
        ("assumed", ", ".join(path.removeprefix(f"{stage.name}.") for path in stage.assumed)),
    ]


def _sum(parts: Mapping[str, int]) -> str:
    """`vit 631,183,360 + merger 44,575,744 = 675,759,104`."""
    shown = " + ".join(f"{part} {number:,}" for part, number in parts.items())
    return f"{shown} = {sum(parts.values()):,}" if len(parts) > 1 else shown


def _call(dumped: Mapping[str, object]) -> str:
    """A call with its arguments, as a recipe writes it."""
    arguments = [
        f"{name}: {_plain(value)}"
        for name, value in dumped.items()
        if name != "call" and value is not None
    ]
    return f"{dumped['call']}({', '.join(arguments)})"


def _plain(value: object) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return str(value)
