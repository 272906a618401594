"""What a check has found: in a line, and where it is not as it should be, with what to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from webhookd.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one check."""

    name: str
    ok: bool
    detail: str


class Faulty(Exception):
    """What was checked is not as it should be; the text says what to do."""


def found(name: str, check: Callable[[], str]) -> Finding:
    """Return what `check` says, or what it raises."""
    try:
        return Finding(name, ok=True, detail=check())
    except (ConfigurationError, Faulty) as error:
        return Finding(name, ok=False, detail=str(error))
    except OSError as error:
        detail = f"{error.filename}: {error.strerror}; run this as the daemon's user, or see to its permissions"
        return Finding(name, ok=False, detail=detail)
