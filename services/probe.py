"""Asks services whether calls should come to them: `python -m services.probe HOST:PORT…`, for an orchestrator's probes.

Such as Kubernetes, whose own gRPC probes know no TLS. With --ca-file the connection is encrypted, and the certificate has to be
for --tls-name, by default for HOST. Exit codes: 0 when all of them serve, 1 when one does not, 2 when it cannot be asked so.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]  # carries no types

PEM_BYTES_MAX = 1024 * 1024
TIMEOUT_S = 3.0


class ProbeError(ValueError):
    """It cannot be asked so; the text says which option or file to mend."""


def probe(
    address: str,
    credentials: grpc.ChannelCredentials | None,
    *,
    tls_name: str = "",
    alive: bool = False,
    timeout_s: float = TIMEOUT_S,
) -> str:
    """What keeps the server at `address` (host:port) from taking calls; "" when nothing does.

    With `alive` any answer will do: it tells a server that must be started anew from one that waits for something.
    """
    options = [("grpc.ssl_target_name_override", tls_name)] if tls_name else []
    opened = (
        grpc.insecure_channel(address)
        if credentials is None
        else grpc.secure_channel(address, credentials, options=options)
    )
    with opened as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=timeout_s, wait_for_ready=False
            )
        except grpc.RpcError as error:
            return f"{address} does not answer: {error.code().name}: {error.details()}"
    if alive or answer.status == health_pb2.HealthCheckResponse.SERVING:
        return ""
    return f"{address} says {health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)}"


def credentials_of(
    ca_file: Path | None, certificate_file: Path | None, key_file: Path | None
) -> grpc.ChannelCredentials | None:
    """What the connection is encrypted with; None for plaintext. Raises ProbeError."""
    if (certificate_file is None) != (key_file is None):
        raise ProbeError("--certificate-file and --key-file belong together: give both or neither")
    if ca_file is None:
        if certificate_file is not None:
            raise ProbeError("--certificate-file needs --ca-file: without it the connection is not encrypted")
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(ca_file),
        private_key=None if key_file is None else _read(key_file),
        certificate_chain=None if certificate_file is None else _read(certificate_file),
    )


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(PEM_BYTES_MAX)
    except OSError as error:
        raise ProbeError(f"{file} cannot be read ({error.strerror}): check the path and its permissions") from error


def main(arguments: Sequence[str]) -> int:
    """Ask with these arguments; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m services.probe", description="Do these services take calls?")
    parser.add_argument("addresses", metavar="HOST:PORT", nargs="+")
    parser.add_argument(
        "--ca-file", type=Path, help="certificates (PEM) that the servers' own must come from; turns TLS on"
    )
    parser.add_argument("--tls-name", default="", help="the name in the servers' certificates, where it is not HOST")
    parser.add_argument("--certificate-file", type=Path, help="the certificate (PEM) to show, where one is asked for")
    parser.add_argument("--key-file", type=Path, help="its key (PEM)")
    parser.add_argument("--alive", action="store_true", help="any answer will do, NOT_SERVING too")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_S, help="how long to wait for each answer, seconds")
    given = parser.parse_args(arguments)
    try:
        credentials = credentials_of(given.ca_file, given.certificate_file, given.key_file)
    except ProbeError as error:
        sys.stderr.write(f"probe: {error}\n")
        return 2
    wrong = [
        text
        for address in given.addresses
        if (text := probe(address, credentials, tls_name=given.tls_name, alive=given.alive, timeout_s=given.timeout))
    ]
    sys.stderr.write("".join(f"probe: {text}\n" for text in wrong))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
