"""What the shell is offered for an argument: what there is, soon, or nothing; never an error amid a line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from webhookd.cli.options import settings_of
from webhookd.errors import ConfigurationError, StartError

if TYPE_CHECKING:
    from webhookd.registry import Registry
    from webhookd.settings import Settings

PATIENCE = 1.0
"""How long, in seconds, somebody who has pressed the tab key waits for a daemon."""
SHOWN = 100
"""How many receipts are offered."""

Offers = Iterable[tuple[str, str | None]]
"""Values, each with a word about it for the shells that show one."""
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _offering(find: Callable[[click.Context], Offers]) -> Complete:
    """Return what click calls for completion: `find`'s offers that go on with what is typed; none where it fails."""

    @functools.wraps(find)
    def complete(ctx: click.Context, parameter: click.Parameter, typed: str) -> list[CompletionItem]:
        del parameter
        try:
            return [CompletionItem(value, help=about) for value, about in find(ctx) if value.startswith(typed)]
        except (click.ClickException, ConfigurationError, StartError, OSError):
            return []

    return complete


@_offering
def datasource_names(ctx: click.Context) -> Offers:
    """Offer the datasources that plugins bring."""
    return [(name, datasource.title) for name, datasource in _registry(ctx).known.items()]


@_offering
def event_names(ctx: click.Context) -> Offers:
    """Offer the events of the datasource that is named before."""
    known = _registry(ctx).get(ctx.params.get("datasource") or "").events
    return [(event, None) for event in sorted(known)]


@_offering
def hook_tokens(ctx: click.Context) -> Offers:
    """Offer the tokens of the tenant's hooks, if the config API can be asked."""
    from webhookd.cli.api_options import DEFAULT_URL, bearer_token  # noqa: PLC0415 - only here is it needed
    from webhookd.cli.config_api import ConfigApi  # noqa: PLC0415 - see above

    given = ctx.params
    bearer = bearer_token(given.get("bearer"), given.get("token_file"))
    found = ConfigApi(given.get("url") or DEFAULT_URL, bearer, PATIENCE).ask("GET")
    return [(hook["token"], f"{hook['datasource']} {hook['event']}") for hook in found]


@_offering
def receipts(ctx: click.Context) -> Offers:
    """Offer the receipts of what is set aside or unroutable in the spool of a running daemon."""
    from webhookd.adapters.spool_layout import State  # noqa: PLC0415 - only here is it needed
    from webhookd.control_client import ControlError, DaemonSpool, NoDaemonError  # noqa: PLC0415 - see above
    from webhookd.control_protocol import Wanted  # noqa: PLC0415 - see above
    from webhookd.statedir import CONTROL_SOCKET  # noqa: PLC0415 - see above

    spool = DaemonSpool(_settings(ctx).state_dir / CONTROL_SOCKET, PATIENCE)
    try:
        page = spool.page(Wanted(limit=SHOWN, states=[State.SET_ASIDE, State.UNROUTABLE]))
    except (ControlError, NoDaemonError):
        return []
    return [(entry.receipt, f"{entry.datasource} {entry.event}, {entry.state.value}") for entry in page.entries]


def _registry(ctx: click.Context) -> Registry:
    from webhookd import registry  # noqa: PLC0415 - plugins are many imports

    settings = _settings(ctx)
    return registry.load(settings.plugins_dir, settings.load_plugins)


def _settings(ctx: click.Context) -> Settings:
    names = ("plugins_dir", "load_plugins", "state_dir")
    flags: dict[str, Any] = {name: ctx.params.get(name) for name in names}
    config = ctx.params.get("config")
    return settings_of(None if config is None else Path(config), flags)
