"""The command line as a person and a script see it: help, mistakes, exit statuses, and the commands of tenants."""

import base64
import http.server
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import jwt
import pytest
from commands import call, on_a_terminal, script
from harness import KEY, WEBHOOKD, Daemon, free_port, mint

from webhookd.cli import config_api, root
from webhookd.cli.options import SECTIONS
from webhookd.cli.root import COMMANDS
from webhookd.settings import KEYS
from webhookd.version import __version__

pytestmark = pytest.mark.usefixtures("elsewhere")


def families() -> Iterator[tuple[str, ...]]:
    """Yield every command there is, groups too."""
    for name in COMMANDS:
        yield (name,)
        command = root.root.get_command(click.Context(root.root), name)
        if isinstance(command, click.Group):
            yield from ((name, inner) for inner in command.commands)


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", families(), ids=" ".join)
def test_every_command_has_help_worth_reading(names):
    done = call(*names, "--help")
    assert (done.status, done.err) == (0, "")
    assert done.out.startswith(f"Usage: webhookd {' '.join(names)} ")
    assert done.out == call(*names, "-h").out
    sentences = done.out.split("\n\n")[1]
    assert sentences.strip()[0].isupper()
    assert sentences.rstrip().endswith((".", ":", "status"))
    assert max(map(len, done.out.splitlines())) <= 132
    for line in re.findall(r"^  -.*$", done.out, re.MULTILINE):
        assert re.search(r"\S  \S", line) or line.endswith(("]", "|")) or len(line) > 20, f"{line!r} says nothing"
    assert "..." not in done.out.partition("\nCommands:\n")[2]


@pytest.mark.parametrize("name", ["serve", "dev", "check"])
def test_every_setting_is_a_flag_under_a_heading(name):
    text = call(name, "--help").out
    settings = [key.flag for key in KEYS.values()]
    assert [flag for flag in re.findall(r"^  (--[a-z-]+)", text, re.MULTILINE) if flag in settings] == settings
    assert [h for h in re.findall(r"^([A-Z].*):$", text, re.MULTILINE) if h in SECTIONS.values()] == [
        *SECTIONS.values()
    ]
    told = " ".join(text.split())
    for key in KEYS.values():
        assert f"[default: {key.default}]" in told or not key.default


def test_the_list_of_commands_is_that_of_the_contract():
    done = call("--help")
    listed = re.findall(r"^  ([a-z]+)  ", done.out.partition("Commands:")[2], re.MULTILINE)
    assert listed == [
        *("serve", "dev", "check", "hooks", "why", "replay", "token", "send", "tail", "spool", "plugins", "completion")
    ]
    assert call("-V").out == call("--version").out == f"webhookd {__version__}\n"


def test_what_data_is_printed_can_be_had_as_json():
    printing = {names for names in families() if "--json" in call(*names, "--help").out}
    assert printing >= {
        *{("check",), ("why",), ("replay",), ("hooks", "deliveries"), ("token",), ("send",), ("tail",)},
        *{("spool", name) for name in ("status", "list", "retry", "drop")},
        *{("hooks", name) for name in ("create", "list", "show")},
        *{("plugins", name) for name in ("list", "show")},
    }


def test_no_command_at_all_is_help_and_a_failure():
    for names in ((), ("hooks",), ("spool",), ("plugins",)):
        done = call(*names)
        assert done.status == 2
        assert "Usage: webhookd" in done.err


def test_help_imports_nothing_that_it_does_not_need():
    program = (
        "import sys\nfrom webhookd.cli.root import run\nassert run(sys.argv[1:]) == 0\nprint(*sorted(sys.modules))"
    )
    for names in families():
        done = subprocess.run(
            [sys.executable, "-c", program, *names, "--help"], capture_output=True, text=True, check=True
        )
        loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
        assert not loaded & {"tornado", "jsonschema", "jsonschema_rs", "prometheus_client", "structlog", "cryptography"}


def test_help_comes_at_once(tmp_path):
    """In a third of a second where it has a processor for itself; the best of some tries, since others use it too."""

    def seconds() -> float:
        start = time.perf_counter()
        assert script(tmp_path, "--help").status == 0
        return time.perf_counter() - start

    assert min(seconds() for _ in range(4)) < 0.6


