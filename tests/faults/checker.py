"""Holds what senders were told against what consumers got and what the spool holds: nothing lost, nothing unexplained."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from traffic import Delivery, Kept, Traffic

LATEST = 6.0
"""An answer that takes longer than this, in seconds, is a hang. The promise is 3 s, on a machine that does nothing else."""
BEFORE, AFTER = 3.0, 10.0
"""How long before a fault a delivery may have been sent, and how long after its end, to be hit by it, in seconds."""


@dataclass
class Window:
    """When a fault was there (`time.monotonic()`), and how many deliveries were in flight when it struck."""

    began: float
    ended: float
    in_flight: int


@dataclass
class Row:
    """What became of one scenario."""

    scenario: str
    injected: int
    effective: int
    accepted: int
    lost: int
    duplicates: int
    slowest: float
    remark: str = ""

    HEAD = f"{'scenario':<58} {'injected':>8} {'effective':>9} {'accepted':>8} {'lost':>4} {'duplicates':>10} {'slowest':>8}"

    def __str__(self) -> str:
        return (
            f"{self.scenario:<58} {self.injected:>8} {self.effective:>9} {self.accepted:>8} {self.lost:>4} "
            f"{self.duplicates:>10} {self.slowest:>6.2f} s  {self.remark}".rstrip()
        )


@dataclass
class Account:
    """One scenario's end: what was sent, what the queue gave, what the spool still holds, and when faults were there."""

    scenario: str
    traffic: Traffic
    queue: Sequence[Kept]
    spool: Collection[str]
    """The receipts that are in the spool, whatever state they are in."""
    windows: Sequence[Window] = ()

    def row(self, remark: str = "") -> Row:
        return Row(
            self.scenario,
            injected=len(self.windows),
            effective=sum(window.in_flight > 0 for window in self.windows),
            accepted=len(self.traffic.accepted()),
            lost=len(self.lost()),
            duplicates=sum(self.duplicates().values()),
            slowest=self.traffic.slowest(),
            remark=remark,
        )

    def lost(self) -> set[str]:
        """Return the receipts of deliveries answered 204 that are nowhere."""
        return self.traffic.accepted().keys() - {message.receipt for message in self.queue} - set(self.spool)

    def published(self) -> list[Kept]:
        """Return what was published, in order: what the queue gave again because it saw no acknowledgement is not."""
        seen: set[str] = set()
        found = []
        for message in self.queue:
            if not message.redelivered or message.receipt not in seen:
                found.append(message)
            seen.add(message.receipt)
        return found

    def duplicates(self) -> Counter[str]:
        """Count by receipt how often a message was published again."""
        times = Counter(message.receipt for message in self.published())
        return Counter({receipt: count - 1 for receipt, count in times.items() if count > 1})

    def check(
        self, *, duplicates: bool = False, latest: float = LATEST, spooled: int = 0, ordered: bool = True
    ) -> None:
        """Assert what must hold after any fault.

        `duplicates`: whether this fault may have had a message published twice. `spooled`: how many are left in the
        spool. `ordered`: that of each hook what was answered first is published first.
        """
        lost = self.lost()
        assert not lost, f"{len(lost)} lost: {[self.traffic.accepted()[receipt] for receipt in sorted(lost)[:5]]}"
        self.check_what_came()
        self.check_duplicates(allowed=duplicates)
        assert len(set(self.spool)) == spooled, f"{len(self.spool)} are left in the spool"
        if ordered:
            self.check_order()
        hung = [one for one in self.traffic.deliveries if one.fate in {"hung", "in flight"}]
        assert not hung, f"{len(hung)} hung: {hung[:5]}"
        assert self.traffic.slowest() < latest, f"an answer took {self.traffic.slowest():.2f} s"
        bare = [one for one in self.traffic.deliveries if one.status == 503 and not one.retry_after]
        assert not bare, f"503 without Retry-After: {bare[:5]}"

    def check_what_came(self) -> None:
        """Assert that every message is a delivery, whole, and of its hook."""
        sent = self._sent()
        hooks = {hook["event"]: (index, hook) for index, hook in enumerate(self.traffic.hooks)}
        for message in self.queue:
            index, hook = hooks[message.event]
            one = sent[index, message.number]
            place = (message.tenant, message.datasource)
            assert place == (str(hook["tenantId"]), hook["datasource"]), f"under another name: {message}"
            assert message.digest == one.digest, f"not what was sent: {message}, {one}"
            assert one.receipt in {None, message.receipt}, "one delivery under two receipts"

    def check_duplicates(self, *, allowed: bool) -> None:
        """Assert that only what a fault hit was published twice."""
        twice = self.duplicates()
        assert allowed or not twice, f"{len(twice)} were published twice, which no fault explains: {list(twice)[:5]}"
        accepted = self.traffic.accepted()
        for receipt in twice:
            one = accepted.get(receipt)
            near = one is None or any(
                window.began - BEFORE <= one.began + one.seconds and one.began <= window.ended + AFTER
                for window in self.windows
            )
            assert near, f"published twice without a fault near it: {one}"

    def check_order(self) -> None:
        """Assert that what was sent after an answer is not published before what was answered."""
        last: dict[str, Kept] = {}
        first: set[str] = set()
        accepted = self.traffic.accepted()
        for message in self.published():
            if message.receipt in first:
                continue
            first.add(message.receipt)
            before = last.get(message.event)
            if before is not None and message.number < before.number:
                assert message.receipt not in accepted, f"{message.event}: {before.number} before {message.number}"
                continue
            last[message.event] = message

    def _sent(self) -> dict[tuple[int, int], Delivery]:
        return {(one.hook, one.number): one for one in self.traffic.deliveries}
