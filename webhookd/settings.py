"""The daemon's settings: one table of keys, read from flags over environment over file into one frozen value."""

# ruff: noqa: RUF009 - the defaults of the table are immutable, and a bad one fails this import

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from webhookd import forms
from webhookd.errors import ConfigurationError
from webhookd.forms import Form, durations, mask_url, numbers, optional, sizes

T = TypeVar("T")

DEFAULT_CONFIG = Path("/etc/webhookd/webhookd.toml")
NO_SETTINGS = frozenset({"WEBHOOKD_TOKEN", "WEBHOOKD_URL", "WEBHOOKD_PORT"})
NO_SETTINGS_BEGIN = ("WEBHOOKD_PORT_", "WEBHOOKD_SERVICE_")
"""Variables that are no settings: two are of the command line, the rest is what Kubernetes injects."""
MAX_SECRET_FILE = 65536
SHOWN = 200
"""How many characters of a bad value are shown."""


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the table: what a setting is called, how it is written, its default as shown, and what it is."""

    name: str
    form: Form[Any]
    default: str
    doc: str

    @property
    def flag(self) -> str:
        """The flag of `webhookd serve`."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return "WEBHOOKD_" + self.name.upper()


def _row(form: Form[T], default: str, doc: str, shown: str | None = None) -> T:
    """Return a field of Settings with its row; typed as what `form` reads, so that mypy compares it with the field."""
    row: T = field(default=form.parse(default), metadata={"form": form, "default": shown or default, "doc": doc})
    return row


_FILE = optional(forms.PATH)
_TEXT = optional(forms.TEXT)
_HTTP_URL = optional(forms.HTTP_URL)
_NAMES = optional(forms.lists("NAMES", "entry point names, comma-separated", r"[A-Za-z0-9_.-]{1,100}"))
_HOSTS = optional(
    forms.lists(
        "HOSTS",
        "host names, with a port or without, comma-separated",
        r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}))(?::[0-9]{1,5})?",
    )
)
_ANY_OF = f"any of {', '.join(forms.ALGORITHMS)}, comma-separated"
_ALGORITHMS = optional(forms.lists("NAMES", _ANY_OF, "|".join(forms.ALGORITHMS)))


