"""Whatever is done with hooks and their tokens, in any order: who has which address is what a plain list would say."""

import itertools
from dataclasses import dataclass

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from test_hooks import hook

from webhookd.errors import HooksNotCurrent, UnknownHook
from webhookd.hooks import HookTable
from webhookd.model import Hook
from webhookd.ports import Deleted, SetAside, Snapshot
from webhookd.rotation import rotated

GRACE = 10
TENANTS = ("42", "7")


@dataclass
class Held:
    """What the model knows of one hook: the tokens that it has had, newest first, and when the second one ends."""

    tenant: str
    event: str
    tokens: list[str]
    ends: float = 0
    readable: bool = True

    def valid(self, now: float) -> list[str]:
        return self.tokens[: 2 if now < self.ends else 1]


class TableMachine(RuleBasedStateMachine):
    """A table that is told of every change, as a store would tell it, against a list of hooks."""

    tokens = Bundle("tokens")

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count(1)
        self.revision = 10
        self.clock = 1000.0
        self.held: list[Held] = []
        self.stored: dict[str, Hook] = {}
        self.ever: list[tuple[str, str]] = []

    @initialize()
    def load(self) -> None:
        self.table = HookTable(clock=lambda: self.clock)
        self.table.apply(Snapshot((), self.revision))

    def owner(self, token: str) -> Held | None:
        """Return who has this token now."""
        return next((one for one in self.held if one.readable and token in one.valid(self.clock)), None)

    def told(self, change: Hook) -> None:
        self.revision += 1
        self.stored[change.id] = msgspec.structs.replace(change, revision=self.revision)
        self.table.apply(self.stored[change.id])

    @rule(target=tokens, tenant=st.sampled_from(TENANTS))
    def create(self, tenant: str) -> str:
        made = hook(next(self.numbers), tenant)
        self.held.append(Held(tenant, made.event, [made.token]))
        self.ever.append((tenant, made.token))
        self.told(made)
        return made.token

    @rule(target=tokens, token=tokens, immediately=st.booleans())
    def rotate(self, token: str, *, immediately: bool) -> str:
        one, known = self.owner(token), self.table.get(token)
        if one is None:
            assert known is None
            return token
        assert known is not None
        now_ms = int(self.clock * 1000)
        wanted = rotated(known, token, immediately=immediately, now_ms=now_ms, grace=GRACE)
        assert wanted is not None
        assert wanted.id == one.tokens[-1]
        if token == one.tokens[0]:
            assert wanted.token not in [old for _, old in self.ever]
            one.tokens.insert(0, wanted.token)
            one.ends = 0 if immediately else self.clock + GRACE
            self.ever.append((one.tenant, wanted.token))
        elif immediately:
            one.ends = 0
        self.told(wanted)
        return wanted.token

    @rule(token=tokens)
    def delete(self, token: str) -> None:
        one = self.owner(token)
        if one is not None:
            self.held.remove(one)
            self.revision += 1
            del self.stored[one.tokens[-1]]
            self.table.apply(Deleted(one.tokens[-1], self.revision))

    @rule(token=tokens)
    def damage(self, token: str) -> None:
        one = self.owner(token)
        if one is not None:
            one.readable = False
            self.revision += 1
            self.table.apply(SetAside(one.tokens[-1], self.revision, "it is no JSON"))

    @rule()
    def mend(self) -> None:
        for one in self.held:
            if not one.readable:
                one.readable = True
                self.told(self.stored[one.tokens[-1]])

    @rule(seconds=st.sampled_from([0.001, 3, GRACE]))
    def wait(self, seconds: float) -> None:
        self.clock += seconds

    @rule()
    def reload(self) -> None:
        """Tell all there is at once, as after a gap."""
        readable = tuple(self.stored[one.tokens[-1]] for one in self.held if one.readable)
        set_aside = {one.tokens[-1]: "it is no JSON" for one in self.held if not one.readable}
        self.table.apply(Snapshot(readable, self.revision, set_aside))

    @invariant()
    def every_token_is_whose_it_is(self) -> None:
        for tenant, token in self.ever:
            one = self.owner(token)
            try:
                known = self.table.find(f"api-{tenant}", token)
            except (UnknownHook, HooksNotCurrent) as error:
                assert one is None
                assert self.table.get(token) is None
                if isinstance(error, HooksNotCurrent):
                    assert any(token in each.tokens and not each.readable for each in self.held)
            else:
                assert one is not None
                assert (known.tenant, known.event, known.token, known.id) == (
                    one.tenant,
                    one.event,
                    one.tokens[0],
                    one.tokens[-1],
                )
                assert self.table.get(token) is known

    @invariant()
    def a_hook_that_cannot_be_read_is_not_known_to_be_none(self) -> None:
        for one in self.held:
            for token in () if one.readable else (one.tokens[0], one.tokens[-1]):
                try:
                    self.table.find(f"api-{one.tenant}", token)
                except HooksNotCurrent:
                    continue
                raise AssertionError("a hook that is set aside was found")

    @invariant()
    def the_lists_are_those_of_the_tenants(self) -> None:
        readable = [one for one in self.held if one.readable]
        assert len(self.table) == len(readable)
        assert set(self.table.set_aside) == {one.tokens[-1] for one in self.held if not one.readable}
        for tenant in TENANTS:
            own = {one.tokens[0] for one in readable if one.tenant == tenant}
            assert {each.token for each in self.table.of_tenant(tenant)} == own
        for one in readable:
            known = self.table.by_key(one.tenant, "github", one.event)
            assert known is not None
            assert known.token == one.tokens[0]
        assert self.table.tenants == len({one.tenant for one in readable})


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=100, stateful_step_count=40)
