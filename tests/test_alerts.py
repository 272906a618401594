"""The alerts fire in a real Prometheus, each has its section in the runbook, and a stopped broker is told everywhere."""

import contextlib
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pytest
import yaml
from documents import DOCS, FENCED, anchors, code, table
from harness import Daemon, need, request, until
from processes import Server
from servers import RabbitMQ

from webhookd.console.remedies import CAUSES as CAUSES_TOLD

ALERTS = DOCS / "monitoring" / "alerts.yml"
RUNBOOK = (DOCS / "alerts.md").read_text()
STOPPED = (DOCS / "a-stopped-broker.md").read_text()
RULES = yaml.safe_load(ALERTS.read_text())["groups"][0]["rules"]
PATIENCE = 60
"""Seconds; it is there at once where nothing else keeps the machine busy."""
NAMED = set(code(FENCED.sub("", STOPPED)))
"""What the page has in backquotes: the log lines among it."""
CAUSES = [
    (code(first)[0], why)
    for first, why, _ in table(STOPPED, "| behind `broker down` or `broker blocked` | why | what to do |")
]


class Prometheus(Server):
    """A Prometheus that scrapes a daemon each second, with the alerts of the documents, which wait for nothing."""

    def __init__(self, folder: Path, daemon: Daemon) -> None:
        super().__init__(folder)
        rules = re.sub(r"^( +for): .*$", r"\1: 0s", ALERTS.read_text(), flags=re.MULTILINE)
        (folder / "alerts.yml").write_text(rules)
        settings = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s", "scrape_timeout": "1s"},
            "rule_files": [str(folder / "alerts.yml")],
            "scrape_configs": [
                {"job_name": "webhookd", "static_configs": [{"targets": [f"127.0.0.1:{daemon.admin_port}"]}]}
            ],
        }
        (folder / "prometheus.yml").write_text(json.dumps(settings))

    def command(self) -> list[str]:
        return [
            need("prometheus"),
            f"--config.file={self.folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={self.folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.port}",
            "--log.level=warn",
        ]

    def answers(self) -> bool:
        return request(self.port, "GET", "/-/ready").status == 200

    def firing(self) -> dict[str, dict[str, str]]:
        """Return the annotations of the alerts that fire, by name."""
        alerts: list[dict[str, Any]] = request(self.port, "GET", "/api/v1/alerts").json["data"]["alerts"]
        return {one["labels"]["alertname"]: one["annotations"] for one in alerts if one["state"] == "firing"}


# --- the runbook -----------------------------------------------------------------------------------------------------


