"""`webhookd completion`: the script with which a shell completes commands, options and values."""

from __future__ import annotations

import click
from click.shell_completion import BashComplete, FishComplete, ZshComplete

from webhookd.cli.output import show

SHELLS = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}
VARIABLE = "_WEBHOOKD_COMPLETE"
"""By which the script asks `webhookd` itself what may come next."""


@click.command()
@click.argument("shell", type=click.Choice(list(SHELLS)))
def completion(shell: str) -> None:
    """Print the script that has bash, zsh or fish complete commands, options, datasources, events, tokens and receipts.

    Tokens of hooks come from the config API, where WEBHOOKD_URL and WEBHOOKD_TOKEN say where it is and who asks.

    \b
    bash:  webhookd completion bash > ~/.local/share/bash-completion/completions/webhookd
    zsh:   webhookd completion zsh > "${fpath[1]}/_webhookd"
    fish:  webhookd completion fish > ~/.config/fish/completions/webhookd.fish

    \b
    For the shell that runs, and it alone:
    eval "$(webhookd completion bash)"
    """  # noqa: D301 - \b keeps click from wrapping the examples
    root = click.get_current_context().find_root().command
    show(SHELLS[shell](root, {}, "webhookd", VARIABLE).source())
