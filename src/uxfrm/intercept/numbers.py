"""Constants of the socket interface that Python's socket module lacks or has only on some systems.

Follows: linux/socket.h, linux/netlink.h, linux/udp.h, linux/in.h, linux/in6.h.
"""

from __future__ import annotations

AF_NETLINK = 16
NETLINK_XFRM = 6
SOL_SOCKET = 1
SO_TYPE = 3
SO_PROTOCOL = 38
SO_DOMAIN = 39
SOL_NETLINK = 270
SOL_UDP = 17
UDP_ENCAP = 100
SOL_IP = 0
IP_XFRM_POLICY = 17
SOL_IPV6 = 41
IPV6_XFRM_POLICY = 35

SOCKADDR_NL_LEN = 12

# Where the sockets of strict mode lie: high enough for other files to keep clear, below select()'s 1024.
STRICT_FDS = range(900, 1024)
