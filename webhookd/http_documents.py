"""The descriptions of the API and of the messages, for whoever asks: made once, and the same for all."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from webhookd.asyncapi import asyncapi
from webhookd.errors import MethodNotAllowed
from webhookd.http_config import ConfigHandler, Route
from webhookd.http_openapi import openapi
from webhookd.registry import Registry
from webhookd.settings import Settings


class DocumentHandler(ConfigHandler):
    """One document; it holds nothing of any tenant, so that no bearer token is asked for."""

    ALLOW = ("GET",)

    def initialize(self, document: bytes) -> None:  # type: ignore[override]  # it is Tornado's, which takes anything
        """Take what the application hands over."""
        self.document = document

    async def prepare(self) -> None:
        """Refuse a method that is not there."""
        if self.request.method not in self.ALLOW:
            raise MethodNotAllowed(self.ALLOW)

    def get(self) -> None:
        """Show it."""
        self.set_header("Content-Type", "application/json")
        self.write(self.document)


def document_routes(settings: Settings, registry: Registry) -> list[Route]:
    """Return where the documents are served."""
    exchange = None if settings.broker == "spool:" else settings.exchange
    made: Mapping[str, Any] = {
        "/wh/openapi.json": openapi(settings.public_url, settings.max_body),
        "/wh/asyncapi.json": asyncapi(registry.known, exchange),
    }
    return [
        (re.escape(path), DocumentHandler, {"document": msgspec.json.encode(document)})
        for path, document in made.items()
    ]
