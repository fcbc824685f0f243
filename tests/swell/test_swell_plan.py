"""PlanRun over the wire: what a run would do, as the scheduler sees it; nothing is written."""

import json
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from small_repository import bundle

from swell.client import Client
from swell.cluster import Cluster
from swell.errors import SwellError
from swell.settings import RunSettings, in_force
from swell.submission import assemble, load_bundles
from swell.values import Document


@pytest.fixture
def planned(cluster: Path, repo: Path, bundles: Callable[..., Path]):
    def plan(*workstreams, **changes):
        made = assemble(load_bundles(bundles(*workstreams)), repo=repo, settings=in_force(RunSettings()))
        header = msgspec.structs.replace(made.header, request_id=str(uuid.uuid4()), **changes)
        with Cluster.join_or_start(cluster) as endpoints, Client(endpoints) as client:
            before = {run.run for run in client.list_runs()}
            answer = client.plan_run(header, made.documents)
            assert {run.run for run in client.list_runs()} == before
        return answer

    return plan


def test_a_plan_has_its_waves_and_their_reasons(planned):
    plan = planned(bundle("ws-a"), bundle("ws-b", scope="src/b.py", depends_on=["ws-a"]))
    assert (plan.valid, plan.errors, plan.waves) == (True, [], [["ws-a"], ["ws-b"]])
    assert plan.report["plan"]["dependency_graph"]["ws-b"] == ["ws-a"]
    assert "ws-a" in plan.report["plan"]["why"]["ws-b"]


def test_what_refuses_a_run_is_a_finding_with_a_remedy(planned):
    plan = planned(bundle("ws-a", "no-such-tool"))
    assert not plan.valid
    assert [(f.code, f.workstream) for f in plan.errors] == [("UNKNOWN_TOOL", "ws-a")]
    assert all(f.remedy for f in plan.errors)


def test_a_header_that_cannot_be_used_is_an_error(planned):
    with pytest.raises(SwellError, match="run id"):
        planned(bundle("ws-a"), run="a b")


def test_bundles_that_cannot_be_read_are_an_error(cluster: Path, repo: Path, bundles: Callable[..., Path]):
    made = assemble(load_bundles(bundles(bundle("ws-a"))), repo=repo, settings=in_force(RunSettings()))
    header = msgspec.structs.replace(made.header, request_id=str(uuid.uuid4()))
    with Cluster.join_or_start(cluster) as endpoints, Client(endpoints) as client:
        for content in (b"{", b"[" * 100_000, json.dumps([{"id": "ws-a"}]).encode()):
            with pytest.raises(SwellError) as refused:
                client.plan_run(header, [Document(name="a.json", content=content)])
            assert refused.value.code == "INVALID_ARGUMENT"
            assert "a.json" in str(refused.value)


def test_a_registry_reaches_the_scheduler_and_what_it_cannot_use_is_a_warning(planned, monkeypatch):
    monkeypatch.delenv("AIM_REGISTRY_PATH", raising=False)
    asking = bundle("ws-a", capability="code_generation")
    plan = planned(asking)
    assert (plan.valid, [f.code for f in plan.warnings if "ROUTED" in f.code]) == (True, ["TOOL_NOT_ROUTED"])
    broken = planned(asking, aim_registry_json=b"{")
    assert broken.valid
    assert {"INVALID_AIM_REGISTRY", "NOT_ROUTED"} <= {f.code for f in broken.warnings}
