"""Opaque bearer tokens, against an STS that speaks HTTP: what it says, how often it is asked, and how it fails."""

import asyncio
import base64
import contextlib
import gc
import hashlib
import json
import logging
import socket
import threading
import time
from http.client import HTTPException

import pytest
from certificates import Certificates
from harness import Daemon, free_port, mint, request, until
from sts import ENDLESS, FAULTS, StandIn, eventually
from tornado.iostream import IOStream

from webhookd.adapters import fetch, names
from webhookd.adapters import sts as adapter
from webhookd.adapters.fetch import AT_A_TIME, trust
from webhookd.adapters.names import LOOKUPS_AT_A_TIME
from webhookd.adapters.sts import KEEP_REFUSED, Recent, Sts, Verdict, probe
from webhookd.auth import Caller
from webhookd.errors import ConfigurationError, Forbidden, TokensUnavailable, Unauthenticated

TOKEN = "opaque-0123456789abcdef-canary"


@pytest.fixture
def stand_in():
    with StandIn() as running:
        running.documents[TOKEN] = {"tenantId": 42}
        yield running


@pytest.fixture
def sts(stand_in, io_loop):
    """An Sts on the loop of the test, whose clock a test may set."""
    made = io_loop.run_sync(lambda: made_of(stand_in.url))
    yield made
    io_loop.run_sync(made.close)


async def made_of(url, keep=30.0, tls=None):
    made = Sts(url, tls or trust(None, "sts_cafile"), keep, lambda: made.now)
    made.now = 1000.0
    return made


@pytest.fixture
def patience(monkeypatch):
    """Set how long an exchange may take, in seconds: to little, or to more than a busy machine needs."""
    return lambda seconds: monkeypatch.setattr(fetch, "PATIENCE", seconds)


@pytest.fixture
def quiet(caplog, capsys):
    """Whatever is logged or printed in the test, by anybody and at any level, holds no token and no password."""
    caplog.set_level(logging.DEBUG)
    yield
    told = caplog.text + "".join(capsys.readouterr()) + repr([record.__dict__ for record in caplog.records])
    assert "canary" not in told
    assert "Traceback" not in told


# --- what the STS says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tenant", "caller"),
    [
        (42, Caller("42", tenant_is_int=True)),
        ("42", Caller("42", tenant_is_int=False)),
        ("a_B-9", Caller("a_B-9", False)),
    ],
)
@pytest.mark.gen_test
async def test_a_good_answer_names_the_tenant(stand_in, sts, tenant, caller):
    stand_in.documents[TOKEN] = {"tenantId": tenant, "active": True}
    assert await sts.caller(TOKEN) == caller
    assert sts.questions == {"good": 1, "refused": 0, "unanswered": 0}


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden"])
@pytest.mark.gen_test
async def test_a_bad_token_is_refused(stand_in, sts, status):
    stand_in.refusal = status
    with pytest.raises(Unauthenticated, match="not valid"):
        await sts.caller("another")
    assert sts.questions == {"good": 0, "refused": 1, "unanswered": 0}


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"tenant": 42},
        *({"tenantId": it} for it in (None, {}, {"id": 42}, [42], True, 4.2, "", "a.b", "x" * 65, 10**70)),
    ],
)
@pytest.mark.gen_test
async def test_a_good_token_without_a_tenant_is_forbidden(stand_in, sts, document):
    stand_in.documents[TOKEN] = document
    for _ in range(2):  # the second time from memory
        with pytest.raises(Forbidden):
            await sts.caller(TOKEN)
    assert stand_in.asked == [TOKEN]


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.gen_test(timeout=20)
async def test_an_sts_that_does_not_answer_as_one_is_unavailable(stand_in, sts, fault, patience, quiet):
    patience(0.5 if fault in ENDLESS else 20)
    stand_in.fault = fault
    with pytest.raises(TokensUnavailable) as caught:
        await sts.caller(TOKEN)
    assert "canary" not in f"{caught.value!r} {caught.value.__context__!r} {caught.value.__cause__!r}"
    assert sts.questions == {"good": 0, "refused": 0, "unanswered": 1}
    assert stand_in.redirected == 0
    stand_in.fault = None
    patience(20)
    assert (await sts.caller(TOKEN)).tenant == "42"  # that it did not answer is not kept


