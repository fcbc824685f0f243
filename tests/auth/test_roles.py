"""Every call of both services by every role, over real channels."""

import asyncio
import contextlib
import hashlib
import json
import re
import time
from pathlib import Path

import grpc
import grpc.aio
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from google.protobuf.message_factory import GetMessageClass

from services.access import Access, AuthConfig
from services.ledger.v1 import ledger_pb2
from services.oidc import OidcConfig
from services.roles import ROLES, RULES, Rule
from services.rpc import Health, create_server, serve
from services.scheduler.v1 import scheduler_pb2

SERVICES = [
    scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"],
    ledger_pb2.DESCRIPTOR.services_by_name["LedgerService"],
]
METHODS = {f"/{service.full_name}/{method.name}": method for service in SERVICES for method in service.methods}
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


def handler(method):
    """One that answers every call with one empty message."""
    answered = GetMessageClass(method.output_type)().SerializeToString()

    async def one(_request, _context):
        return answered

    async def many(_request, _context):
        yield answered

    shape = "stream" if method.client_streaming else "unary"
    shape += "_stream" if method.server_streaming else "_unary"
    make = getattr(grpc, f"{shape}_rpc_method_handler")
    request = GetMessageClass(method.input_type)
    return make(many if method.server_streaming else one, request_deserializer=request.FromString)


class Served:
    """Both services behind one server; what is called `told` was refused, and would have changed something."""

    def __init__(self, channel):
        self.channel = channel
        self.told = []
        self.of_runs = {}

    async def call(self, method: str, token: str | None, request: bytes = b"", *, more=()) -> str:
        """The code of the answer, or the reason of its refusal."""
        metadata = (() if token is None else (("authorization", f"Bearer {token}"),)) + tuple(more)
        described = METHODS.get(method)
        streams = described is not None and described.server_streaming
        sends = described is not None and described.client_streaming
        make = getattr(self.channel, f"{'stream' if sends else 'unary'}_{'stream' if streams else 'unary'}")
        call = make(method)(iter([request]) if sends else request, metadata=metadata, timeout=5)
        try:
            if streams:
                async for _ in call:
                    pass
            else:
                await call
        except grpc.aio.AioRpcError as error:
            return error.code().name
        return "OK"


PRINCIPALS = [
    *({"name": role, "role": role} for role in ROLES),
    {"name": "red", "role": "operator", "tenants": ["red"]},
    {"name": "red-admin", "role": "admin", "tenants": ["red"]},
    {"name": "two", "role": "viewer", "tenants": ["red", "blue"]},
]


def principals_file(folder):
    listed = [one | {"token_sha256": hashlib.sha256(one["name"].encode()).hexdigest()} for one in PRINCIPALS]
    file = folder / "principals.json"
    file.write_text(json.dumps({"principals": listed}))
    return str(file)


@contextlib.asynccontextmanager
async def served(folder, *, certificates=False, **limits):
    access = Access(AuthConfig(principals_file=principals_file(folder), **limits), certificates=certificates)
    made = Served(None)

    async def tenant_of(run):
        return made.of_runs.get(run)

    server = create_server(
        access=access, max_message_bytes=10_000, concurrent_rpcs=100, recording=made.told.append, tenant_of=tenant_of
    )
    for service in SERVICES:
        handlers = {method.name: handler(method) for method in service.methods}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service.full_name, handlers),))
    port = await serve(server, "127.0.0.1:0", [service.full_name for service in SERVICES], Health([]))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as made.channel:
        yield made
    await server.stop(0)


def test_the_table_is_of_the_calls_there_are():
    assert set(RULES) == {*METHODS, REFLECTION}


def test_the_document_has_the_same_table():
    text = (Path(__file__).resolve().parents[2] / "docs" / "security.md").read_text()
    rows = re.findall(r"^\| (Scheduler|Ledger) \| (\w+) \| (\w+) \| (.+) \|$", text, re.MULTILINE)
    told = {
        (service, call): (role, reach) for service, role, reach, calls in rows for call in re.findall(r"`(\w+)`", calls)
    }
    assert told == {
        (service, method.rpartition("/")[2]): tuple(rule)
        for method, rule in RULES.items()
        for service in ("Scheduler", "Ledger")
        if f".{service}Service/" in method
    }


async def test_every_call_by_every_role_and_by_strangers(tmp_path):
    async with served(tmp_path, strangers_burst=10_000) as both:
        for method in METHODS:
            least = ROLES.index(RULES[method].role)
            for rank, role in enumerate(ROLES):
                assert await both.call(method, role) == ("OK" if rank >= least else "PERMISSION_DENIED"), (method, role)
            for token in (None, "nobody's"):
                assert await both.call(method, token) == "UNAUTHENTICATED", (method, token)
    refused = {(one.principal, one.method, one.reason) for one in both.told}
    changing = [method for method in METHODS if RULES[method].role != "viewer"]
    assert refused == {
        *(("", method, "UNAUTHENTICATED") for method in changing),
        *(("viewer", method, "ROLE_MISSING") for method in changing),
        *(("operator", method, "ROLE_MISSING") for method in changing if RULES[method].role == "admin"),
    }, "every refusal of what changes something is recorded, and no other"


