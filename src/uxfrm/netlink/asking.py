"""Requests as a client makes them: the model's objects to the bytes of a message's payload."""

from __future__ import annotations

import struct

from uxfrm.model.aevent import AeventUpdate
from uxfrm.model.counts import Thresholds
from uxfrm.model.dump import LarvalConfig, PolicyId, StateDump, StateId
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.mark import Mark
from uxfrm.model.migrate import Migration
from uxfrm.model.policy import PolicyConfig
from uxfrm.model.selector import ANYTHING
from uxfrm.model.state import StateConfig
from uxfrm.netlink import encode
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr, SpdAttr
from uxfrm.netlink.wire import attribute

_ALL_BITS = 0xFFFFFFFF


def _u32(number: Attr, value: int | None) -> bytes:
    return b"" if value is None else encode.u32(number, value)


def _current(value: LifetimeCurrent | None) -> bytes:
    return b"" if value is None else attribute(Attr.LTIME_VAL, encode.lifetime_current(value))


def _mark(value: int) -> bytes:
    """A mark that names a state: compared in all its bits."""
    return encode.mark(Mark(value, _ALL_BITS)) if value else b""


def state(x: StateConfig) -> bytes:
    """NEWSA, UPDSA."""
    body = encode.state(StateDump.requested(x, 0))
    body += _u32(Attr.ETIMER_THRESH, x.rare.replay_maxage) + _u32(Attr.REPLAY_THRESH, x.rare.replay_maxdiff)
    return body + _current(x.rare.current)


def state_id(x: StateId) -> bytes:
    """DELSA, GETSA."""
    body = L.USERSA_ID.pack(daddr=x.daddr, spi=x.spi, family=x.family, proto=x.proto)
    if x.saddr is not None:
        body += attribute(Attr.SRCADDR, x.saddr.ljust(16, b"\0"))
    return body + _mark(x.mark)


def spi_range(x: LarvalConfig, low: int, high: int) -> bytes:
    """ALLOCSPI."""
    info = encode.usersa_info(StateDump.larval(x))
    body = L.USERSPI_INFO.pack(info=info, min=low, max=high)
    return body + encode.mark(x.mark) + encode.if_id(x.if_id) + encode.bound(x.pcpu, x.direction)


def expiry(x: StateId, hard: bool) -> bytes:
    """EXPIRE."""
    named = LarvalConfig(x.daddr, x.saddr or x.daddr, x.proto, x.spi, x.family)
    body = L.USER_EXPIRE.pack(state=encode.usersa_info(StateDump.larval(named)), hard=int(hard))
    return body + _mark(x.mark)


def _aevent_id(x: StateId, flags: int) -> bytes:
    named = {"daddr": x.daddr, "spi": x.spi, "family": x.family, "proto": x.proto}
    return L.AEVENT_ID.pack(sa_id=named, saddr=x.saddr or b"", flags=flags)


def aevent(x: StateId, flags: int) -> bytes:
    """GETAE."""
    return _aevent_id(x, flags) + _mark(x.mark)


def aevent_update(x: StateId, wanted: AeventUpdate) -> bytes:
    """NEWAE."""
    body = _aevent_id(x, 0) + _mark(x.mark)
    for value in (wanted.replay, wanted.replay_esn):
        body += b"" if value is None else encode.replay(value)
    body += _current(wanted.current) + _u32(Attr.REPLAY_THRESH, wanted.maxdiff)
    return body + _u32(Attr.ETIMER_THRESH, wanted.maxage) + _u32(Attr.MTIMER_THRESH, wanted.mtimer_thresh)


def policy(x: PolicyConfig) -> bytes:
    """NEWPOLICY, UPDPOLICY."""
    return encode.userpolicy_info(x, LifetimeCurrent(), share=x.share) + encode.policy_attributes(x)


def policy_id(x: PolicyId) -> bytes:
    """DELPOLICY, GETPOLICY."""
    body = L.USERPOLICY_ID.pack(
        sel=encode.selector(x.selector or ANYTHING), index=x.index, dir=int(x.direction)
    )
    return body + _policy_scope(x)


def policy_expiry(x: PolicyId, hard: bool) -> bytes:
    """POLEXPIRE."""
    sel = encode.selector(x.selector or ANYTHING)
    info = L.USERPOLICY_INFO.pack(sel=sel, index=x.index, dir=int(x.direction))
    return L.USER_POLEXPIRE.pack(pol=info, hard=int(hard)) + _policy_scope(x)


def _policy_scope(x: PolicyId) -> bytes:
    context = encode.security_context(x.context)
    return context + encode.policy_type(x.type) + encode.mark(x.mark) + encode.if_id(x.if_id)


def migration(x: Migration) -> bytes:
    """MIGRATE: all entries in one attribute."""
    body = L.USERPOLICY_ID.pack(sel=encode.selector(x.selector), dir=int(x.direction))
    entries = b"".join(L.USER_MIGRATE.pack(**entry._asdict()) for entry in x.entries)
    body += attribute(Attr.MIGRATE, entries) + encode.kmaddress(x.kmaddress) + encode.encapsulation(x.encap)
    return body + encode.policy_type(x.type) + encode.if_id(x.if_id)


def acquire(x: LarvalConfig, policy: PolicyConfig, masks: tuple[int, int, int]) -> bytes:
    """ACQUIRE."""
    aalgos, ealgos, calgos = masks
    body = L.USER_ACQUIRE.pack(
        id={"daddr": x.daddr, "spi": x.spi, "proto": x.proto}, saddr=x.saddr,
        sel=encode.selector(x.selector or ANYTHING),
        policy=encode.userpolicy_info(policy, LifetimeCurrent(), share=policy.share),
        aalgos=aalgos, ealgos=ealgos, calgos=calgos,
    )  # fmt: skip
    return body + encode.policy_attributes(policy) + encode.bound(x.pcpu, 0)


def thresholds(ipv4: Thresholds | None, ipv6: Thresholds | None) -> bytes:
    """NEWSPDINFO."""
    body = struct.pack("=I", 0)
    for number, value in ((SpdAttr.IPV4_HTHRESH, ipv4), (SpdAttr.IPV6_HTHRESH, ipv6)):
        body += b"" if value is None else attribute(number, bytes(value))
    return body
