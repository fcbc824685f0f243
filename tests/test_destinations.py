"""Where a head may be delivered, and which references may go with it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.delivery import carries_credentials, destination_problem, location_problem
from services.events import Destination

OWN = "/srv/repo"
WEB = "https://example.com/r.git"


@pytest.mark.parametrize(
    ("remote", "credential"),
    [
        ("", ""),
        (WEB, "env:TOKEN"),
        (WEB, "file:/run/secrets/token"),
        ("git@example.com:r.git", "file:/keys/id"),
        ("ssh://git@example.com/r.git", "file:/keys/id"),
        ("ssh://git@example.com/r.git", ""),
        ("/srv/other.git", ""),
    ],
)
def test_what_may_be_delivered_to(remote, credential):
    assert destination_problem(Destination(remote=remote, credential=credential), OWN) == ""


@pytest.mark.parametrize(
    ("remote", "credential", "said"),
    [
        ("ext::sh -c x", "", "is no location"),
        ("--upload-pack=x", "", "is no location"),
        ("relative/path", "", "neither absolute nor an address"),
        ("ftp://example.com/r", "", "no address git may use"),
        ("https://[::1", "", "no address git may use"),
        ("/" + "x" * 5000, "", "longer than"),
        ("https://token@example.com/r.git", "", "carries credentials"),
        ("HTTPS://token@example.com/r.git", "", "carries credentials"),
        ("https://example.com/r.git?access_token=t", "", "carries credentials"),
        ("https://example.com/r.git#t", "", "carries credentials"),
        ("https://ann:pw@example.com/r.git", "", "carries credentials"),
        ("ssh://ann:pw@example.com/r.git", "", "carries credentials"),
        (WEB, "ghp_0123456789", "is no reference"),
        (WEB, "env:", "is no reference"),
        (WEB, "file:relative", "is no reference"),
        (WEB, "file:/a\nb", "is no reference"),
        (WEB, "env:" + "A" * 2000, "is no reference"),
        ("git@example.com:r.git", "env:KEY", "private key"),
        ("", "env:TOKEN", "takes none"),
        ("/srv/other.git", "env:TOKEN", "takes none"),
    ],
)
def test_what_may_not_says_why_and_never_shows_what_could_be_a_secret(remote, credential, said):
    problem = destination_problem(Destination(remote=remote, credential=credential), OWN)
    assert said in problem
    assert "ghp_" not in problem
    assert "pw" not in problem


def test_a_credential_for_the_runs_own_address_is_taken():
    assert destination_problem(Destination(credential="env:TOKEN"), WEB) == ""


@pytest.mark.parametrize(
    "location",
    [
        "/srv/r.git",
        "https://example.com/r.git",
        "ssh://git@example.com/r.git",
        "git@example.com:org/r@v1.git",
        "file:///r.git",
    ],
)
def test_a_place_and_the_name_of_an_ssh_user_are_no_secrets(location):
    assert not carries_credentials(location)


@given(st.text(alphabet="h@:/?#[]s.p", max_size=40))
def test_any_text_carries_credentials_or_none(text):
    for location in (text, f"https://{text}"):
        assert isinstance(carries_credentials(location), bool)


@given(st.text(max_size=60))
def test_any_text_is_a_location_or_a_problem(text):
    assert isinstance(location_problem(text), str)
