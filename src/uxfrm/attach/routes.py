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
import errno
import ipaddress
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from uxfrm.attach.attachment import OWN_MARK, AttachmentError
from uxfrm.attach.rtnetlink import DELROUTE, NEWROUTE, UNREACHABLE, Route, RouteSocket

PROTOCOL = 217
"""What `ip route` and `ip rule` show as `proto` of all that is made here."""

TABLE = 4500
PRIORITY = 215  # before 220, where strongSwan's rule is

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_INVERT = 2
_METRIC, _FALLBACK_METRIC = 1, 1 << 20


def _pair(prefix: str, device: int, source: str | None) -> set[Route]:
    """The route over a device, and the unreachable one behind it; of device 0 the latter alone."""
    net = ipaddress.ip_network(prefix)
    where = net.network_address.packed
    closed = Route(where, net.prefixlen, metric=_FALLBACK_METRIC)
    if not device:
        return {closed}
    own = ipaddress.ip_address(source) if source is not None else None
    packed = own.packed if own is not None and own.version == net.version else None
    return {closed, Route(where, net.prefixlen, device, packed, _METRIC)}


@contextlib.contextmanager
def _socket() -> Iterator[Any]:
    """A NETLINK_ROUTE socket; what the kernel refuses becomes an AttachmentError."""
    try:
        with IPRoute() as ip:
            yield ip
    except NetlinkError as error:
        raise _refused(error.code, str(error)) from error


def _refused(number: int, words: str) -> AttachmentError:
    return AttachmentError(f"routes: {'needs CAP_NET_ADMIN' if number == errno.EPERM else words}")


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
        self._there: dict[str, set[Route]] = {}
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
        self._there = {prefix: _pair(prefix, 0, None) for prefix in closed}
        for prefix in prefixes:
            self._there[prefix] = _pair(prefix, self._ifindex, sources.get(prefix, source))
        self._ruled = {}
        wanted = {route for routes in self._there.values() for route in routes}
        with _socket() as ip:
            before = {_route(message) for message in _ours(ip.get_routes, self._table)}
            self._change(NEWROUTE, wanted - before)
            self._have_rules()
            for message in _ours(ip.get_routes, self._table) if before - wanted else ():
                if _route(message) not in wanted:
                    _delete(ip, message)

    def change(self, added: Mapping[str, str | None], gone: Iterable[str]) -> None:
        """After `replace`: lead more prefixes into the device, or with other sources, and others no longer.

        Nothing is asked of the kernel about the other routes. What was closed and is added is open when it is
        gone. Prefixes as `ip_network` spells them. Raises AttachmentError.
        """
        more = {prefix: _pair(prefix, self._ifindex, source) for prefix, source in added.items()}
        new = {route for prefix, routes in more.items() for route in routes - self._there.get(prefix, set())}
        old = {route for prefix in gone for route in self._there.pop(prefix, ())}
        self._there |= more
        self._change(NEWROUTE, new)
        self._have_rules()
        self._change(DELROUTE, old)

    def close(self) -> None:
        """Take routes and rules away: traffic goes as it would without uxfrm. Raises AttachmentError."""
        self.replace(())

    def left(self) -> list[str]:
        """The prefixes that have routes, made by this process or by one before it. Raises AttachmentError."""
        with _socket() as ip:
            there = {_route(message) for message in _ours(ip.get_routes, self._table)}
        return sorted({f"{ipaddress.ip_address(route.destination)}/{route.length}" for route in there})

    def _change(self, kind: int, routes: Collection[Route]) -> None:
        try:
            asking = RouteSocket()
            try:
                asking.change(kind, list(routes), self._table, PROTOCOL)
            finally:
                asking.close()
        except OSError as error:
            raise _refused(error.errno or 0, str(error)) from error

    def _have_rules(self) -> None:
        """Have the rule of each family that has routes, and of no other."""
        for family, mark in zip(_FAMILIES, (".", ":"), strict=True):
            wanted = any(mark in prefix for prefix in self._there)
            if self._ruled.get(family) != wanted:
                with _socket() as ip:
                    self._rule(ip, family, wanted)
                self._ruled[family] = wanted

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


def _route(message: Any) -> Route:
    every = "0.0.0.0" if int(message["family"]) == socket.AF_INET else "::"
    where = ipaddress.ip_address(message.get_attr("RTA_DST") or every).packed
    metric = int(message.get_attr("RTA_PRIORITY") or 0)
    if message["type"] == UNREACHABLE:
        return Route(where, message["dst_len"], metric=metric)
    source = message.get_attr("RTA_PREFSRC")
    device = int(message.get_attr("RTA_OIF") or -1)
    return Route(where, message["dst_len"], device, source and ipaddress.ip_address(source).packed, metric)


def _delete(ip: Any, message: Any) -> None:
    route = _route(message)
    destination = f"{ipaddress.ip_address(route.destination)}/{route.length}"
    where = {"family": message["family"], "dst": destination, "table": _table(message), "proto": PROTOCOL}
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
