"""Hooks that move: exported and imported through the config API, and taken out of the etcd of the service before webhookd."""

import base64
import json
import os
import subprocess
import urllib.parse
import uuid
from pathlib import Path
from typing import Any

import pytest
from commands import call, on_a_terminal, script
from documents import blocks
from harness import Daemon, mint, need, request, until

from webhookd.cli.dump import records

pytestmark = pytest.mark.usefixtures("elsewhere")

HOST = "https://webhook.example.org"


def old(number: int, **fields: Any) -> dict[str, Any]:
    """Return a record of the service before webhookd; a field that is None is left out."""
    token = fields.get("token") or f"{number:040x}"
    api_token = str(fields.get("apiToken") or uuid.UUID(int=7))
    record = {
        "datasource": "github",
        "eventType": f"push{number}",
        "createdAt": 1450778008713 + number,
        "apiToken": api_token,
        "tenantId": 5618780000,
        "token": token,
        "tsField": "commits[0].timestamp",
        "hookUrl": f"{HOST}/wh/{api_token}/{token}",
    } | fields
    return {name: value for name, value in record.items() if value is not None}


def lines(*documents: Any) -> bytes:
    return b"".join(json.dumps(document).encode() + b"\n" for document in documents)


def write(content: bytes) -> str:
    Path("hooks.dump").write_bytes(content)
    return "hooks.dump"


def v3(*pairs: tuple[str, str]) -> bytes:
    encoded = [
        {n: base64.b64encode(v.encode()).decode() for n, v in zip(("key", "value"), p, strict=True)} for p in pairs
    ]
    return json.dumps({"header": {"revision": 5}, "kvs": encoded, "count": len(encoded)}).encode()


def accepts(daemon: Daemon, *found: dict[str, Any]) -> list[int]:
    """Deliver to the URLs that senders have had for years, and return what is answered."""
    return [daemon.deliver(record, b'{"old": true}').status for record in found]


def importing(daemon: Daemon, file: str, *more: str) -> Any:
    where = ["--state-dir", str(daemon.state_dir)]
    where += ["--store", daemon.flags["store"]] if "store" in daemon.flags else []
    return call("hooks", "import", "--keep-urls", *where, *more, file)


# --- the service before webhookd --------------------------------------------------------------------------------------


def test_old_urls_are_accepted_beside_a_running_daemon(tmp_path):
    found = [old(1), old(2, tsField=None), old(3, datasource="acme", tenantId="t", apiToken=str(uuid.UUID(int=9)))]
    with Daemon(tmp_path) as daemon:
        file = write(lines(*found))
        assert accepts(daemon, *found) == [404, 404, 404]
        dry = importing(daemon, file, "--dry-run")
        assert (dry.status, dry.err) == (0, "")
        assert dry.out == "created 3 (a dry run: nothing is done)\n"
        assert accepts(daemon, *found) == [404, 404, 404]
        done = importing(daemon, file)
        assert (done.status, done.out, done.err) == (0, "created 3\n", "")
        assert accepts(daemon, *found) == [204, 204, 204]
        again = importing(daemon, file, "--json")
        assert again.documents == [{"created": 0, "updated": 0, "unchanged": 3, "failed": 0, "dryRun": False}]
        shown = daemon.config("GET", tenant=5618780000).json
        assert [hook["event"] for hook in shown] == ["push1", "push2"]
        assert shown[0] == {
            **{name: value for name, value in found[0].items() if name != "eventType"},
            "event": "push1",
            "validation": "off",
            "onMismatch": "publish",
            "signed": False,
        }
        assert "tsField" not in shown[1]
        assert daemon.hook(event="new", tenant=5618780000)["apiToken"] == found[0]["apiToken"]
        assert [m["routingKey"] for m in daemon.messages()] == [
            "event.5618780000.github.push1",
            "event.5618780000.github.push2",
            "event.t.acme.push3",
        ]
        daemon.stop()
        daemon.start()
        assert accepts(daemon, *found) == [204, 204, 204]


def test_a_daemon_that_is_stopped_finds_them_when_it_starts(tmp_path):
    with Daemon(tmp_path) as daemon:
        daemon.stop()
        assert importing(daemon, write(lines(old(1)))).out == "created 1\n"
        daemon.start()
        assert accepts(daemon, old(1)) == [204]


def test_without_a_state_directory_there_is_nothing_to_import_into():
    done = call("hooks", "import", "--keep-urls", "--state-dir", "gone", write(lines(old(1))))
    assert done.status == 1
    assert done.line.startswith("there is no state directory ")


