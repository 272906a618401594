"""Runs what README.md says, in the order in which it says it, and holds the tables of the documents against the code."""

import ast
import json
import re
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import blocks, code, shell, table
from harness import Daemon, free_port, request
from servers import Etcd, RabbitMQ

from webhookd import errors, registry, settings
from webhookd.errors import Rejected

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
OPERATING = (ROOT / "docs" / "operating.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
PATIENTLY = """until curl -s http://{}/readyz | grep '"ok"'; do sleep 0.1; done
"""
TAIL_UNTIL_IT_SHOWS = """set -m  # else what runs in the background hears no Ctrl-C
webhookd tail > shown 2>&1 &
until grep -q 'from now on' shown; do sleep 0.1; done
kill -INT $!
wait $!
"""


# --- every command ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tour(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Run every block of bash in README.md in one shell, on ports of its own; return each with what it printed."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / ".venv").symlink_to(sys.prefix)
    for name, body in blocks(README, "python"):
        if name:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(body)
    listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    commands = [body for _, body in blocks(README, "bash")]
    printed = shell(
        commands,
        folder,
        replaced={"127.0.0.1:8080": listen, "127.0.0.1:9180": admin},
        WEBHOOKD_LISTEN=listen,
        WEBHOOKD_ADMIN_LISTEN=admin,
        WEBHOOKD_URL=f"http://{listen}",
    )
    return list(zip(commands, printed, strict=True))


def block(tour: list[tuple[str, str]], command: str) -> str:
    """Return what the block that holds `command` printed."""
    (printed,) = [printed for body, printed in tour if command in body]
    return printed


def test_tour_creates_a_hook(tour: list[tuple[str, str]]) -> None:
    assert '"status":"ok"' in block(tour, "/readyz").replace(" ", "")
    details = block(tour, "tee hook.json")
    assert '"hookUrl"' in details
    assert "a secret of this tour" not in details


def test_tour_sends_signed_pushes_that_are_accepted(tour: list[tuple[str, str]]) -> None:
    assert "204" in block(tour, "webhookd send")
    by_hand = block(tour, "openssl dgst")
    assert by_hand.startswith("HTTP/1.1 204")
    assert "x-webhookd-receipt:" in by_hand.lower()


def test_tour_shows_a_refusal(tour: list[tuple[str, str]]) -> None:
    refused = block(tour, """-d '{"ref": "refs/heads/main"}'""")
    assert refused.startswith("HTTP/1.1 401")
    assert "application/problem+json" in refused


def test_tour_shows_the_messages(tour: list[tuple[str, str]]) -> None:
    shown = block(tour, "webhookd tail\n")
    assert shown.count("github") >= 2
    assert shown.count("1714564800") >= 1


def test_tour_lists_hooks_and_plugins(tour: list[tuple[str, str]]) -> None:
    listed = block(tour, "webhookd hooks list")
    assert "push" in listed
    assert "Docker Hub" in listed


def test_a_bad_setting_is_told_as_readme_says(tour: list[tuple[str, str]]) -> None:
    told = block(tour, "25MBit")
    assert "max_body" in told
    assert "exit status 2" in told


def test_plugin_of_readme_is_found(tour: list[tuple[str, str]]) -> None:
    shown = block(tour, "webhookd plugins show acme")
    assert "Acme Deploys" in shown
    assert "finished_at" in shown


def test_rabbitmq_and_etcd_as_readme_has_them(rabbitmq: RabbitMQ, etcd: Etcd, tmp_path: Path) -> None:
    (body,) = [body for _, body in blocks(README, "sh") if "WEBHOOKD_BROKER" in body]
    admin = f"127.0.0.1:{free_port()}"
    replaced = {
        "127.0.0.1:2379": f"127.0.0.1:{etcd.port}",
        "amqp://127.0.0.1": f"amqp://127.0.0.1:{rabbitmq.port}",
        # it is ready, if degraded, before it has reached the broker
        "http://127.0.0.1:9180/readyz\n": f"http://{admin}/readyz\n{PATIENTLY.format(admin)}",
        "webhookd tail\n": TAIL_UNTIL_IT_SHOWS,
    }
    environ = {"WEBHOOKD_LISTEN": f"127.0.0.1:{free_port()}", "WEBHOOKD_ADMIN_LISTEN": admin}
    (printed,) = shell([body], tmp_path, replaced=replaced, **environ)
    assert '"status":"ok"' in printed.replace(" ", "")
    assert "FAIL" not in printed
    assert printed.count("ok    ") == 10
    assert "what is published from now on" in (tmp_path / "shown").read_text()


def test_plugin_of_readme_is_short_and_serves(tmp_path: Path) -> None:
    ((name, source),) = [(name, body) for name, body in blocks(README, "python") if name]
    assert len([line for line in source.splitlines() if line]) <= 25
    (tmp_path / "plugins.d").mkdir()
    (tmp_path / name).write_text(source)
    with Daemon(tmp_path, plugins_dir=str(tmp_path / "plugins.d")) as daemon:
        hook = daemon.hook("acme", "deployed", secret="a secret of Acme")
        assert hook["tsField"] == "finished_at"
        send = ["send", "acme", "deployed", hook["hookUrl"], "--plugins-dir", "plugins.d", "--secret"]
        assert daemon.run(*send, "a secret of Acme").returncode == 0
        assert daemon.run(*send, "another secret").returncode == 1
        assert [message["datasource"] for message in daemon.messages()] == ["acme"]


def test_make_run_is_webhookd_dev_and_its_curl_line_works(tmp_path: Path) -> None:
    """`make run` runs this command after the set-up; the line that it prints answers 204 as pasted."""
    assert "$(BIN)/webhookd dev $(ARGS)" in MAKEFILE
    daemon = Daemon(tmp_path)
    command = [
        daemon.command()[0],
        "dev",
        f"--listen=127.0.0.1:{daemon.port}",
        f"--admin-listen=127.0.0.1:{daemon.admin_port}",
    ]
    with daemon.log_path.open("wb") as out:
        daemon.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, env=daemon.environ, cwd=tmp_path
        )
    try:
        daemon.wait_ready()
        deadline = time.monotonic() + 10
        while not (lines := re.findall(r"^ +(curl .*)\n", daemon.log, re.MULTILINE)):
            assert time.monotonic() < deadline, daemon.log
            time.sleep(0.02)
        (line,) = lines
        pasted = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=30, check=True)
        assert "204" in pasted.stdout
        assert str(daemon.port) in line
        told = daemon.run("tail", "--json")
        assert "Hello, webhookd" in told.stdout
    finally:
        assert daemon.stop() == 0


