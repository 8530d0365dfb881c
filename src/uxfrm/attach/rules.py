"""The rules that take packets out of the kernel's path into NFQUEUEs, in chains of our own.

    rules = Rules(Plan(queue=4500, out=matches))
    rules.install()          # idempotent: a second time, or with another plan, it replaces what is there
    remove()                 # everything of uxfrm's, whoever made it; a crashed one's too

Where, and to which queue (the plan's first, and the three behind it):

    raw PREROUTING       ESP, AH, IPComp (and UDP ports, "too big") to this host    +0  Namespace.input
    mangle INPUT,FORWARD what came without protection and a policy may ask for it   +1  Namespace.input
    mangle POSTROUTING   what leaves, sent here or forwarded, that a policy may ask for  +2  Namespace.output
                         TCP of this host's own, in super-packets                        +3  Namespace.output

Rule 1: no --queue-bypass: without a listener, packets that match are dropped (but "too big" of ICMP).
Rule 2: matches may be wider than the policies, never narrower: who gets the packets decides.
Rule 3: never asked about: the loopback device, packets with uxfrm's own mark, IKE of this host's own.

A decrypted packet that is forwarded passes POSTROUTING too, as in Linux. Conntrack sees protected flows in
the direction in which they arrive only, since what leaves is taken before it is confirmed.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from zlib import crc32

from uxfrm.attach.attachment import CHECKED_MARK, OWN_MARK, AttachmentError
from uxfrm.model.address import masked, show
from uxfrm.model.selector import Selector

QUEUES = 4
DECRYPT, CHECK, PROTECT, PROTECT_TCP = range(QUEUES)
"""Behind the plan's first queue."""

_DECRYPT, _CHECK, _PROTECT = "uxfrm-decrypt", "uxfrm-check", "uxfrm-protect"
_HOOKS: dict[str, dict[str, tuple[str, ...]]] = {
    "raw": {_DECRYPT: ("PREROUTING",)},
    "mangle": {_CHECK: ("INPUT", "FORWARD"), _PROTECT: ("POSTROUTING",)},
}
_KEPT = {_PROTECT: 0, _CHECK: 1}
_IN_CHAIN = 32
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_BACKENDS = ("nft", "legacy")
_IPSEC = ("esp", "ah", "ipcomp")
_TOO_BIG: dict[int, str] = {
    socket.AF_INET: "-p icmp -m icmp --icmp-type 3/4",
    socket.AF_INET6: "-p ipv6-icmp -m icmp6 --icmpv6-type 2",
}
_PORTS = (6, 17)  # of other protocols the ports are left to the policies
_WAIT_S = "5"
_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Match:
    """What a rule matches; None and 0 match all. Prefixes as `ip_network` spells them."""

    family: int = 0
    source: str | None = None
    destination: str | None = None
    proto: int = 0
    sport: int = 0
    dport: int = 0

    @classmethod
    def of(cls, selector: Selector) -> Match:
        """Everything that a policy's selector can match, and perhaps more: ports with masks are left out."""
        source = _prefix(selector.saddr, selector.prefixlen_s)
        target = _prefix(selector.daddr, selector.prefixlen_d)
        ports = selector.proto in _PORTS
        sport = selector.sport if ports and selector.sport_mask == 0xFFFF else 0
        dport = selector.dport if ports and selector.dport_mask == 0xFFFF else 0
        return cls(selector.family, source, target, selector.proto, sport, dport)

    def words(self) -> str:
        """As iptables takes it."""
        said = [("-s", self.source), ("-d", self.destination), ("-p", self.proto)]
        said += [("--sport", self.sport), ("--dport", self.dport)]
        return "".join(f"{option} {value} " for option, value in said if value)


ALL = (Match(),)


