"""Routes and rules that lead traffic into a device, and nowhere once the device is gone.

    routes = Routes(tun.ifindex)
    routes.replace(["10.2.0.0/24", "2001:db8:2::/48"])    # exactly these, whatever was there before
    routes.close()

A rule before that of the main table sends what does not carry uxfrm's own mark to a table of its own. There
each prefix has two routes: over the device, and behind it `unreachable`. When the process dies, the device
and its routes go with it, and what was to be protected finds the second: nothing leaves in clear. `remove`
takes everything away that uxfrm made, this process or one that crashed: it is known by its routing protocol
number.
"""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from uxfrm.attach.attachment import OWN_MARK, AttachmentError

PROTOCOL = 217
"""What `ip route` and `ip rule` show as `proto` of all that is made here."""

TABLE = 4500
PRIORITY = 215  # before 220, where strongSwan's rule is

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_UNICAST, _UNREACHABLE = 1, 7
_INVERT = 2
_NOWHERE = 255  # of a route to be deleted: whatever its scope is
_CLOSED: Mapping[str, Any] = {"type": "unreachable", "priority": 1 << 20}


@dataclass(frozen=True, slots=True)
class _Route:
    """What a route of ours says. `device` 0: unreachable."""

    family: int
    destination: str
    device: int
    source: str | None


def _closed(prefix: str) -> _Route:
    """The route behind that over the device."""
    net = ipaddress.ip_network(prefix)
    return _Route(socket.AF_INET if net.version == 4 else socket.AF_INET6, str(net), 0, None)


@contextlib.contextmanager
def _socket() -> Iterator[Any]:
    """A NETLINK_ROUTE socket; what the kernel refuses becomes an AttachmentError."""
    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        lacking = "needs CAP_NET_ADMIN" if error.code == 1 else str(error)
        raise AttachmentError(f"routes: {lacking}") from error


def add_address(ifindex: int, address: str) -> None:
    """`ip addr replace ADDRESS/LENGTH dev ...`: a second time changes nothing. Raises AttachmentError."""
    interface = ipaddress.ip_interface(address)
    with _socket() as ip:
        ip.addr("replace", index=ifindex, address=str(interface.ip), prefixlen=interface.network.prefixlen)


class Routes:
    """Routes of prefixes into device `ifindex`, for all packets without `mark`; see the module."""

    def __init__(
        self, ifindex: int, mark: int = OWN_MARK, table: int = TABLE, priority: int = PRIORITY
    ) -> None:
        self._ifindex = ifindex
        self._mark = mark
        self._table = table
        self._priority = priority
        self._there: dict[str, set[_Route]] = {}
        self._ruled: dict[int, bool] = {}

    def replace(
        self,
        prefixes: Iterable[str],
        source: str | None = None,
        sources: Mapping[str, str] = MappingProxyType({}),
        closed: Iterable[str] = (),
    ) -> None:
        """Make the routes exactly these; `source`: the address that the host's own packets get.

        `sources` names others for some prefixes; `closed` prefixes are unreachable and nothing else.
        1. new routes  2. the rule  3. old routes go. At no moment does a prefix of both have no route.
        Raises AttachmentError, ValueError for what is no prefix.
        """
        wanted = self._wanted(prefixes, source, sources) | {_closed(prefix) for prefix in closed}
        with _socket() as ip:
            there = {_route(message) for message in _ours(ip.get_routes, self._table)}
            for route in wanted - there:
                self._add(ip, route)
            self._there, self._ruled = {}, {}
            for route in wanted:
                self._there.setdefault(route.destination, set()).add(route)
            self._have_rules(ip)
            for message in _ours(ip.get_routes, self._table):
                if _route(message) not in wanted:
                    _delete(ip, message)

    def change(self, added: Mapping[str, str | None], gone: Iterable[str]) -> None:
        """After `replace`: lead more prefixes into the device, or with other sources, and others no longer.

        Nothing is asked of the kernel about the other routes. What was closed and is added is open when it is
        gone. Prefixes as `ip_network` spells them. Raises AttachmentError.
        """
        with _socket() as ip:
            for prefix, source in added.items():
                routes = self._wanted((prefix,), source, {})
                for route in routes - self._there.get(prefix, set()):
                    self._add(ip, route)
                self._there[prefix] = routes
            self._have_rules(ip)
            for prefix in gone:
                for route in self._there.pop(prefix, ()):
                    self._delete(ip, route)
            self._have_rules(ip)

    def close(self) -> None:
        """Take routes and rules away: traffic goes as it would without uxfrm. Raises AttachmentError."""
        self.replace(())

    def left(self) -> list[str]:
        """The prefixes that have routes, made by this process or by one before it. Raises AttachmentError."""
        with _socket() as ip:
            there = {_route(message) for message in _ours(ip.get_routes, self._table)}
        return sorted({route.destination for route in there})

    def _wanted(self, prefixes: Iterable[str], source: str | None, sources: Mapping[str, str]) -> set[_Route]:
        found = set()
        for prefix in prefixes:
            closed = _closed(prefix)
            chosen = sources.get(prefix, source)
            version = 4 if closed.family == socket.AF_INET else 6
            same = chosen is not None and ipaddress.ip_address(chosen).version == version
            found |= {closed, replace(closed, device=self._ifindex, source=chosen if same else None)}
        return found

    def _add(self, ip: Any, route: _Route) -> None:
        where = {"family": route.family, "dst": route.destination, "table": self._table, "proto": PROTOCOL}
        if not route.device:
            # IPv6 wants a device for every route; the kernel takes the loopback device.
            ip.route("replace", **where, **_CLOSED)
            return
        prefsrc = {} if route.source is None else {"prefsrc": route.source}
        ip.route("replace", **where, oif=route.device, scope=_scope(route.family), priority=1, **prefsrc)

    def _have_rules(self, ip: Any) -> None:
        """Have the rule of each family that has routes, and of no other."""
        for family, mark in zip(_FAMILIES, (".", ":"), strict=True):
            wanted = any(mark in prefix for prefix in self._there)
            if self._ruled.get(family) != wanted:
                self._rule(ip, family, wanted)
                self._ruled[family] = wanted

    def _delete(self, ip: Any, route: _Route) -> None:
        where = {"family": route.family, "dst": route.destination, "table": self._table, "proto": PROTOCOL}
        kind = {"oif": route.device, "priority": 1} if route.device else _CLOSED
        with _gone_already():
            ip.route("del", **where, **kind, scope=_NOWHERE)

    def _rule(self, ip: Any, family: int, wanted: bool) -> None:
        """Have the rule once, or not at all."""
        mine = [rule for rule in _ours(ip.get_rules, self._table, family) if self._is(rule)]
        for rule in _ours(ip.get_rules, self._table, family):
            if not wanted or rule not in mine[:1]:
                _delete_rule(ip, rule)
        if wanted and not mine:
            ip.rule("add", **self._as_rule(family))

    def _as_rule(self, family: int) -> dict[str, Any]:
        rule: dict[str, Any] = {"family": family, "priority": self._priority, "table": self._table}
        return rule | {
            "protocol": PROTOCOL, "fwmark": self._mark, "fwmask": self._mark, "flags": _INVERT,
        }  # fmt: skip

    def _is(self, rule: Any) -> bool:
        got = (rule.get_attr("FRA_PRIORITY"), rule.get_attr("FRA_FWMARK"), rule.get_attr("FRA_FWMASK"))
        return got == (self._priority, self._mark, self._mark) and bool(rule["flags"] & _INVERT)


