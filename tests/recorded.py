"""Reads the recorded deliveries of tests/deliveries: headers and raw body of a request in one file.

`<datasource>/<event>.<variant>.http` holds lines `# note: value`, then the header lines, an empty line, and the body to
the last byte. The notes: `secret` and `verdict` (valid or refused by it), `now` (the receiver's clock, in seconds),
`event` and `id` (what must be read in it), `time` (JSON: what the event's tsField leads to), `faults` (the pointers
that its schema must object to, `/` for the whole; without the note it must fit).
"""

from dataclasses import dataclass
from pathlib import Path

from webhookd import Delivery

FOLDER = Path(__file__).with_name("deliveries")


@dataclass(frozen=True)
class Recorded:
    datasource: str
    name: str
    notes: dict[str, str]
    delivery: Delivery

    def __str__(self) -> str:
        return f"{self.datasource}/{self.name}"


def read(path: Path) -> Recorded:
    head, _, body = path.read_bytes().partition(b"\n\n")
    notes: dict[str, str] = {}
    headers: dict[str, str] = {}
    for line in head.decode().splitlines():
        name, _, value = line.partition(": ")
        if name.startswith("# "):
            notes[name[2:]] = value
        else:
            # Header bytes reach a server as ISO 8859-1.
            headers[name.lower()] = value.encode().decode("latin-1")
    delivery = Delivery(headers=headers, body=body, received_at=int(notes.get("now", "1717236905")) * 1000)
    return Recorded(path.parent.name, path.stem, notes, delivery)


RECORDED = [read(path) for path in sorted(FOLDER.glob("*/*.http"))]
