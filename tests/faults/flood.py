"""A process of its own that posts to one hook, and prints how deliveries were answered: no test's work delays it.

`flood.py PORT PATH CONNECTIONS SIZE SECONDS PAUSE`: each connection posts as soon as the last was answered and PAUSE
seconds have passed since it was begun. Printed is a JSON object: `fates`, counts by status, and `seconds`, how long each
answer took.
"""

import json
import sys
import threading
import time
from collections import Counter

from traffic import Broken, Connection, Cut

fates: Counter[str] = Counter()
seconds: list[float] = []


def send(port: int, path: str, body: bytes, until: float, pause: float) -> None:
    connection: Connection | None = None
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            connection = connection or Connection(port)
            status, headers = connection.post(path, body)
            fate = str(status)
        except (Cut, Broken, OSError) as end:
            fate, headers = type(end).__name__, {}
        fates[fate] += 1
        seconds.append(time.monotonic() - began)
        if connection is not None and (not headers or headers.get("connection") == "close"):
            connection.close()
            connection = None
        time.sleep(max(0.0, began + pause - time.monotonic(), 0.0 if fate == "204" else 0.01))


if __name__ == "__main__":
    port, path, connections, size, lasting, pause = sys.argv[1:]
    body = b'{"number": 0, "pad": "%s"}' % (b"x" * int(size))
    options = (int(port), path, body, time.monotonic() + float(lasting), float(pause))
    threads = [threading.Thread(target=send, args=options) for _ in range(int(connections))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps({"fates": fates, "seconds": seconds}))