def test_prometheus_takes_the_rules() -> None:
    done = subprocess.run([need("promtool"), "check", "rules", ALERTS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(RULES)} rules found" in done.stdout


def test_every_alert_has_its_section() -> None:
    assert re.findall(r"^## (.*)$", RUNBOOK, re.MULTILINE) == [rule["alert"] for rule in RULES]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_its_section(rule: dict[str, Any]) -> None:
    page, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert page == "docs/alerts.md"
    assert anchor == rule["alert"].lower()
    assert anchor in anchors(RUNBOOK)
    section = RUNBOOK.partition(f"## {rule['alert']}\n")[2].partition("\n## ")[0]
    assert section.strip().startswith(f"`{rule['labels']['severity']}`.")
    assert "\n- " in section


def test_reasons_of_an_alert_are_all_in_its_section() -> None:
    (rule,) = [rule for rule in RULES if rule["alert"] == "WebhookdTurnsAway"]
    reasons = re.findall(r'reason=~"([^"]*)"', rule["expr"])[0].split("|")
    section = RUNBOOK.partition("## WebhookdTurnsAway\n")[2].partition("\n## ")[0]
    assert re.findall(r"^- `(\w+)`:", section, re.MULTILINE) == reasons


def test_the_console_has_a_remedy_for_every_cause_of_the_page() -> None:
    assert [cause for cause, _ in CAUSES] == [*CAUSES_TOLD]


# --- a stopped broker ------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A daemon with a broker of its own."""

    folder: Path
    rabbitmq: RabbitMQ

    @contextlib.contextmanager
    def daemon(self, name: str, url: str = "") -> Iterator[Daemon]:
        (self.folder / name).mkdir()
        with Daemon(self.folder / name, broker=url or self.rabbitmq.url()) as running:
            yield running

    def told(self, daemon: Daemon, cause: str) -> None:
        """Assert that readiness, the log, a metric and `webhookd check` tell of a broker that takes nothing."""
        assert cause in dict(CAUSES)

        def readiness() -> str:
            answer = request(daemon.admin_port, "GET", "/readyz")
            assert answer.status == 200
            return " ".join(reason for reason in answer.json["reasons"] if reason.startswith("broker "))

        until(lambda: cause in readiness(), PATIENCE)
        assert escape(CAUSES_TOLD[cause]) in request(daemon.admin_port, "GET", "/console/overview").body.decode()
        assert daemon.metrics()["webhookd_broker_up"] == 0
        lines = [json.loads(line) for line in daemon.log.splitlines()]
        warned = [line for line in lines if line["level"] in ("warning", "error") and "broker" in line["message"]]
        assert {line["message"] for line in warned} <= NAMED, "a line that the page does not name"
        assert any(cause in json.dumps(line) or "does not answer" in line["message"] for line in warned)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("stopped")
    with RabbitMQ(folder / "rabbitmq") as rabbitmq:
        yield Site(folder, rabbitmq)


def test_a_stopped_broker_is_told_by_readiness_log_and_alert(site: Site) -> None:
    with site.daemon("alerted") as daemon, Prometheus(site.folder / "prometheus", daemon) as prometheus:
        hook = daemon.hook()
        assert daemon.deliver(hook, b"{}").status == 204
        assert "WebhookdBrokerAway" not in prometheus.firing()
        site.rabbitmq.stop()
        try:
            assert daemon.deliver(hook, b"{}").status == 204
            site.told(daemon, "Connection refused")
            assert "the broker closed the connection: 320" in daemon.log
            assert "the broker closed the connection: 320" in dict(CAUSES)
            until(lambda: "WebhookdBrokerAway" in prometheus.firing(), PATIENCE)
            annotations = prometheus.firing()["WebhookdBrokerAway"]
            assert f"127.0.0.1:{daemon.admin_port} cannot publish" in annotations["summary"]
            assert annotations["runbook"] == "docs/alerts.md#webhookdbrokeraway"
            assert "(a-stopped-broker.md)" in RUNBOOK.partition("## WebhookdBrokerAway\n")[2].partition("\n## ")[0]
            checked = daemon.run("check", "--broker", site.rabbitmq.url(), "--state-dir", str(daemon.state_dir))
            assert re.search(r"^FAIL +broker .*Connection refused", checked.stdout, re.MULTILINE), checked.stdout
        finally:
            site.rabbitmq.start()
        until(lambda: "broker" not in request(daemon.admin_port, "GET", "/readyz").body.decode(), PATIENCE)
        until(lambda: "WebhookdBrokerAway" not in prometheus.firing(), PATIENCE)
        daemon.stop()
        until(lambda: "WebhookdAway" in prometheus.firing(), PATIENCE)


@pytest.mark.parametrize("resource", ["memory", "disk"])
def test_an_alarm_of_the_broker_is_told(site: Site, resource: str) -> None:
    with site.daemon(resource) as daemon:
        hook = daemon.hook()
        site.rabbitmq.alarm(resource, on=True)
        try:
            assert daemon.deliver(hook, b"{}").status == 204
            site.told(daemon, f"the broker reads nothing: low on {resource}")
        finally:
            site.rabbitmq.alarm(resource, on=False)


def test_a_broker_that_hangs_is_told(site: Site) -> None:
    with site.daemon("hanging") as daemon:
        hook = daemon.hook()
        site.rabbitmq.pause()
        try:
            assert daemon.deliver(hook, b"{}").status == 204
            site.told(daemon, "it does not answer")
        finally:
            site.rabbitmq.resume()


WRONG_URLS = {
    "is refused (compare its name and password)": lambda broker: broker.url(password="another"),
    "the vhost is not there, or user": lambda broker: broker.url("nowhere"),
    "is missing, and user": lambda broker: broker.url("bare", user="limited", password="limited"),
    "Name or service not known": lambda broker: f"amqp://broker.invalid:{broker.port}",
    "SSL: WRONG_VERSION_NUMBER": lambda broker: broker.url().replace("amqp:", "amqps:"),
}


@pytest.mark.parametrize("cause", WRONG_URLS)
def test_a_broker_that_does_not_let_the_daemon_in_is_told(site: Site, cause: str) -> None:
    site.rabbitmq.vhost("bare")
    site.rabbitmq.user("limited", "limited", "bare")
    with site.daemon(f"wrong-{list(WRONG_URLS).index(cause)}", WRONG_URLS[cause](site.rabbitmq)) as daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        site.told(daemon, cause)


def test_every_cause_of_the_page_was_tried() -> None:
    tried = {"Connection refused", "the broker closed the connection: 320", "it does not answer", *WRONG_URLS}
    tried |= {f"the broker reads nothing: low on {resource}" for resource in ("memory", "disk")}
    assert set(dict(CAUSES)) == tried
