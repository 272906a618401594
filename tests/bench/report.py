"""Tables in Markdown: medians over the rounds, ratios within a round, and the block of a document that holds them."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.measure import Case, Figures
from bench.subjects import BUILT

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "performance.md"
Rounds = dict[str, list[Figures]]
"""The figures of each subject of a case, one a round."""


def median(rounds: Sequence[Figures], figure: str) -> float:
    return statistics.median(getattr(figures, figure) for figures in rounds)


def ratio(rounds: Rounds, figure: str, one: str, other: str) -> float:
    """Return the median of what `one` is to `other` in each round."""
    pairs = zip(rounds[one], rounds[other], strict=True)
    return statistics.median(getattr(mine, figure) / max(getattr(theirs, figure), 1e-9) for mine, theirs in pairs)


def table(case: Case, rounds: Rounds) -> str:
    """Return the table of one case; the last two columns compare the first subject with each other one."""
    first = case.subjects[0]
    lines = [
        f"**{case.name}**",
        "",
        "| server | deliveries/s | p50 ms | p99 ms | p99.9 ms | CPU µs | broker CPU µs | RSS MB | rate ratio | CPU ratio |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name in case.subjects:
        its = rounds[name]
        rate, p50, p99, p999, cpu, broker, rss = (
            median(its, figure) for figure in ("rate", "p50", "p99", "p999", "cpu", "broker_cpu", "rss")
        )
        faster, leaner = ratio(rounds, "rate", first, name), ratio(rounds, "cpu", first, name)
        lines.append(
            f"| {name} | {rate:,.0f} | {p50:.1f} | {p99:.1f} | {p999:.1f} | {cpu:.1f} | {broker:.0f} | {rss:.0f}"
            f" | {faster:.2f} | {leaner:.2f} |"
        )
        if unhappy := sum(figures.refused + figures.failed for figures in its):
            lines.append(f"| {name}: not accepted | {unhappy:,} in all | | | | | | | | |")
    return "\n".join(lines)


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of texts."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |".replace("| --- ", "|---").replace("--- |", "---|") for line in lines)


def keep(name: str, text: str, figures: Any, *, write: bool) -> None:
    """Put the figures into build/bench/NAME.json and, if asked to, the text between the marks of NAME in the document."""
    BUILT.mkdir(parents=True, exist_ok=True)
    (BUILT / f"{name}.json").write_text(json.dumps(figures, indent=1, default=asdict))
    if write:
        DOCUMENT.write_text(replaced(DOCUMENT.read_text(), name, text))


def replaced(document: str, name: str, text: str) -> str:
    """Return the document with `text` between its marks of `name`."""
    begin, end = f"<!-- measured: {name} -->", f"<!-- end: {name} -->"
    head, marked, rest = document.partition(begin)
    _, ended, tail = rest.partition(end)
    assert marked, f"the document has no marks of {name}"
    assert ended, f"the document has no end of {name}"
    return f"{head}{begin}\n\n{text}\n\n{end}{tail}"