def remove() -> int:
    """Take away all that uxfrm made in this network namespace; return how many routes and rules went.

    Raises AttachmentError.
    """
    gone = 0
    with _socket() as ip:
        for family in _FAMILIES:
            for rule in _ours(ip.get_rules, None, family):
                _delete_rule(ip, rule)
                gone += 1
        for route in _ours(ip.get_routes, None):
            _delete(ip, route)
            gone += 1
    return gone


def _scope(family: int) -> int:
    return 253 if family == socket.AF_INET else 0  # link, global


def _ours(get: Any, table: int | None, family: int | None = None) -> list[Any]:
    """Routes or rules of ours, of one table and family or of all."""
    messages: list[Any] = []
    for one in _FAMILIES if family is None else (family,):
        messages += [m for m in get(family=one) if _protocol(m) == PROTOCOL]
    return [m for m in messages if table is None or _table(m) == table]


def _protocol(message: Any) -> int:
    said = message.get_attr("FRA_PROTOCOL")
    return int(message.get("proto", said or 0))


def _table(message: Any) -> int:
    return int(message.get_attr("RTA_TABLE") or message.get_attr("FRA_TABLE") or message["table"])


def _route(message: Any) -> _Route:
    family = int(message["family"])
    every = "0.0.0.0" if family == socket.AF_INET else "::"
    destination = f"{message.get_attr('RTA_DST') or every}/{message['dst_len']}"
    if message["type"] == _UNREACHABLE:
        return _Route(family, destination, 0, None)
    return _Route(
        family, destination, int(message.get_attr("RTA_OIF") or -1), message.get_attr("RTA_PREFSRC")
    )


def _delete(ip: Any, message: Any) -> None:
    route = _route(message)
    where = {"family": route.family, "dst": route.destination, "table": _table(message), "proto": PROTOCOL}
    kind: dict[str, Any] = {"scope": message["scope"]}
    kind |= {"type": "unreachable"} if not route.device else {"oif": route.device}
    metric = message.get_attr("RTA_PRIORITY")
    with _gone_already():
        ip.route("del", **where, **kind, **({} if metric is None else {"priority": metric}))


def _delete_rule(ip: Any, message: Any) -> None:
    names = ("PRIORITY", "FWMARK", "FWMASK", "PROTOCOL")
    rule = {name.lower(): message.get_attr(f"FRA_{name}") for name in names}
    given = {name: value for name, value in rule.items() if value is not None}
    with _gone_already():
        ip.rule(
            "del",
            family=int(message["family"]),
            table=_table(message),
            flags=message["flags"] & _INVERT,
            **given,
        )


@contextlib.contextmanager
def _gone_already() -> Iterator[None]:
    """Let what went by itself be gone."""
    try:
        yield
    except NetlinkError as error:
        if error.code not in (2, 3):  # ENOENT, ESRCH
            raise