async def test_a_call_that_is_not_in_the_table_is_refused_to_all(tmp_path, monkeypatch):
    method = "/swell.ledger.v1.LedgerService/GetStatus"
    monkeypatch.delitem(RULES, method)
    async with served(tmp_path) as both:
        assert [await both.call(method, role) for role in ROLES] == ["PERMISSION_DENIED"] * 3


async def test_health_is_open_and_reflection_is_not(tmp_path):
    async with served(tmp_path) as both:
        assert await both.call("/grpc.health.v1.Health/Check", None) == "OK"
        assert await both.call(REFLECTION, None) == "UNAUTHENTICATED"
        assert await both.call("/swell.ledger.v1.LedgerService/None", None) == "UNAUTHENTICATED"
        assert await both.call("/swell.ledger.v1.LedgerService/None", "viewer") == "UNIMPLEMENTED"


async def test_more_than_one_token_and_what_is_no_bearer_token_are_refused(tmp_path):
    status = "/swell.ledger.v1.LedgerService/GetStatus"
    async with served(tmp_path) as both:
        for more in (
            [("authorization", "Bearer admin")] * 2,
            [("authorization", "Basic admin")],
            [("authorization", "admin")],
        ):
            assert await both.call(status, None, more=more) == "UNAUTHENTICATED", more


# Who is bound to tenants


def request(method: str, **fields) -> bytes:
    kind = GetMessageClass(METHODS[method].input_type)
    return kind(**fields).SerializeToString()


def named(method: str, **fields) -> tuple[str, bytes]:
    full = next(one for one in METHODS if one.endswith(f"/{method}"))
    return full, request(full, **fields)


async def test_calls_of_the_bound_reach_their_runs_and_no_other(tmp_path):
    async with served(tmp_path) as both:
        both.of_runs = {"r-red": "red", "r-blue": "blue", "r-none": ""}
        for method, rule in RULES.items():
            if method == REFLECTION or rule.role == "admin":
                continue
            described = METHODS[method]
            outcome = {
                run: await both.call(method, "red", request(method, run=run))
                for run in ("r-red", "r-blue", "r-none", "r-unknown", "")
                if "run" in described.input_type.fields_by_name and not described.client_streaming
            }
            match rule.reach:
                case "run":
                    assert outcome.pop("r-red") == "OK", method
                    assert set(outcome.values()) == {"PERMISSION_DENIED"}, method
                case "fleet":
                    assert await both.call(method, "red-admin") == "PERMISSION_DENIED", method
                case _:
                    assert await both.call(method, "red") == "OK", method
        assert {one.reason for one in both.told if one.principal == "red"} >= {"NOT_YOURS"}
        assert await both.call("/swell.scheduler.v1.SchedulerService/PauseFleet", "red-admin") == "PERMISSION_DENIED"


@pytest.mark.parametrize("method", ["ListRuns", "WatchRuns", "GetCosts", "GetMetrics"])
async def test_what_has_a_tenant_is_narrowed(tmp_path, method):
    def asked(**tenant):
        return named(method, **(tenant if method in ("ListRuns", "WatchRuns") else {"selection": tenant}))

    async with served(tmp_path) as both:
        assert await both.call(asked()[0], "red", asked()[1]) == "OK"
        for who, tenant, wanted in (
            ("red", "red", "OK"),
            ("red", "blue", "PERMISSION_DENIED"),
            ("red", "", "PERMISSION_DENIED"),
            ("two", "blue", "OK"),
            ("two", "green", "PERMISSION_DENIED"),
            ("viewer", "green", "OK"),
        ):
            full, data = asked(tenant=tenant)
            assert await both.call(full, who, data) == wanted, (who, tenant)
        assert await both.call(asked()[0], "two", asked()[1]) == "PERMISSION_DENIED", "it must name one"


# How much


async def test_a_principal_that_calls_too_often_is_told_when_to_come_back(tmp_path):
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = "/swell.ledger.v1.LedgerService/GetStatus"
    async with served(tmp_path, requests_per_second=0.1, burst=3) as both:
        assert [await both.call(status, "viewer") for _ in range(4)] == ["OK"] * 3 + ["RESOURCE_EXHAUSTED"]
        assert await both.call(status, "operator") == "OK", "others are not held up"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await both.channel.unary_unary(status)(b"", metadata=(("authorization", "Bearer viewer"),))
        found = rpc_status.from_call(caught.value)
        retry = error_details_pb2.RetryInfo()
        assert found.details[1].Unpack(retry)
        assert 5 < retry.retry_delay.seconds <= 10


async def test_strangers_are_told_to_wait_and_those_who_are_known_are_not(tmp_path):
    status = "/swell.ledger.v1.LedgerService/GetStatus"
    async with served(tmp_path, strangers_per_second=0.01, strangers_burst=3) as both:
        codes = [await both.call(status, "nobody's") for _ in range(5)]
        assert codes == ["UNAUTHENTICATED"] * 3 + ["RESOURCE_EXHAUSTED"] * 2
        assert await both.call(status, "viewer") == "OK"


