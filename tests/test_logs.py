import io
import json
import logging
import os
import threading
import time

import pytest
import structlog

from webhookd import logs


@pytest.fixture(autouse=True)
def untouched():
    """Leave the process's logging as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail(log) -> None:
    try:
        int("boom")
    except ValueError:
        log.exception("it failed")


def test_json_lines():
    stream = io.StringIO()
    handler = logs.configure("info", "auto", stream)
    log = structlog.get_logger("here")
    log.info("something happened", count=1, _event="push")
    log.debug("not wanted")
    logging.getLogger("elsewhere").warning("an %s", "old style")
    logging.getLogger("tornado.general").info("quotes a request")
    fail(log)
    logging.getLogger("py.warnings").warning("careful")  # where `captureWarnings` hands them to
    handler.finish()
    first, second, third, fourth = lines(stream)
    assert list(first) == ["timestamp", "level", "logger", "message", "count", "event"]
    assert (first["level"], first["logger"], first["message"], first["event"]) == (
        "info",
        "here",
        "something happened",
        "push",
    )
    assert (second["level"], second["message"]) == ("warning", "an old style")
    assert "ValueError: invalid literal" in third["exception"]
    assert "careful" in fourth["message"]


@pytest.mark.parametrize(
    ("form", "terminal", "is_json"), [("auto", True, False), ("text", False, False), ("json", True, True)]
)
def test_text_on_a_terminal(form, terminal, is_json):
    stream = io.StringIO()
    stream.isatty = lambda: terminal
    handler = logs.configure("info", form, stream)
    structlog.get_logger("here").info("something happened", count=1)
    fail(structlog.get_logger("here"))
    handler.finish()
    text = stream.getvalue()
    assert text.startswith("{") == is_json
    assert "something happened" in text
    assert "ValueError: invalid literal" in text
    assert ("\x1b[" in text) == (terminal and not is_json)


def test_a_reader_that_does_not_read_holds_up_nobody(monkeypatch):
    monkeypatch.setattr(logs, "LINES_WAITING", 50)
    reading, writing = os.pipe()
    with os.fdopen(writing, "w", buffering=1) as stream:
        handler = logs.configure("info", "json", stream)
        log = structlog.get_logger("here")
        started = time.monotonic()
        for number in range(500):
            log.info("x" * 1000, number=number)
        assert time.monotonic() - started < 5
        chunks: list[bytes] = []
        with os.fdopen(reading, "rb") as end:
            thread = threading.Thread(target=lambda: chunks.extend(iter(lambda: end.read(65536), b"")))
            thread.start()
            time.sleep(0.2)
            log.info("at last")
            handler.finish(10)
            stream.close()
            thread.join()
    text = b"".join(chunks).decode()
    assert "log lines left out: nobody read them" in text
    assert "at last" in text


def test_a_stream_that_is_closed_is_no_end():
    stream = io.StringIO()
    handler = logs.configure("info", "json", stream)
    stream.close()
    structlog.get_logger("here").info("nobody hears it")
    handler.finish()
    assert not handler._thread.is_alive()


def test_finishing_gives_up_on_a_full_queue(monkeypatch):
    monkeypatch.setattr(logs, "LINES_WAITING", 1)
    released = threading.Event()

    class Stuck(io.StringIO):
        def write(self, text):
            released.wait(10)
            return len(text)

    handler = logs.configure("info", "json", Stuck())
    log = structlog.get_logger("here")
    for _ in range(5):
        log.info("waiting")
    started = time.monotonic()
    handler.finish(0.1)
    assert time.monotonic() - started < 5
    released.set()


class Recorder:
    def __init__(self):
        self.lines = []

    def warning(self, message, **facts):
        self.lines.append((message, facts))


def test_refusals_are_limited_by_the_second():
    now = 0.0
    recorder = Recorder()
    refusals = logs.RefusalLog(recorder, lambda: now)
    for _ in range(logs.REFUSALS_PER_SECOND + 5):
        refusals.line(reason="signature")
    assert len(recorder.lines) == logs.REFUSALS_PER_SECOND
    assert recorder.lines[0] == ("delivery refused", {"outcome": "refused", "reason": "signature"})
    refusals.flush()
    now = 1.0
    refusals.flush()
    assert recorder.lines[-1] == ("refused deliveries left out of the log", {"count": 5})
    now = 2.0
    refusals.flush()
    refusals.line(reason="other")
    assert recorder.lines[-1][1]["reason"] == "other"
    assert len(recorder.lines) == logs.REFUSALS_PER_SECOND + 2


def test_a_hook_is_named_by_a_hash():
    assert logs.hook_id("0" * 40) == logs.hook_id("0" * 40)
    assert len(logs.hook_id("\udcff")) == 12
    assert "0000" not in logs.hook_id("0" * 40)
