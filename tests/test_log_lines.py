"""Holds docs/log-lines.md against every place in the code that writes a line, and against what a daemon writes."""

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness import Daemon

from webhookd.logs import HOOK_EVENT

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "log-lines.md").read_text()
LEVELS = {"debug", "info", "warning", "error", "exception", "critical"}
NAMES = {HOOK_EVENT: "event", "HOOK_EVENT": "event", "exc_info": "exception"}
"""What a field is called in the line, where the code calls it something else."""


@dataclass
class Written:
    """A call that writes a line; `open` says that it hands on fields that it does not name."""

    line: str
    level: str
    fields: set[str]
    open: bool


def rows(header: str) -> Iterator[list[str]]:
    """Yield the cells of each row of the tables with this header."""
    for block in re.findall(rf"^{re.escape(header)}\n\|[-|]+\|\n((?:\|.*\n)+)", PAGE, re.MULTILINE):
        for row in block.splitlines():
            yield [cell.strip() for cell in row.strip("|").split("|")]


def code(cell: str) -> list[str]:
    return re.findall("`([^`]+)`", cell)


def written() -> Iterator[Written]:
    """Yield every call of a logger in the code."""
    for path in sorted((ROOT / "webhookd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS):
                continue
            logger = node.func.value
            if (getattr(logger, "id", None) or getattr(logger, "attr", "")) not in {"log", "_log"}:
                continue
            (line,) = node.args
            assert isinstance(line, ast.Constant), f"{path}:{node.lineno}: a line is a text, its facts are fields"
            fields = {NAMES.get(word.arg, word.arg) for word in node.keywords if word.arg}
            level = node.func.attr
            if level == "exception":
                level, fields = "error", fields | {"exception"}
            # an apostrophe stands for what Markdown would take for code
            yield Written(line.value.replace("`", "'"), level, fields, any(w.arg is None for w in node.keywords))


DOCUMENTED = {
    code(line)[0]: (level, set(code(fields)))
    for line, level, fields, _ in rows("| line | level | fields | what it says, and what to do |")
}
FIELDS = {name for names, _ in rows("| field | what it is |") for name in code(names)}
WRITTEN = list(written())


def test_every_line_is_documented_and_no_other() -> None:
    assert {one.line for one in WRITTEN} == set(DOCUMENTED)


@pytest.mark.parametrize("one", WRITTEN, ids=lambda one: one.line)
def test_line_is_documented_as_it_is_written(one: Written) -> None:
    level, fields = DOCUMENTED[one.line]
    assert one.level == level
    if one.open:
        assert one.fields <= fields
    else:
        assert one.fields == fields


def test_every_field_is_documented_and_no_other() -> None:
    used = {field for _, fields in DOCUMENTED.values() for field in fields}
    assert used | {"timestamp", "level", "logger", "message"} == FIELDS


def test_a_daemon_writes_what_is_documented(tmp_path: Path) -> None:
    with Daemon(tmp_path, log_deliveries="all", max_in_flight_bytes="1KiB") as daemon:
        hook = daemon.hook("github", "push", onMismatch="ignore")
        answers = [daemon.deliver(hook, body).status for body in (b"{}", b"no JSON", b"[" + b" " * 2000 + b"]")]
        answers.append(daemon.deliver(hook, b"{}", {"X-GitHub-Event": "star"}).status)
        answers.append(daemon.deliver({"hookUrl": hook["hookUrl"][:-1]}, b"{}").status)
    assert answers == [204, 400, 503, 204, 404]
    seen = set()
    for line in map(json.loads, daemon.log.splitlines()):
        _, fields = DOCUMENTED[line["message"]]
        assert set(line) <= fields | {"timestamp", "level", "logger", "message"}
        seen.add(line["message"])
    assert seen >= {"webhookd is ready", "delivery accepted", "delivery refused", "config request"}
