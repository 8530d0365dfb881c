"""Sequence numbers: windows, their ends, aevents, and what lets another host take a state over."""

from __future__ import annotations

from linux.hosts import Host, sealed_by
from linux.scenarios import ENDS, ENDS_IN, POLICY, POLICY_IN, scenario, state
from uxfrm.model.address import parse
from uxfrm.model.aevent import AE_ETHR, AE_LVAL, AE_RTHR, AE_RVAL, Aevent, AeventUpdate
from uxfrm.model.dump import StateId
from uxfrm.model.lifetime import LifetimeCurrent
from uxfrm.model.state import ReplayEsn, ReplayLegacy

OUT_1, IN_1 = (StateId(parse(f"10.0.0.{host}"), 1, 50, 2) for host in (1, 2))
TO_GUEST = POLICY_IN.replace("dir in", "dir out")


def shown(told: Aevent) -> str:
    current = told.state.current
    used = f"{current.bytes} bytes, {current.packets} packets"
    return f"flags {told.flags:#x}, {told.state.replay}, {used}, {told.maxdiff} packets, {told.maxage}"


@scenario("XfrmInStateSeqError")
def what_comes_again_or_late(host: Host) -> None:
    peer = sealed_by(state(1, ends=ENDS_IN), TO_GUEST)
    host.ip(state(1, "replay-window 8", ENDS_IN), POLICY_IN)
    packets = peer(*(b"%d" % i for i in range(30)))
    host.receive([packets[0], packets[2], packets[1], packets[2], packets[0]])
    host.receive([packets[20], packets[12], packets[13], packets[13], packets[5]])
    host.receive([packets[29], packets[29], *packets[20:]])
    host.tables()


@scenario("XfrmInStateSeqError")
def a_window_of_128_with_64_bits(host: Host) -> None:
    esn = "flag esn replay-window 128 replay-seq 0xfffffff0 replay-oseq 0xfffffff0"
    peer = sealed_by(state(1, esn, ENDS_IN), TO_GUEST)
    packets = peer(*(b"%d" % i for i in range(200)))
    host.ip(state(1, esn, ENDS_IN), POLICY_IN)
    host.receive([packets[0], packets[40], packets[0], packets[7], packets[39]])
    host.receive([packets[199], packets[71], packets[72], packets[72], packets[40]])


@scenario("XfrmInStateProtoError")
def what_is_forged_moves_no_window(host: Host) -> None:
    peer = sealed_by(state(1, ends=ENDS_IN), TO_GUEST)
    packets = peer(*(b"%d" % i for i in range(60)))
    host.ip(state(1, "replay-window 32", ENDS_IN), POLICY_IN)
    forged = packets[50][:-1] + bytes([packets[50][-1] ^ 1])
    host.receive([packets[0], forged, packets[1], packets[50], packets[2]])


@scenario("XfrmOutStateSeqError")
def numbers_end(host: Host) -> None:
    host.listen()
    host.ip(state(1, "replay-window 32 replay-oseq 0xfffffffd"), POLICY)
    host.send(4)
    host.send()
    host.tables()
    host.ip(state(2))
    host.send()


@scenario("number 0")
def numbers_may_wrap(host: Host) -> None:
    host.listen()
    host.ip(state(1, "replay-window 32 replay-oseq 0xfffffffd extra-flag oseq-may-wrap"), POLICY)
    host.send(5)


@scenario("number 0")
def numbers_of_64_bits_go_on(host: Host) -> None:
    host.ip(state(1, "flag esn replay-window 64 replay-oseq 0xfffffffd"), POLICY)
    host.send(5)


@scenario("replay update")
def every_third_packet_is_told(host: Host) -> None:
    host.sysctl("net.core.xfrm_aevent_etime", 0)
    host.sysctl("net.core.xfrm_aevent_rseqth", 3)
    host.listen(aevents=True)
    host.ip(state(1, "replay-window 32"), POLICY)
    for _ in range(7):
        host.send()
    host.send(7)


