"""Executables whose compiled code is kept between runs, for weights that are in memory already."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from triptych.backends import backend, native
from triptych.backends.aot import Aot
from triptych.backends.artefact import PackageExecutable
from triptych.backends.base import Executable
from triptych.backends.job import Job, job
from triptych.backends.manifest import MANIFEST, Manifest
from triptych.dsl.recipe import Recipe


def executable(name: str, recipe: Recipe, work: Job, keep: Path) -> Executable:
    """A backend's executable of a job; its code is below `keep`, and made when it is not there.

    An artefact holds no weights there: it is given those of the job, which stay where they are.
    """
    os.environ["TRIPTYCH_CACHE"] = str(keep / "cache")
    if name != "aot":
        return backend(name).compile(work)
    folder = artefact(recipe, work, keep)
    state = work.lowered.module.state_dict()
    native.load_from(folder / native.LIBRARY)
    return PackageExecutable(folder, Manifest.read(folder / MANIFEST), state)


def artefact(recipe: Recipe, work: Job, keep: Path) -> Path:
    """The folder of an artefact without weights for the methods of a job, built unless there."""
    folder = keep / f"aot-{work.digest[:16]}"
    if not (folder / MANIFEST).exists():
        whole = job(recipe, work.mode, dtype=work.dtype)
        bare = replace(whole, methods={name: whole.methods[name] for name in work.methods})
        Aot(lambda step, done, of: print(f"{done:>3}/{of} {step}", file=sys.stderr)).build(
            bare, folder
        )
    return folder


def stills(work: Job) -> Job:
    """The job without the methods that look at clips."""
    kept = {name: one for name, one in work.methods.items() if name != "vision_video"}
    return replace(work, methods=kept)
