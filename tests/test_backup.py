"""Follows docs/backup.md: what it backs up while the daemon runs comes back, from SQLite and from etcd."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from documents import DOCS, blocks, clean_environ
from harness import Daemon, until
from servers import Etcd

PAGE = (DOCS / "backup.md").read_text()


class Recipe:
    """The commands of the page, with folders of the test in place of root's and of systemd's."""

    def __init__(self, folder: Path, state_dir: Path, etcd: Etcd | None = None) -> None:
        self.folder = folder
        self.replaced = {"/root": str(folder), "/var/lib/webhookd": str(state_dir), "/var/lib/etcd": str(folder)}
        programs = folder / "bin"
        programs.mkdir()
        at = f"--endpoints=127.0.0.1:{etcd.port}" if etcd else ""
        (programs / "etcdctl").write_text(
            f'#!/bin/sh\ncase "$2" in restore) at="";; *) at={at};; esac\nETCDCTL_API=3 exec /usr/bin/etcdctl $at "$@"\n'
        )
        (programs / "etcdctl").chmod(0o755)
        self.environ = clean_environ()
        self.environ["PATH"] = f"{programs}:{self.environ['PATH']}"

    def follow(self, part: str) -> None:
        script = "".join(body for name, body in blocks(PAGE, "bash") if name == part)
        assert script
        for documented, ours in self.replaced.items():
            script = script.replace(documented, ours)
        done = subprocess.run(
            ["bash", "-euc", script], env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_is_run() -> None:
    assert {name for name, _ in blocks(PAGE, "bash")} == {"backup", "restore", "backup-etcd", "restore-etcd"}
    advised = [line for _, body in blocks(PAGE, "sh") for line in body.splitlines()]
    assert all(line.startswith(("systemctl ", "chown ", "mv ")) for line in advised)


def test_hooks_and_messages_come_back(daemon: Daemon, tmp_path: Path) -> None:
    recipe = Recipe(tmp_path, daemon.state_dir)
    kept = daemon.hook(event="kept", secret="c2VjcmV0IG9mIGEgdGVzdA==")
    open_hook = daemon.hook(event="open")
    receipts = [daemon.deliver(open_hook, b"{}").headers["X-Webhookd-Receipt"] for _ in range(3)]
    recipe.follow("backup")
    for copy in (tmp_path / "webhookd-backup").iterdir():
        assert copy.stat().st_mode & 0o077 == 0
    younger = daemon.hook(event="younger")
    assert daemon.config("DELETE", f"/wh/config/{kept['token']}").status == 204
    assert daemon.deliver(open_hook, b"{}").status == 204
    daemon.stop()
    recipe.follow("restore")
    daemon.start()
    assert [message["receipt"] for message in daemon.messages()] == receipts
    assert {hook["event"] for hook in daemon.config("GET").json} == {"kept", "open"}
    assert daemon.config("GET", f"/wh/config/{kept['token']}").json == kept
    assert daemon.deliver(kept, b"{}").status == 401
    assert daemon.deliver(younger, b"{}").status == 404
    assert daemon.deliver(open_hook, b"{}").status == 204
    assert len(daemon.messages()) == 4
    assert daemon.hook(event="younger")["apiToken"] == kept["apiToken"]


def test_a_daemon_that_was_killed_is_restored_alike(daemon: Daemon, tmp_path: Path) -> None:
    """What SQLite kept beside the databases of a daemon that came to a sudden end does not get into the restored ones."""
    recipe = Recipe(tmp_path, daemon.state_dir)
    hook = daemon.hook()
    recipe.follow("backup")
    assert daemon.deliver(hook, b"{}").status == 204
    daemon.kill()
    assert (daemon.state_dir / "spool.db-wal").exists()
    recipe.follow("restore")
    daemon.start()
    assert daemon.messages() == []
    assert daemon.deliver(hook, b"{}").status == 204


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_restored_files_belong_to_whom_the_directory_does(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    with Daemon(tmp_path) as daemon:
        assert daemon.state_dir == state_dir
        Recipe(tmp_path, state_dir).follow("backup")
    os.chown(state_dir, 12345, 12345)
    (tmp_path / "again").mkdir()
    recipe = Recipe(tmp_path / "again", state_dir)
    recipe.replaced["/root"] = str(tmp_path)
    recipe.follow("restore")
    for name in ("hooks.db", "spool.db"):
        found = (state_dir / name).stat()
        assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (12345, 12345, 0o600)


def test_hooks_of_etcd_come_back(own_etcd: Callable[..., Etcd], tmp_path: Path) -> None:
    etcd = own_etcd()
    with Daemon(tmp_path, store=etcd.url("/webhookd")) as daemon:
        recipe = Recipe(tmp_path, daemon.state_dir, etcd)
        kept, untouched = daemon.hook(event="kept"), daemon.hook(event="untouched")
        recipe.follow("backup-etcd")
        younger = daemon.hook(event="younger")
        assert daemon.config("DELETE", f"/wh/config/{kept['token']}").status == 204
        etcd.stop()
        recipe.follow("restore-etcd")
        assert daemon.deliver(untouched, b"{}").status == 204
        (etcd.folder / "data").rename(tmp_path / "default.old")
        (tmp_path / "restored").rename(etcd.folder / "data")
        etcd.start()
        until(lambda: daemon.deliver(kept, b"{}").status == 204)
        until(lambda: daemon.deliver(younger, b"{}").status == 404)
        assert daemon.deliver(untouched, b"{}").status == 204
