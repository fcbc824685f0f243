"""Who calls a service, whether they may, and how much of it: what `services.rpc` asks before it answers a call.

A call carries one bearer token at most, and on a connection with TLS perhaps a client certificate. Either may say who calls.
Where both do they must mean the same principal; a certificate that means nobody says nothing.
"""

import hmac
import ipaddress
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from services.oidc import Oidc, OidcConfig
from services.principals import LOCAL, Principal, principals_of
from services.quota import Buckets, Seats
from services.refusal import Refusal, exhausted, forbidden, unauthenticated
from services.roles import RULES, Rule
from services.watched import Watched

_SCHEME: Final = "Bearer "

Count = Annotated[int, Meta(ge=1)]
PerSecond = Annotated[float, Meta(gt=0)]
Seconds = Annotated[float, Meta(gt=0)]

TenantOf = Callable[[str], Awaitable[str | None]]
"""On whose behalf a run is; None when there is no such run."""

_principal: ContextVar[Principal] = ContextVar("principal", default=LOCAL)


class AuthConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may call, and how often. Without `principals_file` and `oidc` the service asks for its `token_file`, if for anything.

    `principals_file`: who may call, JSON; read anew when it changes (docs/security.md). "" is none. Default none.
    `oidc`: tokens of an OpenID provider (services.oidc.OidcConfig). Default: none are taken.
    `requests_per_second`, `burst`: calls of one principal, in the long run and at once. Default 200 and 1,000.
    `streams`: calls of one principal under way that stream their answer. Default 200.
    `recheck_s`: how often it is asked anew who holds a call that streams its answer, seconds. Default 60.
    `strangers_per_second`, `strangers_burst`: calls from one address that say nothing valid of who calls; beyond that they are told
        to wait. Default 10 and 100.
    """

    principals_file: str = ""
    oidc: OidcConfig = OidcConfig()
    requests_per_second: PerSecond = 200.0
    burst: Count = 1000
    streams: Count = 200
    recheck_s: Seconds = 60.0
    strangers_per_second: PerSecond = 10.0
    strangers_burst: Count = 100

    @property
    def is_on(self) -> bool:
        """Whether callers must say who they are."""
        return bool(self.principals_file or self.oidc.issuer)


def principal() -> Principal:
    """Who made the call that is being answered here."""
    return _principal.get()


def actor(said: str) -> str:
    """Who is recorded as having asked: the principal; where nobody is known by name, who the request says it is."""
    return principal().name or said[:200] or "unknown"


class Access:
    """Who may call one server."""

    def __init__(
        self,
        config: AuthConfig,
        *,
        token: str | None = None,
        certificates: bool = False,
        rules: Mapping[str, Rule] = RULES,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`token`: what everybody must send where `config` names nobody; None asks for nothing. `certificates`: clients show them.

        `now` is Unix time, `clock` only grows. Raises ValueError for settings that cannot be used.
        """
        if config.oidc != OidcConfig() and not config.oidc.issuer:
            raise ValueError(
                "[auth.oidc] issuer is missing: set what the provider writes into `iss`, or remove the section"
            )
        if config.is_on and token is not None:
            raise ValueError("token_file and [auth] contradict each other: keep one of them")
        self._expected = None if token is None else f"{_SCHEME}{token}".encode()
        self._is_on = config.is_on
        self._certificates = certificates and self._is_on
        self._listed = principals_of(Path(config.principals_file)) if config.principals_file else None
        self._oidc = Oidc(config.oidc, now=now, clock=clock) if config.oidc.issuer else None
        self._recheck_s = config.recheck_s
        self._rules = rules
        self._clock = clock
        self._calls = Buckets(config.requests_per_second, config.burst)
        self._strangers = Buckets(config.strangers_per_second, config.strangers_burst)
        self._streams = Seats(config.streams)

    async def named(self, metadata: Any) -> Principal | None:
        """Whom a call's token means; None where there is none and a certificate may say it. Raises Refusal."""
        given = [value for key, value in metadata or () if key == "authorization"]
        if not self._is_on:
            return self._local(given)
        if len(given) > 1:
            raise _stranger("the call carries more than one token")
        if not given:
            if self._certificates:
                return None
            raise _stranger("the call carries no token")
        text = given[0]
        if not isinstance(text, str) or not text.startswith(_SCHEME):
            raise _stranger("the call carries no bearer token")
        return await self._of_token(text.removeprefix(_SCHEME))

    def certain(self, named: Principal | None, peer: Mapping[str, Iterable[bytes]] | None) -> Principal:
        """Who calls, by token and certificate together; `peer` is what the connection knows. Raises Refusal."""
        if not self._certificates or self._listed is None:
            return named if named is not None else _nobody()
        meant = self._listed.current().of_certificate(_names(peer or {}))
        if named is not None:
            meant.add(named)
        if len(meant) > 1:
            raise unauthenticated(
                "CONTRADICTING_CREDENTIALS",
                "token and certificate, or names in the certificate, mean different principals: send what means one of them",
            )
        return meant.pop() if meant else _nobody()

    @property
    def watched(self) -> dict[str, Watched[Any]]:
        """The files that are read anew when they change, by what they are for."""
        files: dict[str, Watched[Any]] = {} if self._oidc is None else self._oidc.watched
        return files if self._listed is None else {"principals": self._listed} | files

    @property
    def recheck_s(self) -> float | None:
        """How often `recheck` is due for a call that streams its answer, seconds; None for never."""
        return self._recheck_s if self._is_on else None

    async def recheck(
        self, who: Principal, method: str, metadata: Any, peer: Mapping[str, Iterable[bytes]] | None
    ) -> None:
        """Whether a call under way would still be let in as the same principal's. Raises Refusal, of that principal's."""
        try:
            now = self.certain(await self.named(metadata), peer)
        except Refusal as refusal:
            refusal.principal = who.name
            raise
        if (now.name, now.tenants) != (who.name, who.tenants):
            raise forbidden(
                "RIGHTS_CHANGED", f"{who.name} is somebody else by now, or of other tenants: call again", who.name
            )
        self._check_role(now, method)

    @contextmanager
    def admitted(self, who: Principal, method: str, *, streaming: bool) -> Iterator[None]:
        """Around a call of somebody who may make it now. Raises Refusal."""
        told = _principal.set(who)
        try:
            if not self._is_on:
                yield
                return
            self._permit(who, method)
            with self._seated(who, streaming=streaming):
                yield
        finally:
            _principal.reset(told)

    def patience(self, peer: str) -> Refusal | None:
        """What a stranger at this address is told instead, when it has been told too often."""
        wait_s = self._strangers.take(_address(peer), self._clock())
        return (
            exhausted("TOO_MANY_STRANGERS", f"too many refused calls: wait {wait_s:.1f} s", "", wait_s)
            if wait_s
            else None
        )

    def changes(self, method: str) -> bool:
        """Whether a refusal of this method is recorded."""
        rule = self._rules.get(method)
        return rule is None or rule.changes

    def rule(self, method: str) -> Rule | None:
        """What the table says of a method."""
        return self._rules.get(method)

    def _local(self, given: Sequence[str | bytes]) -> Principal:
        if self._expected is None:
            return LOCAL
        value = given[0] if len(given) == 1 else b""
        if not hmac.compare_digest(value.encode() if isinstance(value, str) else value, self._expected):
            raise _stranger("the call carries no valid token")
        return LOCAL

    async def _of_token(self, token: str) -> Principal:
        listed = None if self._listed is None else self._listed.current()
        found = None if listed is None else listed.of_token(token)
        if found is not None:
            return found
        if self._oidc is None or token.count(".") != 2:
            raise _stranger("the call carries a token that nobody has")
        found = await self._oidc.principal(token)
        if listed is not None and found.name in listed:
            raise forbidden(
                "NAME_TAKEN",
                f"{found.name} is the name of somebody in principals_file: nobody from elsewhere may be called that",
                found.name,
            )
        return found

    def _permit(self, who: Principal, method: str) -> None:
        wait_s = self._calls.take(who.name, self._clock())
        if wait_s:
            raise exhausted(
                "RATE_LIMITED", f"{who.name} calls too often: try again in {wait_s:.2f} s", who.name, wait_s
            )
        self._check_role(who, method)

    def _check_role(self, who: Principal, method: str) -> None:
        rule = self._rules.get(method)
        if rule is None or not rule.allows(who.role):
            needed = "nobody may call it" if rule is None else f"it needs the role {rule.role}"
            raise forbidden(
                "ROLE_MISSING",
                f"{who.name} has the role {who.role}, and may not call {method}: {needed}",
                who.name,
                {"role": who.role, "needed": "" if rule is None else rule.role},
            )

    @contextmanager
    def _seated(self, who: Principal, *, streaming: bool) -> Iterator[None]:
        if not streaming:
            yield
            return
        if not self._streams.take(who.name):
            raise exhausted("TOO_MANY_STREAMS", f"{who.name} has too many streams open: end some first", who.name, 1.0)
        try:
            yield
        finally:
            self._streams.leave(who.name)