def test_make_targets_named_in_documents_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    named = set(re.findall(r"\bmake ([a-z]+)\b(?= |`|$)", README + (ROOT / ".ci" / "run").read_text(), re.MULTILINE))
    assert {"run", "test"} <= named
    assert {name for name in named if f"`make {name}" in README or f"\nmake {name}" in README} <= targets
    assert (ROOT / ".ci" / "run").read_text().strip().endswith("exec make test")


# --- what the documents say, against the code ------------------------------------------------------------------------


def test_settings_table_is_of_the_code() -> None:
    for names, default, doc in table(README, "| setting | default | what it is |"):
        (name,) = code(names)
        key = settings.KEYS[name]
        assert (default, doc) == (f"`{key.default}`" if key.default else "none", key.doc)


def test_settings_named_in_documents_exist() -> None:
    for text in (README, OPERATING):
        for _, body in blocks(text, "toml"):
            assert tomllib.loads(body).keys() <= settings.KEYS.keys()
        flags = set(re.findall(r"`(\w+_\w+)`", text)) - {"hooks_not_current"}
        shaped = {
            name
            for name in flags
            if name in settings.KEYS or name.startswith(("max_", "spool_", "jwt_", "log_", "tenant_"))
        }
        reasons = {one.reason for one in refusals()}
        assert shaped - settings.KEYS.keys() - reasons == set()


def test_datasources_table_is_that_of_the_registry() -> None:
    known = registry.load(load_plugins=["github", "circleci", "dockerhub"]).known
    documented: dict[tuple[str, str], tuple[str | None, bool]] = {}
    for datasource, event, path, schema in table(README, "| datasource | event | default `tsField` | schema |"):
        (name,) = code(datasource)
        assert datasource.startswith(known[name].title)
        documented[name, code(event)[0]] = (next(iter(code(path)), None), schema == "yes")
    with_path = re.search(
        r"Also known of GitHub, with a default `tsField` and no schema:(.*?)\.\n\n", README, re.DOTALL
    )
    with_neither = re.search(r"And with neither:(.*?)\.\n\n", README, re.DOTALL)
    assert with_path
    assert with_neither
    github = known["github"].events
    documented |= {("github", event): (github[event].ts_field or "?", False) for event in code(with_path[1])}
    documented |= {("github", event): (None, False) for event in code(with_neither[1])}
    assert documented == {
        (name, event): (kind.ts_field, kind.schema is not None)
        for name, datasource in known.items()
        for event, kind in datasource.events.items()
    }


