"""Hooks in etcd, shared by any number of daemons: each write is one transaction, each daemon follows them all."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from webhookd.adapters.etcd_client import Access, EtcdClient
from webhookd.adapters.etcd_follow import Following
from webhookd.adapters.etcd_keys import Keys, decoded, encoded
from webhookd.adapters.etcd_rpc import rpc
from webhookd.errors import Conflict, StoreError
from webhookd.model import Hook
from webhookd.ports import Change, Checked, Lost

RETRY = (0.2, 5.0)
"""The least and the most seconds between two attempts to follow the store."""


class EtcdStore:
    """A HookStore under `prefix` of the etcd at `endpoints` (`host:port`, members of one cluster)."""

    def __init__(self, endpoints: Sequence[str], prefix: str, access: Access) -> None:
        self._client = EtcdClient(endpoints, access)
        self._keys = Keys(prefix)
        self._members = len(endpoints)

    async def put(self, hook: Hook) -> Hook:
        """As the port promises. After a StoreError it may have been written or not; repeating it is safe."""
        return await (self._update(hook) if hook.revision else self._create(hook))

    async def delete(self, hook_id: str) -> int:
        """As the port promises."""
        key = self._keys.hook(hook_id)
        while True:
            reads = [_get(key), _get(self._keys.revision)]
            found, newest = _pairs(await self._client.txn(rpc.TxnRequest(success=reads)))
            if found is None:
                return newest.mod_revision if newest else 0
            compare, success = [_unchanged(key, found)], [_delete(key), self._stamp()]
            try:
                index = self._keys.index(decoded(found))
            except StoreError:
                pass  # which key of the index is its own is not known: it is free to be taken over
            else:
                own = rpc.Compare(target=rpc.Compare.VALUE, key=index, value=hook_id.encode())
                success.append(rpc.RequestOp(request_txn=rpc.TxnRequest(compare=[own], success=[_delete(index)])))
            answer = await self._client.txn(rpc.TxnRequest(compare=compare, success=success))
            if answer.succeeded:
                return int(answer.header.revision)

    async def changes(self) -> AsyncGenerator[Change, None]:
        """As the port promises."""
        told: str | None = None
        failures = 0
        while True:
            try:
                async with aclosing(Following(self._client, self._keys).changes()) as changes:
                    async for change in changes:
                        told = None
                        failures = 0 if isinstance(change, Checked) else failures
                        yield change
            except StoreError as error:
                if str(error) != told:
                    told = str(error)
                    yield Lost(told)
            self._client.move_on()
            await asyncio.sleep(self._pause(failures))
            failures += 1

    async def close(self) -> None:
        """As the port promises."""
        await self._client.close()

    def _pause(self, failures: int) -> float:
        """Return how long to wait: longer only once every endpoint has failed, and each daemon another time."""
        least, most = RETRY
        return min(most, least * 2.0 ** min(failures // self._members, 10)) * random.uniform(0.5, 1)  # noqa: S311

    async def _create(self, hook: Hook) -> Hook:
        index, tenant = self._keys.index(hook), self._keys.tenant(hook.tenant)
        key = self._keys.hook(hook.id)
        held, owner = None, None  # what is taken to be there; each refusal says what is
        while True:
            if owner is not None:
                hook = msgspec.structs.replace(hook, api_token=owner.value.decode("ascii", "replace"))
            compare = [_unchanged(key, None), _unchanged(index, held), _unchanged(tenant, owner)]
            if held is not None:
                compare.append(_unchanged(self._keys.hooks + held.value, None))
            success = [_put(key, encoded(hook)), _put(index, hook.id.encode()), self._stamp()]
            if owner is None:
                success.append(_put(tenant, hook.api_token.encode()))
            failure = [_get(key), _get(index), _get(tenant)]
            answer = await self._client.txn(rpc.TxnRequest(compare=compare, success=success, failure=failure))
            if answer.succeeded:
                return msgspec.structs.replace(hook, revision=answer.header.revision)
            taken, held, owner = _pairs(answer)
            if taken is not None and (held is None or held.value != hook.id.encode()):
                raise self._client.fault("another hook has this token")
            if held is not None and (current := await self._record(held)) is not None:
                raise Conflict(current)

    async def _update(self, hook: Hook) -> Hook:
        key, index = self._keys.hook(hook.id), self._keys.index(hook)
        compare = [
            rpc.Compare(target=rpc.Compare.MOD, key=key, mod_revision=hook.revision),
            rpc.Compare(target=rpc.Compare.VALUE, key=index, value=hook.id.encode()),
        ]
        success = [_put(key, encoded(hook)), self._stamp()]
        answer = await self._client.txn(rpc.TxnRequest(compare=compare, success=success, failure=[_get(index)]))
        if answer.succeeded:
            return msgspec.structs.replace(hook, revision=answer.header.revision)
        (held,) = _pairs(answer)
        raise Conflict(None if held is None else await self._record(held))

    async def _record(self, held: Any) -> Hook | None:
        """Return the hook whose id the index holds; None where it is gone. Raises StoreError if it is unreadable."""
        found = await self._client.range(rpc.RangeRequest(key=self._keys.hooks + held.value))
        return decoded(found.kvs[0]) if found.kvs else None

    def _stamp(self) -> Any:
        return _put(self._keys.revision, b"")


def _unchanged(key: bytes, pair: Any) -> Any:
    """Return the comparison that holds while the key is what was read of it: `pair`, or None for no such key."""
    return rpc.Compare(target=rpc.Compare.MOD, key=key, mod_revision=pair.mod_revision if pair else 0)


def _put(key: bytes, value: bytes) -> Any:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value))


def _delete(key: bytes) -> Any:
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))


def _get(key: bytes) -> Any:
    return rpc.RequestOp(request_range=rpc.RangeRequest(key=key))


def _pairs(answer: Any) -> list[Any]:
    """Return what a transaction read, key by key: None for one that is not there."""
    return [next(iter(response.response_range.kvs), None) for response in answer.responses]
