"""Bodies of a wanted size that look like what is sent: GitHub's push, and more commits the larger it is."""

import hmac
import json
from functools import cache
from pathlib import Path
from typing import Any

RECORDED = Path(__file__).parents[1] / "deliveries" / "github" / "push.signed.http"
SECRET = "a signing secret of the bench"
HEADERS = {
    "Content-Type": "application/json",
    "User-Agent": "GitHub-Hookshot/bench",
    "X-GitHub-Event": "push",
    "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958",
}


@cache
def push(size: int) -> bytes:
    """Return a push of exactly `size` bytes, which fits its schema where it has at least 1,600; else any JSON object."""
    document = json.loads(RECORDED.read_bytes().partition(b"\n\n")[2])
    commit = document["commits"][0]
    if size < len(_encoded(document)):
        return b'{"padding":"' + b"x" * (size - 14) + b'"}'
    more = (size - len(_encoded(document))) // (len(_encoded(commit)) + 1)
    document["commits"] += [{**commit, "id": f"{number:040x}"} for number in range(more)]
    document["head_commit"]["message"] += "x" * (size - len(_encoded(document)))
    return _encoded(document)


def headers(body: bytes, *, signed: bool) -> dict[str, str]:
    """Return the headers of the delivery, GitHub's signature among them if it is `signed`."""
    mac = {"X-Hub-Signature-256": f"sha256={hmac.digest(SECRET.encode(), body, 'sha256').hex()}"}
    return HEADERS | (mac if signed else {})


def _encoded(document: Any) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
