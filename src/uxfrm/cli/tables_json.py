"""States, policies and events as JSON: the kernel structs' names of fields, words where `ip` has words.

What is not set is left out; keys are hexadecimal, and left out with `nokeys`. Limits that are not set are
null.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from uxfrm.iproute2 import names
from uxfrm.iproute2.output import NameOf
from uxfrm.lifecycle import events as E
from uxfrm.model.address import AF_INET, AF_INET6, Address, show
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import LarvalConfig, PolicyDump, StateDump
from uxfrm.model.iptfs import UNSAID
from uxfrm.model.lifetime import INF, UNLIMITED, LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.policy import SecurityContext
from uxfrm.model.selector import Selector
from uxfrm.model.state import LifeState, ReplayEsn, ReplayLegacy, SaDir, StateConfig
from uxfrm.model.template import Mode, Template

Json = dict[str, Any]

_FAMILY: names.Table = {0: "unspec", AF_INET: "inet", AF_INET6: "inet6"}
_DIRECTION: names.Table = {1: "in", 2: "out"}


class Form:
    """How tables become JSON: with keys or not, with interfaces by name."""

    def __init__(self, name_of: NameOf, nokeys: bool = False) -> None:
        self._name_of = name_of
        self._nokeys = nokeys

    # -- states

    def state(self, dump: StateDump) -> Json:
        """One state."""
        x = dump.config
        found = self._identity(x) | {
            "state": "acq" if dump.life == LifeState.ACQ else "valid",
            "seq": x.seq,
            "replay_window": x.replay_window if isinstance(x, StateConfig) else 0,
            "lft": _limits(x.lifetime if isinstance(x, StateConfig) else _larval_limits(x)),
            "curlft": dump.current._asdict(),
            "stats": dump.stats._asdict(),
            "replay": _replay(dump.replay),
        }
        if x.selector is not None:
            found["sel"] = self.selector(x.selector)
        if isinstance(x, StateConfig):
            found |= self._configured(x)
        return found | _set(
            mark=_mark(x.mark),
            if_id=x.if_id,
            dir=_DIRECTION.get(x.direction),
            lastused=dump.lastused,
            pcpu=x.rare.pcpu if isinstance(x, StateConfig) else x.pcpu,
        )

    @staticmethod
    def _identity(x: StateConfig | LarvalConfig) -> Json:
        return {
            "src": show(x.saddr),
            "dst": show(x.daddr),
            "proto": names.name(names.XFRM_PROTO, x.proto),
            "spi": x.spi,
            "reqid": x.reqid,
            "mode": names.name(names.MODE, x.mode),
            "family": names.name(_FAMILY, x.family),
        }

    def _configured(self, x: StateConfig) -> Json:
        rare = x.rare
        offload = rare.offload and {"dev": self._name_of(rare.offload.ifindex), "flags": rare.offload.flags}
        return {"flags": _flags(names.STATE_FLAG, x.flags)} | _set(
            extra_flags=_flags(names.EXTRA_FLAG, x.extra_flags),
            aead=self._algorithm(x.aead),
            auth=self._algorithm(x.auth),
            crypt=self._algorithm(x.crypt),
            comp=self._algorithm(x.comp),
            encap=x.encap
            and {
                "type": names.name(names.ENCAP, x.encap.type),
                "sport": x.encap.sport,
                "dport": x.encap.dport,
                "oa": show(x.encap.oa),
            },
            coaddr=_address(rare.coaddr),
            tfcpad=x.tfcpad,
            output_mark=_mark(x.set_mark),
            offload=offload,
            mtimer_thresh=rare.mtimer_thresh,
            nat_keepalive_interval=rare.nat_keepalive,
            sec_ctx=_context(rare.context),
            iptfs=_iptfs(x),
        )

    def _algorithm(self, x: Algorithm | None) -> Json | None:
        if x is None:
            return None
        found: Json = {"name": x.name, "key_len": x.key_bits}
        if x.icv_bits:
            found["icv_len"] = x.icv_bits
        if not self._nokeys:
            found["key"] = x.key.hex()
        return found

    # -- policies

    def policy(self, dump: PolicyDump) -> Json:
        """One policy."""
        p = dump.config
        socket = p.index & 7 > 2
        return {
            "sel": self.selector(p.selector),
            "dir": names.name(names.DIRECTION, p.direction),
            "socket": socket,
            "action": names.name(names.ACTION, p.action),
            "index": p.index,
            "priority": p.priority,
            "ptype": names.name(names.PTYPE, p.type),
            "flags": _flags(names.POLICY_FLAG, p.flags),
            "lft": _limits(p.lifetime),
            "curlft": dump.current._asdict(),
            "tmpl": [self.template(t) for t in p.templates],
        } | _set(mark=_mark(p.mark), if_id=p.if_id, sec_ctx=_context(p.context))

    @staticmethod
    def template(t: Template) -> Json:
        """One template."""
        return {
            "src": show(t.saddr),
            "dst": show(t.daddr),
            "proto": names.name(names.XFRM_PROTO, t.proto),
            "spi": t.spi,
            "reqid": t.reqid,
            "mode": names.name(names.MODE, t.mode),
            "family": names.name(_FAMILY, t.family),
            "level": "use" if t.optional else "required",
            "aalgos": t.aalgos,
            "ealgos": t.ealgos,
            "calgos": t.calgos,
        }

    def selector(self, s: Selector) -> Json:
        """A selector; ports and masks as the struct has them, whatever they mean to the protocol."""
        found = {
            "src": f"{show(s.saddr)}/{s.prefixlen_s}",
            "dst": f"{show(s.daddr)}/{s.prefixlen_d}",
            "family": names.name(_FAMILY, s.family),
            "proto": s.proto,
        }
        if s.sport_mask:
            found |= {"sport": s.sport, "sport_mask": s.sport_mask}
        if s.dport_mask:
            found |= {"dport": s.dport, "dport_mask": s.dport_mask}
        return found | _set(dev=self._name_of(s.ifindex) if s.ifindex else None, user=s.user)

    # -- events

    def event(self, event: E.Event) -> Json:
        """One event; `event` is the message's name."""
        return _EVENTS[type(event)](self, event)


