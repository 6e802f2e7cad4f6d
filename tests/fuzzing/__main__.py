"""`python -m triptych.tests.fuzzing`: many cases, or one of them again; failing inputs are kept."""

from __future__ import annotations

import argparse
import resource
import signal
import sys
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

from triptych.tests.fuzzing.cases import KINDS, SHARES, beside, case
from triptych.tests.fuzzing.properties import examine
from triptych.tests.fuzzing.shrink import shrunk

EVERY = 1_000
MEMORY = 4 << 30
"""What the whole run may take, so that a case which asks for all there is fails alone."""
PATIENCE = 30
"""So many seconds are waited for one case."""


def main() -> int:
    """Run the cases that were asked for; 1 when one fails."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("count", nargs="?", type=int, default=20_000, help="how many cases")
    parser.add_argument("--seed", type=int, default=0, help="the number of the first")
    parser.add_argument("--case", metavar="KIND:NUMBER", help="print this one, and run it alone")
    parser.add_argument("--keep", type=Path, default=Path("build/fuzz"), help="for what fails")
    given = parser.parse_args()
    if given.case:
        kind, number = given.case.split(":")
        text = case(kind, int(number))
        print(text)
        print(examine(text, beside()), file=sys.stderr)
        return 0
    return _run(given.seed, given.count, given.keep)


def _run(seed: int, count: int, keep: Path) -> int:
    order = [kind for kind, share in SHARES.items() for _ in range(share)]
    started, used = time.monotonic(), time.process_time()
    answers, failures = Counter[str](), Counter[str]()
    slowest = (0.0, "")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGALRM, _give_up)
    for number in range(seed, seed + count):
        kind = order[number % 100]
        text = case(kind, number)
        began = time.process_time()
        why = _failure(text, answers)
        slowest = max(slowest, (time.process_time() - began, f"{kind}:{number}"))
        if why:
            failures[why] += 1
            print(f"{kind}:{number} fails: {why}", flush=True)
            if failures[why] == 1:
                keep.mkdir(parents=True, exist_ok=True)
                less = shrunk(text, partial(_fails_so, why))
                (keep / f"{kind}_{number}.vlm").write_text(less, encoding="utf-8", newline="")
        if (number + 1 - seed) % EVERY == 0:
            print(f"{number + 1 - seed:,} cases, {time.monotonic() - started:,.0f} s", flush=True)
    elapsed, used = time.monotonic() - started, time.process_time() - used
    print(
        f"{count:,} cases of {len(KINDS)} kinds in {elapsed:,.0f} s ({used:,.0f} s of a core), "
        f"{answers['good']:,} good, {len(answers) - 1} codes, slowest {slowest[0]:.2f} s "
        f"({slowest[1]}): {sum(failures.values())} failures of {len(failures)} kinds"
    )
    for why, times in failures.most_common():
        print(f"  {times:,} times: {why}")
    return 1 if failures else 0


def _fails_so(why: str, text: str) -> bool:
    return _failure(text, Counter()) == why


def _give_up(*_: object) -> None:
    raise TimeoutError("it never ends")


def _failure(text: str, answers: Counter[str]) -> str:
    """Why a text fails, in a line; empty when it does not."""
    signal.alarm(PATIENCE)
    try:
        answers.update(set(examine(text, beside()).split()))
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        said = "" if "took" in str(error) else f" {str(error).splitlines()[:1]}"
        return f"{type(error).__name__} at {place}{said}"
    finally:
        signal.alarm(0)
    return ""


if __name__ == "__main__":
    sys.exit(main())
