"""Traces of deliveries: a real daemon, and a real receiver of what it exports."""

import http.client
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from far_side import FarSide
from harness import Daemon, free_port, until
from otlp import Receiver, facts

from webhookd.http_delivery import DeliveryWork
from webhookd.logs import hook_id
from webhookd.replay import Replayer
from webhookd.tracing import traced

OFTEN = {"OTEL_BSP_SCHEDULE_DELAY": "50"}
"""The SDK's own setting: export each 50 ms."""
STRANGER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAMPLED = 1
"""The flag of a traceparent (the next one says that the trace id is random)."""


def context(headers: Mapping[str, Any]) -> tuple[str, str, int]:
    """Return the trace, the span, and whether it is sampled, by the header of a message."""
    match = re.fullmatch("00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", headers["traceparent"])
    assert match
    return match[1], match[2], int(match[3], 16) & SAMPLED


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as running:
        yield running


def test_each_delivery_is_a_span(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, otel_endpoint=receiver.url, environ=OFTEN) as daemon:
        hook = daemon.hook("github", "push", onMismatch="ignore")
        answer = daemon.deliver(hook, b'{"a": "body of this delivery"}', {"X-GitHub-Event": "push"})
        assert daemon.deliver(hook, b"{}", {"X-GitHub-Event": "star"}).status == 204
        assert daemon.deliver(hook, b"no JSON").status == 400
        assert daemon.deliver({"hookUrl": hook["hookUrl"][:-1]}, b"{}").status == 404
        until(lambda: len(receiver.spans) == 4)
        (message,) = daemon.messages()
    accepted, ignored, malformed, unknown = receiver.spans
    hook_facts = {"webhookd.tenant": "42", "webhookd.datasource": "github", "webhookd.event": "push"}
    named = {"http.request.method": "POST", "webhookd.hook": hook_id(hook["token"])}
    assert facts(accepted.attributes) == {
        **hook_facts,
        **named,
        "webhookd.outcome": "spooled",
        "webhookd.receipt": answer.headers["X-Webhookd-Receipt"],
        "webhookd.bytes": 30,
        "http.response.status_code": 204,
    }
    assert facts(ignored.attributes).items() >= {"webhookd.outcome": "ignored", "webhookd.reason": "mismatch"}.items()
    assert (
        facts(malformed.attributes).items()
        >= {
            **hook_facts,
            "webhookd.outcome": "refused",
            "webhookd.reason": "malformed",
            "http.response.status_code": 400,
        }.items()
    )
    assert facts(unknown.attributes)["webhookd.reason"] == "unknown_hook"
    assert "webhookd.tenant" not in facts(unknown.attributes)
    assert context(message["headers"]) == (accepted.trace_id.hex(), accepted.span_id.hex(), SAMPLED)
    assert len({span.trace_id for span in receiver.spans}) == 4
    assert all(0 < span.end_time_unix_nano - span.start_time_unix_nano < 60e9 for span in receiver.spans)
    assert receiver.resources[0]["service.name"] == "webhookd"
    shown = json.dumps([str(span) for span in receiver.spans])
    assert not [word for word in daemon.canaries if word in shown], "a canary is in a span"


def test_what_the_sender_calls_its_trace_is_a_link(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, otel_endpoint=receiver.url, environ=OFTEN) as daemon:
        hook = daemon.hook()
        for given in (STRANGER, "nonsense"):
            assert daemon.deliver(hook, b"{}", {"traceparent": given}).status == 204
        until(lambda: len(receiver.spans) == 2)
    linked, unlinked = receiver.spans
    (link,) = linked.links
    assert (link.trace_id.hex(), link.span_id.hex()) == tuple(STRANGER.split("-")[1:3])
    assert (linked.parent_span_id, unlinked.parent_span_id) == (b"", b"")
    assert linked.trace_id != link.trace_id
    assert list(unlinked.links) == []


def replay(daemon: Daemon, hook: Mapping[str, Any], id_: str) -> dict[str, Any]:
    answer = daemon.config("POST", f"/wh/config/{hook['token']}/deliveries/{id_}/replay", {})
    assert answer.status == 200, answer.body
    return answer.json


def test_each_replay_is_a_span_that_names_what_it_replays(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, otel_endpoint=receiver.url, environ=OFTEN) as daemon:
        hook = daemon.hook("github", "push", onMismatch="reject")
        sent = {"X-GitHub-Event": "star", "traceparent": STRANGER}
        assert daemon.deliver(hook, b'{"a": "body of this delivery"}', sent).status == 422
        until(lambda: len(receiver.spans) == 1)
        (refused,) = receiver.spans
        record = facts(refused.attributes)["webhookd.record"]
        assert isinstance(record, str)
        again = replay(daemon, hook, record)
        daemon.hook("github", "push", onMismatch="publish")
        done = replay(daemon, hook, record)
        until(lambda: len(receiver.spans) == 3)
        (message,) = daemon.messages()
        assert daemon.deliver(hook, b"{}").status == 204
        until(lambda: len(receiver.spans) == 4)
        (_, live) = daemon.messages()
    _, failed, accepted, after = receiver.spans
    assert (refused.name, failed.name, accepted.name) == ("delivery", "replay", "replay")
    assert facts(accepted.attributes) == {
        "webhookd.tenant": "42",
        "webhookd.datasource": "github",
        "webhookd.event": "push",
        "webhookd.hook": hook_id(hook["token"]),
        "webhookd.replay_of": record,
        "webhookd.receipt": done["receipt"],
        "webhookd.outcome": "accepted",
        "webhookd.bytes": 30,
        "http.response.status_code": 204,
    }
    told = {"webhookd.record": again["id"], "webhookd.reason": "event_mismatch", "http.response.status_code": 422}
    assert facts(failed.attributes).items() >= {**told, "webhookd.replay_of": record}.items()
    assert context(message["headers"]) == (accepted.trace_id.hex(), accepted.span_id.hex(), SAMPLED)
    assert context(live["headers"])[1] == after.span_id.hex()
    assert len({span.trace_id for span in receiver.spans}) == 4
    assert [link.span_id.hex() for link in accepted.links] == [STRANGER.split("-")[2]]
    shown = json.dumps([str(span) for span in receiver.spans])
    assert not [word for word in daemon.canaries if word in shown], "a canary is in a span"