async def test_streams_of_a_principal_are_counted(tmp_path):
    access = Access(AuthConfig(principals_file=principals_file(tmp_path), streams=1))

    async def hold(_request, _context):
        yield b"first"
        await asyncio.Event().wait()

    watch = "/swell.ledger.v1.LedgerService/WatchRuns"
    server = create_server(access=access, max_message_bytes=1000, concurrent_rpcs=10)
    handlers = {"WatchRuns": grpc.unary_stream_rpc_method_handler(hold)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("swell.ledger.v1.LedgerService", handlers),))
    port = await serve(server, "127.0.0.1:0", [], Health([]))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        def watched(who):
            return channel.unary_stream(watch)(b"", metadata=(("authorization", f"Bearer {who}"),))

        first = watched("viewer")
        assert await first.read() == b"first"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watched("viewer").read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        other = watched("operator")
        assert await other.read() == b"first"
        first.cancel()
        other.cancel()
    await server.stop(0)


async def test_who_comes_by_certificate_and_is_nobody_is_a_stranger_as_well(tmp_path):
    """Whom a certificate means is known only once the call is read."""
    status = "/swell.ledger.v1.LedgerService/GetStatus"
    watch = "/swell.ledger.v1.LedgerService/WatchRuns"
    async with served(tmp_path, certificates=True, strangers_per_second=0.01, strangers_burst=3) as both:
        codes = [await both.call(method, None) for method in (status, watch, status, status, watch)]
        assert codes == ["UNAUTHENTICATED"] * 3 + ["RESOURCE_EXHAUSTED"] * 2
        assert await both.call(status, "viewer") == "OK"


# For how long

WATCH = "/swell.ledger.v1.LedgerService/WatchRuns"


@contextlib.asynccontextmanager
async def watching(access):
    """Asks for a watch that never ends, by token, and awaits its first answer."""
    ended = []

    async def hold(_request, _context):
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    server = create_server(access=access, max_message_bytes=1000, concurrent_rpcs=10)
    handlers = {"WatchRuns": grpc.unary_stream_rpc_method_handler(hold)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("swell.ledger.v1.LedgerService", handlers),))
    port = await serve(server, "127.0.0.1:0", [], Health([]))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:

        async def watch(token):
            call = channel.unary_stream(WATCH)(b"", metadata=(("authorization", f"Bearer {token}"),), timeout=10)
            assert await call.read() == b"first"
            return call

        watch.ended = ended
        yield watch
    await server.stop(0)


async def reason_of(call) -> tuple[str, str]:
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(info)
    return caught.value.code().name, info.reason


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (None, ("UNAUTHENTICATED", "UNAUTHENTICATED")),
        ({"role": "viewer"}, ("PERMISSION_DENIED", "ROLE_MISSING")),
        ({"tenants": ["blue"]}, ("PERMISSION_DENIED", "RIGHTS_CHANGED")),
        ({"name": "bob"}, ("PERMISSION_DENIED", "RIGHTS_CHANGED")),
    ],
)
async def test_a_stream_ends_with_the_rights_of_who_holds_it(tmp_path, change, told):
    def listed(*principals):
        digests = [one | {"token_sha256": hashlib.sha256(one["token"].encode()).hexdigest()} for one in principals]
        kept = [{key: value for key, value in one.items() if key != "token"} for one in digests]
        (tmp_path / "principals.json").write_text(json.dumps({"principals": kept}))

    ann = {"name": "ann", "role": "admin", "token": "ann"}
    eve = {"name": "eve", "role": "admin", "token": "eve"}
    listed(ann, eve)
    config = AuthConfig(principals_file=str(tmp_path / "principals.json"), recheck_s=0.02, strangers_burst=1)
    access = Access(config, rules={WATCH: Rule("operator", "tenant")})
    access._listed._look_s = 0.0
    async with watching(access) as watch:
        stays, goes = await watch("ann"), await watch("eve")
        listed(ann | {"role": "operator"}, *([] if change is None else [eve | change]))
        assert await reason_of(goes) == told
        assert watch.ended == [True], "and the handler is not left behind"
        await asyncio.sleep(0.1)
        assert not stays.done()
        stays.cancel()


async def test_a_stream_ends_with_the_token_of_the_provider(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    public = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(key.public_key()))
    (tmp_path / "keys.json").write_text(json.dumps({"keys": [public | {"kid": "k"}]}))
    oidc = OidcConfig(issuer="i", audience="a", keys_file=str(tmp_path / "keys.json"), leeway_s=0)
    claims = {"iss": "i", "aud": "a", "sub": "ann", "swell_role": "admin", "exp": time.time() + 1.2}
    async with watching(Access(AuthConfig(oidc=oidc, recheck_s=0.05))) as watch:
        call = await watch(jwt.encode(claims, key, "ES256", headers={"kid": "k"}))
        assert await reason_of(call) == ("UNAUTHENTICATED", "TOKEN_EXPIRED")


async def test_a_stream_of_a_local_cluster_is_never_asked_again():
    assert Access(AuthConfig(recheck_s=0.02), token="t").recheck_s is None
