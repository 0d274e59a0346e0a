"""A witness over gRPC: the small server around its folder, and how the sealer asks it.

The server has no gate and no people: a checkpoint that its log signed may come from anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import grpc
import structlog

from chimera.audit.witness import Reason, Witness, WitnessRefused
from chimera.v1 import witness_pb2_grpc
from chimera.v1.witness_pb2 import (
    AddCheckpointRequest,
    AddCheckpointResponse,
    GetWitnessRequest,
    GetWitnessResponse,
)

log = structlog.get_logger("chimera.witness")

ASK_TIMEOUT_S = 1.0
_MESSAGE_BYTES_MAX = 64 * 1024
_SIZE = "x-witness-size"  # of the last checkpoint it cosigned
# The sealer waits between its questions by itself.
_RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
_CODES = {
    Reason.UNKNOWN_LOG: grpc.StatusCode.NOT_FOUND,
    Reason.NOT_SIGNED: grpc.StatusCode.PERMISSION_DENIED,
    Reason.MALFORMED: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.OTHER_SIZE: grpc.StatusCode.ABORTED,
    Reason.OTHER_ROOT: grpc.StatusCode.ABORTED,
    Reason.INCONSISTENT: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.STATE_BROKEN: grpc.StatusCode.INTERNAL,
}
_REASONS = {
    grpc.StatusCode.NOT_FOUND: Reason.UNKNOWN_LOG,
    grpc.StatusCode.PERMISSION_DENIED: Reason.NOT_SIGNED,
    grpc.StatusCode.INVALID_ARGUMENT: Reason.MALFORMED,
    grpc.StatusCode.ABORTED: Reason.OTHER_SIZE,
    grpc.StatusCode.FAILED_PRECONDITION: Reason.INCONSISTENT,
    grpc.StatusCode.INTERNAL: Reason.STATE_BROKEN,
}


class WitnessAway(Exception):
    """Nobody answers there; later perhaps."""


class WitnessServicer(witness_pb2_grpc.WitnessServiceServicer):
    """Checks and cosigns in a thread: it waits for the disk."""

    def __init__(self, witness: Witness) -> None:
        self.witness = witness

    async def AddCheckpoint(
        self, request: AddCheckpointRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> AddCheckpointResponse:
        try:
            line = await asyncio.to_thread(
                self.witness.add_checkpoint,
                request.old_size,
                list(request.proof),
                request.checkpoint,
            )
        except WitnessRefused as refused:
            log.warning("witness.refused", reason=refused.reason.value, detail=str(refused))
            if refused.size is not None:
                context.set_trailing_metadata(((_SIZE, str(refused.size)),))
            await context.abort(_CODES[refused.reason], str(refused))
            raise AssertionError("abort always raises") from None
        return AddCheckpointResponse(cosignatures=line)

    async def GetWitness(
        self, request: GetWitnessRequest, context: grpc.aio.ServicerContext[object, object]
    ) -> GetWitnessResponse:
        notes = await asyncio.to_thread(self.witness.last_notes)
        key = str(self.witness.verifier_key)
        return GetWitnessResponse(verifier_key=key, checkpoints=notes)


async def start_witness(
    witness: Witness, listen: str, tls: tuple[bytes, bytes] | None = None
) -> tuple[grpc.aio.Server, int]:
    """A listening server and its port. tls: private key and certificate chain, PEM."""
    server = grpc.aio.server(
        options=[("grpc.max_receive_message_length", _MESSAGE_BYTES_MAX)],
        maximum_concurrent_rpcs=64,
    )
    servicer = WitnessServicer(witness)
    add: Any = witness_pb2_grpc.add_WitnessServiceServicer_to_server  # generated without types
    add(servicer, server)
    if tls:
        port = server.add_secure_port(listen, grpc.ssl_server_credentials([tls]))
    else:
        port = server.add_insecure_port(listen)
    await server.start()
    return server, port


class RemoteWitness:
    """A witness at grpc://host:port (or grpcs://), as the sealer asks it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        address = parts.netloc
        self.channel = (
            grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(), _RECONNECT)
            if parts.scheme == "grpcs"
            else grpc.aio.insecure_channel(address, _RECONNECT)
        )
        stub: Any = witness_pb2_grpc.WitnessServiceStub  # generated without types
        self.stub = stub(self.channel)

    async def add_checkpoint(self, old_size: int, proof: Sequence[bytes], note: str) -> str:
        """Its signature lines. Raises WitnessRefused, WitnessAway."""
        request = AddCheckpointRequest(old_size=old_size, proof=proof, checkpoint=note)
        try:
            answer = await self.stub.AddCheckpoint(request, timeout=ASK_TIMEOUT_S)
        except grpc.aio.AioRpcError as error:
            reason = _REASONS.get(error.code())
            if reason is None:
                raise WitnessAway(error.code().name) from None
            sizes = [value for key, value in error.trailing_metadata() or () if key == _SIZE]
            size = int(sizes[0]) if sizes and str(sizes[0]).isdecimal() else None
            raise WitnessRefused(reason, error.details() or "", size) from None
        cosignatures: str = answer.cosignatures
        return cosignatures

    async def close(self) -> None:
        await self.channel.close()