def test_every_daemon_on_an_etcd_accepts_them(tmp_path, etcd_prefix):
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
    found = [old(1), old(2)]
    file = write(lines(*found))
    place = ["--keep-urls", "--store", etcd_prefix]
    with Daemon(folders[0], store=etcd_prefix) as one, Daemon(folders[1], store=etcd_prefix) as two:
        assert call("hooks", "import", *place, "-n", file).out == "created 2 (a dry run: nothing is done)\n"
        done = call("hooks", "import", *place, file)
        assert (done.status, done.out, done.err) == (0, "created 2\n", "")
        for daemon in (one, two):
            until(lambda daemon=daemon: accepts(daemon, *found) == [204, 204])
        assert call("hooks", "import", *place, file).out == "unchanged 2\n"


def test_an_etcd_that_is_away_is_told(etcd):
    done = call("hooks", "import", "--keep-urls", "--store", "etcd://127.0.0.1:1/webhookd", write(lines(old(1))))
    assert done.status == 1
    assert "etcd at 127.0.0.1:1" in done.line
    assert done.line.endswith("repeating this is safe")


def test_a_tenants_api_token_outlives_its_hooks(tmp_path):
    """What is not in memory any more is found out by trying, and leaves nothing behind."""
    with Daemon(tmp_path) as daemon:
        gone = daemon.hook(tenant=5618780000)
        assert daemon.config("DELETE", f"/wh/config/{gone['token']}", tenant=5618780000).status == 204
        done = importing(daemon, write(lines(old(1))))
        assert (done.status, done.out) == (1, "failed 1\n")
        assert done.err == (
            "webhookd: line 1: the tenant has another apiToken, and a tenant has one: this hook needs a new URL\n"
        )
        assert daemon.config("GET", tenant=5618780000).json == []


def test_what_stands_against_another_hook_is_told_and_the_newest_wins(tmp_path):
    other = str(uuid.UUID(int=8))
    found = [
        old(1, eventType="push", createdAt=1),
        old(2, eventType="push", createdAt=2),
        old(3, apiToken=other, createdAt=1),
        old(4, token=f"{2:040x}", createdAt=1),
        old(5, createdAt=None, hookUrl=None),
    ]
    with Daemon(tmp_path) as daemon:
        file = write(lines(*found))
        for more in (["--dry-run"], []):
            done = importing(daemon, file, "--public-url", HOST, *more)
            assert done.status == 1
            assert done.out.startswith("created 2, failed 3")
            told = sorted(done.err.splitlines())
            assert [line.split(":")[1] for line in told] == [" line 1", " line 3", " line 4"]
        assert accepts(daemon, *found[:4], old(5)) == [404, 204, 404, 204, 204]


def test_nothing_that_is_there_is_changed(tmp_path):
    with Daemon(tmp_path) as daemon:
        hook = daemon.hook("github", "push1", tenant=5618780000)
        other = daemon.hook("github", "push9", tenant="t")
        found = [
            old(1, apiToken=hook["apiToken"]),
            old(2, token=other["token"], apiToken=hook["apiToken"]),
            old(3, apiToken=hook["apiToken"]),
        ]
        done = importing(daemon, write(lines(*found)))
        assert (done.status, done.out) == (1, "created 1, failed 2\n")
        assert sorted(done.err.splitlines()) == [
            "webhookd: line 1: the tenant has another hook for github push1, with another URL",
            "webhookd: line 2: another hook has this token",
        ]
        assert daemon.config("GET", f"/wh/config/{hook['token']}", tenant=5618780000).json == hook
        assert daemon.deliver(other, b"{}").status == 204


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"token": "A" * 40}, "token: not 40 lower-case hexadecimal digits"),
        ({"apiToken": "a b"}, "apiToken: not a UUID, nor anything else that fits into a URL"),
        ({"createdAt": "now"}, "createdAt: not a number of milliseconds"),
        ({"createdAt": 10**30}, "createdAt: not a number of milliseconds"),
        ({"createdAt": 10**17}, "createdAt: not a number of milliseconds"),
        ({"createdAt": -1}, "createdAt: not a number of milliseconds"),
        ({"tenantId": "a.b"}, "tenantId: not a number"),
        ({"tenantId": None}, "tenantId: not a number"),
        ({"hookUrl": None}, "hookUrl: missing; --public-url says what URLs begin with"),
        ({"hookUrl": "https://a/wh/b/c"}, "hookUrl: not that of its apiToken and token"),
        ({"hookUrl": "ftp://a"}, "hookUrl: not an http:// or https:// URL"),
        ({"hookUrl": "https://a\ud800b/wh/b/c"}, "hookUrl: not an http:// or https:// URL"),
        ({"hookUrl": 'https://a "b/wh/b/c'}, "hookUrl: not an http:// or https:// URL"),
        ({"hookUrl": "https://u:p@a/wh/b/c"}, "hookUrl: not an http:// or https:// URL"),
        ({"hookUrl": 7}, "hookUrl: not an http:// or https:// URL"),
        ({"datasource": "git hub"}, "datasource: must be 1 to 64 letters"),
        ({"eventType": "pu sh"}, "event: must be 1 to 100 letters"),
        ({"eventType": None}, "event: required"),
        ({"tsField": "a..b"}, "tsField: not a path"),
        ({"validation": "enforce"}, "validation: there is no schema for github push1"),
        ({"signed": True}, "the hook was signed, and its secret is not here: add it as `secret`, or use --unsigned"),
    ],
    ids=lambda value: None if isinstance(value, str) else json.dumps(value),
)
def test_a_record_that_makes_no_hook_is_told_by_its_line(shared_daemon, fields, told):
    done = importing(shared_daemon, write(b"\n" + lines(old(1, **fields))), "-n")
    assert (done.status, done.out) == (1, "failed 1 (a dry run: nothing is done)\n")
    assert done.err.startswith(f"webhookd: line 2: {told}")
    assert done.err.count("\n") == 1


