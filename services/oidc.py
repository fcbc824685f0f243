"""Bearer tokens of an OpenID provider: JWTs, verified by the provider's public keys. The only module that imports jwt.

A token counts only if an asymmetric algorithm of ALGORITHMS signed it, by a key that is made for this algorithm, for our
audience, by our issuer, and for now. Keys come from a file or a URL; from a URL they are fetched anew as they age, and when
a token names a key that is not among them, but only every so often, whoever sends such tokens.
"""

import asyncio
import hashlib
import ssl
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Protocol
from urllib.parse import urlsplit

import jwt
import msgspec
import structlog
from msgspec import Meta

from services.address import is_loopback
from services.labels import tenant_problem
from services.principals import NAME_CHARACTERS_MAX, Principal
from services.refusal import forbidden, unauthenticated
from services.roles import ROLES
from services.watched import BYTES_MAX, Watched

log = structlog.get_logger()

ALGORITHMS: Final[Mapping[str, tuple[str, str]]] = {
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", "")),
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
}
"""What may sign a token, with type and curve of the keys it is made for. Nothing that one secret both signs and verifies."""

TOKEN_CHARACTERS_MAX: Final = 16 * 1024
KEYS_MAX: Final = 100
RSA_BITS_MIN: Final = 2048
FETCH_TIMEOUT_S: Final = 5.0
KEYS_AGE_S: Final = 600.0
"""Keys that are older are fetched anew; until that succeeds, the old ones count."""
REFETCH_S: Final = 10.0
"""How often keys are fetched, at most."""
VERIFIED_MAX: Final = 4096
VERIFIED_S: Final = 60.0
"""For how long a verified token is not verified again: at most, and never beyond its own end."""
TENANTS_MAX: Final = 100


class OidcConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Tokens of an OpenID provider; "" for a text is none.

    `issuer`: what `iss` must be. Default none: no such tokens.
    `audience`: what `aud` must name. Required with `issuer`.
    `keys_file`: the provider's keys, a JWKS as JSON; read anew when it changes. Default none.
    `keys_url`: where they are fetched from instead; https, or http on this machine. Default none.
    `name_claim`: the claim that names the caller in the log. Default "sub".
    `role_claim`: the claim that holds the role, or a list of which the highest role counts. Default "swell_role".
    `tenants_claim`: the claim that holds the tenants, a text or a list. Default none: every caller is bound to none.
    `leeway_s`: how far the provider's clock may be off, seconds. Default 30.
    """

    issuer: str = ""
    audience: str = ""
    keys_file: str = ""
    keys_url: str = ""
    name_claim: str = "sub"
    role_claim: str = "swell_role"
    tenants_claim: str = ""
    leeway_s: Annotated[float, Meta(ge=0, le=300)] = 30.0


class _Key(msgspec.Struct, frozen=True):
    """A public key: its id, the algorithms that it may verify, and itself."""

    id: str
    algorithms: frozenset[str]
    public: Any


class _Keys(Protocol):
    async def find(self, key_id: str, algorithm: str) -> _Key | None:
        """The key of a token, which may name none; None when there is none."""


class Oidc:
    """Verifies tokens of one provider."""

    def __init__(
        self,
        config: OidcConfig,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`now` is Unix time, `clock` only grows. Raises ValueError for settings or a file that cannot be used."""
        if not config.audience:
            raise ValueError("[auth.oidc] audience is missing: set what the provider writes into `aud` for Swell")
        if bool(config.keys_file) == bool(config.keys_url):
            raise ValueError("[auth.oidc] needs either keys_file or keys_url: set one of them")
        if not config.name_claim or not config.role_claim:
            raise ValueError("[auth.oidc] name_claim and role_claim must name claims: set them, or leave them out")
        self._config = config
        self._now = now
        self._clock = clock
        self._keys: _Keys = (
            _FromFile(Path(config.keys_file)) if config.keys_file else _FromUrl(config.keys_url, clock=clock)
        )
        self._verified: OrderedDict[bytes, tuple[float, float, Principal]] = OrderedDict()

    @property
    def watched(self) -> dict[str, Watched[Any]]:
        """The files that are read anew when they change, by what they are for."""
        return {"oidc_keys": self._keys.watched} if isinstance(self._keys, _FromFile) else {}

    async def principal(self, token: str) -> Principal:
        """Whose token this is. Raises Refusal."""
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise unauthenticated("TOKEN_INVALID", "the token is too long")
        digest = hashlib.sha256(token.encode()).digest()
        known = self._verified.get(digest)
        if known is not None and self._now() < known[0] and self._clock() < known[1]:
            return known[2]
        claims = await self._claims(token)
        principal = self._principal(claims)
        self._verified[digest] = float(claims["exp"]), self._clock() + VERIFIED_S, principal
        self._verified.move_to_end(digest)
        if len(self._verified) > VERIFIED_MAX:
            self._verified.popitem(last=False)
        return principal

    async def _claims(self, token: str) -> dict[str, Any]:
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise unauthenticated("TOKEN_INVALID", "the token is none of ours, and no JWT") from error
        algorithm, key_id = header.get("alg"), header.get("kid", "")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or not isinstance(key_id, str):
            raise unauthenticated(
                "TOKEN_INVALID",
                f"the token is signed by an algorithm that is not taken: use one of {', '.join(ALGORITHMS)}",
            )
        key = await self._keys.find(key_id, algorithm)
        if key is None:
            raise unauthenticated(
                "TOKEN_KEY_UNKNOWN",
                "the provider has no key that signed the token: ask it for a fresh one, then try again",
            )
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.public,
                algorithms=[algorithm],
                issuer=self._config.issuer,
                audience=self._config.audience,
                leeway=self._config.leeway_s,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.ExpiredSignatureError as error:
            raise unauthenticated(
                "TOKEN_EXPIRED", "the token has expired: get a fresh one from its provider"
            ) from error
        except jwt.InvalidIssuerError as error:
            raise unauthenticated("TOKEN_INVALID", "the token is of another issuer") from error
        except jwt.InvalidAudienceError as error:
            raise unauthenticated(
                "TOKEN_INVALID",
                f"the token is not made for {self._config.audience!r}: ask its provider for that audience",
            ) from error
        except jwt.ImmatureSignatureError as error:
            raise unauthenticated("TOKEN_INVALID", "the token is not valid yet: check the clocks") from error
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError) as error:
            raise unauthenticated("TOKEN_INVALID", "the token is not what its provider signs") from error
        return claims

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        config = self._config
        name = claims.get(config.name_claim)
        if not isinstance(name, str) or not name or len(name) > NAME_CHARACTERS_MAX or not name.isprintable():
            raise unauthenticated(
                "TOKEN_INVALID", f"the token names nobody: its claim {config.name_claim!r} is missing"
            )
        said = claims.get(config.role_claim)
        said = said if isinstance(said, list) else [said]
        roles = [role for role in ROLES if role in said]
        if not roles:
            raise forbidden(
                "NO_ROLE",
                f"the token of {name} gives no role: its claim {config.role_claim!r} must be one of {', '.join(ROLES)}",
                name,
            )
        return Principal(name, roles[-1], self._tenants(name, claims))

    def _tenants(self, name: str, claims: Mapping[str, Any]) -> tuple[str, ...]:
        """The tenants that the token names. One that must name some and names none is bound to none: it is refused."""
        if not self._config.tenants_claim:
            return ()
        said = claims.get(self._config.tenants_claim)
        said = [said] if isinstance(said, str) else said
        usable = isinstance(said, list) and 0 < len(said) <= TENANTS_MAX
        if not usable or not all(isinstance(one, str) and one and not tenant_problem(one) for one in said or ()):
            raise forbidden(
                "NO_TENANT",
                f"the token of {name} names no tenant: its claim {self._config.tenants_claim!r} must be one, or a list of some",
                name,
            )
        return tuple(dict.fromkeys(said or ()))


class _FromFile:
    def __init__(self, file: Path) -> None:
        self.watched = Watched("[auth.oidc] keys_file", [file], lambda files: _parsed(f"keys_file {file}", files[0]))

    async def find(self, key_id: str, algorithm: str) -> _Key | None:
        return _found(self.watched.current(), key_id, algorithm)