class Change(NamedTuple):
    """Matches that came to be asked about, that are gone, and that are closed no longer."""

    came: Sequence[Match] = ()
    gone: Sequence[Match] = ()
    opened: Sequence[Match] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which queue is the first, and what goes into each.

    `out`: what may have to be protected; `into`: what may have to arrive protected. `udp_ports`: of ESP in
    UDP that is to be decrypted in place, none where a socket gets it. `closed_out` and `closed_into`: what is
    dropped, though nobody need be asked about it.
    """

    queue: int = 4500
    out: tuple[Match, ...] = ALL
    into: tuple[Match, ...] = ALL
    udp_ports: tuple[int, ...] = ()
    own_mark: int = OWN_MARK
    closed_out: tuple[Match, ...] = ()
    closed_into: tuple[Match, ...] = ()

    def decrypt(self, family: int) -> list[str]:
        """The rules of `uxfrm-decrypt`."""
        # What routers say of our own packets. Without a listener it may pass: `check` is still to come.
        too_big = f"! -i lo {_TOO_BIG[family]} -m addrtype --dst-type LOCAL {self._queue(DECRYPT)}"
        rules = [f"{too_big} --queue-bypass"]
        rules += [f"-p {proto} -m addrtype --dst-type LOCAL {self._queue(DECRYPT)}" for proto in _IPSEC]
        rules += [
            f"-p udp -m addrtype --dst-type LOCAL -m udp --dport {port} {self._queue(DECRYPT)}"
            for port in self.udp_ports
        ]
        return rules

    def never(self, chain: str) -> list[str]:
        """What a chain does not ask about, whatever matches."""
        if chain == _CHECK:
            return [
                "-i lo -j RETURN",
                f"-m mark --mark {CHECKED_MARK:#x}/{CHECKED_MARK:#x} -j RETURN",
                "-p udp -m addrtype --dst-type LOCAL -m multiport --dports 500,4500 -j RETURN",
            ]
        return [
            "-o lo -j RETURN",
            f"-m mark --mark {self.own_mark:#x}/{self.own_mark:#x} -j RETURN",
            "-p udp -m addrtype --src-type LOCAL -m multiport --sports 500,4500 -j RETURN",
        ]

    def asks(self, chain: str, matches: Iterable[Match]) -> list[str]:
        """The rules for matches."""
        if chain == _CHECK:
            return [f"{match.words()}{self._queue(CHECK)}" for match in matches]
        return [rule for match in matches for rule in self._protects(match)]

    def _protects(self, match: Match) -> Iterator[str]:
        if match.proto in (0, 6):
            tcp = Match(match.family, match.source, match.destination, 6, match.sport, match.dport)
            yield f"{tcp.words()}-m addrtype --src-type LOCAL {self._queue(PROTECT_TCP)}"
        yield f"{match.words()}{self._queue(PROTECT)}"

    def _queue(self, number: int) -> str:
        return f"-j NFQUEUE --queue-num {self.queue + number}"


class _Few:
    """Matches with rules, in one chain, or in many behind it that hold few each, always the same ones.

    So one match more or less changes one of them.
    """

    def __init__(
        self, chain: str, matches: Sequence[Match], rules: Callable[[Iterable[Match]], list[str]]
    ) -> None:
        self._chain = chain
        self._rules = rules
        self._size = len(matches)
        self._parts: list[dict[Match, None]] = [{} for _ in range(_parts(len(matches)))]
        for match in matches:
            self._parts[self._number(match)][match] = None

    @property
    def inline(self) -> bool:
        """Whether they are in one chain."""
        return len(self._parts) == 1

    def called(self) -> list[str]:
        """What the chain has of them: the rules, or jumps to them."""
        return self._rules(self._parts[0]) if self.inline else [f"-j {name}" for name in self.behind()]

    def behind(self) -> dict[str, list[str]]:
        """The chains behind it."""
        if self.inline:
            return {}
        return {self._name(number): self._rules(part) for number, part in enumerate(self._parts)}

    def change(self, came: Sequence[Match], gone: Iterable[Match]) -> list[str] | None:
        """What iptables-restore makes of it in the chains behind; None where another number is better."""
        less = set()
        for match in gone:
            number = self._number(match)
            if match in self._parts[number]:
                del self._parts[number][match]
                less.add(number)
                self._size -= 1
        for match in came:
            self._parts[self._number(match)][match] = None
        self._size += len(came)
        if not len(self._parts) // 2 <= _parts(self._size) <= len(self._parts) * 2:
            return None
        if self.inline:
            return []
        lines = _filled({self._name(number): self._rules(self._parts[number]) for number in less})
        for match in came:
            if (number := self._number(match)) not in less:
                lines += [f"-A {self._name(number)} {rule}" for rule in self._rules([match])]
        return lines

    def _number(self, match: Match) -> int:
        return crc32(match.words().encode()) % len(self._parts)

    def _name(self, number: int) -> str:
        return f"{self._chain}-{number}"


class _Asked:
    """What one chain of one family asks about, and what it drops then."""

    def __init__(
        self, chain: str, family: int, plan: Plan, matches: Iterable[Match], closed: Iterable[Match]
    ) -> None:
        self._chain = chain
        self._family = family
        self._never = plan.never(chain)
        self._asked = _Few(chain, _of(family, matches), lambda some: plan.asks(chain, some))
        self._shut = _Few(f"{chain}-shut", _of(family, closed), _drops)

    def chains(self) -> dict[str, list[str]]:
        """All rules by chain."""
        return self._first() | self._asked.behind() | self._shut.behind()

    def _first(self) -> dict[str, list[str]]:
        return {self._chain: [*self._never, *self._asked.called(), *self._shut.called()]}

    def change(self, change: Change) -> list[str] | None:
        """What iptables-restore makes of a change; None where all is better made anew."""
        every = {Match(), Match(self._family)}
        came, gone, opened = ([m for m in some if m.family in (0, self._family)] for some in change)
        if not every.isdisjoint([*came, *gone, *opened]):
            return None
        asked, shut = self._asked.change(came, gone), self._shut.change([], opened)
        if asked is None or shut is None:
            return None
        within = (self._asked.inline and (came or gone)) or (self._shut.inline and opened)
        return [*(_filled(self._first()) if within else []), *asked, *shut]


def _drops(matches: Iterable[Match]) -> list[str]:
    return [f"{match.words()}-j DROP" for match in matches]


def _parts(size: int) -> int:
    """How many chains for so many matches."""
    return 1 << (size // _IN_CHAIN).bit_length()


def _filled(chains: Mapping[str, Iterable[str]]) -> list[str]:
    """Lines of iptables-restore --noflush that empty chains, making them if need be, and fill them."""
    lines = [f":{chain} - [0:0]" for chain in chains]
    return lines + [f"-A {chain} {rule}" for chain, rules in chains.items() for rule in rules]


class Rules:
    """A plan's rules, in this network namespace."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._backend: str | None = None
        self._asked: dict[int, tuple[_Asked, _Asked]] = {}

    def install(self, plan: Plan | None = None) -> None:
        """Have exactly these rules, each table's at once; no packet is let by meanwhile.

        Raises AttachmentError, ValueError for matches that iptables does not take.
        """
        self._plan = plan = plan or self._plan
        if self._backend is None:
            self._backend = _usable()
        self._asked = {}
        for family in _FAMILIES:
            protect = _Asked(_PROTECT, family, plan, plan.out, plan.closed_out)
            check = _Asked(_CHECK, family, plan, plan.into, plan.closed_into)
            mangle = check.chains() | protect.chains()
            for table, chains in (("raw", {_DECRYPT: plan.decrypt(family)}), ("mangle", mangle)):
                there = _saved(family, self._backend, table)
                _restore(family, self._backend, table, _script(table, chains, there))
            self._asked[family] = protect, check
        for other in _BACKENDS:
            if other != self._backend:
                _remove(other)

    def change(self, out: Change, into: Change, plan: Callable[[], Plan]) -> None:
        """After `install`: ask about what came as well, about what is gone no longer; let by what opened.

        `plan` gives the whole plan where all is to be made anew; otherwise nothing is asked of the kernel
        about other rules. Raises AttachmentError.
        """
        try:
            anew = not all(self._change(family, out, into) for family in self._asked)
        except AttachmentError:
            anew = True  # somebody else may have changed them
        if anew:
            self.install(plan())

    def _change(self, family: int, out: Change, into: Change) -> bool:
        """The same for one family; False where all is to be made anew."""
        protect, check = self._asked[family]
        parts = [protect.change(out), check.change(into)]
        lines = [line for part in parts for line in part or ()]
        if lines and self._backend is not None:
            _restore(family, self._backend, "mangle", "\n".join(["*mangle", *lines, "COMMIT", ""]))
        return None not in parts

    @property
    def by_raw_socket(self) -> bool:
        """Whether changing them takes CAP_NET_RAW besides CAP_NET_ADMIN, once they are installed."""
        return self._backend == "legacy"

    def close(self) -> None:
        """Take the rules away: packets pass as they would without uxfrm."""
        remove()


