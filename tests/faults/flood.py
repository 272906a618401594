"""A process of its own that posts to one hook as fast as answers come, and prints how each delivery was answered.

`flood.py PORT PATH CONNECTIONS SIZE SECONDS`: a JSON object of counts by status.
"""

import json
import sys
import threading
import time
from collections import Counter

from traffic import Broken, Connection, Cut

fates: Counter[str] = Counter()


def send(port: int, path: str, body: bytes, until: float) -> None:
    connection: Connection | None = None
    while time.monotonic() < until:
        try:
            connection = connection or Connection(port)
            status, headers = connection.post(path, body)
            fate = str(status)
        except (Cut, Broken, OSError) as end:
            fate, headers = type(end).__name__, {}
        fates[fate] += 1
        if connection is not None and (not headers or headers.get("connection") == "close"):
            connection.close()
            connection = None
        if fate != "204":
            time.sleep(0.01)


if __name__ == "__main__":
    port, path, connections, size, seconds = sys.argv[1:]
    body = b'{"number": 0, "pad": "%s"}' % (b"x" * int(size))
    options = (int(port), path, body, time.monotonic() + float(seconds))
    threads = [threading.Thread(target=send, args=options) for _ in range(int(connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(fates))
