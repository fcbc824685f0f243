"""How a client of a remote cluster is protected: TLS, its token, and what errors of a connection mean.

A token goes over TLS, or it stays on this machine.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from services.address import is_loopback
from swell.cluster import read_secret
from swell.errors import SwellError, invalid

if TYPE_CHECKING:
    from pathlib import Path

    import grpc

    from swell.values import Endpoints

PEM_BYTES_MAX: Final = 1024 * 1024

_NO_HANDSHAKE: Final = (
    (
        "certificate has expired",
        "CERTIFICATE_EXPIRED",
        "the certificate of a service has expired",
        "Have it renewed; check the clock here.",
    ),
    (
        "certificate is not yet valid",
        "CERTIFICATE_NOT_YET_VALID",
        "the certificate of a service is not valid yet",
        "Check the clocks, here and there.",
    ),
    (
        "hostname verification",
        "CERTIFICATE_NAME",
        "the certificate of a service is made for another name",
        "Set SWELL_TLS_NAME to the name in it, or use that name in SWELL_SCHEDULER and SWELL_LEDGER.",
    ),
    (
        "is not in peer certificate",
        "CERTIFICATE_NAME",
        "the certificate of a service is made for another name",
        "Set SWELL_TLS_NAME to the name in it, or use that name in SWELL_SCHEDULER and SWELL_LEDGER.",
    ),
    (
        "certificate_verify_failed",
        "CERTIFICATE_UNKNOWN",
        "the certificate of a service comes from an authority that is not in SWELL_CA_FILE",
        "Set SWELL_CA_FILE to the file of the authority that made it.",
    ),
    (
        "certificate_required",
        "CERTIFICATE_REQUIRED",
        "the services ask for a certificate",
        "Set SWELL_CERTIFICATE_FILE and SWELL_KEY_FILE.",
    ),
    (
        "wrong_version_number",
        "NO_TLS",
        "what answers there speaks no TLS",
        "Unset SWELL_CA_FILE, or set SWELL_SCHEDULER and SWELL_LEDGER to what does.",
    ),
)
"""What gRPC says, in lower case, of a handshake that failed; the reason; what it means; and what to do."""


class Token:
    """Who we are to the services: read anew when its file changes."""

    def __init__(self, endpoints: Endpoints) -> None:
        """Raises SwellError TOKEN_UNPROTECTED where it would go unencrypted to another machine."""
        self._file = endpoints.token_file
        self._text = endpoints.token
        self._seen: tuple[int, ...] = ()
        if not (self._text or self._file) or endpoints.ca_file is not None:
            return
        for at in (endpoints.scheduler, endpoints.ledger):
            if at and not is_loopback(at.rpartition(":")[0]):
                raise invalid(
                    "TOKEN_UNPROTECTED",
                    "the token would be sent without TLS to another machine",
                    "Set SWELL_CA_FILE to the file of the services' authority, which turns TLS on; or unset SWELL_TOKEN_FILE.",
                    at,
                )

    def text(self) -> str:
        """The token as of now, "" for none. Raises SwellError."""
        if self._file is None:
            return self._text
        try:
            found = os.stat(self._file)  # noqa: PTH116 - once for each call
        except OSError:
            return self._text  # it is being replaced, or gone: what we have is refused soon enough
        seen = (found.st_ino, found.st_mtime_ns, found.st_size)
        if seen != self._seen:
            self._text = read_secret(self._file)
            self._seen = seen
        return self._text


def credentials(endpoints: Endpoints) -> grpc.ChannelCredentials | None:
    """How channels to the services are protected; None without TLS. Raises SwellError."""
    import grpc  # noqa: PLC0415 - as in swell.client

    if endpoints.ca_file is None:
        if endpoints.certificate_file is not None or endpoints.tls_name:
            raise invalid(
                "NO_CA",
                "there is a certificate or a name for TLS, but no authority to trust",
                "Set SWELL_CA_FILE, or unset SWELL_CERTIFICATE_FILE and SWELL_TLS_NAME.",
            )
        return None
    if (endpoints.certificate_file is None) != (endpoints.key_file is None):
        raise invalid(
            "NO_KEY",
            "a certificate and its key belong together",
            "Set SWELL_CERTIFICATE_FILE and SWELL_KEY_FILE both, or neither.",
        )
    return grpc.ssl_channel_credentials(
        _pem("SWELL_CA_FILE", endpoints.ca_file),
        None if endpoints.key_file is None else _pem("SWELL_KEY_FILE", endpoints.key_file),
        None if endpoints.certificate_file is None else _pem("SWELL_CERTIFICATE_FILE", endpoints.certificate_file),
    )


def no_handshake(details: str, where: str) -> SwellError | None:
    """The error for a connection that could not be protected; None for one that failed otherwise."""
    said = details.lower()
    for words, reason, message, remedy in _NO_HANDSHAKE:
        if words in said:
            return SwellError("UNAVAILABLE", reason, message, remedy, where)
    return None


def _pem(variable: str, file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            data = opened.read(PEM_BYTES_MAX)
    except OSError as error:
        raise invalid(
            "PEM_UNREADABLE",
            f"the file of {variable} cannot be read: {error.strerror}",
            "Make it a readable PEM file.",
            str(file),
        ) from error
    if b"-----BEGIN " not in data:
        raise invalid("PEM_UNREADABLE", f"the file of {variable} holds no PEM", "Make it a PEM file.", str(file))
    return data
