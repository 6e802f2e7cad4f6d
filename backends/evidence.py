"""What is known of a recipe on TensorRT without a GPU: three levels of evidence, part by part.

*listed*: a converter is registered for the operator (`coverage`; no library needed). *accepted*:
the library's dry run takes this call of it. *built*: it is in an engine that TensorRT for RTX
built. Each is less than to be executed on a GPU, which none of them says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, get_args

from torch.fx.traceback import preserve_node_meta

from ..blocks.quiet import quiet
from .base import BackendError, Limit
from .coverage import Converter, Coverage, covered
from .engine_build import Acceptance, Build, build_engine, dry_run, request
from .engines import StaleCacheError
from .from_job import FromJob
from .packing import Origin
from .repeated import FEW, Rounds, grown, rounds, shortened, within
from .toolchain import cache_folder

Level: TypeAlias = Literal["listed", "accepted", "built"]
LEVELS: tuple[Level, ...] = get_args(Level)
"""From the weakest to the strongest."""

Notice: TypeAlias = Callable[[str], None]
"""What is to be told of each step."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of one method."""

    listed: Mapping[str, Coverage]
    accepted: Mapping[str, Acceptance] | None = None
    engines: int | None = None
    """How many engines the dry run would cut the method into."""
    build: Build | None = None
    refused: str | None = None
    """Why there is no engine where one was asked for, or no dry run."""


def evidence(
    origin: Origin,
    known: Mapping[str, Converter],
    limits: Mapping[str, Limit],
    level: Level = "listed",
    target: str | None = None,
    notice: Notice = lambda step: None,
) -> dict[str, Evidence]:
    """Method -> what is known of it up to a level, for a declared target. Needs no weights.

    Up to *accepted*, blocks of a recipe that repeat are looked at a few times; an engine has all of
    them, and so have the programs of an artefact.
    """
    assert target or level == "listed", "the library must be told a target"
    look = _Look(known, limits, level, target, notice)
    if level == "built" or not isinstance(origin, FromJob) or not (deep := rounds(origin.job)):
        return look(origin)
    few = look(FromJob(shortened(origin.job, deep, FEW)))
    more = look(FromJob(shortened(origin.job, deep, FEW + 1)), within(origin.job, deep))
    return {name: _grown(one, more.get(name, one), deep) for name, one in few.items()}


@dataclass(frozen=True, slots=True)
class _Look:
    """Looks at every method of an origin."""

    known: Mapping[str, Converter]
    limits: Mapping[str, Limit]
    level: Level
    target: str | None
    notice: Notice

    def __call__(self, origin: Origin, methods: Iterable[str] | None = None) -> dict[str, Evidence]:
        return {name: self.method(origin, name) for name in methods or origin.methods}

    def method(self, origin: Origin, name: str) -> Evidence:
        """What is known of one method, as far as it is asked for and is not refused."""
        self.notice(f"look at {name}")
        with preserve_node_meta(), quiet():  # torch warns of its own internals
            asked = request(origin, name, self.limits)
            found = Evidence(covered(asked.program, self.known))
            if self.level == "listed" or not self.target:
                return found
            folder = cache_folder("tensorrt")
            try:
                tried = dry_run(asked, folder, self.target)
                found = replace(found, accepted=tried.parts, engines=tried.engines)
                if self.level == "built":
                    self.notice(f"build {name}")
                    found = replace(found, build=build_engine(asked, folder, self.target))
            except (BackendError, StaleCacheError) as problem:
                found = replace(found, refused=str(problem))
            return found


def _grown(few: Evidence, more: Evidence, deep: Rounds) -> Evidence:
    accepted = None
    if few.accepted is not None and more.accepted is not None:
        accepted = grown(few.accepted, more.accepted, deep)
    return replace(more, listed=grown(few.listed, more.listed, deep), accepted=accepted)
