"""What the kernel must turn away itself where only what is routed into a device comes before uxfrm.

Packets in clear that a policy wants protected (in, fwd) reach the host without passing the device. Rules of
nftables, made of the same policies, drop them. They stay when the process dies; `remove` takes them away.

Rule 1: a packet that came out of the device, or over the loopback device, was judged already.
Rule 2: IPsec itself and IKE pass: sockets receive them, which have policies of their own.
Rule 3: the first policy that matches decides. Neighbours in that order that decide alike are one band, a
        chain in which order does not matter: policies that compare the same bits are one rule there, and a
        set of values (a hash table). So a packet costs the kinds of policies, not their number, and one
        policy more is one element more.
"""

from __future__ import annotations

import subprocess
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator, Sequence, Set
from ipaddress import ip_network
from itertools import groupby
from typing import NamedTuple

from uxfrm.attach.attachment import AttachmentError
from uxfrm.model.address import AF_INET, Address, masked, show
from uxfrm.model.policy import Action, Direction, PolicyConfig, PolicyType
from uxfrm.model.selector import Selector
from uxfrm.tables.policies import Policy

TABLE = "uxfrm"
_IN_TABLE = f"inet {TABLE}"
_HOOKS = {Direction.IN: "input", Direction.FWD: "forward"}
_WITH_PORTS = (6, 17, 33, 132, 136)
_WITH_TYPES = (1, 58)
_PASS = (
    "meta l4proto { 50, 51, 108 } accept",
    "udp dport { 500, 4500 } accept",
    # IPv6 comes here in fragments. Without the first, of which the ports are seen, they never make a packet.
    "meta nfproto ipv6 meta l4proto 17 frag frag-off != 0 accept",
)
_AT_ONCE = 256

_LAST = 1 << 32

Order = tuple[int, int, int | str]


class Shape(NamedTuple):
    """What policies of one kind compare: after `head`, `keys` with the elements of a set of these `types`."""

    head: str
    keys: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


class Entry(NamedTuple):
    """What one policy says of what comes in clear. A lower `order` decides first."""

    direction: Direction
    order: Order
    verdict: str
    shape: Shape
    value: str


def entries(policy: Policy) -> Iterator[Entry]:
    """A policy's entry; policies of xfrm interfaces say nothing of other devices."""
    config = policy.config
    if config.direction not in _HOOKS or config.if_id:
        return
    dropped = config.action == Action.BLOCK or any(not t.optional for t in config.templates)
    if not dropped and config.type == PolicyType.SUB:
        return  # the main policies have their say as well
    shape, value = _compared(config)
    order = (-int(config.type), config.priority, policy.position)
    yield Entry(Direction(config.direction), order, "drop" if dropped else "accept", shape, value)


def shut(prefix: str) -> Iterator[Entry]:
    """What is said of a prefix from which nothing in clear may come unless some policy lets it."""
    network = ip_network(prefix)
    four = network.version == 4
    fields = list(_address(four, "saddr", network.network_address.packed, network.prefixlen))
    shape, value = _shaped([_family(four)], fields)
    for direction in _HOOKS:
        yield Entry(direction, (_LAST, 0, prefix), "drop", shape, value)


def _compared(config: PolicyConfig) -> tuple[Shape, str]:
    """What a policy compares, and with which value."""
    selector, mark = config.selector, config.mark
    four = selector.family == AF_INET
    head = [_family(four)]
    fields = [
        *_address(four, "saddr", selector.saddr, selector.prefixlen_s),
        *_address(four, "daddr", selector.daddr, selector.prefixlen_d),
    ]
    if selector.ifindex:
        fields.append(("meta iif", "iface_index", str(selector.ifindex)))
    if mark.m:
        fields.append((f"meta mark & {mark.m:#x}", "mark", f"{mark.v & mark.m:#x}"))
    if selector.proto:
        fields.append(("meta l4proto", "inet_proto", str(selector.proto)))
    if selector.sport_mask or selector.dport_mask:
        if selector.proto in (0, *_WITH_PORTS):
            head += [] if selector.proto else [f"meta l4proto {{ {', '.join(map(str, _WITH_PORTS))} }}"]
            fields += _port("th sport", selector.sport, selector.sport_mask)
            fields += _port("th dport", selector.dport, selector.dport_mask)
        else:
            head += _raw_ports(selector)
    return _shaped(head, fields)


def _family(four: bool) -> str:
    return f"meta nfproto {'ipv4' if four else 'ipv6'}"


def _shaped(head: list[str], fields: list[tuple[str, str, str]]) -> tuple[Shape, str]:
    keys, types, values = zip(*fields, strict=True) if fields else ((), (), ())
    return Shape(" ".join(head), tuple(keys), tuple(types)), " . ".join(values)


