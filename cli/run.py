"""`triptych run`: ask a recipe or an artefact about pictures, clips and text."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..backends import BACKENDS, able
from ..blocks.input.calls import CHUNK
from .boxes import Corners, draw_places, found, in_words
from .executing import (
    dtype_option,
    job_of,
    mode_of,
    mode_option,
    random_option,
    weights_option,
)
from .output import amend_option
from .routes import run_routes

if TYPE_CHECKING:
    from ..backends.embedding import AnySession
    from ..backends.generation import Session
    from ..backends.sampling import Sampling
    from ..blocks.input.places import Place
    from ..blocks.input.sample import Turn

EXAMPLES = """\b
Examples:
  triptych run scenes.artefact --image scene.png --prompt "Describe this image."
  triptych run qwen2_vl_2b --weights Qwen2-VL-2B-Instruct/ --image a.png --prompt "What is this?"
  triptych run scenes.artefact --interactive
  triptych run linked.artefact --weights /mnt/Qwen2-VL-2B-Instruct/ --prompt "Who are you?"
  triptych run scenes.artefact --batch questions.jsonl > answers.jsonl
  triptych run internvl_14b --mode retrieval_c --weights IN/ --image a.png --text "a fox"
  triptych run find.artefact --image a.png --ref "the dog" --draw b.png
  echo "What is this?" | triptych run scenes.artefact --image scene.png --prompt -

