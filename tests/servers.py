"""Real servers for tests, on free ports of loopback and in folders of their own: RabbitMQ and etcd."""

import itertools
import re
import subprocess
from pathlib import Path
from typing import Self
from urllib.parse import quote

from certificates import Certificates
from harness import free_port, need, until
from processes import Server, listening

RABBITMQ_SCRIPTS = Path("/usr/lib/rabbitmq/bin")
"""Debian's scripts for the node's own user; those in PATH insist on the user `rabbitmq`."""
MANY_CORES = "+sbwt none +sbwtdcpu none +sbwtdio none"
"""An Erlang node that uses every core, and does not spin while it is idle: for what is measured."""
QUIET = f"{MANY_CORES} +S 1:1"
"""One that uses one core: tests share few of them."""


class RabbitMQ(Server):
    """A node of RabbitMQ. Its default user is guest, with the password guest, who may do everything."""

    def __init__(
        self, folder: Path, *, certificates: Certificates | None = None, settings: str = "", erlang: str = QUIET
    ) -> None:
        super().__init__(folder)
        self.epmd_port, self.dist_port, self.tls_port = free_port(), free_port(), free_port()
        self.name = "webhookd-tests@localhost"
        self.epmd: subprocess.Popen[bytes] | None = None
        self._vhosts = itertools.count(1)
        lines = [f"listeners.tcp.1 = 127.0.0.1:{self.port}", "log.file.level = warning", settings]
        if certificates is not None:
            certfile, keyfile = certificates.server()
            lines += [f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}", f"ssl_options.cacertfile = {certificates.cafile}"]
            lines += [f"ssl_options.certfile = {certfile}", f"ssl_options.keyfile = {keyfile}"]
            lines += ["ssl_options.verify = verify_peer", "ssl_options.fail_if_no_peer_cert = false"]
        (folder / "rabbitmq.conf").write_text("\n".join(lines) + "\n")
        (folder / "enabled_plugins").write_text("[].\n")
        cookie = folder / ".erlang.cookie"
        cookie.write_text("WEBHOOKDTESTS")
        cookie.chmod(0o400)
        self.environ |= {
            "HOME": str(folder),
            "RUNNING_UNDER_SYSTEMD": "1",  # the script becomes the node, so that our child is the node itself
            "ERL_EPMD_PORT": str(self.epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": self.name,
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{erlang} -kernel inet_dist_use_interface {{127,0,0,1}}",
        }

    def command(self) -> list[str]:
        need("rabbitmq-server")
        return [str(RABBITMQ_SCRIPTS / "rabbitmq-server")]

    def launch(self) -> None:
        if self.epmd is None:
            self.epmd = subprocess.Popen(
                [need("epmd")], env=self.environ, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            until(lambda: listening(self.epmd_port))
        super().launch()

    def close(self) -> None:
        super().close()
        if self.epmd is not None:
            self.epmd.kill()
            self.epmd.wait()
            self.epmd = None

    def answers(self) -> bool:
        return "true" in self.eval("rabbit:is_booted()", check=False)

    def eval(self, expression: str, *, check: bool = True) -> str:
        """Have the node evaluate Erlang, and return what it is, as text: in a few milliseconds, not rabbitmqctl's second."""
        where = ["-address", f"127.0.0.1:{self.dist_port}", "-c", "WEBHOOKDTESTS"]
        done = subprocess.run(
            [need("erl_call"), *where, "-r", "-timeout", "20", "-e"],
            input=f"{expression}.\n",
            capture_output=True,
            text=True,
            env=self.environ,
            check=False,
        )
        assert not check or done.stdout.startswith("{ok,"), f"{expression}: {done.stdout}{done.stderr}"
        return done.stdout.removeprefix("{ok,").strip().removesuffix("}").strip()

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl and return what it prints."""
        done = subprocess.run(
            [RABBITMQ_SCRIPTS / "rabbitmqctl", "--quiet", *arguments],
            capture_output=True,
            text=True,
            env=self.environ,
            check=False,
        )
        assert done.returncode == 0, f"rabbitmqctl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def url(self, vhost: str = "/", *, user: str = "guest", password: str = "guest", port: int | None = None) -> str:
        """Return the AMQP URL of a vhost; another `port` is that of a proxy before the node."""
        return f"amqp://{quote(user)}:{quote(password)}@127.0.0.1:{port or self.port}/{quote(vhost, safe='')}"

    def tls_url(self, vhost: str = "/", *, user: str = "guest", password: str = "guest") -> str:
        """Return the AMQPS URL of a vhost: of a node that was given certificates."""
        return f"amqps://{quote(user)}:{quote(password)}@127.0.0.1:{self.tls_port}/{quote(vhost, safe='')}"

    def vhost(self, name: str = "") -> str:
        """Make a vhost where guest may do everything, and return its name; without a name, one that is new."""
        name = name or f"test-{next(self._vhosts)}"
        self.eval(f"ok = rabbit_vhost:add({binary(name)}, {binary('tests')})")
        self.allow("guest", name)
        return name

    def forget_vhost(self, name: str) -> None:
        """Delete a vhost with all that is in it: each one makes a start longer."""
        self.eval(f"rabbit_vhost:delete({binary(name)}, {binary('tests')})", check=False)

    def user(self, name: str, password: str, vhost: str, configure: str = "", write: str = "", read: str = "") -> None:
        """Make a user who may do in `vhost` what these patterns allow: nothing where there is none."""
        backend, words = "rabbit_auth_backend_internal", ", ".join(map(binary, (name, password, "tests")))
        there = f"{backend}:exists({binary(name)})"
        self.eval(
            f"case {there} of true -> {backend}:change_password({words}); false -> {backend}:add_user({words}) end"
        )
        self.allow(name, vhost, configure, write, read)

    def allow(self, user: str, vhost: str, configure: str = ".*", write: str = ".*", read: str = ".*") -> None:
        """Replace what a user may do in a vhost; connections that are open learn of it with their next operations."""
        words = ", ".join(
            binary(word) for word in (user, vhost, configure or "^$", write or "^$", read or "^$", "tests")
        )
        self.eval(f"ok = rabbit_auth_backend_internal:set_permissions({words})")

    def alarm(self, resource: str, *, on: bool) -> None:
        """Raise the alarm of `memory` or `disk`, as too little of it would, or end it; return once it is so."""
        if resource == "memory":
            self.eval(f"vm_memory_monitor:set_vm_memory_high_watermark({'0.0000001' if on else '0.4'})")
        else:
            self.eval(f"rabbit_disk_monitor:set_disk_free_limit({1 << 60 if on else 1 << 20})")
        until(lambda: (f"resource_limit,{resource}" in re.sub(r"\s", "", self.eval("rabbit_alarm:get_alarms()"))) == on)


class Etcd(Server):
    """A member of etcd, alone unless `cluster` made it."""

    def __init__(self, folder: Path, *arguments: str, certificates: Certificates | None = None) -> None:
        super().__init__(folder, {"ETCDCTL_API": "3"})
        self.peer_port = free_port()
        self.arguments = arguments
        self.members = {folder.name: self.peer_port}
        self.scheme = "http" if certificates is None else "https"
        self.tls: list[str] = []
        self.ctl_tls: list[str] = []
        if certificates is not None:
            certfile, keyfile = certificates.server()
            self.tls = [f"--trusted-ca-file={certificates.cafile}", f"--cert-file={certfile}", f"--key-file={keyfile}"]
            self.tls += ["--client-cert-auth"]
            certfile, keyfile = certificates.client("etcdctl")
            self.ctl_tls = [f"--cacert={certificates.cafile}", f"--cert={certfile}", f"--key={keyfile}"]

    @classmethod
    def cluster(cls, folder: Path, count: int, *arguments: str) -> list[Self]:
        """Start a cluster of `count` members."""
        members = [cls(folder / f"member{number}", *arguments) for number in range(count)]
        for member in members:
            member.members = {other.folder.name: other.peer_port for other in members}
        try:
            for member in members:
                member.launch()
            for member in members:
                member.wait()
        except BaseException:
            for member in members:
                member.close()
            raise
        return members

    def command(self) -> list[str]:
        peers = [f"{name}=http://127.0.0.1:{port}" for name, port in self.members.items()]
        client, peer = f"{self.scheme}://127.0.0.1:{self.port}", f"http://127.0.0.1:{self.peer_port}"
        return [
            need("etcd"),
            f"--name={self.folder.name}",
            f"--data-dir={self.folder / 'data'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={','.join(peers)}",
            "--log-level=error",
            *self.tls,
            *self.arguments,
        ]

    def answers(self) -> bool:
        where = f"--endpoints={self.scheme}://127.0.0.1:{self.port}"
        command = [need("etcdctl"), where, *self.ctl_tls, "--command-timeout=2s", "endpoint", "health"]
        done = subprocess.run(command, env=self.environ, capture_output=True, check=False)
        return done.returncode == 0

    def ctl(self, *arguments: str, stdin: str | None = None) -> str:
        """Run etcdctl and return what it prints."""
        where = f"--endpoints={self.scheme}://127.0.0.1:{self.port}"
        done = subprocess.run(
            [need("etcdctl"), where, *self.ctl_tls, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            errors="backslashreplace",  # keys are bytes
            env=self.environ,
            check=False,
        )
        assert done.returncode == 0, f"etcdctl {arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def url(self, prefix: str = "/test", *, port: int | None = None) -> str:
        """Return the URL of a store under `prefix`; another `port` is that of a proxy before the member."""
        return f"etcd://127.0.0.1:{port or self.port}{prefix}"


def binary(text: str) -> str:
    """Return Erlang's expression for a text."""
    return "<<" + ",".join(map(str, text.encode())) + ">>"
