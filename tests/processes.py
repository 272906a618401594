"""A server of the tests as a process: on a free port, in a folder of its own, ended by its pid."""

import os
import shutil
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from harness import free_port, until

START_TIMEOUT = 100.0


def listening(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


class Server(ABC):
    """One server process: it is started once its port is free, has started when it answers, and is ended by its pid."""

    def __init__(self, folder: Path, environ: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log_path = folder / "server.log"
        self.port = free_port()
        self.environ = {**os.environ, **(environ or {})}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @abstractmethod
    def command(self) -> list[str]:
        """Return what starts the server."""

    @abstractmethod
    def answers(self) -> bool:
        """Return whether the server is there for its clients."""

    def launch(self) -> None:
        """Start the process without waiting for it to answer."""
        assert not self.running
        until(lambda: not listening(self.port))
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environ, cwd=self.folder
            )

    def wait(self, timeout: float = START_TIMEOUT) -> None:
        deadline = time.monotonic() + timeout
        while not (listening(self.port) and self.answers()):
            assert self.running, f"{self.command()[0]} ended:\n{self.log_path.read_text()[-4000:]}"
            assert time.monotonic() < deadline, f"{self.command()[0]} does not answer"
            time.sleep(0.05)

    def start(self) -> None:
        self.launch()
        self.wait()

    def stop(self, timeout: float = 60) -> None:
        """End it in its own time: SIGTERM."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout)

    def kill(self) -> None:
        """End it at once: SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Let it hang, its connections open: SIGSTOP; return once each of its threads has stopped."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        until(lambda: all(") T " in (thread / "stat").read_text() for thread in threads.iterdir()))

    def resume(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """Forget all data of a server that does not run."""
        assert not self.running
        shutil.rmtree(self.folder / "data", ignore_errors=True)

    def close(self) -> None:
        """End it, whatever state it is in."""
        if self.running:
            self.kill()
