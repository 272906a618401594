"""Senders that number what they send and remember every answer, and a checker that looks for what was lost."""

import hashlib
import http.client
import json
import threading
import time
from urllib.parse import urlsplit

from harness import Daemon


class Senders:
    """Threads that deliver to a hook, each on one connection at a time, until they are stopped."""

    def __init__(self, daemon: Daemon, hook, threads: int = 8, pause: float = 0.0) -> None:
        self.accepted: dict[str, str] = {}
        """Receipt -> SHA-256 of the body, of all that was answered 204."""
        self.statuses: dict[int, int] = {}
        self.unanswered = 0
        """Deliveries whose connection was closed before there was an answer."""
        self.in_flight = 0
        self._daemon = daemon
        self._path = urlsplit(hook["hookUrl"]).path
        self._pause = pause
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._number = 0
        self._threads = [threading.Thread(target=self._send_all) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _send_all(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._daemon.port, timeout=30)
        while not self._stop.is_set():
            with self._lock:
                self._number += 1
                body = json.dumps({"number": self._number, "text": "x" * (self._number % 5000)}).encode()
                self.in_flight += 1
            try:
                connection.request("POST", self._path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                connection.close()
                with self._lock:
                    self.unanswered += 1
                time.sleep(0.01)
            else:
                with self._lock:
                    self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
                    if answer.status == 204:
                        self.accepted[answer.headers["X-Webhookd-Receipt"]] = hashlib.sha256(body).hexdigest()
            finally:
                with self._lock:
                    self.in_flight -= 1
            time.sleep(self._pause)
        connection.close()


def kept(daemon: Daemon) -> dict[str, str]:
    """Return receipt -> SHA-256 of the body of every message in the spool."""
    return {m["receipt"]: hashlib.sha256(m["body"].encode()).hexdigest() for m in daemon.messages()}


def assert_nothing_lost(daemon: Daemon, accepted: dict[str, str]) -> None:
    there = kept(daemon)
    lost = {receipt for receipt, digest in accepted.items() if there.get(receipt) != digest}
    assert not lost, f"{len(lost)} of {len(accepted)} deliveries answered 204 are lost or altered"