def refusals(above: type[Rejected] = Rejected) -> Iterator[type[Rejected]]:
    for one in above.__subclasses__():
        if one.__module__ == errors.__name__:
            yield one
            yield from refusals(one)


def test_refusals_table_is_that_of_the_code() -> None:
    documented = [
        (int(status), title, *code(reason))
        for status, title, reason, _ in table(OPERATING, "| status | title | reason | what to do |")
    ]
    assert len(documented) == len(set(documented))
    assert set(documented) == {(one.status, one.title, one.reason) for one in refusals()}
    assert [status for status, *_ in documented] == sorted(status for status, *_ in documented)


def test_readiness_table_is_that_of_the_code() -> None:
    tree = ast.parse((ROOT / "webhookd" / "vitals.py").read_text())
    said: dict[str, str] = {}
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef) and function.name in (
            "_unready",
            "_closed_spool",
            "_degraded",
            "_degraded_spool",
        ):
            status = "degraded" if function.name.startswith("_degraded") else "unready"
            said |= {words.partition(":")[0]: status for node in ast.walk(function) for words in yielded(node)}
    documented = {
        code(reason)[0]: status
        for reason, status, _ in table(OPERATING, "| reason | status | what it means, and what to do |")
    }
    assert documented == said


def yielded(node: ast.AST) -> Iterator[str]:
    """Yield the texts that a statement yields: literal, with values put in, or one of a table's second column."""
    if isinstance(node, ast.Yield):
        value = node.value.values[0] if isinstance(node.value, ast.JoinedStr) else node.value
        if isinstance(value, ast.Constant):
            yield value.value
    elif isinstance(node, ast.For) and isinstance(node.iter, ast.Tuple):
        yield from (row.elts[1].value for row in node.iter.elts)


def test_metrics_table_is_that_of_a_daemon(shared_daemon: Daemon) -> None:
    text = request(shared_daemon.admin_port, "GET", "/metrics").body.decode()
    served = dict(re.findall(r"^# TYPE (webhookd_\w+) (\w+)$", text, re.MULTILINE))
    meant = dict(re.findall(r"^# HELP (webhookd_\w+) (.+)$", text, re.MULTILINE))
    documented = {
        code(name)[0]: (kind, meaning) for name, kind, meaning in table(OPERATING, "| metric | type | what it is |")
    }
    assert documented == {name: (kind, meant[name]) for name, kind in served.items()}


def test_log_fields_are_those_of_a_daemon(tmp_path: Path) -> None:
    documented = {name for cell, _ in table(OPERATING, "| field | what it is |") for name in code(cell)}
    everywhere = {"timestamp", "level", "logger", "message"}
    with Daemon(tmp_path, log_deliveries="all") as daemon:
        signed = daemon.hook("github", "push", secret="a secret of github")
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        assert daemon.deliver(signed, b"{}").status == 401
        daemon.stop()
        lines = [json.loads(line) for line in daemon.log.splitlines()]
    told = [line for line in lines if line["message"].startswith("delivery ")]
    assert {line["message"] for line in told} == {"delivery accepted", "delivery refused"}
    assert all(f"`{line['message']}`" in OPERATING for line in told)
    fields = {name for line in told for name in line} - everywhere
    assert fields | {"cause"} == documented  # a cause is what the spool says when it takes nothing
    (advice,) = re.findall(r"`(printf %s TOKEN [^`]+)`", OPERATING)
    found = subprocess.check_output(["bash", "-c", advice.replace("TOKEN", signed["token"])], text=True).strip()
    assert [line["hook"] for line in told if line["event"] == "push"] == [found]
    asked = next(line for line in lines if line["message"] == "config request")
    assert [name for name in asked.keys() - everywhere if f"`{name}`" not in OPERATING] == []


def test_state_directory_table_names_what_is_in_it(shared_daemon: Daemon) -> None:
    shared_daemon.deliver(shared_daemon.hook(), b"{}")
    rows = table(OPERATING, "| file | what it is | back it up? |")
    documented = {name for cell, *_ in rows for name in code(cell)}
    present = {re.sub(r"-(wal|shm|journal)$", "", path.name) for path in shared_daemon.state_dir.iterdir()}
    assert present == documented - {"remembered-*.db"}  # this daemon's store is nobody else's
