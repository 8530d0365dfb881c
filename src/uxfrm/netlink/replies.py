"""From the bytes of replies, dumps and events to the model's objects: what a client reads.

Nothing is checked beyond lengths: what a kernel tells of a state is so, be it nothing that uxfrm would make.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from uxfrm.lifecycle import events as E
from uxfrm.model.aevent import Aevent
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import LarvalConfig, PolicyDump, StateDump, StateId, StateStats
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.policy import PolicyConfig
from uxfrm.model.selector import ANYTHING, Selector
from uxfrm.model.state import LifeState, ReplayEsn, ReplayLegacy, StateConfig
from uxfrm.model.template import IPSEC_PROTOCOLS, Template
from uxfrm.model.unchecked import changed, told
from uxfrm.netlink import decode
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr, Xfrm
from uxfrm.netlink.decode import Attributes
from uxfrm.netlink.wire import Message, aligned, attributes

_U64 = struct.Struct("=Q")
_ALGORITHMS = ("aead", "auth", "crypt", "comp")


class Unreadable(Exception):
    """A message that is shorter than its type."""


def tail(message: Message, body: int) -> dict[int, bytes]:
    """The attributes behind a fixed part of `body` bytes."""
    return {x.type & 0x3FFF: x.payload for x in attributes(message.payload, aligned(body))[0]}


# -- states


def state_dump(info: Any, found: Attributes, keys: bool = True) -> StateDump:
    """NEWSA: a state, larval where it has no algorithm at all.

    Without `keys` the message is of a kind that never has any (EXPIRE).
    """
    fields = decode.state_fields(info, found)
    for name in _ALGORITHMS:
        wanted = fields[name]
        if wanted is not None:
            fields[name] = Algorithm(wanted.name, wanted.key, wanted.icv_bits)
    replay = fields["replay_esn"] or fields["replay"]
    larval = keys and info.id.proto in IPSEC_PROTOCOLS and not any(fields[name] for name in _ALGORITHMS)
    config = _larval(fields) if larval else told(StateConfig, **fields)
    data = found.get(Attr.LASTUSED)
    return StateDump(
        config,
        LifetimeCurrent(*info.curlft),
        _whole(replay),
        StateStats(*info.stats),
        0 if data is None else int(_U64.unpack_from(data)[0]),
        LifeState.ACQ if larval else LifeState.VALID,
    )


def _whole(replay: ReplayLegacy | ReplayEsn) -> ReplayLegacy | ReplayEsn:
    if isinstance(replay, ReplayEsn) and len(replay.bitmap) < replay.words:
        return changed(replay, bitmap=replay.bitmap + (0,) * (replay.words - len(replay.bitmap)))
    return replay


def _larval(x: Mapping[str, Any]) -> LarvalConfig:
    return LarvalConfig(
        x["daddr"], x["saddr"], x["proto"], x["spi"], x["family"], x["mode"], x["reqid"], x["seq"], x["mark"],
        x["if_id"], x["direction"], x["rare"].pcpu, _own(x["selector"]), x["lifetime"].hard_add,
    )  # fmt: skip


def _own(selector: Selector) -> Selector | None:
    """A larval state's selector; of one made by ALLOCSPI the family is not told."""
    return None if selector == ANYTHING else selector


def new_state(message: Message) -> StateDump:
    """The state in NEWSA and UPDSA."""
    return state_dump(L.USERSA_INFO.unpack(message.payload), tail(message, L.USERSA_INFO.size))


def _state_added(message: Message) -> E.StateAdded:
    return E.StateAdded(new_state(message), message.type == Xfrm.UPDSA)


def _state_deleted(message: Message) -> E.StateDeleted:
    found = tail(message, L.USERSA_ID.size)
    return E.StateDeleted(state_dump(L.USERSA_INFO.unpack(found[Attr.SA]), found))


def _states_flushed(message: Message) -> E.StatesFlushed:
    return E.StatesFlushed(L.USERSA_FLUSH.unpack(message.payload).proto)


def _state_expired(message: Message) -> E.StateExpired:
    x = L.USER_EXPIRE.unpack(message.payload)
    return E.StateExpired(state_dump(x.state, tail(message, L.USER_EXPIRE.size), keys=False), bool(x.hard))


def aevent(message: Message) -> Aevent:
    """NEWAE. Of the state it names only what identifies it is known."""
    x = L.AEVENT_ID.unpack(message.payload)
    found = tail(message, L.AEVENT_ID.size)
    family = x.sa_id.family
    config = LarvalConfig(
        decode.address(x.sa_id.daddr, family), decode.address(x.saddr, family), x.sa_id.proto, x.sa_id.spi,
        family, reqid=x.reqid, mark=decode.mark(found), if_id=decode.u32(found, Attr.IF_ID),
        direction=decode.u8(found, Attr.SA_DIR),
    )  # fmt: skip
    replay = decode.replay_esn(found) or decode.replay_legacy(found) or ReplayLegacy()
    state = StateDump(config, decode.lifetime_current(found) or LifetimeCurrent(), _whole(replay))
    thresholds = decode.u32(found, Attr.REPLAY_THRESH), decode.u32(found, Attr.ETIMER_THRESH)
    return Aevent(state, x.flags, *thresholds)