def left() -> tuple[tuple[Match, ...], tuple[Match, ...]]:
    """What the rules that are there keep from leaving, and from coming in, unprotected.

    Those of a run that crashed or stopped; in either backend.
    """
    found: tuple[list[Match], list[Match]] = ([], [])
    for backend in _BACKENDS:
        for family in _FAMILIES:
            with contextlib.suppress(AttachmentError):
                for line in _saved(family, backend, "mangle"):
                    words = line.split()
                    # Rules for TCP alone stand before others that match the same.
                    chain = "-".join(words[1].split("-")[:2]) if words[:1] == ["-A"] else ""
                    kept = chain in _KEPT and "addrtype" not in words
                    if kept and ("NFQUEUE" in words or "DROP" in words):
                        found[_KEPT[chain]].append(_read(family, words))
    return tuple(dict.fromkeys(found[0])), tuple(dict.fromkeys(found[1]))


def _read(family: int, words: list[str]) -> Match:
    """A rule's match, as iptables-save prints it."""
    said = dict(itertools.pairwise(words))
    proto = said.get("-p", "0")
    number = int(proto) if proto.isdecimal() else socket.getprotobyname(proto)
    ports = (int(said.get(option, "0")) for option in ("--sport", "--dport"))
    return Match(family, said.get("-s"), said.get("-d"), number, *ports)