\b
A batch is a file of the records that `train` reads; each is asked up to its last answer.
"""
DRAWN = click.Path(dir_okay=False, writable=True, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("run", epilog=EXAMPLES)
@click.argument("model", metavar="RECIPE|ARTEFACT")
@click.option("--image", "images", type=FILE, multiple=True, help="A picture. Repeatable.")
@click.option("--video", "videos", type=FILE, multiple=True, help="A clip. Repeatable.")
@click.option("--ref", "refs", multiple=True, help="Words for a thing in the picture. Repeatable.")
@click.option("--box", "boxes", type=Corners(), multiple=True, help="Where it is. Repeatable.")
@click.option("--text", "texts", multiple=True, help="Compare pictures with it. Repeatable.")
@click.option("--class", "classes", multiple=True, help="A class to choose from. Repeatable.")
@click.option(
    "--template",
    "templates",
    multiple=True,
    help="How a class is told, {} being its name; several are averaged.  [a photo of a {}]",
)
@click.option("--prompt", help="The question; `-` reads it from standard input.")
@click.option("--system", help="A system message, in place of the layout's own.")
@click.option("--interactive", is_flag=True, help="Talk in the terminal; /help says how.")
@click.option("--batch", type=FILE, metavar="FILE", help="Ask every record of a .json or .jsonl.")
@click.option(
    "--max-new", "new", type=click.IntRange(min=1), help="Tokens of an answer; else the mode says."
)
@click.option("--temperature", type=click.FloatRange(min=0), help="0 takes the likeliest token.")
@click.option("--top-p", type=click.FloatRange(min=0, min_open=True, max=1))
@click.option("--top-k", type=click.IntRange(min=1))
@click.option("--repetition-penalty", type=click.FloatRange(min=0, min_open=True))
@click.option(
    "--beams", type=click.IntRange(min=1), help="Search for the likeliest answer; 1: none."
)
@click.option("--length-penalty", type=float, help="Above 0, beams prefer longer answers.")
@click.option("--min-new", type=click.IntRange(min=0), help="Tokens before one may end an answer.")
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    default=CHUNK,
    show_default=True,
    help="Tokens of a prompt that are fed at a time: fewer need less memory.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--draw", type=DRAWN, help="Write the last picture with the boxes of the answer.")
@click.option("--out", type=DRAWN, help="Write vectors or features, as .safetensors.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
@click.option(
    "--backend", type=click.Choice(list(BACKENDS)), help="For a recipe; eager unless given."
)
@weights_option
@random_option
@mode_option
@dtype_option
@amend_option
@click.pass_context
def run_command(
    ctx: click.Context,
    /,
    model: str,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    refs: tuple[str, ...],
    boxes: tuple[tuple[float, float, float, float], ...],
    texts: tuple[str, ...],
    classes: tuple[str, ...],
    templates: tuple[str, ...],
    prompt: str | None,
    system: str | None,
    interactive: bool,
    batch: Path | None,
    new: int | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    repetition_penalty: float | None,
    beams: int | None,
    length_penalty: float | None,
    min_new: int | None,
    chunk: int,
    seed: int,
    draw: Path | None,
    out: Path | None,
    as_json: bool,
    **compiling: Any,
) -> None:
    """Ask RECIPE|ARTEFACT about pictures, clips and text.

    A mode that compares pictures with texts prints how well they go together, one that only looks
    writes what it makes of the pictures. A recipe is compiled with --backend and needs weights; an
    artefact has everything inside, unless it was made without weights, or links to your own files
    and those have moved: --weights says where they are.
    """
    from ..backends.generation import Session

    asked = images or videos or refs or boxes or prompt is not None or system is not None
    if interactive and (batch or as_json or draw or prompt == "-"):
        raise click.UsageError("--interactive goes without --batch, --json, --draw and --prompt -")
    if not interactive and bool(batch) == bool(asked):
        raise click.UsageError("ask with --prompt (and --image, --video), or give a --batch")
    if draw and not images:
        raise click.UsageError("--draw shows the boxes on a picture: give an --image")
    session = _session(model, compiling, chunk)
    if not isinstance(session, Session):
        if interactive:
            raise click.UsageError("--interactive is for modes that answer")
        run_routes(session, images, texts, classes, templates, out, as_json)
        return
    if texts or classes or templates or out:
        raise click.UsageError("--text, --class, --template and --out are for other modes")
    sampling = _sampling(
        session.sampling,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        repetition_penalty=repetition_penalty,
        beams=beams,
        length_penalty=length_penalty,
        min_new=min_new,
    )
    if min_new is not None and min_new > (most := session.new if new is None else new):
        raise click.UsageError(f"--min-new {min_new} is more than an answer takes at most: {most}")
    if interactive:
        from .talking import Talk

        talk = Talk(session.conversation(), new, sampling, seed, system)
        talk.go_on(images, videos, _said(refs, boxes, prompt or ""))
        return
    if batch:
        ctx.exit(_ask_all(session, batch, new, sampling, seed))
    text = sys.stdin.read().strip() if prompt == "-" else prompt or ""
    turns = _turns(session, images, videos, _said(refs, boxes, text), system)
    started = time.perf_counter()
    reply = session.chat(turns, new=new, sampling=sampling, seed=seed)
    if not as_json:
        for piece in reply:
            click.echo(piece, nl=False)
        click.echo()
    answer = reply.answer
    pointed = found(session.processor.read, answer.text, images[-1]) if images else []
    if draw:
        draw_places(images[-1], pointed, draw)
    if as_json:
        shown = [{"name": name, "corners": place.corners} for name, place in pointed]
        whole = asdict(answer) | ({"places": shown} if shown else {})
        click.echo(json.dumps(whole, ensure_ascii=False))
        return
    for name, place in pointed:
        click.echo(in_words(name, place))
    if sys.stdout.isatty():
        seconds = time.perf_counter() - started
        line = f"{answer.prompt} tokens read, {len(answer.tokens)} written in {seconds:.1f} s"
        click.secho(line, dim=True, err=True)


def _session(model: str, compiling: dict[str, Any], chunk: int) -> AnySession:
    """A session of an artefact; or of a recipe, compiled here."""
    from ..backends.artefact import Artefact
    from ..backends.manifest import MANIFEST

    folder = Path(model)
    if (folder / MANIFEST).exists():
        weights = compiling.pop("weights")
        given = [name for name, value in compiling.items() if value not in (None, ())]
        if given:
            options = ", ".join(
                f"--{'set' if n == 'amend' else n.replace('_', '-')}" for n in given
            )
            raise click.UsageError(f"{options}: decided when the artefact was compiled")
        return Artefact(folder, weights).session(chunk=chunk)

    from ..backends.embedding import session_of
    from ..dsl.load import load_recipe

    name = compiling.pop("backend") or "eager"
    recipe = load_recipe(model, amend=compiling.pop("amend"))
    if compiling["weights"] is None and compiling["random_weights"] is None:
        published = recipe.weights.repositories if recipe.weights else "its training run"
        raise click.UsageError(
            f"{recipe.name} needs weights: --weights PATH ({published}), or --random-weights 0"
        )
    maker = able(name)
    mode = mode_of(recipe, compiling.pop("mode"))
    job = job_of(recipe, mode, **compiling)
    return session_of(maker.compile(job), job.resources, job.spec, chunk=chunk)


def _sampling(default: Sampling, **given: Any) -> Sampling:
    """The mode's rule with what was asked for instead."""
    said = {name: value for name, value in given.items() if value is not None}
    draws, searches = said.get("temperature", 0) > 0, said.get("beams", 1) > 1
    if draws and searches:
        raise click.UsageError("--temperature draws a token, --beams search: give one of them")
    # What is asked for takes the place of the mode's own way.
    other = {"temperature": 0.0} if searches else {"beams": 1} if draws else {}
    sampling = replace(default, **(other | said))
    if sampling.temperature == 0 and said.keys() & {"top_p", "top_k"}:
        raise click.UsageError("--top-p and --top-k draw a token: give a --temperature above 0")
    if sampling.beams == 1 and "length_penalty" in said:
        raise click.UsageError("--length-penalty weighs what beams find: give --beams")
    return sampling


