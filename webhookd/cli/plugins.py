"""`webhookd plugins`: which datasources there are, and what each can do."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from webhookd.cli.completing import datasource_names
from webhookd.cli.options import Family, setting_options, settings_of
from webhookd.cli.output import Failure, json_option, printable, show, show_json, show_table
from webhookd.settings import closest

if TYPE_CHECKING:
    from webhookd.registry import Registry

GENERIC = "generic"


@click.group(cls=Family, short_help="List and show the datasources that plugins bring.")
def plugins() -> None:
    """List and show the datasources that plugins bring: those installed, and those in plugins_dir.

    \b
    webhookd plugins list
    webhookd plugins show github
    webhookd plugins list --plugins-dir ./plugins
    """  # noqa: D301 - \b keeps click from wrapping the examples


@plugins.command("list")
@setting_options("plugins_dir", "load_plugins")
@json_option
def list_plugins(config: Path | None, as_json: bool, **flags: str | None) -> None:
    """List every datasource that a plugin brings. With --json: one JSON object a line."""
    registry = _registry(config, flags)
    found = [_described(registry, name) for name in registry.known]
    if as_json:
        for datasource in found:
            show_json(datasource)
        return
    rows = [(d["name"], d["title"], "yes" if d["signs"] else "no", len(d["events"]), d["origin"]) for d in found]
    show_table(("NAME", "TITLE", "SIGNS", "EVENTS", "FROM"), rows)


@plugins.command("show")
@click.argument("name", shell_complete=datasource_names)
@setting_options("plugins_dir", "load_plugins")
@json_option
def show_plugin(name: str, config: Path | None, as_json: bool, **flags: str | None) -> None:
    """Show the datasource NAME: where it comes from, whether it signs, and its events.

    The name `generic` shows what stands for every name without a plugin.
    """
    registry = _registry(config, flags)
    if name not in registry.known and name != GENERIC:
        raise Failure(f"no plugin brings {name!r}{closest(name, registry.known)}; hooks for it are {GENERIC} ones")
    datasource = _described(registry, name)
    if as_json:
        show_json(datasource)
        return
    show(printable(f"{datasource['name']}: {datasource['title']}"), bold=True)
    show(printable(f"from:   {datasource['origin']}"))
    show(f"signs:  {'yes' if datasource['signs'] else 'no'}")
    if datasource["events"]:
        rows = [(e["event"], e["tsField"] or "-", "yes" if e["schema"] else "no") for e in datasource["events"]]
        show()
        show_table(("EVENT", "DEFAULT TSFIELD", "SCHEMA"), rows)


def _registry(config: Path | None, flags: dict[str, str | None]) -> Registry:
    from webhookd import registry  # noqa: PLC0415 - plugins are many imports, and `--help` needs none of them

    settings = settings_of(config, flags)
    return registry.load(settings.plugins_dir, settings.load_plugins)


def _described(registry: Registry, name: str) -> dict[str, Any]:
    return {**registry.describe(name), "origin": registry.origin(name)}