@pytest.mark.gen_test(timeout=20)
async def test_an_sts_that_is_down_is_unavailable_until_it_is_up(stand_in, sts, quiet):
    stand_in.down()
    with pytest.raises(TokensUnavailable):
        await sts.caller(TOKEN)
    stand_in.up()
    assert (await sts.caller(TOKEN)).tenant == "42"


@pytest.mark.gen_test
async def test_every_token_arrives_as_it_is(stand_in, sts):
    for token in ("a+b/c==", "a&token=b", "100%25", "#?", "~._-", "q\"uo'te", "x" * 8000):
        stand_in.documents[token] = {"tenantId": token[:1] if token[0].isalnum() else 7}
        await sts.caller(token)
        assert stand_in.asked[-1] == token


@pytest.mark.parametrize("ending", ["", "/", "/below", "/below/"])
@pytest.mark.gen_test
async def test_user_and_password_are_sent_and_never_shown(stand_in, ending, quiet):
    sts = await made_of(stand_in.url.replace("://", "://me:p%40ss-canary@") + ending)
    stand_in.fault = "404"
    with pytest.raises(TokensUnavailable):
        await sts.caller(TOKEN)
    await sts.close()
    (head,) = stand_in.heads
    assert f"Authorization: Basic {base64.b64encode(b'me:p@ss-canary').decode()}\r\n" in head
    assert f"Host: 127.0.0.1:{stand_in.port}\r\n" in head
    assert head.startswith(f"GET {ending.rstrip('/')}/sts/oauth/check_token?token={TOKEN} HTTP/1.1\r\n")
    assert repr(sts._fetcher.place) == f"Place(url='{stand_in.url}{ending.rstrip('/')}')"


# --- how often it is asked -------------------------------------------------------------------------------------------


@pytest.mark.gen_test
async def test_a_hundred_callers_with_one_token_ask_once(stand_in, sts):
    stand_in.hold()
    callers = [asyncio.ensure_future(sts.caller(TOKEN)) for _ in range(100)]
    await eventually(lambda: stand_in.asked)
    for caller in callers[::3]:  # the first of them too, who began the question
        caller.cancel()
    stand_in.go_on()
    told = await asyncio.gather(*callers, return_exceptions=True)
    assert [caller.tenant for caller in told if isinstance(caller, Caller)] == ["42"] * 66
    assert stand_in.asked == [TOKEN]


@pytest.mark.gen_test
async def test_a_refusal_is_shared_too_and_each_caller_has_his_own(stand_in, sts):
    stand_in.hold()
    callers = [asyncio.ensure_future(sts.caller("another")) for _ in range(10)]
    await eventually(lambda: stand_in.asked)
    stand_in.go_on()
    told = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(refusal) for refusal in told} == {Unauthenticated}
    assert len({id(refusal) for refusal in told}) == 10
    assert stand_in.asked == ["another"]


@pytest.mark.gen_test
async def test_all_callers_may_leave(stand_in, sts):
    stand_in.hold()
    caller = asyncio.ensure_future(sts.caller(TOKEN))
    await eventually(lambda: stand_in.asked)
    caller.cancel()
    stand_in.go_on()
    await eventually(lambda: sts.questions["good"] == 1)
    assert (await sts.caller(TOKEN)).tenant == "42"
    assert stand_in.asked == [TOKEN]