def test_a_hook_that_was_signed_is_signed_with_the_secret_that_is_added(tmp_path):
    with Daemon(tmp_path) as daemon:
        daemon.canaries.add("a secret of the test")
        found = [old(1, signed=True, secret="a secret of the test"), old(2, signed=True)]
        done = importing(daemon, write(lines(*found)), "--unsigned")
        assert (done.status, done.out) == (0, "created 2\n")
        assert accepts(daemon, *found) == [401, 204]


# --- what etcd prints -------------------------------------------------------------------------------------------------


def test_each_form_of_a_real_etcd_is_read(own_etcd):
    server = own_etcd("--enable-v2=true")
    found = [old(1), old(2)]
    for record in found:
        body = urllib.parse.urlencode({"value": json.dumps(record)}).encode()
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        assert request(server.port, "PUT", f"/v2/keys/webhooks/{record['token']}", body, kind).status == 201
        server.ctl("put", f"/webhooks/{record['token']}", json.dumps(record))
    tree = request(server.port, "GET", "/v2/keys/webhooks?recursive=true").body

    def version_2(*arguments: str) -> str:
        command = [need("etcdctl"), f"--endpoints=http://127.0.0.1:{server.port}", *arguments]
        environ = {**os.environ, "ETCDCTL_API": "2"}
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environ).stdout

    keys = sorted(version_2("ls", "/webhooks").split())
    forms = {
        "v3 json": server.ctl("get", "--prefix", "/webhooks/", "-w", "json").encode(),
        "v3 plain": server.ctl("get", "--prefix", "/webhooks/").encode(),
        "v2 tree": tree,
        "v2 values": "".join(version_2("get", key) for key in keys).encode(),
        "v2 answers": "".join(version_2("-o", "json", "get", key).strip() + "\n" for key in keys).encode(),
    }
    for name, data in forms.items():
        read = sorted(records(data), key=lambda record: record.document.get("token", ""))
        assert [record.document for record in read] == found, name
        assert [record.fault for record in read] == [None, None], name
    assert records(server.ctl("get", "--prefix", "/nothing/", "-w", "json").encode()) == []


def test_what_is_no_hook_in_a_dump_is_told_and_stops_nothing(shared_daemon):
    good = old(11, tenantId="dumps", apiToken=str(uuid.UUID(int=11)))
    data = v3(
        ("/webhooks/", ""),
        (f"/webhooks/{12:040x}", "{"),
        (f"/webhooks/{13:040x}", json.dumps(good)),
        (f"/webhooks/{good['token']}", json.dumps(good)),
    )
    done = importing(shared_daemon, write(data))
    assert (done.status, done.out) == (1, "created 1, failed 3\n")
    assert sorted(done.err.splitlines()) == [
        "webhookd: key 1: the key does not end in a hook's token: it is no hook of the service before webhookd",
        "webhookd: key 2: not a JSON object",
        "webhookd: key 3: the key ends in another token than the record's",
    ]
    assert accepts(shared_daemon, good) == [204]


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"[1]", ["not a JSON object"]),
        (b"{\n", ["not a JSON object"]),
        (b'{"kvs": [7, {"key": "%"}]}', ["not a key and a value in base64"] * 2),
        (b'{"node": {"nodes": [7, {"key": "a"}]}}', ["not a key and a value"] * 2),
        (b'{"node": {"dir": true, "nodes": 7}}', []),
        (b"", []),
        (b"\xef\xbb\xbf{}", [None]),
        (b"[" * 100_000, ["not a JSON object"]),
    ],
    ids=range(8),
)
def test_whatever_a_file_holds_it_is_read_or_told(data, told):
    assert [record.fault for record in records(data)] == told


