"""Holds the pages under docs/ to what is there: every link leads somewhere, every page is reached from the index."""

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import pytest
from documents import DOCS, FENCED, ROOT, anchors, blocks, links, pages

PAGES = pages()
LANGUAGES = {"bash", "ini", "json", "nginx", "python", "sh", "text", "toml", "yaml"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_page_and_to_a_heading_in_it(page: Path) -> None:
    for link in links(page.read_text()):
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme in ("https", "http"), link
            continue
        target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
        assert target.is_relative_to(ROOT), f"{link} leads out of the checkout"
        assert target.exists(), link
        if parts.fragment:
            assert parts.fragment in anchors(target.read_text()), link


def test_a_link_to_nowhere_would_be_seen() -> None:
    text = "# A page\n\n## Once\n\n## Once\n\n```sh\n# no [heading](nowhere.md)\n```\n\n[here](there.md#once-1)\n"
    assert anchors(text) == {"a-page", "once", "once-1"}
    assert list(links(text)) == ["there.md#once-1"]


def test_every_page_is_reached_from_the_index() -> None:
    reached: set[Path] = set()
    waiting = [DOCS / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        for link in links(page.read_text()):
            path = urlsplit(link).path
            target = (page.parent / path).resolve()
            if path.endswith(".md") and target.is_relative_to(DOCS):
                waiting.append(target)
    assert set(DOCS.rglob("*.md")) == reached
    assert (DOCS / "README.md").resolve() in {
        (ROOT / urlsplit(link).path).resolve() for link in links((ROOT / "README.md").read_text())
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_begins_with_its_one_title(page: Path) -> None:
    text = page.read_text()
    assert len(re.findall(r"^# ", FENCED.sub("", text), re.MULTILINE)) == 1
    assert text.startswith("# ")


def test_every_block_says_what_it_is() -> None:
    for page in PAGES:
        fences = re.findall(r"^ *```(\S*)", page.read_text(), re.MULTILINE)
        assert len(fences) % 2 == 0, page
        opened = set(fences[::2]) - {""}
        assert opened <= LANGUAGES, page


def test_the_index_of_decisions_is_complete() -> None:
    folder = DOCS / "decisions"
    listed = links((folder / "README.md").read_text())
    assert sorted(listed) == sorted(page.name for page in folder.glob("*.md") if page.name != "README.md")
    for page in folder.glob("*.md"):
        title = re.findall(r"^# (.+)$", page.read_text(), re.MULTILINE)[0]
        if page.name != "README.md":
            assert title.lower() in (folder / "README.md").read_text().lower(), page.name


def test_shell_blocks_are_shell() -> None:
    assert blocks("1. x\n\n   ```bash\n   echo hello\n   ```\n", "bash") == [(None, "echo hello\n")]


def test_the_modules_of_the_architecture_are_there() -> None:
    named = re.findall(r"`((?:[a-z_0-9]+/)*[a-z_0-9]+\.py)`", (DOCS / "architecture.md").read_text())
    assert len(named) > 20
    assert [name for name in named if not (ROOT / "webhookd" / name).exists() and not (ROOT / name).exists()] == []


def test_the_picture_needs_nothing_from_elsewhere() -> None:
    root = ElementTree.parse(DOCS / "architecture.svg").getroot()
    text = (DOCS / "architecture.svg").read_text()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.find("{http://www.w3.org/2000/svg}desc") is not None
    assert "prefers-color-scheme: dark" in text
    assert re.findall(r"https?://[^\"']+", text) == ["http://www.w3.org/2000/svg"]
    assert "<script" not in text