@pytest.mark.gen_test
async def test_good_answers_are_kept_as_long_as_the_setting_says(stand_in, sts):
    await sts.caller(TOKEN)
    stand_in.documents.clear()
    sts.now += 29.9
    await sts.caller(TOKEN)
    assert len(stand_in.asked) == 1
    sts.now += 0.2
    with pytest.raises(Unauthenticated):
        await sts.caller(TOKEN)
    assert len(stand_in.asked) == 2


@pytest.mark.gen_test
async def test_refusals_are_kept_for_five_seconds(stand_in, sts):
    assert KEEP_REFUSED == 5
    for later, asked in ((0, 1), (4.9, 1), (0.2, 2)):
        sts.now += later
        with pytest.raises(Unauthenticated):
            await sts.caller("another")
        assert len(stand_in.asked) == asked
    sts.now += 5.1
    stand_in.documents["another"] = {"tenantId": 7}
    assert (await sts.caller("another")).tenant == "7"


@pytest.mark.gen_test
async def test_nothing_good_is_kept_where_the_setting_is_0(stand_in):
    sts = await made_of(stand_in.url, keep=0.0)
    await sts.caller(TOKEN)
    await sts.caller(TOKEN)
    await sts.close()
    assert len(stand_in.asked) == 2


@pytest.mark.gen_test
async def test_tokens_are_kept_as_digests_alone(stand_in, sts):
    await sts.caller(TOKEN)
    with pytest.raises(Unauthenticated):
        await sts.caller("another-canary")
    kept = [*sts._good._kept, *sts._refused._kept]
    assert kept == [hashlib.sha256(token.encode()).digest() for token in (TOKEN, "another-canary")]
    assert sts._asking == {}
    gc.collect()
    assert not [held for held in gc.get_objects() if isinstance(held, dict | tuple) and sts in held and TOKEN in held]


def test_what_is_kept_is_bounded_and_the_least_asked_for_goes_first():
    now = 0.0
    recent = Recent(10.0, 3, lambda: now)
    for name in (b"a", b"b", b"c"):
        recent.keep(name, Verdict(Caller(name.decode(), tenant_is_int=False)))
    assert recent.get(b"a") is not None
    recent.keep(b"d", Verdict())
    assert [recent.get(name) is not None for name in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    recent.keep(b"d", Verdict())
    assert len(recent) == 3
    now = 10.0
    assert [recent.get(name) for name in (b"a", b"c", b"d")] == [None] * 3
    assert len(recent) == 0


@pytest.mark.gen_test
async def test_a_flood_of_bad_tokens_does_not_drive_out_good_ones(stand_in, sts, monkeypatch):
    await sts.caller(TOKEN)
    sts._refused._most = 5
    for number in range(20):
        with pytest.raises(Unauthenticated):
            await sts.caller(f"bad-{number}")
    assert len(sts._refused) == 5
    asked = len(stand_in.asked)
    await sts.caller(TOKEN)
    assert len(stand_in.asked) == asked


@pytest.mark.gen_test(timeout=20)
async def test_only_so_many_questions_at_a_time_and_waiting_counts(stand_in, sts, patience, quiet):
    patience(2)
    stand_in.hold()
    begun = time.monotonic()
    callers = [sts.caller(f"{number}-canary") for number in range(3 * AT_A_TIME)]
    told = await asyncio.gather(*callers, return_exceptions=True)
    assert {type(refusal) for refusal in told} == {TokensUnavailable}
    assert time.monotonic() - begun < 10
    assert len(stand_in.asked) == stand_in.at_once == AT_A_TIME  # the others' time was over before their turn
    stand_in.go_on()
    patience(20)
    assert (await sts.caller(TOKEN)).tenant == "42"  # every turn was given back


@pytest.mark.gen_test(timeout=20)
async def test_a_name_server_that_does_not_answer_holds_up_nothing_else(stand_in, patience, monkeypatch):
    patience(0.5)
    answers = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.wait(30) and [])
    sts = await made_of(f"http://sts.example:{stand_in.port}")
    told = await asyncio.gather(*(sts.caller(str(number)) for number in range(50)), return_exceptions=True)
    assert {type(refusal) for refusal in told} == {TokensUnavailable}
    assert await asyncio.to_thread(lambda: "free") == "free"
    waiting = [thread for thread in threading.enumerate() if thread.name == "name lookup"]
    assert len(waiting) == LOOKUPS_AT_A_TIME
    assert all(thread.daemon for thread in waiting)  # nor does the end of the process wait for them
    monkeypatch.undo()
    answers.set()
    await eventually(lambda: not any(thread.is_alive() for thread in waiting))
    stand_in.documents["another"] = {"tenantId": 7}
    named = await made_of(stand_in.url.replace("127.0.0.1", "localhost"))
    for one, answer in ((sts, TokensUnavailable), (named, Caller)):
        told = await asyncio.gather(*(one.caller(name) for name in (TOKEN, "another") * 2), return_exceptions=True)
        assert {type(refusal) for refusal in told} == {answer}
        await one.close()


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.gen_test(timeout=60)
async def test_no_connection_outlives_its_caller(tmp_path, patience, tls):
    authority = Certificates(tmp_path / "ca")
    with StandIn(authority.server() if tls else None) as stand_in:
        sts = await made_of(stand_in.url, tls=trust(authority.cafile, "sts_cafile"))
        for number in range(150):  # deadlines that pass in every moment of an exchange, and stalls that hide it
            patience(0.0005 * (1 + number % 20))
            asking = [asyncio.ensure_future(sts.caller(f"{number}-{one}")) for one in range(5)]
            await asyncio.sleep(0)
            time.sleep(0.0005 * (number % 7))  # noqa: ASYNC251 - the event loop is held up on purpose
            await asyncio.gather(*asking, return_exceptions=True)
        await sts.close()
        assert sts.questions["unanswered"] > 50
        left = [stream for stream in gc.get_objects() if isinstance(stream, IOStream) and not stream.closed()]
        assert left == []