def test_a_file_that_is_no_text_is_told():
    done = call("hooks", "import", "--keep-urls", write(b"\xff\xfe"))
    assert (done.status, done.line) == (1, "the file is not UTF-8")


def test_the_record_of_the_documents_is_one(tmp_path):
    text = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()
    ((_, block),) = blocks(text, "json")
    (record,) = [json.loads(block)]
    with Daemon(tmp_path) as daemon:
        assert importing(daemon, write(block.encode())).out == "created 1\n"
        assert accepts(daemon, record) == [204]


# --- as a tenant ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tenant(shared_daemon: Daemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a tenant of its own, for which the environment speaks to a running daemon."""
    name = tmp_path.name[-60:].replace("-", "_")
    monkeypatch.setenv("WEBHOOKD_URL", f"http://127.0.0.1:{shared_daemon.port}")
    monkeypatch.setenv("WEBHOOKD_TOKEN", mint(name))
    return name


def test_a_line_of_an_export_may_have_a_previous_token(tenant):
    (hook,) = call("hooks", "create", "github", "push", "--json").documents
    file = write(lines({**hook, "previousToken": "a" * 40, "previousHookUrl": "https://x", "previousUntil": 7}))
    assert call("hooks", "import", file).out == "unchanged 1\n"


def without_addresses(hooks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    own = ("token", "apiToken", "hookUrl", "createdAt", "tenantId")
    return [{name: value for name, value in hook.items() if name not in own} for hook in hooks]


def test_what_is_exported_is_imported_elsewhere(tenant, tmp_path, shared_daemon):
    call("hooks", "create", "github", "push", "--validation", "report", "--ts-field", "")
    call("hooks", "create", "acme", "order.paid", "--on-mismatch", "reject", "--ts-field", "at")
    exported = call("hooks", "export")
    assert (exported.status, exported.err) == (0, "")
    assert exported.documents == call("hooks", "list", "--json").documents
    file = write(exported.out.encode())
    assert call("hooks", "import", file).out == "unchanged 2\n"
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    with Daemon(folder) as daemon:
        there = ["--url", f"http://127.0.0.1:{daemon.port}", "--token", mint("other")]
        assert call("hooks", "import", *there, "-n", file).out == "created 2 (a dry run: nothing is done)\n"
        assert call("hooks", "export", *there).out == ""
        assert call("hooks", "import", *there, "--orig-server", "api.example.org", file).out == "created 2\n"
        moved = call("hooks", "export", *there).documents
        assert without_addresses(moved) == without_addresses(exported.documents)
        assert all(hook["hookUrl"].startswith("https://webhook.api.example.org/wh/") for hook in moved)
        assert call("hooks", "import", *there, file).out == "unchanged 2\n"


def test_secrets_are_not_exported_and_a_signed_hook_is_not_unsigned_by_the_way(tenant, shared_daemon):
    shared_daemon.canaries.add("a secret of the test")
    (hook,) = call("hooks", "create", "github", "push", "--secret", "a secret of the test", "--json").documents
    exported = call("hooks", "export")
    assert "a secret of the test" not in exported.out
    assert exported.err == "webhookd: 1 of 1 hooks are signed; their secrets are not in the export\n"
    file = write(exported.out.encode())
    assert call("hooks", "import", file).out == "unchanged 1\n"
    write(lines({**hook, "validation": "report"}))
    assert call("hooks", "import", file).out == "updated 1\n"
    assert call("hooks", "show", hook["token"], "--json").documents == [{**hook, "validation": "report"}]
    call("hooks", "delete", hook["token"])
    refused = call("hooks", "import", file)
    assert (refused.status, refused.out) == (1, "failed 1\n")
    assert refused.err == (
        "webhookd: line 1: the hook was signed, and its secret is not here: add it as `secret`, or use --unsigned\n"
    )
    write(lines({**hook, "secret": "a secret of the test"}))
    assert call("hooks", "import", file).out == "created 1\n"
    (again,) = call("hooks", "export").documents
    assert again["signed"]
    call("hooks", "delete", again["token"])
    write(lines(hook))
    assert call("hooks", "import", "--unsigned", file).out == "created 1\n"


def test_a_line_written_by_hand_says_only_what_shall_be_different(tenant):
    file = write(lines({"datasource": "github", "event": "push", "validation": "report"}))
    assert call("hooks", "import", file).out == "created 1\n"
    (hook,) = call("hooks", "export").documents
    assert hook["tsField"] == "repository.pushed_at"
    write(lines({"datasource": "github", "event": "push", "tsField": "a"}))
    assert call("hooks", "import", file).out == "updated 1\n"
    assert call("hooks", "export").documents == [{**hook, "tsField": "a"}]


def test_a_line_that_fails_is_told_by_its_number_and_the_others_go_on(tenant):
    content = lines({"datasource": "acme", "event": "a"}) + b"\n{nonsense\n"
    content += lines(
        {"datasource": "acme", "event": "b", "tsfield": "x"},
        {"datasource": "acme"},
        {"datasource": 7, "event": "b"},
        {"datasource": "ac me", "event": "b", "validation": "of"},
        {"datasource": "acme", "event": "c"},
    )
    done = call("hooks", "import", write(content))
    assert (done.status, done.out) == (1, "created 2, failed 5\n")
    told = done.err.splitlines()
    assert told[:4] == [
        "webhookd: line 3: not a JSON object",
        "webhookd: line 4: unknown field 'tsfield'; known are datasource, event, onMismatch, secret, tsField, validation",
        "webhookd: line 5: event: required",
        "webhookd: line 6: datasource: must be a string",
    ]
    assert told[4].startswith("webhookd: line 7: 400 ")
    assert "datasource: must be 1 to 64" in told[4]
    assert "validation: must be one of" in told[4]


def test_hooks_of_several_tenants_are_no_tenants_import(tenant):
    file = write(lines(old(1), old(2, tenantId="other")))
    done = call("hooks", "import", file)
    assert done.status == 1
    assert done.line == (
        "the file has hooks of 2 tenants, and the bearer token is that of one:"
        " import them one by one, or as the operator with --keep-urls"
    )
    assert call("hooks", "export").out == ""


def test_who_may_not_import_learns_it_at_once(shared_daemon):
    url = f"http://127.0.0.1:{shared_daemon.port}"
    wrong = mint("t", key="another key, of another daemon at all")
    done = call("hooks", "import", "--url", url, "--token", wrong, write(lines(old(1))))
    assert done.status == 1
    assert done.line.startswith("401 ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--keep-urls", "--token", "t"], "--token, --token-file and --orig-server do not go with --keep-urls"),
        (["--keep-urls", "--orig-server", "a"], "--token, --token-file and --orig-server do not go with --keep-urls"),
        (["--store", "etcd://a/b"], "settings of the daemon only go with --keep-urls"),
        ([], "no bearer token: give --token-file or --token, or set WEBHOOKD_TOKEN"),
    ],
)
def test_what_does_not_go_together_is_a_mistake(arguments, told):
    done = call("hooks", "import", *arguments, write(b""))
    assert done.status == 2
    assert told in done.line


def test_a_file_without_hooks_is_no_failure(tenant):
    done = call("hooks", "import", write(b"\n"))
    assert (done.status, done.out) == (0, "there is no hook in the file\n")


def test_the_bar_is_for_terminals(tenant, tmp_path):
    given = {name: os.environ[name] for name in ("WEBHOOKD_URL", "WEBHOOKD_TOKEN")}
    documents = [{"datasource": "acme", "event": f"e{number}"} for number in range(20)]
    file = write(lines(*documents, {"datasource": "acme"}))
    silent = script(tmp_path, "hooks", "import", file, **given)
    assert (silent.status, silent.out) == (1, "created 20, failed 1\n")
    assert silent.err == "webhookd: line 21: event: required\n"
    status, seen = on_a_terminal(tmp_path, "hooks", "import", file, **given)
    assert status == 1
    assert "importing  [" in seen
    assert "20/21" in seen
    assert "\x1b[Kwebhookd: line 21: event: required\r\n" in seen
    assert "unchanged 20, failed 1\r\n" in seen
