"""Which attributes the kernel lets through, and what it says of the others.

Follows: nla_parse_deprecated with xfrma_policy and xfrma_spd_policy; attributes up to MTIMER_THRESH are
checked liberally (longer than needed is fine), those from SA_DIR on strictly.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping
from typing import NamedTuple

from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr, SpdAttr
from uxfrm.netlink.wire import NLA_F_NESTED, NLA_TYPE_MASK, NOTHING, Report, attribute, attributes

_U64 = struct.Struct("=Q")
_U32 = struct.Struct("=I")

# Kinds by which NLMSGERR_ATTR_POLICY names an attribute's type (NL_ATTR_TYPE_*).
_OPAQUE, _FLAG, _U8_KIND, _U16_KIND, _U32_KIND, _U64_KIND = 0, 1, 2, 3, 4, 5
_SIZES = {_FLAG: 0, _U8_KIND: 1, _U16_KIND: 2, _U32_KIND: 4, _U64_KIND: 8}

LEFTOVER = "bytes leftover after parsing attributes"


class Rule(NamedTuple):
    """What an attribute must be: its kind, the least length, and the range of an integer."""

    kind: int
    size: int
    low: int = 0
    high: int = 0


def _at_least(layout: L.Layout | int) -> Rule:
    return Rule(_OPAQUE, layout if isinstance(layout, int) else layout.size)


def _integer(kind: int, low: int = 0, high: int | None = None) -> Rule:
    return Rule(kind, _SIZES[kind], low, (1 << 8 * _SIZES[kind]) - 1 if high is None else high)


_FLAG_RULE = Rule(_FLAG, 0)
_U32_RULE = _integer(_U32_KIND)

XFRM_RULES: Mapping[int, Rule] = {
    Attr.SA: _at_least(L.USERSA_INFO),
    Attr.POLICY: _at_least(L.USERPOLICY_INFO),
    Attr.LASTUSED: _integer(_U64_KIND),
    Attr.ALG_AUTH_TRUNC: _at_least(L.ALGO_AUTH),
    Attr.ALG_AEAD: _at_least(L.ALGO_AEAD),
    Attr.ALG_AUTH: _at_least(L.ALGO),
    Attr.ALG_CRYPT: _at_least(L.ALGO),
    Attr.ALG_COMP: _at_least(L.ALGO),
    Attr.ENCAP: _at_least(L.ENCAP_TMPL),
    Attr.TMPL: _at_least(L.USER_TMPL),
    Attr.SEC_CTX: _at_least(L.USER_SEC_CTX),
    Attr.LTIME_VAL: _at_least(L.LIFETIME_CURRENT),
    Attr.REPLAY_VAL: _at_least(L.REPLAY),
    Attr.REPLAY_THRESH: _U32_RULE,
    Attr.ETIMER_THRESH: _U32_RULE,
    Attr.SRCADDR: _at_least(16),
    Attr.COADDR: _at_least(16),
    Attr.POLICY_TYPE: _at_least(L.USERPOLICY_TYPE),
    Attr.MIGRATE: _at_least(L.USER_MIGRATE),
    Attr.KMADDRESS: _at_least(L.USER_KMADDRESS),
    Attr.MARK: _at_least(L.MARK),
    Attr.TFCPAD: _U32_RULE,
    Attr.REPLAY_ESN_VAL: _at_least(L.REPLAY_ESN),
    Attr.SA_EXTRA_FLAGS: _U32_RULE,
    Attr.PROTO: _integer(_U8_KIND),
    Attr.ADDRESS_FILTER: _at_least(L.ADDRESS_FILTER),
    Attr.OFFLOAD_DEV: _at_least(L.USER_OFFLOAD),
    Attr.SET_MARK: _U32_RULE,
    Attr.SET_MARK_MASK: _U32_RULE,
    Attr.IF_ID: _U32_RULE,
    Attr.MTIMER_THRESH: _U32_RULE,
    Attr.SA_DIR: _integer(_U8_KIND, 1, 2),
    Attr.NAT_KEEPALIVE_INTERVAL: _U32_RULE,
    Attr.SA_PCPU: _U32_RULE,
    Attr.IPTFS_DROP_TIME: _U32_RULE,
    Attr.IPTFS_REORDER_WINDOW: _integer(_U16_KIND),
    Attr.IPTFS_DONT_FRAG: _FLAG_RULE,
    Attr.IPTFS_INIT_DELAY: _U32_RULE,
    Attr.IPTFS_MAX_QSIZE: _U32_RULE,
    Attr.IPTFS_PKT_SIZE: _U32_RULE,
}

SPD_RULES: Mapping[int, Rule] = {
    SpdAttr.IPV4_HTHRESH: _at_least(L.SPD_HTHRESH),
    SpdAttr.IPV6_HTHRESH: _at_least(L.SPD_HTHRESH),
}

_STRICT_FROM = Attr.SA_DIR


class Refused(Exception):
    """A request that fails before anybody looks at what it asks for."""

    def __init__(self, number: int, report: Report = NOTHING) -> None:
        super().__init__(number)
        self.number = number
        self.report = report


class Parsed(NamedTuple):
    """The attributes of a request by number, the last one of a kind, and whether bytes were left over."""

    attributes: dict[int, bytes]
    leftover: bool


def parse(payload: bytes, body: int, rules: Mapping[int, Rule], last: int, header: int) -> Parsed:
    """Read the attributes behind `body` bytes of a message's payload; those beyond `last` are passed over.

    Offsets in a refusal are counted from the netlink header, which is `header` bytes long. Raises Refused.
    """
    found: dict[int, bytes] = {}
    present, leftover = attributes(payload, body)
    for kind, data, at in present:
        number = kind & NLA_TYPE_MASK
        if not 0 < number <= last:
            continue
        rule = rules.get(number)
        if rule is not None:
            _check(rule, kind, data, at + header, rules is XFRM_RULES and number >= _STRICT_FROM)
        found[number] = data
    return Parsed(found, leftover)


def _check(rule: Rule, kind: int, data: bytes, at: int, strict: bool) -> None:
    """Follows: validate_nla."""
    if strict:
        if rule.kind in _SIZES and rule.kind != _FLAG and len(data) != rule.size:
            raise _refusal(errno.EINVAL, "invalid attribute length", at, rule)
        if kind & NLA_F_NESTED:
            raise _refusal(errno.EINVAL, "NLA_F_NESTED not expected", at, rule)
    if (rule.kind == _FLAG and data) or len(data) < rule.size:
        raise _refusal(errno.ERANGE, "Attribute failed policy validation", at, rule)
    if rule.kind == _U8_KIND and not rule.low <= data[0] <= rule.high:
        raise _refusal(errno.ERANGE, "integer out of range", at, rule)


def _refusal(number: int, text: str, at: int, rule: Rule) -> Refused:
    return Refused(number, Report(text, at, _described(rule)))


def _described(rule: Rule) -> bytes | None:
    """NLMSGERR_ATTR_POLICY's payload; attributes that are only "so long" have none."""
    if rule.kind == _OPAQUE:
        return None
    kind = attribute(1, _U32.pack(rule.kind))
    if rule.kind == _FLAG:
        return kind
    return attribute(4, _U64.pack(rule.low)) + attribute(5, _U64.pack(rule.high)) + kind