@dataclass(frozen=True, kw_only=True, repr=False)
class Settings:
    """Every setting, by its key. Sizes are in bytes, durations in seconds, paths absolute; None is none."""

    listen: str = _row(forms.LISTEN, "127.0.0.1:8080", "where deliveries and the config API are served")
    admin_listen: str = _row(
        forms.LISTEN_OR_NONE, "127.0.0.1:9180", "where /livez, /readyz, /metrics and the console are served"
    )
    console: bool = _row(forms.BOOL, "true", "whether there is a console, under /console of admin_listen")
    console_hosts: tuple[str, ...] | None = _row(
        _HOSTS, "", "under which names the console may be reached, beside localhost and the host of admin_listen"
    )
    public_url: str | None = _row(optional(forms.PUBLIC_URL), "", "what hook URLs begin with, without X-ORIG-SERVER")

    store: str = _row(forms.STORE, "", "where the hooks are kept", "sqlite:///<state_dir>/hooks.db")
    store_user: str | None = _row(_TEXT, "", "the user of the store")
    store_password_file: Path | None = _row(_FILE, "", "the file with that user's password")
    store_cafile: Path | None = _row(_FILE, "", "the CA certificates (PEM) that the store's must be signed by")
    store_certfile: Path | None = _row(_FILE, "", "the client certificate (PEM) shown to the store")
    store_keyfile: Path | None = _row(_FILE, "", "the private key (PEM) of that certificate")

    broker: str = _row(forms.BROKER, "spool:", "where messages are published; spool: keeps them in the state directory")
    exchange: str = _row(forms.TEXT, "events-to-enrich", "the exchange that messages are published to")
    broker_password_file: Path | None = _row(_FILE, "", "the file with the password for the broker")
    broker_cafile: Path | None = _row(_FILE, "", "the CA certificates (PEM) that the broker's must be signed by")
    broker_certfile: Path | None = _row(_FILE, "", "the client certificate (PEM) shown to the broker")
    broker_keyfile: Path | None = _row(_FILE, "", "the private key (PEM) of that certificate")

    state_dir: Path = _row(
        forms.PATH,
        "webhookd-data",
        "the folder of the spool and the store, of one daemon alone",
        "$STATE_DIRECTORY, else ./webhookd-data",
    )

    jwt_secret_file: Path | None = _row(_FILE, "", "the file with the key of HS256, HS384 and HS512 bearer tokens")
    jwt_public_key_file: Path | None = _row(_FILE, "", "the public key (PEM) of RS, PS, ES and EdDSA bearer tokens")
    jwks_url: str | None = _row(_HTTP_URL, "", "the key set (JWKS) of bearer tokens")
    jwt_algorithms: tuple[str, ...] | None = _row(_ALGORITHMS, "", "the algorithms of bearer tokens", "by the key")
    jwt_issuer: str | None = _row(_TEXT, "", "the `iss` that bearer tokens must have")
    jwt_audience: str | None = _row(_TEXT, "", "the `aud` that bearer tokens must have")
    jwt_tenant_claim: str = _row(forms.TEXT, "tenantId", "the claim of bearer tokens that names the tenant")
    jwt_require_exp: bool = _row(forms.BOOL, "true", "whether bearer tokens must have an `exp`")
    sts_url: str | None = _row(_HTTP_URL, "", "the STS that is asked about opaque bearer tokens")
    sts_cafile: Path | None = _row(_FILE, "", "the CA certificates (PEM) that the STS's must be signed by")
    sts_cache: float = _row(durations(least=0), "30s", "how long the STS's good answers are kept")

    max_body: int = _row(sizes(most=512 * 1024**2), "25MiB", "the largest body of a delivery, as sent and inflated")
    max_in_flight: int = _row(numbers(1, 1_000_000), "4096", "how many deliveries may be in work at a time")
    max_in_flight_bytes: int = _row(sizes(), "256MiB", "how many bytes of deliveries may be in work at a time")
    tenant_share: float = _row(forms.SHARE, "0.5", "how much of each budget one tenant may hold")

    publish_timeout: float = _row(durations(), "1500ms", "how long the broker may take to confirm; then the spool does")
    publish_window: int = _row(numbers(1, 1_000_000), "1024", "how many messages may wait for the broker at a time")
    stop_timeout: float = _row(durations(), "20s", "how long a stop waits for what is in work")
    secret_grace: float = _row(durations(least=0), "24h", "how long a replaced secret or token of a hook stays valid")
    spool_max_bytes: int = _row(sizes(least=1024**2), "4GiB", "how large the spool may grow; full is 503")
    spool_retention: float = _row(durations(), "7d", "how long messages are kept with broker = spool:")

    records_per_hook: int = _row(numbers(0, 10_000), "100", "how many deliveries of a hook are remembered; 0 for none")
    records_max_bytes: int = _row(sizes(), "64MiB", "how much memory remembered deliveries may take")
    records_max_disk: int = _row(
        sizes(least=16 * 1024**2), "256MiB", "how large the file of remembered deliveries may grow"
    )
    keep_accepted: bool = _row(forms.BOOL, "false", "whether small bodies of accepted deliveries are remembered too")
    node_name: str | None = _row(_TEXT, "", "what this daemon calls itself in what it answers; else the host's name")

    plugins_dir: Path | None = _row(_FILE, "", "a folder of plugins of one file each")
    load_plugins: tuple[str, ...] | None = _row(_NAMES, "", "the installed plugins to load, by entry point name", "all")

    log_level: str = _row(forms.choices("debug", "info", "warning", "error"), "info", "the least level that is logged")
    log_format: str = _row(forms.choices("auto", "text", "json"), "auto", "auto is text on a terminal, else JSON lines")
    log_deliveries: str = _row(forms.choices("refused", "all", "none"), "refused", "which deliveries are logged")
    otel_endpoint: str | None = _row(_HTTP_URL, "", "where traces of deliveries go (OTLP/HTTP)")

    def __post_init__(self) -> None:
        """Make paths absolute, and put the store where it is by default: beside the spool."""
        for name in KEYS:
            if isinstance(path := getattr(self, name), Path):
                object.__setattr__(self, name, path.absolute())
        if not self.store:
            object.__setattr__(self, "store", f"sqlite://{self.state_dir}/hooks.db")

    def __repr__(self) -> str:
        """Keep the userinfo of URLs out of logs and tracebacks."""
        return f"Settings({', '.join(f'{name}={self.shown(name)!r}' for name in KEYS)})"

    def shown(self, name: str) -> str:
        """Return the value of a key as it may be shown: without the userinfo of URLs, and empty for none."""
        value = getattr(self, name)
        return "" if value is None else mask_url(str(value))


KEYS = {f.name: Key(f.name, f.metadata["form"], f.metadata["default"], f.metadata["doc"]) for f in fields(Settings)}
"""The table, in the order in which it is documented."""


