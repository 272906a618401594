"""The console over HTTP: who may see what, and what a browser's page of another site cannot do."""

import contextlib
import re
import time
from collections.abc import Iterator, Mapping
from html import escape
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest
import websocket
from harness import Answer, Daemon, free_port, mint, request, until

from webhookd.console import views
from webhookd.console.hosts import without_port
from webhookd.console.live import MOST_OF_ONE
from webhookd.console.remedies import FAULTS
from webhookd.console.session import MOST_OF_TENANT
from webhookd.model import Record

POLICY = {"default-src": "'none'", "script-src": "'self'", "style-src": "'self'", "frame-ancestors": "'none'"}


class Visitor:
    """A browser without pictures: keeps its cookie, sends the Origin of its pages."""

    def __init__(self, daemon: Daemon, tenant: object = 42, **claims: object) -> None:
        self.daemon = daemon
        self.origin = f"http://127.0.0.1:{daemon.admin_port}"
        self.cookie = ""
        self.token = mint(tenant, **claims)
        daemon.canaries.add(self.token)

    def get(self, path: str, headers: Mapping[str, str] | None = None) -> Answer:
        sent = {"Cookie": self.cookie} if self.cookie else {}
        return request(self.daemon.admin_port, "GET", f"/console{path}", None, sent | dict(headers or {}))

    def post(self, path: str, headers: Mapping[str, str] | None = None, **fields: str) -> Answer:
        sent = {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.origin}
        sent |= {"Cookie": self.cookie} if self.cookie else {}
        sent |= dict(headers or {})
        body = urlencode(fields).encode()
        return request(self.daemon.admin_port, "POST", f"/console{path}", body, {k: v for k, v in sent.items() if v})

    def sign_in(self, headers: Mapping[str, str] | None = None, **fields: str) -> Answer:
        answer = self.post("/sign-in", headers, **({"token": self.token} | fields))
        if "Set-Cookie" in answer.headers:
            self.cookie = answer.headers["Set-Cookie"].partition(";")[0]
            self.daemon.canaries.add(self.cookie.partition("=")[2])
        return answer

    @property
    def csrf(self) -> str:
        return re.search(r'name="csrf" value="([^"]+)"', self.get("/hooks").body.decode())[1]

    @contextlib.contextmanager
    def socket(self, path: str, **options: object) -> Iterator[websocket.WebSocket]:
        options.setdefault("origin", self.origin)
        url = f"ws://127.0.0.1:{self.daemon.admin_port}/console{path}"
        opened = websocket.create_connection(url, cookie=self.cookie, timeout=20, **options)
        try:
            yield opened
        finally:
            opened.shutdown()


@pytest.fixture
def visitor(daemon: Daemon) -> Visitor:
    one = Visitor(daemon)
    assert one.sign_in().status == 303
    return one


def test_nothing_of_a_tenant_is_shown_without_a_session(daemon):
    hook = daemon.hook("github", "push")
    stranger = Visitor(daemon)
    for path in (
        "/hooks",
        "/hooks/new",
        *(f"/hooks/{hook['token']}{part}" for part in ("", "/edit", "/rotate", "/delete", "/sample")),
    ):
        answer = stranger.get(path)
        assert (answer.status, answer.body) == (303, b"")
        assert answer.headers["Location"].startswith("/console/sign-in?next=%2Fconsole%2Fhooks")
    stranger.cookie = "webhookd_console=made-up"
    assert stranger.get("/hooks").status == 303
    assert stranger.post(f"/hooks/{hook['token']}/delete", csrf="x").headers["Location"] == "/console/sign-in"
    assert daemon.config("GET").json == [hook]


def test_the_cookie_is_out_of_the_reach_of_scripts_and_other_sites(daemon):
    flags = Visitor(daemon).sign_in().headers["Set-Cookie"].split("; ")[1:]
    assert set(flags) == {"HttpOnly", "Path=/console", "SameSite=Strict"}


def test_over_https_the_cookie_is_never_sent_without_it(tmp_path):
    with Daemon(tmp_path, console_hosts="console.example") as daemon:
        headers = {"Host": "console.example", "Origin": "https://console.example"}
        answer = Visitor(daemon).sign_in(headers)
        assert answer.status == 303
        assert "Secure" in answer.headers["Set-Cookie"].split("; ")