@scenario("replay update")
def what_arrives_is_told(host: Host) -> None:
    host.sysctl("net.core.xfrm_aevent_etime", 0)
    host.listen(aevents=True)
    peer = sealed_by(state(1, ends=ENDS_IN), TO_GUEST)
    host.ip(state(1, "replay-window 32", ENDS_IN), POLICY_IN)
    packets = peer(*(b"%d" % i for i in range(9)))
    for packet in packets[:3]:
        host.receive([packet])
    host.receive([packets[8]])
    host.receive(packets[3:7])


@scenario("timer expired")
def time_tells_of_what_the_threshold_did_not(host: Host) -> None:
    host.sysctl("net.core.xfrm_aevent_rseqth", 100)
    host.listen(aevents=True)
    host.ip(state(1, "replay-window 32"), POLICY)
    host.send(2)
    host.wait(1)
    host.wait(1)
    host.send()
    host.wait(2)


@scenario("policy updated", "number 1001")
def a_state_is_taken_over(host: Host) -> None:
    host.listen(aevents=True)
    peer = sealed_by(state(1, "replay-oseq 200", ENDS_IN), TO_GUEST)
    host.ip(state(1, "replay-window 32"), POLICY, state(1, "replay-window 32", ENDS_IN), POLICY_IN)
    moved = AeventUpdate(replay=ReplayLegacy(1000, 0, 0), current=LifetimeCurrent(5000, 60, 0, 0))
    host.ask(lambda: host.client.update_aevent(OUT_1, moved))
    host.send()
    host.ask(lambda: host.client.update_aevent(IN_1, AeventUpdate(replay=ReplayLegacy(0, 203, 0b101))))
    host.receive(peer(*(b"%d" % i for i in range(5))))
    host.ask(lambda: shown(host.client.get_aevent(IN_1, AE_RVAL | AE_LVAL | AE_RTHR | AE_ETHR)))


@scenario("policy updated")
def a_wide_state_is_taken_over(host: Host) -> None:
    host.listen(aevents=True)
    host.sysctl("net.core.xfrm_aevent_etime", 0)
    esn = "flag esn replay-window 64"
    peer = sealed_by(state(1, f"{esn} replay-oseq 0xfffffffe replay-oseq-hi 2", ENDS_IN), TO_GUEST)
    host.ip(state(1, esn, ENDS_IN), POLICY_IN)
    seen = ReplayEsn(2, 64, 0, 0xFFFFFFFE, 0, 2, (1, 0))
    host.ask(lambda: host.client.update_aevent(IN_1, AeventUpdate(replay_esn=seen)))
    host.receive(peer(*(b"%d" % i for i in range(4))))
    host.ask(lambda: host.client.update_aevent(IN_1, AeventUpdate(replay_esn=ReplayEsn(1, 32))))


@scenario("policy updated")
def thresholds_are_changed(host: Host) -> None:
    host.sysctl("net.core.xfrm_aevent_etime", 0)
    host.listen(aevents=True)
    host.ip(state(1, "replay-window 32"), POLICY)
    host.send()
    host.ask(lambda: host.client.update_aevent(OUT_1, AeventUpdate(maxdiff=4)))
    for _ in range(6):
        host.send()
    host.ask(lambda: host.client.update_aevent(OUT_1, AeventUpdate(maxdiff=0)))
    host.send(6)


@scenario("refused: ESRCH", "refused: EINVAL")
def aevents_of_no_state(host: Host) -> None:
    host.ip(state(1, "replay-window 32"))
    host.ask(lambda: host.client.get_aevent(IN_1))
    host.ask(lambda: host.client.update_aevent(IN_1, AeventUpdate(maxdiff=4)))
    host.ask(lambda: host.client.update_aevent(OUT_1, AeventUpdate()))
    host.ip(f"xfrm state delete {ENDS} spi 1")