def _state_monitored(message: Message) -> E.StateMonitored:
    return E.StateMonitored(aevent(message))


# -- policies


def policy_dump(info: Any, found: Attributes) -> PolicyDump:
    """NEWPOLICY: a policy, that of a socket too (its index tells)."""
    return PolicyDump(told(PolicyConfig, **decode.policy_fields(info, found)), LifetimeCurrent(*info.curlft))


def new_policy(message: Message) -> PolicyDump:
    """The policy in NEWPOLICY and UPDPOLICY."""
    return policy_dump(L.USERPOLICY_INFO.unpack(message.payload), tail(message, L.USERPOLICY_INFO.size))


def _policy_added(message: Message) -> E.PolicyAdded:
    return E.PolicyAdded(new_policy(message), message.type == Xfrm.UPDPOLICY)


def _policy_deleted(message: Message) -> E.PolicyDeleted:
    x = L.USERPOLICY_ID.unpack(message.payload)
    found = tail(message, L.USERPOLICY_ID.size)
    return E.PolicyDeleted(policy_dump(L.USERPOLICY_INFO.unpack(found[Attr.POLICY]), found), bool(x.index))


def _policies_flushed(message: Message) -> E.PoliciesFlushed:
    return E.PoliciesFlushed(decode.policy_type(tail(message, 0)))


def _policy_expired(message: Message) -> E.PolicyExpired:
    x = L.USER_POLEXPIRE.unpack(message.payload)
    return E.PolicyExpired(policy_dump(x.pol, tail(message, L.USER_POLEXPIRE.size)), bool(x.hard))


def _default_changed(message: Message) -> E.DefaultChanged:
    x = L.USERPOLICY_DEFAULT.unpack(message.payload)
    return E.DefaultChanged(x.in_, x.fwd, x.out)


# -- acquires, migration


def _acquire(message: Message) -> E.Acquire:
    x = L.USER_ACQUIRE.unpack(message.payload)
    found = tail(message, L.USER_ACQUIRE.size)
    wanted = changed(decode.wanted(x, found), spi=x.id.spi, seq=x.seq)
    template = Template(
        wanted.daddr, wanted.saddr, x.id.spi, x.id.proto, x.sel.family, aalgos=x.aalgos, ealgos=x.ealgos,
        calgos=x.calgos,
    )  # fmt: skip
    return E.Acquire(wanted, template, policy_dump(x.policy, found))


def _migrated(message: Message) -> E.Migrated:
    listed = attributes(message.payload, L.USERPOLICY_ID.size)[0]
    found = tail(message, L.USERPOLICY_ID.size)
    found[Attr.MIGRATE] = b"".join(x.payload for x in listed if x.type == Attr.MIGRATE)
    return E.Migrated(decode.migration(L.USERPOLICY_ID.unpack(message.payload), found))


# -- mappings, reports


def _mapping_changed(message: Message) -> E.MappingChanged:
    x = L.USER_MAPPING.unpack(message.payload)
    family = x.id.family
    state = StateId(decode.address(x.id.daddr, family), x.id.spi, x.id.proto, family)
    old, new = decode.address(x.old_saddr, family), decode.address(x.new_saddr, family)
    return E.MappingChanged(state, x.reqid, (old, x.old_sport), (new, x.new_sport))


def _reported(message: Message) -> E.Reported:
    x = L.USER_REPORT.unpack(message.payload)
    found = tail(message, L.USER_REPORT.size)
    coaddr = decode.address(found[Attr.COADDR], x.sel.family) if Attr.COADDR in found else None
    return E.Reported(x.proto, decode.selector(x.sel), coaddr)


_EVENTS: Mapping[int, Callable[[Message], E.Event]] = {
    Xfrm.NEWSA: _state_added,
    Xfrm.UPDSA: _state_added,
    Xfrm.DELSA: _state_deleted,
    Xfrm.FLUSHSA: _states_flushed,
    Xfrm.EXPIRE: _state_expired,
    Xfrm.NEWAE: _state_monitored,
    Xfrm.NEWPOLICY: _policy_added,
    Xfrm.UPDPOLICY: _policy_added,
    Xfrm.DELPOLICY: _policy_deleted,
    Xfrm.FLUSHPOLICY: _policies_flushed,
    Xfrm.POLEXPIRE: _policy_expired,
    Xfrm.GETDEFAULT: _default_changed,
    Xfrm.ACQUIRE: _acquire,
    Xfrm.MIGRATE: _migrated,
    Xfrm.MAPPING: _mapping_changed,
    Xfrm.REPORT: _reported,
}


def event(message: Message) -> E.Event | None:
    """What a multicast message tells; None for a type that is not known. Raises Unreadable."""
    make = _EVENTS.get(message.type)
    try:
        return None if make is None else make(message)
    except (struct.error, KeyError) as error:
        raise Unreadable(f"a message of type {message.type:#x} is cut short") from error
