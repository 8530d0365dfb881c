"""From a request's bytes to the model's objects.

What the model checks when an object is made is not checked again; here are the checks of lengths that only
netlink knows. Addresses of IPv4 are the first 4 of 16 bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

from uxfrm.model.address import AF_INET, AF_UNSPEC, ANY4, Address
from uxfrm.model.aevent import AeventUpdate
from uxfrm.model.algorithm import Algorithm, Wanted
from uxfrm.model.dump import LarvalConfig, PolicyId, StateId
from uxfrm.model.error import invalid
from uxfrm.model.iptfs import Iptfs
from uxfrm.model.lifetime import LifetimeConfig, LifetimeCurrent
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.migrate import KmAddress, MigrateEntry, Migration
from uxfrm.model.policy import Direction, Offload, PolicyConfig, PolicyType, SecurityContext
from uxfrm.model.selector import Selector
from uxfrm.model.state import PLAIN, Encap, Rare, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.model.template import IPSEC_PROTOCOLS, MAX_DEPTH, Template
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr

Attributes = Mapping[int, bytes]

_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_ALL_BITS = 0xFFFFFFFF
_NAME_MAX = 63


def address(raw: bytes, family: int) -> Address:
    """An address of 16 bytes as the model keeps it."""
    return raw[:4] if family == AF_INET else raw


def u32(attributes: Attributes, number: Attr, absent: int = 0) -> int:
    """An attribute's 32-bit integer."""
    data = attributes.get(number)
    return absent if data is None else int(_U32.unpack_from(data)[0])


def u8(attributes: Attributes, number: Attr) -> int:
    """An attribute's byte, 0 where it is absent."""
    data = attributes.get(number)
    return data[0] if data else 0


def mark(attributes: Attributes) -> Mark:
    """MARK, as it was sent."""
    data = attributes.get(Attr.MARK)
    return NO_MARK if data is None else Mark(*L.MARK.unpack(data))


def selector(sel: Any, family: int = AF_UNSPEC) -> Selector:
    """struct xfrm_selector; `family` is that of addresses whose own is left out."""
    kind = sel.family or family
    daddr, saddr = address(sel.daddr, kind), address(sel.saddr, kind)
    if not sel.family and not any(sel.daddr) and not any(sel.saddr):
        daddr = saddr = ANY4
    return Selector(
        sel.family, daddr, saddr, sel.prefixlen_d, sel.prefixlen_s, sel.dport, sel.dport_mask, sel.sport,
        sel.sport_mask, sel.proto, sel.ifindex, sel.user,
    )  # fmt: skip


def security_context(attributes: Attributes) -> SecurityContext | None:
    """SEC_CTX."""
    data = attributes.get(Attr.SEC_CTX)
    if data is None:
        return None
    head = L.USER_SEC_CTX.unpack(data)
    flawed = head.len > len(data) or head.len != L.USER_SEC_CTX.size + head.ctx_len
    text = data[L.USER_SEC_CTX.size : head.len].split(b"\0")[0]
    return SecurityContext(head.doi, head.alg, text.decode("utf-8", "surrogateescape"), flawed)


def offload(attributes: Attributes) -> Offload | None:
    """OFFLOAD_DEV."""
    data = attributes.get(Attr.OFFLOAD_DEV)
    return None if data is None else Offload(*L.USER_OFFLOAD.unpack(data))


# -- states


def _wanted(layout: L.Layout, attributes: Attributes, number: Attr, kinds: str = "") -> Algorithm | None:
    """The algorithm in an attribute; the fields of `layout` are its name, key bits and, if any, ICV bits."""
    data = attributes.get(number)
    if data is None:
        return None
    raw, bits, *icv = layout.unpack(data)
    attribute = number.name.removeprefix("ALG_")
    size = (bits + 7) // 8
    flaw = f"Invalid {kinds or attribute} attribute length" if len(data) < layout.size + size else ""
    name = raw[:_NAME_MAX].split(b"\0")[0].decode("latin-1")
    key = b"" if flaw else data[layout.size : layout.size + size]
    return Wanted(name, key, icv[0] if icv else 0, attribute, flaw)


def _plain(attributes: Attributes, number: Attr) -> Algorithm | None:
    return _wanted(L.ALGO, attributes, number, "AUTH/CRYPT/COMP")


