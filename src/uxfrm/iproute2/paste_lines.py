"""The lines of `ip xfrm` dumps, one pattern each, read into the draft of the entry that they belong to.

Lines come with their blanks already made single. Whatever a dump without -s does not say keeps its default.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, tzinfo
from typing import Any

from uxfrm.iproute2 import names
from uxfrm.iproute2.grammar_state import IPTFS
from uxfrm.iproute2.selectors import Resolve, take_selector
from uxfrm.iproute2.words import Cursor, ParseError
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_UNSPEC, Address, family, is_any, parse
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.iptfs import Iptfs
from uxfrm.model.lifetime import INF
from uxfrm.model.mark import Mark
from uxfrm.model.policy import Offload, SecurityContext
from uxfrm.model.selector import ANYTHING, Selector
from uxfrm.model.state import AF_UNSPEC_FLAG, Encap, ReplayEsn, ReplayLegacy

KEYS_HIDDEN = "the keys are hidden"


_NO_REPLAY = ReplayLegacy()


@dataclass
class Entry:
    """One state or policy while its lines are read: values by the names of the model's fields."""

    line: int
    resolve: Resolve
    zone: tzinfo | None
    values: dict[str, Any] = field(default_factory=dict)
    rare: dict[str, Any] = field(default_factory=dict)
    limits: dict[str, int] = field(default_factory=dict)
    current: dict[str, int] = field(default_factory=dict)
    stats: tuple[int, ...] = (0, 0, 0)
    lastused: int = 0
    replay: ReplayLegacy | ReplayEsn = _NO_REPLAY
    templates: list[dict[str, Any]] = field(default_factory=list)
    socket: bool = False

    def put(self, **values: Any) -> None:
        """Set fields of the template that is open, else of the entry."""
        (self.templates[-1] if self.templates else self.values).update(values)


Handler = Callable[[Entry, re.Match[str]], None]


def known(table: names.Table, word: str) -> int:
    """The number of a word that may be one already."""
    found = names.number(table, word)
    if found is None:
        if not word.isdigit():
            raise ParseError(0, f'"{word}" is not known')
        found = int(word)
    return found


def read_flags(table: names.Table, text: str) -> int:
    """The bits of names; a last word of another kind is hexadecimal."""
    flags = 0
    for word in text.split():
        bit = names.number(table, word)
        flags |= int(word, 16) if bit is None else bit
    return flags


def _identity(e: Entry, m: re.Match[str]) -> None:
    proto, spi, reqid, mode = m.groups()
    e.put(proto=known(names.XFRM_PROTO, proto), spi=int(spi or "0", 16), reqid=int(reqid))
    e.put(mode=known(names.MODE, mode))


def _window(e: Entry, m: re.Match[str]) -> None:
    window, seq, flags, extra = m.groups(default="")
    # decimal digits after 0x: that is how `ip` prints it
    e.put(replay_window=int(window), seq=int(seq.removeprefix("0x") or "0"))
    e.put(flags=read_flags(names.STATE_FLAG, flags), extra_flags=read_flags(names.EXTRA_FLAG, extra))


def _marks(e: Entry, m: re.Match[str]) -> None:
    for name, value, mask in (("mark", m[1], m[2]), ("set_mark", m[3], m[4])):
        if value is not None:
            e.values[name] = Mark(int(value, 16), 0xFFFFFFFF if mask is None else int(mask, 16))


def _algorithm(e: Entry, m: re.Match[str]) -> None:
    kind, name, rest = m.groups()
    if "Keys hidden" in rest and kind != "comp":
        raise ParseError(0, KEYS_HIDDEN)
    rest = rest.removeprefix("<<Keys hidden>>")
    words = re.sub(r"\(\d+ bits\)", "", rest).split()
    key = bytes.fromhex(words.pop(0)[2:]) if words and words[0].startswith("0x") else b""
    length = int(words[0]) if words else 0
    made: dict[str, Callable[[], Algorithm]] = {
        "auth": lambda: algo.auth(name, key),
        "auth-trunc": lambda: algo.auth_trunc(name, key, length),
        "aead": lambda: algo.aead(name, key, length),
        "enc": lambda: algo.crypt(name, key),
        "comp": lambda: algo.comp(name),
    }
    e.values[{"auth-trunc": "auth", "enc": "crypt"}.get(kind, kind)] = made[kind]()


def _encap(e: Entry, m: re.Match[str]) -> None:
    kind, sport, dport, oa = m.groups()
    e.values["encap"] = Encap(known(names.ENCAP, kind), int(sport), int(dport), _address(oa))


def _replay(e: Entry, m: re.Match[str]) -> None:
    seq, oseq, bitmap = (int(value, 16) for value in m.groups())
    e.replay = ReplayLegacy(oseq, seq, bitmap)


def _replay_esn(e: Entry, m: re.Match[str]) -> None:
    seq_hi, seq, oseq_hi, oseq = (int(value, 16) for value in m.groups())
    e.replay = ReplayEsn(0, 0, oseq, seq, oseq_hi, seq_hi)


