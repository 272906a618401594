"""Calls to etcd: each has a deadline, signs in again when its token has run out, and fails with words for a log."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from webhookd.adapters.etcd_rpc import grpc, rpc
from webhookd.errors import ConfigurationError, StoreError

CALL_TIMEOUT = 3.0
"""How long one call may take, in seconds, signing in again included."""
LET_GO = 1.0
"""How long, in seconds, gRPC may take to let go of a connection."""
OPTIONS = (
    # without these four a peer that hangs is never noticed; etcd ends connections that ping more often than every 5 s
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel does not wait for the back-off of the one before
)
"""Of every channel (https://grpc.github.io/grpc/core/group__grpc__arg__keys.html)."""
OLD_TOKEN = "revision of auth store is old"  # noqa: S105 - what etcd says of a JWT from before a change of roles


@dataclass(frozen=True, slots=True)
class Access:
    """How to get in. With `cafile` or `certfile` over TLS; all files are read anew for each connection."""

    user: str | None = None
    password: Callable[[], bytes] = bytes
    """Returns the user's password; raises ConfigurationError when there is none."""
    cafile: Path | None = None
    certfile: Path | None = None
    keyfile: Path | None = None

    def channel(self, endpoint: str) -> Any:
        """Return a gRPC channel to `host:port`; raises StoreError where a file cannot be read."""
        target = f"dns:///{endpoint}"
        if self.cafile is None and self.certfile is None:
            return rpc.insecure_channel(target, options=OPTIONS)
        try:
            files = [None if path is None else path.read_bytes() for path in (self.cafile, self.keyfile, self.certfile)]
        except OSError as error:
            raise StoreError(f"{error.filename} cannot be read: {error.strerror}") from None
        return rpc.secure_channel(target, grpc.ssl_channel_credentials(*files), options=OPTIONS)


class EtcdClient:
    """Speaks to one of `endpoints` (`host:port`) at a time, beginning with any. Whatever fails raises StoreError.

    One channel holds one endpoint, not all: gRPC would stay with a member that has lost its cluster, and could check
    the name in the certificate of only one.
    """

    def __init__(self, endpoints: Sequence[str], access: Access) -> None:
        self._endpoints = random.sample(endpoints, len(endpoints))
        self._access = access
        self._channel: Any = None
        self._token: str | None = None
        self._signing_in = asyncio.Lock()
        self._left: dict[asyncio.Task[None], Any] = {}
        self._closed = False

    async def range(self, request: Any) -> Any:
        """Read keys: `KV.Range`."""
        return await self._call("Range", request)

    async def txn(self, request: Any) -> Any:
        """Compare, then write or read: `KV.Txn`. After a StoreError it may have been done or not."""
        return await self._call("Txn", request)

    @contextlib.asynccontextmanager
    async def watch(self, request: Any) -> AsyncIterator[AsyncGenerator[Any, None]]:
        """Yield the responses of one watch, as they come; they end only with a StoreError."""
        stream = rpc.WatchStub(self._connected()).Watch(metadata=self._metadata())
        try:
            with self._faults():
                async with asyncio.timeout(CALL_TIMEOUT):
                    await stream.write(rpc.WatchRequest(create_request=request))
            yield self._responses(stream)
        finally:
            stream.cancel()

    def fault(self, words: str, endpoint: str | None = None) -> StoreError:
        """Return the error for what is wrong at an endpoint: at the one in use, if it is not told."""
        return StoreError(f"etcd at {endpoint or self._endpoints[0]}: {words}")

    def move_on(self) -> None:
        """Leave the connection to the calls that it still has; the next one goes to the next endpoint."""
        channel, self._channel = self._channel, None
        self._endpoints.append(self._endpoints.pop(0))
        if channel is not None:
            task = asyncio.get_running_loop().create_task(channel.close(CALL_TIMEOUT))
            self._left[task] = channel
            task.add_done_callback(self._left.pop)

    async def close(self) -> None:
        """End every call and connection, and return when gRPC has let go of the one in use."""
        self._closed = True
        channel, self._channel = self._channel, None
        if channel is not None:
            gone = asyncio.ensure_future(channel.wait_for_state_change(channel.get_state()))
            await asyncio.sleep(0)  # until it waits
            await channel.close()
            await asyncio.wait((gone,), timeout=LET_GO)  # an exception that is handled may hold a call, which holds it
            gone.cancel()
        for left in list(self._left.values()):
            await left.close()
        await asyncio.gather(*self._left)

    def _connected(self) -> Any:
        if self._closed:
            raise StoreError("etcd: the store is closed")
        if self._channel is None:
            self._channel = self._access.channel(self._endpoints[0])
        return self._channel

    async def _call(self, method: str, request: Any) -> Any:
        with self._faults():
            async with asyncio.timeout(CALL_TIMEOUT):
                await self._sign_in(None)
                token = self._token
                try:
                    return await self._once(rpc.KVStub, method, request)
                except rpc.AioRpcError as error:
                    if token is None or not _is_of_token(error):
                        raise
                await self._sign_in(token)
                return await self._once(rpc.KVStub, method, request)

    async def _once(self, stub: Any, method: str, request: Any) -> Any:
        call = getattr(stub(self._connected()), method)
        return await call(request, timeout=CALL_TIMEOUT, metadata=self._metadata())

    async def _sign_in(self, refused: str | None) -> None:
        """Have a token other than the one that was `refused`."""
        if self._access.user is None:
            return
        async with self._signing_in:
            if self._token == refused:
                self._token = None
                request = rpc.AuthenticateRequest(name=self._access.user, password=self._access.password().decode())
                self._token = (await self._once(rpc.AuthStub, "Authenticate", request)).token

    def _metadata(self) -> tuple[tuple[str, str], ...] | None:
        return None if self._token is None else (("token", self._token),)

    async def _responses(self, stream: Any) -> AsyncGenerator[Any, None]:
        with self._faults():
            async for response in stream:
                yield response
        raise self.fault("the watch ended")

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """Say of what fails in here where it was, in words without secrets."""
        endpoint = self._endpoints[0]
        try:
            yield
        except TimeoutError:
            raise self.fault(f"no answer within {CALL_TIMEOUT:g} s", endpoint) from None
        except rpc.AioRpcError as error:
            if error.code() == rpc.StatusCode.DEADLINE_EXCEEDED:
                raise self.fault(f"no answer within {CALL_TIMEOUT:g} s", endpoint) from None
            raise self.fault(error.details() or error.code().name, endpoint) from None
        except UnicodeDecodeError:
            raise self.fault("the password is not UTF-8", endpoint) from None
        except ConfigurationError as error:
            raise self.fault(str(error), endpoint) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise self.fault("the connection was closed", endpoint) from None  # what gRPC says is meant for tasks


def _is_of_token(error: Any) -> bool:
    """Whether a call failed for its token, and was not looked at further."""
    return error.code() == rpc.StatusCode.UNAUTHENTICATED or OLD_TOKEN in (error.details() or "")