def _address(four: bool, name: str, address: Address, length: int) -> Iterator[tuple[str, str, str]]:
    ip, kind, bits = ("ip", "ipv4_addr", 32) if four else ("ip6", "ipv6_addr", 128)
    if length:
        mask = f" & {show(masked(bytes([255] * (bits // 8)), length))}" if length < bits else ""
        yield f"{ip} {name}{mask}", kind, show(masked(address, length))


def _port(name: str, port: int, mask: int) -> Iterator[tuple[str, str, str]]:
    if mask:
        yield f"{name} & {mask:#x}" if mask != 0xFFFF else name, "inet_service", str(port & mask)


def _raw_ports(selector: Selector) -> Iterator[str]:
    """Of ICMP the type is where the source port would be, the code where the other."""
    width = 8 if selector.proto in _WITH_TYPES else 16
    ports = ((0, selector.sport, selector.sport_mask), (16, selector.dport, selector.dport_mask))
    for at, port, mask in ports:
        kept = mask & ((1 << width) - 1)
        if kept:
            yield f"@th,{at * width // 16},{width} & {kept:#x} == {port & kept:#x}"


class _Band:
    """A chain of entries with one verdict: their orders, and by shape how many have each value."""

    def __init__(self, name: str, verdict: str) -> None:
        self.name = name
        self.verdict = verdict
        self.orders: list[Order] = []
        self.sets: dict[Shape, str] = {}
        self.values: dict[Shape, dict[str, int]] = {}

    def forget_empty(self) -> None:
        """Forget shapes that no entry has."""
        for shape in [shape for shape, values in self.values.items() if not values]:
            del self.values[shape], self.sets[shape]

    def rules(self) -> Iterator[str]:
        """A rule for each shape."""
        for shape, name in self.sets.items():
            matched = [" . ".join(shape.keys), f"@{name}"] if shape.keys else []
            yield f"add rule {_IN_TABLE} {self.name} {' '.join([shape.head, *matched, self.verdict])}"


class _Unfit(Exception):
    """What can't be done by changing what is there, such as an entry that needs a band of its own."""


class Screen:
    """The rules for entries, beside a device. Raises AttachmentError."""

    def __init__(self, device: str) -> None:
        self._device = device
        self._bands: dict[Direction, list[_Band]] = {direction: [] for direction in _HOOKS}
        self._where: dict[Entry, _Band] = {}
        self._blocked: list[Direction] | None = None  # as the rules have it, if there are any
        self._sets = 0

    def close(self, prefixes: Iterable[str]) -> None:
        """Have nothing in clear come from prefixes, from the first change on until `shut` of them is gone."""
        band = _Band("closed", "drop")
        self._where |= {entry: band for prefix in prefixes for entry in shut(prefix)}

    def change(self, came: Sequence[Entry], gone: Sequence[Entry], blocked: Iterable[Direction]) -> None:
        """Have entries that came and not those that are gone, all or none.

        `blocked`: the directions whose default is to block.
        """
        wanted = sorted(blocked)
        if wanted == self._blocked and not came and not gone:
            return
        try:
            if wanted != self._blocked:
                raise _Unfit
            install(self._changed(came, gone))
        except (_Unfit, AttachmentError):
            # Or somebody else has changed the table. Whatever it is, making it anew decides.
            self._install_all((self._where.keys() - set(gone)).union(came), wanted)

    # -- all of it

    def _install_all(self, wanted: Set[Entry], blocked: list[Direction]) -> None:
        self._blocked = None
        self._bands = {direction: [] for direction in _HOOKS}
        self._where, self._sets = {}, 0
        for direction in _HOOKS:
            mine = sorted(entry for entry in wanted if entry.direction == direction)
            for verdict, band in groupby(mine, key=lambda entry: entry.verdict):
                self._file_all(direction, verdict, band)
        install("\n".join([*self._text(blocked), ""]))
        self._blocked = blocked

    def _file_all(self, direction: Direction, verdict: str, mine: Iterable[Entry]) -> None:
        bands = self._bands[direction]
        band = _Band(f"{_HOOKS[direction]}-{len(bands)}", verdict)
        bands.append(band)
        for entry in mine:
            self._file(entry, band)

    def _text(self, blocked: Iterable[Direction]) -> Iterator[str]:
        yield from (f"add table {_IN_TABLE}", f"delete table {_IN_TABLE}", f"add table {_IN_TABLE}")
        for direction, hook in _HOOKS.items():
            for band in self._bands[direction]:
                yield f"add chain {_IN_TABLE} {band.name}"
                yield from (_new_set(name, shape) for shape, name in band.sets.items() if shape.keys)
                for shape, name in band.sets.items():
                    yield from _elements("add", name, band.values[shape] if shape.keys else ())
                yield from band.rules()
            head = f"type filter hook {hook} priority filter - 5; policy accept;"
            yield f"add chain {_IN_TABLE} {hook} {{ {head} }}"
            rules = [f'iifname {{ "{self._device}", "lo" }} accept']
            rules += _PASS if direction == Direction.IN else ()
            rules += [f"jump {band.name}" for band in self._bands[direction]]
            rules += ["drop"] if direction in blocked else []
            yield from (f"add rule {_IN_TABLE} {hook} {rule}" for rule in rules)

    # -- some of it

    def _changed(self, came: Iterable[Entry], gone: Iterable[Entry]) -> str:
        """What makes of the rules that are there those that are wanted. Raises _Unfit."""
        touched: dict[tuple[str, Shape, str], tuple[_Band, bool]] = {}
        shapes: dict[str, tuple[_Band, dict[Shape, str]]] = {}

        def note(band: _Band, entry: Entry) -> None:
            there = entry.value in band.values.get(entry.shape, {})
            touched.setdefault((band.name, entry.shape, entry.value), (band, there))
            shapes.setdefault(band.name, (band, dict(band.sets)))

        for entry in gone:
            band = self._where.pop(entry)
            note(band, entry)
            self._unfile(entry, band)
        for entry in came:
            band = self._band_for(entry)
            note(band, entry)
            self._file(entry, band)
        for band, _ in shapes.values():
            band.forget_empty()
        return "\n".join([*_reshaped(shapes.values()), *_revalued(touched), *_tidied(shapes.values()), ""])

    def _band_for(self, entry: Entry) -> _Band:
        """The band in which an entry is in its place: that which it falls into, or begins. Raises _Unfit."""
        bands = [band for band in self._bands[entry.direction] if band.orders]
        at = bisect_right([band.orders[0] for band in bands], entry.order) - 1
        for band in bands[max(at, 0) : at + 1]:
            if band.verdict == entry.verdict:
                return band
            if entry.order < band.orders[-1]:
                raise _Unfit
        for band in bands[at + 1 : at + 2]:
            if band.verdict == entry.verdict:
                return band
        raise _Unfit

    def _file(self, entry: Entry, band: _Band) -> None:
        insort(band.orders, entry.order)
        self._where[entry] = band
        if entry.shape not in band.sets:
            self._sets += 1
            band.sets[entry.shape], band.values[entry.shape] = f"set-{self._sets}", {}
        values = band.values[entry.shape]
        values[entry.value] = values.get(entry.value, 0) + 1

    @staticmethod
    def _unfile(entry: Entry, band: _Band) -> None:
        del band.orders[bisect_right(band.orders, entry.order) - 1]
        values = band.values[entry.shape]
        values[entry.value] -= 1
        if not values[entry.value]:
            del values[entry.value]