class _FromUrl:
    """Keys behind a URL. Fetched in a thread, one fetch at a time; who waits for one waits FETCH_TIMEOUT_S at most, roughly."""

    def __init__(self, url: str, *, clock: Callable[[], float]) -> None:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError as error:
            raise ValueError(f"[auth.oidc] keys_url is not a URL ({error}): write https://host/path") from error
        if (
            not host
            or "@" in parts.netloc
            or not (parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host)))
        ):
            raise ValueError("[auth.oidc] keys_url must be https://host/path; http only on this machine")
        self._url = url
        self._clock = clock
        self._keys: tuple[_Key, ...] = ()
        self._fetched_s = float("-inf")
        self._tried_s = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str, algorithm: str) -> _Key | None:
        """A key that is there is used at once, however old; one that is missing is waited for."""
        found = _found(self._keys, key_id, algorithm)
        if found is None:
            await self._fetch(REFETCH_S)
            return _found(self._keys, key_id, algorithm)
        if self._clock() - self._fetched_s >= KEYS_AGE_S:
            self._begin(REFETCH_S)
        return found

    async def _fetch(self, every_s: float) -> None:
        self._begin(every_s)
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    def _begin(self, every_s: float) -> None:
        if self._fetching is None and self._clock() - self._tried_s >= every_s:
            self._tried_s = self._clock()
            self._fetching = asyncio.create_task(self._fetch_once())

    async def _fetch_once(self) -> None:
        try:
            async with asyncio.timeout(2 * FETCH_TIMEOUT_S):
                data = await asyncio.to_thread(_get, self._url)
            self._keys = _parsed("keys_url", data)
            self._fetched_s = self._clock()
        except (OSError, ValueError) as error:
            log.error("oidc.keys_not_fetched", error=str(error), remedy="check keys_url; the former keys stay in force")
        finally:
            self._fetching = None


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Keys are taken from where the settings say, and from nowhere else."""


def _get(url: str) -> bytes:
    """What is at a URL. In a thread; SSL_CERT_FILE names other authorities. Raises OSError and ValueError."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.HTTPDefaultErrorHandler(),
        _NoRedirect(),
    ):
        opener.add_handler(handler)
    ends = time.monotonic() + FETCH_TIMEOUT_S
    data = b""
    with opener.open(url, timeout=FETCH_TIMEOUT_S) as answer:
        while piece := answer.read1(64 * 1024):
            data += piece
            if len(data) > BYTES_MAX or time.monotonic() > ends:
                raise ValueError(
                    f"the keys are larger than {BYTES_MAX} bytes, or take longer than {FETCH_TIMEOUT_S:g} s"
                )
    return data


def _parsed(source: str, data: bytes) -> tuple[_Key, ...]:
    """The keys of a JWKS that may verify tokens. Raises ValueError."""
    try:
        found = msgspec.json.decode(data, type=dict[str, Any]).get("keys")
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise ValueError(f"{source} is no JWKS: {error}") from error
    if not isinstance(found, list) or len(found) > KEYS_MAX:
        raise ValueError(f"{source} is no JWKS: it must hold `keys`, a list of {KEYS_MAX} at most")
    keys = tuple(key for one in found if (key := _usable(one)) is not None)
    if not keys:
        raise ValueError(f"{source} holds no public key that could verify a token: {', '.join(ALGORITHMS)} are taken")
    return keys


def _usable(said: Any) -> _Key | None:
    """A key of a JWKS; None for one that verifies nothing here, such as a secret or one for encryption."""
    if not isinstance(said, dict) or said.get("use", "sig") != "sig" or "d" in said:
        return None
    shape = said.get("kty"), "" if said.get("kty") == "RSA" else said.get("crv")
    algorithms = {name for name, wanted in ALGORITHMS.items() if wanted == shape}
    if "alg" in said:
        algorithms &= {said["alg"]} if isinstance(said["alg"], str) else set()
    if not algorithms:
        return None
    try:
        public = jwt.PyJWK.from_dict(said, algorithm=min(algorithms)).key
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if shape[0] == "RSA" and public.key_size < RSA_BITS_MIN:
        return None
    key_id = said.get("kid", "")
    return _Key(key_id if isinstance(key_id, str) else "", frozenset(algorithms), public)


def _found(keys: Sequence[_Key], key_id: str, algorithm: str) -> _Key | None:
    """The key of that id; of a token that names none, the only one there is."""
    fitting = [key for key in keys if algorithm in key.algorithms and key_id in (key.id, "")]
    return fitting[0] if len(fitting) == 1 or (fitting and key_id) else None
