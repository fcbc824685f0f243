"""`swell doctor --cluster` tells apart what is wrong with a service's certificate."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from certificates import DAY, Authority

from swell.checkup import certificate
from swell.values import Endpoints
from swell.verdict import Check


def right(check: Check, state: str, said: str) -> None:
    """That is the verdict, it says so, and what is not right has a remedy."""
    assert (check.state, bool(check.remedy)) == (state, state != "ok"), check
    assert said in check.found


@contextlib.contextmanager
def serving(folder: Path, authority: Authority, **made: Any) -> Iterator[str]:
    """A TLS server with a certificate of that authority; its address."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.make(**made).write(folder, "server"))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    raw, _ = listening.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(raw, server_side=True) as shown:
                        shown.recv(1)

        threading.Thread(target=answer, daemon=True).start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        with contextlib.suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    ("made", "state", "said"),
    [
        ({}, "ok", "until "),
        ({"ends": 3 * DAY}, "warning", "in 3.0 days"),
        ({"begins": -3 * DAY, "ends": -DAY}, "failed", "has expired"),
        ({"begins": DAY, "ends": 2 * DAY}, "failed", "not valid yet"),
        ({"name": "elsewhere", "sans": []}, "failed", "another name than 127.0.0.1"),
    ],
)
def test_each_thing_that_is_wrong_with_a_certificate_is_told_apart(
    tmp_path: Path, made: dict[str, Any], state: str, said: str
) -> None:
    authority = Authority()
    (tmp_path / "ca.pem").write_bytes(authority.pem)
    with serving(tmp_path, authority, **made) as at:
        right(certificate("ledger", Endpoints(scheduler=at, ledger=at, ca_file=tmp_path / "ca.pem")), state, said)


def test_a_service_that_speaks_tls_and_is_called_without(tmp_path: Path, own_nats_server: Any) -> None:
    with serving(tmp_path, Authority()) as at:
        right(certificate("ledger", Endpoints(scheduler=at, ledger=at)), "failed", "speaks TLS, and is called without")
    plain = own_nats_server.url.removeprefix("nats://")
    right(certificate("ledger", Endpoints(scheduler=plain, ledger=plain)), "ok", "is on this machine")


def test_an_authority_that_is_not_known_and_a_port_without_tls(tmp_path: Path, own_nats_server: Any) -> None:
    (tmp_path / "ca.pem").write_bytes(Authority("another").pem)
    with serving(tmp_path, Authority()) as at:
        found = certificate("ledger", Endpoints(scheduler=at, ledger=at, ca_file=tmp_path / "ca.pem"))
        right(found, "failed", "authority that is not in SWELL_CA_FILE")
    plain = own_nats_server.url.removeprefix("nats://")
    found = certificate("scheduler", Endpoints(scheduler=plain, ledger=plain, ca_file=tmp_path / "ca.pem"))
    right(found, "failed", "takes no TLS connection")
    assert "SWELL_SCHEDULER" in found.remedy
