"""Where a service may listen. Pure.

Beyond this machine only what is encrypted and asks who calls may be reached, or what somebody has said on purpose to be plain.
"""

import ipaddress


class AddressError(ValueError):
    """The address cannot be listened on; the text names the setting and says what to do."""


def loopback(setting: str, address: str, *, beyond: bool, remedy: str) -> tuple[str, int]:
    """Host and port of `address` ("host:port", port 0 for any), which `setting` gave.

    Raises AddressError for what is no address, and for one beyond loopback unless that is allowed (`beyond`); `remedy` says
    what would allow it.
    """
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
    if not near and not beyond:
        raise AddressError(f"{setting} {address!r} can be reached from other machines: {remedy}, or bind to 127.0.0.1")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether what is sent to this host, a name or an IP address, stays on this machine."""
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]")).is_loopback
    except ValueError:
        return host == "localhost"
