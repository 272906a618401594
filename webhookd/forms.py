"""Every form that the value of a setting can have: how it is written, and what it is read into.

A parser takes text (of a flag, a variable or the file) or a native TOML value, and raises ValueError for anything else.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
N = TypeVar("N", int, float)

SIZE_UNITS = {"": 1, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
CENTURY = 36500 * 86400.0
ALGORITHMS = (
    *("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES256K", "ES384", "ES512", "EdDSA"),
)
MAX_SOCKET_PATH = 107
"""How many bytes the path of a UNIX socket may have (`sun_path` of unix(7), less the final NUL)."""

_SIZE = re.compile(r"(\d{1,18}(?:\.\d{1,9})?) *(|kib|mib|gib)", re.IGNORECASE | re.ASCII)
_DURATION = re.compile(r"(?:\d{1,18}(?:\.\d{1,9})? *(?:ms|s|m|h|d) *)+", re.ASCII)
_DURATION_PART = re.compile(r"([\d.]+) *(ms|s|m|h|d)", re.ASCII)
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]+)?\])"
_ADDRESS = re.compile(rf"({_HOST}):(\d{{1,5}})", re.ASCII)
_HTTP_BASE = re.compile(rf"https?://{_HOST}(?::(\d{{1,5}}))?/?", re.ASCII)
_HTTP_URL = re.compile(r"https?://(?:[^\s/?#@]+@)?" + _HOST + r"(?::(\d{1,5}))?(?:/[^\s?#]*)?", re.ASCII)
_ENDPOINT = re.compile(rf"({_HOST})(?::(\d{{1,5}}))?", re.ASCII)
_ETCD = re.compile(rf"etcd://({_HOST}(?::\d{{1,5}})?(?:,{_HOST}(?::\d{{1,5}})?)*)(/[^\s?#]+)", re.ASCII)
_AMQP = re.compile(r"amqps?://(?:[^\s/?#@,]+@)?" + _HOST + r"(?::(\d{1,5}))?(?:/[^\s/?#]*)?", re.ASCII)
_NEXT_URL = re.compile(r",(?=(?:amqps?|etcd|https?)://)")
_USERINFO = re.compile(r"\A((?:(?:amqps?|etcd|https?):|[a-z][a-z0-9+.-]*:(?=/))?/*).*@", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Form(Generic[T]):
    """One way to write a value: its name in `--help`, what is allowed, in words, and its parser."""

    metavar: str
    allowed: str
    parse: Callable[[object], T]


def mask_url(text: str) -> str:
    """Return `text` (a URL, or several, comma-separated) without the user and password in it: fit to be shown.

    What is no URL is shown as it is, less all that precedes its last `@`.
    """
    return ",".join(_USERINFO.sub(r"\1***@", part) for part in _NEXT_URL.split(text))


def parse_size(value: object) -> int:
    """Return the bytes that `value` (`25MiB`, `1.5 GiB`, `4096` or an int) says."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(_text(value).strip())
    if match is None:
        raise ValueError
    number, unit = match.groups()
    size = float(number) * SIZE_UNITS[unit.lower()] if "." in number else int(number) * SIZE_UNITS[unit.lower()]
    if size != int(size):
        raise ValueError
    return int(size)


def parse_duration(value: object) -> float:
    """Return the seconds that `value` (`1500ms`, `7d`, `1h30m`) says; a number without a unit says nothing."""
    text = _text(value).strip()
    if _DURATION.fullmatch(text) is None:
        raise ValueError
    return math.fsum(float(number) * DURATION_UNITS[unit] for number, unit in _DURATION_PART.findall(text))


def parse_address(value: object) -> tuple[str, int] | Path:
    """Return where `value` says to listen: host (without brackets) and port, or the path of a UNIX socket."""
    text = _text(value)
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode()) > MAX_SOCKET_PATH:
            raise ValueError
        return Path(path)
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise ValueError
    return match[1].strip("[]"), _port(match[2])


def sqlite_path(store: str) -> Path:
    """Return the file that the store URL `sqlite:///absolute/path` names."""
    rest = store.removeprefix("sqlite://")
    if rest == store or not rest.startswith("/") or "\0" in rest or rest.endswith("/"):
        raise ValueError
    return Path("/" + rest.lstrip("/"))


def etcd_url(store: str) -> tuple[list[str], str]:
    """Return the endpoints (`host:port`) and the prefix that the store URL `etcd://host:port[,host:port]/prefix` names.

    Without a port it is 2379, etcd's own; the prefix begins with a slash and does not end with one.
    """
    match = _ETCD.fullmatch(store)
    if match is None or not (prefix := match[2].rstrip("/")):
        raise ValueError
    endpoints = [_ENDPOINT.fullmatch(endpoint) for endpoint in match[1].split(",")]
    return [f"{endpoint[1]}:{_port(endpoint[2]) or 2379}" for endpoint in endpoints if endpoint], prefix


def sizes(least: int = 1, most: int = 2**53) -> Form[int]:
    """Sizes in bytes."""
    bound = f", at least {show_size(least)}" if least > 1 else ""
    bound += f", at most {show_size(most)}" if most < 2**53 else ""
    return Form(
        "SIZE", f"a size above 0 in KiB, MiB, GiB or plain bytes (25MiB){bound}", _between(parse_size, least, most)
    )