def _said(refs: Sequence[str], boxes: Sequence[Any], text: str) -> list[str | Place]:
    """What is said about pictures: places in them, and then the words."""
    from ..blocks.input.places import Box, Ref

    return [*map(Ref, refs), *map(Box, boxes), *([text] if text else [])]


def _turns(
    session: Session,
    images: Sequence[Path],
    videos: Sequence[Path],
    said: Sequence[str | Place],
    system: str | None,
) -> list[Turn]:
    """One question: pictures, clips, then what is said about them."""
    from ..blocks.input.sample import Attachment, Turn

    parts: list[str | Attachment | Place] = []
    for kind, files in (("image", images), ("video", videos)):
        inputs = session.inputs(kind)
        if files and not inputs:
            raise click.UsageError(f"the model takes no {kind}")
        parts += [Attachment(inputs[0], file) for file in files]
    parts += said
    return [*([Turn("system", (system,))] if system else []), Turn("user", tuple(parts))]


def _ask_all(session: Session, file: Path, new: int | None, sampling: Sampling, seed: int) -> int:
    """Print a JSON line for each record, in order; 1 when one of them could not be asked."""
    from ..backends.data import Records

    records = Records(file)
    bad = 0
    most = session.most(sampling)
    for start in range(0, len(records), most):
        numbers = range(start, min(start + most, len(records)))
        lines: dict[int, dict[str, Any]] = {}
        good = []
        for number in numbers:
            try:
                turns = _question(records.read(number).turns)
                good.append((number, session.processor.prompt(turns)))
            except ValueError as problem:
                lines[number] = {"record": number, "error": str(problem)}
        answers = session.answers([s for _, s in good], [n for n, _ in good], new, sampling, seed)
        lines |= {
            number: {"record": number, **asdict(answer)}
            for (number, _), answer in zip(good, answers, strict=True)
        }
        for number in numbers:
            bad += "error" in lines[number]
            click.echo(json.dumps(lines[number], ensure_ascii=False))
    if bad:
        click.echo(f"{bad} of {len(records)} records could not be asked", err=True)
    return int(bad > 0)


def _question(turns: Sequence[Turn]) -> list[Turn]:
    """A dialogue without the answer that it ends with."""
    last = len(turns)
    while last and turns[last - 1].role == "assistant":
        last -= 1
    return list(turns[:last])
