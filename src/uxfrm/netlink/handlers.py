"""What each request does: one function per message type, and the table that names them.

A handler gets a call whose body and attributes have passed the general checks, and returns the replies that
go before the acknowledgement. Follows: net/xfrm/xfrm_user.c, xfrm_dispatch.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from uxfrm.model.counts import Thresholds
from uxfrm.model.dump import PolicyDump, StateFilter, StateId
from uxfrm.model.error import XfrmError, invalid
from uxfrm.model.state import StateConfig
from uxfrm.namespace import Namespace
from uxfrm.netlink import decode, encode
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr, SadAttr, SpdAttr, Xfrm
from uxfrm.netlink.wire import NLM_F_REPLACE, Message, attribute

_U32 = struct.Struct("=I")

Reply = tuple[int, bytes]
Dump = tuple[int, Iterator[bytes]]


class Call(NamedTuple):
    """A request on its way to its handler."""

    namespace: Namespace
    request: Message
    attributes: Mapping[int, bytes]
    cpus: int

    @property
    def body(self) -> bytes:
        return self.request.payload


@dataclass(frozen=True, slots=True)
class Handler:
    """`body` is the least length of the fixed part; `directed` allows SA_DIR and SA_PCPU.

    `echoes`: replies carry the port id that the request's header claims, not the requester's.
    """

    body: int
    act: Callable[[Call], Iterable[Reply]]
    dump: Callable[[Call], Dump] | None = None
    directed: bool = False
    echoes: bool = False


# -- states


def _state(call: Call) -> StateConfig:
    config = decode.state(L.USERSA_INFO.unpack(call.body), call.attributes)
    if config.rare.pcpu is not None and config.rare.pcpu >= call.cpus:
        raise XfrmError(errno.ERANGE, "pCPU number too big")
    return config


def _newsa(call: Call) -> Iterable[Reply]:
    call.namespace.add_state(_state(call))
    return ()


def _updsa(call: Call) -> Iterable[Reply]:
    call.namespace.update_state(_state(call))
    return ()


def _delsa(call: Call) -> Iterable[Reply]:
    call.namespace.delete_state(decode.state_id(L.USERSA_ID.unpack(call.body), call.attributes))
    return ()


def _getsa(call: Call) -> Iterable[Reply]:
    dump = call.namespace.get_state(decode.state_id(L.USERSA_ID.unpack(call.body), call.attributes))
    return [(Xfrm.NEWSA, encode.state(dump))]


def _state_filter(attributes: Mapping[int, bytes]) -> StateFilter:
    """PROTO and ADDRESS_FILTER. EINVAL for prefixes beyond 128 bits. Follows: xfrm_dump_sa."""
    proto = decode.u8(attributes, Attr.PROTO)
    data = attributes.get(Attr.ADDRESS_FILTER)
    if data is None:
        return StateFilter(proto)
    x = L.ADDRESS_FILTER.unpack(data)
    if max(x.splen, x.dplen) > 128:
        raise invalid()
    return StateFilter(proto, x.family, x.saddr, x.splen, x.daddr, x.dplen)


def _getsa_dump(call: Call) -> Dump:
    dumps = call.namespace.dump_states(_state_filter(call.attributes))
    return Xfrm.NEWSA, (encode.state(dump) for dump in dumps)


def _flushsa(call: Call) -> Iterable[Reply]:
    call.namespace.flush_states(L.USERSA_FLUSH.unpack(call.body).proto)
    return ()


def _allocspi(call: Call) -> Iterable[Reply]:
    x = L.USERSPI_INFO.unpack(call.body)
    wanted = decode.larval(x.info, call.attributes)
    if wanted.pcpu is not None and wanted.pcpu >= call.cpus:
        raise invalid("pCPU number too big")
    return [(Xfrm.NEWSA, encode.state(call.namespace.alloc_spi(wanted, x.min, x.max)))]


def _expire(call: Call) -> Iterable[Reply]:
    x = L.USER_EXPIRE.unpack(call.body)
    found = decode.mark(call.attributes)
    info = x.state
    identity = StateId(
        decode.address(info.id.daddr, info.family), info.id.spi, info.id.proto, info.family, found.v & found.m
    )
    call.namespace.expire_state(identity, bool(x.hard))
    return ()


def _newae(call: Call) -> Iterable[Reply]:
    x = L.AEVENT_ID.unpack(call.body)
    wanted = decode.aevent(call.attributes)
    if wanted.empty:
        raise invalid("Missing required attribute for AE")
    if not call.request.flags & NLM_F_REPLACE:
        raise invalid("NLM_F_REPLACE flag is required")
    call.namespace.update_aevent(decode.wide_id(x.sa_id, call.attributes), wanted)
    return ()


def _getae(call: Call) -> Iterable[Reply]:
    x = L.AEVENT_ID.unpack(call.body)
    found = call.namespace.get_aevent(decode.wide_id(x.sa_id, call.attributes), x.flags)
    return [(Xfrm.NEWAE, encode.aevent(found))]


def _acquire(call: Call) -> Iterable[Reply]:
    x = L.USER_ACQUIRE.unpack(call.body)
    wanted = decode.wanted(x, call.attributes)
    if wanted.pcpu is not None and wanted.pcpu >= call.cpus:
        raise invalid("pCPU number too big")
    policy = decode.policy(x.policy, call.attributes)
    call.namespace.acquire(wanted, policy, (x.aalgos, x.ealgos, x.calgos))
    return ()


def _getsadinfo(call: Call) -> Iterable[Reply]:
    info = call.namespace.sad_info()
    hashes = L.SAD_HINFO.pack(sadhcnt=info.sadhcnt, sadhmcnt=info.sadhmcnt)
    attributes = attribute(SadAttr.CNT, _U32.pack(info.sadcnt)) + attribute(SadAttr.HINFO, hashes)
    return [(Xfrm.NEWSADINFO, call.body[:4] + attributes)]


# -- policies


def _newpolicy(call: Call) -> Iterable[Reply]:
    call.namespace.add_policy(decode.policy(L.USERPOLICY_INFO.unpack(call.body), call.attributes))
    return ()


def _updpolicy(call: Call) -> Iterable[Reply]:
    call.namespace.update_policy(decode.policy(L.USERPOLICY_INFO.unpack(call.body), call.attributes))
    return ()


def _policy_id(call: Call) -> Any:
    x = L.USERPOLICY_ID.unpack(call.body)
    return decode.policy_id(x.sel, x.index, x.dir, call.attributes)


def _delpolicy(call: Call) -> Iterable[Reply]:
    call.namespace.delete_policy(_policy_id(call))
    return ()


def _getpolicy(call: Call) -> Iterable[Reply]:
    return [(Xfrm.NEWPOLICY, encode.policy(call.namespace.get_policy(_policy_id(call))))]


def _getpolicy_dump(call: Call) -> Dump:
    dumps: Iterator[PolicyDump] = call.namespace.dump_policies()
    return Xfrm.NEWPOLICY, (encode.policy(dump) for dump in dumps)


def _flushpolicy(call: Call) -> Iterable[Reply]:
    call.namespace.flush_policies(decode.policy_type(call.attributes))
    return ()


def _polexpire(call: Call) -> Iterable[Reply]:
    x = L.USER_POLEXPIRE.unpack(call.body)
    identity = decode.policy_id(x.pol.sel, x.pol.index, x.pol.dir, call.attributes)
    call.namespace.expire_policy(identity, bool(x.hard))
    return ()


def _migrate(call: Call) -> Iterable[Reply]:
    call.namespace.migrate(decode.migration(L.USERPOLICY_ID.unpack(call.body), call.attributes))
    return ()


def _thresholds(data: bytes | None, bits: int, family: str) -> Thresholds | None:
    if data is None:
        return None
    found = Thresholds(*L.SPD_HTHRESH.unpack(data))
    if max(found) > bits:
        raise invalid(f"Invalid hash threshold (must be <= {bits} for {family})")
    return found


def _newspdinfo(call: Call) -> Iterable[Reply]:
    ipv4 = _thresholds(call.attributes.get(SpdAttr.IPV4_HTHRESH), 32, "IPv4")
    ipv6 = _thresholds(call.attributes.get(SpdAttr.IPV6_HTHRESH), 128, "IPv6")
    call.namespace.set_thresholds(ipv4, ipv6)
    return ()


def _getspdinfo(call: Call) -> Iterable[Reply]:
    info = call.namespace.spd_info()
    ipv4, ipv6 = call.namespace.get_thresholds()
    *counts, buckets, most = info
    attributes = (
        attribute(SpdAttr.INFO, struct.pack("=6I", *counts))
        + attribute(SpdAttr.HINFO, L.SPD_HINFO.pack(spdhcnt=buckets, spdhmcnt=most))
        + attribute(SpdAttr.IPV4_HTHRESH, bytes(ipv4))
        + attribute(SpdAttr.IPV6_HTHRESH, bytes(ipv6))
    )
    return [(Xfrm.NEWSPDINFO, call.body[:4] + attributes)]


def _setdefault(call: Call) -> Iterable[Reply]:
    x = L.USERPOLICY_DEFAULT.unpack(call.body)
    call.namespace.set_default(*(action if action in (1, 2) else 0 for action in (x.in_, x.fwd, x.out)))
    return ()


def _getdefault(call: Call) -> Iterable[Reply]:
    return [(Xfrm.GETDEFAULT, bytes(call.namespace.get_default()) + b"\0")]


HANDLERS: Mapping[int, Handler] = {
    Xfrm.NEWSA: Handler(L.USERSA_INFO.size, _newsa, directed=True),
    Xfrm.UPDSA: Handler(L.USERSA_INFO.size, _updsa, directed=True),
    Xfrm.DELSA: Handler(L.USERSA_ID.size, _delsa),
    Xfrm.GETSA: Handler(L.USERSA_ID.size, _getsa, _getsa_dump),
    Xfrm.FLUSHSA: Handler(L.USERSA_FLUSH.size, _flushsa),
    Xfrm.ALLOCSPI: Handler(L.USERSPI_INFO.size, _allocspi, directed=True),
    Xfrm.EXPIRE: Handler(L.USER_EXPIRE.size, _expire),
    Xfrm.NEWAE: Handler(L.AEVENT_ID.size, _newae),
    Xfrm.GETAE: Handler(L.AEVENT_ID.size, _getae, echoes=True),
    Xfrm.ACQUIRE: Handler(L.USER_ACQUIRE.size, _acquire),
    Xfrm.GETSADINFO: Handler(4, _getsadinfo),
    Xfrm.NEWPOLICY: Handler(L.USERPOLICY_INFO.size, _newpolicy),
    Xfrm.UPDPOLICY: Handler(L.USERPOLICY_INFO.size, _updpolicy),
    Xfrm.DELPOLICY: Handler(L.USERPOLICY_ID.size, _delpolicy),
    Xfrm.GETPOLICY: Handler(L.USERPOLICY_ID.size, _getpolicy, _getpolicy_dump),
    Xfrm.FLUSHPOLICY: Handler(0, _flushpolicy),
    Xfrm.POLEXPIRE: Handler(L.USER_POLEXPIRE.size, _polexpire),
    Xfrm.MIGRATE: Handler(L.USERPOLICY_ID.size, _migrate),
    Xfrm.NEWSPDINFO: Handler(4, _newspdinfo),
    Xfrm.GETSPDINFO: Handler(4, _getspdinfo),
    Xfrm.SETDEFAULT: Handler(L.USERPOLICY_DEFAULT.size, _setdefault),
    Xfrm.GETDEFAULT: Handler(L.USERPOLICY_DEFAULT.size, _getdefault),
}

EVENT_BODIES: Mapping[int, int] = {Xfrm.REPORT: L.USER_REPORT.size, Xfrm.MAPPING: L.USER_MAPPING.size}
"""Types that only the kernel sends: as requests they are refused, the short ones with other words."""