_Reshaped = Iterable[tuple[_Band, dict[Shape, str]]]


def _reshaped(shapes: _Reshaped) -> Iterator[str]:
    """New sets, and the rules of bands that have other shapes now."""
    for band, before in shapes:
        if band.sets != before:
            for shape, name in band.sets.items():
                if shape.keys and shape not in before:
                    yield _new_set(name, shape)
            yield f"flush chain {_IN_TABLE} {band.name}"
            yield from band.rules()


def _revalued(touched: dict[tuple[str, Shape, str], tuple[_Band, bool]]) -> Iterator[str]:
    """Elements of sets that go on, and of new ones."""
    changes: dict[tuple[str, str], list[str]] = {}
    for (_, shape, value), (band, there) in touched.items():
        values = band.values.get(shape)
        if shape.keys and values is not None and (value in values) != there:
            verb = "delete" if there else "add"
            changes.setdefault((verb, band.sets[shape]), []).append(value)
    for (verb, name), found in changes.items():
        yield from _elements(verb, name, found)


def _tidied(shapes: _Reshaped) -> Iterator[str]:
    """Sets that no rule looks into any more."""
    for band, before in shapes:
        for shape, name in before.items():
            if shape.keys and shape not in band.sets:
                yield f"delete set {_IN_TABLE} {name}"


def _new_set(name: str, shape: Shape) -> str:
    return f"add set {_IN_TABLE} {name} {{ type {' . '.join(shape.types)}; }}"


def _elements(verb: str, name: str, values: Iterable[str]) -> Iterator[str]:
    listed = list(values)
    for start in range(0, len(listed), _AT_ONCE):
        yield f"{verb} element {_IN_TABLE} {name} {{ {', '.join(listed[start : start + _AT_ONCE])} }}"


# -- the program


def install(rules: str) -> None:
    """Put rules in force, all or none. Raises AttachmentError."""
    try:
        done = subprocess.run(["nft", "-f", "-"], input=rules.encode(), capture_output=True, check=False)
    except FileNotFoundError:
        raise AttachmentError("nft is not there: install nftables") from None
    if done.returncode:
        words = done.stderr.decode(errors="replace").splitlines()[:1]
        raise AttachmentError(f"nft: {' '.join(words)}")


def remove() -> None:
    """Take the rules away, whoever made them. Raises AttachmentError."""
    install(f"add table inet {TABLE}\ndelete table inet {TABLE}\n")