def test_every_answer_forbids_what_no_page_needs(visitor):
    for path in ("/sign-in", "/hooks", "/overview", "/nowhere", "/static/console.css"):
        headers = visitor.get(path).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert POLICY.items() <= policy.items()
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"
        assert "Server" not in headers
    assert visitor.get("/hooks").headers["Cache-Control"] == "no-store"


def test_pages_have_no_script_or_style_of_their_own_and_ask_no_other_host(visitor):
    token = visitor.daemon.hook("github", "push")["token"]
    for path in ("/sign-in", "/hooks", "/hooks/new", f"/hooks/{token}", "/overview"):
        page = visitor.get(path).body.decode()
        assert re.findall(r"<script(?![^>]*\bsrc=)", page) == []
        assert re.findall(r"<style|\sstyle=|\son\w+=", page) == []
        assert [
            url for url in re.findall(r'(?:src|href|action)="([^"]*)"', page) if not re.match(r"/console|#", url)
        ] == []


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1", "[::2]"]
)
def test_another_host_name_is_refused(visitor, host):
    for path in ("", "/sign-in", "/hooks", "/overview", "/static/console.js"):
        assert visitor.get(path, {"Host": host}).status == 421
    assert visitor.post("/sign-in", {"Host": host, "Origin": f"http://{host}"}, token=visitor.token).status == 421


@pytest.mark.parametrize("host", ["localhost", "localhost:9999", "127.0.0.1:1", "[::1]:9180", "LOCALHOST"])
def test_this_machine_is_known_by_its_names(visitor, host):
    assert visitor.get("/hooks", {"Host": host}).status == 200


@pytest.mark.parametrize(
    "origin", ["", "null", "http://evil.example", "http://127.0.0.1:1", "http://localhost:3000", "file://"]
)
def test_a_form_of_another_page_does_nothing(visitor, origin):
    hook = visitor.daemon.hook("github", "push")
    csrf = visitor.csrf
    for path in (f"/hooks/{hook['token']}/delete", "/hooks/new", "/sign-out", "/sign-in"):
        assert visitor.post(path, {"Origin": origin}, csrf=csrf, token=visitor.token).status == 403
    assert visitor.daemon.config("GET").json == [hook]


def test_a_form_without_the_token_of_its_session_does_nothing(visitor):
    hook = visitor.daemon.hook("github", "push")
    other = Visitor(visitor.daemon)
    other.sign_in()
    for csrf in ("", "x", other.csrf, "\u20ac"):
        for part in ("rotate", "delete", "edit", "sample", "replay"):
            assert visitor.post(f"/hooks/{hook['token']}/{part}", csrf=csrf).status == 403
    assert visitor.daemon.config("GET").json == [hook]
    assert visitor.daemon.messages() == []


def test_no_other_file_is_there(visitor):
    for name in ("../app.py", "%2e%2e/app.py", "/etc/passwd", "%00", "%ff", "none.css"):
        assert visitor.get(f"/static/{name}").status in (403, 404)
    assert '"error"' not in visitor.daemon.log


def test_another_tenants_hook_is_as_little_there_as_a_missing_one(visitor):
    daemon = visitor.daemon
    foreign = daemon.hook("github", "push", tenant=7)["token"]
    missing = "0" * 40
    csrf = visitor.csrf
    delivery = "/deliveries/01890000-0000-7000-8000-000000000000"
    for part in ("", "/edit", "/rotate", "/delete", "/sample", delivery):
        answers = [visitor.get(f"/hooks/{token}{part}") for token in (foreign, missing)]
        assert [answer.status for answer in answers] == [404, 404]
        assert answers[0].body == answers[1].body
    for part in ("/edit", "/rotate", "/delete", "/sample", "/replay", f"{delivery}/replay"):
        assert visitor.post(f"/hooks/{foreign}{part}", csrf=csrf).status == 404
    with (
        pytest.raises(websocket.WebSocketBadStatusException) as refused,
        visitor.socket(f"/hooks/{foreign}/live"),
    ):
        pass
    assert refused.value.status_code == 404
    assert foreign not in visitor.get("/hooks").body.decode()
    assert len(daemon.config("GET", tenant=7).json) == 1


def test_a_session_ends_with_its_token(daemon):
    visitor = Visitor(daemon, exp=int(time.time()) + 3)
    assert visitor.sign_in().status == 303
    assert visitor.get("/hooks").status == 200
    until(lambda: visitor.get("/hooks").status == 303)
    assert visitor.sign_in().status == 401


