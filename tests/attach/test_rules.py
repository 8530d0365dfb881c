"""Rules as iptables-save shows them, in both backends: exact, idempotent, found again, and gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from attach.hosts import Host
from uxfrm.attach import rules
from uxfrm.attach.attachment import AttachmentError
from uxfrm.attach.rules import Change, Match, Plan, Rules, left, remove
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.selector import Selector

pytestmark = pytest.mark.linux

PROGRAMS = ["iptables-nft", "iptables-legacy", "ip6tables-nft", "ip6tables-legacy"]


@pytest.fixture
def host() -> Iterator[Host]:
    made = Host()
    yield made
    made.close()


def shown(host: Host, program: str) -> list[str]:
    """The chains and rules of raw and mangle that name uxfrm."""
    found: list[str] = []
    for table in ("raw", "mangle"):
        found += [line for line in host.run(f"{program}-save -t {table}").splitlines() if "uxfrm" in line]
    return found


def install(host: Host, plan: Plan) -> Rules:
    with host.inside():
        made = Rules(plan)
        made.install()
        return made


@pytest.fixture(params=["nft", "legacy"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The backend that is found first."""
    order = (request.param, *(b for b in ("nft", "legacy") if b != request.param))
    monkeypatch.setattr(rules, "_BACKENDS", order)
    return str(request.param)


def test_both_families_and_only_one_backend(host: Host, backend: str) -> None:
    install(host, Plan(queue=77))
    for family in ("iptables", "ip6tables"):
        mine = shown(host, f"{family}-{backend}")
        assert len([line for line in mine if line.startswith(":")]) == 3
        assert "-A PREROUTING -j uxfrm-decrypt" in mine
        assert [line for line in mine if "NFQUEUE" in line][-2:] == [
            "-A uxfrm-protect -p tcp -m addrtype --src-type LOCAL -j NFQUEUE --queue-num 80",
            "-A uxfrm-protect -j NFQUEUE --queue-num 79",
        ]
        assert [line.split()[6] for line in mine if "bypass" in line] in (["icmp"], ["ipv6-icmp"])
    for program in PROGRAMS:
        if backend not in program:
            assert shown(host, program) == []


def test_twice_is_once_and_another_plan_replaces(host: Host, backend: str) -> None:
    del backend
    made = install(host, Plan())
    first = {program: shown(host, program) for program in PROGRAMS}
    install(host, Plan())
    assert {program: shown(host, program) for program in PROGRAMS} == first
    with host.inside():
        made.install(Plan(out=(Match(AF_INET, None, "10.2.0.0/24"),), udp_ports=(4500,)))
    lines = [line for program in PROGRAMS for line in shown(host, program)]
    assert [line for line in lines if "10.2.0.0/24" in line and "tcp" not in line] == [
        "-A uxfrm-protect -d 10.2.0.0/24 -j NFQUEUE --queue-num 4502"
    ]
    assert "-A uxfrm-protect -j NFQUEUE --queue-num 4502" not in lines
    assert len([line for line in lines if "--dport 4500" in line]) == 2


def test_many_matches_are_changed_one_by_one(host: Host, backend: str) -> None:
    """As if they had been installed so at once; in chains behind the chains, and back in these when few."""
    everything = [Match(AF_INET, None, f"10.2.{n}.0/24") for n in range(100)]
    everything += [Match(AF_INET6, f"2001:db8:{n:x}::/48", None, 17) for n in range(1, 60)]
    made = install(host, Plan(out=tuple(everything[3:]), into=tuple(everything)))

    def change(came: list[Match], gone: list[Match], now: list[Match]) -> set[Match]:
        plan = Plan(out=tuple(now), into=tuple(everything))
        with host.inside():
            made.change(Change(came, gone), Change(), lambda: plan)
            out, into = left()
        assert set(into) == set(everything)
        lines = shown(host, f"iptables-{backend}") + shown(host, f"ip6tables-{backend}")
        asked = [line for line in lines if "--queue-num 4502" in line]
        assert len(asked) == len(out)
        return set(out)

    now = everything[:3] + everything[7:-5]
    assert change(everything[:3], everything[3:7] + everything[-5:], now) == set(now)
    assert change([], everything[7:-5], everything[:3]) == set(everything[:3])
    assert not any("uxfrm-protect-" in line for line in shown(host, f"iptables-{backend}"))
    with host.inside():
        assert remove() >= 6
    assert [line for program in PROGRAMS for line in shown(host, program)] == []


@pytest.mark.parametrize("count", [5, 100])
def test_what_is_closed_opens_match_by_match(host: Host, backend: str, count: int) -> None:
    closed = [Match(AF_INET, None, f"10.2.{n}.0/24") for n in range(count)]
    made = install(host, Plan(out=(), into=(), closed_out=tuple(closed), closed_into=tuple(closed)))
    with host.inside():
        asked = [closed[1], Match(AF_INET, None, "10.9.0.0/16")]
        made.change(Change(asked, [], [closed[1]]), Change([], [], [closed[2]]), Plan)
        out, into = left()
    assert set(out) == {*closed, asked[1]}
    assert set(into) == {*closed} - {closed[2]}
    lines = [line for line in shown(host, f"iptables-{backend}") if "10.2.1.0/24" in line]
    assert [("NFQUEUE" in line, "DROP" in line) for line in lines if "tcp" not in line].count(
        (False, True)
    ) == 1
    if count == 5:
        mine = [line for line in shown(host, f"iptables-{backend}") if line.startswith("-A uxfrm-protect")]
        assert mine.index(next(line for line in mine if "10.9" in line)) < mine.index(
            next(line for line in mine if "DROP" in line)
        )