def test_python_m_is_the_same_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "webhookd", "--version"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (done.returncode, done.stdout) == (0, f"webhookd {__version__}\n")


def test_completion_for_the_shell(tmp_path):
    done = script(tmp_path, _WEBHOOKD_COMPLETE="bash_complete", COMP_WORDS="webhookd sp", COMP_CWORD="1", timeout=30)
    assert "plain,spool" in done.out


def test_colours_are_for_terminals(tmp_path):
    status, seen = on_a_terminal(tmp_path, "plugins", "list")
    assert status == 0
    assert "\x1b[1m" in seen
    assert "\x1b" not in script(tmp_path, "plugins", "list").out


@pytest.mark.parametrize(
    ("arguments", "environ"),
    [
        (["--no-color", "plugins", "list"], {}),
        (["plugins", "list", "--no-color"], {}),
        (["plugins", "list"], {"NO_COLOR": "1"}),
    ],
    ids=["before the command", "behind it", "in the environment"],
)
def test_colours_can_be_done_without(tmp_path, arguments, environ):
    status, seen = on_a_terminal(tmp_path, *arguments, **environ)
    assert status == 0
    assert "github" in seen
    assert "\x1b" not in seen


def test_the_log_has_no_colours_where_nobody_wants_them(tmp_path):
    """A disk that is full makes no log; a spool that was damaged does, and is read by a command."""
    (tmp_path / "state").mkdir(mode=0o700)
    (tmp_path / "state" / "spool.db").write_bytes(b"no spool at all " * 512)
    (tmp_path / "state" / "spool.db").chmod(0o600)
    seen = on_a_terminal(tmp_path, "--no-color", "spool", "status", "--state-dir", "state")[1]
    assert "[warning" in seen or "[error" in seen, seen
    assert "\x1b" not in seen


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["serv"], "no such command 'serv'. Did you mean 'serve'?"),
        (["hooks", "lst"], "no such command 'lst'"),
        (["frobnicate"], "no such command 'frobnicate'"),
        (["serve", "--max-bdy", "1MiB"], "no such option '--max-bdy'. (Did you mean one of: '--max-body'"),
        (["serve", "extra"], "got unexpected extra argument (extra) (see webhookd serve --help)"),
        (["tail", "--config"], "option '--config' requires an argument"),
        (["hooks", "create", "github"], "missing argument 'EVENT'"),
        (["hooks", "create", "a", "b", "--validation", "on"], "'on' is not one of 'off', 'report', 'enforce'"),
        (["hooks", "list"], "no bearer token: give --token-file or --token, or set WEBHOOKD_TOKEN"),
        (["hooks", "list", "--token", "a b"], "what is given for a bearer token has characters that none can have"),
        (["hooks", "list", "--token", "a", "--token-file", "b"], "--token and --token-file exclude each other"),
        (
            ["hooks", "list", "--token", "a", "--url", "localhost:8080"],
            "'localhost:8080' is no http:// or https:// URL",
        ),
        (["hooks", "list", "--token", "a", "--url", "http://u:hunter2@a b"], "'http://***@a b' is no http"),
        (["hooks", "list", "--token", "a", "--url", "http://[::1"], "'http://[::1' is no URL"),
        (
            ["hooks", "create", "a", "b", "--token", "t", "--secret", "x", "--secret-file", "y"],
            "--secret and --secret-file exclude",
        ),
        (["token", "--tenant", "a b", "--key-file", "k"], "'a b' is not 1 to 64 letters, digits, _ or -"),
        (["token", "--tenant", "1", "--key-file", "k", "--ttl", "0s"], "'0s' is not a duration"),
        (["token", "--tenant", "1", "--key-file", "k", "--ttl", "soon"], "'soon' is not a duration"),
        (["token", "--tenant", "1"], "missing option '--key-file'"),
        (["dev", "--tenant", "a/b"], "'a/b' is not 1 to 64 letters"),
        (["send", "github", "pusch", "http://a"], "github has no sample of 'pusch'; did you mean push?"),
        (
            ["send", "dockerhub", "push", "http://a", "--secret", "12345678"],
            "datasource dockerhub does not sign its deliveries",
        ),
        (["send", "acme", "x", "http://a", "--secret", "nobase64!"], "the secret "),
        (["send", "acme", "x", "http://a", "--data", "gone"], "'gone': No such file or directory"),
        (["spool", "drop"], "say what to drop: RECEIPTS, --state, --older-than, or --all"),
        (["spool", "drop", "--older-than", "7"], "'7' is not a duration in ms, s, m, h or d"),
        (["spool", "drop", "--all"], "nobody can be asked here whether to drop messages: add --yes"),
        (["spool", "list", "--state", "lost"], "'lost' is not one of 'waiting', 'unroutable', 'set aside', 'kept'"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(arguments, told, monkeypatch):
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        done = call(*arguments)
    assert done.status == 2
    assert told in done.line


@pytest.mark.parametrize(
    ("arguments", "environ", "told"),
    [
        (
            ["serve", "--max-body", "25MBit"],
            {},
            "max_body: '25MBit' (by the flag --max-body) is not allowed; allowed is",
        ),
        (["serve", "--max-bod", "1"], {}, "no such option '--max-bod'"),
        (["serve"], {"WEBHOOKD_MAX_BODDY": "1"}, "WEBHOOKD_MAX_BODDY is no setting; did you mean WEBHOOKD_MAX_BODY?"),
        (
            ["serve"],
            {"WEBHOOKD_LOG_LEVEL": "loud"},
            "log_level: 'loud' (by the environment variable WEBHOOKD_LOG_LEVEL)",
        ),
        (["serve", "--config", "typo.toml"], {}, "'spool_max_byte' in the file typo.toml is no setting; did you mean"),
        (
            ["serve", "--config", "gone.toml"],
            {},
            "the settings file gone.toml cannot be read: No such file or directory",
        ),
        (["serve"], {}, "no bearer token can be checked: set jwt_secret_file"),
        (["serve", "--jwt-secret-file", "gone.key"], {}, "gone.key cannot be read: No such file or directory"),
        (["serve", "--jwt-secret-file", "empty.key"], {}, "empty.key is empty; it must hold the secret"),
        (["serve", "--jwt-public-key-file", "jwt.key"], {}, "jwt_public_key_file holds no PEM public key"),
        (
            ["serve", "--jwt-secret-file", "jwt.key", "--broker", "amqp://u:hunter2@a:99999"],
            {},
            "broker: 'amqp://***@a:99999' (by the flag --broker) is not allowed",
        ),
        (["serve", "--jwt-secret-file", "jwt.key", "--state-dir", "jwt.key/state"], {}, "jwt.key"),
        (
            ["serve", "--jwt-secret-file", "jwt.key", "--state-dir", "wide"],
            {},
            "/wide can be reached by group or others",
        ),
        (
            ["serve", "--jwt-secret-file", "jwt.key", "--load-plugins", "gitbub"],
            {},
            "no installed plugin is named gitbub",
        ),
        (["serve", "--jwt-secret-file", "jwt.key", "--plugins-dir", "gone"], {}, "gone cannot be read"),
        (["dev", "--tenat", "1"], {}, "no such option '--tenat'"),
        (["dev", "--listen", "8080"], {}, "listen: '8080' (by the flag --listen) is not allowed"),
    ],
)
def test_a_start_that_must_not_happen_is_one_line_and_status_2(tmp_path, arguments, environ, told):
    (tmp_path / "typo.toml").write_text("spool_max_byte = 1")
    (tmp_path / "jwt.key").write_text(KEY)
    (tmp_path / "empty.key").touch()
    (tmp_path / "wide").mkdir(mode=0o755)
    done = script(tmp_path, *arguments, **environ)
    assert done.status == 2
    assert told in done.line
    assert "hunter2" not in done.line


def test_an_output_that_cannot_be_written_is_one_line(tmp_path):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [WEBHOOKD, "plugins", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path
        )
    assert (done.returncode, done.stderr) == (1, "webhookd: writing the output: No space left on device\n")


def test_a_reader_that_has_had_enough_is_no_error(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        done = subprocess.run(
            [WEBHOOKD, "plugins", "show", "github"], stdout=closed, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c_is_one_line(monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("webhookd.registry.load", interrupted)
    done = call("plugins", "list")
    assert (done.status, done.line) == (1, "stopped")


# --- token -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tenant", "more", "claim"),
    [
        ("42", [], 42),
        ("0", [], 0),
        ("-7", [], -7),
        ("007", [], "007"),
        ("acme_1", [], "acme_1"),
        ("42", ["--string"], "42"),
    ],
)
def test_a_token_is_for_its_tenant(tmp_path, tenant, more, claim):
    (tmp_path / "jwt.key").write_text(KEY + "\n")
    done = call("token", f"--tenant={tenant}", "--key-file", "jwt.key", *more)
    assert (done.status, done.err) == (0, "")
    claims = jwt.decode(done.out.strip(), KEY, ["HS256"])
    assert claims["tenantId"] == claim
    assert type(claims["tenantId"]) is type(claim)
    assert claims["exp"] - claims["iat"] == 3600
    assert abs(claims["iat"] - time.time()) < 10


def test_a_token_has_the_claims_that_are_asked_for(tmp_path):
    (tmp_path / "jwt.key").write_text("short")
    more = ["--ttl", "1d", "--claim", "org", "--issuer", "me", "--audience", "you", "--json"]
    (document,) = call("token", "--tenant", "a", "--key-file", "jwt.key", *more).documents
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        claims = jwt.decode(document["token"], "short", ["HS256"], audience="you", issuer="me")
    assert claims.keys() == {"org", "iat", "exp", "iss", "aud"}
    assert claims["exp"] * 1000 == document["expiresAt"]
    assert claims["exp"] - claims["iat"] == 86400


def test_a_token_without_a_key_file_is_no_token():
    done = call("token", "--tenant", "1", "--key-file", "gone")
    assert (done.status, done.line) == (2, "--key-file: gone cannot be read: No such file or directory")


# --- hooks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tenant(shared_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a tenant of its own, for which the environment speaks to a running daemon."""
    name = tmp_path.name[-60:].replace("-", "_")
    monkeypatch.setenv("WEBHOOKD_URL", f"http://127.0.0.1:{shared_daemon.port}/")
    monkeypatch.setenv("WEBHOOKD_TOKEN", mint(name))
    return name


def test_hooks_are_created_listed_shown_and_deleted(tenant, shared_daemon):
    assert call("hooks", "list").out.split() == ["TOKEN", "DATASOURCE", "EVENT", "SIGNED", "VALIDATION", "HOOK", "URL"]
    assert call("hooks", "list", "--json").documents == []
    given = ["--secret", "12345678", "--validation", "report", "--on-mismatch", "ignore", "--ts-field", "a.b[0]"]
    (hook,) = call("hooks", "create", "github", "push", *given, "--json").documents
    assert {name: hook[name] for name in ("datasource", "event", "signed", "validation", "onMismatch", "tsField")} == {
        "datasource": "github",
        "event": "push",
        "signed": True,
        "validation": "report",
        "onMismatch": "ignore",
        "tsField": "a.b[0]",
    }
    (again,) = call("hooks", "create", "github", "push", "--secret", "", "--ts-field", "", "--json").documents
    assert (again["token"], again["signed"], "tsField" in again) == (hook["token"], False, False)
    assert call("hooks", "list", "--json").documents == [again]
    for name in (hook["token"], hook["hookUrl"], hook["hookUrl"] + "/"):
        assert call("hooks", "show", name, "--json").documents == [again]
    listed = call("hooks", "list").out.splitlines()
    assert listed[1].split() == [hook["token"], "github", "push", "no", "report", hook["hookUrl"]]
    assert call("hooks", "delete", hook["hookUrl"]).out == ""
    gone = call("hooks", "show", hook["token"])
    assert gone.status == 1
    assert gone.line.startswith("404 Not found: ")


def test_a_hook_is_shown_in_words(tenant):
    done = call("hooks", "create", "my-service", "order.paid", "--orig-server", "api.example.org:8443")
    shown = dict(re.fullmatch(r"([a-zA-Z ]+): +(.*)", line).groups() for line in done.out.splitlines())
    assert shown["hook URL"].startswith("https://webhook.api.example.org:8443/wh/")
    assert (shown["signed"], shown["timestamp field"], shown["tenant"]) == ("no", "none", tenant)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown["created"])


def test_a_secret_comes_from_a_file(tenant, tmp_path):
    (tmp_path / "secret").write_text("a secret of the file\n")
    (hook,) = call("hooks", "create", "github", "push", "--secret-file", "secret", "--json").documents
    assert hook["signed"]
    assert call("send", "github", "push", hook["hookUrl"], "--secret", "a secret of the file").status == 0
    (tmp_path / "secret").write_bytes(b"\xff" * 9)
    assert call("hooks", "create", "github", "push", "--secret-file", "secret").line.startswith("secret is not UTF-8")
    assert "cannot be read" in call("hooks", "create", "github", "push", "--secret-file", "gone").line


def test_a_token_comes_from_a_file_a_flag_or_the_environment(tenant, tmp_path, monkeypatch):
    token = os.environ["WEBHOOKD_TOKEN"]
    call("hooks", "create", "a", "b")
    monkeypatch.delenv("WEBHOOKD_TOKEN")
    (tmp_path / "token").write_text(token + "\n")
    assert len(call("hooks", "list", "--token-file", "token", "--json").documents) == 1
    assert len(call("hooks", "list", "--token", token, "--json").documents) == 1
    refused = call("hooks", "list", "--token", mint(1, key="another key, of another daemon at all"))
    assert refused.status == 1
    assert refused.line.startswith("401 ")
    assert token not in refused.err


def test_a_datasource_that_is_nearly_a_plugins_is_told(tenant):
    done = call("hooks", "create", "gihub", "push", "--json")
    assert done.documents[0]["datasource"] == "gihub"
    assert done.err == (
        "webhookd: no plugin is named gihub; did you mean github?"
        " This hook is a generic one; `webhookd hooks delete` removes it\n"
    )
    assert "did you mean github?" in call("hooks", "create", "GitHub", "push").err
    hook = call("hooks", "create", "my-service", "order.paid", "--json")
    assert hook.err == ""
    sent = call("send", "gihub", "push", hook.documents[0]["hookUrl"])
    assert sent.status == 0
    assert sent.err == (
        "webhookd: no plugin is named gihub; did you mean github? It is sent as any other source sends\n"
    )


def test_all_faults_of_an_input_are_told_at_once(tenant):
    done = call("hooks", "create", "git hub", "pu sh", "--ts-field", "a..b")
    assert done.status == 1
    for field in ("datasource", "event", "tsField"):
        assert f"{field}: " in done.line


def test_the_console_script_asks_the_config_api(tmp_path, shared_daemon):
    """As README's tour does: a token by one command, a hook by another, and what they print is data."""
    (tmp_path / "jwt.key").write_text(KEY)
    token = script(tmp_path, "token", "--tenant", "tour", "--key-file", "jwt.key").out.strip()
    url = f"http://127.0.0.1:{shared_daemon.port}"
    created = script(tmp_path, "hooks", "create", "generic", "x", "--json", WEBHOOKD_URL=url, WEBHOOKD_TOKEN=token)
    sent = script(tmp_path, "send", "generic", "x", created.documents[0]["hookUrl"], "--data", "-", stdin=b'{"id": 7}')
    assert re.fullmatch(r"204 accepted, receipt [0-9a-f-]{36}\n", sent.out)


# --- servers that do not answer as they should -----------------------------------------------------------------------


class Answers(http.server.BaseHTTPRequestHandler):
    """Answers whatever the test wants."""

    reply = (200, {}, b"[]")
    asked = ""

    def answer(self):
        type(self).asked = self.path
        status, headers, body = self.reply
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    kind = type("OneAnswer", (Answers,), {})
    with http.server.HTTPServer(("127.0.0.1", 0), kind) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,))
        thread.start()
        monkeypatch.setenv("WEBHOOKD_URL", f"http://127.0.0.1:{listening.server_port}")
        monkeypatch.setenv("WEBHOOKD_TOKEN", "t")
        kind.port = listening.server_port
        yield kind
        listening.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ((302, {"Location": "http://elsewhere"}, b""), "302 Found: the answer is not webhookd's"),
        ((502, {}, b"<html>"), "502 Bad Gateway: the answer is not webhookd's"),
        ((999, {}, b"[]"), "999 : the answer is not webhookd's"),
        (
            (
                400,
                {},
                json.dumps({"title": "T", "detail": "d", "errors": [{"pointer": "/a", "message": "m"}]}).encode(),
            ),
            "400 T: d; /a: m",
        ),
        (
            (400, {}, b'{"title": "T", "detail": "f: m", "errors": [{"field": "f", "message": "m"}]}'),
            "400 T: f: m",  # once, where the detail says it already
        ),
        ((503, {}, b'{"title": "\\u001b[2Jcleared"}'), "503 \\x1b[2Jcleared:"),
    ],
)
def test_answers_that_are_no_success(server, reply, told):
    server.reply = reply
    done = call("hooks", "list")
    assert (done.status, done.line) == (1, told)