def _set(**values: Any) -> Json:
    """What is there: not None, 0 or empty. CPU 0 is there."""
    return {name: value for name, value in values.items() if value or (name == "pcpu" and value is not None)}


def _flags(table: names.Table, flags: int) -> list[str]:
    found = [word for bit, word in table.items() if flags & bit]
    rest = flags & ~sum(table)
    return [*found, f"0x{rest:x}"] if rest else found


def _mark(x: Mark) -> Json | None:
    return {"v": x.v, "m": x.m} if x.v or x.m else None


def _address(x: Address | None) -> str | None:
    return None if x is None else show(x)


def _context(x: SecurityContext | None) -> Json | None:
    return None if x is None else {"doi": x.doi, "alg": x.alg, "ctx": x.text}


def _iptfs(x: StateConfig) -> Json | None:
    """The options of the state's direction, defaults included."""
    if x.mode != Mode.IPTFS:
        return None
    options = x.rare.iptfs or UNSAID
    if x.direction == SaDir.IN:
        return dict(zip(("drop_time", "reorder_window"), options.receiving(), strict=True))
    names_out = ("dont_frag", "init_delay", "max_qsize", "pkt_size")
    return dict(zip(names_out, options.sending(), strict=True))


def _larval_limits(x: LarvalConfig) -> LifetimeConfig:
    return UNLIMITED._replace(hard_add=x.hard_add)


def _limits(x: LifetimeConfig) -> Json:
    return {name: None if value in (0, INF) else value for name, value in x._asdict().items()}


def _replay(x: ReplayLegacy | ReplayEsn) -> Json:
    if isinstance(x, ReplayLegacy):
        return x._asdict()
    return {
        "bmp_len": x.words,
        "replay_window": x.replay_window,
        "oseq": x.oseq,
        "seq": x.seq,
        "oseq_hi": x.oseq_hi,
        "seq_hi": x.seq_hi,
        "bmp": list(x.bitmap),
    }


