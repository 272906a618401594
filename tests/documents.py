"""Reads the documents: their fenced blocks, their tables, their headings and their links, and runs what they say."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from harness import Daemon, mint

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
BLOCK = re.compile(r"^( *)```(\w+)(?: (\S+))?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
FENCED = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def pages() -> list[Path]:
    """Return every page that users read."""
    return [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]


def blocks(text: str, language: str) -> list[tuple[str | None, str]]:
    """Return the fenced blocks of a language, each with the file name behind it, if there is one."""
    return [
        (name or None, re.sub(f"^{indent}", "", body, flags=re.MULTILINE))
        for indent, kind, name, body in BLOCK.findall(text)
        if kind == language
    ]


def table(text: str, header: str) -> list[list[str]]:
    """Return the rows of the table that begins with `header`, cell by cell."""
    start = text.index(f"\n{header}\n")
    lines = text[start:].strip().splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert rows
    return rows


def code(cell: str) -> list[str]:
    """Return what is in backquotes."""
    return re.findall(r"`([^`]+)`", cell)


def anchors(text: str) -> set[str]:
    """Return what a link into a page may name: its headings, as GitHub makes anchors of them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", FENCED.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w -]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (f"{name}-{number}" if number else name) in found:
            number += 1
        found.add(f"{name}-{number}" if number else name)
    return found


def links(text: str) -> Iterator[str]:
    """Yield what the links and pictures of a page lead to."""
    yield from LINK.findall(FENCED.sub("", text))


def clean_environ() -> dict[str, str]:
    """Return the environment without settings of ours, with this environment's `webhookd` in the path."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")}
    return environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def shell(
    commands: Sequence[str], folder: Path, *, replaced: Mapping[str, str] | None = None, **environ: str
) -> list[str]:
    """Run blocks in one shell, as pasted one after the other, and return what each printed; none may fail.

    What they leave running in the background is ended.
    """
    script = "set -eu\ntrap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT\n" + "".join(
        f"printf '\\n== block {number}\\n'\n{body}\n" for number, body in enumerate(commands)
    )
    for documented, ours in (replaced or {}).items():
        assert documented in script
        script = script.replace(documented, ours)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=clean_environ() | environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return re.split(r"\n== block \d+\n", done.stdout)[1:]


def as_tenant(page: str, daemon: Daemon, folder: Path, tenant: int) -> list[str]:
    """Run the blocks of bash of a page as a tenant who has a bearer token in the file `token`."""
    folder.mkdir(exist_ok=True)
    (folder / "token").write_text(mint(tenant) + "\n")
    commands = [body for _, body in blocks(page, "bash")]
    return shell(commands, folder, replaced={"http://127.0.0.1:8080": f"http://127.0.0.1:{daemon.port}"})
