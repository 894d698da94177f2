"""Is a checkout slower than another one? Ratios of CPU and wall time, from processes that take turns.

    python scripts/bench/compare.py BEFORE AFTER [--only cache,book,market] [--rounds 15] [--match TEXT]

BEFORE and AFTER are directories with a checkout each. Each checkout has one process with servers of its own, and
`works.py` beside this file measures in both. In each round every work runs once in one process and once in the other;
the next round begins with the other process. A loaded machine therefore slows both alike.

The CPU time is user and system time of the process, per operation. `server` is the CPU time of the server's client
backends. Each ratio is AFTER to BEFORE: of the medians, of the smallest values, and the median of the rounds' ratios.
Trust a difference only where all three agree: on a shared machine a single one varies by a tenth without cause.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKS = Path(__file__).with_name("works.py")
SIDES = ("before", "after")


class Side:
    """The process of one checkout."""

    def __init__(self, checkout: Path, part: str) -> None:
        self.checkout = checkout.resolve()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(WORKS), part],
            cwd=self.checkout, env=os.environ | {"PYTHONPATH": str(self.checkout)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8",
        )  # fmt: skip
        if self._process.stdin is None or self._process.stdout is None:
            raise SystemExit("the process has no pipes")
        self._in, self._out = self._process.stdin, self._process.stdout
        self.works: list[str] = self._answer()

    def measure(self, name: str) -> dict[str, float]:
        """Run one work. Return microseconds per operation."""
        print(json.dumps(name), file=self._in, flush=True)
        found: dict[str, float] = self._answer()
        return found

    def close(self) -> None:
        """End the process, which removes its servers."""
        self._process.communicate(timeout=120)

    def _answer(self) -> Any:
        line = self._out.readline()
        if not line:
            raise SystemExit(f"the process of {self.checkout} ended with {self._process.wait()}")
        return json.loads(line)


def rounds_of(sides: tuple[Side, Side], name: str, rounds: int) -> tuple[list[dict[str, float]], ...]:
    """Measure one work in turns. The first round of each side warms up and is dropped."""
    found: tuple[list[dict[str, float]], ...] = ([], [])
    for number in range(rounds + 1):
        for place in (0, 1) if number % 2 else (1, 0):
            found[place].append(sides[place].measure(name))
    return tuple(samples[1:] for samples in found)


def ratios(before: list[float], after: list[float]) -> str:
    """Return the ratios of the medians and of the smallest values, and the median of the rounds' ratios."""
    if not statistics.median(before):
        return f"{'':17}"
    paired = statistics.median(new / old for old, new in zip(before, after, strict=True) if old)
    medians = statistics.median(after) / statistics.median(before)
    least = min(after) / min(before) if min(before) else medians
    return f"{medians:5.2f} {least:5.2f} {paired:5.2f}"


def compare(part: str, checkouts: tuple[Path, Path], rounds: int, match: str) -> None:
    """Print the table of a part."""
    sides = Side(checkouts[0], part), Side(checkouts[1], part)
    try:
        print(
            f"\n{part:36} {'CPU us before':>13} {'after':>9}  {'ratios':17}  {'wall ratios':17}  server us, ratios\n"
            f"{'':36} {'':13} {'':9}  {'med   min  pair':17}  {'med   min  pair':17}"
        )
        for name in sides[0].works:
            if match not in name:
                continue
            old, new = rounds_of(sides, name, rounds)
            of = {kind: ([one[kind] for one in old], [one[kind] for one in new]) for kind in ("cpu", "wall", "server")}
            middle = [statistics.median(values) for values in (*of["cpu"], of["server"][0])]
            server = f"{middle[2]:9.1f}  {ratios(*of['server'])}" if middle[2] else ""
            print(
                f"{name:36} {middle[0]:13.2f} {middle[1]:9.2f}  {ratios(*of['cpu'])}  {ratios(*of['wall'])}  {server}",
                flush=True,
            )
    finally:
        for side in sides:
            side.close()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", default="cache,book,market")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--match", default="", help="only works whose name contains this text")
    arguments = parser.parse_args()
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {arguments.rounds} rounds"
    )
    for part in arguments.only.split(","):
        compare(part, (arguments.before, arguments.after), arguments.rounds, arguments.match)


if __name__ == "__main__":
    main()
