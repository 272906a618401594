"""What the pure core costs a delivery, step by step, in CPU: `python tests/bench/ingest_delivery.py`.

One hook among a thousand, a body of 2 kB as GitHub would send it; no HTTP, no broker.
"""

import statistics
import time
from collections.abc import Callable

import uuid_utils

from webhookd.hooks import HookTable
from webhookd.ingest import Ingest
from webhookd.limits import Budget
from webhookd.metrics import DeliveryMetrics
from webhookd.model import Delivery, Hook, Secret
from webhookd.ports import Snapshot
from webhookd.registry import load
from webhookd.schema import Schemas

TIMES = 20_000
ROUNDS = 7
HEADERS = {
    "host": "hooks.example.com",
    "user-agent": "GitHub-Hookshot/044aadd",
    "content-type": "application/json",
    "content-length": "2048",
    "accept": "*/*",
    "x-github-delivery": "6dd7c9f0-2c1b-11ef-8c5a-0242ac120002",
    "x-github-event": "push",
    "x-github-hook-id": "42",
}
BODY = b'{"ref":"refs/heads/main","pusher":{"name":"ada"},"pad":"%s"}' % (b"x" * 1990)


def a_hook(number: int, secret: str | None = None) -> Hook:
    return Hook(
        token=f"{number:040x}",
        api_token=f"{number % 50:040x}",
        tenant=str(number % 50),
        datasource="github",
        event="push",
        secrets=(Secret(secret),) if secret else (),
        base_url="https://hooks.example.com",
        created_at=1,
    )


def cost(step: Callable[[], object]) -> float:
    """Return the CPU of one call, in µs."""

    def once() -> float:
        began = time.process_time()
        for _ in range(TIMES):
            step()
        return (time.process_time() - began) / TIMES * 1e6

    return statistics.median(once() for _ in range(ROUNDS))


def main() -> None:
    table = HookTable()
    hook = a_hook(1)
    signed = a_hook(2, "It's a Secret to Everybody")
    table.apply(Snapshot((hook, signed, *map(a_hook, range(3, 1003))), 1))
    registry = load()
    ingest = Ingest(table, registry, Schemas(registry, checked=True), 25 << 20)
    budget = Budget(1024, 1 << 28, lambda: 0.5)
    metrics = DeliveryMetrics()
    delivery = Delivery(HEADERS, BODY, 1_700_000_000_000, hook.hook_url)
    headers = {
        **HEADERS,
        **{k.lower(): v for k, v in registry.get("github").sign(BODY, signed.secrets[0].value, 0).items()},
    }
    proof = Delivery(headers, BODY, 1_700_000_000_000, signed.hook_url)
    verified = ingest.verify(hook, delivery)
    event = ingest.examine(hook, verified)

    def in_work() -> None:
        ticket = budget.admit(hook.tenant)
        ticket.grow(2048)
        ticket.release()

    def everything() -> None:
        found = ingest.admit(hook.api_token, hook.token, HEADERS, len(BODY))
        ticket = budget.admit(found.tenant)
        ticket.grow(len(BODY))
        proved = ingest.verify(found, Delivery(HEADERS, BODY, time.time_ns() // 1_000_000, found.hook_url))
        ingest.compose(found, ingest.examine(found, proved), proved, str(uuid_utils.uuid7()))
        metrics.accepted("confirmed", len(BODY), 0.003)
        ticket.release()

    for name, step in (
        ("admit", lambda: ingest.admit(hook.api_token, hook.token, HEADERS, len(BODY))),
        ("budget", in_work),
        ("the delivery", lambda: Delivery(HEADERS, BODY, time.time_ns() // 1_000_000, hook.hook_url)),
        ("verify", lambda: ingest.verify(hook, delivery)),
        ("verify, signed", lambda: ingest.verify(signed, proof)),
        ("examine", lambda: ingest.examine(hook, verified)),
        ("receipt", lambda: str(uuid_utils.uuid7())),
        ("compose", lambda: ingest.compose(hook, event, verified, "0" * 36)),
        ("metrics", lambda: metrics.accepted("confirmed", 2048, 0.003)),
        ("everything, unsigned", everything),
    ):
        print(f"{name:22} {cost(step):6.2f} µs")


if __name__ == "__main__":
    main()
