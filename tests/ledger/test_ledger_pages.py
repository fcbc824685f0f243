"""Page tokens: bound to their arguments, never trusted."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ledger.pages import cursor_of, page_size, token_of
from services.rpc import RpcError

ARGUMENTS = ("r1", ("step_finished",), 7, True)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=2))
def test_a_token_gives_its_cursor_back(cursor):
    token = token_of("ListEvents", ARGUMENTS, cursor)
    assert cursor_of(token, "ListEvents", ARGUMENTS, 2) == cursor
    assert set(token) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


def test_no_token_is_the_beginning():
    assert cursor_of("", "ListRuns", (), 1) is None


@pytest.mark.parametrize(
    ("method", "arguments", "size"),
    [("ListRuns", ARGUMENTS, 2), ("ListEvents", ("r2", *ARGUMENTS[1:]), 2), ("ListEvents", ARGUMENTS, 1)],
)
def test_a_foreign_token_is_refused(method, arguments, size):
    token = token_of("ListEvents", ARGUMENTS, [1, 2])
    with pytest.raises(RpcError, match="does not belong to this request") as caught:
        cursor_of(token, method, arguments, size)
    assert caught.value.reason == "BAD_PAGE_TOKEN"


@given(
    st.text(min_size=1, max_size=60) | st.binary(max_size=40).map(lambda b: "_" + base64.urlsafe_b64encode(b).decode())
)
def test_no_text_at_all_gets_through(token):
    with pytest.raises(RpcError):
        cursor_of(token, "ListEvents", ARGUMENTS, 2)


def test_page_sizes_have_a_default_and_a_limit():
    assert [page_size(asked, 50) for asked in (0, 1, 1000, 5000)] == [50, 1, 1000, 1000]
    with pytest.raises(RpcError, match="negative"):
        page_size(-1, 50)
