"""States and policies in the words of `ip xfrm state` and `ip xfrm policy`, byte for byte.

The forms are those of iproute2 6.1; lines that only newer ones have (`dir`, `pcpu-num`) are in their form.
Odd blanks, and `esnextra_flag` without one, are what `ip` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, tzinfo
from typing import NamedTuple

from uxfrm.iproute2 import names
from uxfrm.model.address import AF_INET, AF_UNSPEC, ANY4, ANY6, Address, show
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import LarvalConfig, PolicyDump, StateDump
from uxfrm.model.flow import PROTO_MH
from uxfrm.model.iptfs import UNSAID
from uxfrm.model.lifetime import INF, LifetimeConfig, LifetimeCurrent
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.policy import Action, Direction, Offload, PolicyConfig, SecurityContext
from uxfrm.model.selector import ANYTHING, Selector
from uxfrm.model.state import ReplayEsn, ReplayLegacy, SaDir, StateConfig
from uxfrm.model.template import Mode, Template

NameOf = Callable[[int], str]


def unnamed(ifindex: int) -> str:
    """What `ip` calls an interface that it does not find."""
    return f"if{ifindex}"


class Style(NamedTuple):
    """How much is shown: -s, nokeys, the time zone of dates (None: this machine's), interface names, and
    replay windows (which EXPIRE does not tell)."""

    statistics: bool = True
    nokeys: bool = False
    zone: tzinfo | None = None
    name_of: NameOf = unnamed
    windows: bool = True


def show_state(
    dump: StateDump,
    statistics: bool = True,
    nokeys: bool = False,
    zone: tzinfo | None = None,
    name_of: NameOf = unnamed,
    windows: bool = True,
) -> str:
    """One state as `ip xfrm state` prints it; `statistics` is -s."""
    style = Style(statistics, nokeys, zone, name_of, windows)
    return "".join(line + "\n" for line in _state_lines(dump, style))


def show_policy(
    dump: PolicyDump, statistics: bool = True, zone: tzinfo | None = None, name_of: NameOf = unnamed
) -> str:
    """One policy as `ip xfrm policy` prints it; `statistics` is -s."""
    style = Style(statistics, False, zone, name_of)
    return "".join(line + "\n" for line in _policy_lines(dump, style))


def show_selector(selector: Selector, style: Style) -> str:
    """A selector on one line."""
    return _selector(selector, style)


def show_spi(proto: int, spi: int, style: Style) -> str:
    """`proto esp spi 0x...`; without -s an SPI of 0 is left out."""
    name = names.name(names.XFRM_PROTO, proto)
    if style.statistics:
        return f"proto {name} spi 0x{spi:08x}({spi})"
    return f"proto {name} spi 0x{spi:08x}" if spi else f"proto {name}"


# -- states


def _state_lines(dump: StateDump, style: Style) -> Iterator[str]:
    x = dump.config
    full = x if isinstance(x, StateConfig) else None
    yield f"src {_show(x.saddr, x.family)} dst {_show(x.daddr, x.family)}"
    yield "\t" + _identity(x, style)
    yield "\t" + _window_and_flags(x, style)
    yield from _marks(x.mark, full.set_mark if full else NO_MARK)
    if full is not None:
        yield from _algorithms(full, style)
        yield from _encap(full)
        yield from _coaddr(full)
    if dump.lastused:
        yield f"\tlastused {_date(dump.lastused, style)}"
    if style.windows:
        yield from _replay(dump.replay)
    yield from _offload(full.rare.offload if full else None, style)
    yield from _trailing_attributes(x)
    if x.selector not in (None, ANYTHING):
        yield f"\tsel {_selector(x.selector, style, x.family)}"
    if style.statistics:
        yield from _lifetime(_limits(x))
        yield from _current(dump.current, style)
        yield "\tstats:"
        s = dump.stats
        yield f"\t  replay-window {s.replay_window} replay {s.replay} failed {s.integrity_failed}"
    yield from _context(full.rare.context if full else None)


def _identity(x: StateConfig | LarvalConfig | Template, style: Style) -> str:
    """`proto esp spi 0x... reqid N mode tunnel`; without -s an SPI of 0 is left out where none is needed."""
    proto = names.name(names.XFRM_PROTO, x.proto)
    mode = names.name(names.MODE_SHOWN, x.mode)
    if style.statistics:
        return f"proto {proto} spi 0x{x.spi:08x}({x.spi}) reqid {x.reqid}(0x{x.reqid:08x}) mode {mode}"
    needed = x.proto in names.IPSEC and not isinstance(x, Template)
    spi = "" if not x.spi and not needed else f"spi 0x{x.spi:08x} "
    return f"proto {proto} {spi}reqid {x.reqid} mode {mode}"


def _window_and_flags(x: StateConfig | LarvalConfig, style: Style) -> str:
    flags = x.flags if isinstance(x, StateConfig) else 0
    extra = x.extra_flags if isinstance(x, StateConfig) else 0
    window = f"replay-window {x.replay_window if isinstance(x, StateConfig) else 0} "
    if not style.statistics:
        return f"{window}flag {_flags(names.STATE_FLAG, flags)}" if flags else window
    words = _flags(names.STATE_FLAG, flags)
    if extra:
        words += f"extra_flag {_flags(names.EXTRA_FLAG, extra)}"
    return f"{window}seq 0x{x.seq:08d} flag {words} (0x{flags:08b})"


def _flags(table: names.Table, flags: int) -> str:
    """The names of the bits that are set; what is left over in hexadecimal."""
    words = [word for bit, word in table.items() if flags & bit]
    rest = flags & ~sum(table)
    if rest:
        words.append(f"{rest:x}")
    return " ".join(words)


def _marks(mark: Mark, output: Mark = NO_MARK) -> Iterator[str]:
    text = f"mark {_hex(mark.v)}/{_hex(mark.m)} " if mark.v or mark.m else ""
    if output.v or output.m:
        text += f"output-mark 0x{output.v:x}/0x{output.m:x}"
    if text:
        yield "\t" + text


def _hex(value: int) -> str:
    """C's %#x, which leaves 0 bare."""
    return f"0x{value:x}" if value else "0"


def _algorithms(x: StateConfig, style: Style) -> Iterator[str]:
    for word, algorithm in (("auth-trunc", x.auth), ("aead", x.aead), ("enc", x.crypt), ("comp", x.comp)):
        if algorithm is not None:
            icv = f" {algorithm.icv_bits}" if word in ("auth-trunc", "aead") else ""
            yield f"\t{word} {algorithm.name} {_key(algorithm, style)}{icv}"


def _key(algorithm: Algorithm, style: Style) -> str:
    if style.nokeys:
        return "<<Keys hidden>>"
    if not algorithm.key:
        return ""
    bits = f" ({algorithm.key_bits} bits)" if style.statistics else ""
    return f"0x{algorithm.key.hex()}{bits}"


def _encap(x: StateConfig) -> Iterator[str]:
    e = x.encap
    if e is not None:
        kind = names.name(names.ENCAP, e.type)
        yield f"\tencap type {kind} sport {e.sport} dport {e.dport} addr {_show(e.oa, x.family)}"


def _coaddr(x: StateConfig) -> Iterator[str]:
    if x.rare.coaddr is not None:
        yield f"\tcoa {_show(x.rare.coaddr, x.family)}"


def _replay(replay: ReplayLegacy | ReplayEsn) -> Iterator[str]:
    if isinstance(replay, ReplayLegacy):
        yield (
            f"\tanti-replay context: seq 0x{replay.seq:x}, oseq 0x{replay.oseq:x}, "
            f"bitmap 0x{replay.bitmap:08x}"
        )
        return
    yield "\tanti-replay esn context:"
    yield (
        f"\t seq-hi 0x{replay.seq_hi:x}, seq 0x{replay.seq:x}, "
        f"oseq-hi 0x{replay.oseq_hi:x}, oseq 0x{replay.oseq:x}"
    )
    yield f"\t replay_window {replay.replay_window}, bitmap-length {replay.words}"
    yield from _bitmap(replay)


def _bitmap(replay: ReplayEsn) -> Iterator[str]:
    """Words from the newest down, eight to a line."""
    words = [*replay.bitmap, *[0] * (replay.words - len(replay.bitmap))][::-1]
    for start in range(0, len(words), 8):
        yield "\t " + "".join(f"{word:08x} " for word in words[start : start + 8])


def _offload(offload: Offload | None, style: Style) -> Iterator[str]:
    if offload is not None:
        inbound = "in" if offload.flags & 2 else "out"
        yield f"\tcrypto offload parameters: dev {style.name_of(offload.ifindex)} dir {inbound}"


def _trailing_attributes(x: StateConfig | LarvalConfig) -> Iterator[str]:
    if x.if_id:
        yield f"\tif_id 0x{x.if_id:x}"
    if isinstance(x, StateConfig) and x.tfcpad:
        yield f"\ttfcpad {x.tfcpad}"
    if x.direction:
        yield f"\tdir {'in' if x.direction == SaDir.IN else 'out'}"
    pcpu = x.rare.pcpu if isinstance(x, StateConfig) else x.pcpu
    if pcpu is not None:
        yield f"\tpcpu-num {pcpu}"
    if isinstance(x, StateConfig) and x.mode == Mode.IPTFS and x.direction:
        yield f"\tiptfs-opts {_iptfs(x)}"


def _iptfs(x: StateConfig) -> str:
    """Those of the state's direction, as the kernel tells them."""
    options = x.rare.iptfs or UNSAID
    if x.direction == SaDir.IN:
        return "drop-time {} reorder-window {}".format(*options.receiving())
    whole, *figures = options.sending()
    words = "init-delay {} max-queue-size {} pkt-size {}".format(*figures)
    return f"dont-frag {words}" if whole else words


# -- policies


def _policy_lines(dump: PolicyDump, style: Style) -> Iterator[str]:
    p = dump.config
    yield _selector(p.selector, style)
    yield from _context(p.context)
    yield "\t" + _policy_head(p, style)
    if style.statistics:
        yield from _lifetime(p.lifetime)
        yield from _current(dump.current, style)
    yield from _marks(p.mark)
    for template in p.templates:
        yield from _template(template, style)
    yield from _offload(p.offload, style)
    if p.if_id:
        yield f"\tif_id 0x{p.if_id:x}"


def _policy_head(p: PolicyConfig, style: Style) -> str:
    words = [f"dir {names.name(names.DIRECTION, p.direction)}"]
    if p.index & 7 > Direction.FWD:
        words = [f"socket {names.name(names.SOCKET_DIRECTION, p.index & 7)}"]
    if style.statistics or p.action != Action.ALLOW:
        words.append(f"action {names.name(names.ACTION, p.action)}")
    if style.statistics:
        words.append(f"index {p.index}")
    words.append(f"priority {p.priority} ptype {names.name(names.PTYPE, p.type)} ")
    text = " ".join(words)
    if style.statistics:
        flags = _flags(names.POLICY_FLAG, p.flags)
        return f"{text}share {names.name(names.SHARE, p.share)} flag {flags} (0x{p.flags:08b})"
    return f"{text}flag {_flags(names.POLICY_FLAG, p.flags)}" if p.flags else text


def _template(t: Template, style: Style) -> Iterator[str]:
    yield f"\ttmpl src {_show(t.saddr, t.family)} dst {_show(t.daddr, t.family)}"
    yield "\t\t" + _identity(t, style)
    level = "use" if t.optional else "required"
    if style.statistics:
        yield f"\t\tlevel {level} share {names.name(names.SHARE, t.share)} "
        yield f"\t\tenc-mask {t.ealgos:08x} auth-mask {t.aalgos:08x} comp-mask {t.calgos:08x}"
    elif t.optional:
        yield f"\t\tlevel {level} "


# -- both


def _selector(s: Selector, style: Style, family: int = AF_UNSPEC) -> str:
    """A selector, in the state's `family` where it has none itself."""
    af = s.family or family
    text = f"src {_show(s.saddr, af)}/{s.prefixlen_s} dst {_show(s.daddr, af)}/{s.prefixlen_d} "
    if s.proto:
        text += f"proto {names.name(names.PROTOCOL, s.proto)} "
    text += _ports(s, style)
    if s.ifindex:
        text += f"dev {style.name_of(s.ifindex)} "
    return f"{text}uid {s.user}" if style.statistics else text


def _ports(s: Selector, style: Style) -> str:
    if s.proto == names.GRE:
        return f"key {s.sport << 16 | s.dport} " if s.sport_mask or s.dport_mask else ""
    sport, dport = ("type", "code") if s.proto in names.TYPED else ("sport", "dport")
    text = f"{sport} {s.sport} " if s.sport_mask else ""
    if s.proto == PROTO_MH:
        # no word for a second figure of mobility headers; `ip` shows its bytes as the processor reads them
        swapped = int.from_bytes(s.dport.to_bytes(2), "little")
        return text + (f"(dport) 0x{swapped:04x} " if s.dport_mask and style.statistics else "")
    return text + (f"{dport} {s.dport} " if s.dport_mask else "")


def _limits(x: StateConfig | LarvalConfig) -> LifetimeConfig:
    return x.lifetime if isinstance(x, StateConfig) else LifetimeConfig(hard_add=x.hard_add)


def _lifetime(x: LifetimeConfig) -> Iterator[str]:
    yield "\tlifetime config:"
    yield f"\t  limit: soft {_limit(x.soft_byte)}(bytes), hard {_limit(x.hard_byte)}(bytes)"
    yield f"\t  limit: soft {_limit(x.soft_packet)}(packets), hard {_limit(x.hard_packet)}(packets)"
    yield f"\t  expire add: soft {x.soft_add}(sec), hard {x.hard_add}(sec)"
    yield f"\t  expire use: soft {x.soft_use}(sec), hard {x.hard_use}(sec)"


def _limit(value: int) -> str:
    return "(INF)" if value == INF else str(value)


def _current(x: LifetimeCurrent, style: Style) -> Iterator[str]:
    yield "\tlifetime current:"
    yield f"\t  {x.bytes}(bytes), {x.packets}(packets)"
    yield f"\t  add {_date(x.add_time, style)} use {_date(x.use_time, style)}"


def _date(seconds: int, style: Style) -> str:
    if not seconds:
        return "-"
    return datetime.fromtimestamp(seconds, style.zone).strftime("%Y-%m-%d %H:%M:%S")


def _context(context: SecurityContext | None) -> Iterator[str]:
    if context is not None:
        yield f"\tsecurity context {context.text} "


def _show(address: Address, family: int) -> str:
    """Spell `address` in `family`, as far as it goes: families of templates and selectors may differ."""
    wild = ANY4 if family in (AF_INET, AF_UNSPEC) else ANY6
    return show((address + bytes(16))[: len(wild)])