def test_a_query_of_a_hook_url_is_kept(server):
    server.reply = (204, {"X-Webhookd-Receipt": "r"}, b"")
    assert call("send", "acme", "x", f"http://127.0.0.1:{server.port}/a?b=c").out == "204 accepted, receipt r\n"
    assert server.asked == "/a?b=c"
    assert call("send", "acme", "x", f"http://127.0.0.1:{server.port}").status == 0
    assert server.asked == "/"


def test_nobody_listens(tmp_path):
    port = free_port()
    done = call("hooks", "list", "--token", "t", "--url", f"http://127.0.0.1:{port}")
    assert (done.status, done.line) == (1, f"nothing listens at http://127.0.0.1:{port}: is the daemon running there?")
    path = tmp_path / "w.sock"
    done = call("hooks", "list", "--token", "t", "--url", f"unix:{path}")
    assert done.line == f"nothing listens at {path}: is the daemon running there?"


def test_a_server_that_hangs_or_hangs_up(monkeypatch):
    monkeypatch.setattr(config_api, "TIMEOUT", 0.2)
    monkeypatch.setitem(config_api.request.__kwdefaults__, "timeout", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        place = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        assert call("hooks", "list", "--token", "t", "--url", place).line == f"no answer from {place} within 0.2 s"

        def hang_up() -> None:
            for _ in range(2):
                deaf.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        done = call("hooks", "list", "--token", "t", "--url", place)
        thread.join()
    assert re.fullmatch(rf"no answer from {place}: (RemoteDisconnected|Connection reset by peer)", done.line)


def test_https_is_verified(tmp_path):
    """A certificate that nobody vouches for is refused: tokens and secrets go over this connection."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=localhost", "-keyout", "k.pem", "-out", "c.pem"],
        check=True, capture_output=True, cwd=tmp_path,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "c.pem", tmp_path / "k.pem")
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def shake_hands() -> None:
            connection, _ = listening.accept()
            with connection, pytest.raises(OSError):  # noqa: PT011 - the client's refusal comes in many words
                context.wrap_socket(connection, server_side=True).close()

        thread = threading.Thread(target=shake_hands)
        thread.start()
        place = f"https://127.0.0.1:{listening.getsockname()[1]}"
        done = call("hooks", "list", "--token", "t", "--url", place)
        thread.join()
    assert done.status == 1
    assert done.line.startswith(f"no answer from {place}: ")


# --- send ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datasource", "event", "secret"),
    [
        ("github", "push", "a secret of GitHub"),
        ("circleci", "job-completed", "a secret of CircleCI"),
        ("my-service", "order.paid", "whsec_" + base64.b64encode(b"a secret of Standard Webhooks").decode()),
        ("dockerhub", "push", None),
    ],
)
def test_a_sample_is_signed_and_accepted(tenant, shared_daemon, datasource, event, secret):
    given = [] if secret is None else ["--secret", secret]
    (hook,) = call("hooks", "create", datasource, event, *given, "--json").documents
    (sent,) = call("send", datasource, event, hook["hookUrl"], *given, "--json").documents
    assert (sent["status"], sent["problem"]) == (204, None)
    (message,) = [m for m in shared_daemon.messages() if m["receipt"] == sent["receipt"]]
    assert message["datasource"] == datasource
    if secret is not None:
        refused = call("send", datasource, event, hook["hookUrl"], "--json")
        assert refused.status == 1
        assert refused.documents[0]["problem"]["title"] == "No valid signature"
        assert refused.documents[0]["receipt"] is None
        in_words = call("send", datasource, event, hook["hookUrl"])
        assert in_words.status == 1
        assert in_words.line.startswith("401 No valid signature: ")


def test_a_greeting_is_answered_and_not_published(tenant):
    (hook,) = call("hooks", "create", "github", "push", "--json").documents
    done = call("send", "github", "ping", hook["hookUrl"])
    assert done.status == 0
    assert done.out.startswith("204 answered, but nothing is published")


# --- plugins ---------------------------------------------------------------------------------------------------------


def test_plugins_are_listed():
    listed = call("plugins", "list", "--json").documents
    assert [d["name"] for d in listed if d["origin"] == f"webhookd {__version__}"] == [
        "circleci",
        "dockerhub",
        "github",
    ]
    assert {d["name"]: d["signs"] for d in listed if d["name"] in ("github", "dockerhub")} == {
        "github": True,
        "dockerhub": False,
    }
    table = call("plugins", "list").out.splitlines()
    assert table[0].split() == ["NAME", "TITLE", "SIGNS", "EVENTS", "FROM"]
    (row,) = [line for line in table if line.startswith("dockerhub")]
    assert re.split(r"  +", row) == ["dockerhub", "Docker Hub", "no", "1", f"webhookd {__version__}"]


def test_a_plugin_is_shown():
    (shown,) = call("plugins", "show", "github", "--json").documents
    assert {"event": "push", "tsField": "repository.pushed_at", "schema": True} in shown["events"]
    text = call("plugins", "show", "github").out
    assert text.startswith(f"github: GitHub\nfrom:   webhookd {__version__}\nsigns:  yes\n\nEVENT ")
    assert re.search(r"^push +repository\.pushed_at +yes$", text, re.MULTILINE)
    generic = call("plugins", "show", "generic")
    assert generic.status == 0
    assert "EVENT" not in generic.out


def test_a_plugin_that_is_not_there_is_told():
    done = call("plugins", "show", "gitub")
    assert (done.status, done.line) == (
        1,
        "no plugin brings 'gitub'; did you mean github?; hooks for it are generic ones",
    )


def test_a_plugin_of_a_folder_is_listed_and_its_title_harms_no_terminal(tmp_path):
    (tmp_path / "acme.py").write_text(
        "import webhookd\n\nclass Acme(webhookd.Datasource):\n    name = 'acme'\n    title = 'Ac\\u00e4me'\n\n"
        "@webhookd.hookimpl\ndef register_datasources():\n    return [Acme()]\n"
    )
    (row,) = [d for d in call("plugins", "list", "--plugins-dir", ".", "--json").documents if d["name"] == "acme"]
    assert (row["title"], row["origin"]) == ("Acäme", str(tmp_path / "acme.py"))
    (tmp_path / "acme.py").write_text("raise RuntimeError('broken')")
    done = call("plugins", "list", "--plugins-dir", ".")
    assert done.status == 2
    assert f"{tmp_path / 'acme.py'}: the plugin cannot be imported (RuntimeError: broken)" in done.line


def test_only_the_plugins_that_are_asked_for(monkeypatch):
    monkeypatch.setenv("WEBHOOKD_LOAD_PLUGINS", "github")
    assert [d["name"] for d in call("plugins", "list", "--json").documents] == ["github"]