def durations(least: float = 0.001) -> Form[float]:
    """Durations in seconds."""
    above = "a duration above 0" if least else "a duration"
    allowed = f"{above} in ms, s, m, h or d (1500ms, 30s, 7d)"
    return Form("DURATION", allowed, _between(parse_duration, least, CENTURY))


def numbers(least: int, most: int) -> Form[int]:
    """Whole numbers."""
    return Form("NUMBER", f"a whole number from {least} to {most}", _between(_whole, least, most))


def texts(metavar: str, allowed: str, pattern: str) -> Form[str]:
    """Texts that a regular expression matches as a whole."""
    compiled = re.compile(pattern)

    def parse(value: object) -> str:
        if compiled.fullmatch(text := _text(value)) is None:
            raise ValueError
        return text

    return Form(metavar, allowed, parse)


def choices(*words: str) -> Form[str]:
    """One of a few words."""

    def parse(value: object) -> str:
        if (text := _text(value).strip().lower()) not in words:
            raise ValueError
        return text

    return Form("|".join(words), f"one of {', '.join(words)}", parse)


def lists(metavar: str, allowed: str, item: str) -> Form[tuple[str, ...]]:
    """Several texts: comma-separated, or an array of the file. Each is kept once, in the order given."""
    compiled = re.compile(item)

    def parse(value: object) -> tuple[str, ...]:
        items = value if isinstance(value, list) else [part.strip() for part in _text(value).split(",")]
        if not all(isinstance(item, str) and compiled.fullmatch(item) for item in items):
            raise ValueError
        return tuple(dict.fromkeys(items))

    return Form(metavar, allowed, parse)


def optional(form: Form[T]) -> Form[T | None]:
    """Return `form` with the empty text allowed, which is as good as no value."""
    return Form(
        form.metavar,
        f"{form.allowed}; empty is as if not given",
        lambda value: None if value == "" else form.parse(value),
    )


def checked(metavar: str, allowed: str, check: Callable[[str], object]) -> Form[str]:
    """Texts, kept as they are written, that `check` does not object to (by ValueError, or by False)."""

    def parse(value: object) -> str:
        if check(text := _text(value)) is False:
            raise ValueError
        return text

    return Form(metavar, allowed, parse)


def show_size(size: int) -> str:
    """Return `size` (bytes) as a person would write it."""
    for unit, name in ((1024**3, "GiB"), (1024**2, "MiB"), (1024, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit}{name}"
    return str(size)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError  # noqa: TRY004 - one error for whatever is not allowed
    return value


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if re.fullmatch(r"\d{1,18}", text := _text(value).strip(), re.ASCII) is None:
        raise ValueError
    return int(text)


def _between(parse: Callable[[object], N], least: N, most: N) -> Callable[[object], N]:
    def bounded(value: object) -> N:
        if not least <= (number := parse(value)) <= most:
            raise ValueError
        return number

    return bounded


def _port(text: str | None) -> int:
    if text is None:
        return 0
    if int(text) > 65535:  # noqa: PLR2004 - the largest port there is
        raise ValueError
    return int(text)


def _bool(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = _text(value).strip().lower()
    if word not in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        raise ValueError
    return word in ("true", "yes", "on", "1")


def _share(value: object) -> float:
    number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else float(_text(value))
    if not 0 < number <= 1:
        raise ValueError
    return number


def _path(value: object) -> Path:
    text = _text(value)
    if not text or "\0" in text:
        raise ValueError
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError from None


def _http_base(value: object) -> str:
    text = _text(value)
    if (match := _HTTP_BASE.fullmatch(text)) is None:
        raise ValueError
    _port(match[1])
    return text.rstrip("/")


def _http_url(text: str) -> bool:
    match = _HTTP_URL.fullmatch(text)
    return match is not None and _port(match[1]) >= 0


def _store(text: str) -> bool:
    return not text or bool(sqlite_path(text) if text.startswith("sqlite:") else etcd_url(text))


def _broker(text: str) -> bool:
    urls = [_AMQP.fullmatch(url.strip()) for url in text.split(",")]
    return text == "spool:" or all(url is not None and _port(url[1]) >= 0 for url in urls)


_BROKERS = "spool: or amqp://[USER[:PASSWORD]@]HOST[:PORT][/VHOST], or amqps://... (several, comma-separated)"
_LISTEN = "HOST:PORT, [IPv6]:PORT or unix:/ABSOLUTE/PATH (at most 107 bytes)"

SHARE = Form("SHARE", "a number above 0, at most 1", _share)
BOOL = Form("true|false", "true or false", _bool)
PATH = Form("PATH", "a path", _path)
LISTEN = checked("ADDRESS", _LISTEN, parse_address)
LISTEN_OR_NONE = checked("ADDRESS", f"{_LISTEN}; empty for none", lambda text: not text or parse_address(text))
PUBLIC_URL = Form("URL", "http:// or https:// and a host, with a port or without, and nothing after it", _http_base)
HTTP_URL = checked("URL", "an http:// or https:// URL without query", _http_url)
STORE = checked("URL", "sqlite:///ABSOLUTE/PATH or etcd://HOST:PORT[,HOST:PORT]/PREFIX; empty for the default", _store)
BROKER = checked("URL", _BROKERS, _broker)
TEXT = texts("TEXT", "a text of 1 to 255 characters, without control characters", r"[^\x00-\x1f\x7f]{1,255}")
