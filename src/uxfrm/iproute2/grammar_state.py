"""The words of `ip xfrm state add` and its siblings, read into the model's objects."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from uxfrm.iproute2 import names
from uxfrm.iproute2.addresses import take_address, take_prefix
from uxfrm.iproute2.algorithms import KINDS, Wanted, check_protocol, take_algorithm
from uxfrm.iproute2.grammar import (
    Identity,
    Once,
    take_context,
    take_flags,
    take_identity,
    take_limit,
    take_mark,
    take_mode,
    take_word,
)
from uxfrm.iproute2.selectors import Resolve, SelectorDraft
from uxfrm.iproute2.words import HIDDEN, Cursor, ParseError, wrong
from uxfrm.model.address import AF_INET, AF_UNSPEC, Address, any_address
from uxfrm.model.dump import LarvalConfig, StateId
from uxfrm.model.flow import PROTO_COMP
from uxfrm.model.iptfs import UNSAID, Iptfs
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.policy import Offload, SecurityContext
from uxfrm.model.selector import ANYTHING, Selector
from uxfrm.model.state import (
    AF_UNSPEC_FLAG,
    ESN,
    PLAIN,
    Encap,
    Rare,
    ReplayEsn,
    ReplayLegacy,
    SaDir,
    StateConfig,
)
from uxfrm.model.template import Mode

LEGACY_WINDOW = 32
_WINDOW_MAX = 4096
_SPI_RANGE = {PROTO_COMP: (0x100, 0xFFFF)}
_SPI_RANGE_DEFAULT = (0x100, 0x0FFFFFFF)


@dataclass
class Draft:
    """A state while its words are read."""

    resolve: Resolve
    family: int = AF_UNSPEC
    id: Identity | None = None
    mode: int | None = None
    algorithms: dict[str, Wanted] = field(default_factory=dict)
    mark: Mark = NO_MARK
    reqid: int = 0
    seq: int = 0
    window: int = 0
    replay: dict[str, int] = field(default_factory=dict)
    flags: int = 0
    extra_flags: int = 0
    selector: SelectorDraft = field(default_factory=SelectorDraft)
    limits: LifetimeConfig = UNLIMITED
    encap: Encap | None = None
    coaddr: Address | None = None
    context: SecurityContext | None = None
    offload: Offload | None = None
    output_mark: int = 0
    output_mask: int = 0
    if_id: int = 0
    tfcpad: int = 0
    direction: int = SaDir.UNSET
    pcpu: int | None = None
    iptfs: Iptfs | None = None
    low: int | None = None
    high: int | None = None
    after_key: int = -1  # where a word may be a key's second half
    once: Once = field(default_factory=Once)


Reader = Callable[[Cursor, Draft], None]


def number(attribute: str, why: str, bits: int = 32) -> Reader:
    """A reader of one number into `attribute`."""

    def read(cursor: Cursor, x: Draft) -> None:
        setattr(x, attribute, cursor.number(bits, why))

    return read


def _value(keyword: str) -> str:
    return f'value after "{keyword}" is invalid'


def _counter(keyword: str) -> Reader:
    def read(cursor: Cursor, x: Draft) -> None:
        x.replay[keyword.removeprefix("replay-").replace("-", "_")] = cursor.number(32, _value(keyword))

    return read


def _seq(cursor: Cursor, x: Draft) -> None:
    """`ip` sends it in network order and the kernel takes it as its own: here as on little-endian."""
    x.seq = int.from_bytes(cursor.number(32, "SEQ value is invalid").to_bytes(4), "little")


def _bound(keyword: str, attribute: str) -> Reader:
    def read(cursor: Cursor, x: Draft) -> None:
        x.once.say(keyword)
        setattr(x, attribute, cursor.number(32, _value(keyword)))

    return read


def _mode(cursor: Cursor, x: Draft) -> None:
    x.mode = take_mode(cursor)


def _mark(cursor: Cursor, x: Draft) -> None:
    x.mark = take_mark(cursor)


def _flag(cursor: Cursor, x: Draft) -> None:
    cursor.peek()
    x.flags = take_flags(cursor, names.STATE_FLAG, x.flags)


def _extra_flag(cursor: Cursor, x: Draft) -> None:
    cursor.peek()
    why = '"EXTRA-FLAG" is invalid'
    x.extra_flags = take_flags(cursor, names.EXTRA_FLAG, x.extra_flags, 32, why)


def _selector(cursor: Cursor, x: Draft) -> None:
    cursor.peek()
    family, cursor.family = cursor.family, AF_UNSPEC
    x.selector.take(cursor, x.resolve)
    # `ip` keeps the family: an ID that comes later must be of it
    cursor.family = x.selector.family or family


def _limit(cursor: Cursor, x: Draft) -> None:
    x.limits = take_limit(cursor, x.limits)


def _encap(cursor: Cursor, x: Draft) -> None:
    kind = take_word(cursor, names.ENCAP, "ENCAP-TYPE value is invalid")
    sport = cursor.number(16, 'SPORT value after "encap" is invalid')
    dport = cursor.number(16, 'DPORT value after "encap" is invalid')
    x.encap = Encap(kind, sport, dport, take_address(cursor))


def _coa(cursor: Cursor, x: Draft) -> None:
    x.once.say("coa")
    x.coaddr = take_prefix(cursor, (x.id.family if x.id else AF_UNSPEC) or cursor.family)[0]


def _ctx(cursor: Cursor, x: Draft) -> None:
    x.once.say("ctx")
    x.context = take_context(cursor)


def _output_mark(cursor: Cursor, x: Draft) -> None:
    x.output_mark = cursor.number(32, _value("output-mark"))
    if cursor.follows("mask"):
        x.output_mask = cursor.number(32, "mask value is invalid")


def _dir(cursor: Cursor, x: Draft) -> None:
    x.direction = take_word(cursor, names.SA_DIR, 'value after "dir" is invalid')


def _offload(cursor: Cursor, x: Draft) -> None:
    flags = 4 if cursor.follows("packet") else 0
    cursor.follows("crypto")
    ifindex: int | None = None
    if cursor.follows("dev"):
        name = cursor.take()
        ifindex = x.resolve(name)
        if not ifindex:
            raise wrong(name, 'value after "offload dev" is invalid')
    keyword = cursor.take()
    if keyword != "dir":
        raise wrong(keyword, 'value after "offload dir" is invalid')
    inbound = take_word(cursor, names.SA_DIR, "DIR value is invalid") == SaDir.IN
    # without a device there is nothing to offload to, and the kernel goes on without
    x.offload = Offload(ifindex, flags | (2 if inbound else 0)) if ifindex else None


# The words are those of the patched `ip` of IP-TFS's authors: no released one has any.
IPTFS = {
    "drop-time": ("drop_time", 32),
    "reorder-window": ("reorder_window", 16),
    "init-delay": ("init_delay", 32),
    "max-queue-size": ("max_qsize", 32),
    "pkt-size": ("pkt_size", 32),
}


def _iptfs(cursor: Cursor, x: Draft) -> None:
    cursor.peek()
    options = x.iptfs or UNSAID
    while cursor:
        word = cursor.here
        if cursor.follows("dont-frag"):
            options = options._replace(dont_frag=True)
        elif word in IPTFS:
            cursor.take()
            field, bits = IPTFS[word]
            options = Iptfs(**options._asdict() | {field: cursor.number(bits, _value(word))})
        else:
            break
    x.iptfs = options if options != UNSAID else None


def _algorithm(cursor: Cursor, x: Draft) -> None:
    take_algorithm(cursor, x.algorithms)
    x.after_key = cursor.at


_ALGORITHM: dict[str, Reader] = dict.fromkeys(KINDS, _algorithm)

ADD: dict[str, Reader] = _ALGORITHM | {
    "mode": _mode,
    "mark": _mark,
    "reqid": number("reqid", "REQID value is invalid"),
    "seq": _seq,
    "replay-window": number("window", _value("replay-window")),
    "replay-seq": _counter("replay-seq"),
    "replay-oseq": _counter("replay-oseq"),
    "replay-seq-hi": _counter("replay-seq-hi"),
    "replay-oseq-hi": _counter("replay-oseq-hi"),
    "flag": _flag,
    "extra-flag": _extra_flag,
    "sel": _selector,
    "limit": _limit,
    "encap": _encap,
    "coa": _coa,
    "ctx": _ctx,
    "output-mark": _output_mark,
    "if_id": number("if_id", _value("if_id")),
    "tfcpad": number("tfcpad", _value("tfcpad")),
    "dir": _dir,
    "pcpu-num": number("pcpu", _value("pcpu-num")),
    "offload": _offload,
    "iptfs-opts": _iptfs,
}
IDENTITY: dict[str, Reader] = {"mark": _mark}
ALLOCSPI: dict[str, Reader] = {
    "mode": _mode,
    "mark": _mark,
    "reqid": ADD["reqid"],
    "seq": ADD["seq"],
    "min": _bound("min", "low"),
    "max": _bound("max", "high"),
    "if_id": ADD["if_id"],
    "dir": _dir,
    "pcpu-num": ADD["pcpu-num"],
}


def read(cursor: Cursor, table: dict[str, Reader], resolve: Resolve) -> Draft:
    """Read all words by `table`; the first that it does not know begins ID."""
    x = Draft(resolve, family=cursor.family)
    while cursor:
        reader = table.get(cursor.here)
        if reader is not None:
            cursor.take()
            reader(cursor, x)
        elif x.id is None:
            x.id = take_identity(cursor, cursor.family)
        else:
            raise wrong(HIDDEN if x.after_key == cursor.at else cursor.here, "unknown")
    return x


def _family(x: Draft) -> int:
    return (x.id.family if x.id else AF_UNSPEC) or x.family or AF_INET


# -- what the words come to


def take_config(cursor: Cursor, resolve: Resolve) -> StateConfig:
    """All words of `state add` or `update`. Raises ParseError, and XfrmError from the model."""
    x = read(cursor, ADD, resolve)
    identity = _needed(x)
    esn = _wants_esn(x)
    proto = identity.proto or 0
    check_protocol(proto, x.mode, set(x.algorithms), x.coaddr is not None)
    saddr, daddr = identity.addresses(_family(x))
    made = {kind: wanted.made() for kind, wanted in x.algorithms.items()}
    rare = Rare(coaddr=x.coaddr, context=x.context, offload=x.offload, pcpu=x.pcpu, iptfs=x.iptfs)
    return StateConfig(
        daddr=daddr,
        saddr=saddr,
        proto=proto,
        spi=identity.spi or 0,
        family=_family(x),
        mode=x.mode or Mode.TRANSPORT,
        reqid=x.reqid,
        seq=x.seq,
        selector=_filled(x),
        aead=made.get("aead"),
        auth=made.get("auth"),
        crypt=made.get("enc"),
        comp=made.get("comp"),
        replay_window=0 if esn else x.window,
        replay=ReplayLegacy() if esn else ReplayLegacy(x.replay.get("oseq", 0), x.replay.get("seq", 0)),
        replay_esn=_esn(x) if esn else None,
        flags=x.flags,
        extra_flags=x.extra_flags,
        encap=x.encap,
        tfcpad=x.tfcpad,
        mark=x.mark,
        set_mark=Mark(x.output_mark, x.output_mask or 0xFFFFFFFF) if x.output_mark else NO_MARK,
        if_id=x.if_id,
        direction=x.direction,
        lifetime=x.limits,
        rare=rare if rare != PLAIN else PLAIN,
    )


def _filled(x: Draft) -> Selector:
    """The selector with wildcards of the state's family where it says no address."""
    s = x.selector.made()
    if s.family != AF_UNSPEC or s == ANYTHING or x.flags & AF_UNSPEC_FLAG:
        return s
    wild = any_address(_family(x))
    return replace(s, family=_family(x), daddr=wild, saddr=wild)


