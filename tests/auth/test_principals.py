"""Who may call, as a file lists them."""

import hashlib
import json

import pytest
from structlog.testing import capture_logs

from services.access import Access, AuthConfig
from services.metrics import Exposition
from services.principals import PRINCIPALS_MAX, Principal, principals_of
from services.watched import REFUSED, tell_refused


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def one(name="ann", role="viewer", **more):
    return {"name": name, "role": role, "token_sha256": digest(name)} | more


def written(folder, *principals, **more):
    file = folder / "principals.json"
    file.write_text(json.dumps({"principals": list(principals), **more}))
    return file


def test_tokens_and_certificates_mean_their_principals(tmp_path):
    listing = principals_of(
        written(
            tmp_path,
            one(),
            one("bob", "operator", certificate="spiffe://swell/bob", tenants=["red", "blue"]),
            one("bob", "operator", token_sha256=digest("bob's next"), tenants=["red", "blue"]),
            {"name": "probe", "role": "admin", "certificate": "probe.example"},
            one("gil", "operator", pools=["gpu", "cpu"]),
        )
    ).current()
    assert listing.of_token("gil") == Principal("gil", "operator", (), ("gpu", "cpu"))
    bob = Principal("bob", "operator", ("red", "blue"))
    assert listing.of_token("ann") == Principal("ann", "viewer")
    assert listing.of_token("bob") == listing.of_token("bob's next") == bob
    assert listing.of_certificate(["else", "spiffe://swell/bob"]) == {bob}
    assert [listing.of_token(wrong) for wrong in ("", "Ann", digest("ann"), "ann ")] == [None] * 4
    assert "probe" in listing
    assert "eve" not in listing


@pytest.mark.parametrize(
    ("principals", "told"),
    [
        ([one(role="root")], r"role"),
        ([{"name": "ann", "token_sha256": digest("x")}], r"missing required field `role`"),
        ([one(name="")], r"principals\[0\].name"),
        ([one(name="a\nb")], r"principals\[0\].name"),
        ([one(name="x" * 300)], r"principals\[0\].name"),
        ([one(tokensha256="x")], r"unknown field"),
        ([one(token_sha256="ab")], r"64 lower-case hex"),
        ([one(token_sha256=digest("x").upper())], r"64 lower-case hex"),
        ([one(token_sha256="x" * 64)], r"64 lower-case hex"),
        ([{"name": "ann", "role": "viewer"}], r"neither token_sha256 nor certificate"),
        ([one(certificate="")], r"certificate is empty"),
        ([one(), one("bob", token_sha256=digest("ann"))], r"principals\[1\].token_sha256 is another"),
        ([one(certificate="c"), one("bob", certificate="c")], r"principals\[1\].certificate is another"),
        ([one(), one(role="admin", token_sha256=digest("x"))], r"listed before with another role"),
        ([one(tenants=[])], r"tenants is empty"),
        ([one(tenants=[""])], r"tenant's name is empty"),
        ([one(tenants=["a b"])], r"is no tenant"),
        ([one(pools=[])], r"pools is empty"),
        ([one(pools=["a b"])], r"pools"),
        ([one(), one(pools=["gpu"], token_sha256=digest("x"))], r"listed before with another role"),
        ([one()] * (PRINCIPALS_MAX + 1), r"more than"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_with_file_and_field(tmp_path, principals, told):
    with pytest.raises(ValueError, match=f"principals_file .*principals.json.*{told}"):
        principals_of(written(tmp_path, *principals))


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"principals": {}}', b"\xff", b"[" * 100_000, b" " * 2_000_000])
def test_bytes_that_are_no_list_of_principals_are_refused(tmp_path, data):
    file = tmp_path / "principals.json"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=r"principals_file"):
        principals_of(file)


def test_an_unknown_key_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown field"):
        principals_of(written(tmp_path, one(), default="admin"))


def test_a_changed_file_is_taken_and_a_broken_one_leaves_the_former_in_force(tmp_path):
    watched = principals_of(written(tmp_path, one()))
    watched._look_s = 0.0
    written(tmp_path, one("bob"))
    assert watched.current().of_token("ann") is None
    assert watched.current().of_token("bob") is not None
    written(tmp_path, one("eve", "root"))
    with capture_logs() as told:
        assert watched.current().of_token("bob") is not None
        assert watched.current().of_token("bob") is not None
    assert [line["event"] for line in told] == ["watched.refused"]
    assert "role" in told[0]["error"]
    assert watched.is_refused()
    written(tmp_path, one("dan"))
    assert not watched.is_refused()
    assert watched.current().of_token("dan") is not None


async def test_a_scrape_finds_what_cannot_be_used_without_a_call(tmp_path):
    """Whoever was to be removed can call on, and somebody has to know."""
    file = written(tmp_path, one())
    exposition = Exposition("ledger")
    access = Access(AuthConfig(principals_file=str(file)))
    tell_refused(exposition, access.watched)
    access._listed._look_s = 0.0
    [reader] = exposition._readers
    assert await reader() == [(REFUSED, ("principals",), 0)]
    file.write_bytes(b"{")
    assert await reader() == [(REFUSED, ("principals",), 1)]
    written(tmp_path, one())
    assert await reader() == [(REFUSED, ("principals",), 0)]
