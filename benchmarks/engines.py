"""What TensorRT for RTX makes of small recipes without a GPU: every method of every mode, built.

    python benchmarks/engines.py minigpt4_tiny qwen2_vl_tiny           prints a row a method
    python benchmarks/engines.py qwen2_vl_tiny --write docs/tensorrt.md
    python benchmarks/engines.py qwen2_vl_tiny --check docs/tensorrt.md
    python benchmarks/engines.py qwen2_vl_72b --level accepted --target sm90

Needs `make tensorrt`, but for --check, which holds the column of what is listed. Nothing is
executed: a row says how many operators are listed, how many the library's dry run takes, and what
the engine is, for a declared target. No engine is built for --level accepted, and blocks that
repeat are looked at a few times: models of any size are soon looked at.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from triptych.backends.coverage import known_here
from triptych.backends.engine_programs import engine_limits
from triptych.backends.evidence import Evidence, Level, evidence
from triptych.backends.from_job import FromJob
from triptych.backends.job import job
from triptych.compiler.text import text_of_methods
from triptych.dsl.load import load_recipe

HEADERS = {
    "built": """| recipe | mode | method | listed | accepted | engines | caches in place | MB |
| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |
""",
    "accepted": """| recipe | mode | method | listed | accepted |
| --- | --- | --- | ---: | ---: |
""",
}
SECTION = r"(<!-- {} -->\n)(.*?)(<!-- end -->)"
"""Of a page: what is known up to a level."""


def rows(name: str, level: Level, target: str) -> Iterator[str]:
    """A row for each method of each mode, up to a level; modes that make the same methods have
    one."""
    recipe = load_recipe(name)
    _, known = known_here()
    seen: set[str] = set()
    for mode in recipe.modes:
        small = job(recipe, mode)
        text = text_of_methods(small.lowered.program.methods)
        if text in seen:
            continue
        seen.add(text)
        limits = engine_limits(small.limits, small.spec, 1, None)
        found = evidence(FromJob(small), known, limits, level, target)
        for method, one in found.items():
            yield row(name, mode, method, one)


def row(name: str, mode: str, method: str, one: Evidence) -> str:
    """What is known of one method."""
    listed = sum(part.listed for part in one.listed.values())
    calls = sum(part.calls for part in one.listed.values())
    cells = [f"`{name}`", mode, method, f"{listed} of {calls}"]
    if one.accepted is not None:
        taken = sum(part.accepted for part in one.accepted.values())
        cells.append(f"{taken} of {sum(part.calls for part in one.accepted.values())}")
    if one.build is None:
        return f"| {' | '.join(cells)} |" + (f" none: {one.refused} |" if one.refused else "")
    engine = one.build.engine
    size = f"{len(engine.plan) / 1e6:.1f}"
    return f"| {' | '.join([*cells, str(one.engines), str(len(engine.aliased)), size])} |"


def main() -> None:
    """Print the rows; with --write, those of the recipes in a page are written anew."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--level", choices=list(HEADERS), default="built")
    parser.add_argument("--target", default="sm89", help="a compute capability")
    parser.add_argument("--write", type=Path, metavar="PAGE")
    parser.add_argument("--check", type=Path, metavar="PAGE", help="say which rows are old")
    given = parser.parse_args()
    made: list[str] = []
    for name in given.recipes:
        for line in rows(name, "listed" if given.check else given.level, given.target):
            made.append(line)
            print(line, flush=True)
    if given.write:
        write(given.write, given.level, given.recipes, made)
    if given.check:
        page = given.check.read_text(encoding="utf-8")
        sys.exit("\n".join(f"old: {line}" for line in made if line not in page) or None)


def write(page: Path, level: str, recipes: list[str], made: list[str]) -> None:
    """The rows of these recipes, in the place of those that the page has."""
    old = page.read_text(encoding="utf-8")
    pattern = re.compile(SECTION.format(level), re.DOTALL)
    section = pattern.search(old)
    assert section, f"{page} has no section of what is {level}"
    kept = [
        line
        for line in section[2].splitlines()[2:]
        if not line.startswith(tuple(f"| `{name}` " for name in recipes))
    ]
    lines = sorted([*kept, *made], key=_recipe)
    body = HEADERS[level] + "".join(f"{line}\n" for line in lines)
    page.write_text(pattern.sub(lambda found: found[1] + body + found[3], old), encoding="utf-8")


def _recipe(line: str) -> str:
    """Rows stand by recipe; those of one recipe stay in their order."""
    return line.split("|")[1]


if __name__ == "__main__":
    main()