def _needed(x: Draft) -> Identity:
    if x.id is None:
        raise ParseError(0, "Not enough information: ID is required")
    return x.id


def _wants_esn(x: Draft) -> bool:
    """True for windows that need a bitmap; ParseError for those that no bitmap has."""
    if x.flags & ESN and not x.window and x.direction != SaDir.OUT:
        raise ParseError(0, "Error: esn flag set without replay-window.")
    if x.window > _WINDOW_MAX:
        raise ParseError(0, f"Error: replay-window ({x.window}) > XFRMA_REPLAY_ESN_MAX ({_WINDOW_MAX}).")
    return x.window > LEGACY_WINDOW or bool(x.flags & ESN)


def _esn(x: Draft) -> ReplayEsn:
    said = x.replay.get
    counters = said("oseq", 0), said("seq", 0), said("oseq_hi", 0), said("seq_hi", 0)
    return ReplayEsn((x.window + 31) // 32, x.window, *counters)


def take_id(cursor: Cursor, resolve: Resolve) -> StateId:
    """All words of `state delete` or `get`."""
    x = read(cursor, IDENTITY, resolve)
    if x.id is None:
        raise ParseError(0, "RTNETLINK answers: Invalid argument")
    saddr, daddr = x.id.addresses(_family(x))
    return StateId(daddr, x.id.spi or 0, x.id.proto or 0, _family(x), x.mark.v & x.mark.m, saddr)


def take_allocspi(cursor: Cursor, resolve: Resolve) -> tuple[LarvalConfig, int, int]:
    """All words of `state allocspi`: what is wanted, and the range of SPIs."""
    x = read(cursor, ALLOCSPI, resolve)
    identity = _needed(x)
    if identity.spi:
        raise ParseError(0, '"spi" is invalid')
    low, high = _range(x, identity.proto or 0)
    saddr, daddr = identity.addresses(_family(x))
    wanted = LarvalConfig(
        daddr=daddr,
        saddr=saddr,
        proto=identity.proto or 0,
        family=_family(x),
        mode=x.mode or 0,
        reqid=x.reqid,
        seq=x.seq,
        mark=x.mark,
        if_id=x.if_id,
        direction=x.direction,
        pcpu=x.pcpu,
    )
    return wanted, low, high


def _range(x: Draft, proto: int) -> tuple[int, int]:
    if x.low is None and x.high is None:
        return _SPI_RANGE.get(proto, _SPI_RANGE_DEFAULT)
    if x.high is None:
        raise ParseError(0, '"max" is missing')
    if x.low is None:
        raise ParseError(0, '"min" is missing')
    if x.low > x.high:
        raise ParseError(0, 'value after "min" is larger than value after "max"')
    return x.low, x.high
