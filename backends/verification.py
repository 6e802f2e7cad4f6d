"""Whether an artefact is as it was written, and whether this machine can run it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from pathlib import Path
from stat import S_ISREG

import torch

from .manifest import MANIFEST, ArtefactError, Manifest, Target
from .records import Content
from .toolchain import cache_folder

REMEMBERED = 2**26
"""Bytes from which on a file that was verified once is known again, and not read at each start."""
SETTLED = 2.0
"""Seconds that a file must have been left alone before it is remembered: file systems tell times
apart no better than that."""
_CHUNK = 2**24


def verify(folder: Path, files: Mapping[str, Content]) -> None:
    """ArtefactError names the first file that is missing, foreign, changed or cut short.

    A large file that was verified before, and that the file system says nobody has touched since,
    is not read again.
    """
    for _, problem in damage(folder, files, digest=known_digest):
        raise ArtefactError(problem)


def damage(
    folder: Path,
    files: Mapping[str, Content],
    read: Callable[[int], None] = lambda size: None,
    digest: Callable[[Path, Callable[[int], None]], str] | None = None,
) -> Iterator[tuple[str, str]]:
    """Each file that is missing, foreign, changed or cut short, and what to do about it.

    `read` is told of the bytes that were read, a piece at a time; what is quick to see comes first.
    Every byte is read unless `digest` knows better.
    """
    there = dict(_below(folder))
    for name in sorted(files.keys() - there.keys()):
        yield name, f"{folder / name} is missing: copy the whole artefact again"
    for name in sorted(there.keys() - files.keys() - {MANIFEST}):
        yield name, f"{folder / name} does not belong to the artefact: remove it"
    for name in sorted(name for name in there if not S_ISREG(there[name].st_mode)):
        if name in files or name == MANIFEST:
            yield name, f"{folder / name} is no file of its own (a link?): copy the whole artefact"
    whole: dict[str, Content] = {}
    for name in sorted(files.keys() & there.keys()):
        if not S_ISREG(there[name].st_mode):
            continue
        if there[name].st_size == files[name].size:
            whole[name] = files[name]
            continue
        yield (
            name,
            f"{folder / name} has {there[name].st_size:,} bytes and should have "
            f"{files[name].size:,}: copy it again, or compile again",
        )
    ask = digest or sha256_of
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: ask(folder / name, read), whole)
        for (name, record), found in zip(whole.items(), digests, strict=True):
            if found != record.sha256:
                yield (
                    name,
                    f"{folder / name} was changed: its digest is {found[:12]}..., not "
                    f"{record.sha256[:12]}...; copy it again, or compile again",
                )


def check_fit(folder: Path, manifest: Manifest) -> None:
    """ArtefactError when the code is not for this machine; its portable programs may be."""
    code = {"aot": "code", "tensorrt": "engines"}[manifest.backend]
    again = f"make {code} for this machine with `triptych compile {folder} --out NEW`"
    theirs, ours = manifest.versions["torch"], str(torch.__version__)
    if _release(theirs) != _release(ours):
        raise ArtefactError(f"{folder} was compiled by torch {theirs}, and this is {ours}: {again}")
    lacking = manifest.target.lacking(Target.here(manifest.target.device))
    if lacking:
        raise ArtefactError(f"{folder} was compiled for {', '.join(lacking)}: {again}")
    if manifest.backend == "tensorrt":
        built, found = manifest.versions["tensorrt"], _tensorrt()
        if built != found:
            raise ArtefactError(
                f"{folder} was built by TensorRT {built}, and here is {found or 'none'}: {again}"
            )


def known_digest(path: Path, read: Callable[[int], None] = lambda size: None) -> str:
    """SHA-256 of a file, which is not read again where it is large and was left alone.

    What is remembered goes by the file's place on the disk, its size, and the times of its last
    change, one of which (ctime) no program can set; TRIPTYCH_CACHE moves where it is kept.
    """
    stat = path.stat()
    if stat.st_size < REMEMBERED:
        return sha256_of(path, read)
    mark = [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:20]
    note = cache_folder("verified") / f"{name}.json"
    try:
        kept = json.loads(note.read_text(encoding="utf-8"))
        if kept["mark"] == mark:
            return str(kept["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        pass  # never verified, or what was noted is no use
    started = time.time()
    digest = sha256_of(path, read)
    if started - stat.st_ctime > SETTLED:
        _note(note, json.dumps({"mark": mark, "sha256": digest}))
    return digest


def sha256_of(path: Path, read: Callable[[int], None] = lambda size: None) -> str:
    """SHA-256 of a file; `read` is told of the bytes, a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            read(len(chunk))
    return digest.hexdigest()


def _below(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """All that is below a folder and no folder itself, by name; links are not followed."""
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(place) / name
            yield path.relative_to(folder).as_posix(), path.lstat()


def _note(file: Path, text: str) -> None:
    """Write a small file in one step, where that is allowed."""
    beside = file.with_name(f"{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(text, encoding="utf-8")
        beside.replace(file)
    except OSError:
        beside.unlink(missing_ok=True)


def _release(torch_version: str) -> tuple[str, ...]:
    return tuple(torch_version.partition("+")[0].split(".")[:2])


def _tensorrt() -> str | None:
    """The release of TensorRT that is installed."""
    if not util.find_spec("tensorrt"):
        return None
    import tensorrt

    return str(tensorrt.__version__)
