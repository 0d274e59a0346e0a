"""VaultService: the master key, for operators."""

from __future__ import annotations

from chimera.call import Call
from chimera.core import Core
from chimera.keyring import follow_versions
from chimera.providers import rotation
from chimera.v1 import vault_pb2_grpc
from chimera.v1.vault_pb2 import (
    GetVaultStatusRequest,
    GetVaultStatusResponse,
    RetireMasterKeyVersionRequest,
    RetireMasterKeyVersionResponse,
    RotateMasterKeyRequest,
    RotateMasterKeyResponse,
)


class VaultService(vault_pb2_grpc.VaultServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.master = core.db, core.master

    async def RotateMasterKey(
        self, request: RotateMasterKeyRequest, call: Call
    ) -> RotateMasterKeyResponse:
        destination = await rotation.probed(self.master, request.home, request.key_ref)
        async with self.db.begin(call) as tx:
            begun = await rotation.begin_rotation(tx, self.master, destination)
            answer = tx.answer(RotateMasterKeyResponse(rotation=begun))
        await follow_versions(self.db, self.master)
        return answer

    async def GetVaultStatus(
        self, request: GetVaultStatusRequest, call: Call
    ) -> GetVaultStatusResponse:
        async with self.db.begin(call) as tx:
            return await rotation.get_status(tx, self.master)

    async def RetireMasterKeyVersion(
        self, request: RetireMasterKeyVersionRequest, call: Call
    ) -> RetireMasterKeyVersionResponse:
        async with self.db.begin(call) as tx:
            version = await rotation.retire_version(
                tx, self.master, request.version, destroy=request.destroy
            )
            answer = tx.answer(RetireMasterKeyVersionResponse(version=version))
        await follow_versions(self.db, self.master)
        return answer
