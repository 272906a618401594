"""One process owns the state directory, nobody else can read it, and every refusal is one line that says what to do."""

import os
import socket
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from disks import on_disk_of_its_own

from webhookd.errors import ConfigurationError, StateDirInUse
from webhookd.statedir import StateDir

NOBODY = 65534


@pytest.fixture(autouse=True)
def umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def refusal(path: Path, error: type[Exception] = ConfigurationError) -> str:
    with pytest.raises(error) as caught:
        StateDir.claim(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_makes_it_and_its_parents_for_the_owner_alone(tmp_path):
    path = tmp_path / "var" / "state"
    with StateDir.claim(path) as claimed:
        claimed.hooks_db.write_bytes(b"")
        with socket.socket(socket.AF_UNIX) as control:
            control.bind(str(claimed.control_socket))
        names = {entry.name for entry in path.iterdir()}
        assert names == {"lock", "hooks.db", "control.sock"}
        assert [mode(entry) & 0o077 for entry in (path.parent, path, *path.iterdir())] == [0] * 5
        assert mode(path) == 0o700
        assert claimed.spool_db == path / "spool.db"


def test_an_old_one_is_taken_with_what_is_in_it(tmp_path):
    with StateDir.claim(tmp_path / "state") as first:
        first.spool_db.write_bytes(b"kept")
    with StateDir.claim(tmp_path / "state") as second:
        assert second.spool_db.read_bytes() == b"kept"


def test_of_shared_stores_only_the_one_in_use_is_remembered(tmp_path):
    with StateDir.claim(tmp_path / "state") as state:
        first = state.remembered_db("/prefix a:1 b:2")
        for suffix in ("", "-wal", "-shm"):
            first.with_name(first.name + suffix).touch()
        assert state.remembered_db("/prefix a:1 b:2") == first
        assert first.exists()
        second = state.remembered_db("/other a:1 b:2")
        assert second not in (first, state.hooks_db)
        assert {path.name for path in state.path.iterdir()} == {"lock"}


@pytest.mark.parametrize("bits", [0o701, 0o710, 0o740, 0o770, 0o704, 0o777])
def test_a_wider_directory_is_refused(tmp_path, bits):
    path = tmp_path / "state"
    path.mkdir()
    path.chmod(bits)
    assert f"chmod go= {path}" in refusal(path)
    assert mode(path) == bits
    assert list(path.iterdir()) == []


def test_a_file_of_somebody_elses_in_it_is_left_alone(tmp_path):
    path = tmp_path / "state"
    path.mkdir(0o700)
    (path / "jwt.key").touch(0o644)
    (path / "notes").symlink_to("/dev/null")
    StateDir.claim(path).close()


@pytest.mark.parametrize(
    "name", ["hooks.db", "hooks.db-wal", "spool.db", "spool.db.corrupt-1", "remembered-0.db", "lock"]
)
@pytest.mark.parametrize("bits", [0o601, 0o640, 0o604, 0o666])
def test_a_wider_file_in_it_is_refused(tmp_path, name, bits):
    path = tmp_path / "state"
    path.mkdir(0o700)
    wide = path / name
    wide.touch()
    wide.chmod(bits)
    assert f"chmod go= {wide}" in refusal(path)
    wide.chmod(0o600)
    StateDir.claim(path).close()


def test_a_link_in_it_is_refused_but_it_may_be_named_by_one(tmp_path):
    path = tmp_path / "private" / "state"
    link = tmp_path / "state"  # as systemd's DynamicUser has it
    link.symlink_to(path)
    with StateDir.claim(link) as claimed:
        assert claimed.path == path
    (path / "spool.db").symlink_to("/dev/null")
    assert "symbolic link" in refusal(path)


def test_what_is_no_directory_is_refused(tmp_path):
    path = tmp_path / "state"
    path.touch(0o600)
    assert "is not a directory" in refusal(path)
    with pytest.raises(ConfigurationError, match=f"{path} is not a directory"):
        StateDir.claim(path / "below")


def test_a_second_daemon_is_told_who_has_it(tmp_path):
    path = tmp_path / "state"
    program = (
        "import sys; from pathlib import Path; from webhookd.statedir import StateDir\n"
        "StateDir.claim(Path(sys.argv[1])); print('mine', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen([sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"mine\n"
        assert f"in use by pid {first.pid}" in refusal(path, StateDirInUse)
        first.kill()
        first.wait()
        StateDir.claim(path).close()  # a killed owner leaves nothing to clean up
    finally:
        first.kill()
        first.communicate()


def test_closing_twice_lets_go_once(tmp_path):
    first = StateDir.claim(tmp_path / "state")
    first.close()
    with StateDir.claim(tmp_path / "state"):
        first.close()
        assert "in use" in refusal(tmp_path / "state", StateDirInUse)


def claim_elsewhere(path: Path, *, before: str = "", wrapper: Sequence[str] = ()) -> str:
    """Claim it in another process, after running `before` there, and return what it says."""
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from webhookd.errors import ConfigurationError\nfrom webhookd.statedir import StateDir\n"
        f"path = Path(sys.argv[1])\n{before}\n"
        "try:\n    StateDir.claim(path)\nexcept ConfigurationError as error:\n    print(error)\nelse:\n    print('mine')\n"
    )
    command = [*wrapper, sys.executable, "-c", program, str(path)]
    # as nobody, coverage could not write where it wants to
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.stderr == ""
    return done.stdout.rstrip("\n")


def test_a_read_only_file_system_is_refused(tmp_path):
    path = tmp_path / "state"
    assert "cannot be used (Read-only file system)" in claim_elsewhere(path, wrapper=on_disk_of_its_own(path, "ro"))


def test_a_directory_that_it_may_not_write_is_refused(tmp_path):
    path = tmp_path / "state"
    path.mkdir(0o500)
    before = ""
    if os.geteuid() == 0:
        path.chmod(0o700)
        for parent in path.parents:
            parent.chmod(mode(parent) | 0o011)
        before = f"os.setuid({NOBODY})"
    assert "cannot be used (Permission denied)" in claim_elsewhere(path, before=before)


def test_a_full_disk_does_not_stop_the_start(tmp_path):
    path = tmp_path / "state"
    fill = (
        "StateDir.claim(path).close()\n"
        "filler = os.open(path / 'filler', os.O_WRONLY | os.O_CREAT, 0o600)\n"
        "try:\n    while True:\n        os.write(filler, bytes(4096))\n"
        "except OSError as error:\n    assert error.errno == 28, error\n"
    )
    assert claim_elsewhere(path, before=fill, wrapper=on_disk_of_its_own(path, "size=64k")) == "mine"
