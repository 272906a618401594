"""What `webhookd check` learns of RabbitMQ, against a real one, and that it leaves nothing behind."""

import socket
from functools import partial

import pytest
from far_side import EXCHANGE, FarSide

from webhookd.adapters.amqp_access import Access
from webhookd.adapters.amqp_probe import Finding, probe
from webhookd.settings import read_secret_file


def told(findings: list[Finding]) -> dict[str, bool]:
    return {finding.what: finding.ok for finding in findings}


async def make_exchange(url: str, kind: str = "topic", queue: str | None = "events") -> None:
    async with FarSide(url) as far:
        await far.channel.declare_exchange(EXCHANGE, kind, durable=True)
        if queue:
            await far.bind("#")


@pytest.mark.gen_test(timeout=60)
async def test_all_is_well(rabbitmq, vhost):
    await make_exchange(vhost)
    findings = await probe(Access(urls=vhost), EXCHANGE)
    assert told(findings) == {"broker": True, "exchange": True, "permission": True, "returns": True}
    assert "RabbitMQ 3." in findings[0].text
    async with FarSide(vhost) as far:
        assert await far.take() == []


@pytest.mark.gen_test(timeout=60)
async def test_a_missing_exchange_is_not_made(vhost):
    for _ in range(2):
        findings = await probe(Access(urls=vhost), EXCHANGE)
        assert told(findings) == {"broker": True, "exchange": True, "permission": True, "returns": True}
        assert findings[1].text.endswith(f"{EXCHANGE} is not there yet; the daemon makes it")


@pytest.mark.gen_test(timeout=60)
async def test_a_missing_exchange_that_the_user_may_not_make_is_told(rabbitmq):
    name = rabbitmq.vhost()
    rabbitmq.user(f"writer-{name}", "pw", name, write=f"^{EXCHANGE}$")
    url = rabbitmq.url(name, user=f"writer-{name}", password="pw")
    findings = await probe(Access(urls=url), EXCHANGE)
    assert told(findings) == {"broker": True, "exchange": False, "permission": True, "returns": True}
    assert f"is missing, and user writer-{name} may not make it: make it" in findings[1].text


@pytest.mark.gen_test(timeout=60)
async def test_an_exchange_of_another_type_is_told(vhost):
    await make_exchange(vhost, "fanout")
    findings = await probe(Access(urls=vhost), EXCHANGE)
    assert told(findings) == {"broker": True, "exchange": False, "permission": True, "returns": True}
    assert "inequivalent arg 'type'" in findings[1].text


@pytest.mark.parametrize(("write", "allowed"), [("^events-to-enrich$", True), ("^other$", False)])
@pytest.mark.gen_test(timeout=60)
async def test_permission_to_write_is_tried_without_writing(rabbitmq, write, allowed):
    name = rabbitmq.vhost()
    await make_exchange(rabbitmq.url(name))
    rabbitmq.user(f"writer-{name}", "pw", name, write=write)
    for tags in ("[]", "[impersonator]"):  # who has this tag may name any user as the sender
        rabbitmq.eval(f'rabbit_auth_backend_internal:set_tags(<<"writer-{name}">>, {tags}, <<"tests">>)')
        findings = await probe(Access(urls=rabbitmq.url(name, user=f"writer-{name}", password="pw")), EXCHANGE)
        assert told(findings) == {"broker": True, "exchange": True, "permission": allowed, "returns": True}
        assert "without configure it is not told" in findings[1].text
        assert "not tried" in findings[3].text
    async with FarSide(rabbitmq.url(name)) as far:
        assert await far.take() == []


@pytest.mark.gen_test(timeout=60)
async def test_brokers_that_cannot_be_reached_are_told_without_secrets(rabbitmq, vhost, tmp_path):
    await make_exchange(vhost)
    urls = [
        "amqp://me:canary-secret@127.0.0.1:1",
        rabbitmq.url("nowhere"),
        rabbitmq.url(password="canary-secret"),
        vhost,
    ]
    findings = await probe(Access(urls=",".join(urls)), EXCHANGE)
    assert [finding.ok for finding in findings] == [False, False, False, True, True, True, True]
    assert "canary" not in str(findings)
    assert "onnect" in findings[0].text
    assert "vhost" in findings[1].text
    assert "user guest is refused" in findings[2].text
    password = partial(read_secret_file, tmp_path / "none", "broker_password_file")
    (finding,) = await probe(Access(urls=vhost, password=password), EXCHANGE)
    assert not finding.ok
    assert "broker_password_file" in finding.text


@pytest.mark.gen_test(timeout=60)
async def test_a_broker_that_says_nothing_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects, and nobody speaks
        (finding,) = await probe(Access(urls=f"amqp://127.0.0.1:{silent.getsockname()[1]}"), EXCHANGE)
    assert not finding.ok
    assert "no answer in time" in finding.text
