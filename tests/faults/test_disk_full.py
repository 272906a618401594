"""A disk with no room left: refused clearly, usable for marks and drops, and well again by itself."""

import contextlib
import subprocess
from pathlib import Path

import pytest
from disks import on_disk_of_its_own
from harness import WEBHOOKD, Daemon, request, until

BODY = b'["' + b"x" * 50_000 + b'"]'


@pytest.mark.timeout(120)
def test_a_full_disk(tmp_path):
    disk = tmp_path / "disk"
    daemon = Daemon(tmp_path, wrapper=on_disk_of_its_own(disk, "size=24m"), state_dir=str(disk / "state"))
    with daemon:
        inside = Path(f"/proc/{daemon.pid}/root{disk}")
        hook = daemon.hook()
        filler = inside / "filler"
        with filler.open("wb") as other, contextlib.suppress(OSError):  # somebody else fills the disk
            while True:
                other.write(bytes(256 * 1024))
                other.flush()
        answers = [daemon.deliver(hook, BODY) for _ in range(200)]
        accepted = sum(answer.status == 204 for answer in answers)
        refused = [answer for answer in answers if answer.status != 204]
        assert refused
        assert {answer.status for answer in refused} == {503}
        assert all(answer.headers["Retry-After"] for answer in refused)
        until(lambda: "disk full" in str(request(daemon.admin_port, "GET", "/readyz").json["reasons"]))
        assert request(daemon.admin_port, "GET", "/livez").status == 200
        # the daemon's mounts are its own: commands must see them to find the control socket
        enter = ["nsenter", f"--mount=/proc/{daemon.pid}/ns/mnt", "--target", str(daemon.pid), WEBHOOKD]

        def command(*arguments: str) -> str:
            done = subprocess.run(
                [*enter, *arguments, "--state-dir", str(disk / "state")], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert command("spool", "list", "--json").count("\n") == accepted
        assert (
            command("spool", "drop", "--all", "--yes") == f"dropped {accepted} message{'' if accepted == 1 else 's'}\n"
        )
        filler.unlink()
        until(lambda: daemon.deliver(hook, BODY).status == 204)
        until(lambda: request(daemon.admin_port, "GET", "/readyz").json["status"] == "ok")
