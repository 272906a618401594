"""etcd's gRPC calls and messages as aetcd generated them, imported so that the gRPC core keeps off standard error."""

from __future__ import annotations

import os

_unset = "GRPC_VERBOSITY" not in os.environ
if _unset:
    os.environ["GRPC_VERBOSITY"] = "NONE"  # looked at while the core is loaded; what it would say, the calls say

import grpc  # noqa: E402 - see above
from aetcd import rpc  # noqa: E402

if _unset:
    del os.environ["GRPC_VERBOSITY"]

__all__ = ["grpc", "rpc"]
