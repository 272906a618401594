"""Which neighbours the settings name, and what is told where they do not fit together."""

from pathlib import Path

import pytest

from webhookd.adapters.sqlite import SqliteStore
from webhookd.errors import ConfigurationError
from webhookd.neighbours import etcd_access, hook_store
from webhookd.settings import Settings
from webhookd.statedir import StateDir

ETCD = "etcd://127.0.0.1:1/webhookd"


def test_a_store_of_one_daemon_is_not_remembered(tmp_path):
    with StateDir.claim(tmp_path / "state") as state:
        state.remembered_db("/prefix a:1").touch()
        store = hook_store(Settings(state_dir=state.path), state)
        assert isinstance(store, SqliteStore)
        assert store.path == state.hooks_db
        assert [path.name for path in state.path.iterdir()] == ["lock"]


def test_files_of_any_size_are_given_on_and_secrets_read_when_needed(tmp_path):
    password, ca = tmp_path / "password", tmp_path / "ca.pem"
    password.write_text("first\n")
    ca.write_bytes(b"#" * 300_000)  # as many CAs as a system trusts
    access = etcd_access(Settings(store=ETCD, store_user="me", store_password_file=password, store_cafile=ca))
    assert (access.user, access.cafile, access.certfile, access.keyfile) == ("me", ca, None, None)
    assert access.password() == b"first"
    password.write_text("second\n")
    assert access.password() == b"second"
    assert "second" not in repr(access)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"store_user": "me"}, "store_user and store_password_file go together"),
        ({"store_password_file": Path(__file__)}, "store_user and store_password_file go together"),
        ({"store_certfile": Path(__file__)}, "store_keyfile and store_certfile go together"),
        ({"store_keyfile": Path(__file__)}, "store_keyfile and store_certfile go together"),
        ({"store_cafile": Path("/nowhere/ca")}, "store_cafile: /nowhere/ca cannot be read: No such file"),
        ({"store_user": "me", "store_password_file": Path("/nowhere/p")}, "store_password_file: /nowhere/p cannot be"),
    ],
)
def test_settings_that_do_not_fit_together_are_told(given, words):
    with pytest.raises(ConfigurationError, match=words):
        etcd_access(Settings(store=ETCD, **given))
