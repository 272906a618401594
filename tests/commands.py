"""Runs commands of `webhookd`: in this process where many are tried, by the console script where that matters."""

import asyncio
import contextlib
import io
import json
import os
import pty
import select
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import PATIENCE, WEBHOOKD
from test_publishers import a_message

from webhookd.adapters.spool import Spool, State
from webhookd.cli.root import run

MIB = 1 << 20


@dataclass
class Done:
    """What a command said and returned."""

    status: int
    out: str
    err: str

    @property
    def documents(self) -> list[Any]:
        """The lines of its output, each as JSON."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def line(self) -> str:
        """The one line on stderr that it failed with; nothing is on stdout."""
        assert self.out == ""
        assert self.err.startswith("webhookd: ")
        assert self.err.endswith("\n")
        assert self.err.count("\n") == 1, self.err
        return self.err.removeprefix("webhookd: ").removesuffix("\n")


def call(*arguments: str) -> Done:
    """Run a command in this process, in its current directory and environment."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run(arguments)
    return Done(status, out.getvalue(), err.getvalue())


def clean_environ(**more: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("WEBHOOKD_")} | more


def script(
    folder: Path, *arguments: str, stdin: bytes | None = None, timeout: float = PATIENCE, **environ: str
) -> Done:
    """Run the console script in `folder`."""
    done = subprocess.run(
        [WEBHOOKD, *arguments],
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=timeout,
        env=clean_environ(**environ),
        cwd=folder,
        check=False,
    )
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode())


def on_a_terminal(
    folder: Path,
    *arguments: str,
    typed: bytes = b"",
    into: Path | None = None,
    timeout: float = PATIENCE,
    **environ: str,
) -> tuple[int, str]:
    """Run the console script on a terminal of its own, type when it asks, and return its status and what was seen.

    With `into`, its standard output goes into that file.
    """
    ours, theirs = pty.openpty()
    out = None if into is None else into.open("wb")
    process = subprocess.Popen(
        [WEBHOOKD, *arguments],
        stdin=theirs,
        stdout=theirs if out is None else out,
        stderr=theirs,
        cwd=folder,
        env=clean_environ(TERM="xterm", **environ),
        start_new_session=True,
    )
    os.close(theirs)
    if out is not None:
        out.close()
    seen = b""
    deadline = time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 0.2)[0]:
                continue
            try:
                part = os.read(ours, 65536)
            except OSError:
                break  # the other end is closed
            seen += part
            if typed and seen.rstrip().endswith(b":"):
                os.write(ours, typed)
                typed = b""
        return process.wait(5), seen.decode()
    finally:
        os.close(ours)
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(folder: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """Run the console script beside the test; it is ended behind it."""
    process = subprocess.Popen(
        [WEBHOOKD, *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=clean_environ(**environ),
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=20)


def with_spool(
    state_dir: Path, scenario: Callable[[Spool], Awaitable[Any]], *, keep: bool = True, max_bytes: int = 64 * MIB
) -> Any:
    """Run `scenario` on the spool of a state directory that no daemon has."""
    state_dir.mkdir(mode=0o700, exist_ok=True)

    async def one() -> Any:
        spool = await Spool.open(state_dir / "spool.db", max_bytes=max_bytes, retention=36500 * 86400.0, keep=keep)
        try:
            return await scenario(spool)
        finally:
            await spool.close()

    return asyncio.run(one())


def fill(state_dir: Path, numbers: Sequence[int], *, keep: bool = True, **fields: Any) -> list[str]:
    """Put messages into the spool of a state directory, and return their receipts."""
    messages = [a_message(number, **fields) for number in numbers]

    async def publish(spool: Spool) -> None:
        await asyncio.gather(*(spool.publish(message) for message in messages))

    with_spool(state_dir, publish, keep=keep)
    return [message.receipt for message in messages]


def mark(state_dir: Path, receipts: Sequence[str], state: State, reason: str) -> None:
    """Give messages in the spool of a state directory another state."""

    async def change(spool: Spool) -> None:
        wanted = set(receipts)
        seqs = [entry.seq for entry in await spool.entries(limit=10_000) if entry.receipt in wanted]
        await spool.mark(seqs, state, reason)

    with_spool(state_dir, change, keep=False)
