"""webhookd accepts, checks and hands on webhook deliveries without losing one.

What a plugin author imports is here; nothing else is a promise.
"""

from webhookd.datasource import Datasource, EventType, hmac_sha256, same
from webhookd.errors import Unsigned
from webhookd.hookspecs import hookimpl
from webhookd.model import Delivery, Verified
from webhookd.schema import load_schema
from webhookd.version import __version__

__all__ = [
    "Datasource",
    "Delivery",
    "EventType",
    "Unsigned",
    "Verified",
    "__version__",
    "hmac_sha256",
    "hookimpl",
    "load_schema",
    "same",
]
