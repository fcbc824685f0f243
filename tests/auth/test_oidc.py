"""Tokens of an OpenID provider: only what it signed, for us, for now."""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import http.server
import json
import threading
import time

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.oidc import REFETCH_S, VERIFIED_S, Oidc, OidcConfig
from services.principals import Principal
from services.refusal import Refusal

ISSUER, AUDIENCE = "https://issuer.example", "swell"


def at(seconds: float) -> float:
    """So many seconds from now."""
    return time.time() + seconds


KEYS = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}
WEAK = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that it is refused is shown


def jwk(algorithm: str, key=None, **more) -> dict:
    key = KEYS[algorithm] if key is None else key
    made = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key()))
    return {name: value for name, value in made.items() if name != "key_ops"} | {"kid": algorithm, "use": "sig"} | more


def claims(**more) -> dict:
    said = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ann", "swell_role": "operator", "exp": at(600)} | more
    return {name: value for name, value in said.items() if value is not None}


def signed(algorithm="ES256", key=None, kid=..., **more) -> str:
    headers = {} if kid is None else {"kid": algorithm if kid is ... else kid}
    return jwt.encode(claims(**more), KEYS[algorithm] if key is None else key, algorithm, headers=headers)


def oidc(folder, *keys, clock=time.monotonic, now=time.time, **more) -> Oidc:
    file = folder / "keys.json"
    file.write_text(json.dumps({"keys": list(keys or [jwk(name) for name in KEYS])}))
    return Oidc(OidcConfig(issuer=ISSUER, audience=AUDIENCE, keys_file=str(file), **more), clock=clock, now=now)


async def refused(verifying: Oidc, token: str) -> str:
    with pytest.raises(Refusal) as caught:
        await verifying.principal(token)
    assert token not in str(caught.value)
    return caught.value.reason


@pytest.mark.parametrize("algorithm", KEYS)
async def test_a_token_of_the_provider_says_who_calls(tmp_path, algorithm):
    verifying = oidc(tmp_path)
    assert await verifying.principal(signed(algorithm)) == Principal("ann", "operator")
    assert await verifying.principal(signed(algorithm, aud=["else", AUDIENCE])) == Principal("ann", "operator")


def unsigned() -> str:
    return jwt.encode(claims(), None, "none", headers={"kid": "ES256"})


def by_secret(secret: bytes, algorithm="HS256", kid="RS256") -> str:
    """Signed with the provider's public key as if it were a secret: by hand, since jwt itself refuses to."""

    def encoded(said) -> bytes:
        return base64.urlsafe_b64encode(json.dumps(said).encode()).rstrip(b"=")

    body = encoded({"alg": algorithm, "kid": kid, "typ": "JWT"}) + b"." + encoded(claims())
    mac = base64.urlsafe_b64encode(hmac.new(secret, body, hashlib.sha256).digest()).rstrip(b"=")
    return (body + b"." + mac).decode()


