"""The private listener: /livez, /readyz, /metrics, and the console where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST
from tornado import web

from webhookd.http_problem import PROBLEM_TYPE, http_date, problem_body, reason_phrase
from webhookd.metrics import Exposition

Status = Literal["ok", "degraded", "unready"]


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether the daemon can take deliveries, and what is wrong, in words that an operator can search for."""

    unready: Sequence[str] = ()
    degraded: Sequence[str] = ()
    status: Status = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "status", "unready" if self.unready else "degraded" if self.degraded else "ok")

    def document(self) -> bytes:
        """Return the JSON of /readyz."""
        return msgspec.json.encode({"status": self.status, "reasons": [*self.unready, *self.degraded]})


class _AdminHandler(web.RequestHandler):
    def initialize(self, readiness: Callable[[], Readiness], exposition: Exposition) -> None:
        self.readiness = readiness
        self.exposition = exposition

    def set_default_headers(self) -> None:
        self.clear_header("Server")
        self.set_header("Date", http_date())
        self.set_header("Cache-Control", "no-store")

    def compute_etag(self) -> None:
        """Have no ETag: each answer is a new one."""

    def write_error(self, status_code: int, **_: object) -> None:
        self.set_header("Content-Type", PROBLEM_TYPE)
        self.finish(problem_body(status_code, reason_phrase(status_code), "see /livez, /readyz and /metrics"))


class LiveHandler(_AdminHandler):
    """`/livez`: 200 while the event loop turns."""

    def get(self) -> None:
        """Answer."""
        self.write({"status": "ok"})


class ReadyHandler(_AdminHandler):
    """`/readyz`: 503 when deliveries cannot be taken."""

    def get(self) -> None:
        """Answer."""
        readiness = self.readiness()
        self.set_status(503 if readiness.status == "unready" else 200)
        self.set_header("Content-Type", "application/json")
        self.write(readiness.document())


class MetricsHandler(_AdminHandler):
    """`/metrics`, in Prometheus' text format."""

    def get(self) -> None:
        """Answer."""
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.write(self.exposition.text())


class AdminNotFoundHandler(_AdminHandler):
    """Everything else."""

    def prepare(self) -> None:
        """Refuse."""
        raise web.HTTPError(404)


def admin_app(
    readiness: Callable[[], Readiness], exposition: Exposition, console: web.Application | None = None
) -> web.Application:
    """Return the application of the admin listener; what is under /console is `console`'s."""
    given = {"readiness": readiness, "exposition": exposition}
    more: list[Any] = [] if console is None else [("/console(?:/.*)?", console)]
    return web.Application(
        [("/livez", LiveHandler, given), ("/readyz", ReadyHandler, given), ("/metrics", MetricsHandler, given), *more],
        default_handler_class=AdminNotFoundHandler,
        default_handler_args=given,
        log_function=_log_nothing,
    )


def _log_nothing(handler: web.RequestHandler) -> None:
    """Leave the scrapes of a healthy daemon out of its log."""
