"""TLS of gRPC servers: certificate and key as files, which may be renewed while the service runs.

At every handshake the files are looked at. A pair that cannot be used (the key is another one's, the certificate has
expired, the text is no PEM) is told in the log, and the former pair stays in force.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import msgspec
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from services.metrics import Exposition, Reading, Series
from services.watched import Watched

log = structlog.get_logger()

EXPIRY = Series(
    "swell_tls_certificate_expiry_timestamp_seconds", "gauge", "When the certificate in use expires, Unix time."
)


class TlsError(ValueError):
    """TLS cannot be had as it is configured; the text names setting and file and says what to do."""


class TlsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """TLS of the service's gRPC; "" for a file is none.

    `certificate_file`: the certificate with those that lead to its authority, PEM. Default none: no TLS.
    `key_file`: its private key, PEM, without a passphrase. Default none.
    `client_ca_file`: the authorities whose client certificates are taken, PEM. Default none: none is asked for.
    `require_client_certificate`: whether who has none is turned away in the handshake; needed with `client_ca_file`, since
        gRPC cannot ask for a certificate without demanding it. Default false.
    """

    certificate_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    require_client_certificate: bool = False

    @property
    def is_on(self) -> bool:
        """Whether there is anything configured at all."""
        return self != TlsConfig()


class _Pair(msgspec.Struct, frozen=True):
    """A certificate with its key, the authorities of clients (None: none), and when the certificate expires, Unix time."""

    certificate: bytes
    key: bytes
    authorities: bytes | None
    expires_s: float


class Certificates:
    """The certificate of a server, always the newest that can be used."""

    def __init__(self, config: TlsConfig, *, now: Callable[[], float] = time.time, look_s: float = 0.0) -> None:
        """`now` is Unix time; `look_s` how often the files are looked at, at most. Raises TlsError."""
        if not config.certificate_file or not config.key_file:
            raise TlsError("[tls] needs both certificate_file and key_file: set both, or remove the section")
        if bool(config.client_ca_file) != config.require_client_certificate:
            raise TlsError(
                "[tls] client_ca_file and require_client_certificate = true belong together, since gRPC cannot ask for a "
                "certificate without demanding it: set both, or neither"
            )
        self._config = config
        self._now = now
        names = [config.certificate_file, config.key_file]
        names += [config.client_ca_file] if config.client_ca_file else []
        try:
            self._pairs = Watched("[tls]", [Path(name) for name in names], self._pair, look_s=look_s)
        except ValueError as error:
            raise TlsError(str(error)) from error
        self._used: _Pair | None = None

    @property
    def watched(self) -> dict[str, Watched[Any]]:
        """The files that are read anew when they change, by what they are for."""
        return {"certificate": self._pairs}

    @property
    def asks_clients(self) -> bool:
        """Whether callers show certificates."""
        return self._config.require_client_certificate

    def expires_s(self) -> float:
        """When the certificate in use expires, Unix time."""
        return self._pairs.current().expires_s

    def credentials(self) -> grpc.ServerCredentials:
        """For a port of a server: every handshake takes what the files hold by then."""
        self._used = self._pairs.current()
        return grpc.dynamic_ssl_server_credentials(
            _configuration(self._used),
            self._renewed,  # type: ignore[arg-type]  # None says that it is the same, as grpc documents
            require_client_authentication=self.asks_clients,
        )

    def read_by(self, exposition: Exposition) -> None:
        """Tell `exposition` when the certificate expires."""

        async def read() -> list[Reading]:
            return [(EXPIRY, (), self.expires_s())]

        exposition.read((EXPIRY,), read)

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """In a thread of gRPC, before each handshake: another certificate, or None for the same."""
        pair = self._pairs.current()
        if pair is self._used:
            return None
        self._used = pair
        return _configuration(pair)

    def _pair(self, files: Sequence[bytes]) -> _Pair:
        certificates = _certificates("certificate_file", self._config.certificate_file, files[0])
        leaf = certificates[0]
        try:
            key = load_pem_private_key(files[1], None)
        except (ValueError, TypeError) as error:
            raise TlsError(
                f"key_file {self._config.key_file} holds no private key that can be used ({_brief(error)}): write it as PEM "
                "without a passphrase"
            ) from error
        shape = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        if key.public_key().public_bytes(*shape) != leaf.public_key().public_bytes(*shape):
            raise TlsError(
                f"key_file {self._config.key_file} is not the key of certificate_file {self._config.certificate_file}: "
                "the first certificate in the file must be the key's own"
            )
        now_s, expires_s = self._now(), min(one.not_valid_after_utc.timestamp() for one in certificates)
        if expires_s <= now_s:
            raise TlsError(
                f"certificate_file {self._config.certificate_file} expired at {_date(expires_s)}, and now is {_date(now_s)}: "
                "renew it, or set the clock"
            )
        if leaf.not_valid_before_utc.timestamp() > now_s:
            begins = _date(leaf.not_valid_before_utc.timestamp())
            log.warning(
                "tls.not_valid_yet", begins=begins, now=_date(now_s), remedy="clients refuse it: check the clocks"
            )
        if len(files) > 2:
            _certificates("client_ca_file", self._config.client_ca_file, files[2])
        return _Pair(files[0], files[1], files[2] if len(files) > 2 else None, expires_s)


def certificates_of(config: TlsConfig, exposition: Exposition) -> Certificates | None:
    """The certificates that are configured, told to `exposition`; None without TLS. Raises TlsError."""
    if not config.is_on:
        # Declared all the same: a series that is there only sometimes could not be documented as one that is.
        exposition.read((EXPIRY,), _nothing)
        return None
    made = Certificates(config)
    made.read_by(exposition)
    return made


async def _nothing() -> list[Reading]:
    return []


def _configuration(pair: _Pair) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(pair.key, pair.certificate)], pair.authorities)


def _certificates(setting: str, file: str, data: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError as error:
        raise TlsError(
            f"{setting} {file} holds no certificate that can be used ({_brief(error)}): write it as PEM"
        ) from error


def _brief(error: Exception) -> str:
    return str(error).partition("\n")[0][:120].rstrip(".")


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
