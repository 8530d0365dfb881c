"""`ip xfrm state COMMAND ...`: the words of a state command into a command.

Tables name the keywords, one small function reads what follows each. Checks come at the end, in `ip`'s order and
words; then the model checks as the kernel would (XfrmError). Follows: ip-xfrm(8); iproute2 6.1 as observed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from uxfrm.iproute2 import fragments, numbers
from uxfrm.iproute2.command import (
    PrefixFilter,
    StateAdd,
    StateAllocSpi,
    StateCommand,
    StateCount,
    StateDelete,
    StateDeleteAll,
    StateFilter,
    StateFlush,
    StateGet,
    StateList,
    StateUpdate,
)
from uxfrm.iproute2.cursor import HIDDEN, Cursor, Refusal, duplicate, missing, wrong
from uxfrm.iproute2.fragments import ALL_ONES, Id, Selection, parse_flags, parse_id, parse_limit, parse_mark
from uxfrm.iproute2.numbers import Prefix
from uxfrm.iproute2.vocabulary import (
    ENCAPS,
    EXTRA_FLAGS,
    MODES,
    MODES_READ,
    OFFLOAD_DIRECTIONS,
    OFFLOAD_PACKET,
    SA_DIRECTIONS,
    STATE_FLAGS,
    XFRM_PROTO_NAMES,
    XFRM_PROTOS,
)
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_UNSPEC, Address
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import LarvalConfig, StateId
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_DSTOPTS, PROTO_ESP, PROTO_ROUTING
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.policy import Offload, SecurityContext
from uxfrm.model.selector import ANYTHING
from uxfrm.model.state import (
    ESN,
    Encap,
    Rare,
    ReplayEsn,
    ReplayLegacy,
    SaDir,
    StateConfig,
)
from uxfrm.model.template import Mode

REPLAY_ESN_MAX = 4096


@dataclass
class _Algo:
    """An algorithm as it was written: kind (a keyword), name, key and ICV bits."""

    kind: str
    name: str
    key: bytes = field(default=b"", repr=False)
    bits: int = 0


@dataclass
class _State:
    """What a state command has said so far."""

    id: Id | None = None
    mode: int = Mode.TRANSPORT
    mark: Mark = NO_MARK
    reqid: int = 0
    seq: int = 0
    window: int = 0
    replay: dict[str, int] = field(default_factory=dict)
    flags: int = 0
    extra_flags: int = 0
    selection: Selection | None = None
    limits: LifetimeConfig = UNLIMITED
    encap: tuple[int, int, int, Address] | None = None
    coa: Address | None = None
    context: SecurityContext | None = None
    offload: Offload | None = None
    output_mark: int = 0
    output_mask: int = 0
    if_id: int = 0
    tfcpad: int = 0
    direction: int = SaDir.UNSET
    pcpu: int | None = None
    algos: dict[str, _Algo] = field(default_factory=dict)
    low: int | None = None
    high: int | None = None


_Read = Callable[[Cursor, _State], None]


def swapped(seq: int) -> int:
    """`seq` as `ip` on a little-endian machine sends it: in network order, where the kernel has a host number."""
    return int.from_bytes((seq & ALL_ONES).to_bytes(4), "little")


# -- what follows each keyword


def _mode(c: Cursor, s: _State) -> None:
    s.mode = c.of(MODES_READ, "MODE value is invalid")


def _mark(c: Cursor, s: _State) -> None:
    s.mark = parse_mark(c)


def _reqid(c: Cursor, s: _State) -> None:
    s.reqid = c.number(32, "REQID value is invalid")


def _seq(c: Cursor, s: _State) -> None:
    s.seq = swapped(c.number(32, "SEQ value is invalid"))


def _window(c: Cursor, s: _State) -> None:
    s.window = c.number(32, 'value after "replay-window" is invalid')


def _replay(name: str, keyword: str) -> _Read:
    def read(c: Cursor, s: _State) -> None:
        s.replay[name] = c.number(32, f'value after "{keyword}" is invalid')

    return read


def _flag(c: Cursor, s: _State) -> None:
    s.flags |= parse_flags(c, STATE_FLAGS, 8)


def _extra_flag(c: Cursor, s: _State) -> None:
    s.extra_flags |= parse_flags(c, EXTRA_FLAGS, 32)


def _sel(c: Cursor, s: _State) -> None:
    if c.word is None:
        c.take()
    s.selection = fragments.parse_selector_afresh(c, s.selection)


def _limit(c: Cursor, s: _State) -> None:
    s.limits = parse_limit(c, s.limits)


def _encap(c: Cursor, s: _State) -> None:
    kind = c.of(ENCAPS, "ENCAP-TYPE value is invalid")
    sport = c.number(16, 'SPORT value after "encap" is invalid')
    dport = c.number(16, 'DPORT value after "encap" is invalid')
    s.encap = (kind, sport, dport, c.address())


def _coa(c: Cursor, s: _State) -> None:
    if s.coa is not None:
        duplicate("coa", "coa")
    s.coa = c.prefix_after("coa").address


def _ctx(c: Cursor, s: _State) -> None:
    s.context = fragments.parse_context(c, s.context)


def _offload(c: Cursor, s: _State) -> None:
    packet = OFFLOAD_PACKET if c.accept("packet") else 0
    if not packet:
        c.accept("crypto")
    index = 0
    if c.accept("dev"):
        name = c.take()
        found = c.resolve(name)
        if found is None:
            wrong(name, 'value after "offload dev" is invalid')
        index = found
    word = c.take()
    if word != "dir":
        wrong(word, 'value after "offload dir" is invalid')
    s.offload = Offload(index, packet | c.of(OFFLOAD_DIRECTIONS, "DIR value is invalid"))


def _output_mark(c: Cursor, s: _State) -> None:
    s.output_mark = c.number(32, 'value after "output-mark" is invalid')
    if c.accept("mask"):
        s.output_mask = c.number(32, "mask value is invalid")


def _if_id(c: Cursor, s: _State) -> None:
    s.if_id = c.number(32, 'value after "if_id" is invalid')


def _tfcpad(c: Cursor, s: _State) -> None:
    s.tfcpad = c.number(32, 'value after "tfcpad" is invalid')


def _dir(c: Cursor, s: _State) -> None:
    s.direction = c.of(SA_DIRECTIONS, "DIR value is invalid")


def _pcpu(c: Cursor, s: _State) -> None:
    s.pcpu = c.number(32, 'value after "pcpu-num" is invalid')


def _algorithm(group: str, kind: str, bits_name: str = "") -> _Read:
    """The reader of one ALGO-TYPE; `group` is what may be given once."""

    def read(c: Cursor, s: _State) -> None:
        if group in s.algos or (kind == "enc" and "aead" in s.algos) or (kind == "aead" and "enc" in s.algos):
            duplicate("ALGO-TYPE", kind)
        if c.word is None:
            missing("ALGO-NAME")
        found = s.algos[group] = _Algo(kind, c.take())
        if kind != "comp":
            found.key = c.take_key()
        if bits_name:
            found.bits = _icv_bits(c, bits_name)

    return read


def _icv_bits(c: Cursor, name: str) -> int:
    if c.word is None:
        missing(name)
    bits = numbers.unsigned(c.take(), 32)
    if bits is None:
        wrong(HIDDEN, f"{name} value is invalid")
    return bits


_ADD: dict[str | None, _Read] = {
    "mode": _mode,
    "mark": _mark,
    "reqid": _reqid,
    "seq": _seq,
    "replay-window": _window,
    "replay-seq": _replay("seq", "replay-seq"),
    "replay-oseq": _replay("oseq", "replay-oseq"),
    "replay-seq-hi": _replay("seq_hi", "replay-seq-hi"),
    "replay-oseq-hi": _replay("oseq_hi", "replay-oseq-hi"),
    "flag": _flag,
    "extra-flag": _extra_flag,
    "sel": _sel,
    "limit": _limit,
    "encap": _encap,
    "coa": _coa,
    "ctx": _ctx,
    "offload": _offload,
    "output-mark": _output_mark,
    "if_id": _if_id,
    "tfcpad": _tfcpad,
    "dir": _dir,
    "pcpu-num": _pcpu,
    "enc": _algorithm("enc", "enc"),
    "auth": _algorithm("auth", "auth"),
    "auth-trunc": _algorithm("auth", "auth-trunc", "ALGO-TRUNC-LEN"),
    "aead": _algorithm("aead", "aead", "ALGO-ICV-LEN"),
    "comp": _algorithm("comp", "comp"),
}


def _read(c: Cursor, table: dict[str | None, _Read], *, loose: bool = False) -> _State:
    """Read all words: keywords of `table`, and one ID."""
    s = _State()
    while c.word is not None:
        if c.word in table:
            keyword = c.take()
            table[keyword](c, s)
        elif s.id is None:
            s.id = parse_id(c, loose=loose)
        else:
            c.unknown()
    return s


# -- add and update


def _build(c: Cursor) -> StateConfig:
    s = _read(c, _ADD)
    if s.id is None:
        raise Refusal("Not enough information: ID is required")
    _check_window(s)
    _check_protocol(s, s.id.proto)
    return _config(c, s, s.id)


def _check_window(s: _State) -> None:
    if s.flags & ESN and not s.window:
        raise Refusal("Error: esn flag set without replay-window.")
    if s.window > REPLAY_ESN_MAX:
        raise Refusal(f"Error: replay-window ({s.window}) > XFRMA_REPLAY_ESN_MAX ({REPLAY_ESN_MAX}).")


_REQUIRED = {
    PROTO_ESP: ({"enc", "aead"}, '"enc" or "aead"'),
    PROTO_AH: ({"auth"}, '"auth" or "auth-trunc"'),
    PROTO_COMP: ({"comp"}, '"comp"'),
}
_FORBIDDEN = {
    PROTO_ESP: ({"comp"}, 'ALGO-TYPE value "comp" is'),
    PROTO_AH: ({"enc", "aead", "comp"}, 'ALGO-TYPE values "enc", "aead", and "comp" are'),
    PROTO_COMP: ({"enc", "auth", "aead"}, 'ALGO-TYPE values "enc", "auth", "auth-trunc", and "aead" are'),
}
_MODES = {
    PROTO_ESP: (Mode.TRANSPORT, Mode.TUNNEL, Mode.BEET, Mode.IPTFS),
    PROTO_AH: (Mode.TRANSPORT, Mode.TUNNEL),
    PROTO_COMP: (Mode.TRANSPORT, Mode.TUNNEL),
}
_MOBILE = (PROTO_ROUTING, PROTO_DSTOPTS)


def _check_protocol(s: _State, proto: int | None) -> None:
    """What `ip` knows of protocols and algorithms; a kernel would say it less clearly."""
    name = XFRM_PROTO_NAMES[proto or 0]
    if proto in _REQUIRED:
        _check_ipsec(s, proto, name)
    else:
        _check_other(s, proto, name)


def _check_ipsec(s: _State, proto: int, name: str) -> None:
    forbidden, subject = _FORBIDDEN[proto]
    if s.algos.keys() & forbidden:
        raise Refusal(f'{subject} invalid with XFRM-PROTO value "{name}"')
    required, words = _REQUIRED[proto]
    if not s.algos.keys() & required:
        raise Refusal(f'ALGO-TYPE value {words} is required with XFRM-PROTO value "{name}"')
    if s.mode not in _MODES[proto]:
        raise Refusal(f'MODE value is invalid with XFRM-PROTO value "{name}"')
    if s.coa is not None:
        raise Refusal(f'"coa" is invalid with XFRM-PROTO value "{name}"')


def _check_other(s: _State, proto: int | None, name: str) -> None:
    if s.algos:
        raise Refusal(f'ALGO is invalid with XFRM-PROTO value "{name}"')
    if proto not in _MOBILE:
        return
    if s.mode not in (Mode.ROUTEOPTIMIZATION, Mode.IN_TRIGGER):
        raise Refusal(f'"mode" is required with XFRM-PROTO value "{name}"')
    if s.coa is None:
        raise Refusal(f'"coa" is required with XFRM-PROTO value "{name}"')


def _config(c: Cursor, s: _State, ident: Id) -> StateConfig:
    family = ident.family or c.family or AF_INET
    daddr, saddr = ident.addresses(family)
    esn = bool(s.window) and (s.window > 32 or bool(s.flags & ESN))
    return StateConfig(
        daddr=daddr,
        saddr=saddr,
        proto=ident.proto or 0,
        spi=ident.spi or 0,
        family=family,
        mode=s.mode,
        reqid=s.reqid,
        seq=s.seq,
        selector=s.selection.finished(s.selection.selector.family) if s.selection else ANYTHING,
        replay_window=0 if esn else s.window,
        replay=ReplayLegacy() if esn else _legacy(s.replay),
        replay_esn=_esn(s.window, s.replay) if esn else None,
        flags=s.flags,
        extra_flags=s.extra_flags,
        encap=Encap(*s.encap[:3], numbers.fitted(s.encap[3], family)) if s.encap else None,
        tfcpad=s.tfcpad,
        mark=s.mark,
        set_mark=Mark(s.output_mark, s.output_mask or ALL_ONES) if s.output_mark else NO_MARK,
        if_id=s.if_id,
        direction=s.direction,
        lifetime=s.limits,
        rare=_rare(s, family),
        **_algorithms(s),
    )


def _algorithms(s: _State) -> dict[str, Algorithm]:
    """The fields of StateConfig for the algorithms, found in the kernel's order. XfrmError ENOSYS, EINVAL."""
    fields = {}
    if found := s.algos.get("aead"):
        fields["aead"] = algo.aead(found.name, found.key, found.bits)
    if found := s.algos.get("auth"):
        trunc = found.kind == "auth-trunc"
        fields["auth"] = (
            algo.auth_trunc(found.name, found.key, found.bits) if trunc else algo.auth(found.name, found.key)
        )
    if found := s.algos.get("enc"):
        fields["crypt"] = algo.crypt(found.name, found.key)
    if found := s.algos.get("comp"):
        fields["comp"] = algo.comp(found.name)
    return fields