def test_a_sender_that_goes_away_ends_its_span(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, otel_endpoint=receiver.url, environ=OFTEN) as daemon:
        hook = daemon.hook()
        connection = http.client.HTTPConnection("127.0.0.1", daemon.port, timeout=20)
        connection.putrequest("POST", urlsplit(hook["hookUrl"]).path)
        for name, value in {"Content-Type": "application/json", "Content-Length": "100"}.items():
            connection.putheader(name, value)
        connection.endheaders(b"{")
        until(lambda: daemon.metrics()["webhookd_in_flight_deliveries"] == 1)
        connection.close()
        until(lambda: len(receiver.spans) == 1)
    assert facts(receiver.spans[0].attributes)["webhookd.outcome"] == "aborted"


@pytest.mark.gen_test(timeout=60)
async def test_a_message_in_rabbitmq_names_its_span(tmp_path, vhost, receiver):
    with Daemon(tmp_path, otel_endpoint=receiver.url, broker=vhost, environ=OFTEN) as daemon:
        async with FarSide(vhost) as far:
            await far.bind()
            assert daemon.deliver(daemon.hook(), b"{}").status == 204
            (message,) = await far.take()
        until(lambda: len(receiver.spans) == 1)
    (span,) = receiver.spans
    assert context(message.headers) == (span.trace_id.hex(), span.span_id.hex(), SAMPLED)
    assert facts(span.attributes)["webhookd.outcome"] == "confirmed"


def test_sampling_is_up_to_the_sdk(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, otel_endpoint=receiver.url, environ={**OFTEN, "OTEL_TRACES_SAMPLER": "always_off"}) as daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        (message,) = daemon.messages()
    assert context(message["headers"])[2] == 0
    assert receiver.spans == []


def test_the_sdk_can_be_disabled(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, otel_endpoint=receiver.url, environ={**OFTEN, "OTEL_SDK_DISABLED": "true"}) as daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        (message,) = daemon.messages()
    assert "traceparent" not in message["headers"]
    assert receiver.spans == []


def test_spans_are_exported_at_the_stop(tmp_path: Path, receiver: Receiver) -> None:
    with Daemon(tmp_path, otel_endpoint=receiver.url) as daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
    assert len(receiver.spans) == 1


@pytest.mark.parametrize("fault", ["nobody listens", "it answers 503"])
def test_a_receiver_that_takes_nothing_stops_nothing(tmp_path: Path, receiver: Receiver, fault: str) -> None:
    receiver.silent = True
    url = receiver.url if fault == "it answers 503" else f"http://127.0.0.1:{free_port()}"
    with Daemon(tmp_path, otel_endpoint=url, environ=OFTEN) as daemon:
        hook = daemon.hook()
        for _ in range(20):
            assert daemon.deliver(hook, b"{}").status == 204
        assert daemon.stop() == 0
    # the exporter gives up on a batch by itself, or is told to at the stop
    assert "spans are lost" in daemon.log or "Failed to export" in daemon.log


@pytest.fixture
def without(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which the extra is not installed."""
    package = tmp_path / "none" / "opentelemetry"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ModuleNotFoundError('not installed', name='opentelemetry')\n")
    return {"PYTHONPATH": str(package.parent)}


def test_the_log_says_what_is_missing(tmp_path: Path, without: dict[str, str]) -> None:
    with Daemon(tmp_path, otel_endpoint="http://127.0.0.1:4318", environ=without) as daemon:
        assert daemon.deliver(daemon.hook(), b"{}").status == 204
        (message,) = daemon.messages()
    assert "traceparent" not in message["headers"]
    (line,) = [line for line in map(json.loads, daemon.log.splitlines()) if "otel_endpoint" in line["message"]]
    assert line["level"] == "warning"
    assert (line["missing"], line["install"]) == ("opentelemetry", "pip install 'webhookd[otel]'")


def test_check_says_what_is_missing(tmp_path: Path, without: dict[str, str]) -> None:
    daemon = Daemon(tmp_path, otel_endpoint="http://me:hunter2@127.0.0.1:4318")
    found = daemon.run("check", "--json", *daemon.command()[2:])
    (finding,) = [one for one in map(json.loads, found.stdout.splitlines()) if one["check"] == "traces"]
    assert finding["ok"]
    assert "127.0.0.1:4318" in finding["detail"]
    assert "hunter2" not in found.stdout
    found = daemon.run("check", "--json", *daemon.command()[2:], **without)
    (finding,) = [one for one in map(json.loads, found.stdout.splitlines()) if one["check"] == "traces"]
    assert not finding["ok"]
    assert "pip install 'webhookd[otel]'" in finding["detail"]
    assert found.returncode == 1


def test_nothing_is_in_the_way_where_traces_are_off() -> None:
    assert traced(None, None, None) == (DeliveryWork, Replayer)
