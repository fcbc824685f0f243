"""What TLS and knowing who calls cost: unary calls a second over loopback, in the clear and protected, side by side.

One server process with four ports and one client process take turns; every variant is measured once in each round, and the
median of its rounds counts. The call does nothing, so a real one pays relatively less.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from services.access import Access, AuthConfig, anybody
from services.oidc import OidcConfig
from services.rpc import Health, create_server, serve
from services.tls import Certificates, TlsConfig

ROUNDS = 7
CALLS = 2_000
AT_ONCE = 40
METHOD = "/swell.ledger.v1.LedgerService/GetStatus"
ISSUER, AUDIENCE, TOKEN = "https://issuer.example", "swell", "bench"
NEVER_FULL = {"requests_per_second": 1e9, "burst": 10**9}


def measure() -> list[dict[str, Any]]:
    """Rows of name, value, unit, baseline and ratio; the baseline is plain text with no question who calls."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        tokens = written(folder)
        with subprocess.Popen([sys.executable, "-m", "benchmarks.auth", scratch], stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            try:
                ports = json.loads(server.stdout.readline())
                found = asyncio.run(_measured(ports, tokens, (folder / "tls.crt").read_bytes()))
            finally:
                server.terminate()
    plain = found["plain"]
    return [
        {"name": f"{name}, unary calls", "value": value, "unit": "/s", "baseline": plain, "ratio": value / plain}
        for name, value in found.items()
    ]


async def _measured(ports: dict[str, int], tokens: dict[str, str], authority: bytes) -> dict[str, float]:
    samples: dict[str, list[float]] = {name: [] for name in ports}
    protected = grpc.ssl_channel_credentials(authority)
    for turn in range(ROUNDS + 1):
        for name, port in ports.items():
            at = f"127.0.0.1:{port}"
            channel = grpc.aio.insecure_channel(at) if name == "plain" else grpc.aio.secure_channel(at, protected)
            async with channel:
                rate = await _rate(channel, tokens.get(name))
            if turn:  # the first is for warming up
                samples[name].append(rate)
    return {name: statistics.median(rates) for name, rates in samples.items()}


async def _rate(channel: grpc.aio.Channel, token: str | None) -> float:
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    call = channel.unary_unary(METHOD)
    left = iter(range(CALLS))

    async def calling() -> None:
        for _ in left:
            await call(b"", metadata=metadata)

    began = time.perf_counter()
    await asyncio.gather(*(calling() for _ in range(AT_ONCE)))
    return CALLS / (time.perf_counter() - began)


async def _serving(folder: Path) -> None:
    tls = TlsConfig(certificate_file=str(folder / "tls.crt"), key_file=str(folder / "tls.key"))
    oidc = OidcConfig(issuer=ISSUER, audience=AUDIENCE, keys_file=str(folder / "keys.json"))
    listed = AuthConfig(principals_file=str(folder / "principals.json"), **NEVER_FULL)
    variants = {
        "plain": (anybody(), None),
        "TLS": (anybody(), tls),
        "TLS, token": (Access(listed), tls),
        "TLS, JWT": (Access(AuthConfig(oidc=oidc, **NEVER_FULL)), tls),
    }
    ports, kept = {}, []
    for name, (access, config) in variants.items():
        server = create_server(access=access, max_message_bytes=1000, concurrent_rpcs=1000)
        handlers = {"GetStatus": grpc.unary_unary_rpc_method_handler(_answer)}
        kept.append(server)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("swell.ledger.v1.LedgerService", handlers),)
        )
        certificates = None if config is None else Certificates(config)
        ports[name] = await serve(server, "127.0.0.1:0", [], Health([]), certificates)
    print(json.dumps(ports), flush=True)
    await asyncio.Event().wait()


async def _answer(request: bytes, _context: Any) -> bytes:
    return request


def written(folder: Path) -> dict[str, str]:
    """Write certificate, keys and principals; the token of each variant that sends one."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "tls.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "tls.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    listed = {"name": "bench", "role": "viewer", "token_sha256": hashlib.sha256(TOKEN.encode()).hexdigest()}
    (folder / "principals.json").write_text(json.dumps({"principals": [listed]}))
    public = json.loads(jwt.get_algorithm_by_name("ES256").to_jwk(key.public_key()))
    (folder / "keys.json").write_text(json.dumps({"keys": [public | {"kid": "k"}]}))
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bench", "swell_role": "viewer", "exp": time.time() + 3600}
    return {"TLS, token": TOKEN, "TLS, JWT": jwt.encode(claims, key, "ES256", headers={"kid": "k"})}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as serving:
        serving.run(_serving(Path(sys.argv[1])))
