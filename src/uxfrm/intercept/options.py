"""setsockopt and getsockopt: netlink's own options, the socket's kind, UDP_ENCAP and socket policies.

Follows: netlink_setsockopt, netlink_getsockopt, sk_getsockopt, udp_lib_setsockopt, xfrm_user_policy.
"""

from __future__ import annotations

import errno
import struct
from socket import AF_INET, AF_INET6, IPPROTO_UDP, SOCK_RAW
from socket import socket as Endpoint

from uxfrm.intercept import numbers as n
from uxfrm.intercept.caller import Caller, Result, error
from uxfrm.intercept.sockets import Socket

ADD_MEMBERSHIP, DROP_MEMBERSHIP, PKTINFO, BROADCAST_ERROR, NO_ENOBUFS = 1, 2, 3, 4, 5
LISTEN_ALL_NSID, LIST_MEMBERSHIPS, CAP_ACK, EXT_ACK, GET_STRICT_CHK = 8, 9, 10, 11, 12
_FLAGS = (PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK)

# A netlink family of the kernel has at least this many groups.
_GROUPS = 32
_PAGE_SIZE = 4096
_INT_BYTES = 4


def set_option(caller: Caller) -> Result:
    """setsockopt(), of the levels and names that the filter takes."""
    level = caller.integer(1)
    if level == n.SOL_UDP:
        return _encapsulate(caller)
    if level == n.SOL_IP:
        return _socket_policy(caller, AF_INET)
    if level == n.SOL_IPV6:
        return _socket_policy(caller, AF_INET6)
    known = caller.socket()
    return None if known is None else _set_netlink(caller, known)


def _set_netlink(caller: Caller, known: Socket) -> int:
    engine, name = caller.service.engine, caller.integer(2)
    value = 0
    if caller.integer(4) < 0:
        raise error(errno.EINVAL)
    if caller.integer(4) >= _INT_BYTES:
        value = caller.read_int(caller.pointer(3))
    if name in (ADD_MEMBERSHIP, DROP_MEMBERSHIP):
        if not 0 < value <= _GROUPS:
            raise error(errno.EINVAL)
        if name == ADD_MEMBERSHIP:
            engine.join(known.port, value)
            known.groups |= 1 << (value - 1)
        else:
            engine.leave(known.port, value)
            known.groups &= ~(1 << (value - 1))
        return 0
    if name not in _FLAGS:
        raise error(errno.ENOPROTOOPT)
    engine.option(known.port, name, int(value != 0))
    known.options[name] = int(value != 0)
    return 0


def get_option(caller: Caller) -> Result:
    """getsockopt(), of the levels and names that the filter takes."""
    known = caller.socket()
    if known is None:
        return None
    name = caller.integer(2)
    if caller.integer(1) == n.SOL_NETLINK:
        return _get_netlink(caller, known, name)
    value = {n.SO_TYPE: known.kind, n.SO_PROTOCOL: n.NETLINK_XFRM, n.SO_DOMAIN: n.AF_NETLINK}[name]
    room = _room(caller)
    caller.write(caller.pointer(3), _int(value)[:room])
    caller.write_int(caller.pointer(4), min(room, _INT_BYTES))
    return 0


def _get_netlink(caller: Caller, known: Socket, name: int) -> int:
    room = _room(caller)
    if name == LIST_MEMBERSHIPS:
        if room >= _INT_BYTES:
            caller.write(caller.pointer(3), struct.pack("=I", known.groups))
    elif name not in _FLAGS:
        raise error(errno.ENOPROTOOPT)
    elif room < _INT_BYTES:
        raise error(errno.EINVAL)
    else:
        caller.write(caller.pointer(3), _int(known.options.get(name, 0)))
    caller.write_int(caller.pointer(4), _INT_BYTES)
    return 0


def _room(caller: Caller) -> int:
    room = caller.read_int(caller.pointer(4))
    if room < 0:
        raise error(errno.EINVAL)
    return room


def _int(value: int) -> bytes:
    return value.to_bytes(_INT_BYTES, "little")


def _encapsulate(caller: Caller) -> Result:
    """UDP_ENCAP never reaches the kernel: without ESP it would swallow the packets."""
    udp = _duplicate(caller)
    if udp is None:
        return None
    try:
        if udp.family not in (AF_INET, AF_INET6) or udp.proto != IPPROTO_UDP:
            udp.close()
            return None
        if caller.integer(4) < _INT_BYTES:
            raise error(errno.EINVAL)
        kind = caller.read_int(caller.pointer(3))
        peer = caller.process().peer
    except BaseException:
        udp.close()
        raise
    return _result(caller.service.engine.encapsulate(udp, kind, peer))


def _socket_policy(caller: Caller, family: int) -> Result:
    """A socket's own policy; no pointer and no length take it away."""
    client = _duplicate(caller)
    if client is None:
        return None
    try:
        if not _takes(client, family):
            client.close()
            return None
        size = caller.integer(4)
        if size < 0:
            raise error(errno.EINVAL)
        policy = b"" if size or caller.pointer(3) else None
        if 0 < size <= _PAGE_SIZE:
            policy = caller.read(caller.pointer(3), size)
        peer = caller.process().peer
    except BaseException:
        client.close()
        raise
    return _result(caller.service.engine.socket_policy(client, family, policy, peer))


def _takes(client: Endpoint, family: int) -> bool:
    """Whether the option gets as far as XFRM; if not, the kernel itself says so. Follows: ipv6_setsockopt."""
    if client.family == AF_INET6 and family == AF_INET:
        return client.type != SOCK_RAW
    return client.family == family


def _duplicate(caller: Caller) -> Endpoint | None:
    """The socket, or None where the kernel itself says what is wrong with the file descriptor."""
    try:
        return caller.duplicate()
    except OSError as problem:
        if problem.errno in (errno.EBADF, errno.ENOTSOCK):
            return None
        raise


def _result(number: int) -> int:
    if number:
        raise error(number)
    return 0
