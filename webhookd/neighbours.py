"""The world as the settings name it: each part's adapter is chosen by the scheme of its URL, and imported on use."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from webhookd.errors import ConfigurationError
from webhookd.forms import etcd_url, sqlite_path
from webhookd.ports import HookStore
from webhookd.settings import Settings, read_secret_file
from webhookd.statedir import StateDir

if TYPE_CHECKING:
    from webhookd.adapters.etcd_client import Access


def hook_store(settings: Settings, statedir: StateDir) -> HookStore:
    """Return the store of the hooks; raises ConfigurationError where its settings do not fit together.

    What is in another process is remembered in the state directory.
    """
    if settings.store.startswith("sqlite:"):
        from webhookd.adapters.sqlite import SqliteStore  # noqa: PLC0415 - see above

        statedir.forget_stores()
        return SqliteStore(sqlite_path(settings.store))
    from webhookd.adapters.remembered import Remembered  # noqa: PLC0415

    endpoints, prefix = etcd_url(settings.store)
    return Remembered(etcd_store(settings), statedir.remembered_db(" ".join([prefix, *sorted(endpoints)])))


def etcd_store(settings: Settings) -> HookStore:
    """Return the store in etcd itself; raises ConfigurationError where its settings do not fit together."""
    from webhookd.adapters.etcd import EtcdStore  # noqa: PLC0415 - see above

    return EtcdStore(*etcd_url(settings.store), etcd_access(settings))


def etcd_access(settings: Settings) -> Access:
    """Return how to get into etcd; raises ConfigurationError where its settings do not fit together."""
    user, password_file = settings.store_user, settings.store_password_file
    for key, other in (("store_user", "store_password_file"), ("store_keyfile", "store_certfile")):
        if bool(getattr(settings, key)) != bool(getattr(settings, other)):
            raise ConfigurationError(f"{key} and {other} go together: set both or none")
    password = partial(read_secret_file, password_file, "store_password_file") if password_file else bytes
    password()
    for key in ("store_cafile", "store_certfile", "store_keyfile"):
        if path := getattr(settings, key):
            try:
                path.read_bytes()
            except OSError as error:
                raise ConfigurationError(f"{key}: {path} cannot be read: {error.strerror}") from None
    from webhookd.adapters.etcd_client import Access  # noqa: PLC0415 - see above

    return Access(
        user=user,
        password=password,
        cafile=settings.store_cafile,
        certfile=settings.store_certfile,
        keyfile=settings.store_keyfile,
    )
