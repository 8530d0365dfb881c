"""How long the packets are into which TCP of this host wants a super-packet cut: its connection knows.

NFQUEUE gives a super-packet without its segment size. That of the path is not enough: the other end may take
less (its MSS), and of packets that are too long for a router behind it TCP would believe no word, since its
own are shorter. So the socket is asked (sock_diag, as `ss --info` does; no rights are needed).

Follows: tcp_current_mss, net/ipv4/inet_diag.c.
"""

from __future__ import annotations

import contextlib
import socket
import struct

from uxfrm.model.address import AF_INET, AF_INET6
from uxfrm.netlink.wire import NLM_F_REQUEST, Message, attributes, messages

_NETLINK_SOCK_DIAG, _BY_FAMILY = 4, 20
_TCP, _INFO, _ALL_STATES, _NO_COOKIE = 6, 2, 0xFFFFFFFF, b"\xff" * 8
_MESSAGE, _ANSWER = 72, 8192
_TIMESTAMPS, _TIMESTAMPS_BYTES = 1, 12
_BASE = 20
_OPTIONS_AT, _MSS_AT = 5, 16  # in struct tcp_info


class Segments:
    """Asks the kernel for connections. Where it does not answer, nobody knows."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError):
            self._socket = socket.socket(
                socket.AF_NETLINK,
                socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
                _NETLINK_SOCK_DIAG,
            )

    def longest(self, source: bytes, destination: bytes, ports: bytes) -> int | None:
        """Bytes of the longest IP packet of a connection of this host, options and all; None if unknown.

        `ports`: source and destination port, as in the header.
        """
        if self._socket is None:
            return None
        family = AF_INET if len(source) == 4 else AF_INET6
        ends = ports + source.ljust(16, b"\0") + destination.ljust(16, b"\0") + bytes(4) + _NO_COOKIE
        asked = struct.pack("=BBBxI", family, _TCP, 1 << _INFO - 1, _ALL_STATES) + ends
        try:
            self._socket.sendto(Message(_BY_FAMILY, NLM_F_REQUEST, 0, 0, asked).pack(), (0, 0))
            answer = self._socket.recv(_ANSWER)
        except OSError:
            return None
        found = _segment(answer)
        return None if found is None else (20 if family == AF_INET else 40) + found

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()


def _segment(answer: bytes) -> int | None:
    """Bytes of the TCP header without options that come and go, and of the payload behind it."""
    for message in messages(answer):
        if message.type != _BY_FAMILY or len(message.payload) < _MESSAGE:
            return None
        found = {kind: value for kind, value, _ in attributes(message.payload, _MESSAGE)[0]}
        info = found.get(_INFO, b"")
        if len(info) >= _MSS_AT + 4:
            mss: int = struct.unpack_from("=I", info, _MSS_AT)[0]
            return _BASE + mss + (_TIMESTAMPS_BYTES if info[_OPTIONS_AT] & _TIMESTAMPS else 0)
    return None