def _acquire(form: Form, event: E.Acquire) -> Json:
    x, t = event.wanted, event.template
    return {
        "event": "acquire",
        "src": show(x.saddr),
        "dst": show(x.daddr),
        "proto": names.name(names.XFRM_PROTO, x.proto),
        "spi": x.spi,
        "seq": x.seq,
        "sel": None if x.selector is None else form.selector(x.selector),
        "policy": form.policy(event.policy),
        "aalgos": t.aalgos,
        "ealgos": t.ealgos,
        "calgos": t.calgos,
    } | _set(pcpu=x.pcpu)


def _monitored(form: Form, event: E.StateMonitored) -> Json:
    x = event.aevent
    c = x.state.config
    return {
        "event": "newae",
        "src": show(c.saddr),
        "dst": show(c.daddr),
        "proto": names.name(names.XFRM_PROTO, c.proto),
        "spi": c.spi,
        "reqid": c.reqid,
        "flags": x.flags,
        "replay": _replay(x.state.replay),
        "curlft": x.state.current._asdict(),
    }


def _migrated(form: Form, event: E.Migrated) -> Json:
    x = event.migration
    return {
        "event": "migrate",
        "sel": form.selector(x.selector),
        "dir": names.name(names.DIRECTION, x.direction),
        "ptype": names.name(names.PTYPE, x.type),
        "migrate": [
            {
                "old_src": show(entry.old_saddr),
                "old_dst": show(entry.old_daddr),
                "new_src": show(entry.new_saddr),
                "new_dst": show(entry.new_daddr),
                "proto": names.name(names.XFRM_PROTO, entry.proto),
                "mode": names.name(names.MODE, entry.mode),
                "reqid": entry.reqid,
            }
            for entry in x.entries
        ],
    }


def _mapping_changed(form: Form, event: E.MappingChanged) -> Json:
    x = event.state
    return {
        "event": "mapping",
        "dst": show(x.daddr),
        "proto": names.name(names.XFRM_PROTO, x.proto),
        "spi": x.spi,
        "reqid": event.reqid,
        "old_src": show(event.old[0]),
        "old_sport": event.old[1],
        "new_src": show(event.new[0]),
        "new_sport": event.new[1],
    }


def _reported(form: Form, event: E.Reported) -> Json:
    return {
        "event": "report",
        "proto": names.name(names.XFRM_PROTO, event.proto),
        "sel": form.selector(event.selector),
    } | _set(coa=_address(event.coaddr))


def _expired(event: E.StateExpired | E.PolicyExpired) -> Json:
    return {"hard": event.hard}


_EVENTS: Mapping[type, Callable[[Form, Any], Json]] = {
    E.StateAdded: lambda f, e: {"event": "updsa" if e.update else "newsa"} | f.state(e.state),
    E.StateDeleted: lambda f, e: {"event": "delsa"} | f.state(e.state),
    E.StateExpired: lambda f, e: {"event": "expire"} | _expired(e) | f.state(e.state),
    E.StatesFlushed: lambda _, e: {"event": "flushsa", "proto": names.name(names.XFRM_PROTO, e.proto)},
    E.PolicyAdded: lambda f, e: {"event": "updpolicy" if e.update else "newpolicy"} | f.policy(e.policy),
    E.PolicyDeleted: lambda f, e: {"event": "delpolicy"} | f.policy(e.policy),
    E.PolicyExpired: lambda f, e: {"event": "polexpire"} | _expired(e) | f.policy(e.policy),
    E.PoliciesFlushed: lambda _, e: {"event": "flushpolicy", "ptype": names.name(names.PTYPE, e.type)},
    E.DefaultChanged: lambda _, e: {"event": "getdefault"} | defaults(e.in_, e.fwd, e.out),
    E.Acquire: _acquire,
    E.StateMonitored: _monitored,
    E.Migrated: _migrated,
    E.MappingChanged: _mapping_changed,
    E.Reported: _reported,
}


def defaults(in_: int, fwd: int, out: int) -> Json:
    """The default policies."""
    words = (names.name(names.DEFAULT_SHOWN, action) for action in (in_, fwd, out))
    return dict(zip(("in", "fwd", "out"), words, strict=True))
