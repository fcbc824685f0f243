"""How the bus is reached: TLS, certificates and passwords that change, settings that cannot work, servers that are unfit."""

import asyncio
import base64
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import time

import nkeys
import pytest
from nats.aio.client import Client
from test_jetstream import connected, eventually, server_that_says

from services.bus import EVENTS, Bus, BusConfig, BusError, BusUnavailableError
from services.bus_config import unsynced

SOON_S = 3.0


def openssl(folder, *arguments):
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)


class Authority:
    """Signs certificates for this machine."""

    def __init__(self, folder):
        folder.mkdir()
        self.folder = folder
        self.file = folder / "ca.pem"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._new = ("req", *curve)
        openssl(
            folder,
            *self._new,
            "-x509",
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
            "-subj",
            f"/CN={folder.name}",
            "-days",
            "2",
        )

    def sign(self, name, alternative="IP:127.0.0.1", days=2):
        """A certificate and its key."""
        openssl(self.folder, *self._new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (self.folder / "ext").write_text(f"subjectAltName={alternative}\n")
        openssl(
            self.folder, "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
            "-days", str(days), "-extfile", "ext", "-out", f"{name}.pem",
        )  # fmt: skip
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """It has signed a server, one that has expired, one of another name, and a client."""
    made = Authority(tmp_path_factory.mktemp("tls") / "one")
    made.sign("server")
    made.sign("expired", days=-1)
    made.sign("elsewhere", "DNS:nats.example")
    made.sign("client", "DNS:client")
    return made


@pytest.fixture
def serving(nats_server, tmp_path):
    """Start a server with more configuration."""
    made = []

    def start(more="", authorization=None):
        server = type(nats_server)(tmp_path)
        server.more = more
        server.authorization = server.authorization if authorization is None else authorization
        server.start()
        made.append(server)
        return server

    yield start
    for server in made:
        server.kill()


def tls(authority, name="server", more=""):
    return f'tls {{ cert_file: "{authority.folder}/{name}.pem", key_file: "{authority.folder}/{name}.key" {more} }}'


def over_tls(server, **changes):
    return server.config(url=server.url.replace("nats:", "tls:"), **changes)


async def refused(config, match):
    """Why a connection does not come about, told long before the time is up."""
    before = time.monotonic()
    with pytest.raises(BusError, match=match) as found:
        await Bus.connect(config, name="test")
    assert not isinstance(found.value, BusUnavailableError)
    assert time.monotonic() - before < SOON_S


# TLS


async def test_tls_with_a_known_authority(serving, authority):
    server = serving(tls(authority))
    for config in (over_tls(server, ca_file=authority.file), server.config(ca_file=authority.file)):
        bus = await Bus.connect(config, name="test")
        await bus.ensure_streams()
        assert bus._nc._transport._io_writer.get_extra_info("ssl_object").version() == "TLSv1.3"
        await bus.close()


@pytest.mark.parametrize(
    ("certificate", "changes", "match"),
    [
        ("server", {}, "signed by nobody known here: set ca_file"),
        ("expired", {"ca_file": True}, "has expired: renew it on the servers, or mend this machine's clock"),
        ("elsewhere", {"ca_file": True}, "for another name: write that name into url, or set tls_name"),
    ],
)
async def test_a_certificate_that_proves_nothing(serving, authority, certificate, changes, match):
    server = serving(tls(authority, certificate))
    await refused(over_tls(server, **dict.fromkeys(changes, authority.file)), match)


async def test_a_name_that_is_said_beside(serving, authority):
    server = serving(tls(authority, "elsewhere"))
    await (await Bus.connect(over_tls(server, ca_file=authority.file, tls_name="nats.example"), name="test")).close()


async def test_a_server_that_requires_tls_says_what_to_set(serving, authority):
    await refused(serving(tls(authority)).config(), "requires TLS: write tls:// into url, and set ca_file")


async def test_nothing_is_said_without_tls_where_it_was_wanted(authority, tmp_path):
    """Whoever sits between could take it away; no password may reach them."""
    (tmp_path / "password").write_text("secret-of-ours")
    info = {"server_id": "x", "version": "2.15.1", "proto": 1, "max_payload": 1048576, "headers": True}
    heard = []
    async with server_that_says(info, heard) as url:
        config = BusConfig(url=url, user="u", password_file=tmp_path / "password", ca_file=authority.file)
        await refused(config, "does not ask for TLS: give the servers a tls block")
    assert b"secret-of-ours" not in b"".join(heard)
    assert not any(line.startswith(b"CONNECT") for line in heard)


async def test_a_server_that_asks_for_our_certificate(serving, authority):
    server = serving(tls(authority, more=f', ca_file: "{authority.file}", verify: true'))
    await refused(over_tls(server, ca_file=authority.file), "certificate of ours.*check certificate_file and key_file")
    own = {"certificate_file": authority.folder / "client.pem", "key_file": authority.folder / "client.key"}
    await (await Bus.connect(over_tls(server, ca_file=authority.file, **own), name="test")).close()


# What changes while we are connected


async def test_a_password_is_replaced_without_a_restart(serving):
    """The server takes the new one and ends the connection; we come back with what the file then holds."""
    server = serving()
    async with connected(server) as bus:
        await bus.ensure_streams()
        old = server.password_file.read_text().strip()
        server.password_file.write_text("another-one")
        conf = server.folder / "nats.conf"
        conf.write_text(conf.read_text().replace(old, "another-one"))
        os.kill(server.process.pid, signal.SIGHUP)
        await eventually(lambda: asyncio.sleep(0, bus.revision == 1 and bus.connected))
        assert await bus.append("swell.event.r1.run", b"1", expect=0) == 1


async def test_an_authority_is_replaced_without_a_restart(serving, authority, tmp_path):
    trusted = tmp_path / "trusted.pem"
    shutil.copy(authority.file, trusted)
    server = serving(tls(authority))
    bus = await Bus.connect(over_tls(server, ca_file=trusted), name="test")
    never = await Bus.connect(over_tls(server, ca_file=authority.file), name="test")
    await bus.ensure_streams()
    other = Authority(tmp_path / "other")
    other.sign("server")
    server.kill()
    server.more = tls(other)
    server.start()
    await asyncio.sleep(0.5)
    assert not bus.connected
    async with asyncio.timeout(SOON_S):
        await never.close()
    shutil.copy(other.file, trusted)
    await eventually(lambda: asyncio.sleep(0, bus.connected))
    assert await bus.append("swell.event.r1.run", b"1", expect=0) == 1
    await bus.close()


async def test_several_servers_are_tried(serving):
    """Two are not there."""
    server = serving()
    for _ in range(5):  # which is tried first is drawn
        bus = await Bus.connect(server.config(url=f"nats://127.0.0.1:1, {server.url},nats://127.0.0.1:2"), name="test")
        assert bus.connected
        await bus.close()


async def test_one_server_whose_certificate_has_expired_is_not_the_end(serving, nats_server, authority, tmp_path):
    good = serving(tls(authority))
    (tmp_path / "bad").mkdir()
    bad = type(nats_server)(tmp_path / "bad")
    bad.authorization, bad.more = good.authorization, tls(authority, "expired")
    bad.start()
    for _ in range(5):
        bus = await Bus.connect(good.config(url=f"{bad.url},{good.url}", ca_file=authority.file), name="test")
        assert bus._nc.connected_url.port == good.port
        await bus.close()
    bad.kill()


# Credentials files


def signed(claims, seed, subject, kind):
    """A JWT as NATS has them."""
    pair = nkeys.from_seed(bytearray(seed))
    body = {"iat": int(time.time()), "iss": pair.public_key.decode(), "sub": subject, "name": kind}
    body["nats"] = {"type": kind, "version": 2, **claims}
    body["jti"] = hashlib.sha256(json.dumps(body).encode()).hexdigest()

    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    text = part(b'{"typ":"JWT","alg":"ed25519-nkey"}') + b"." + part(json.dumps(body).encode())
    return (text + b"." + part(pair.sign(text))).decode()


def made_seed(prefix):
    return bytes(nkeys.encode_seed(os.urandom(32), prefix))


def public(seed):
    return nkeys.from_seed(bytearray(seed)).public_key.decode()


async def test_a_credentials_file(serving, tmp_path):
    operator, user = made_seed(nkeys.PREFIX_BYTE_OPERATOR), made_seed(nkeys.PREFIX_BYTE_USER)
    account, system = made_seed(nkeys.PREFIX_BYTE_ACCOUNT), made_seed(nkeys.PREFIX_BYTE_ACCOUNT)
    free = {
        "subs": -1,
        "data": -1,
        "payload": -1,
        "imports": -1,
        "exports": -1,
        "wildcards": True,
        "conn": -1,
        "leaf": -1,
    }
    limits = free | {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    (tmp_path / "operator.jwt").write_text(signed({}, operator, public(operator), "operator"))
    of_system = signed({"limits": free}, operator, public(system), "account")
    of_account = signed({"limits": limits}, operator, public(account), "account")
    given = {"subs": -1, "data": -1, "payload": -1, "pub": {}, "sub": {"allow": ["_INBOX_swell-scheduler.>"]}}
    of_user = signed(given, account, public(user), "user")
    server = serving(
        authorization=f'operator: "{tmp_path / "operator.jwt"}"\nresolver: MEMORY\n'
        f"system_account: {public(system)}\n"
        f"resolver_preload: {{ {public(account)}: {of_account}, {public(system)}: {of_system} }}"
    )
    creds = tmp_path / "swell.creds"
    creds.write_text(
        f"-----BEGIN NATS USER JWT-----\n{of_user}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{user.decode()}\n------END USER NKEY SEED------\n"
    )
    bus = await Bus.connect(BusConfig(url=server.url, user="swell-scheduler", credentials_file=creds), name="test")
    await bus.ensure_streams()
    assert await bus.append("swell.event.r1.run", b"1", expect=0) == 1
    await bus.close()
    stranger = made_seed(nkeys.PREFIX_BYTE_USER)
    creds.write_text(creds.read_text().replace(user.decode(), stranger.decode()))
    await refused(BusConfig(url=server.url, credentials_file=creds), "refused user ''.*credentials_file")


# Settings that cannot work


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"url": "nats://u:p@h:4222"}, "bus.url must be nats://host:port.*without user"),
        ({"url": "http://h:4222"}, "bus.url must be nats://host:port or tls://"),
        ({"url": "nats://h:4222,,"}, "several with commas"),
        (
            {"password_file": "missing", "user": "u"},
            r"bus.password_file .*missing cannot be read \(No such file.*create it",
        ),
        ({"password_file": "empty", "user": "u"}, "is empty: write the password alone into it"),
        ({"password_file": "binary", "user": "u"}, "is not text"),
        ({"password_file": "empty"}, "bus.user is not: set user"),
        ({"password_file": "junk", "credentials_file": "junk", "user": "u"}, "both set: set one"),
        ({"credentials_file": "junk"}, "no .creds file: write one with `nsc generate creds`"),
        ({"credentials_file": "missing"}, "bus.credentials_file .*missing cannot be read"),
        ({"certificate_file": "junk"}, "belong together"),
        ({"certificate_file": "junk", "key_file": "junk"}, "write a PEM certificate and its own key"),
        ({"certificate_file": "missing", "key_file": "junk"}, "bus.certificate_file .*missing cannot be read"),
        ({"ca_file": "junk"}, "holds no certificate"),
        ({"ca_file": "large"}, "is larger than 65536 bytes"),
    ],
)
async def test_settings_that_cannot_work_are_told_before_anything_is_said(tmp_path, changes, match):
    for name, content in (("empty", b" \n"), ("junk", b"junk"), ("binary", b"\xff\xfe"), ("large", bytes(70_000))):
        (tmp_path / name).write_bytes(content)
    settings = {key: tmp_path / value if key.endswith("_file") else value for key, value in changes.items()}
    await refused(BusConfig(**{"url": "nats://127.0.0.1:1", **settings}), match)


