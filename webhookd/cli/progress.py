"""Shows how far long work is, to somebody who looks at a terminal, and keeps what is said meanwhile readable."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from webhookd.cli.output import say

CLEAR_LINE = "\r\x1b[K"


class Progress:
    """How far a work is: shown on stderr, if that is a terminal, as a bar of `length` steps."""

    def __init__(self, label: str, length: int) -> None:
        self._shown = sys.stderr.isatty() and length > 0
        self._done = 0
        self._length = length
        self.bar = click.progressbar(range(length), label=label, file=sys.stderr, hidden=not self._shown, show_pos=True)

    def reach(self, done: int) -> None:
        """Show that `done` steps are done; those that are no longer wanted are passed by."""
        steps = min(done, self._length) - self._done
        if steps > 0:
            self._done += steps
            self.bar.update(steps)

    def advance(self) -> None:
        """Show that one more step is done."""
        self.reach(self._done + 1)

    def say(self, text: str) -> None:
        """Tell the user something in a line of its own."""
        if self._shown:
            click.echo(CLEAR_LINE, nl=False, err=True)
        say(text)


@contextmanager
def progress(label: str, length: int) -> Iterator[Progress]:
    """Show how far the work in the `with` block is."""
    shown = Progress(label, length)
    with shown.bar:
        yield shown