@pytest.mark.gen_test(timeout=20)
async def test_the_next_address_of_a_name_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "NEXT_ADDRESS", 0.3)
    authority = Certificates(tmp_path / "ca")
    with StandIn(authority.server()) as stand_in, socket.create_server(("127.0.0.1", 0)) as mute:
        stand_in.documents[TOKEN] = {"tenantId": 42}
        ports = (free_port(), mute.getsockname()[1], stand_in.port)
        places = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: places)
        sts = await made_of("https://localhost", tls=trust(authority.cafile, "sts_cafile"))
        assert (await sts.caller(TOKEN)).tenant == "42"
        await sts.close()


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.mark.gen_test(timeout=30)
async def test_https_needs_a_certificate_that_is_trusted_and_of_that_name(tmp_path, quiet):
    authority = Certificates(tmp_path / "ca")
    trusting = trust(authority.cafile, "sts_cafile")
    with StandIn(authority.server()) as stand_in:
        stand_in.documents[TOKEN] = {"tenantId": 42}
        for url, tls, works in (
            (stand_in.url, trusting, True),
            (stand_in.url, trust(None, "sts_cafile"), False),
            (stand_in.url.replace("127.0.0.1", "127.0.0.2"), trusting, False),
            (stand_in.url.replace("https", "http"), trusting, False),
        ):
            sts = await made_of(url, tls=tls)
            if works:
                assert (await sts.caller(TOKEN)).tenant == "42"
            else:
                with pytest.raises(TokensUnavailable):
                    await sts.caller(TOKEN)
            await sts.close()
        assert stand_in.asked == [TOKEN]


