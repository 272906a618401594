"""The fields of `POST /wh/config`: one table, by which input is checked and from which the API is described."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from webhookd import tsfield
from webhookd.model import EVENT_NAME, NAME, ON_MISMATCH, VALIDATIONS

SECRET_LENGTH = range(8, 257)
"""How many characters a secret may have."""


@dataclass(frozen=True, slots=True)
class HookField:
    """One field: `fault` says what is wrong with a text, None where nothing is.

    `pattern` is an ECMA-262 regular expression that every text without a fault fits; it may let a little more pass.
    `choices` are all that there is to choose from, where that is so. An optional field may be null: not given.
    """

    about: str
    fault: Callable[[str], str | None]
    pattern: str | None = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    most: int | None = None
    empty: bool = False
    """Whether the empty text is allowed, with a meaning of its own."""
    required: bool = False


def _chosen(values: tuple[str, ...]) -> Callable[[str], str | None]:
    return lambda text: None if text in values else f"must be one of {', '.join(values)}"


def _name_fault(text: str) -> str | None:
    return None if NAME.fullmatch(text) else "must be 1 to 64 letters, digits, `_` or `-`"


def _event_fault(text: str) -> str | None:
    return None if EVENT_NAME.fullmatch(text) else "must be 1 to 100 letters, digits, `_`, `.`, `:` or `-`"


def _ts_field_fault(text: str) -> str | None:
    if not text:
        return None
    try:
        tsfield.parse(text)
    except ValueError as error:
        return str(error)
    return None


def _secret_fault(text: str) -> str | None:
    if text and len(text) not in SECRET_LENGTH:
        return f"must have {SECRET_LENGTH[0]} to {SECRET_LENGTH[-1]} characters, or none to remove it"
    if any(unicodedata.category(character) == "Cc" for character in text):
        return "must not have control characters"
    return None


FIELDS: Mapping[str, HookField] = MappingProxyType(
    {
        "datasource": HookField(
            "Who sends: a datasource of `GET /wh/datasources`, or any other name for the generic one.",
            _name_fault,
            pattern=f"^{NAME.pattern}$",
            required=True,
        ),
        "event": HookField(
            "What is sent, in the sender's own words.", _event_fault, pattern=f"^{EVENT_NAME.pattern}$", required=True
        ),
        "tsField": HookField(
            "Where in the body the time of the event is: names joined by `.`, each followed by any number of `[index]`."
            " Without it, a new hook gets the datasource's default for the event, and another keeps its own. The empty"
            " text: none.",
            _ts_field_fault,
            pattern=f"^({tsfield.PATTERN})?$",
            most=tsfield.MAX_LENGTH,
            empty=True,
        ),
        "secret": HookField(
            "What the sender signs with: from then on a delivery without a valid signature is refused. A replaced"
            " secret stays valid for a while (the setting `secret_grace`); the empty text ends all at once. The generic"
            " datasource takes a secret of Standard Webhooks (base64, with or without `whsec_`), Docker Hub takes none."
            " Never returned.",
            _secret_fault,
            pattern=r"^[^\u0000-\u001f\u007f-\u009f]*$",
            least=SECRET_LENGTH[0],
            most=SECRET_LENGTH[-1],
            empty=True,
        ),
        "validation": HookField(
            "What the JSON Schema of the event does with a body that does not fit: nothing (`off`, the default), a"
            " header `schemaError` in the message (`report`), or a refusal (`enforce`). Where there is no schema, only"
            " `off` is possible.",
            _chosen(VALIDATIONS),
            choices=VALIDATIONS,
        ),
        "onMismatch": HookField(
            "What becomes of a delivery whose sender names another event than the hook's: it is published (`publish`,"
            " the default), answered 204 and not published (`ignore`), or refused (`reject`).",
            _chosen(ON_MISMATCH),
            choices=ON_MISMATCH,
        ),
    }
)