def test_signing_out_ends_the_session_and_not_only_the_cookie(visitor):
    answer = visitor.post("/sign-out", csrf=visitor.csrf)
    assert (answer.status, answer.headers["Location"]) == (303, "/console/sign-in")
    assert visitor.get("/hooks").status == 303


def test_signing_out_closes_what_is_open(visitor):
    other = Visitor(visitor.daemon)
    other.sign_in()
    token = visitor.daemon.hook("mine", "a")["token"]
    with visitor.socket(f"/hooks/{token}/live") as mine, other.socket(f"/hooks/{token}/live") as theirs:
        visitor.post("/sign-out", csrf=visitor.csrf)
        assert mine.recv_data() == (websocket.ABNF.OPCODE_CLOSE, (4401).to_bytes(2))
        visitor.daemon.deliver({"hookUrl": visitor.daemon.config("GET").json[0]["hookUrl"]}, b"{}")
        assert theirs.recv_data()[0] == websocket.ABNF.OPCODE_TEXT


def test_a_tenant_has_its_share_of_sessions_and_open_pages(visitor):
    other = Visitor(visitor.daemon, tenant="other")
    other.sign_in()
    last = Visitor(visitor.daemon)
    for _ in range(MOST_OF_TENANT):
        assert last.sign_in().status == 303
        cookie, last.cookie = last.cookie, ""
    last.cookie = cookie
    assert [one.get("/hooks").status for one in (visitor, last, other)] == [303, 200, 200]
    with contextlib.ExitStack() as stack:
        for _ in range(MOST_OF_ONE):
            stack.enter_context(last.socket("/overview/live"))
        with pytest.raises(websocket.WebSocketBadStatusException) as refused, last.socket("/overview/live"):
            pass
        assert refused.value.status_code == 503
        stack.enter_context(other.socket("/overview/live"))


def test_signing_in_again_gives_another_cookie(visitor):
    first = visitor.cookie
    assert visitor.sign_in(csrf=visitor.csrf).status == 303
    assert visitor.cookie != first
    second, visitor.cookie = visitor.cookie, first
    assert visitor.get("/hooks").status == 303
    visitor.cookie = second
    assert visitor.get("/hooks").status == 200


