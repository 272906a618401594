"""The settings as options of commands: each row of the table is a flag."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from webhookd.settings import KEYS, Key, Settings, load_settings

F = TypeVar("F", bound=Callable[..., Any])

SECTIONS = {
    "listen": "Addresses",
    "store": "Store",
    "broker": "Broker",
    "state_dir": "State directory",
    "jwt_secret_file": "Bearer tokens",
    "max_body": "Limits",
    "publish_timeout": "Times and the spool",
    "records_per_hook": "Records of deliveries",
    "plugins_dir": "Plugins",
    "log_level": "Logs",
    "otel_endpoint": "Traces",
}
"""Above which setting `--help` puts which heading."""


class Family(click.Group):
    """A command with commands below it, each of which is listed with the whole first sentence of its help."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _first_sentence(self.commands[name])) for name in self.list_commands(ctx)])


def _first_sentence(command: click.Command) -> str:
    first = " ".join((command.help or "").partition("\n\n")[0].split())
    return first.partition(". ")[0].removesuffix(".") + "."


class SettingOption(click.Option):
    """The flag of one setting."""

    def __init__(self, key: Key) -> None:
        default = f" [default: {key.default}]" if key.default else ""
        doc = f"{key.doc[0].upper()}{key.doc[1:]}.{default}"
        super().__init__([key.flag, key.name], metavar=key.form.metavar, help=doc)


class SettingsCommand(click.Command):
    """A command with a flag for every setting, listed under headings."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.params += [SettingOption(key) for key in KEYS.values()]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options that are no settings, then the settings, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        heading = "Options"
        for parameter in sorted(self.get_params(ctx), key=lambda p: isinstance(p, SettingOption)):
            heading = SECTIONS.get(str(parameter.name), heading)
            if (record := parameter.get_help_record(ctx)) is not None:
                sections.setdefault(heading, []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)


config_option = click.option(
    "--config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The settings file (TOML). [default: /etc/webhookd/webhookd.toml, if it exists]",
)


def setting_options(*names: str) -> Callable[[F], F]:
    """Add `--config` and the flags of a few settings to a command."""

    def add(command: F) -> F:
        for name in reversed(names):
            key = KEYS[name]
            command = click.option(
                key.flag, name, metavar=key.form.metavar, help=f"{key.doc[0].upper()}{key.doc[1:]}."
            )(command)
        return config_option(command)

    return add


def settings_of(
    config: Path | None, flags: Mapping[str, str | None], environ: Mapping[str, str] | None = None
) -> Settings:
    """Return the settings that the flags given, the environment and the file say together."""
    given = {name: value for name, value in flags.items() if value is not None}
    return load_settings(given, os.environ if environ is None else environ, config)
