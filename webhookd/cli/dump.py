"""Reads hooks out of a file: JSON lines, or what etcd prints of the keys of the service that came before webhookd.

The forms are described in `docs/command-line.md`.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from webhookd.cli.output import Failure

TOKEN = re.compile(r"[0-9a-f]{40}")
KEY_LINE = re.compile(r"[^\s{]*\b[0-9a-f]{40}")
"""A line with the key of a record, which is on the next line: as `etcdctl get --prefix` prints them."""


@dataclass(frozen=True, slots=True)
class Record:
    """One hook of a file: where it is there, and either what is said of it or why that cannot be read."""

    where: str
    document: Mapping[str, Any]
    fault: str | None = None

    def __repr__(self) -> str:
        """Keep tokens out of tracebacks."""
        return f"Record({self.where})"


def records(data: bytes) -> list[Record]:
    """Return every record of a file, in its order; raises Failure where the file as a whole is in no known form."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Failure("the file is not UTF-8") from None
    document = _json(text)
    if isinstance(document, dict) and "kvs" in document:
        return [_of_pair(f"key {number}", pair) for number, pair in enumerate(_list(document["kvs"]), 1)]
    if isinstance(document, dict) and "header" in document and "datasource" not in document:
        return []  # what etcdctl says where there are no keys
    if isinstance(document, dict) and "node" in document:
        return [_of_node(f"key {number}", node) for number, node in enumerate(_leaves(document["node"]), 1)]
    if isinstance(document, dict) and "\n" in text.strip():
        return [_record("record 1", document)]
    if isinstance(document, list):
        return [_record(f"record {number}", found) for number, found in enumerate(document, 1)]
    return list(_lines(text))


def _lines(text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip() or KEY_LINE.fullmatch(line.strip()):
            continue
        where = f"line {number}"
        document = _json(line)
        if isinstance(document, dict) and isinstance(document.get("node"), dict):
            yield _of_node(where, document["node"])
        else:
            yield _record(where, document)


def _of_pair(where: str, pair: Any) -> Record:
    """Return the record of a key and its value, both in base64, as version 3 of etcd's API has them."""
    try:
        key, value = (base64.b64decode(pair.get(name, ""), validate=True).decode() for name in ("key", "value"))
    except (AttributeError, TypeError, ValueError, binascii.Error):
        return Record(where, {}, "not a key and a value in base64")
    return _under(where, key, value)


def _leaves(node: Any) -> Iterator[Any]:
    """Yield the nodes that are no folders, as version 2 of etcd's API has them."""
    if isinstance(node, dict) and (node.get("dir") or "nodes" in node):
        for inner in _list(node.get("nodes", [])):
            yield from _leaves(inner)
    else:
        yield node


def _of_node(where: str, node: Any) -> Record:
    if not isinstance(node, dict) or not isinstance(node.get("key"), str) or not isinstance(node.get("value"), str):
        return Record(where, {}, "not a key and a value")
    return _under(where, node["key"], node["value"])


def _under(where: str, key: str, value: str) -> Record:
    """Return the record that etcd held under `key`, which ends in the hook's token."""
    token = key.rpartition("/")[2]
    if not TOKEN.fullmatch(token):
        return Record(where, {}, "the key does not end in a hook's token: it is no hook of the service before webhookd")
    record = _record(where, _json(value))
    if record.fault is None and record.document.get("token", token) != token:
        return Record(where, {}, "the key ends in another token than the record's")
    return Record(where, {**record.document, "token": token}, record.fault)


def _record(where: str, document: Any) -> Record:
    if not isinstance(document, dict):
        return Record(where, {}, "not a JSON object")
    return Record(where, document)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