def _esn_size(e: Entry, m: re.Match[str]) -> None:
    r = e.replay
    if isinstance(r, ReplayEsn):
        e.replay = ReplayEsn(int(m[2]), int(m[1]), r.oseq, r.seq, r.oseq_hi, r.seq_hi)


def _bitmap(e: Entry, m: re.Match[str]) -> None:
    r = e.replay
    if isinstance(r, ReplayEsn):
        words = tuple(int(word, 16) for word in reversed(m[0].split()))
        e.replay = ReplayEsn(r.words, r.replay_window, r.oseq, r.seq, r.oseq_hi, r.seq_hi, words + r.bitmap)


def _offload(e: Entry, m: re.Match[str]) -> None:
    flags = (2 if m[3] == "in" else 0) | (4 if "packet" in (m[1], m[4]) else 0)
    e.rare["offload"] = Offload(device(e, m[2]), flags)


def device(e: Entry, name: str) -> int:
    """The index of an interface, which `ip` calls ifN where it has no name."""
    found = e.resolve(name)
    if not found and name[:2] == "if" and name[2:].isdigit():
        return int(name[2:])
    if not found:
        raise ParseError(0, f'interface "{name}" is not known')
    return found


def _selector(e: Entry, m: re.Match[str]) -> None:
    e.values["selector"] = _unspecified(e, read_selector(e, m[1]))


def _unspecified(e: Entry, s: Selector) -> Selector:
    """The selector of a state with af-unspec, which `ip` shows in the state's family where it has none."""
    bare = replace(s, family=AF_UNSPEC, saddr=ANYTHING.saddr, daddr=ANYTHING.daddr)
    said = s.prefixlen_s or s.prefixlen_d or not (is_any(s.saddr) and is_any(s.daddr))
    wanted = e.values.get("flags", 0) & AF_UNSPEC_FLAG and s.family == e.values.get("family")
    return bare if wanted and not said and bare != ANYTHING else s


def read_selector(e: Entry, text: str) -> Selector:
    """A selector as dumps show it, with its uid."""
    body, _, user = text.partition(" uid ")
    body, figures = _without_raw_port(body)
    cursor = Cursor(body.split())
    selector = take_selector(cursor, lambda name: device(e, name), strict=False)
    if cursor:
        raise ParseError(0, "a selector is not understood")
    return replace(selector, **figures, user=int(user or 0))


_RAW_PORT = re.compile(r" \(dport\) 0x([0-9a-f]{4})")


def _without_raw_port(text: str) -> tuple[str, dict[str, Any]]:
    """Take out the second figure of a mobility header, which `ip` shows as the processor reads it."""
    found = _RAW_PORT.search(text)
    if found is None:
        return text, {}
    dport = int.from_bytes(bytes.fromhex(found[1]), "little")
    return _RAW_PORT.sub("", text), {"dport": dport, "dport_mask": 0xFFFF}


def _limit(e: Entry, m: re.Match[str]) -> None:
    soft, hard, unit = m.groups()
    kind = unit.removesuffix("s")
    e.limits[f"soft_{kind}"] = _figure(soft)
    e.limits[f"hard_{kind}"] = _figure(hard)


def _figure(text: str) -> int:
    return INF if text == "(INF)" else int(text)


def _expire(e: Entry, m: re.Match[str]) -> None:
    e.limits[f"soft_{m[1]}"] = int(m[2])
    e.limits[f"hard_{m[1]}"] = int(m[3])


def _used(e: Entry, m: re.Match[str]) -> None:
    e.current |= {"bytes": int(m[1]), "packets": int(m[2])}


def _times(e: Entry, m: re.Match[str]) -> None:
    e.current |= {"add_time": _date(e, m[1]), "use_time": _date(e, m[2])}


def _date(e: Entry, text: str) -> int:
    if text == "-":
        return 0
    when = datetime.strptime(text, "%Y-%m-%d %H:%M:%S")
    return int(when.replace(tzinfo=e.zone).timestamp())


def _stats(e: Entry, m: re.Match[str]) -> None:
    e.stats = tuple(int(value) for value in m.groups())


def _lastused(e: Entry, m: re.Match[str]) -> None:
    e.lastused = _date(e, m[1])


def _coa(e: Entry, m: re.Match[str]) -> None:
    e.rare["coaddr"] = _address(m[1])


def _context(e: Entry, m: re.Match[str]) -> None:
    e.rare["context"] = SecurityContext(1, 1, m[1])


def _dir(e: Entry, m: re.Match[str]) -> None:
    e.values["direction"] = known(names.SA_DIR, m[1])


def _pcpu(e: Entry, m: re.Match[str]) -> None:
    e.rare["pcpu"] = int(m[1])


def _iptfs(e: Entry, m: re.Match[str]) -> None:
    figures = {IPTFS[word][0]: int(value) for word, value in re.findall(r"([a-z-]+) (\d+)", m[1])}
    e.rare["iptfs"] = Iptfs(**figures, dont_frag=True if "dont-frag" in m[1].split() else None)


def _if_id(e: Entry, m: re.Match[str]) -> None:
    e.values["if_id"] = int(m[1], 16)