PUBLIC_PEM = KEYS["RS256"].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (lambda: signed(exp=at(-60)), "TOKEN_EXPIRED"),
        (lambda: signed(exp=None), "TOKEN_INVALID"),
        (lambda: signed(exp="soon"), "TOKEN_INVALID"),
        (lambda: signed(exp=1e400), "TOKEN_INVALID"),
        (lambda: signed(nbf=at(60)), "TOKEN_INVALID"),
        (lambda: signed(iat=at(600)), "TOKEN_INVALID"),
        (lambda: signed(iss="https://else.example"), "TOKEN_INVALID"),
        (lambda: signed(iss=ISSUER + "/"), "TOKEN_INVALID"),
        (lambda: signed(iss=None), "TOKEN_INVALID"),
        (lambda: signed(aud="else"), "TOKEN_INVALID"),
        (lambda: signed(aud=None), "TOKEN_INVALID"),
        (lambda: signed(sub=None), "TOKEN_INVALID"),
        (lambda: signed(sub="a\nb"), "TOKEN_INVALID"),
        (lambda: signed(key=ec.generate_private_key(ec.SECP256R1())), "TOKEN_INVALID"),
        (lambda: signed(kid="unknown"), "TOKEN_KEY_UNKNOWN"),
        (lambda: signed("RS256", kid="ES256"), "TOKEN_KEY_UNKNOWN"),
        (lambda: signed("RS256", key=WEAK, kid="weak"), "TOKEN_KEY_UNKNOWN"),
        (lambda: signed("RS256", kid="secret"), "TOKEN_KEY_UNKNOWN"),
        (unsigned, "TOKEN_INVALID"),
        (lambda: by_secret(PUBLIC_PEM), "TOKEN_INVALID"),
        (lambda: by_secret(PUBLIC_PEM, algorithm="RS256"), "TOKEN_INVALID"),
        (lambda: by_secret(b"0123456789abcdef0123456789abcdef", kid="secret"), "TOKEN_INVALID"),
        (lambda: signed()[:-8] + "AAAAAAAA", "TOKEN_INVALID"),
        (lambda: "a.b.c", "TOKEN_INVALID"),
        (lambda: "..", "TOKEN_INVALID"),
        (lambda: signed(padding="x" * 20_000), "TOKEN_INVALID"),
        (lambda: signed(swell_role=None), "NO_ROLE"),
        (lambda: signed(swell_role="root"), "NO_ROLE"),
        (lambda: signed(swell_role=[]), "NO_ROLE"),
        (lambda: signed(swell_role={"admin": True}), "NO_ROLE"),
    ],
)
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
async def test_any_other_token_is_refused(tmp_path, token, reason):
    keys = [
        *[jwk(name) for name in KEYS],
        jwk("RS256", key=WEAK, kid="weak"),
        {"kty": "oct", "kid": "secret", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"},
    ]
    assert await refused(oidc(tmp_path, *keys), token()) == reason


async def test_clocks_may_be_off_a_little(tmp_path):
    verifying = oidc(tmp_path, leeway_s=30)
    await verifying.principal(signed(exp=at(-10)))
    await verifying.principal(signed(nbf=at(10)))


async def test_the_highest_role_counts(tmp_path):
    found = await oidc(tmp_path, role_claim="roles").principal(signed(roles=["viewer", "other", "admin", 7]))
    assert found.role == "admin"


@pytest.mark.parametrize(("said", "tenants"), [("red", ("red",)), (["red", "blue", "red"], ("red", "blue"))])
async def test_tenants_are_those_of_the_claim(tmp_path, said, tenants):
    assert (await oidc(tmp_path, tenants_claim="groups").principal(signed(groups=said))).tenants == tenants


@pytest.mark.parametrize("said", [None, [], "", [""], [7], "a b", {"red": 1}, ["red"] * 200])
async def test_a_token_that_must_name_tenants_and_names_none_is_not_bound_to_none(tmp_path, said):
    assert await refused(oidc(tmp_path, tenants_claim="groups"), signed(groups=said)) == "NO_TENANT"


async def test_a_token_without_a_key_id_needs_the_only_key(tmp_path):
    await oidc(tmp_path, jwk("ES256")).principal(signed(kid=None))
    assert await refused(oidc(tmp_path, jwk("ES256"), jwk("ES256", kid="b")), signed(kid=None)) == "TOKEN_KEY_UNKNOWN"


async def test_what_was_verified_is_remembered_and_not_beyond_its_end(tmp_path):
    passed = [0.0]
    verifying = oidc(tmp_path, clock=lambda: passed[0], now=lambda: at(passed[0]), leeway_s=0.0)
    token = signed(exp=at(5))
    await verifying.principal(token)
    verifying._keys = None
    await verifying.principal(token)
    passed[0] = 6.0
    with pytest.raises(AttributeError):
        await verifying.principal(token)
    passed[0] = VERIFIED_S + 1


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"audience": "", "keys_file": "x"}, "audience is missing"),
        ({}, "either keys_file or keys_url"),
        ({"keys_file": "x", "keys_url": "https://x/"}, "either keys_file or keys_url"),
        ({"keys_url": "http://issuer.example/keys"}, "https://host/path"),
        ({"keys_url": "file:///etc/passwd"}, "https://host/path"),
        ({"keys_url": "https://"}, "https://host/path"),
        ({"keys_file": "/does/not/exist"}, "cannot be read"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        Oidc(OidcConfig(**({"issuer": ISSUER, "audience": AUDIENCE} | settings)))


@pytest.mark.parametrize(
    "data", ["", "[]", "{}", '{"keys": []}', '{"keys": [{"kty": "oct", "k": "eA"}]}', "[" * 50_000]
)
def test_a_file_without_keys_is_refused(tmp_path, data):
    file = tmp_path / "keys.json"
    file.write_text(data)
    with pytest.raises(ValueError, match="keys_file"):
        Oidc(OidcConfig(issuer=ISSUER, audience=AUDIENCE, keys_file=str(file)))


# From a URL


class Provider:
    """Keys over HTTP; `keys` are what it answers with."""

    def __init__(self):
        self.keys = [jwk("ES256")]
        self.asked = 0
        self.status = 200
        provider = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                provider.asked += 1
                self.send_response(provider.status)
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(json.dumps({"keys": provider.keys}).encode())

            def log_message(self, *_):
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/keys"

    @contextlib.contextmanager
    def answering(self):
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self._server.shutdown()
            thread.join()
            self._server.server_close()


@pytest.fixture
def provider():
    with Provider().answering() as made:
        yield made


async def test_keys_are_fetched_once_and_again_for_a_key_that_is_unknown_but_not_often(provider):
    passed = [0.0]
    verifying = Oidc(OidcConfig(issuer=ISSUER, audience=AUDIENCE, keys_url=provider.url), clock=lambda: passed[0])
    await asyncio.gather(*(verifying.principal(signed(sub=f"u{n}")) for n in range(20)))
    assert provider.asked == 1
    provider.keys = [jwk("EdDSA")]
    for _ in range(5):
        assert await refused(verifying, signed("EdDSA")) == "TOKEN_KEY_UNKNOWN"
    assert provider.asked == 1, "whoever sends unknown keys does not make us ask"
    passed[0] = REFETCH_S
    assert (await verifying.principal(signed("EdDSA"))).name == "ann"
    assert provider.asked == 2
    passed[0] += VERIFIED_S
    assert await refused(verifying, signed(sub="u1")) == "TOKEN_KEY_UNKNOWN", "a key that is gone verifies nothing"


@pytest.mark.parametrize("status", [302, 500])
async def test_a_provider_that_fails_leaves_the_former_keys_in_force(provider, status):
    passed = [0.0]
    verifying = Oidc(OidcConfig(issuer=ISSUER, audience=AUDIENCE, keys_url=provider.url), clock=lambda: passed[0])
    await verifying.principal(signed())
    provider.status = status
    passed[0] = 10_000.0
    assert (await verifying.principal(signed(sub="bob"))).name == "bob"
    assert await refused(verifying, signed("EdDSA")) == "TOKEN_KEY_UNKNOWN"
    assert (await verifying.principal(signed(sub="eve"))).name == "eve"