def anybody() -> Access:
    """Asks nobody for anything: for a server that only this machine reaches."""
    return Access(AuthConfig())


def with_token(token: str | None) -> Access:
    """Asks everybody for this token, if there is one."""
    return Access(AuthConfig(), token=token)


async def narrow(request: Any, rule: Rule | None, who: Principal, tenant_of: TenantOf) -> None:
    """Hold a call of somebody who is bound to tenants to what is theirs; `request` may be narrowed. Raises Refusal."""
    if not who.tenants:
        return
    match rule.reach if rule is not None else "fleet":
        case "open" | "own":
            return
        case "run":
            run = request.run
            if not run:
                raise forbidden("RUN_NOT_NAMED", f"{who.name} is bound to tenants: name a run of theirs", who.name)
            if await tenant_of(run) not in who.tenants:
                raise forbidden(
                    "NOT_YOURS", f"there is no run {run[:128]} of {_theirs(who)}", who.name, {"run": run[:128]}
                )
        case "tenant":
            _narrow(getattr(request, "selection", request), who)
        case _:
            raise forbidden(
                "TENANT_BOUND", f"this is about all tenants, and {who.name} is bound to {_theirs(who)}", who.name
            )


def submitted_for(who: Principal, tenant: str) -> str:
    """On whose behalf somebody submits who names `tenant`, "" for none. Raises Refusal."""
    if not who.tenants or tenant in who.tenants:
        return tenant
    if not tenant and len(who.tenants) == 1:
        return who.tenants[0]
    named = f"{tenant!r} is none of them" if tenant else "name one of them"
    raise forbidden("NOT_YOURS", f"{who.name} submits for {_theirs(who)}: {named}", who.name)


