"""Authorities and certificates made for a test."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


class Made:
    """A certificate and its key."""

    def __init__(self, certificate, key):
        self.certificate = certificate
        self.key = key
        self.pem = certificate.public_bytes(Encoding.PEM)
        self.key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def write(self, folder: Path, name: str = "tls") -> tuple[Path, Path]:
        """The files of certificate and key."""
        files = folder / f"{name}.crt", folder / f"{name}.key"
        for file, data in zip(files, (self.pem, self.key_pem), strict=True):
            file.write_bytes(data)
        return files


class Authority(Made):
    """An authority, which makes certificates."""

    def __init__(self, name: str = "test authority"):
        key = ec.generate_private_key(ec.SECP256R1())
        super().__init__(_signed(name, [], key, None, key, datetime.now(UTC) - DAY, datetime.now(UTC) + 30 * DAY), key)

    @classmethod
    def of(cls, pem: bytes, key_pem: bytes) -> "Authority":
        """One that there is already."""
        made = cls.__new__(cls)
        Made.__init__(made, x509.load_pem_x509_certificate(pem), load_pem_private_key(key_pem, None))
        return made

    def make(self, name: str = "localhost", sans: list | None = None, *, begins=-DAY, ends=30 * DAY) -> Made:
        """A certificate for `name` (and for 127.0.0.1, unless other names are given), valid from and until then."""
        import ipaddress

        if sans is None:
            sans = [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        return Made(_signed(name, sans, key, self.certificate, self.key, now + begins, now + ends), key)


def _signed(name, sans, key, issuer, issuer_key, begins, ends):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
    )
    if sans:
        built = built.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return built.sign(issuer_key, hashes.SHA256())
