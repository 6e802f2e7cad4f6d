"""`triptych plan`: what each training stage trains and freezes, and what it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from ..dsl.files import shipped_recipes
from ..dsl.load import load_recipe
from .costs import MEMORY, TOKENS, asked_for, costs_of, of_modes, of_stage
from .media_options import image_option, video_option
from .output import amend_option, echo_json, heading, json_option, table

if TYPE_CHECKING:
    from ..compiler.ops import Param
    from ..compiler.outlay import Outlay
    from ..compiler.plan import Plan, StagePlan
    from ..dsl.kinds import CallModel
    from ..dsl.stages import DropPath, Ramp, Stage

_FEW = 6
"""So many rates of a stage are told one by one."""

EXAMPLES = """\b
Examples:
  triptych plan qwen2_vl_7b                     each stage: trained, frozen, tokens, work, memory
  triptych plan qwen2_vl_7b --gpus 8 --memory 80GiB          what fits, and how it is sharded
  triptych plan qwen2_vl_7b --image 1280x720 --text 512tok --rows 4
  triptych plan --all                           one line a stage, for every recipe that ships
  triptych plan my.vlm --set "sft.train=[lm]"   as if the recipe said so
"""


@click.command("plan", epilog=EXAMPLES)
@click.argument("recipes", nargs=-1, metavar="RECIPE...")
@click.option("--all", "shipped", is_flag=True, help="Every recipe that ships, in short.")
@image_option
@video_option
@click.option(
    "--text",
    type=TOKENS,
    help="Tokens of a sample beside those of its pictures and clips.  [default: 256tok]",
)
@click.option("--answer", type=TOKENS, help="How many of these are scored.  [default: all]")
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Samples, or packed rows, of a micro-batch; prompts of a mode.",
)
@click.option("--gpus", type=click.IntRange(min=1), help="How many devices there are.")
@click.option("--memory", type=MEMORY, help="What each of them holds: `80GiB`.")
@amend_option
@json_option
def plan_command(
    recipes: Sequence[str],
    shipped: bool,
    images: Sequence[tuple[int, int]],
    videos: Sequence[tuple[int, int, float, float]],
    text: int | None,
    answer: int | None,
    rows: int,
    gpus: int | None,
    memory: int | None,
    amend: Sequence[str],
    as_json: bool,
) -> None:
    """Show what each training stage of a RECIPE trains and freezes, by part and exactly, and what
    stages and modes take: tokens, operations and memory for samples of a given size.

    Without sizes, a sample is a picture of 448x448 (a clip of ten seconds where there are only
    clips) with 256 tokens of text. A stage must say of each parameter what becomes of it; where it
    does not, the exit code is 1. Training runs in one process: what more GPUs would need is said,
    not done.
    """
    from ..compiler.plan import plan

    if not recipes and not shipped:
        raise click.UsageError("Name a recipe, or say --all.")
    if (gpus is None) != (memory is None):
        raise click.UsageError("Say both --gpus and --memory, as in --gpus 8 --memory 80GiB.")
    asked = asked_for(images, videos, text, answer, rows, gpus, memory)
    names = (*recipes, *(shipped_recipes() if shipped else ()))
    loaded = [load_recipe(name, amend=amend) for name in names]
    plans = [plan(recipe) for recipe in loaded]
    if as_json and shipped:
        echo_json([made.to_json() for made in plans])
    elif as_json:
        data = [
            made.to_json() | {"costs": costs_of(recipe, made, asked).to_json()}
            for recipe, made in zip(loaded, plans, strict=True)
        ]
        echo_json(data[0] if len(data) == 1 else data)
    elif shipped:
        _in_short(plans)
    else:
        for number, (recipe, made) in enumerate(zip(loaded, plans, strict=True)):
            if number:
                click.echo()
            _in_full(made, costs_of(recipe, made, asked))


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
    return [str(entry) for entry in stage.settings.train]


def _in_full(made: Plan, costs: Outlay) -> None:
    from ..compiler.plan import by_part

    heading(f"{made.recipe}: {made.total:,} parameters in {len(made.parameters):,} tensors")
    table([("  parts", _sum(by_part(made.parameters)))])
    for stage, cost in zip(made.stages, costs.stages, strict=True):
        click.echo()
        heading(f"stage {stage.name}")
        rows = [*_rows(stage), *of_stage(cost)]
        table([(f"  {name}", value) for name, value in rows if value])
    of_modes(costs.modes)
    if made.assumed:
        click.echo()
        heading("assumed, since nothing published says it")
        click.echo(f"  {', '.join(made.assumed)}")


def _rows(stage: StagePlan) -> list[tuple[str, str]]:
    from ..compiler.plan import by_part, count
    from ..compiler.precision import in_words

    covered, settings = stage.coverage, stage.settings
    adapted = sorted({lora.target.text for lora in covered.adapted.values()})
    groups = {
        factor: count({name: stage.trained[name] for name in names})
        for factor, names in stage.groups.items()
    }
    rates = ", ".join(f"{number:,} at {factor:g}" for factor, number in groups.items())
    if len(groups) > _FEW:
        rates = f"from {min(groups):.3g} to {max(groups):.3g}, in {len(groups)} groups"
    kept = count({name: param for name, param in stage.trained.items() if name in stage.handed})
    state = f"optimizer state kept for {kept:,}" if kept else "no optimizer state to keep"
    lost = f", given up for {_sum(by_part(stage.given_up))}" if stage.given_up else ""
    after = f"{settings.after}; {state}{lost}" if settings.after else ""
    unit = settings.stop.unit
    stop = f"{settings.stop.value:,} {unit.removesuffix('s') if settings.stop.value == 1 else unit}"
    split = f", in {settings.accumulate} parts" if settings.accumulate > 1 else ""
    return [
        ("after", after),
        ("train", _sum(by_part(covered.trained))),
        ("adapt", _adapted(adapted, covered.added)),
        ("freeze", _sum(by_part(covered.frozen))),
        ("rates", rates if len(groups) > 1 else ""),
        ("drop path", ", ".join(map(_dropped, settings.drop_path))),
        (
            "drop tokens",
            ", ".join(f"{drop.target} {drop.rate:g}" for drop in settings.drop_tokens),
        ),
        ("cache", ", ".join(selector.text for selector in settings.cache)),
        ("recompute", ", ".join(selector.text for selector in settings.checkpoint)),
        ("loss", " + ".join(settings.loss)),
        ("layout", _layouts(settings)),
        ("resize", str(settings.resize or "")),
        ("augment", ", ".join(map(str, settings.augment))),
        ("pack", _pack(settings)),
        ("data", ", ".join(f"{name} {_share(one)}" for name, one in settings.data.shares.items())),
        ("apart", ", ".join(settings.apart)),
        (
            "by length",
            f"out of {settings.group_by_length:,} steps" if settings.group_by_length else "",
        ),
        ("stop", f"{stop}, {settings.batch:,} seq a step{split}, {in_words(settings.precision)}"),
        ("optim", _call(settings.optim)),
        ("schedule", _call(settings.schedule)),
        ("assumed", ", ".join(path.removeprefix(f"{stage.name}.") for path in stage.assumed)),
    ]


def _sum(parts: Mapping[str, int]) -> str:
    """`vit 631,183,360 + merger 44,575,744 = 675,759,104`."""
    shown = " + ".join(f"{part} {number:,}" for part, number in parts.items())
    return f"{shown} = {sum(parts.values()):,}" if len(parts) > 1 else shown


def _adapted(targets: Sequence[str], added: Mapping[str, Param]) -> str:
    from ..compiler.plan import count

    if not targets:
        return ""
    return f"{', '.join(targets)}: {count(added):,} added, merged into their matrices at the end"


def _dropped(drop: DropPath) -> str:
    return f"{drop.target} {drop.rate:g}, {drop.over}"


def _layouts(settings: Stage) -> str:
    if isinstance(settings.layout, tuple):
        return ", ".join(settings.layout)
    each = settings.layout.layouts.items()
    return ", ".join(f"{' or '.join(names)} for {kind}" for kind, names in each)


def _pack(settings: Stage) -> str:
    if settings.pack is None:
        return ""
    return f"{settings.pack:,} tok" + (", by kind of data" if settings.pack_by_kind else "")


def _share(share: float | Ramp) -> str:
    if isinstance(share, float):
        return f"{share:g}"
    return f"{share.start:g} to {share.end:g} over {share.over:,} steps"


def _call(call: CallModel) -> str:
    """A call with its arguments: all numbers, and words and lists that are not the default."""
    from ..dsl.kinds import written

    fields = type(call).model_fields
    arguments = [
        f"{name}: {written(value)}"
        for name, value in call
        if value is not None
        and not (isinstance(value, str) and value == fields[name].default)
        and value != ()
    ]
    return f"{fields['call'].default}({', '.join(arguments)})"
