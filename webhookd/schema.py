"""Every schema of every datasource is checked and compiled before the first body is held against it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import msgspec

from webhookd.errors import ConfigurationError
from webhookd.model import Fault

if TYPE_CHECKING:
    import jsonschema_rs

    from webhookd.datasource import Datasource

DIALECT = "https://json-schema.org/draft/2020-12/schema"
MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_TEXT = 200
"""How many characters a pointer or a message of a fault may have."""
MAX_LISTED_VALUES = 5000
"""Bodies with more values than this get their first fault only: the validator makes all faults before it hands out the
first, at about 10 µs each, and a body of 256 KiB can have 130,000."""


class Known(Protocol):
    """What `Schemas` asks of a `Registry`."""

    @property
    def known(self) -> Mapping[str, Datasource]:
        """Every datasource of a plugin by its name."""

    def origin(self, name: str) -> str:
        """Return the distribution or file that a datasource comes from."""

    def bundled(self, name: str) -> bool:
        """Return whether a datasource is of webhookd's own distribution."""


def load_schema(datasource: str, event: str) -> dict[str, Any]:
    """Return the JSON Schema that webhookd ships for an event: `webhookd.schemas/<datasource>/<event>.json`.

    Raises `FileNotFoundError` if it ships none.
    """
    text = resources.files("webhookd.schemas").joinpath(datasource, f"{event}.json").read_bytes()
    schema: dict[str, Any] = msgspec.json.decode(text)
    return schema


class Schemas:
    """The schemas of all datasources of a registry, compiled.

    Raises `ConfigurationError` for a schema that is none of draft 2020-12, refers to anything outside itself, or is
    over 64 KiB or 64 levels. Nothing is ever fetched or opened for a schema. `checked` says that this registry's
    schemas have been through here in another process, so that the slow half of the check can be left out.
    """

    def __init__(self, registry: Known, *, checked: bool = False) -> None:
        self._validators: dict[tuple[str, str], jsonschema_rs.Draft202012Validator] = {}
        for name, datasource in registry.known.items():
            for event, known in datasource.events.items():
                if known.schema is None:
                    continue
                try:
                    self._validators[name, event] = compiled(known.schema, trusted=checked or registry.bundled(name))
                except ValueError as error:
                    raise ConfigurationError(
                        f"{registry.origin(name)}: the schema of {name} {event} is refused: {error}; mend or remove it"
                    ) from None

    def has(self, datasource: str, event: str) -> bool:
        """Return whether there is a schema for the event."""
        return (datasource, event) in self._validators

    def faults(self, datasource: str, event: str, body: bytes, at_most: int = 10) -> tuple[Fault, ...]:
        """Return how `body` does not fit the schema of its event, at most so many faults; none where it has no schema.

        A body that cannot be held to be checked (no JSON, a number out of range, nested too deeply) is one fault. No
        fault quotes a value of the body.
        """
        validator = self._validators.get((datasource, event))
        if validator is None:
            return ()
        try:
            document = msgspec.json.decode(body)
            if validator.is_valid(document):
                return ()
            return tuple(islice(_faults(validator, document), at_most))
        except (msgspec.MsgspecError, RecursionError, ValueError) as error:
            return (Fault("", _short(f"cannot be checked: {error}")),)


def compiled(schema: Mapping[str, Any], *, trusted: bool) -> jsonschema_rs.Draft202012Validator:
    """Check `schema` and return its validator; raises `ValueError` that says what is wrong with it.

    `trusted` leaves out jsonschema, the slower of two checks against the meta-schema: its 75 ms to import and 20 ms a
    schema are spent at start on what strangers bring, and in the test suite on what webhookd ships.
    """
    import jsonschema_rs  # noqa: PLC0415 - a command that checks no body does not pay for it

    own = _self_contained(schema)
    if not trusted:
        _check_with_jsonschema(own)
    try:
        jsonschema_rs.meta.validate(own)
        # `mask` stands where a message would quote the value at fault: no body gets into an answer, log or header.
        return jsonschema_rs.Draft202012Validator(
            own, retriever=_retrieve_nothing, pattern_options=jsonschema_rs.RegexOptions(), mask="the value"
        )
    except jsonschema_rs.ValidationError as error:
        fault = _fault(error)
        raise ValueError(f"{fault.message} at {fault.pointer or 'its root'}") from None


def _check_with_jsonschema(schema: dict[str, Any]) -> None:
    from jsonschema import Draft202012Validator, SchemaError  # noqa: PLC0415 - see `compiled`

    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(_short(f"{error.message} at {error.json_path}")) from None


def _self_contained(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of `schema` that is plain JSON, within the limits, and names nothing outside itself."""
    try:
        text = json.dumps(dict(schema), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(_short(f"it is not a JSON object ({error})")) from None
    if len(text) > MAX_SCHEMA_BYTES:
        raise ValueError(f"it has {len(text)} bytes, at most {MAX_SCHEMA_BYTES} are allowed")
    own: dict[str, Any] = json.loads(text)
    for depth, member, value in _members(own):
        if depth > MAX_SCHEMA_DEPTH:
            raise ValueError(f"it is nested over {MAX_SCHEMA_DEPTH} levels deep")
        if not isinstance(value, str):
            continue
        if member in ("$ref", "$dynamicRef", "$recursiveRef") and not value.startswith("#"):
            raise ValueError(_short(f'{member} "{value}" is not local ("#..."): copy what it refers to into "$defs"'))
        if member == "$schema" and value.rstrip("#") != DIALECT:
            raise ValueError(_short(f'$schema "{value}" is not "{DIALECT}"'))
    return own


def _members(schema: dict[str, Any]) -> Iterator[tuple[int, str, Any]]:
    """Yield the depth, name and value of every member of every object in `schema`, wherever it is."""
    pending: list[tuple[int, Any]] = [(1, schema)]
    while pending:
        depth, value = pending.pop()
        if isinstance(value, dict):
            yield from ((depth, name, member) for name, member in value.items())
            pending.extend((depth + 1, member) for member in value.values())
        elif isinstance(value, list):
            yield depth, "", value
            pending.extend((depth + 1, item) for item in value)


def _faults(validator: jsonschema_rs.Draft202012Validator, document: Any) -> Iterator[Fault]:
    import jsonschema_rs  # noqa: PLC0415 - loaded already, by `compiled`

    if _has_few_values(document):
        for error in validator.iter_errors(document):
            yield _fault(error)
        return
    try:
        validator.validate(document)
    except jsonschema_rs.ValidationError as error:
        yield _fault(error)


def _has_few_values(document: Any) -> bool:
    pending = [document]
    seen = 0
    while pending and seen <= MAX_LISTED_VALUES:
        value = pending.pop()
        seen += 1
        if isinstance(value, dict):
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return seen + len(pending) <= MAX_LISTED_VALUES


def _fault(error: jsonschema_rs.ValidationError) -> Fault:
    steps = (str(step).replace("~", "~0").replace("/", "~1") for step in error.instance_path)
    return Fault(_short("".join(f"/{step}" for step in steps)), _short(error.message))


def _short(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[: MAX_TEXT - 1]}…"


def _retrieve_nothing(uri: str) -> NoReturn:
    raise ValueError(f"{uri} is outside the schema")