def _tfcpad(e: Entry, m: re.Match[str]) -> None:
    e.values["tfcpad"] = int(m[1])


def _nothing(e: Entry, m: re.Match[str]) -> None:
    """A heading."""


def _policy(e: Entry, m: re.Match[str]) -> None:
    where, direction, action, index, priority, ptype, share, flags = m.groups(default="")
    e.socket = where == "socket"
    e.values |= {
        "direction": known(names.DIRECTION, direction),
        "action": known(names.ACTION, action or "allow"),
        "index": int(index or 0),
        "priority": int(priority),
        "type": known(names.PTYPE, ptype or "main"),
        "share": known(names.SHARE, share or "any"),
        "flags": read_flags(names.POLICY_FLAG, flags),
    }


def _tmpl(e: Entry, m: re.Match[str]) -> None:
    saddr, daddr = _address(m[1]), _address(m[2])
    e.templates.append({"saddr": saddr, "daddr": daddr, "family": family(daddr)})


def _level(e: Entry, m: re.Match[str]) -> None:
    e.put(optional=m[1] == "use", share=known(names.SHARE, m[2] or "any"))


def _masks(e: Entry, m: re.Match[str]) -> None:
    e.put(ealgos=int(m[1], 16), aalgos=int(m[2], 16), calgos=int(m[3], 16))


def _address(text: str) -> Address:
    try:
        return parse(text)
    except ValueError:
        raise ParseError(0, f'"{text}" is not an address') from None


def _table(*rows: tuple[str, Handler]) -> tuple[tuple[re.Pattern[str], Handler], ...]:
    return tuple((re.compile(pattern), handler) for pattern, handler in rows)


_MARK = r"(?:mark (\w+)/(\w+))? ?(?:output-mark (\w+)(?:/(\w+))?)?"
_DATE = r"(-|\d+-\d\d-\d\d \d\d:\d\d:\d\d)"
_LIMIT = r"(\(INF\)|\d+)"

BOTH = _table(
    (r"proto (\S+) (?:spi (0x[0-9a-f]+)(?:\(\d+\))? )?reqid (\d+)(?:\(\w+\))? mode (\S+)", _identity),
    (rf"(?=mark|output-mark){_MARK}", _marks),
    # since iproute2 6.2 the mode is at the end, and policies have no direction
    (
        r"(crypto|packet) offload parameters: dev (\S+)(?: dir (in|out))?(?: mode (crypto|packet))?",
        _offload,
    ),
    (r"if_id (\w+)", _if_id),
    (r"security context (.*)", _context),
    (r"lifetime (?:config|current):", _nothing),
    (rf"limit: soft {_LIMIT} ?\((?:bytes|packets)\), hard {_LIMIT} ?\((bytes|packets)\)", _limit),
    (r"expire (add|use): soft (\d+) ?\(sec\), hard (\d+) ?\(sec\)", _expire),
    (r"(\d+) ?\(bytes\), (\d+) ?\(packets\)", _used),
    (rf"add {_DATE} use {_DATE}", _times),
)
STATE = _table(
    (
        r"replay-window (\d+)(?: seq (0x\d+))?(?: flag ?(.*?)(?:extra_flag (.*?))?)? ?(?:\(0x[01]+\))?",
        _window,
    ),
    (r"(auth|auth-trunc|aead|enc|comp) (\S+) ?(.*)", _algorithm),
    (r"encap type (\S+) sport (\d+) dport (\d+) addr (\S+)", _encap),
    (r"coa (\S+)", _coa),
    (rf"lastused {_DATE}", _lastused),
    (r"anti-replay context: seq (\w+), oseq (\w+), bitmap (\w+)", _replay),
    (r"anti-replay esn context:", _nothing),
    (r"seq-hi (\w+), seq (\w+), oseq-hi (\w+), oseq (\w+)", _replay_esn),
    (r"replay_window (\d+), bitmap-length (\d+)", _esn_size),
    (r"[0-9a-f]{8}(?: [0-9a-f]{8})*", _bitmap),
    (r"tfcpad (\d+)", _tfcpad),
    (r"dir (in|out)", _dir),
    (r"pcpu-num (\d+)", _pcpu),
    (rf"iptfs-opts((?: dont-frag| (?:{'|'.join(IPTFS)}) \d+)*)", _iptfs),
    (r"sel (.*)", _selector),
    (r"stats:", _nothing),
    (r"replay-window (\d+) replay (\d+) failed (\d+)", _stats),
)
POLICY = _table(
    (
        r"(dir|socket) (\S+)(?: action (\S+))?(?: index (\d+))? priority (\d+)(?: ptype (\S+))?"
        r"(?: share (\S+))?(?: flag ?(.*?))? ?(?:\(0x[01]+\))?",
        _policy,
    ),
    (r"tmpl src (\S+) dst (\S+)", _tmpl),
    (r"level (required|use)(?: share (\S+))?", _level),
    (r"enc-mask (\w+) auth-mask (\w+) comp-mask (\w+)", _masks),
)
