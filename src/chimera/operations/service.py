"""OperationsService."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.operations import operations
from chimera.v1 import operations_pb2_grpc
from chimera.v1.operations_pb2 import (
    GetKillSwitchRequest,
    GetKillSwitchResponse,
    ListOutboxRequest,
    ListOutboxResponse,
    ListStuckShardsRequest,
    ListStuckShardsResponse,
    ListUnknownAttemptsRequest,
    ListUnknownAttemptsResponse,
    ReleaseShardRequest,
    ReleaseShardResponse,
    RetryOutboxRequest,
    RetryOutboxResponse,
    SetKillSwitchRequest,
    SetKillSwitchResponse,
)


class OperationsService(operations_pb2_grpc.OperationsServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db = core.db

    async def SetKillSwitch(
        self, request: SetKillSwitchRequest, call: Call
    ) -> SetKillSwitchResponse:
        async with self.db.begin(call) as tx:
            await operations.set_kill_switch(tx, request)
            organisation, installation = await operations.get_kill_switches(tx)
            return tx.answer(
                SetKillSwitchResponse(organisation=organisation, installation=installation)
            )

    async def GetKillSwitch(
        self, request: GetKillSwitchRequest, call: Call
    ) -> GetKillSwitchResponse:
        async with self.db.begin(call) as tx:
            organisation, installation = await operations.get_kill_switches(tx)
        return GetKillSwitchResponse(organisation=organisation, installation=installation)

    async def ListStuckShards(
        self, request: ListStuckShardsRequest, call: Call
    ) -> ListStuckShardsResponse:
        async with self.db.begin(call) as tx:
            shards = await operations.list_stuck_shards(tx, request.page_size)
        return ListStuckShardsResponse(shards=shards)

    async def ReleaseShard(self, request: ReleaseShardRequest, call: Call) -> ReleaseShardResponse:
        async with self.db.begin(call) as tx:
            shard = await operations.release_shard(tx, request.run_id, request.shard_no)
            return tx.answer(ReleaseShardResponse(shard=shard))

    async def ListUnknownAttempts(
        self, request: ListUnknownAttemptsRequest, call: Call
    ) -> ListUnknownAttemptsResponse:
        async with self.db.begin(call) as tx:
            attempts = await operations.list_unknown_attempts(tx, request)
        return ListUnknownAttemptsResponse(attempts=attempts)

    async def ListOutbox(self, request: ListOutboxRequest, call: Call) -> ListOutboxResponse:
        async with self.db.begin(call) as tx:
            rows = await operations.list_outbox(tx, request)
        return ListOutboxResponse(rows=rows)

    async def RetryOutbox(self, request: RetryOutboxRequest, call: Call) -> RetryOutboxResponse:
        async with self.db.begin(call) as tx:
            row = await operations.retry_outbox(tx, request.outbox_id)
            return tx.answer(RetryOutboxResponse(row=row))