def remove() -> int:
    """Take all chains of uxfrm's away, and the jumps to them; return how many chains went."""
    return sum(_remove(backend) for backend in _BACKENDS)


def _remove(backend: str) -> int:
    gone = 0
    for family in _FAMILIES:
        for table in _HOOKS:
            with contextlib.suppress(AttachmentError):  # a backend or table that is not there
                there = _saved(family, backend, table)
                chains = _chains_of(there)
                if chains:
                    _restore(family, backend, table, _undo(table, chains, there))
                    gone += len(chains)
    return gone


def _script(table: str, chains: dict[str, list[str]], there: list[str]) -> str:
    """What iptables-restore --noflush makes of a table: naming a chain empties it."""
    lines = [f"*{table}", *_filled(chains)]
    for chain, hooks in _HOOKS[table].items():
        lines += [f"-I {hook} -j {chain}" for hook in hooks if f"-A {hook} -j {chain}" not in there]
    needless = [chain for chain in _chains_of(there) if chain not in chains]
    return "\n".join([*lines, *_away(needless), "COMMIT", ""])


def _undo(table: str, chains: Sequence[str], there: list[str]) -> str:
    """What takes chains away: jumps, then contents, then themselves."""
    jumps = [line for line in there if line.startswith("-A ") and " -j uxfrm-" in line]
    lines = [f"-D {line[3:]}" for line in jumps if not line.startswith("-A uxfrm-")]
    return "\n".join([f"*{table}", *lines, *_away(chains), "COMMIT", ""])


def _chains_of(there: Iterable[str]) -> list[str]:
    """The names of uxfrm's chains in a saved table."""
    return [line[1:].split()[0] for line in there if line.startswith(":uxfrm-")]


def _away(chains: Sequence[str]) -> list[str]:
    return [f"{option} {chain}" for option in ("-F", "-X") for chain in chains]


def _of(family: int, matches: Iterable[Match]) -> list[Match]:
    """The matches of a family, each once; one that matches all makes the others needless."""
    mine = list(dict.fromkeys(match for match in matches if match.family in (0, family)))
    return [Match()] if Match() in mine or Match(family) in mine else mine


def _prefix(address: bytes, length: int) -> str | None:
    if not length:
        return None
    return f"{show(masked(address, length))}/{length}"


# -- the programs


def _program(family: int, backend: str, what: str) -> str:
    """The path of iptables-nft-save and the like. Raises AttachmentError."""
    name = f"{'iptables' if family == socket.AF_INET else 'ip6tables'}-{backend}-{what}"
    path = shutil.which(name, path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin")
    if path is None:
        raise AttachmentError(f"nfqueue: there is no {name}: install iptables")
    return path


def _run(command: list[str], given: str = "") -> str:
    try:
        done = subprocess.run(
            command, input=given, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AttachmentError(f"nfqueue: {command[0]}: {error}") from error
    if done.returncode:
        said = " ".join(done.stderr.split())
        lacking = "rules need CAP_NET_ADMIN" if "ermission denied" in said else said
        raise AttachmentError(f"nfqueue: {os.path.basename(command[0])}: {lacking}")
    return done.stdout


def _saved(family: int, backend: str, table: str) -> list[str]:
    """A table's chains and rules, as iptables-save prints them."""
    return _run([_program(family, backend, "save"), "-t", table]).splitlines()


def _restore(family: int, backend: str, table: str, script: str) -> None:
    wait = ["-w", _WAIT_S] if backend == "legacy" else []
    _run([_program(family, backend, "restore"), "--noflush", *wait, "-T", table], script)


def _usable() -> str:
    """The first backend that takes a rule with NFQUEUE; tried and taken back."""
    words: list[str] = []
    for backend in _BACKENDS:
        try:
            script = "*mangle\n:uxfrm-try - [0:0]\n-A uxfrm-try -j NFQUEUE --queue-num 0\nCOMMIT\n"
            _restore(socket.AF_INET, backend, "mangle", script)
            _restore(socket.AF_INET, backend, "mangle", "*mangle\n-F uxfrm-try\n-X uxfrm-try\nCOMMIT\n")
        except AttachmentError as error:
            words.append(str(error))
        else:
            return backend
    raise AttachmentError("; ".join(words))
