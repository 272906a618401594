"""A delivery as its datasource would send it, put through the daemon's own path as if it had come over the network."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from webhookd.datasource import Datasource
from webhookd.http_delivery import DeliveryWork
from webhookd.http_intake import Intake
from webhookd.model import Hook
from webhookd.version import __version__

SIGNATURES = {
    "valid": "with the hook's secret",
    "none": "not at all (it will be refused)",
    "wrong": "with another secret (it will be refused)",
}
"""How a sample of a hook that has a secret may be signed."""
OTHER_SECRET = "d2ViaG9va2QgY29uc29sZSBzYW1wbGU="  # noqa: S105 - base64, and nobody's secret


@dataclass(slots=True)
class Answer:
    """What the path answers (`http_intake.Answers`); only the first answer counts."""

    done: asyncio.Future[int]

    def accepted(self, receipt: str | None) -> None:
        """Take the 204."""
        del receipt
        self._take(204)

    def reply(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Take anything else."""
        del headers, body
        self._take(status)

    def keep_rest(self, most: int, taken: Callable[[bytes | None], None]) -> None:
        """Nothing is still to come: the body was there as a whole."""
        del most
        taken(b"")

    def _take(self, status: int) -> None:
        if not self.done.done():
            self.done.set_result(status)


async def deliver(intake: Intake, hook: Hook, headers: Mapping[str, str], body: bytes) -> int:
    """Put a delivery through the daemon's path, and return the status that it was answered with."""
    answer = Answer(asyncio.get_running_loop().create_future())
    work = DeliveryWork(answer, intake, hook.api_token, hook.token)
    work.whole("POST", {name.lower(): value for name, value in headers.items()}, body)
    return await answer.done


def sample(source: Datasource, event: str) -> str:
    """Return the datasource's sample of an event, indented; one of nothing in particular where it has none."""
    known = source.events.get(event)
    document = known.sample if known is not None else None
    if document is None:
        document = {"event": event, "message": "Hello from the console", "createdAt": int(time.time())}
    return json.dumps(document, indent=2, ensure_ascii=False)


def headers_of(source: Datasource, hook: Hook, body: bytes, signature: str) -> dict[str, str]:
    """Return the headers that the sender would send with `body`, signed as `SIGNATURES` says."""
    now = time.time()
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"webhookd/{__version__} console",
        **source.sample_headers(hook.event),
    }
    secrets = hook.valid_secrets(int(now * 1000))
    if secrets and source.signs and signature in ("valid", "wrong"):
        headers |= source.sign(body, secrets[0] if signature == "valid" else OTHER_SECRET, now)
    return headers
