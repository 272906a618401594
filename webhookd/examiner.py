"""Examines large bodies in a process of its own, so that no body, however hostile, holds the event loop.

Run as `python -m webhookd.examiner`, it reads jobs from its standard input and writes a verdict for each to its
standard output: a length in 4 bytes, then MessagePack; behind a job follows the body. It ends with its input.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec
import structlog

from webhookd import errors
from webhookd.datasource import Datasource
from webhookd.errors import Rejected, SchemaMismatch, Unavailable
from webhookd.ingest import SchemaCheck, examine
from webhookd.model import Delivery, Event, Fault, Hook, Verified
from webhookd.turns import Turns

LARGE_BODY = 1024 * 1024
"""Over this, in bytes, verifying and inflating leave the event loop for a thread, reading for another process."""
LARGE_SCHEMA_BODY = 256 * 1024
"""Over this, in bytes, a body whose schema is asked for is read in another process: objects are built from it."""
MEMORY_LIMIT = 1024**3
"""How much address space, in bytes, an examiner may use; a check that wants more is a fault of the body."""
RETIRE_ABOVE = 256 * 1024
"""An examiner that has used so many KiB of memory ends after its job: the next one starts small."""

_LENGTH = struct.Struct(">I")
_READY = b"ready"
_START_LIMIT = 10.0
_PIPE_SIZE = 1024**2  # fewer wake-ups of the event loop than with Linux's 64 KiB
_REJECTIONS = {name: cls for name, cls in vars(errors).items() if isinstance(cls, type) and issubclass(cls, Rejected)}

log = structlog.get_logger(__name__)


def is_large(hook: Hook, body: bytes) -> bool:
    """Whether reading `body` would hold the event loop for too long."""
    return len(body) > (LARGE_BODY if hook.validation == "off" else LARGE_SCHEMA_BODY)


class Plugins(msgspec.Struct, frozen=True):
    """Which plugins an examiner loads: the same as its daemon."""

    plugins_dir: str | None
    load_plugins: tuple[str, ...] | None


class Job(msgspec.Struct, frozen=True):
    """One delivery to examine; its body of `size` bytes follows."""

    hook: Hook
    headers: dict[str, str]
    received_at: int
    hook_url: str
    size: int


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True):
    """What came of a job: an event, a rejection (its class and what it says), or the traceback of a plugin's bug."""

    event: Event | None = None
    rejection: str | None = None
    detail: str = ""
    check: str | None = None
    faults: tuple[Fault, ...] = ()
    bug: str | None = None


class PluginError(Exception):
    """A plugin raised what it must not; the text is the traceback."""


