"""CircleCI: signed webhooks (v2), and the unsigned `notify` of CircleCI 1.x."""

from collections.abc import Iterable
from typing import ClassVar

import msgspec

import webhookd


class _Named(msgspec.Struct, gc=False):
    """The two members that are read from a body; the rest is skipped without building objects."""

    id: msgspec.Raw = msgspec.Raw()
    type: msgspec.Raw = msgspec.Raw()


_NAMED = msgspec.json.Decoder(_Named)
_TEXT = msgspec.json.Decoder(str)


_BUILD_1X = {
    "payload": {
        "vcs_url": "https://github.com/analytical/engine",
        "build_num": 17,
        "branch": "main",
        "status": "success",
        "start_time": "2016-06-01T10:15:05.000Z",
        "stop_time": "2016-06-01T10:17:30.000Z",
    }
}


def _event(name: str) -> webhookd.EventType:
    schema = webhookd.load_schema("circleci", name)
    return webhookd.EventType("happened_at", schema, sample=schema["examples"][0])


class CircleCI(webhookd.Datasource):
    """https://circleci.com/docs/outbound-webhooks-reference/: HMAC-SHA256 over the raw body, the id in the body.

    The 1.x shape, `{"payload": {...}}`, names neither event nor delivery, so it never mismatches.
    """

    name = "circleci"
    title = "CircleCI"
    signs = True
    handshakes = frozenset({"ping"})
    advice: ClassVar = {
        "signature": "At CircleCI: Project Settings, Webhooks, Edit, Secret token.",
        "event_mismatch": "At CircleCI: Project Settings, Webhooks, Edit, the events under the receiver URL.",
    }
    events: ClassVar = {
        **{name: _event(name) for name in ("workflow-completed", "job-completed", "ping")},
        "notify-1.x": webhookd.EventType("payload.stop_time", sample=_BUILD_1X),
    }

    def verify_signature(self, delivery: webhookd.Delivery, secret: str) -> None:
        """Check a `v1=` of the comma-separated list in `circleci-signature`; other versions are passed over."""
        given = delivery.headers.get("circleci-signature")
        if not given:
            raise webhookd.Unsigned("circleci-signature is missing: set the webhook's secret token at CircleCI")
        expected = _signature(delivery.body, secret)
        if not any(webhookd.same(candidate.strip(), expected) for candidate in given.split(",")):
            raise webhookd.Unsigned("circleci-signature holds no v1 signature of this body by the hook's secret")

    def sign(self, body: bytes, secret: str, now: float) -> dict[str, str]:
        """Sign as CircleCI does."""
        del now
        return {"circleci-signature": _signature(body, secret)}

    def event_type(self, delivery: webhookd.Verified) -> str | None:
        """Return `circleci-event-type`, else the body's `type`."""
        return delivery.headers.get("circleci-event-type") or _member(delivery.body, "type")

    def delivery_id(self, delivery: webhookd.Verified) -> str | None:
        """Return the body's `id`, which CircleCI documents as the one to tell duplicates by."""
        return _member(delivery.body, "id")

    def sample_headers(self, event: str) -> dict[str, str]:
        """Name the event, except for 1.x."""
        return {} if event == "notify-1.x" else {"circleci-event-type": event}


def _signature(body: bytes, secret: str) -> str:
    return f"v1={webhookd.hmac_sha256(secret, body).hex()}"


def _member(body: bytes, name: str) -> str | None:
    try:
        return _TEXT.decode(getattr(_NAMED.decode(body), name))
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


@webhookd.hookimpl
def register_datasources() -> Iterable[webhookd.Datasource]:
    """Register CircleCI."""
    return [CircleCI()]
