"""What a server asks of who calls and of what they ask for, before anything is written."""

import asyncio
import json

import msgspec
import pytest
from memory_bus import MemoryBus, MemoryServer

from services.access import _principal
from services.artifacts import Artifacts
from services.bus import BusConfig
from services.events import RunFinished
from services.principals import Principal
from services.refusal import Refusal
from services.rpc import RpcError
from services.scheduler.config import PoolRule, SchedulerConfig
from services.scheduler.requests import Requests
from services.scheduler.server import SchedulerServer
from services.scheduler.shell import Shell
from services.scheduler.state import Over, RunState, Workstream
from services.scheduler.submission import Submissions
from services.scheduler.v1 import scheduler_pb2 as pb
from services.spec import Definitions, RunSpec, decode_spec
from services.wire import request_subject

BUNDLE = {
    "id": "ws-a",
    "openspec_change": "C-1",
    "ccpm_issue": 1,
    "gate": 1,
    "tasks": ["do it"],
    "tool": "echo",
    "files_scope": ["a.py"],
    "metadata": {"swell": {"static_tools": ["ruff"]}},
}
RED = Principal("red", "operator", ("red",))
BLUE = Principal("blue", "operator", ("blue",))


class Serving:
    """A scheduler's server over a log in memory; nobody decides."""

    def __init__(self, **config):
        self.bus = MemoryBus(MemoryServer(BusConfig(append_timeout_s=0.5)))
        self.artifacts = Artifacts(self.bus.objects)
        self.shell = Shell(self.bus, self.artifacts, name="s", lease_s=10.0, reconcile_s=10.0)
        self.configure(**config)

    def configure(self, **config):
        made = SchedulerConfig(**config)
        requests = Requests(self.bus, self.shell)
        self.server = SchedulerServer(made, requests, self.artifacts, self.shell, Submissions(made))

    async def submit(self, who: Principal, request_id="request-1", *, pools=(), **header) -> pb.SubmitRunResponse:
        async def parts():
            repository = pb.Repository(location="/work/r", base_commit="a" * 40)
            options = pb.RunOptions(pools=pools)
            made = pb.RunHeader(request_id=request_id, repository=repository, options=options, **header)
            yield pb.SubmitRunRequest(header=made)
            document = pb.BundleDocument(name="a.json", content=json.dumps([BUNDLE]).encode())
            yield pb.SubmitRunRequest(document=document)

        return await self.asked(who, self.server.SubmitRun(parts(), None))

    async def asked(self, who: Principal, call):
        told = _principal.set(who)
        try:
            return await call
        finally:
            _principal.reset(told)

    async def spec_of(self, run: str) -> RunSpec:
        return decode_spec(await self.artifacts.get(self.shell.runs[run].requested.spec))

    async def end(self, run: str, monkeypatch):
        """As if it had ended, with nothing done."""
        assert await self.shell.folded((await self.bus.last(request_subject(run))).sequence, 5)
        definitions = Definitions(await self.spec_of(run))
        state: RunState = self.shell.runs.pop(run)
        state.definitions = definitions
        state.workstreams = {"ws-a": Workstream(id="ws-a", index=0, state="failed")}
        finished = RunFinished(state="failed", reason="", completed=0, failed=1, blocked=0, cancelled=0)
        self.shell.over[run] = Over(state.requested.request_id, finished, 1, {})

        async def recall(_run):
            return state

        monkeypatch.setattr(self.shell, "recall", recall)


@pytest.fixture
async def serving():
    made = Serving()
    following = asyncio.create_task(made.shell._follow())
    yield made
    following.cancel()
    await asyncio.wait({following})


NARROWED = {"repositories": ["/work/other"]}