class Examiner:
    """Hands jobs to one examiner process, started when the first one comes and again whenever it is gone.

    Tenants take turns: while one has a job in work, its next waits behind the other tenants' first.
    """

    def __init__(self, plugins: Plugins, time_limit: float) -> None:
        self._arguments = msgspec.json.encode(plugins).decode()
        self._time_limit = time_limit
        self._turns = Turns()
        self._process: asyncio.subprocess.Process | None = None

    async def examine(self, hook: Hook, verified: Verified) -> Event:
        """Return what `webhookd.ingest.examine` returns, or raise what it raises.

        A check that takes longer than the time limit (seconds) is a fault of the body where a schema is asked for;
        `Unavailable` is raised where it is not, where the turn does not come in time, or where no process can be had.
        """
        try:
            async with asyncio.timeout(self._time_limit) as waiting, self._turns.of(hook.tenant):
                waiting.reschedule(None)
                return await self._examine(hook, verified)
        except TimeoutError:
            raise Unavailable("too many large bodies are waiting to be checked; send it again", check="json") from None

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()

    async def _examine(self, hook: Hook, verified: Verified) -> Event:
        job = Job(hook, dict(verified.headers), verified.received_at, verified.hook_url, len(verified.body))
        try:
            verdict = await self._ask(job, verified.body)
        except (TimeoutError, asyncio.CancelledError) as error:
            await self.close()  # it is in the middle of something: the next job gets a fresh one
            if isinstance(error, asyncio.CancelledError):
                raise
            verdict = _out_of(f"the check takes longer than {self._time_limit:g} s", hook)
        except (OSError, EOFError) as error:
            await self.close()
            log.warning("the examiner process failed", error=str(error) or type(error).__name__)
            raise Unavailable("the body cannot be checked now; send it again", check="json") from None
        return _settled(verdict, hook)

    async def _ask(self, job: Job, body: bytes) -> Verdict:
        try:
            return await self._exchange(await self._running(), job, body)
        except (ConnectionError, asyncio.IncompleteReadError):
            await self.close()  # it retired, or was killed from outside: once more, with a fresh one
            return await self._exchange(await self._running(), job, body)

    async def _running(self) -> asyncio.subprocess.Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        command = (sys.executable, "-m", "webhookd.examiner", self._arguments)
        pipe = asyncio.subprocess.PIPE
        # a session of its own: Ctrl-C is for the daemon, which first finishes what is in work
        self._process = process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, start_new_session=True
        )
        assert process.stdin is not None  # noqa: S101 - for the type checker: both are pipes
        assert process.stdout is not None  # noqa: S101
        if (pipe_to_it := process.stdin.get_extra_info("pipe")) is not None:  # uvloop's are sockets
            fcntl.fcntl(pipe_to_it, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
        try:
            async with asyncio.timeout(_START_LIMIT):
                await process.stdout.readexactly(len(_READY))
        except TimeoutError:
            raise EOFError(f"not ready within {_START_LIMIT:g} s") from None  # of ours: no fault of the body
        return process

    async def _exchange(self, process: asyncio.subprocess.Process, job: Job, body: bytes) -> Verdict:
        """Give a job to a process that is ready, and return its verdict; raises TimeoutError after the time limit."""
        assert process.stdin is not None  # noqa: S101 - as above
        assert process.stdout is not None  # noqa: S101
        packed = msgspec.msgpack.encode(job)
        async with asyncio.timeout(self._time_limit):
            process.stdin.write(_LENGTH.pack(len(packed)) + packed)
            process.stdin.write(body)
            await process.stdin.drain()
            (size,) = _LENGTH.unpack(await process.stdout.readexactly(_LENGTH.size))
            return msgspec.msgpack.decode(await process.stdout.readexactly(size), type=Verdict)


def _out_of(message: str, hook: Hook) -> Verdict:
    """Return the verdict on a body that asks for more than a check may use."""
    if hook.validation == "off":
        return Verdict(rejection="Unavailable", detail=message, check="json")
    fault = Fault("", message)
    if hook.validation == "enforce":
        return Verdict(rejection="SchemaMismatch", detail="the body cannot be checked", faults=(fault,))
    return Verdict(event=Event(faults=(fault,)))


def _settled(verdict: Verdict, hook: Hook) -> Event:
    if verdict.event is not None:
        return verdict.event
    if verdict.bug is not None:
        raise PluginError(f"in the datasource {hook.datasource}:\n{verdict.bug}")
    if verdict.rejection == "SchemaMismatch":
        raise SchemaMismatch(verdict.detail, verdict.faults)
    raise _REJECTIONS[verdict.rejection or "Unavailable"](verdict.detail, check=verdict.check)


# --- the other side ------------------------------------------------------------------------------------------------


def serve(jobs: BinaryIO, verdicts: BinaryIO, plugins: Plugins) -> None:
    """Answer jobs until they end, or until one took so much memory that a fresh process is better."""
    from webhookd.registry import load  # noqa: PLC0415 - the daemon's own copy of this module needs no plugins
    from webhookd.schema import Schemas  # noqa: PLC0415

    registry = load(Path(plugins.plugins_dir) if plugins.plugins_dir else None, plugins.load_plugins)
    schemas = Schemas(registry, checked=True)  # by the daemon, before it began to listen
    verdicts.write(_READY)
    verdicts.flush()
    while _peak_memory() <= RETIRE_ABOVE:
        try:
            (length,) = _LENGTH.unpack(_exactly(jobs, _LENGTH.size))
            job = msgspec.msgpack.decode(_exactly(jobs, length), type=Job)
            body = _exactly(jobs, job.size)
        except EOFError:
            return
        packed = msgspec.msgpack.encode(_judged(registry.get(job.hook.datasource), schemas, job, body))
        verdicts.write(_LENGTH.pack(len(packed)) + packed)
        verdicts.flush()


def _peak_memory() -> int:
    """Return the most memory that this process has had, in KiB (proc(5)).

    getrusage's ru_maxrss would begin with that of the daemon, which it is passed on from at fork and exec.
    """
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split(maxsplit=1)[0])


def _exactly(jobs: BinaryIO, size: int) -> bytes:
    """Read so many bytes; raises EOFError where the daemon is gone, maybe in the middle of them."""
    data = jobs.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _judged(source: Datasource, schemas: SchemaCheck, job: Job, body: bytes) -> Verdict:
    delivery = Delivery(job.headers, body, job.received_at, job.hook_url)
    try:
        return Verdict(event=examine(source, schemas, job.hook, Verified(delivery)))
    except SchemaMismatch as error:
        faults = tuple(Fault(fault["pointer"], fault["message"]) for fault in error.errors)
        return Verdict(rejection="SchemaMismatch", detail=error.detail, faults=faults)
    except Rejected as error:
        return Verdict(rejection=type(error).__name__, detail=error.detail, check=error.check)
    except MemoryError:
        return _out_of(f"the check takes more than {MEMORY_LIMIT // 1024**2} MiB of memory", job.hook)
    except (Exception, SystemExit):  # noqa: BLE001 - the outermost edge: the daemon logs it as the bug that it is
        return Verdict(bug=traceback.format_exc())


def main(arguments: Sequence[str]) -> None:
    """Be an examiner process."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = MEMORY_LIMIT if hard == resource.RLIM_INFINITY else min(MEMORY_LIMIT, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    # systemd's SIGTERM goes to every process of the unit; this one ends with its input, after the daemon
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # a daemon that was killed reads no verdict: that is the end, and no fault
    with contextlib.suppress(BrokenPipeError), os.fdopen(os.dup(sys.stdout.fileno()), "wb") as verdicts:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a plugin prints is no verdict
        serve(sys.stdin.buffer, verdicts, msgspec.json.decode(arguments[0], type=Plugins))


if __name__ == "__main__":
    main(sys.argv[1:])