def _legacy(replay: dict[str, int]) -> ReplayLegacy:
    return ReplayLegacy(oseq=replay.get("oseq", 0), seq=replay.get("seq", 0))


def _esn(window: int, replay: dict[str, int]) -> ReplayEsn:
    return ReplayEsn(words=(window + 31) // 32, replay_window=window, **replay)


def _rare(s: _State, family: int) -> Rare:
    return replace(
        Rare(),
        coaddr=None if s.coa is None else numbers.fitted(s.coa, family),
        context=s.context,
        offload=s.offload,
        pcpu=s.pcpu,
    )


def _add(c: Cursor, statistics: int) -> StateCommand:
    return StateAdd(_build(c))


def _update(c: Cursor, statistics: int) -> StateCommand:
    return StateUpdate(_build(c))


# -- the other commands

_ALLOC_DEFAULTS = {PROTO_COMP: (0x100, 0xFFFF)}
_ALLOC_DEFAULT = (0x100, 0x0FFFFFFF)


def _min(c: Cursor, s: _State) -> None:
    if s.low is not None:
        duplicate("min", "min")
    s.low = c.number(32, 'value after "min" is invalid')


def _max(c: Cursor, s: _State) -> None:
    if s.high is not None:
        duplicate("max", "max")
    s.high = c.number(32, 'value after "max" is invalid')


_ALLOC: dict[str | None, _Read] = {
    "mode": _mode,
    "mark": _mark,
    "reqid": _reqid,
    "seq": _seq,
    "min": _min,
    "max": _max,
    "dir": _dir,
    "pcpu-num": _pcpu,
}


def _allocspi(c: Cursor, statistics: int) -> StateCommand:
    s = _read(c, _ALLOC)
    if s.id is None:
        raise Refusal("Not enough information: ID is required")
    if s.id.spi:
        raise Refusal('"spi" is invalid')
    low, high = _range(s, s.id.proto or 0)
    family = s.id.family or c.family or AF_INET
    daddr, saddr = s.id.addresses(family)
    wanted = LarvalConfig(
        daddr=daddr,
        saddr=saddr,
        proto=s.id.proto or 0,
        family=family,
        mode=s.mode,
        reqid=s.reqid,
        seq=s.seq,
        mark=s.mark,
        direction=s.direction,
        pcpu=s.pcpu,
    )
    return StateAllocSpi(wanted, low, high, bool(statistics))


def _range(s: _State, proto: int) -> tuple[int, int]:
    if s.low is None and s.high is None:
        return _ALLOC_DEFAULTS.get(proto, _ALLOC_DEFAULT)
    if s.low is None:
        raise Refusal('"min" is missing')
    if s.high is None:
        raise Refusal('"max" is missing')
    if s.low > s.high:
        raise Refusal('value after "min" is larger than value after "max"')
    return s.low, s.high


_ONE: dict[str | None, _Read] = {"mark": _mark}


def _identity(c: Cursor) -> StateId:
    s = _read(c, _ONE)
    ident = s.id or Id()
    family = ident.family or c.family or AF_UNSPEC
    daddr, _ = ident.addresses(family)
    return StateId(
        daddr=daddr,
        spi=ident.spi or 0,
        proto=ident.proto or 0,
        family=family,
        mark=s.mark.v & s.mark.m,
        saddr=ident.src.address if ident.src else None,
    )


def _delete(c: Cursor, statistics: int) -> StateCommand:
    return StateDelete(_identity(c))


def _get(c: Cursor, statistics: int) -> StateCommand:
    return StateGet(_identity(c), bool(statistics))


_LIST: dict[str | None, _Read] = {"mode": _mode, "reqid": _reqid, "flag": _flag}


def _filter(c: Cursor) -> StateFilter:
    given = frozenset(c.words[c.at :])
    s = _read(c, _LIST, loose=True)
    ident = s.id or Id()
    return StateFilter(
        family=c.family,
        src=_prefix_filter(ident.src),
        dst=_prefix_filter(ident.dst),
        proto=ident.proto,
        spi=ident.spi,
        mode=s.mode if "mode" in given else None,
        reqid=s.reqid if "reqid" in given else None,
        flags=s.flags,
    )


def _prefix_filter(prefix: Prefix | None) -> PrefixFilter | None:
    return PrefixFilter(prefix.address, prefix.length) if prefix else None


def _list(c: Cursor, statistics: int) -> StateCommand:
    nokeys = "nokeys" in c.words[c.at :]
    c.words[c.at :] = [word for word in c.words[c.at :] if word != "nokeys"]
    return StateList(_filter(c), bool(statistics), nokeys)


def _deleteall(c: Cursor, statistics: int) -> StateCommand:
    return StateDeleteAll(_filter(c))


def _flush(c: Cursor, statistics: int) -> StateCommand:
    proto = 0
    while c.word is not None:
        if not c.accept("proto"):
            wrong(c.word, "unknown")
        proto = c.of(XFRM_PROTOS, "XFRM-PROTO value is invalid")
    return StateFlush(proto)


def _count(c: Cursor, statistics: int) -> StateCommand:
    return StateCount(statistics)


COMMANDS: dict[str, Callable[[Cursor, int], StateCommand]] = {
    "add": _add,
    "update": _update,
    "allocspi": _allocspi,
    "delete": _delete,
    "deleteall": _deleteall,
    "delall": _deleteall,
    "list": _list,
    "show": _list,
    "lst": _list,
    "get": _get,
    "flush": _flush,
    "count": _count,
}
assert MODES.keys() <= MODES_READ.keys()