# Servers that are unfit

ACCOUNTS = """
accounts {
  A: { jetstream: enabled, users: [ { user: a, password: "x" } ] }
  B: { users: [ { user: b, password: "x" } ] }
}
"""


async def test_an_account_without_jetstream_is_named(serving, tmp_path):
    server = serving(authorization=ACCOUNTS)
    (tmp_path / "x").write_text("x")
    bus = await Bus.connect(BusConfig(url=server.url, user="b", password_file=tmp_path / "x"), name="test")
    with pytest.raises(BusError, match=r"the account of user 'b' at .* has no JetStream: use a user of the account"):
        await bus.ensure_streams()
    await bus.close()


async def test_a_server_without_jetstream_is_named(tmp_path, nats_server):
    server = type(nats_server)(tmp_path)
    server.jetstream = ""
    server.start()
    async with connected(server) as bus:
        with pytest.raises(BusError, match="has no JetStream: give it a jetstream block") as found:
            await bus.ensure_streams()
        assert not isinstance(found.value, BusUnavailableError)
    server.kill()


async def test_a_server_that_takes_small_messages_only(serving):
    await refused(
        serving("max_payload: 64KB").config(), "takes messages of 65536 bytes, Swell needs 524288: raise its max_pay"
    )


async def test_copies_on_a_single_server(serving):
    async with connected(serving(), replicas=3) as bus:
        with pytest.raises(BusError, match=r"cannot have 3 copies on one server .*set bus.replicas = 1"):
            await bus.ensure_streams()


