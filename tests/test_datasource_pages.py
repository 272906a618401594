"""Runs what tenants are told to run, against a real daemon, and holds the tables of datasources against the plugins."""

import json
import re
from pathlib import Path

import pytest
from documents import DOCS, as_tenant, code, table
from harness import Daemon

from webhookd import registry
from webhookd.datasource import Datasource
from webhookd.generic import TOLERANCE, Generic

KNOWN = registry.load(load_plugins=["github", "circleci", "dockerhub"]).known
PAGES = DOCS / "datasources"


def page_of(name: str) -> str:
    return (PAGES / f"{name}.md").read_text()


# --- what the pages say ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KNOWN)
def test_events_are_those_of_the_plugin(name: str) -> None:
    documented = {
        code(event)[0]: (next(iter(code(path)), None), schema == "yes")
        for event, path, schema in table(page_of(name), "| event | default `tsField` | schema |")
    }
    assert documented == {event: (kind.ts_field, kind.schema is not None) for event, kind in KNOWN[name].events.items()}


def test_the_overview_has_every_datasource() -> None:
    sources: dict[str, Datasource] = {**KNOWN, "generic": Generic()}
    rows = table((PAGES / "README.md").read_text(), "| datasource | name | signs with | greets with |")
    assert {re.findall(r"\((\w+)\.md\)", first)[0] for first, *_ in rows} == set(sources)
    assert {path.stem for path in PAGES.glob("*.md")} == {*sources, "README"}
    for first, name, signs, greets in rows:
        (page,) = re.findall(r"\((\w+)\.md\)", first)
        source = sources[page]
        assert f"[{source.title}]" in first
        assert code(name) == ([] if page == "generic" else [page])
        assert set(code(greets)) == source.handshakes
        header = {key.lower() for key in source.sign(b"{}", "c2VjcmV0IG9mIGEgdGVzdA==", 0)}
        assert {name.lower() for name in code(signs)} <= header
        assert bool(code(signs)) == source.signs


def test_the_words_of_a_refused_signature_are_those_of_the_datasources(shared_daemon: Daemon) -> None:
    """What the pages quote behind 401 is what a sender is told."""
    tries = {
        "github": ("push", "a secret of github", {"X-Hub-Signature-256": "sha256=0"}),
        "circleci": ("job-completed", "a secret of circleci", {"circleci-signature": "v1=0"}),
        "shop": (
            "order",
            "c2VjcmV0IG9mIGEgdGVzdA==",
            {"webhook-id": "1", "webhook-timestamp": "1", "webhook-signature": "v1,0"},
        ),
    }
    for name, (event, secret, wrong) in tries.items():
        hook = shared_daemon.hook(name, event, tenant="words", secret=secret)
        page = page_of(name if name in KNOWN else "generic")
        cells = re.findall(r"^\| 401, (.*?) \|", page, re.MULTILINE)
        quoted = [re.escape(words).replace(r"\.\.\.", ".*") for cell in cells for words in code(cell)]
        said = [shared_daemon.deliver(hook, b"{}", headers).json["detail"] for headers in ({}, wrong)]
        for detail in said:
            assert any(re.search(words, detail) for words in quoted), detail
    assert f"differ by {TOLERANCE} seconds" in page_of("generic")


# --- what the pages run ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "messages"), [("github", 1), ("circleci", 2), ("dockerhub", 1), ("generic", 2)])
def test_the_commands_of_a_page_work(name: str, messages: int, shared_daemon: Daemon, tmp_path: Path) -> None:
    tenant = 100 + len(name)
    printed = as_tenant(page_of(name), shared_daemon, tmp_path / name, tenant)
    answered = re.findall(r"^(?:HTTP/1.1 204|204 (?:accepted|answered))", "\n".join(printed), re.MULTILINE)
    pings = len(KNOWN[name].handshakes) if name in KNOWN else 0
    assert len(answered) == messages + pings, printed
    mine = [message for message in shared_daemon.messages() if message["tenant"] == str(tenant)]
    assert len(mine) == messages


def test_what_the_generic_datasource_is_said_to_do_with_other_senders(shared_daemon: Daemon) -> None:
    hook = shared_daemon.hook("trello", "board", tenant="others")
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert shared_daemon.deliver(hook, b"payload=%7B%7D", form).status == 415
    assert shared_daemon.deliver(hook, b'{"type": "url_verification", "challenge": "x"}').status == 204
    refused = shared_daemon.config(
        "POST", document={"datasource": "shop", "event": "order", "secret": "no base64!"}, tenant="others"
    )
    assert refused.status == 400
    assert "must be base64" in refused.json["errors"][0]["message"]
    refused = shared_daemon.config(
        "POST", document={"datasource": "dockerhub", "event": "push", "secret": "a secret"}, tenant="others"
    )
    assert refused.status == 400


# --- the quickstart --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tour(shared_daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("tenant") / "quickstart"
    return as_tenant((DOCS / "quickstart.md").read_text(), shared_daemon, folder, 7)


def test_quickstart_goes_as_it_says(tour: list[str], shared_daemon: Daemon) -> None:
    _, sources, created, _, sent, unsigned, changed, mistaken, switched, listed, gone, commands = tour
    assert {source["name"] for source in json.loads(sources)} == set(KNOWN)
    assert json.loads(created)["signed"] is True
    assert sent.startswith("HTTP/1.1 204")
    assert "x-webhookd-receipt:" in sent.lower()
    assert unsigned.startswith("HTTP/1.1 401")
    assert "X-Hub-Signature-256 is missing" in unsigned
    details = json.loads(changed)
    assert (details["onMismatch"], details["validation"], details["signed"]) == ("ignore", "report", True)
    assert {fault["field"] for fault in json.loads(mistaken)["errors"]} == {"validation", "colour"}
    assert switched.endswith("}204\n204\n")
    assert "HTTP/1.1 204" in listed
    assert gone.startswith("HTTP/1.1 404")
    assert commands.startswith("204 accepted")
    mine = [message for message in shared_daemon.messages() if message["tenant"] == "7"]
    assert len(mine) == 4


def test_quickstart_leaves_no_hook(tour: list[str], shared_daemon: Daemon) -> None:
    assert shared_daemon.config("GET", tenant=7).json == []
