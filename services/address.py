"""Where a service may listen. Pure.

Nothing that Swell serves is encrypted, so no service listens where another machine can reach it.
"""

import ipaddress


class AddressError(ValueError):
    """The address cannot be listened on; the text names the setting and says what to do."""


def loopback(setting: str, address: str) -> tuple[str, int]:
    """Host and port of `address` ("host:port", port 0 for any), which `setting` gave. Raises AddressError unless it is loopback."""
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise AddressError(f"{setting} {address!r} is not an address: write host:port, such as 127.0.0.1:0")
    try:
        near = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError as error:
        raise AddressError(
            f"{setting} {address!r} is not an address: write an IP address or localhost, then :port"
        ) from error
    if not near:
        raise AddressError(
            f"{setting} {address!r} can be reached from other machines, and this version has no TLS to protect it: "
            "bind to 127.0.0.1 and put a proxy that speaks TLS in front"
        )
    return host, int(port)
