"""Every way in which a signature is known to go wrong: how each is told, and what mends it, as the documents say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from webhookd.datasource import Datasource
from webhookd.generic import Generic

_EXACT = "Have {sender} sign the very bytes that it sends, and let nothing between it and webhookd write them anew."
_FORM = "Have {sender} write the signature as its documentation says, and let no proxy touch the header."


def sender_of(source: Datasource) -> str:
    """Return what the senders of a datasource are called in a sentence."""
    return UNNAMED_SENDER if isinstance(source, Generic) else source.title


def capital(sentence: str) -> str:
    """Return `sentence` with a capital: it may begin with a name that has none."""
    return sentence[0].upper() + sentence[1:]


class Known(NamedTuple):
    """A known way to go wrong.

    `text` says what was found, `remedy` what to do. `{sender}` and other facts in braces are put in when it is told.
    `by_setting` says that the remedy is a setting at the sender, so that it helps to be told where that is.
    """

    text: str
    remedy: str
    by_setting: bool = False


class Diagnosis(msgspec.Struct, frozen=True):
    """One thing that is wrong, and what to do, in words that hold no secret."""

    name: str
    text: str
    remedy: str
    by_setting: bool


DIAGNOSES: Mapping[str, Known] = {
    # --- the header ------------------------------------------------------------------------------------------------
    "signature-missing": Known(
        "{sender} sent no signature: {missing} is not there.",
        "Set the secret of the hook at {sender}, or take it away from the hook; see that no proxy removes the header.",
        by_setting=True,
    ),
    "signature-header": Known("The signature is right, but stands in another header.", _FORM),
    "signature-prefix": Known("The signature is right, but what stands before its value is missing or another.", _FORM),
    "signature-upper-case": Known("The signature is right, but its hex digits are in upper case.", _FORM),
    "signature-base64": Known("The signature is right, but in base64; hex is expected.", _FORM),
    "signature-hex": Known("The signature is right, but in hex; base64 is expected.", _FORM),
    "signature-list": Known(
        "The right signature is there among others, joined in a way that is none of {sender}'s.",
        "Send the header once: where a proxy or a library adds another, have it replace the first.",
    ),
    "sha1": Known(
        "The signature is made with SHA-1, which is not taken.",
        "Have {sender} sign with SHA-256; a sender that signs with both has to send that signature too.",
    ),
    "other-hash": Known("The signature is made with another hash than SHA-256.", "Have {sender} sign with SHA-256."),
    "asymmetric": Known(
        "The delivery is signed with a private key only (v1a); webhookd verifies signatures by a shared secret (v1).",
        "Have {sender} sign with a shared secret.",
        by_setting=True,
    ),
    # --- the secret ------------------------------------------------------------------------------------------------
    "secret-expired": Known(
        "The delivery is signed with a secret that the hook had before; its grace ended at {until}.",
        "Give {sender} the secret that the hook has now.",
        by_setting=True,
    ),
    "secret-new": Known(
        "The signature matches a secret that the hook has now, and had not when the delivery came.",
        "Nothing is wrong any more: replay the delivery, or have it sent again.",
    ),
    "secret-removed": Known(
        "The hook had a secret when the delivery came, and has none now.",
        "Nothing is wrong any more: replay the delivery, or have it sent again.",
    ),
    "secret-trimmed": Known(
        "The secret of the hook begins or ends with blanks, which the sender's does not.",
        "Give the hook the secret again, without the blanks.",
    ),
    "secret-blanks": Known(
        "The sender's secret has a newline or a blank around it, as files and environment variables often add.",
        "Remove it at {sender}: `printf` writes no newline where `echo` does.",
        by_setting=True,
    ),
    "secret-quoted": Known(
        "The secret stands in quotes, at {sender} or in the hook, which the other has not.",
        "Remove the quotes: in some environment files they are part of the value.",
        by_setting=True,
    ),
    "secret-empty": Known(
        "The delivery is signed with an empty secret.",
        "Set the secret at {sender}: the variable or file that it is read from may be missing.",
        by_setting=True,
    ),
    "secret-not-decoded": Known(
        "The delivery is signed with the text of the secret, not with the bytes that it is the base64 of.",
        "Have {sender} decode the secret, without `whsec_`, from base64 before it signs.",
    ),
    "secret-decoded": Known(
        "The delivery is signed with the bytes that the secret is the hex or base64 of, not with its text.",
        "Have {sender} take the text of the secret as it is.",
    ),
    # --- the URL, where the sender signs that too ---------------------------------------------------------------------
    "url-new": Known(
        "The signature fits the secret and the URL that the hook has now; when the delivery came, one was another.",
        "Nothing is wrong any more: replay the delivery, or have it sent again.",
    ),
    "url-host": Known(
        "The signature is over the URL with the scheme and host that {sender} used, and those of `hookUrl` are others.",
        "Update the hook with the header `X-ORIG-SERVER`, or set `public_url`: the hook's URL must be what is signed.",
    ),
    "url-token": Known(
        "The signature is over another URL that the hook has or had than the one that the delivery came to.",
        "Give {sender} the URL that the hook has now, and let nothing between it and webhookd rewrite the path.",
        by_setting=True,
    ),
    # --- the moment and the id -------------------------------------------------------------------------------------
    "timestamp-outside": Known(
        "The signature is right, but was made {seconds} s {side} it arrived, which is more than is allowed.",
        "Set the clocks of {sender} and of this machine; have {sender} sign anew when it sends again.",
    ),
    "timestamp-form": Known(
        "The signature is right, but its timestamp is not in whole seconds since the epoch.",
        "Have {sender} send the timestamp in seconds: milliseconds are a thousand times too many.",
    ),
    "id-other": Known(
        "The delivery is signed with another id than the one in its header, or with none.",
        "Have {sender} sign `id.timestamp.body` with the very id and timestamp that it sends.",
    ),
    "signed-body-only": Known(
        "The signature is over the body alone; the id and the timestamp belong before it.",
        "Have {sender} sign `id.timestamp.body`, as Standard Webhooks says.",
    ),
    # --- the body --------------------------------------------------------------------------------------------------
    "newline-stripped": Known("The signature is over the body without the newline at its end.", _EXACT),
    "newline-added": Known("The signature is over the body with a newline at its end.", _EXACT),
    "line-endings": Known("The signature is over the body with other line ends (LF for CRLF, or back).", _EXACT),
    "byte-order-mark": Known("The signature is over the body with a byte order mark before it.", _EXACT),
    "json-compact": Known(
        "The signature is over the same JSON without blanks, as JavaScript's `JSON.stringify` writes it.", _EXACT
    ),
    "json-spaced": Known(
        "The signature is over the same JSON with blanks behind `,` and `:`, as Python's `json.dumps` has it.",
        _EXACT,
    ),
    "json-sorted": Known("The signature is over the same JSON with its keys sorted.", _EXACT),
    "json-indented": Known("The signature is over the same JSON, indented.", _EXACT),
    "json-slashes": Known(
        "The signature is over the same JSON with slashes written as `\\/`, as PHP's `json_encode` does.", _EXACT
    ),
    "form-decoded": Known(
        "The signature is over the value of `payload`, and the body is the form that it was sent in.",
        "Switch {sender} to the content type application/json.",
        by_setting=True,
    ),
    "form-encoded": Known(
        "The signature is over a form with the body as its `payload`: something between unwrapped it.",
        "Switch {sender} to the content type application/json, and let nothing between change the body.",
        by_setting=True,
    ),
    "inflated": Known(
        "The signature is over the body before it was compressed.",
        "Have {sender} sign the compressed bytes, or send them uncompressed; a proxy must not compress.",
    ),
    "charset": Known(
        "The signature is over the body in another character set, or encoded as UTF-8 once more or less.", _EXACT
    ),
    "body-empty": Known(
        "The signature is over an empty body.",
        "Have {sender} sign the body that it sends: it may have read it to its end before it signed.",
    ),
}
"""By name; the table begins with what is told of a header and ends with what is told of a body."""

UNNAMED_SENDER = "the sender"
"""What a sender is called of which no plugin says a name."""

GENERAL_FACTS: Mapping[str, str] = {
    "sender": UNNAMED_SENDER,
    "missing": "the header",
    "until": "a time that is told",
    "seconds": "so many",
    "side": "before (or after)",
}
"""What stands for the facts where no single delivery is meant: in documents."""
