"""Moments that no calendar has are found wherever a request can hold one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from chimera.moments import wrong_moments
from chimera.v1.campaigns_pb2 import UpdateCampaignRequest
from chimera.v1.telemetry_pb2 import EventBatch, EventRows, QuerySeriesRequest, TelemetryEvent

WRONG = [(2**62, 0), (-(2**62), 0), (0, 2_000_000_000), (0, -1), (253_402_300_800, 0)]


@pytest.mark.parametrize(("seconds", "nanos"), WRONG)
def test_a_moment_of_no_calendar_is_found(seconds: int, nanos: int) -> None:
    moment = Timestamp(seconds=seconds, nanos=nanos)
    with pytest.raises(ValueError):
        moment.ToDatetime(UTC)
    request = QuerySeriesRequest(to=moment)
    assert [one.field for one in wrong_moments(request)] == ["to"]
    nested = UpdateCampaignRequest()
    nested.campaign.created_at.CopyFrom(moment)
    assert [one.field for one in wrong_moments(nested)] == ["campaign.created_at"]


def test_what_has_a_date_is_left_alone_and_lists_are_others_concern() -> None:
    request = QuerySeriesRequest()
    assert not wrong_moments(request)
    for year in (1, 1969, 9999):
        request.to.FromDatetime(datetime(year, 12, 31, 23, 59, 59, 999_999))
        assert not wrong_moments(request)
    wrong = TelemetryEvent(timestamp=Timestamp(seconds=2**62))
    assert not wrong_moments(EventBatch(rows=EventRows(events=[wrong])))