async def test_a_stream_with_fewer_copies_than_is_said(serving):
    server = serving()
    async with connected(server) as bus, connected(server, replicas=3) as other:
        await bus.ensure_streams()
        with pytest.raises(BusError, match=f"{EVENTS}.*num_replicas is 1, must be 3"):
            await other.find_streams(EVENTS)


# One copy on one disk


@pytest.mark.parametrize(
    ("sync", "monitored", "settings", "match"),
    [
        (", sync_interval: always", True, {}, ""),
        (
            "",
            True,
            {},
            "syncs it every 120 s only: what it acknowledged since is lost in a power cut.*sync_interval: always",
        ),
        ("", True, {"synced": True}, "every 120 s only"),
        ("", False, {}, "whether the server syncs it to its disk is not known here.*bus.replicas = 3"),
        ("", False, {"synced": True}, ""),
        ("", False, {"replicas": 3}, ""),
        ("", False, {"monitoring_url": "http://127.0.0.1:1"}, "does not tell"),
        ("", False, {"monitoring_url": "ftp://x"}, "does not tell"),
    ],
)
async def test_what_a_power_cut_may_take_is_warned_of(nats_server, tmp_path, sync, monitored, settings, match):
    found = dict(settings)
    server = None
    if monitored:
        server = type(nats_server)(tmp_path)
        server.jetstream = f'jetstream {{ store_dir: "{tmp_path}/store"{sync} }}\nhttp: "127.0.0.1:-1"'
        server.start()
        [ports] = [json.loads(file.read_text()) for file in (tmp_path / "ports").iterdir()]
        found["monitoring_url"] = ports["monitoring"][0]
    said = await unsynced(BusConfig(**found))
    if server is not None:
        server.kill()
    assert bool(said) == bool(match)
    assert re.search(match, said)


async def test_nobody_hears_anothers_answers_by_default():
    """Each user's inbox is its own, and stays what its name says, whatever that is."""
    names = {BusConfig(user=user).inbox for user in ("", "swell-ledger", "swell-executor-gpu@e1", "a.b*", "CN=x y")}
    assert names == {"_INBOX", "_INBOX_swell-ledger", "_INBOX_swell-executor-gpu@e1", "_INBOX_a-b-", "_INBOX_CN=x-y"}
    for name in names:
        client = Client()
        client._inbox_prefix = bytearray(name.encode())
        assert client.new_inbox().startswith(f"{name}.")
