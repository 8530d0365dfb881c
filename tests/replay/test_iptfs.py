"""IP-TFS in a capture: inner packets are told behind the frame that completes them, in both directions."""

from __future__ import annotations

from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from aggfrag import NOW, end, header, ipv4, sealed, send
from replay.test_host import MAC, OURS, THEIRS, play
from uxfrm.explain.report import IN, OUT, Report
from uxfrm.model.outcome import Outcome
from uxfrm.replay.host import Host

LONG, SHORT = ipv4(1, 300), ipv4(2, 60)


def told(reports: list[Report]) -> list[tuple[int, Outcome, bytes | None]]:
    return [(report.frame, report.code, report.inner) for report in reports]


def test_what_a_frame_carried_is_told_behind_it() -> None:
    frames = [sealed(1, header() + LONG[:100]), sealed(2, header(200) + LONG[100:] + SHORT)]
    reports = play(Host(end("in"), MAC), *[(NOW, Ether(dst=OURS, src=THEIRS) / IP(p)) for p in frames])
    assert told(reports) == [
        (1, Outcome.IN_IPTFS_PART, None),
        (2, Outcome.IN_IPTFS, None),
        (2, Outcome.DELIVERED, LONG),
        (2, Outcome.DELIVERED, SHORT),
    ]
    assert {report.source for report in reports} == {"192.0.2.1"}
    assert {report.direction for report in reports} == {IN}


def test_what_waited_is_told_before_the_frame_that_comes_when_its_time_is_over() -> None:
    frames = [(NOW, sealed(1, header() + SHORT)), (NOW, sealed(3, header() + LONG)), (NOW + 5, SHORT)]
    reports = play(Host(end("in"), MAC), *[(at, Ether(dst=OURS, src=THEIRS) / IP(p)) for at, p in frames])
    assert told(reports)[2:5] == [
        (2, Outcome.IN_IPTFS_WAITS, None),
        (3, Outcome.IN_IPTFS, None),
        (3, Outcome.DELIVERED, LONG),
    ]
    assert reports[3].source == "192.0.2.1"
    assert reports[3].seq == 3


def test_what_the_host_sent_is_opened_too() -> None:
    inner = [ipv4(n, size) for n, size in enumerate((60, 3000, 60))]
    frames = send(end("out"), inner)
    host = end("out")
    reports = play(Host(host, MAC), *[(NOW, Ether(dst=THEIRS, src=OURS) / IP(p)) for p in frames])
    assert [report.inner for report in reports if report.inner] == inner
    assert {report.direction for report in reports} == {OUT}
    assert {report.outcome for report in reports if report.inner} == {"sent"}
    assert not any(host.counters())
    assert host.path.iptfs.next_deadline() is None
