"""What docs/monitoring has for Prometheus and Grafana asks for metrics and labels that the daemon really has."""

import json
import re
from pathlib import Path

import pytest
import yaml
from harness import Daemon, request

from webhookd import errors

MONITORING = Path(__file__).parents[1] / "docs" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana-dashboard.json").read_text())
(GROUP,) = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
OWN = re.compile(r"\b(?:webhookd|process)_[a-z0-9_]+")
LABELLED = re.compile(r"(webhookd_[a-z_]+)\{([^}]*)\}")
MATCHER = re.compile(r'(\w+)(=~|=)"([^"]*)"')
HISTOGRAM_PARTS = ("_bucket", "_sum", "_count")


def expressions() -> list[str]:
    panels = [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]
    return panels + [rule["expr"] for rule in GROUP["rules"]]


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return what a daemon says of itself that was asked something and refused something."""
    with Daemon(tmp_path_factory.mktemp("monitored")) as daemon:
        hook = daemon.hook()
        assert daemon.deliver(hook, b"{}").status == 204
        assert daemon.deliver(hook, b"no json").status == 400
        return request(daemon.admin_port, "GET", "/metrics").body.decode()


@pytest.mark.parametrize("expression", expressions())
def test_every_metric_is_there(exposed, expression):
    told = set(re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE))
    for name in OWN.findall(expression):
        family = next((name.removesuffix(part) for part in HISTOGRAM_PARTS if name.endswith(part)), name)
        assert family in told
    assert expression.count("(") == expression.count(")")


def test_every_metric_is_shown(exposed):
    told = set(re.findall(r"^# TYPE (webhookd_\S+)", exposed, re.MULTILINE))
    shown = {name.removesuffix("_bucket") for text in expressions() for name in OWN.findall(text)}
    assert {name for name in told if not name.endswith("_created")} - shown == set()


def test_every_value_of_a_label_is_there(exposed):
    values = {("webhookd_refusals_total", "reason"): {*reasons(), "bug"}}
    for family in re.findall(r"^# TYPE (webhookd_\S+)", exposed, re.MULTILINE):
        for name, value in re.findall(rf'^{family}\{{(\w+)="([^"]*)"\}}', exposed, re.MULTILINE):
            values.setdefault((family, name), set()).add(value)
    asked = [
        (metric, label, value)
        for text in expressions()
        for metric, matchers in LABELLED.findall(text)
        for label, _, given in MATCHER.findall(matchers)
        for value in given.split("|")
        if label not in ("instance", "job")
    ]
    assert len(asked) > 5
    for metric, label, value in asked:
        if metric in ("webhookd_sts_questions_total", "webhookd_jwks_fetches_total"):
            continue  # these are asked nothing here; docs/operating.md has their words
        assert value in values[metric, label], f"{metric} has no {label} {value}"


def reasons() -> set[str]:
    kinds = [errors.Rejected]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return {kind.reason for kind in kinds if getattr(kind, "reason", "")}


@pytest.mark.parametrize("rule", GROUP["rules"], ids=lambda rule: rule["alert"])
def test_an_alert_says_what_it_means_and_what_to_do(rule):
    assert rule["labels"]["severity"] in ("page", "warn")
    assert rule["annotations"].keys() == {"summary", "action", "runbook"}
    assert rule["alert"].startswith("Webhookd")


def test_panels_do_not_overlap():
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken
        assert at["x"] + at["w"] <= 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
