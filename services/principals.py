"""Who calls: the principals of a file, by the SHA-256 of their bearer token or by a name in their certificate."""

import hashlib
import hmac
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from services.labels import tenant_problem
from services.roles import Role
from services.watched import Watched

PRINCIPALS_MAX = 5_000
NAME_CHARACTERS_MAX = 200
FOUND_BY_BYTES = 16

_K = TypeVar("_K")


class Principal(msgspec.Struct, frozen=True):
    """Who calls, what they may, on whose behalf and in which pools; `tenants` empty is anybody's, `pools` empty any.

    `name` is what the log calls them; "" is whoever holds the token of a local cluster, and says by itself who that is.
    """

    name: str
    role: Role
    tenants: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()


LOCAL = Principal("", "admin")
"""Whoever may call a service that asks for no more than its local token, or for nothing."""


class _Listed(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    role: Role
    token_sha256: str | None = None
    certificate: str | None = None
    tenants: list[str] | None = None
    pools: list[Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$(?!\n)")]] | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    principals: list[_Listed]


class Listing:
    """What a file of principals says."""

    def __init__(self, listed: Iterable[_Listed]) -> None:
        self._by_token: dict[bytes, tuple[bytes, Principal]] = {}
        self._by_certificate: dict[str, Principal] = {}
        self._by_name: dict[str, Principal] = {}
        for number, one in enumerate(listed):
            self._add(f"principals[{number}]", one)

    def of_token(self, token: str) -> Principal | None:
        """Whose token this is. It is found by half of its digest, which tells nothing of it; the whole is compared in constant time."""
        given = hashlib.sha256(token.encode()).digest()
        digest, principal = self._by_token.get(given[:FOUND_BY_BYTES], (b"", None))
        return principal if hmac.compare_digest(digest, given) else None

    def of_certificate(self, names: Iterable[str]) -> set[Principal]:
        """Whom the names in a certificate mean."""
        return {self._by_certificate[name] for name in names if name in self._by_certificate}

    def __contains__(self, name: object) -> bool:
        return name in self._by_name

    def _add(self, at: str, one: _Listed) -> None:
        if not one.name or len(one.name) > NAME_CHARACTERS_MAX or not one.name.isprintable():
            raise ValueError(f"{at}.name must be printable text of 1 to {NAME_CHARACTERS_MAX} characters")
        if one.tenants is not None and not one.tenants:
            raise ValueError(f"{at}.tenants is empty: name some, or leave it out for all tenants")
        for tenant in one.tenants or ():
            if problem := tenant_problem(tenant) or ("" if tenant else "a tenant's name is empty: leave it out"):
                raise ValueError(f"{at}.tenants: {problem}")
        if one.pools is not None and not one.pools:
            raise ValueError(f"{at}.pools is empty: name some, or leave it out for all pools")
        principal = Principal(one.name, one.role, tuple(one.tenants or ()), tuple(one.pools or ()))
        if self._by_name.setdefault(one.name, principal) != principal:
            raise ValueError(
                f"{at}: {one.name!r} is listed before with another role, other tenants or other pools: make them the same"
            )
        if one.token_sha256 is None and one.certificate is None:
            raise ValueError(f"{at} has neither token_sha256 nor certificate: give one of them, or both")
        if one.token_sha256 is not None:
            digest = _digest(at, one.token_sha256)
            found_by = _unused(f"{at}.token_sha256", digest[:FOUND_BY_BYTES], self._by_token)
            self._by_token[found_by] = digest, principal
        if one.certificate is not None:
            if not one.certificate:
                raise ValueError(f"{at}.certificate is empty: write the URI, the DNS name or the common name in it")
            self._by_certificate[_unused(f"{at}.certificate", one.certificate, self._by_certificate)] = principal


_decoder = msgspec.json.Decoder(_File)


def principals_of(file: Path) -> Watched[Listing]:
    """The principals in a file, read anew when it changes. Raises ValueError."""

    def parse(files: Sequence[bytes]) -> Listing:
        try:
            found = _decoder.decode(files[0]).principals
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise ValueError(
                f'principals_file {file}: {error}; write {{"principals": [{{"name", "role", "token_sha256"}}, …]}} as JSON'
            ) from error
        if len(found) > PRINCIPALS_MAX:
            raise ValueError(
                f"principals_file {file} lists more than {PRINCIPALS_MAX} principals: list fewer, or use OIDC"
            )
        try:
            return Listing(found)
        except ValueError as error:
            raise ValueError(f"principals_file {file}: {error}") from error

    return Watched("principals_file", [file], parse)


def _digest(at: str, text: str) -> bytes:
    try:
        if len(text) == 64 and text == text.lower():
            return bytes.fromhex(text)
    except ValueError:
        pass
    raise ValueError(
        f"{at}.token_sha256 is not 64 lower-case hex digits: write what `printf %s TOKEN | sha256sum` prints"
    )


def _unused(at: str, key: _K, taken: Container[_K]) -> _K:
    if key in taken:
        raise ValueError(f"{at} is another principal's as well: give each its own")
    return key