def encapsulation(attributes: Attributes, family: int) -> Encap | None:
    """ENCAP."""
    data = attributes.get(Attr.ENCAP)
    if data is None:
        return None
    x = L.ENCAP_TMPL.unpack(data)
    return Encap(x.type, x.sport, x.dport, address(x.oa, family))


def replay_legacy(attributes: Attributes) -> ReplayLegacy | None:
    """REPLAY_VAL."""
    data = attributes.get(Attr.REPLAY_VAL)
    return None if data is None else ReplayLegacy(*L.REPLAY.unpack(data))


def replay_esn(attributes: Attributes) -> ReplayEsn | None:
    """REPLAY_ESN_VAL; a header alone stands for an empty bitmap."""
    data = attributes.get(Attr.REPLAY_ESN_VAL)
    if data is None:
        return None
    x = L.REPLAY_ESN.unpack(data)
    here = min(x.bmp_len, (len(data) - L.REPLAY_ESN.size) // 4, 128)
    bitmap = struct.unpack_from(f"={here}I", data, L.REPLAY_ESN.size)
    cut = L.REPLAY_ESN.size != len(data) < L.REPLAY_ESN.size + 4 * x.bmp_len
    return ReplayEsn(x.bmp_len, x.replay_window, x.oseq, x.seq, x.oseq_hi, x.seq_hi, bitmap, cut)


def lifetime_current(attributes: Attributes) -> LifetimeCurrent | None:
    """LTIME_VAL."""
    data = attributes.get(Attr.LTIME_VAL)
    return None if data is None else LifetimeCurrent(*L.LIFETIME_CURRENT.unpack(data))


_RARE = frozenset({
    Attr.COADDR, Attr.SEC_CTX, Attr.OFFLOAD_DEV, Attr.MTIMER_THRESH, Attr.NAT_KEEPALIVE_INTERVAL,
    Attr.SA_PCPU, Attr.ETIMER_THRESH, Attr.REPLAY_THRESH, Attr.LTIME_VAL,
    *range(Attr.IPTFS_DROP_TIME, Attr.IPTFS_PKT_SIZE + 1),
})  # fmt: skip


def _optional(attributes: Attributes, number: Attr) -> int | None:
    return u32(attributes, number) if number in attributes else None


_IPTFS = range(Attr.IPTFS_DROP_TIME, Attr.IPTFS_PKT_SIZE + 1)


def _iptfs(attributes: Attributes) -> Iptfs | None:
    """IPTFS_*, in the order of their numbers."""
    if not any(number in attributes for number in _IPTFS):
        return None
    window = attributes.get(Attr.IPTFS_REORDER_WINDOW)
    return Iptfs(
        _optional(attributes, Attr.IPTFS_DROP_TIME),
        None if window is None else int(_U16.unpack_from(window)[0]),
        True if Attr.IPTFS_DONT_FRAG in attributes else None,
        _optional(attributes, Attr.IPTFS_INIT_DELAY),
        _optional(attributes, Attr.IPTFS_MAX_QSIZE),
        _optional(attributes, Attr.IPTFS_PKT_SIZE),
    )


def _rare(attributes: Attributes, family: int) -> Rare:
    if _RARE.isdisjoint(attributes):
        return PLAIN
    coaddr = attributes.get(Attr.COADDR)
    return Rare(
        coaddr=None if coaddr is None else address(coaddr[:16], family),
        context=security_context(attributes),
        offload=offload(attributes),
        mtimer_thresh=_optional(attributes, Attr.MTIMER_THRESH),
        nat_keepalive=u32(attributes, Attr.NAT_KEEPALIVE_INTERVAL),
        pcpu=_optional(attributes, Attr.SA_PCPU),
        replay_maxage=_optional(attributes, Attr.ETIMER_THRESH),
        replay_maxdiff=_optional(attributes, Attr.REPLAY_THRESH),
        current=lifetime_current(attributes),
        iptfs=_iptfs(attributes),
    )


def state(info: Any, attributes: Attributes) -> StateConfig:
    """NEWSA, UPDSA: a checked configuration. Raises XfrmError."""
    return StateConfig(**state_fields(info, attributes))


def state_fields(info: Any, attributes: Attributes) -> dict[str, Any]:
    """The fields of a StateConfig, of which nothing has been checked."""
    family = info.family
    set_mark = NO_MARK
    if Attr.SET_MARK in attributes:
        set_mark = Mark(u32(attributes, Attr.SET_MARK), u32(attributes, Attr.SET_MARK_MASK, _ALL_BITS))
    return {
        "daddr": address(info.id.daddr, family),
        "saddr": address(info.saddr, family),
        "proto": info.id.proto,
        "spi": info.id.spi,
        "family": family,
        "mode": info.mode,
        "reqid": info.reqid,
        "seq": info.seq,
        "selector": selector(info.sel, family),
        "aead": _wanted(L.ALGO_AEAD, attributes, Attr.ALG_AEAD),
        "auth": _wanted(L.ALGO_AUTH, attributes, Attr.ALG_AUTH_TRUNC) or _plain(attributes, Attr.ALG_AUTH),
        "crypt": _plain(attributes, Attr.ALG_CRYPT),
        "comp": _plain(attributes, Attr.ALG_COMP),
        "replay_window": info.replay_window,
        "replay": replay_legacy(attributes) or ReplayLegacy(),
        "replay_esn": replay_esn(attributes),
        "flags": info.flags,
        "extra_flags": u32(attributes, Attr.SA_EXTRA_FLAGS),
        "encap": encapsulation(attributes, family),
        "tfcpad": u32(attributes, Attr.TFCPAD),
        "mark": mark(attributes),
        "set_mark": set_mark,
        "if_id": u32(attributes, Attr.IF_ID),
        "direction": u8(attributes, Attr.SA_DIR),
        "lifetime": LifetimeConfig(*info.lft),
        "rare": _rare(attributes, family),
    }


def state_id(x: Any, attributes: Attributes) -> StateId:
    """DELSA, GETSA: struct xfrm_usersa_id. EINVAL where a protocol without SPIs lacks SRCADDR."""
    saddr = attributes.get(Attr.SRCADDR)
    found = mark(attributes)
    if x.proto not in IPSEC_PROTOCOLS and saddr is None:
        raise invalid()
    return StateId(
        address(x.daddr, x.family), x.spi, x.proto, x.family, found.v & found.m,
        None if saddr is None else address(saddr[:16], x.family),
    )  # fmt: skip


def larval(info: Any, attributes: Attributes) -> LarvalConfig:
    """ALLOCSPI: what is wanted."""
    pcpu = _optional(attributes, Attr.SA_PCPU)
    return LarvalConfig(
        address(info.id.daddr, info.family), address(info.saddr, info.family), info.id.proto, 0, info.family,
        info.mode, info.reqid, info.seq, mark(attributes), u32(attributes, Attr.IF_ID),
        u8(attributes, Attr.SA_DIR), pcpu,
    )  # fmt: skip


def wide_id(x: Any, attributes: Attributes) -> StateId:
    """NEWAE, GETAE: struct xfrm_usersa_id, looked up by SPI whatever its protocol."""
    found = mark(attributes)
    return StateId(address(x.daddr, x.family), x.spi, x.proto, x.family, found.v & found.m)


def aevent(attributes: Attributes) -> AeventUpdate:
    """NEWAE: what is to be set."""
    return AeventUpdate(
        replay_legacy(attributes),
        replay_esn(attributes),
        lifetime_current(attributes),
        _optional(attributes, Attr.REPLAY_THRESH),
        _optional(attributes, Attr.ETIMER_THRESH),
        _optional(attributes, Attr.MTIMER_THRESH),
    )


# -- policies


def template(x: Any) -> Template:
    """struct xfrm_user_tmpl."""
    return Template(
        address(x.id.daddr, x.family), address(x.saddr, x.family), x.id.spi, x.id.proto, x.family, x.reqid,
        x.mode, x.share, bool(x.optional), x.aalgos, x.ealgos, x.calgos,
    )  # fmt: skip


def templates(attributes: Attributes, family: int) -> tuple[Template, ...]:
    """TMPL; more than six of them are only counted, for the model to refuse."""
    data = attributes.get(Attr.TMPL, b"")
    count = min(len(data) // L.USER_TMPL.size, MAX_DEPTH + 1)
    found = []
    for number in range(count):
        x = L.USER_TMPL.unpack(data, number * L.USER_TMPL.size)
        found.append(template(x._replace(family=x.family or family)))
    return tuple(found)


def policy_type(attributes: Attributes) -> int:
    """POLICY_TYPE; EINVAL for one there is none of. Follows: copy_from_user_policy_type."""
    data = attributes.get(Attr.POLICY_TYPE)
    found = PolicyType.MAIN if data is None else data[0]
    if found not in (PolicyType.MAIN, PolicyType.SUB):
        raise invalid("Invalid policy type")
    return found


def policy(info: Any, attributes: Attributes) -> PolicyConfig:
    """NEWPOLICY, UPDPOLICY: a checked configuration. Raises XfrmError."""
    return PolicyConfig(**policy_fields(info, attributes))


def policy_fields(info: Any, attributes: Attributes) -> dict[str, Any]:
    """The fields of a PolicyConfig, of which nothing has been checked."""
    data = attributes.get(Attr.POLICY_TYPE)
    return {
        "direction": info.dir,
        "selector": selector(info.sel),
        "templates": templates(attributes, info.sel.family),
        "action": info.action,
        "priority": info.priority,
        "index": info.index,
        "flags": info.flags,
        "share": info.share,
        "type": PolicyType.MAIN if data is None else data[0],
        "lifetime": LifetimeConfig(*info.lft),
        "mark": mark(attributes),
        "if_id": u32(attributes, Attr.IF_ID),
        "context": security_context(attributes),
        "offload": offload(attributes),
    }


def policy_id(sel: Any, index: int, direction: int, attributes: Attributes) -> PolicyId:
    """GETPOLICY, DELPOLICY, POLEXPIRE: which policy is meant."""
    found = policy_type(attributes)
    if direction > Direction.FWD:
        raise invalid("Invalid policy direction")
    context = None if index else security_context(attributes)
    if context is not None:
        context.check()
    return PolicyId(
        direction, selector(sel), index, found, mark(attributes), u32(attributes, Attr.IF_ID), context
    )


def wanted(x: Any, attributes: Attributes) -> LarvalConfig:
    """ACQUIRE: source address and selector of the states that are asked for, and their CPU."""
    return LarvalConfig(
        address(x.id.daddr, x.sel.family), address(x.saddr, x.sel.family), x.id.proto,
        pcpu=_optional(attributes, Attr.SA_PCPU), selector=selector(x.sel),
    )  # fmt: skip


def _entries(data: bytes) -> tuple[MigrateEntry, ...]:
    """MIGRATE; more than six of them are only counted, for the model to refuse."""
    found = []
    for number in range(min(len(data) // L.USER_MIGRATE.size, MAX_DEPTH + 1)):
        x = L.USER_MIGRATE.unpack(data, number * L.USER_MIGRATE.size)
        entry = MigrateEntry(
            address(x.old_daddr, x.old_family), address(x.old_saddr, x.old_family),
            address(x.new_daddr, x.new_family), address(x.new_saddr, x.new_family),
            x.proto, x.mode, x.reqid, x.old_family, x.new_family,
        )  # fmt: skip
        found.append(entry)
    return tuple(found)


def _kmaddress(attributes: Attributes) -> KmAddress | None:
    data = attributes.get(Attr.KMADDRESS)
    if data is None:
        return None
    x = L.USER_KMADDRESS.unpack(data)
    return KmAddress(address(x.local, x.family), address(x.remote, x.family), x.reserved, x.family)


def migration(x: Any, attributes: Attributes) -> Migration:
    """MIGRATE: struct xfrm_userpolicy_id, of which the index does not count."""
    data = attributes.get(Attr.MIGRATE)
    if data is None:
        raise invalid("Missing required MIGRATE attribute")
    kind = policy_type(attributes)
    return Migration(
        selector(x.sel), x.dir, _entries(data), kind, u32(attributes, Attr.IF_ID),
        encapsulation(attributes, AF_UNSPEC), _kmaddress(attributes),
    )  # fmt: skip


def check_kinds(attributes: Attributes, both: bool, cpu: bool) -> None:
    """Refuse SA_DIR and SA_PCPU where they mean nothing. Follows: xfrm_reject_unused_attr."""
    if Attr.SA_DIR in attributes and not both:
        raise invalid("Invalid attribute SA_DIR")
    if Attr.SA_PCPU in attributes and not (both or cpu):
        raise invalid("Invalid attribute SA_PCPU")