def check_pools(who: Principal, pools: Iterable[str]) -> None:
    """Raise Refusal unless somebody may have work done in all of these pools."""
    for pool in pools:
        if who.pools and pool not in who.pools:
            theirs = ", ".join(who.pools[:5])
            raise forbidden(
                "POOL_NOT_YOURS",
                f"the run would go to the pool {pool}, and {who.name} may use {theirs}: name one of these",
                who.name,
                {"pool": pool},
            )


def _narrow(asked: Any, who: Principal) -> None:
    if asked.HasField("tenant"):
        if asked.tenant not in who.tenants:
            raise forbidden("NOT_YOURS", f"{who.name} is bound to {_theirs(who)}: ask for one of them", who.name)
    elif len(who.tenants) == 1:
        asked.tenant = who.tenants[0]
    else:
        raise forbidden("TENANT_NOT_NAMED", f"{who.name} is bound to {_theirs(who)}: name one of them", who.name)


def _theirs(who: Principal) -> str:
    shown = ", ".join(who.tenants[:5])
    return f"{'tenant' if len(who.tenants) == 1 else 'tenants'} {shown}{', …' if len(who.tenants) > 5 else ''}"


def _stranger(what: str) -> Refusal:
    return unauthenticated(
        "UNAUTHENTICATED", f"{what}: send the metadata `authorization: Bearer <token>`, once, with a valid token"
    )


def _nobody() -> Principal:
    raise unauthenticated(
        "UNAUTHENTICATED", "the call carries no token, and its certificate means no principal: send one that does"
    )


def _names(peer: Mapping[str, Iterable[bytes]]) -> list[str]:
    """The URIs and DNS names in a client's certificate; its common name where there are none."""
    said = [*peer.get("peer_uri", ()), *peer.get("peer_dns", ())] or [*peer.get("x509_common_name", ())]
    return [name.decode("utf-8", "replace") for name in said]


def _address(peer: str) -> str:
    """The address in gRPC's name of a peer, without its port; of IPv6 the network, which one customer has whole."""
    host = peer.partition(":")[2].rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return peer[:64]
    return host if address.version == 4 else str(ipaddress.ip_network((host, 64), strict=False))
