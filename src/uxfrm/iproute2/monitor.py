"""Events in the words of `ip xfrm monitor`, byte for byte; a migration, for which it has none, in our own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import tzinfo
from typing import Any, NamedTuple

from uxfrm.iproute2 import names
from uxfrm.iproute2.execute import show_default
from uxfrm.iproute2.output import NameOf, Style, show_policy, show_selector, show_spi, show_state, unnamed
from uxfrm.lifecycle import events as E
from uxfrm.model.address import show
from uxfrm.model.aevent import AE_CE, AE_CR, AE_CU
from uxfrm.model.dump import StateDump
from uxfrm.model.mark import NO_MARK
from uxfrm.model.selector import ANYTHING
from uxfrm.model.state import PLAIN, Rare, StateConfig
from uxfrm.model.unchecked import changed

_NOT_SET_IN = ("\tmark ", "\tsecurity context ")
_CAUSES = ((AE_CR, " replay update "), (AE_CE, " timer expired "), (AE_CU, " policy updated "))
_BARE = {"aead": None, "auth": None, "crypt": None, "comp": None, "encap": None, "tfcpad": 0}


class _Printer(NamedTuple):
    statistics: bool
    nokeys: bool
    zone: tzinfo | None
    name_of: NameOf

    @property
    def style(self) -> Style:
        return Style(self.statistics, self.nokeys, self.zone, self.name_of)

    def state(self, dump: StateDump, windows: bool = True) -> str:
        return show_state(dump, *self, windows=windows)

    def policy(self, event: E.PolicyAdded | E.PolicyDeleted | E.PolicyExpired | E.Acquire) -> str:
        return show_policy(event.policy, self.statistics, self.zone, self.name_of)


def show_event(
    event: E.Event,
    statistics: bool = False,
    nokeys: bool = False,
    zone: tzinfo | None = None,
    name_of: NameOf = unnamed,
) -> str:
    """One event as `ip xfrm monitor` prints it; `statistics` is -s."""
    return _SHOWN[type(event)](event, _Printer(statistics, nokeys, zone, name_of))


def _state_added(event: E.StateAdded, out: _Printer) -> str:
    return ("Updated " if event.update else "") + out.state(event.state)


def _state_deleted(event: E.StateDeleted, out: _Printer) -> str:
    return "Deleted " + out.state(event.state)


def _state_expired(event: E.StateExpired, out: _Printer) -> str:
    """EXPIRE tells neither algorithms nor the replay window."""
    dump = event.state
    config = dump.config
    if isinstance(config, StateConfig):
        rare = PLAIN if config.rare.pcpu is None else Rare(pcpu=config.rare.pcpu)
        config = changed(config, set_mark=NO_MARK, extra_flags=0, rare=rare, **_BARE)
    text = out.state(replace(dump, config=config, lastused=0), windows=False)
    return f"Expired {text}\thard {int(event.hard)}\n"


def _states_flushed(event: E.StatesFlushed, out: _Printer) -> str:
    return f"Flushed state proto {names.name(names.XFRM_PROTO, event.proto)}\n"


def _policy_added(event: E.PolicyAdded, out: _Printer) -> str:
    return ("Updated " if event.update else "") + out.policy(event)


def _policy_deleted(event: E.PolicyDeleted, out: _Printer) -> str:
    return "Deleted " + out.policy(event)


def _policy_expired(event: E.PolicyExpired, out: _Printer) -> str:
    return f"Expired {out.policy(event)}\thard {int(event.hard)}\n"


def _policies_flushed(event: E.PoliciesFlushed, out: _Printer) -> str:
    return f"Flushed policy ptype {names.name(names.PTYPE, event.type)} \n"


def _default_changed(event: E.DefaultChanged, out: _Printer) -> str:
    return show_default(event.in_, event.fwd, event.out)


def _acquire(event: E.Acquire, out: _Printer) -> str:
    """The policy's lines are set in, all but those of its mark and its security context."""
    x, t = event.wanted, event.template
    head, *lines = out.policy(event).splitlines()
    rows = [
        f"acquire {show_spi(x.proto, x.spi, out.style)} ",
        f"  sel {show_selector(x.selector or ANYTHING, out.style)}",
        f"  policy {head}",
        *(line if line.startswith(_NOT_SET_IN) else f"    {line}" for line in lines),
    ]
    masks = f"enc-mask {t.ealgos:08x} auth-mask {t.aalgos:08x} comp-mask {t.calgos:08x}"
    rows.append(f"  seq 0x{x.seq:08d} {masks}" if out.statistics else "")
    return "".join(f"{row}\n" for row in rows)


def _state_monitored(event: E.StateMonitored, out: _Printer) -> str:
    x = event.aevent
    c = x.state.config
    causes = "".join(words for bit, words in _CAUSES if x.flags & bit)
    return (
        f"Async event  (0x{x.flags:x}) {causes}\n"
        f"\tsrc {show(c.saddr)} dst {show(c.daddr)}  reqid 0x{c.reqid:x} "
        f"protocol {names.name(names.PROTOCOL, c.proto)}  SPI 0x{c.spi:x}\n"
    )


def _migrated(event: E.Migrated, out: _Printer) -> str:
    x = event.migration
    direction, kind = names.name(names.DIRECTION, x.direction), names.name(names.PTYPE, x.type)
    rows = [f"Migrated {show_selector(x.selector, out.style)}", f"\tdir {direction} ptype {kind} "]
    for entry in x.entries:
        proto = names.name(names.XFRM_PROTO, entry.proto)
        mode = names.name(names.MODE_SHOWN, entry.mode)
        rows.append(f"\tproto {proto} reqid {entry.reqid} mode {mode}")
        rows.append(f"\t\told src {show(entry.old_saddr)} dst {show(entry.old_daddr)}")
        rows.append(f"\t\tnew src {show(entry.new_saddr)} dst {show(entry.new_daddr)}")
    return "".join(f"{row}\n" for row in rows)


def _mapping_changed(event: E.MappingChanged, out: _Printer) -> str:
    x = event.state
    (old, old_port), (new, new_port) = event.old, event.new
    return (
        f"Mapping change {show(old)}:{old_port} -> {show(new)}:{new_port}\n"
        f"\tdst {show(x.daddr)}  reqid 0x{event.reqid:x} "
        f"protocol {names.name(names.PROTOCOL, x.proto)}  SPI 0x{x.spi:x}\n"
    )


def _reported(event: E.Reported, out: _Printer) -> str:
    proto = names.name(names.XFRM_PROTO, event.proto)
    rows = [f"report proto {proto} ", f"  sel {show_selector(event.selector, out.style)}"]
    if event.coaddr is not None:
        rows.append(f"  coa {show(event.coaddr)}")
    return "".join(f"{row}\n" for row in rows)


_SHOWN: Mapping[type, Callable[[Any, _Printer], str]] = {
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
