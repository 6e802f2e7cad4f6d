"""`triptych inspect`: what an artefact says of itself, and whether every byte of it is still so."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .fewer_bits import fewer_bits
from .output import echo_json, heading, json_option, table

if TYPE_CHECKING:
    from ..backends.manifest import Manifest
    from ..backends.records import FileRecord, MethodRecord, WeightsRecord

EXAMPLES = """\b
Examples:
  triptych inspect scenes.artefact
  triptych inspect scenes.artefact --json | jq .manifest.limits

\b
Exits with 1 when a file is changed, truncated, missing or foreign. Digests find damage, not malice:
an artefact holds compiled code, and must be trusted as any program is.
"""
LARGE = 2**28
"""Bytes from which on reading them is shown as it goes."""


@click.command("inspect", epilog=EXAMPLES)
@click.argument("artefact", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where your own files are, when the artefact links to them and they have moved.",
)
@json_option
@click.pass_context
def inspect_command(
    context: click.Context, artefact: Path, weights: Path | None, as_json: bool
) -> None:
    """Say what ARTEFACT is and what it needs, and verify the digest of every file."""
    from ..backends.bindings import lacking
    from ..backends.manifest import MANIFEST, ArtefactError, Manifest
    from ..backends.verification import check_fit, damage, sha256_of

    manifest = Manifest.read(artefact / MANIFEST)
    with _reading(sum(record.size for record in manifest.files.values())) as read:
        problems = dict(damage(artefact, manifest.files, read))
    lacks = lacking(artefact, manifest, weights, sha256_of)
    try:
        check_fit(artefact, manifest)
    except ArtefactError as problem:
        lacks = str(problem)
    if as_json:
        content = manifest.model_dump(mode="json")
        echo_json({"manifest": content, "cannot_run": lacks, "problems": problems})
    else:
        _print(manifest, lacks, problems)
    for message in problems.values():
        click.echo(f"error: {message}", err=True)
    context.exit(1 if problems else 0)


def _print(manifest: Manifest, lacks: str | None, problems: Mapping[str, str]) -> None:
    spec, recipe, target = manifest.spec, manifest.recipe, manifest.target
    count = len(manifest.quantized)
    precision = manifest.dtype + (f", {count} weights in few bits" if count else "")
    use = "stage" if manifest.training else "mode"
    heading("ARTEFACT")
    table(
        [
            ("recipe", f"{recipe.name}, {use} {recipe.mode}, digest {recipe.digest}"),
            ("format", str(manifest.format)),
            ("made by", ", ".join(f"{tool} {one}" for tool, one in manifest.versions.items())),
            ("target", f"{manifest.backend}, {target.device}, {target.system} {target.machine}"),
            ("needs", " ".join(target.features) or "nothing more"),
            ("precision", precision),
            ("here", f"cannot run: {lacks}" if lacks else "can run"),
        ]
    )
    heading("\nMETHODS")
    rows = [row for name, method in manifest.methods.items() for row in _inputs(name, method)]
    table(rows, ("method", "input", "type", ""))
    table(
        [
            (name, f"{len(method.parameters)} parameters", f"yields {', '.join(method.outputs)}")
            for name, method in manifest.methods.items()
        ]
    )
    heading("\nSIZES")
    table([(name, str(limit)) for name, limit in manifest.sizes.items()])
    heading("\nPARAMETERS")
    table([("the run's", "")] if manifest.training else list(_weights(manifest.weights)))
    for line in fewer_bits(manifest.quantized, manifest.weight_rounding, manifest.rounding):
        click.echo(line)
    heading("\nHOST")
    table(list(_host(spec)))
    heading("\nFILES")
    table(
        [_file(name, record, problems) for name, record in manifest.files.items()],
        ("file", "bytes", "digest", "state", "now"),
    )
    foreign = [(name, "does not belong") for name in problems if name not in manifest.files]
    table(foreign)


def _weights(weights: WeightsRecord) -> Iterator[tuple[str, str]]:
    """A row for each file that holds parameters."""
    if weights.kind == "none":
        yield "nowhere yet", f"{len(weights.bindings)} tensors: `triptych run --weights PATH`"
    if weights.kind == "linked":
        yield "source", f"{weights.source}, the user's own files"
    for file in dict.fromkeys(binding.file for binding in weights.bindings if binding.file):
        of_file = [binding for binding in weights.bindings if binding.file == file]
        held = sum(len(binding.holds) for binding in of_file)
        other = Counter(binding.form.kind for binding in of_file if binding.form.kind != "same")
        forms = ", ".join(f"{count} {kind}" for kind, count in other.items())
        row = f"{held} parameters in {len(of_file)} tensors" + (f", {forms}" if forms else "")
        linked = weights.files.get(file)
        yield file, row + (f", digest {linked.sha256[:12]}" if linked else "")


def _inputs(name: str, method: MethodRecord) -> Iterator[tuple[str, str, str, str]]:
    """A row for each input of a method; caches of one type share theirs."""
    caches = [feed for feed in method.updated if feed in method.inputs]
    for feed, record in method.inputs.items():
        if feed not in caches:
            yield name, feed, str(record.port()), ""
    for kind in dict.fromkeys(str(method.inputs[feed].port()) for feed in caches):
        alike = [feed for feed in caches if str(method.inputs[feed].port()) == kind]
        yield name, f"{alike[0]} ... {alike[-1]} ({len(alike)})", kind, "updated in place"


def _host(spec: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What is done around the methods: tokenizer, pictures, layouts, limits, sampling."""
    for user in ("tokens", "questions"):
        if spec.get(user):
            yield user, _brief(spec[user]["tokenizer"])
    for name, given in spec["inputs"].items():
        yield name, f"{given['kind']}, {_brief(given['size'])}"
        if "clip" in given:
            yield "", _brief({"call": "clip", **given["clip"]})
        for view, seen in given["views"].items():
            shown = {key: seen[key] for key in ("patch", "mean", "std")}
            yield "", _brief({"call": view, **shown})
    yield "layout", ", ".join(spec["layout"]) or "none"
    yield "limits", ", ".join(f"{name} {_brief(value)}" for name, value in spec["limits"].items())
    if "sampling" in spec:
        yield "sampling", _brief(spec["sampling"])


def _brief(value: Any) -> str:
    """A piece of the host's part as a recipe would write it.

    >>> _brief({"call": "native", "multiple": 28, "cap": None})
    'native(multiple: 28)'
    >>> _brief([1, 4])
    '[1, 4]'
    """
    if isinstance(value, dict):
        given = {key: one for key, one in value.items() if key != "call" and one is not None}
        settings = ", ".join(f"{key}: {_brief(one)}" for key, one in given.items())
        return f"{value.get('call', '')}({settings})"
    if isinstance(value, list):
        return f"[{', '.join(map(_brief, value))}]"
    return f"{value:.4g}" if isinstance(value, float) else "none" if value is None else str(value)


def _file(
    name: str, record: FileRecord, problems: Mapping[str, str]
) -> tuple[str, str, str, str, str]:
    state = record.state + (f" on {record.device}" if record.device else "")
    if record.errors:
        state += f", off {record.against} by at most {max(record.errors.values()):.1e}"
    now = "DAMAGED" if name in problems else "as written"
    return name, f"{record.size:,}", record.sha256[:12], state, now


@contextmanager
def _reading(size: int) -> Iterator[Callable[[int], None]]:
    """What is to be told of the bytes read: a bar where there are many and a person waits."""
    if size < LARGE or not sys.stderr.isatty():
        yield lambda more: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("verify", total=size)
        yield lambda more: bars.advance(bar, more)
