"""Opens very many connections at once, sends one delivery on each, and says what became of each: a process of its own.

    python tests/bench/burst.py PORT PATH COUNT

Prints JSON: how many were answered with each status, `closed` without an answer, `refused` a connection, or `hang`.
"""

import asyncio
import json
import resource
import sys
from collections import Counter

from bench import payloads

PATIENCE = 60.0
"""After so long, in seconds, without an answer a delivery hangs."""


async def deliver(port: int, request: bytes) -> str:
    """Return what became of one delivery."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return "refused"
    try:
        writer.write(request)
        line = await reader.readline()
        return line.split()[1].decode() if line else "closed"
    except ConnectionError:
        return "closed"
    finally:
        writer.close()


async def one(port: int, request: bytes) -> str:
    try:
        async with asyncio.timeout(PATIENCE):
            return await deliver(port, request)
    except TimeoutError:
        return "hang"


async def main(port: int, path: str, count: int) -> None:
    body = payloads.push(2048)
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in payloads.HEADERS.items())
    request = head.encode() + b"\r\n" + body
    fates = await asyncio.gather(*(one(port, request) for _ in range(count)))
    print(json.dumps(Counter(fates)))


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3])))