@pytest.mark.parametrize(
    ("policy", "given", "reason"),
    [
        (NARROWED, {}, "REPOSITORY_NOT_ALLOWED"),
        ({"client_profiles": False}, {"checks_toml": b'setup = ["sh -c id"]'}, "COMMANDS_NOT_TAKEN"),
    ],
)
async def test_another_try_of_an_ended_run_is_held_to_todays_policy(serving, monkeypatch, policy, given, reason):
    run = (await serving.submit(RED, **given)).run
    await serving.end(run, monkeypatch)
    serving.configure(**policy)
    with pytest.raises(RpcError) as refused:
        await serving.asked(RED, serving.server.RetryRun(pb.RetryRunRequest(run=run, request_id="request-2"), None))
    assert refused.value.reason == reason
    serving.configure()
    again = pb.RetryRunRequest(run=run, request_id="request-2")
    assert (await serving.asked(RED, serving.server.RetryRun(again, None))).new_run


async def test_a_delivery_to_where_a_run_came_from_is_held_to_todays_list(serving, monkeypatch):
    run = (await serving.submit(RED)).run
    await serving.end(run, monkeypatch)
    serving.configure(**NARROWED)
    with pytest.raises(RpcError) as refused:
        await serving.asked(RED, serving.server.DeliverRun(pb.DeliverRunRequest(run=run, request_id="request-2"), None))
    assert refused.value.reason == "REPOSITORY_NOT_ALLOWED"


async def test_the_tenant_of_who_is_bound_to_one_is_known_when_the_pool_is_chosen(serving):
    serving.configure(pool_rules=[PoolRule(pool="reds", tenant="red")])
    for request_id, given in (("request-1", {}), ("request-2", {"tenant": "red"})):
        run = (await serving.submit(RED, request_id, **given)).run
        await serving.shell.folded((await serving.bus.last(request_subject(run))).sequence, 5)
        assert (await serving.spec_of(run)).options.pool == "reds", given
    with pytest.raises(Refusal) as refused:
        await serving.submit(RED, "request-3", tenant="blue")
    assert refused.value.reason == "NOT_YOURS"


CAUTIOUS = msgspec.structs.replace(RED, pools=("cpu", "small"))


@pytest.mark.parametrize(
    ("pools", "rule", "allowed"),
    [
        (["cpu"], None, True),
        (["small", "cpu"], None, True),
        (["cpu", "gpu"], None, False),
        (["gpu"], None, False),
        ([], None, False),
        ([], "cpu", True),
        ([], "gpu", False),
    ],
)
async def test_who_is_bound_to_pools_has_no_work_done_in_others(serving, pools, rule, allowed):
    """However the pool was chosen: labels, which rules go by, are the submitter's own."""
    serving.configure(pool_rules=[PoolRule(pool=rule)] if rule else [])
    if allowed:
        await serving.submit(CAUTIOUS, pools=pools)
        return
    with pytest.raises(Refusal) as refused:
        await serving.submit(CAUTIOUS, pools=pools)
    assert refused.value.reason == "POOL_NOT_YOURS"


async def test_another_try_is_held_to_the_pools_of_who_asks(serving, monkeypatch):
    run = (await serving.submit(RED, pools=["gpu"])).run
    await serving.end(run, monkeypatch)
    again = pb.RetryRunRequest(run=run, request_id="request-2")
    with pytest.raises(Refusal) as refused:
        await serving.asked(CAUTIOUS, serving.server.RetryRun(again, None))
    assert refused.value.reason == "POOL_NOT_YOURS"
    assert (await serving.asked(RED, serving.server.RetryRun(again, None))).new_run


async def test_a_request_is_the_same_for_who_made_it_and_for_nobody_else(serving):
    mine = await serving.submit(RED)
    assert await serving.submit(RED) == mine
    for other in (BLUE, Principal("ann", "operator")):
        with pytest.raises(RpcError) as refused:
            await serving.submit(other)
        assert (refused.value.reason, refused.value.metadata) == ("RUN_EXISTS", {"run": mine.run})


async def test_reviews_of_anothers_run_are_those_of_no_run(serving):
    theirs = (await serving.submit(RED)).run
    told = []
    for run in (theirs, "r-none"):
        with pytest.raises(RpcError) as refused:
            await serving.asked(BLUE, serving.server.ListReviews(pb.ListReviewsRequest(run=run), None))
        told.append((refused.value.code, refused.value.reason, refused.value.message.replace(run, "")))
    assert told[0] == told[1]
    assert not (await serving.asked(RED, serving.server.ListReviews(pb.ListReviewsRequest(run=theirs), None))).reviews