@pytest.mark.gen_test(timeout=20)
async def test_a_tls_handshake_that_does_not_end_is_bounded(patience, quiet):
    patience(0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        sts = await made_of(f"https://127.0.0.1:{mute.getsockname()[1]}")
        with pytest.raises(TokensUnavailable):
            await sts.caller(TOKEN)
        await sts.close()


def test_a_file_without_certificates_is_told(tmp_path):
    (tmp_path / "no.pem").write_text("no certificate")
    with pytest.raises(ConfigurationError, match=r"^sts_cafile: .*no.pem holds no CA certificates"):
        trust(tmp_path / "no.pem", "sts_cafile")
    with pytest.raises(ConfigurationError, match=r"^sts_cafile: .*none.pem cannot be read: No such file"):
        trust(tmp_path / "none.pem", "sts_cafile")


# --- the probe of `webhookd check` -----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["400 Bad Request", "401 Unauthorized", "403 Forbidden"])
@pytest.mark.gen_test
async def test_probe_of_an_sts_that_answers(stand_in, status):
    stand_in.refusal = status
    told = await probe(stand_in.url.replace("://", "://me:hunter2@"), trust(None, "sts_cafile"))
    assert told == f"{stand_in.url} refuses a token that nobody issued, as it should"


@pytest.mark.gen_test(timeout=20)
async def test_probe_says_what_is_wrong(stand_in, patience, tmp_path, caplog):
    tls = trust(None, "sts_cafile")
    for fault, words in (("404", "status 404"), ("redirect", "status 302"), ("html", "no JSON"), ("silent", "within")):
        stand_in.fault = fault
        patience(0.5 if fault in ENDLESS else 20)
        with pytest.raises(ConfigurationError, match=f"^sts_url: the STS at {stand_in.url} does not answer: .*{words}"):
            await probe(stand_in.url.replace("://", "://me:hunter2@"), tls)
    stand_in.fault = None
    patience(20)
    stand_in.documents[adapter.NO_TOKEN] = {"tenantId": 42}
    with pytest.raises(ConfigurationError, match="takes a token that nobody issued"):
        await probe(stand_in.url, tls)
    stand_in.down()
    with pytest.raises(ConfigurationError, match="Connection refused"):
        await probe(stand_in.url, tls)
    for name in ("sts.invalid", f"{'x' * 70}.invalid"):  # the second has a label that DNS knows no way to ask for
        with pytest.raises(ConfigurationError, match="its name was not found"):
            await probe(f"http://{name}", tls)
    strange = Certificates(tmp_path / "ca").server()
    caplog.clear()
    with StandIn(strange) as other, pytest.raises(ConfigurationError, match="its certificate is not trusted"):
        await probe(other.url, tls)
    assert caplog.records == []  # what was wrong is told once, by whoever asked


# --- the daemon ------------------------------------------------------------------------------------------------------


def ask(daemon, token, method="GET", path="/wh/config", document=None):
    daemon.canaries.add(token)
    body = None if document is None else json.dumps(document).encode()
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    return request(daemon.port, method, path, body, headers)


def test_a_daemon_with_an_sts(tmp_path, stand_in):
    other = "opaque-of-another-tenant"
    stand_in.documents[other] = {"tenantId": "acme"}
    stand_in.documents["opaque-without-tenant"] = {"scope": "all"}
    with Daemon(tmp_path, sts_url=stand_in.url.replace("://", "://me:hunter2-canary@")) as daemon:
        daemon.canaries |= {"hunter2-canary", base64.b64encode(b"me:hunter2-canary").decode()}
        made = ask(daemon, TOKEN, "POST", document={"datasource": "github", "event": "push"})
        assert made.status == 200
        assert made.json["tenantId"] == 42
        assert [hook["token"] for hook in daemon.config("GET").json] == [made.json["token"]]  # a JWT of tenant 42
        assert ask(daemon, other).json == []
        assert ask(daemon, other, path=f"/wh/config/{made.json['token']}").status == 404
        refused = ask(daemon, "nobody-issued-this-one")
        assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert refused.headers["Content-Type"] == "application/problem+json"
        assert ask(daemon, "opaque-without-tenant").status == 403
        assert ask(daemon, mint(ttl=-1)).status == 401
        assert ask(daemon, mint(key="another key of more than thirty-two bytes")).status == 401
        assert set(stand_in.asked) == {TOKEN, other, "nobody-issued-this-one", "opaque-without-tenant"}
        assert len(stand_in.asked) == 4
        daemon.canaries |= {made.json["token"], made.json["apiToken"]}
        counted = daemon.metrics()
        results = {name: counted[f'webhookd_sts_questions_total{{result="{name}"}}'] for name in ("good", "refused")}
        assert results == {"good": 2, "refused": 2}


def test_a_daemon_with_an_sts_alone_starts_without_it_and_heals(tmp_path, stand_in):
    stand_in.down()
    with Daemon(tmp_path, sts_url=stand_in.url, jwt_secret_file="") as daemon:
        for _ in range(3):
            away = ask(daemon, TOKEN)
            assert (away.status, away.headers["Retry-After"]) == (503, "5")
            assert away.json["title"] == "Bearer tokens cannot be checked now"
        stand_in.up()
        assert ask(daemon, TOKEN).json == []
        stand_in.documents["a.b.c-of-no-jwt"] = {"tenantId": 7}
        assert ask(daemon, "a.b.c-of-no-jwt").status == 200  # no JWT is known of here
        until(lambda: "the STS answers again" in daemon.log)
        lines = [json.loads(line) for line in daemon.log.splitlines()]
        (told,) = [line for line in lines if line["message"] == "the STS does not answer"]
        assert (told["sts_url"], told["reason"]) == (stand_in.url, "no connection: Connection refused")


def test_a_silent_sts_gives_503_and_delays_nobody_else(tmp_path, stand_in):
    with Daemon(tmp_path, sts_url=stand_in.url) as daemon:
        hook = daemon.hook()
        stand_in.fault = "silent"
        answers = []
        asking = [
            threading.Thread(target=lambda n=n: answers.append(ask(daemon, f"{TOKEN}-{n % 5}"))) for n in range(25)
        ]
        begun = time.monotonic()
        for thread in asking:
            thread.start()
        until(lambda: len(stand_in.asked) == 5)
        assert daemon.config("GET").status == 200
        assert daemon.deliver(hook, b'{"in": "the meantime"}').status == 204
        assert answers == []
        for thread in asking:
            thread.join()
        assert 2.5 < time.monotonic() - begun < 15
        assert [answer.status for answer in answers] == [503] * 25
        assert len(stand_in.asked) == 5


def ask_in_vain(daemon, token):
    with contextlib.suppress(OSError, HTTPException):
        ask(daemon, token)


def test_a_stop_does_not_wait_for_the_sts(tmp_path, stand_in):
    stand_in.fault = "silent"
    with Daemon(tmp_path, sts_url=stand_in.url, stop_timeout="20s") as daemon:
        asking = threading.Thread(target=ask_in_vain, args=(daemon, TOKEN))
        asking.start()
        until(lambda: stand_in.asked)
        assert daemon.stop() == 0
        asking.join()
        (line,) = [line for line in map(json.loads, daemon.log.splitlines()) if line["message"] == "config request"]
        assert line["status"] == 503
        assert "bug" not in daemon.log


def test_an_sts_behind_tls(tmp_path):
    authority = Certificates(tmp_path / "ca")
    with StandIn(authority.server()) as stand_in:
        stand_in.documents[TOKEN] = {"tenantId": 42}
        with Daemon(tmp_path, sts_url=stand_in.url, sts_cafile=str(authority.cafile)) as daemon:
            assert ask(daemon, TOKEN).status == 200


def test_a_bad_cafile_stops_the_start(tmp_path, stand_in):
    (tmp_path / "no.pem").write_text("no certificate")
    daemon = Daemon(tmp_path, sts_url=stand_in.url, sts_cafile=str(tmp_path / "no.pem"))
    with pytest.raises(AssertionError, match="ended with 2"):
        daemon.start()
    assert "sts_cafile" in daemon.log
    assert "Traceback" not in daemon.log
