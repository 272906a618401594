"""Creates and updates hooks as records say, through the config API: with new tokens where the tenant has none yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from webhookd.cli.config_api import ConfigApi
from webhookd.cli.dump import Record
from webhookd.cli.output import Failure

WISHES = {"datasource", "event", "tsField", "secret", "validation", "onMismatch"}
"""What of a record goes to the config API."""
AS_STORED = {"tsField": "", "validation": "off", "onMismatch": "publish"}
"""What it means that an exported hook lacks one of these."""
GIVEN_BY_THE_DAEMON = {"token", "apiToken", "tenantId", "createdAt", "hookUrl", "signed"} | {
    *("previousToken", "previousHookUrl", "previousUntil")
}

State = Literal["created", "updated", "unchanged"]


class TenantsHooks:
    """The hooks of the tenant whose bearer token `api` has. Raises Failure where the config API cannot be asked."""

    def __init__(self, api: ConfigApi, *, origin: str | None, unsigned: bool) -> None:
        self._api = api
        self._origin = origin
        self._unsigned = unsigned
        self._held = {(hook["datasource"], hook["event"]): hook for hook in api.ask("GET")}

    def put(self, record: Record, *, dry_run: bool) -> State:
        """Have the hook that a record describes, and say what that took. Raises Failure where it cannot be."""
        if record.fault is not None:
            raise Failure(record.fault)
        wish = _wish(record)
        held = self._held.get((wish["datasource"], wish["event"]))
        if held is not None and "secret" not in wish and self._origin is None and _alike(held, wish):
            return "unchanged"
        known = self._unsigned or wish.get("secret") or (held is not None and held["signed"])
        if record.document.get("signed") and not known:
            raise Failure("the hook was signed, and its secret is not here: add it as `secret`, or use --unsigned")
        if not dry_run:
            held_now = self._api.ask("POST", document=wish, origin=self._origin)
            self._held[held_now["datasource"], held_now["event"]] = held_now
        return "created" if held is None else "updated"


def refuse_several_tenants(records: Sequence[Record]) -> None:
    """Raise Failure where records are of more than one tenant: the config API would make all of them one's own."""
    tenants = {str(record.document["tenantId"]) for record in records if "tenantId" in record.document}
    if len(tenants) > 1:
        raise Failure(
            f"the file has hooks of {len(tenants)} tenants, and the bearer token is that of one:"
            " import them one by one, or as the operator with --keep-urls"
        )


def _wish(record: Record) -> dict[str, Any]:
    """Return what to ask for: of an exported hook exactly what it was, else what the record has."""
    given = dict(record.document)
    if "eventType" in given:
        given.setdefault("event", given.pop("eventType"))
    if unknown := sorted(given.keys() - WISHES - GIVEN_BY_THE_DAEMON):
        raise Failure(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(WISHES))}")
    wish = {name: value for name, value in given.items() if name in WISHES and value is not None}
    for name in ("datasource", "event"):
        if not isinstance(wish.get(name), str):
            raise Failure(f"{name}: {'must be a string' if name in wish else 'required'}")
    return {**AS_STORED, **wish} if "token" in given else wish


def _alike(held: dict[str, Any], wish: dict[str, Any]) -> bool:
    return all(held.get(name, AS_STORED.get(name)) == value for name, value in wish.items())
