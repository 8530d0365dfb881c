"""Routes and rules as `ip` shows them and as the kernel follows them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from attach.hosts import Host, join
from uxfrm.attach.attachment import OWN_MARK, AttachmentError
from uxfrm.attach.routes import PRIORITY, PROTOCOL, TABLE, Routes, add_address, remove
from uxfrm.attach.tun import Tun, open_tun

pytestmark = pytest.mark.linux

PREFIXES = ["10.2.0.0/24", "0.0.0.0/0", "2001:db8:2::/48"]


@pytest.fixture
def host() -> Iterator[Host]:
    made, other = Host(), Host()
    join(made, other)
    made.run("ip route add default via 192.0.2.2")
    made.run("ip -6 route add default via 2001:db8::2")
    yield made
    made.close()
    other.close()


def opened(host: Host) -> Tun:
    with host.inside():
        tun = open_tun("uxfrm0")[0]
        add_address(tun.ifindex, "10.1.0.1/24")
        add_address(tun.ifindex, "10.1.0.1/24")
        return tun


def shown(host: Host) -> list[str]:
    """Our rules and routes, as `ip` prints them; `pref` and such are the kernel's own words."""
    lines: list[str] = []
    for family in ("-4", "-6"):
        lines += [r for r in host.run(f"ip {family} -N rule").splitlines() if f"proto {PROTOCOL}" in r]
        lines += host.run(
            f"ip {family} -N route show table {TABLE} proto {PROTOCOL}", check=False
        ).splitlines()
    return sorted(line.strip() for line in lines)


def way(host: Host, destination: str, mark: int = 0) -> str:
    """The device that the kernel sends to, or its refusal."""
    told = host.run(f"ip -j route get {destination} mark {mark}", check=False)
    return json.loads(told)[0].get("dev", "?") if told else "unreachable"


def test_only_what_is_not_ours_goes_into_the_device(host: Host) -> None:
    tun = opened(host)
    with host.inside():
        Routes(tun.ifindex).replace(PREFIXES[::2])
    assert way(host, "10.2.0.9") == way(host, "2001:db8:2::9") == "uxfrm0"
    assert way(host, "10.3.0.9") == way(host, "10.2.0.9", OWN_MARK) == "eth0"
    assert way(host, "2001:db8:2::9", OWN_MARK | 1) == "eth0"
    tun.close()


def test_a_change_makes_what_doing_all_of_it_would(host: Host) -> None:
    tun = opened(host)
    with host.inside():
        routes = Routes(tun.ifindex)
        routes.replace(["10.2.0.0/24", "10.3.0.0/24"], closed=["10.4.0.0/24"])
        sources = {
            "10.3.0.0/24": "10.1.0.1",
            "10.4.0.0/24": None,
            "2001:db8:2::/48": None,
            "10.5.0.1/32": None,
        }
        routes.change(sources, ["10.2.0.0/24"])
    changed = shown(host)
    assert way(host, "10.4.0.9") == way(host, "2001:db8:2::9") == "uxfrm0"
    assert way(host, "10.2.0.9") == "eth0"
    with host.inside():
        Routes(tun.ifindex).replace(sources, sources={"10.3.0.0/24": "10.1.0.1"})
        assert shown(host) == changed
        routes.change({}, sources)
    assert shown(host) == []
    tun.close()


def test_what_was_protected_is_unreachable_once_the_device_is_gone(host: Host) -> None:
    """As after a crash: nobody took anything away."""
    tun = opened(host)
    with host.inside():
        Routes(tun.ifindex).replace(PREFIXES)
    tun.close()
    for destination in ("10.2.0.9", "203.0.113.9", "2001:db8:2::9"):
        assert way(host, destination) == "unreachable"
    assert way(host, "203.0.113.9", OWN_MARK) == "eth0"
    again = opened(host)
    with host.inside():
        Routes(again.ifindex).replace(PREFIXES)
    assert way(host, "10.2.0.9") == "uxfrm0"
    again.close()
    with host.inside():
        assert remove() == 5
        assert remove() == 0
    assert shown(host) == []
    assert way(host, "10.2.0.9") == "eth0"


def test_set_is_exact_and_idempotent(host: Host) -> None:
    tun = opened(host)
    with host.inside():
        routes = Routes(tun.ifindex)
        routes.replace(PREFIXES)
        first = shown(host)
        routes.replace(PREFIXES[::-1])
        assert shown(host) == first
        assert len(first) == 8  # 2 rules, 3 prefixes with 2 routes each
        routes.replace(PREFIXES[:1], source="10.1.0.1")
        assert len(shown(host)) == 3
        assert any("src 10.1.0.1" in line for line in shown(host))
        assert any(line.startswith(f"{PRIORITY}:") and "not from all fwmark" in line for line in shown(host))
        routes.close()
        assert shown(host) == []
        routes.close()
    tun.close()


def test_others_rules_and_routes_stay(host: Host) -> None:
    tun = opened(host)
    host.run(f"ip rule add pref 100 table {TABLE}")
    host.run(f"ip route add 10.7.0.0/24 via 192.0.2.2 table {TABLE}")
    with host.inside():
        routes = Routes(tun.ifindex)
        routes.replace(PREFIXES)
        routes.close()
        remove()
    assert "10.7.0.0/24" in host.run(f"ip route show table {TABLE}")
    assert "100:" in host.run("ip rule")
    tun.close()


def test_what_the_kernel_refuses_says_so(host: Host) -> None:
    with host.inside():
        with pytest.raises(AttachmentError):
            Routes(4711).replace(PREFIXES[:1])
        with pytest.raises(ValueError):
            Routes(1).replace(["10.2.0.1/24"])
        remove()
