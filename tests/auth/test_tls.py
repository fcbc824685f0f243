"""Certificates are taken as they are renewed; what cannot be used is refused, and the former stays in force."""

import asyncio
import time
from datetime import timedelta

import grpc
import grpc.aio
import pytest
from certificates import Authority
from structlog.testing import capture_logs

from services.access import anybody
from services.metrics import Exposition
from services.rpc import BindError, Health, create_server, probed, serve
from services.tls import Certificates, TlsConfig, TlsError, certificates_of

HOUR = timedelta(hours=1)


@pytest.fixture(scope="module")
def authority():
    return Authority()


def configured(folder, **more) -> TlsConfig:
    return TlsConfig(certificate_file=str(folder / "tls.crt"), key_file=str(folder / "tls.key"), **more)


class Served:
    """A server with TLS; `whose` is the certificate that a fresh connection sees."""

    def __init__(self, authority, port):
        self._authority = authority
        self.port = port

    def channel(self, client=None):
        shown = (None, None) if client is None else (client.key_pem, client.pem)
        protected = grpc.ssl_channel_credentials(self._authority.pem, *shown)
        return grpc.aio.secure_channel(f"127.0.0.1:{self.port}", protected)

    async def check(self, client=None):
        async with self.channel(client) as channel:
            return await channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=5)

    async def whose(self) -> bytes:
        return await asyncio.to_thread(self._certificate)

    def _certificate(self) -> bytes:
        import ssl

        return ssl.get_server_certificate(("127.0.0.1", self.port)).encode()


async def served(stack, authority, config):
    server = create_server(access=anybody(), max_message_bytes=1000, concurrent_rpcs=10)
    port = await serve(server, "127.0.0.1:0", ["x.Y"], Health(["x.Y"]), Certificates(config))
    stack.push_async_callback(server.stop, 0)
    return Served(authority, port)


@pytest.fixture
async def stack():
    import contextlib

    async with contextlib.AsyncExitStack() as made:
        yield made


async def test_a_renewed_certificate_is_taken_and_open_connections_go_on(authority, tmp_path, stack):
    first = authority.make()
    first.write(tmp_path)
    server = await served(stack, authority, configured(tmp_path))
    async with server.channel() as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        await check(b"")
        assert await server.whose() == first.pem
        second = authority.make()
        second.write(tmp_path)
        assert await server.whose() == second.pem
        await check(b"")


async def test_a_mounted_secret_is_swapped_as_a_whole(authority, tmp_path, stack):
    """As Kubernetes does it: files are links into ..data, which is a link that is replaced."""
    made = [authority.make(), authority.make()]
    for number, one in enumerate(made):
        (tmp_path / f"..{number}").mkdir()
        one.write(tmp_path / f"..{number}")
    (tmp_path / "..data").symlink_to("..0")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    server = await served(stack, authority, configured(tmp_path))
    assert await server.whose() == made[0].pem
    (tmp_path / "..fresh").symlink_to("..1")
    (tmp_path / "..fresh").replace(tmp_path / "..data")
    assert await server.whose() == made[1].pem


@pytest.mark.parametrize("how", ["half", "expired", "no_pem", "gone"])
async def test_a_pair_that_cannot_be_used_leaves_the_former_in_force_and_says_so_once(authority, tmp_path, stack, how):
    first = authority.make()
    certificate, key = first.write(tmp_path)
    server = await served(stack, authority, configured(tmp_path))
    match how:
        case "half":
            key.write_bytes(authority.make().key_pem)
        case "expired":
            authority.make(ends=-HOUR).write(tmp_path)
        case "no_pem":
            certificate.write_bytes(b"-----BEGIN CERTIFICATE-----\nx")
        case "gone":
            certificate.unlink()
    with capture_logs() as told:
        assert await server.whose() == first.pem
        assert await server.whose() == first.pem
    assert [(line["event"], line["log_level"]) for line in told] == [("watched.refused", "error")]
    second = authority.make()
    second.write(tmp_path)
    assert await server.whose() == second.pem


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ({"ends": -HOUR}, "expired at .*renew it, or set the clock"),
        ({"key": b"nothing"}, "holds no private key"),
        ({"certificate": b"nothing"}, "holds no certificate"),
        ({"other_key": True}, "is not the key of"),
        ({"missing": True}, "tls.crt cannot be read"),
        ({"big": True}, "larger than"),
    ],
)
def test_what_cannot_be_used_at_the_start_is_an_error_that_says_what_to_do(authority, tmp_path, made, told):
    one = authority.make(**{name: made[name] for name in ("ends",) if name in made})
    certificate, key = one.write(tmp_path)
    match made:
        case {"key": data}:
            key.write_bytes(data)
        case {"certificate": data}:
            certificate.write_bytes(data)
        case {"other_key": True}:
            key.write_bytes(authority.key_pem)
        case {"missing": True}:
            certificate.unlink()
        case {"big": True}:
            certificate.write_bytes(one.pem + b"\n" * 2_000_000)
        case _:
            pass
    with pytest.raises(TlsError, match=told):
        Certificates(configured(tmp_path))


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (TlsConfig(certificate_file="x"), "needs both"),
        (TlsConfig(require_client_certificate=True), "needs both"),
        (TlsConfig(certificate_file="x", key_file="y", client_ca_file="z"), "belong together"),
        (TlsConfig(certificate_file="x", key_file="y", require_client_certificate=True), "belong together"),
    ],
)
def test_settings_that_do_not_fit_together_are_refused(config, told):
    with pytest.raises(TlsError, match=told):
        Certificates(config)


def test_a_certificate_of_tomorrow_is_a_warning(authority, tmp_path):
    authority.make(begins=HOUR).write(tmp_path)
    with capture_logs() as told:
        Certificates(configured(tmp_path))
    assert [line["event"] for line in told] == ["tls.not_valid_yet"]


def test_the_expiry_is_a_series(authority, tmp_path):
    authority.make(ends=HOUR).write(tmp_path)
    exposition = Exposition("ledger")
    certificates = certificates_of(configured(tmp_path), exposition)
    assert abs(certificates.expires_s() - time.time() - 3600) < 60
    assert "swell_tls_certificate_expiry_timestamp_seconds" in {one.name for one in exposition.series}


async def test_a_client_without_a_certificate_of_the_authority_is_turned_away(authority, tmp_path, stack):
    authority.make().write(tmp_path)
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    config = configured(tmp_path, client_ca_file=str(tmp_path / "ca.crt"), require_client_certificate=True)
    server = await served(stack, authority, config)
    await server.check(authority.make("ann", []))
    for wrong in (None, Authority("another").make("ann", [])):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await server.check(wrong)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_probes_without_tls_get_health_and_nothing_else(tmp_path):
    probe = Health(["x.Y"])
    server = create_server(access=anybody(), max_message_bytes=1000, concurrent_rpcs=10)
    await serve(server, "127.0.0.1:0", ["x.Y"], probe)
    async with probed("127.0.0.1:0", probe) as port, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x02"
        await probe.say(True)
        assert await channel.unary_unary("/grpc.health.v1.Health/Check")(b"") == b"\x08\x01"
        for method in ("/grpc.health.v1.Health/Watch", "/x.Y/One"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(method)(b"")
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(BindError, match="health_address"):
            async with probed(f"127.0.0.1:{port}", probe):
                pass
    await server.stop(0)
