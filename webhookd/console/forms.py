"""What a form says of a hook, and what is wrong with it, field by field: the rules are those of the config API."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from webhookd import config
from webhookd.model import Hook
from webhookd.settings import closest
from webhookd.tenant_hooks import TenantHooks

FIELDS = ("datasource", "event", "secret", "tsField", "validation", "onMismatch")


@dataclass(frozen=True, slots=True)
class HookForm:
    """The fields as they were typed, and the objections to them; `general` is about none of them."""

    values: Mapping[str, str] = field(repr=False)
    faults: Mapping[str, str] = field(default_factory=dict)
    general: str = ""

    def value(self, name: str) -> str:
        """Return what a field shows. A secret is never shown again."""
        return "" if name == "secret" else self.values.get(name, "")

    def against(self, errors: Sequence[Mapping[str, str]], general: str = "") -> HookForm:
        """Return the form with what is wrong with it."""
        return HookForm(self.values, {error["field"]: error["message"] for error in errors}, general)


def likely(datasource: str, known: Collection[str]) -> str:
    """Return `; did you mean ...?` where no plugin has this name and one has nearly the same; else the empty string."""
    return "" if datasource in known else closest(datasource, known)


def blank() -> HookForm:
    """Return the form of a hook to be created."""
    return HookForm({"validation": "off", "onMismatch": "publish"})


def of_hook(hook: Hook) -> HookForm:
    """Return the form of a hook to be changed."""
    shown = config.details(hook)
    return HookForm({name: str(shown[name]) for name in FIELDS if name in shown})


def typed(argument: Callable[[str, str], str], fixed: Hook | None = None) -> HookForm:
    """Return the form as it came in; datasource and event of a hook that is there already are `fixed`."""
    values = {name: argument(name, "").strip() for name in FIELDS} | {"removeSecret": argument("removeSecret", "")}
    if fixed is not None:
        values |= {"datasource": fixed.datasource, "event": fixed.event}
    return HookForm(values)


def wish(form: HookForm, service: TenantHooks, *, new: bool) -> config.Wish:
    """Return what the form asks for; raises `InvalidInput` with all that is wrong.

    An empty field was not given, but for the `tsField` of a hook that is there already: its form showed it.
    """
    document: dict[str, str] = {name: form.values[name] for name in FIELDS if form.values.get(name)}
    if not new:
        document["tsField"] = form.values.get("tsField", "")
        if form.values.get("removeSecret"):
            document["secret"] = ""
    read, _ = config.read_wish(msgspec.json.encode(document), (), service.datasources, service.schemas)
    return read
