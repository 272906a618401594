"""`webhookd` itself: finds the command, and turns whatever goes wrong into one line and an exit status."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from webhookd.cli.output import say
from webhookd.errors import ConfigurationError, StartError
from webhookd.version import __version__

COMMANDS = {
    "serve": ("serve", "Run the daemon."),
    "dev": ("dev", "Run a daemon to try things out: with a key, a bearer token and a hook."),
    "check": ("check", "Check settings, state directory, store, broker, keys and plugins."),
    "hooks": ("hooks", "Create, list, show, rotate, delete, export and import hooks."),
    "why": ("why", "Say why a delivery was refused, and what to do."),
    "replay": ("replay", "Publish deliveries again that are remembered: refused ones, say, whose fault is mended."),
    "token": ("token", "Mint a bearer token for the config API."),
    "send": ("send", "Send a sample delivery to a hook, signed as its datasource signs."),
    "tail": ("tail", "Show accepted messages."),
    "spool": ("spool", "Look into the spool, retry and drop what is in it."),
    "plugins": ("plugins", "List and show the datasources that plugins bring."),
    "completion": ("completion", "Print the script with which a shell completes commands."),
}
"""Each command: the module of this package that holds it, under its own name, and what `webhookd --help` says of it."""


class Commands(click.Group):
    """Imports a command when it is called, and not to list it."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names, in the order of COMMANDS."""
        del ctx
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command, None where there is none."""
        del ctx
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"webhookd.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        _take_no_color(command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that `args` begin with; one that is not there is told with the nearest that is."""
        try:
            return super().resolve_command(ctx, args)
        except click.exceptions.NoSuchCommand as error:
            raise click.exceptions.NoSuchCommand(error.command_name, possibilities=COMMANDS, ctx=ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _no_color(ctx: click.Context, parameter: click.Parameter, given: bool) -> None:
    """Keep colours out of whatever the command and those below it print."""
    del parameter
    if given or os.environ.get("NO_COLOR"):  # https://no-color.org: any value but the empty one
        ctx.color = False


NO_COLOR: dict[str, Any] = {"is_flag": True, "is_eager": True, "expose_value": False, "callback": _no_color}
COLORLESS = click.Option(["--no-color"], hidden=True, **NO_COLOR)
"""Understood behind a command too: that is where people type it."""


def _take_no_color(command: click.Command) -> None:
    if COLORLESS not in command.params:
        command.params.append(COLORLESS)
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        _take_no_color(inner)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, "-V", "--version", prog_name="webhookd", message="%(prog)s %(version)s")
@click.option("--no-color", help="Print no colours; also NO_COLOR. They are for terminals alone.", **NO_COLOR)
def root() -> None:
    """webhookd accepts, checks and hands on webhook deliveries without losing one.

    \b
    Try it:     webhookd dev
    Run it:     webhookd serve --jwt-secret-file /etc/webhookd/jwt.key
    Settings:   webhookd serve --help
    """  # noqa: D301, D403 - \b keeps click from wrapping the examples; webhookd has no capital


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; what goes wrong is one line on stderr, never a traceback."""
    if "_WEBHOOKD_COMPLETE" in os.environ:
        root.main(list(arguments), prog_name="webhookd")
    try:
        with root.make_context("webhookd", list(arguments)) as context:
            status = root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.ClickException, ConfigurationError, StartError, click.Abort, KeyboardInterrupt) as error:
        return _told(error)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush
        if isinstance(error, BrokenPipeError):
            return 0  # whoever read our output has had enough (`webhookd tail | head`)
        say(f"{error.filename or 'writing the output'}: {error.strerror or error}")
        return 1
    return status if isinstance(status, int) else 0


def _told(error: BaseException) -> int:
    """Tell the user what went wrong, and return the exit status for it."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()
        return error.exit_code
    if isinstance(error, click.ClickException):
        say(_line(error))
        return error.exit_code
    if isinstance(error, ConfigurationError):
        say(str(error))
        return 2
    say(str(error) if isinstance(error, StartError) else "stopped")
    return 1


def _line(error: click.ClickException) -> str:
    """Return what click has to say as one line, with where to look further."""
    text = " ".join(error.format_message().split()).removesuffix(".")
    if not isinstance(error, click.UsageError):
        return text
    where = f" (see {error.ctx.command_path} --help)" if error.ctx is not None else ""
    return f"{text[0].lower()}{text[1:]}{where}"
