"""Addresses: which stay on this machine, and which of gRPC's names for a peer mean the same peer."""

import ipaddress
from typing import Final
from urllib.parse import unquote

_V6_NETWORK_BITS: Final = 64


def is_loopback(address: str) -> bool:
    """Whether HOST:PORT (or `unix:PATH`) is of this machine alone; names but `localhost` count as elsewhere."""
    if address.startswith("unix:"):
        return True
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def peer_host(peer: str) -> str:
    """Whom a connection comes from, without its port.

    Args:
        peer: as gRPC names it: `ipv4:192.0.2.1:4711`, `ipv6:%5B2001:db8::1%5D:4711` or `unix:`.

    Returns:
        The IPv4 address, or the /64 network of an IPv6 address, of which one machine has all; anything else as
        it is.
    """
    kind, _, rest = peer.partition(":")
    host = unquote(rest).rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return peer
    if kind == "ipv6" and isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _V6_NETWORK_BITS), strict=False))
    return str(address)
