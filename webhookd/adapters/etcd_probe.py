"""Whether one etcd does for webhookd: it answers, and this user may read and write all under the prefix; as it was."""

from __future__ import annotations

from typing import Any

from webhookd.adapters.etcd_client import Access, EtcdClient
from webhookd.adapters.etcd_keys import Keys, end_of
from webhookd.adapters.etcd_rpc import rpc
from webhookd.errors import StoreError

SENTINEL = "webhookd-check"
"""No token, tenant or index has this name: what it stands for would be passed over, if it were ever written."""
REMEDIES = {
    "permission denied": "grant the user's role readwrite on the prefix {prefix}/",
    "user name is empty": "it asks for a user: set store_user and store_password_file",
    "invalid user ID or password": "compare store_user and what is in store_password_file",
    "authentication is not enabled": "it knows no users: take store_user away, or enable authentication",
    "failed to connect": "see whether it runs there, and whether it speaks TLS: then set store_cafile",
    "no answer within": "see whether it runs there, and whether its cluster has a leader",
    "no leader": "see to its cluster: most of its members have to be there",
}
"""What to do, by a part of what etcd or gRPC says."""


async def probe(endpoint: str, prefix: str, access: Access) -> tuple[int, int]:
    """Return how many hooks the etcd at `endpoint` (`host:port`) holds, and the id of its cluster.

    Raises StoreError that says what is wrong and what to do. Nothing is changed: whether this user may write is asked
    by a transaction on a condition that never holds, since etcd checks the permissions of what it would do first
    (https://etcd.io/docs/v3.4/learning/design-auth-v3/).
    """
    client, keys = EtcdClient([endpoint], access), Keys(prefix)
    try:
        return await _tried(client, keys)
    except StoreError as error:
        remedy = next((do for said, do in REMEDIES.items() if said in str(error)), "see its log")
        words = f"{error}: {remedy.format(prefix=prefix)}"
    finally:
        await client.close()
    raise StoreError(words)


async def _tried(client: EtcdClient, keys: Keys) -> tuple[int, int]:
    counted = await client.range(rpc.RangeRequest(key=keys.hooks, range_end=end_of(keys.hooks), count_only=True))
    await client.range(rpc.RangeRequest(key=keys.all, range_end=end_of(keys.all), count_only=True))
    await client.txn(_never(keys))
    return counted.count, counted.header.cluster_id


def _never(keys: Keys) -> Any:
    """Return a transaction that would write a key of each kind, if some key had a version below 0."""
    written = (keys.revision, keys.hook(SENTINEL), keys.tenant(SENTINEL), keys.all + b"index/" + SENTINEL.encode())
    never = rpc.Compare(result=rpc.Compare.LESS, target=rpc.Compare.VERSION, key=keys.revision, version=0)
    puts = [rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=b"")) for key in written]
    return rpc.TxnRequest(compare=[never], success=puts)