def load_settings(flags: Mapping[str, str], environ: Mapping[str, str], config: Path | None = None) -> Settings:
    """Return the settings that `flags` (by key), `environ` (the whole environment) and the file `config` say together.

    A flag wins over a variable, a variable over the file. Without `config` the file is DEFAULT_CONFIG, if it exists.
    Raises ConfigurationError at the first unknown key or value that is not allowed.
    """
    values: dict[str, Any] = {}
    if folder := environ.get("STATE_DIRECTORY", "").split(":")[0]:
        values["state_dir"] = Path(folder)
    for key, value, source in (*_from_file(config), *_from_environ(environ), *_from_flags(flags)):
        values[key.name] = _parsed(key, value, source)
    try:
        settings = Settings(**values)
    except FileNotFoundError:
        raise ConfigurationError("the current directory is gone: start webhookd in one that exists") from None
    if settings.admin_listen == settings.listen and not settings.listen.endswith(":0"):
        raise ConfigurationError(f"admin_listen: {settings.listen} is the address of listen already; set another one")
    return settings


def check_tokens(settings: Settings) -> None:
    """Raise ConfigurationError when nothing is configured by which a bearer token could be checked."""
    if not (settings.jwt_secret_file or settings.jwt_public_key_file or settings.jwks_url or settings.sts_url):
        raise ConfigurationError(
            "no bearer token can be checked: set jwt_secret_file, jwt_public_key_file, jwks_url or sts_url "
            "(`webhookd dev` brings a key of its own)"
        )


def read_secret_file(path: Path, key: str) -> bytes:
    """Return the secret in the file that the setting `key` names, without the newline that editors end a file with.

    Raises ConfigurationError when there is none.
    """
    try:
        with path.open("rb") as file:
            secret = file.read(MAX_SECRET_FILE + 1)
    except OSError as error:
        raise ConfigurationError(f"{key}: {path} cannot be read: {error.strerror}") from None
    secret = secret.removesuffix(b"\n").removesuffix(b"\r") if secret.endswith(b"\n") else secret
    if not secret:
        raise ConfigurationError(f"{key}: {path} is empty; it must hold the secret")
    if len(secret) > MAX_SECRET_FILE:
        raise ConfigurationError(f"{key}: {path} is over {MAX_SECRET_FILE} bytes; it must hold the secret alone")
    return secret


def closest(word: str, known: Iterable[str], alike: int = 0) -> str:
    """Return `; did you mean ...?` with the nearest of `known`, all of which begin with `alike` same characters.

    Upper and lower case are alike; the empty string where none is near.
    """
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake needs it

    names = {name[alike:].lower(): name[alike:] for name in known}
    near = get_close_matches(word[alike:].lower(), names, n=1, cutoff=0.7)
    return f"; did you mean {word[:alike]}{names[near[0]]}?" if near else ""


Given = tuple[Key, object, str]
"""A key, its value as it is written, and where."""


def _from_file(config: Path | None) -> Iterator[Given]:
    if config is None and not DEFAULT_CONFIG.is_file():
        return
    path = config or DEFAULT_CONFIG
    try:
        document = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the settings file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigurationError(f"the settings file {path} is not UTF-8") from None
    except ValueError as error:
        raise ConfigurationError(f"the settings file {path} is not TOML: {error}") from None
    for name, value in document.items():
        if name not in KEYS:
            raise ConfigurationError(f"{name[:SHOWN]!r} in the file {path} is no setting{closest(name, KEYS)}")
        yield KEYS[name], value, f"the file {path}"


def _from_environ(environ: Mapping[str, str]) -> Iterator[Given]:
    variables = {key.variable: key for key in KEYS.values()}
    for name, value in environ.items():
        if name in variables:
            yield variables[name], value, f"the environment variable {name}"
        elif name.startswith("WEBHOOKD_") and name not in NO_SETTINGS and not name.startswith(NO_SETTINGS_BEGIN):
            raise ConfigurationError(f"the environment variable {name} is no setting{closest(name, variables, 9)}")


def _from_flags(flags: Mapping[str, str]) -> Iterator[Given]:
    for name, value in flags.items():
        if name not in KEYS:
            raise ConfigurationError(f"--{name.replace('_', '-')} is no setting{closest(name, KEYS)}")
        yield KEYS[name], value, f"the flag {KEYS[name].flag}"


def _parsed(key: Key, value: object, source: str) -> Any:
    try:
        return key.form.parse(value)
    except (ValueError, OverflowError):
        shown = mask_url(value if isinstance(value, str) else repr(value))[:SHOWN]
        raise ConfigurationError(
            f"{key.name}: {shown!r} (by {source}) is not allowed; allowed is {key.form.allowed}"
        ) from None
