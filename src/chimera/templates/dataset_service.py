"""DatasetService: one method an RPC."""

from __future__ import annotations

from collections.abc import AsyncIterator

from chimera.call import Call
from chimera.core import Core
from chimera.templates import datasets
from chimera.templates.dataset_transfer import export_dataset, import_dataset
from chimera.v1 import datasets_pb2_grpc
from chimera.v1.datasets_pb2 import (
    CreateDatasetRequest,
    CreateDatasetResponse,
    DeleteDatasetRequest,
    DeleteDatasetResponse,
    ExportDatasetRequest,
    ExportDatasetResponse,
    GetDatasetRequest,
    GetDatasetResponse,
    ImportDatasetRequest,
    ImportDatasetResponse,
    ListDatasetRowsRequest,
    ListDatasetRowsResponse,
    ListDatasetsRequest,
    ListDatasetsResponse,
    ListDatasetVersionsRequest,
    ListDatasetVersionsResponse,
    UndeleteDatasetRequest,
    UndeleteDatasetResponse,
    UpdateDatasetRequest,
    UpdateDatasetResponse,
)


class DatasetService(datasets_pb2_grpc.DatasetServiceServicer):
    def __init__(self, core: Core) -> None:
        self.db, self.pages = core.db, core.pages

    async def CreateDataset(
        self, request: CreateDatasetRequest, call: Call
    ) -> CreateDatasetResponse:
        async with self.db.begin(call) as tx:
            dataset = await datasets.create_dataset(tx, request)
            return tx.answer(CreateDatasetResponse(dataset=dataset))

    async def GetDataset(self, request: GetDatasetRequest, call: Call) -> GetDatasetResponse:
        async with self.db.begin(call) as tx:
            return GetDatasetResponse(dataset=await datasets.get_dataset(tx, request.dataset_id))

    async def ListDatasets(self, request: ListDatasetsRequest, call: Call) -> ListDatasetsResponse:
        async with self.db.begin(call) as tx:
            found, token = await datasets.list_datasets(tx, self.pages, request)
            return ListDatasetsResponse(datasets=found, next_page_token=token)

    async def UpdateDataset(
        self, request: UpdateDatasetRequest, call: Call
    ) -> UpdateDatasetResponse:
        async with self.db.begin(call) as tx:
            return tx.answer(
                UpdateDatasetResponse(dataset=await datasets.update_dataset(tx, request))
            )

    async def DeleteDataset(
        self, request: DeleteDatasetRequest, call: Call
    ) -> DeleteDatasetResponse:
        async with self.db.begin(call) as tx:
            dataset = await datasets.delete_dataset(tx, request.dataset_id)
            return tx.answer(DeleteDatasetResponse(dataset=dataset))

    async def UndeleteDataset(
        self, request: UndeleteDatasetRequest, call: Call
    ) -> UndeleteDatasetResponse:
        async with self.db.begin(call) as tx:
            dataset = await datasets.undelete_dataset(tx, request.dataset_id)
            return tx.answer(UndeleteDatasetResponse(dataset=dataset))

    async def ListDatasetVersions(
        self, request: ListDatasetVersionsRequest, call: Call
    ) -> ListDatasetVersionsResponse:
        async with self.db.begin(call) as tx:
            found, token = await datasets.list_dataset_versions(tx, self.pages, request)
            return ListDatasetVersionsResponse(versions=found, next_page_token=token)

    async def ListDatasetRows(
        self, request: ListDatasetRowsRequest, call: Call
    ) -> ListDatasetRowsResponse:
        async with self.db.begin(call) as tx:
            rows, token = await datasets.list_dataset_rows(tx, self.pages, request)
            return ListDatasetRowsResponse(rows=rows, next_page_token=token)

    async def ImportDataset(
        self, requests: AsyncIterator[ImportDatasetRequest], call: Call
    ) -> AsyncIterator[ImportDatasetResponse]:
        async for answer in import_dataset(self.db, call, requests):
            yield answer

    async def ExportDataset(
        self, request: ExportDatasetRequest, call: Call
    ) -> AsyncIterator[ExportDatasetResponse]:
        async for content in export_dataset(self.db, call, request):
            yield ExportDatasetResponse(content=content)
