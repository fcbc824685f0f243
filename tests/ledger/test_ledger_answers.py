"""GetCosts and GetMetrics over a real channel."""

import hashlib
import json
from pathlib import Path

import grpc
import grpc.aio
import pytest
from ledger_histories import MemoryObjects, moved
from test_ledger_server import serving
from timed_histories import Timed, told

from services import events as ev
from services.ledger.v1 import ledger_pb2 as pb

DEFINITION = json.dumps({"bundles": [{"id": "w1"}], "options": {"max_workers": 3, "budget_nano": 10**9}}).encode()
SPEC = ev.Artifact(role="spec", digest=hashlib.sha256(DEFINITION).hexdigest(), name="spec-9", size_bytes=1)


def story() -> Timed:
    made = Timed()
    made.begin("w1", spec=SPEC, labels={"team": "pay"}, tenant="acme")
    made.attempt("w1", 1, **told(0.9))
    made.attempt("w1", 2, "fix")
    made.decide(moved("w1", "merging", "completed"))
    return made


async def test_costs_are_answered_with_their_total(tmp_path: Path):
    async with serving(tmp_path, story().records) as served:
        asked = pb.GetCostsRequest(
            selection=pb.Selection(labels={"team": "pay"}, tenant="acme"), group_by=["step", "label:team"]
        )
        found = await served.stub.GetCosts(asked)
    assert [list(row.key) for row in found.rows] == [["edit", "pay"], ["fix", "pay"]]
    assert found.rows[0].cost_nano == 900_000_000
    assert not found.rows[1].HasField("cost_nano"), "what is unknown is no zero"
    assert (found.total.cost_nano, found.total.unpriced, found.groups) == (900_000_000, 1, 2)
    assert found.position == len(story().records)


async def test_nothing_of_a_tenant_is_not_everything(tmp_path: Path):
    async with serving(tmp_path, story().records) as served:
        none = await served.stub.GetCosts(pb.GetCostsRequest(selection=pb.Selection(tenant="")))
        every = await served.stub.GetCosts(pb.GetCostsRequest())
    assert (none.total.attempts, every.total.attempts) == (0, 2)


@pytest.mark.parametrize("stored", ["whole", "changed", "gone"])
async def test_metrics_know_of_the_definition_what_can_be_read(tmp_path: Path, stored):
    data = {"whole": {"spec-9": DEFINITION}, "changed": {"spec-9": DEFINITION + b" "}, "gone": {}}[stored]
    async with serving(tmp_path, story().records, objects=MemoryObjects(**data)) as served:
        found = await served.stub.GetMetrics(pb.GetMetricsRequest(selection=pb.Selection(run="r1")))
    assert (found.total_workstreams, found.successful, found.total_duration_sec) == (1, 1, 20)
    assert found.HasField("workers") == found.HasField("budget") == (stored == "whole")
    if stored == "whole":
        assert (found.workers, found.budget.status) == (3, "warning")
        assert found.worker_utilization == pytest.approx(1 / 3)
    assert sum(link.duration_s for link in found.critical_path) == pytest.approx(found.wall_s)
    assert found.costs.cost_nano == 900_000_000


@pytest.mark.parametrize(
    ("method", "request_", "code"),
    [
        ("GetCosts", pb.GetCostsRequest(group_by=["x"]), grpc.StatusCode.INVALID_ARGUMENT),
        ("GetCosts", pb.GetCostsRequest(limit=-1), grpc.StatusCode.INVALID_ARGUMENT),
        ("GetCosts", pb.GetCostsRequest(selection=pb.Selection(since_ns=2, until_ns=1)), grpc.StatusCode.INVALID_ARGUMENT),
        ("GetCosts", pb.GetCostsRequest(selection=pb.Selection(labels={"A": ""})), grpc.StatusCode.INVALID_ARGUMENT),
        ("GetMetrics", pb.GetMetricsRequest(selection=pb.Selection(tool="x")), grpc.StatusCode.INVALID_ARGUMENT),
        ("GetMetrics", pb.GetMetricsRequest(selection=pb.Selection(run="nobody")), grpc.StatusCode.NOT_FOUND),
    ],
)  # fmt: skip
async def test_what_cannot_be_asked_is_refused(tmp_path: Path, method, request_, code):
    async with serving(tmp_path, story().records) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(served.stub, method)(request_)
    assert caught.value.code() is code
