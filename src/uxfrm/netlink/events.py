"""What the namespace tells, as multicast messages: type, group, payload.

Follows: xfrm_send_state_notify, xfrm_send_policy_notify, xfrm_exp_state_notify, xfrm_send_acquire,
xfrm_aevent_state_notify, xfrm_send_migrate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from uxfrm.lifecycle import events as E
from uxfrm.model.policy import Direction
from uxfrm.model.selector import ANYTHING
from uxfrm.netlink import encode
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr, Group, Xfrm
from uxfrm.netlink.wire import attribute, padded


class Notification(NamedTuple):
    """One event. `seq` and `pid`: whether it carries those of the request that caused it, or zeros."""

    type: Xfrm
    payload: bytes
    seq: bool = True
    pid: bool = True


def _state_added(event: E.StateAdded) -> Notification:
    return Notification(Xfrm.UPDSA if event.update else Xfrm.NEWSA, encode.state(event.state))


def _state_deleted(event: E.StateDeleted) -> Notification:
    whole = attribute(Attr.SA, encode.usersa_info(event.state))
    body = encode.usersa_id(event.state) + whole + encode.state_attributes(event.state)
    return Notification(Xfrm.DELSA, body)


def _states_flushed(event: E.StatesFlushed) -> Notification:
    return Notification(Xfrm.FLUSHSA, padded(L.USERSA_FLUSH.pack(proto=event.proto)))


def _state_expired(event: E.StateExpired) -> Notification:
    body = L.USER_EXPIRE.pack(state=encode.usersa_info(event.state), hard=int(event.hard))
    return Notification(Xfrm.EXPIRE, body + encode.scope(event.state), seq=False)


def _policy_added(event: E.PolicyAdded) -> Notification:
    x = event.policy
    body = encode.userpolicy_info(x.config, x.current)
    body += encode.templates(x.config) + encode.policy_scope(x.config)
    return Notification(Xfrm.UPDPOLICY if event.update else Xfrm.NEWPOLICY, body)


def _policy_deleted(event: E.PolicyDeleted) -> Notification:
    x = event.policy.config
    named: dict[str, Any] = {"index": x.index} if event.by_index else {"sel": encode.selector(x.selector)}
    body = L.USERPOLICY_ID.pack(**named, dir=x.direction)
    body += attribute(Attr.POLICY, encode.userpolicy_info(x, event.policy.current))
    return Notification(Xfrm.DELPOLICY, body + encode.templates(x) + encode.policy_scope(x))


def _policies_flushed(event: E.PoliciesFlushed) -> Notification:
    return Notification(Xfrm.FLUSHPOLICY, encode.policy_type(event.type))


def _policy_expired(event: E.PolicyExpired) -> Notification:
    x = event.policy
    body = L.USER_POLEXPIRE.pack(pol=encode.userpolicy_info(x.config, x.current), hard=int(event.hard))
    return Notification(Xfrm.POLEXPIRE, body + encode.policy_attributes(x.config), seq=False)


def _default_changed(event: E.DefaultChanged) -> Notification:
    body = padded(L.USERPOLICY_DEFAULT.pack(in_=event.in_, fwd=event.fwd, out=event.out))
    return Notification(Xfrm.GETDEFAULT, body, seq=False, pid=False)


def _acquire(event: E.Acquire) -> Notification:
    x, t, policy = event.wanted, event.template, event.policy
    body = L.USER_ACQUIRE.pack(
        id={"daddr": x.daddr, "spi": x.spi, "proto": x.proto}, saddr=x.saddr,
        sel=encode.selector(x.selector or ANYTHING),
        policy=encode.userpolicy_info(policy.config, policy.current, Direction.OUT),
        aalgos=t.aalgos, ealgos=t.ealgos, calgos=t.calgos, seq=x.seq,
    )  # fmt: skip
    body += encode.policy_attributes(policy.config) + encode.bound(x.pcpu, 0)
    return Notification(Xfrm.ACQUIRE, body, seq=False, pid=False)


def _state_monitored(event: E.StateMonitored) -> Notification:
    return Notification(Xfrm.NEWAE, encode.aevent(event.aevent))


def _migrated(event: E.Migrated) -> Notification:
    x = event.migration
    body = L.USERPOLICY_ID.pack(sel=encode.selector(x.selector), dir=x.direction)
    body += encode.kmaddress(x.kmaddress) + encode.encapsulation(x.encap) + encode.policy_type(x.type)
    body += b"".join(map(encode.migrate_entry, x.entries))
    return Notification(Xfrm.MIGRATE, body, seq=False, pid=False)


def _mapping_changed(event: E.MappingChanged) -> Notification:
    x = event.state
    body = L.USER_MAPPING.pack(
        id={"daddr": x.daddr, "spi": x.spi, "family": x.family, "proto": x.proto}, reqid=event.reqid,
        old_saddr=event.old[0], new_saddr=event.new[0], old_sport=event.old[1], new_sport=event.new[1],
    )  # fmt: skip
    return Notification(Xfrm.MAPPING, body, seq=False, pid=False)


def _reported(event: E.Reported) -> Notification:
    body = L.USER_REPORT.pack(proto=event.proto, sel=encode.selector(event.selector))
    return Notification(Xfrm.REPORT, body + encode.coaddr(event.coaddr), seq=False, pid=False)


_MAKERS: Mapping[type, Callable[[Any], Notification]] = {
    E.StateAdded: _state_added,
    E.StateDeleted: _state_deleted,
    E.StatesFlushed: _states_flushed,
    E.StateExpired: _state_expired,
    E.PolicyAdded: _policy_added,
    E.PolicyDeleted: _policy_deleted,
    E.PoliciesFlushed: _policies_flushed,
    E.PolicyExpired: _policy_expired,
    E.DefaultChanged: _default_changed,
    E.Acquire: _acquire,
    E.StateMonitored: _state_monitored,
    E.Migrated: _migrated,
    E.MappingChanged: _mapping_changed,
    E.Reported: _reported,
}


GROUP_OF: Mapping[type, Group] = {
    E.StateAdded: Group.SA,
    E.StateDeleted: Group.SA,
    E.StatesFlushed: Group.SA,
    E.StateExpired: Group.EXPIRE,
    E.PolicyAdded: Group.POLICY,
    E.PolicyDeleted: Group.POLICY,
    E.PoliciesFlushed: Group.POLICY,
    E.PolicyExpired: Group.EXPIRE,
    E.DefaultChanged: Group.POLICY,
    E.Acquire: Group.ACQUIRE,
    E.StateMonitored: Group.AEVENTS,
    E.Migrated: Group.MIGRATE,
    E.MappingChanged: Group.MAPPING,
    E.Reported: Group.REPORT,
}


def notification(event: E.Event) -> Notification:
    """The message of an event."""
    return _MAKERS[type(event)](event)