def test_a_match_of_all_makes_the_others_needless(host: Host) -> None:
    one, every = Match(AF_INET, None, "10.2.0.0/24"), Match(AF_INET)
    made = install(host, Plan(out=(one,)))
    for came, gone, now in (([every], [], [one, every]), ([], [every], [one])):
        with host.inside():
            made.change(Change(came, gone), Change(), lambda now=now: Plan(out=tuple(now)))
            assert left()[0] == ((every,) if every in now else (one,))


def test_the_rules_of_others_stay(host: Host, backend: str) -> None:
    host.run(f"iptables-{backend} -t mangle -A POSTROUTING -p tcp -j MARK --set-mark 5")
    host.run(f"iptables-{backend} -t raw -N other")
    made = install(host, Plan())
    with host.inside():
        made.close()
    saved = host.run(f"iptables-{backend}-save")
    assert "-A POSTROUTING -p tcp -j MARK --set-xmark 0x5/0xffffffff" in saved
    assert ":other" in saved
    assert "uxfrm" not in saved


def test_what_a_crash_left_is_found_in_either_backend(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in the one backend, then in the other: the first's are gone. Then all."""
    monkeypatch.setattr(rules, "_BACKENDS", ("legacy", "nft"))
    install(host, Plan())
    monkeypatch.setattr(rules, "_BACKENDS", ("nft", "legacy"))
    install(host, Plan())
    assert shown(host, "iptables-legacy") == shown(host, "ip6tables-legacy") == []
    host.run("iptables-legacy -t mangle -N uxfrm-protect")
    host.run("iptables-legacy -t mangle -A FORWARD -j uxfrm-protect")
    with host.inside():
        assert remove() == 7
        assert remove() == 0
    assert [line for program in PROGRAMS for line in shown(host, program)] == []


def test_what_was_left_is_read_back_and_can_stay_closed(host: Host) -> None:
    """The matches of an earlier run become drops, which a later one reads as well."""
    out = (Match(AF_INET, "10.1.0.0/16", "10.2.0.0/24", 17, 0, 53), Match(AF_INET6, None, "2001:db8::/32", 6))
    into = (Match(AF_INET, "10.2.0.0/24"), Match(AF_INET6, "2001:db8::/32", None, 58))
    install(host, Plan(out=out, into=into))
    with host.inside():
        assert left() == (out, into)
        Rules(Plan(out=(), into=(), closed_out=out, closed_into=into)).install()
        assert left() == (out, into)
    lines = shown(host, "iptables-nft") + shown(host, "ip6tables-nft")
    assert len([line for line in lines if "-j DROP" in line]) == 4
    with host.inside():
        remove()
        assert left() == ((), ())


def test_a_selector_is_never_matched_more_narrowly() -> None:
    narrow = Selector(
        AF_INET, parse("10.2.0.0"), parse("10.1.0.1"), 16, 32, proto=17, dport=53, dport_mask=0xFFFF
    )
    assert Match.of(narrow) == Match(AF_INET, "10.1.0.1/32", "10.2.0.0/16", 17, 0, 53)
    masked = Selector(AF_INET6, parse("2001:db8::"), bytes(16), 32, 0, proto=6, sport=8, sport_mask=0xFFF8)
    assert Match.of(masked) == Match(AF_INET6, None, "2001:db8::/32", 6)
    ping = Selector(AF_INET, parse("10.2.0.0"), bytes(4), 16, 0, proto=1, sport=8, sport_mask=0xFFFF)
    assert Match.of(ping) == Match(AF_INET, None, "10.2.0.0/16", 1)


def test_all_makes_others_needless(host: Host) -> None:
    some = tuple(Match(AF_INET, f"10.{n}.0.0/16") for n in range(5))
    install(host, Plan(out=(*some, Match(AF_INET)), into=some))
    mine = shown(host, "iptables-nft")
    assert not any("10.1.0.0" in line for line in mine if "protect" in line)
    assert len([line for line in mine if "uxfrm-check -s 10." in line]) == 5
    assert len([line for line in shown(host, "ip6tables-nft") if "NFQUEUE" in line]) == 4


def test_many_matches_at_once(host: Host) -> None:
    out = tuple(
        Match(AF_INET6, f"2001:db8:{n:x}::/48", "2001:db8:ffff::1/128", 17, 5000, n + 1) for n in range(1000)
    )
    install(host, Plan(out=out))
    assert len([line for line in shown(host, "ip6tables-nft") if "--sport 5000" in line]) == 1000


def test_what_is_missing_is_said(host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("uxfrm.attach.rules.shutil.which", lambda name, path: None)
    with host.inside(), pytest.raises(AttachmentError, match="install iptables"):
        Rules(Plan()).install()
