"""Both ports in memory, under the same contract as the durable ones: for tests, and for nothing else."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator

import msgspec

from webhookd.errors import Conflict, Unpublished
from webhookd.model import Hook, Message
from webhookd.ports import Answer, Change, Deleted, Publisher, Snapshot


class Changes:
    """What `HookStore.changes` yields between two gaps, for a store that makes every change itself."""

    def __init__(self) -> None:
        self._queue: deque[Change] = deque()
        self._wake = asyncio.Event()
        self._gap = False

    def push(self, change: Change) -> None:
        """Add one change, in the order in which the store made it."""
        self._queue.append(change)
        self._wake.set()

    def end(self) -> None:
        """Say that a change may have been missed: what was pushed is still yielded, nothing after it."""
        self._gap = True
        self._wake.set()

    async def follow(self) -> AsyncGenerator[Change, None]:
        """Yield what was pushed and what will be, until the next gap."""
        while True:
            while self._queue:
                yield self._queue.popleft()
            if self._gap:
                return
            self._wake.clear()
            await self._wake.wait()


class MemoryStore:
    """A HookStore that forgets everything when the process ends."""

    def __init__(self) -> None:
        self.hooks: dict[str, Hook] = {}
        self.revision = 0
        self._api_tokens: dict[str, str] = {}
        self._changes: Changes | None = None

    async def put(self, hook: Hook) -> Hook:
        """As the port promises."""
        current = next((held for held in self.hooks.values() if held.key == hook.key), None)
        if (current.revision if current else 0) != hook.revision or (current and current.id != hook.id):
            raise Conflict(current)
        self.revision += 1
        api_token = self._api_tokens.setdefault(hook.tenant, hook.api_token)
        written = msgspec.structs.replace(hook, api_token=api_token, revision=self.revision)
        self.hooks[hook.id] = written
        self._push(written)
        return written

    async def delete(self, hook_id: str) -> int:
        """As the port promises."""
        if self.hooks.pop(hook_id, None) is not None:
            self.revision += 1
            self._push(Deleted(hook_id, self.revision))
        return self.revision

    async def changes(self) -> AsyncGenerator[Change, None]:
        """As the port promises."""
        self._changes = changes = Changes()
        changes.push(Snapshot(tuple(self.hooks.values()), self.revision))
        async for change in changes.follow():
            yield change

    async def close(self) -> None:
        """As the port promises."""
        self._changes = None

    def _push(self, change: Change) -> None:
        if self._changes is not None:
            self._changes.push(change)


class MemoryPublisher(Publisher):
    """A Publisher that keeps what it was given in `messages`."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.refusal: Exception | None = None
        """What every publish fails with while it is set."""
        self._closed = False

    def send(self, message: Message, answer: Answer) -> None:
        """As the port promises."""
        if self._closed:
            answer.set_exception(Unpublished("the publisher is closed"))
        elif self.refusal is not None:
            answer.set_exception(self.refusal)
        else:
            self.messages.append(message)
            answer.set_result("confirmed")

    async def close(self) -> None:
        """As the port promises."""
        self._closed = True
