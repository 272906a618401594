"""Log lines for whoever runs the daemon: never a token, secret, header or body in one, never a wait for the reader."""

from __future__ import annotations

import hashlib
import io
import logging
import queue
import sys
import threading
from collections.abc import Callable
from typing import TextIO

import structlog

HOOK_EVENT = "_event"
"""What a caller names the event of a hook by: in the line it is `event`, and structlog's own is `message`."""
LINES_WAITING = 10_000
"""How many lines may wait for a slow reader of the log; what comes beyond is counted and left out."""
REFUSALS_PER_SECOND = 10
"""How many refused deliveries are logged in a second; what comes beyond is counted."""


_rename = structlog.processors.EventRenamer("message", HOOK_EVENT)
_FIRST = ("timestamp", "level", "logger", "message")


def _with_exception(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Take hold of the exception being handled: the thread that writes the line has none."""
    if line.get("exc_info") is True:
        line["exc_info"] = sys.exc_info()
    return line


def _in_order(_: object, __: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Put what every line has before what only this one has."""
    return {name: line[name] for name in _FIRST if name in line} | dict(line)


class NonBlockingHandler(logging.Handler):
    """Formats and writes records in a thread of its own, so that a log that nobody reads never stops the event loop."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        self._queue: queue.Queue[logging.LogRecord | None] = queue.Queue(LINES_WAITING)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record over, or count it as left out."""
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self._left_out += 1

    def finish(self, timeout: float = 2.0) -> None:
        """Write what is waiting, for at most `timeout` seconds."""
        try:
            self._queue.put(None, timeout=timeout)
        except queue.Full:
            return
        self._thread.join(timeout)

    def _write(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                left_out, self._left_out = self._left_out, 0
                if left_out:
                    self._stream.write(f"{left_out} log lines left out: nobody read them\n")
                self._stream.write(self.format(record) + "\n")
                self._stream.flush()
            except (OSError, ValueError):
                continue  # the reader is gone; the daemon's work goes on


def _unbuffered(stream: TextIO) -> TextIO:
    """Return a way to write to the same place that keeps nothing back.

    What standard error has in its buffer is flushed when the interpreter ends: where nobody reads, it would never end.
    """
    try:
        raw = io.FileIO(stream.fileno(), "w", closefd=False)
    except OSError:  # it is no file
        return stream
    return io.TextIOWrapper(raw, stream.encoding, "backslashreplace", write_through=True)


def configure(level: str, form: str, stream: TextIO | None = None, *, colours: bool = True) -> NonBlockingHandler:
    """Set up logging for this process: `form` is `text`, `json` or `auto` (text on a terminal, else JSON lines).

    Lines go to standard error where no other stream is given, in colours on a terminal if `colours`. Returns the
    handler, for its `finish`.
    """
    stream = stream or _unbuffered(sys.stderr)
    terminal = stream.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
        _with_exception,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    handler = NonBlockingHandler(stream)
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    rendering: list[structlog.typing.Processor] = [
        remove_meta,
        _rename,
        _in_order,
        *_renderer(form, terminal, colours=colours),
    ]
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=rendering))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(capture=True)
    # what Tornado says below a warning quotes requests: lines, headers and URLs may hold tokens
    for name in ("tornado.access", "tornado.general", "tornado.application"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    return handler


def _renderer(form: str, terminal: bool, *, colours: bool) -> list[structlog.typing.Processor]:
    if form == "text" or (form == "auto" and terminal):
        plain = structlog.dev.plain_traceback
        colours = colours and terminal
        return [structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=plain, event_key="message")]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]


def hook_id(token: str) -> str:
    """Return the name of a hook in logs: a hash, since its token is a secret."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()[:12]


class RefusalLog:
    """A line for each refused delivery, at most so many a second, with a count of what was left out."""

    def __init__(self, log: structlog.stdlib.BoundLogger, clock: Callable[[], float]) -> None:
        self._log = log
        self._clock = clock
        self._second = 0
        self._lines = 0
        self._left_out = 0

    def line(self, **facts: object) -> None:
        """Log one refused delivery, or count it."""
        self.flush()
        if self._lines >= REFUSALS_PER_SECOND:
            self._left_out += 1
            return
        self._lines += 1
        self._log.warning("delivery refused", outcome="refused", **facts)

    def flush(self) -> None:
        """Log how many lines of the seconds past were left out, if any."""
        second = int(self._clock())
        if second == self._second:
            return
        self._second, self._lines = second, 0
        left_out, self._left_out = self._left_out, 0
        if left_out:
            self._log.warning("refused deliveries left out of the log", count=left_out)
