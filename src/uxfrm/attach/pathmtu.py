"""The kernel's path MTU to an address: the route's, or less where an ICMP message said so.

Follows: ip(7) IP_MTU, ipv6(7) IPV6_MTU.
"""

from __future__ import annotations

import socket

from uxfrm.model.address import AF_INET, Address

_IP_MTU, _IPV6_MTU = 14, 24
_PORT = 4500


def path_mtu(address: Address, mark: int = 0) -> int | None:
    """Bytes of the longest IP packet to `address` (4 or 16 bytes); None where there is no route.

    `mark` chooses the route, where there are the rights to set it.
    """
    family = socket.AF_INET if len(address) == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as one:
        try:
            if mark:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
            one.connect((socket.inet_ntop(family, address), _PORT))
            if family == AF_INET:
                return one.getsockopt(socket.IPPROTO_IP, _IP_MTU)
            return one.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)
        except OSError:
            return None