def test_attempts_are_bounded_and_the_token_is_not_shown(daemon):
    visitor = Visitor(daemon)
    bad = mint(42, key="another key, of at least 32 bytes, for the test")
    daemon.canaries.add(bad)
    answers = [visitor.sign_in(token=bad) for _ in range(11)]
    assert [answer.status for answer in answers] == [401] * 10 + [429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 6
    assert all(bad.encode() not in answer.body for answer in answers)
    assert visitor.sign_in().status == 429


@pytest.mark.parametrize(
    "after", ["https://evil.example", "//evil.example", "/wh/config", "/console/hooks/../x?y", "/console/hooks\r\nX: y"]
)
def test_signing_in_leads_nowhere_else(daemon, after):
    assert Visitor(daemon).sign_in(next=after).headers["Location"] == "/console/hooks"


def test_signing_in_leads_back_to_the_page_that_was_asked_for(daemon):
    assert Visitor(daemon).sign_in(next="/console/hooks/new").headers["Location"] == "/console/hooks/new"


@pytest.mark.parametrize(
    ("options", "status"),
    [({"origin": "http://evil.example"}, 403), ({"suppress_origin": True}, 403), ({"host": "evil.example"}, 421)],
)
def test_a_socket_of_another_page_is_refused(visitor, options, status):
    token = visitor.daemon.hook("github", "push")["token"]
    for path in (f"/hooks/{token}/live", "/overview/live"):
        with pytest.raises(websocket.WebSocketBadStatusException) as refused, visitor.socket(path, **options):
            pass
        assert refused.value.status_code == status


def test_a_socket_without_a_session_is_refused(daemon):
    token = daemon.hook("github", "push")["token"]
    with (
        pytest.raises(websocket.WebSocketBadStatusException) as refused,
        Visitor(daemon).socket(f"/hooks/{token}/live"),
    ):
        pass
    assert refused.value.status_code == 401


def test_a_socket_tells_deliveries_of_its_hook_alone_and_ends_with_the_daemon(visitor):
    daemon = visitor.daemon
    hook, other = daemon.hook("mine", "a"), daemon.hook("mine", "b")
    with visitor.socket(f"/hooks/{hook['token']}/live") as socket:
        assert daemon.deliver(other, b'{"not": "this"}').status == 204
        receipt = daemon.deliver(hook, b"{}").headers["X-Webhookd-Receipt"]
        told = socket.recv()
        assert receipt in told
        assert other["token"] not in told
        daemon.stop()
        opcode, _ = socket.recv_data()
        assert opcode == websocket.ABNF.OPCODE_CLOSE


def test_a_busy_hook_is_told_in_handfuls(visitor):
    hook = visitor.daemon.hook("mine", "a")
    with visitor.socket(f"/hooks/{hook['token']}/live") as socket:
        for _ in range(60):
            visitor.daemon.deliver(hook, b"{}")
        seen = 0
        while seen < 60:
            seen += int(re.search(r'"count":(\d+)', socket.recv())[1])
        assert seen == 60


def test_the_overview_is_for_whoever_reaches_the_listener_and_names_no_tenant(daemon):
    hook = daemon.hook("secretive", "thing", tenant="somebody")
    daemon.deliver(hook, b"{}")
    stranger = Visitor(daemon)
    assert stranger.get("/overview").status == 200
    with stranger.socket("/overview/live") as socket:
        told = socket.recv() + socket.recv()
    for word in ("secretive", "somebody", hook["token"]):
        assert word not in told


def test_the_overview_says_what_a_stopped_broker_is_and_what_to_do(tmp_path):
    with Daemon(tmp_path, broker=f"amqp://127.0.0.1:{free_port()}") as daemon:
        stranger = Visitor(daemon)
        until(lambda: "broker down" in stranger.get("/overview").body.decode())
        page = stranger.get("/overview").body.decode()
        assert "It works, and something is wrong" in page
        assert "RabbitMQ does not run there" in page
        with stranger.socket("/overview/live") as socket:
            assert '"degraded"' in socket.recv()


def test_every_fault_of_the_daemon_has_a_remedy():
    source = (Path(__file__).parents[1] / "webhookd" / "vitals.py").read_text()
    words = [
        *re.findall(r'yield f?"([a-z][a-z ]+)', source),
        "broker down",
        "broker blocked",
        "unroutable",
        "set aside",
    ]
    assert len(words) > 8
    assert [word for word in words if not any(word.startswith(known) for known in FAULTS)] == []


def test_what_a_sender_writes_is_shown_and_never_run(visitor):
    hook = visitor.daemon.hook("github", "push")
    evil = "<script>alert(1)</script>"
    visitor.daemon.deliver(
        hook, f'["{evil}"'.encode(), {"X-GitHub-Event": evil, "X-GitHub-Delivery": evil, "X-Other": evil}
    )
    page = visitor.get(f"/hooks/{hook['token']}").body.decode()
    (path,) = re.findall(r'href="/console(/hooks/[^"]+/deliveries/[^"]+)"', page)
    for shown in (page, visitor.get(path).body.decode()):
        assert evil not in shown
    assert "&lt;script&gt;" in shown


def delivery_of(visitor: Visitor, hook: Mapping[str, str]) -> str:
    """Return the path of the newest delivery's page."""
    page = visitor.get(f"/hooks/{hook['token']}").body.decode()
    return re.findall(r'href="/console(/hooks/[^"]+/deliveries/[^"]+)"', page)[0]


def test_a_replay_that_is_refused_again_is_not_called_published(visitor):
    hook = visitor.daemon.hook("github", "push")
    visitor.daemon.deliver(hook, b'{"ref": "cut')
    answer = visitor.post(f"{delivery_of(visitor, hook)}/replay", csrf=visitor.csrf)
    page = visitor.get(answer.headers["Location"].removeprefix("/console")).body.decode()
    assert f'<p class="notice warn" role="status">{views.DONE["replay-refused"]}' in page
    assert "The body ends in the middle of the JSON" in page
    assert "published anew" not in page


def test_what_was_not_read_cannot_be_replayed_and_is_as_large_as_it_was_said_to_be(visitor):
    hook = visitor.daemon.hook("github", "push")
    assert request(visitor.daemon.port, "GET", urlsplit(hook["hookUrl"]).path).status == 405
    page = visitor.get(delivery_of(visitor, hook)).body.decode()
    assert "GET was sent" in page
    assert "0 B</dd>" in page
    assert 'id="replay"' not in page
    assert visitor.daemon.deliver(hook, b"{}", {"Content-Type": "text/plain", "Content-Length": "2"}).status == 415
    until(lambda: "2 B</dd>" in visitor.get(delivery_of(visitor, hook)).body.decode())
    told = {"content-length": "3145728"}
    unread = Record(id="1", received_at=0, outcome="refused", status=413, size=0, duration=0.0, headers=told)
    assert views.received(unread) == "3.0 MiB, not read"


def test_an_ignored_delivery_says_why_and_an_accepted_one_that_it_is_safe(visitor):
    hook = visitor.daemon.hook("github", "push", onMismatch="ignore")
    visitor.daemon.deliver(hook, b"{}", {"X-GitHub-Event": "issues"})
    page = visitor.get(delivery_of(visitor, hook)).body.decode()
    assert "<code>issues</code> is another event than the hook&#x27;s" in page
    assert "have this one publish other events" in page
    visitor.daemon.deliver(hook, b"{}", {"X-GitHub-Event": "push"})
    assert "It passed every check" in visitor.get(delivery_of(visitor, hook)).body.decode()


def test_a_form_with_faults_says_that_the_secret_is_to_be_given_again(visitor):
    fields = {"datasource": "github", "event": "push", "secret": "a secret of a form", "tsField": "a..b"}
    page = visitor.post("/hooks/new", csrf=visitor.csrf, **fields).body.decode()
    assert "Give it again" in page
    assert fields["secret"] not in page
    answer = visitor.post("/hooks/new", csrf=visitor.csrf, **(fields | {"tsField": ""}))
    assert answer.headers["Location"].endswith("?done=created-signed")


def test_a_datasource_that_is_nearly_a_plugins_is_told(visitor):
    fields = {"datasource": "GitHub", "event": "push", "secret": "no base64 at all"}
    page = visitor.post("/hooks/new", csrf=visitor.csrf, **fields).body.decode()
    assert "No plugin is named <code>GitHub</code>; did you mean github?" in page
    made = visitor.post("/hooks/new", csrf=visitor.csrf, **(fields | {"secret": ""})).headers["Location"]
    path = made.removeprefix("/console")
    assert "No plugin is named GitHub; did you mean github?" in visitor.get(path).body.decode()
    assert "did you mean" not in visitor.get(path.partition("?")[0]).body.decode()


def test_json_is_shown_with_its_lines_and_colours():
    assert views.payload(b' {"a\\"<":[1,-2.5e3,{}],"b":true}\n') == (
        '{\n  <span class="j-key">"a\\"&lt;"</span>: [\n    <span class="j-number">1</span>,\n'
        '    <span class="j-number">-2.5e3</span>,\n    {}\n  ],\n'
        '  <span class="j-key">"b"</span>: <span class="j-word">true</span>\n}'
    )


@pytest.mark.parametrize("body", [b"<", b'"\\', b'["&"] x', b"[" * 1_000_000, b"[" + b"1," * 500_000 + b"1]"])
def test_what_is_no_json_or_too_much_of_it_is_shown_as_it_came(body):
    assert views.payload(body) == escape(body.decode())


def test_a_host_is_told_from_its_port():
    hosts = {
        "a.b": "a.b",
        "a.b:1": "a.b",
        "[::1]": "[::1]",
        "[::1]:80": "[::1]",
        "a:b": "a:b",
        ":80": ":80",
    }
    assert {host: without_port(host) for host in hosts} == hosts


def test_there_is_none_where_it_is_switched_off(tmp_path):
    with Daemon(tmp_path, console="false") as daemon:
        assert request(daemon.admin_port, "GET", "/console").status == 404
        assert request(daemon.admin_port, "GET", "/console/sign-in").status == 404


def test_a_form_that_is_too_large_is_not_read(visitor):
    hook = visitor.daemon.hook("mine", "thing")
    csrf = visitor.csrf
    with contextlib.suppress(ConnectionError):  # the answer may not be waited for
        assert visitor.post(f"/hooks/{hook['token']}/sample", csrf=csrf, body=f'["{"x" * 2_000_000}"]').status == 400
    assert visitor.post(f"/hooks/{hook['token']}/sample", csrf=csrf, body='["small"]').status == 303
    assert len(visitor.daemon.messages()) == 1
