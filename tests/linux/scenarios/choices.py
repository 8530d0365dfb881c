"""Which state and which policy a packet gets, and what happens when that changes between two packets."""

from __future__ import annotations

from linux.hosts import Host, sealed_by
from linux.scenarios import (
    ENDS,
    ENDS_IN,
    FLOW,
    FLOW_IN,
    GCM,
    OTHER_ENDS,
    POLICY,
    POLICY_IN,
    TEMPLATE,
    TEMPLATE_IN,
    scenario,
    state,
)
from linux.twin import LINK

TO_GUEST = POLICY_IN.replace("dir in", "dir out")
WITHIN = "src 10.1.0.2 dst 10.1.0.1 proto esp"
WIDE = "xfrm policy add src 10.1.0.0/24 dst 10.1.0.0/24 dir out"


@scenario("SPI 0x2, number 1", "SPI 0x1, number 3")
def the_newest_state_is_used(host: Host) -> None:
    host.ip(state(1), POLICY)
    host.send()
    host.wait(1)
    host.ip(state(2))
    host.send()
    host.ip(f"xfrm state delete {ENDS} spi 2")
    host.send(2)


@scenario("SPI 0x1, number 4", "SPI 0x2, number 1")
def a_dying_state_is_used_where_there_is_no_other(host: Host) -> None:
    host.listen()
    host.ip(state(1, "limit packet-soft 2"), POLICY)
    host.send(4)
    host.wait(1)
    host.ip(state(2))
    host.send(2)
    host.ip(f"xfrm state delete {ENDS} spi 2")
    host.send()


@scenario("XfrmOutNoStates")
def a_states_selector_must_fit(host: Host) -> None:
    host.listen()
    host.ip(POLICY, state(1, "sel src 10.1.0.2 dst 10.1.0.9"))
    host.send()
    host.ip(state(2, "sel src 10.1.0.2 dst 10.1.0.1 proto udp dport 4001"))
    host.send()


@scenario("SPI 0x2, number 1", "XfrmOutNoStates")
def marks_choose(host: Host) -> None:
    host.ip(
        f"{POLICY} mark 1 mask 0xf",
        f"{WIDE} mark 2 mask 0xf priority 10 {TEMPLATE}",
        state(1, "mark 1 mask 0xf"),
        state(2, "mark 2 mask 0x3"),
    )
    host.send(mark=1)
    host.send(mark=2)
    host.send(mark=3)
    host.send(mark=0x12)
    host.ip(f"xfrm state delete {ENDS} spi 2 mark 2 mask 0x3", f"xfrm state delete {ENDS} spi 2 mark 2")
    host.send(mark=2)


@scenario("SPI 0x8, number 1", "XfrmOutNoStates")
def reqids_choose(host: Host) -> None:
    host.ip(f"xfrm state add {ENDS} spi 8 reqid 8 mode tunnel {GCM}", POLICY)
    host.send()
    host.ip(f"xfrm policy update {FLOW} dir out tmpl {ENDS} reqid 8 mode tunnel")
    host.send()
    host.ip(f"xfrm policy update {FLOW} dir out tmpl {ENDS} mode tunnel", state(7))
    host.send()


@scenario("clear", "SPI 0x1, number 1")
def level_use_goes_without(host: Host) -> None:
    host.listen()
    host.ip(
        f"xfrm policy add {FLOW} dir out tmpl {WITHIN} reqid 9 level use",
        f"xfrm policy add src 10.0.0.2 dst 10.0.0.1 dir out tmpl {ENDS} reqid 7 level use",
    )
    host.send(1, LINK)
    host.ip(state(1, mode="transport"))
    host.send(1, LINK)
    host.ip("xfrm state flush")
    host.send(1, LINK)


@scenario("XfrmOutNoStates 1", "SPI 0x3, number 1")
def states_come_and_go_between_packets(host: Host) -> None:
    host.ip(state(1), POLICY)
    host.send(3)
    host.ip(f"xfrm state delete {ENDS} spi 1")
    host.send()
    host.ip(state(1))
    host.send()
    host.ip(state(1, do="update"))
    host.send()
    host.ip("xfrm state flush", state(3))
    host.send(2)


@scenario("XfrmOutPolBlock 1", "SPI 0x1, number 2")
def policies_come_and_go_between_packets(host: Host) -> None:
    host.ip(state(1), f"{POLICY} priority 10")
    host.send()
    host.ip(f"xfrm policy add {FLOW} dir out priority 5 mark 0 mask 1 action block")
    host.send()
    host.ip(f"xfrm policy delete {FLOW} dir out mark 0 mask 1")
    host.send()
    host.ip(f"xfrm policy delete {FLOW} dir out")
    host.send()


@scenario("SPI 0x1, number 1", "SPI 0x2, number 1", "XfrmOutPolBlock")
def a_policy_is_changed_in_place(host: Host) -> None:
    host.listen()
    other = f"tmpl {OTHER_ENDS} reqid 7 mode tunnel"
    host.ip(state(1), state(2, ends=OTHER_ENDS), POLICY)
    host.send()
    host.ip(f"xfrm policy update {FLOW} dir out priority 3 {other}")
    host.send()
    host.ip(f"xfrm policy update {FLOW} dir out action block")
    host.send()
    host.ip(f"xfrm policy update {FLOW} dir out")
    host.send()
    host.ip(f"{POLICY} priority 9")
    host.send()


@scenario("SPI 0x1, number 2")
def of_policies_with_one_priority_the_older_counts(host: Host) -> None:
    host.ip(state(1), f"{WIDE} priority 5 {TEMPLATE}")
    host.ip("xfrm policy add src 10.1.0.0/16 dst 10.1.0.0/16 dir out priority 5 action block")
    host.send(2)
    host.ip("xfrm policy delete src 10.1.0.0/24 dst 10.1.0.0/24 dir out")
    host.send()
    host.ip("xfrm policy update src 10.1.0.0/16 dst 10.1.0.0/16 dir out priority 6 action block")
    host.ip(f"{WIDE} priority 5 {TEMPLATE}")
    host.send()


@scenario("XfrmOutPolBlock", "XfrmInPolBlock")
def narrow_and_wide_and_blocking(host: Host) -> None:
    peer = sealed_by(state(1, ends=ENDS_IN), TO_GUEST)
    host.ip(state(1), f"{POLICY} priority 9", state(1, "replay-window 32", ENDS_IN), POLICY_IN)
    host.ip(f"xfrm policy add {FLOW} proto udp dport 4001 dir out action block priority 0")
    host.send()
    host.ip(f"xfrm policy add {FLOW} proto udp dport 4002 dir out action block priority 0")
    host.ip(f"xfrm policy delete {FLOW} proto udp dport 4001 dir out")
    host.send()
    host.receive(peer(b"let in"))
    host.ip(f"xfrm policy update {FLOW_IN} dir in action block")
    host.receive(peer(b"kept out"))


@scenario("out: block", "XfrmInNoPols")
def what_no_policy_names_is_blocked(host: Host) -> None:
    clear = sealed_by()
    host.listen()
    host.ip("xfrm policy setdefault out block")
    host.send()
    host.send(1, LINK)
    host.receive(clear(b"as ever"))
    host.ip("xfrm policy setdefault in block out accept", "xfrm policy getdefault")
    host.send()
    host.receive(clear(b"kept out"))
    host.ip(f"xfrm policy add {FLOW_IN} dir in")
    host.receive(clear(b"let in"))


@scenario("XfrmInTmplMismatch", "XfrmInNoPols")
def what_comes_must_have_come_as_its_policy_says(host: Host) -> None:
    clear, sealed = sealed_by(), sealed_by(state(1, ends=ENDS_IN), TO_GUEST)
    host.receive(clear(b"no policy"))
    host.ip(state(1, "replay-window 32", ENDS_IN))
    host.receive(sealed(b"more than asked for"))
    host.ip(POLICY_IN)
    host.receive(clear(b"less than asked for"))
    host.receive(sealed(b"as asked for"))
    host.ip(f"xfrm policy update {FLOW_IN} dir in tmpl {ENDS_IN} reqid 8 mode tunnel")
    host.receive(sealed(b"of another request"))
    host.ip(f"xfrm policy update {FLOW_IN} dir in tmpl {ENDS_IN} mode tunnel level use")
    host.receive(sealed(b"if it likes"))
    host.receive(clear(b"or not"))
    host.ip(f"xfrm policy update {FLOW_IN} dir in")
    host.receive(sealed(b"more than asked for"))


@scenario("XfrmInNoStates 1")
def both_states_of_a_rekey_are_received(host: Host) -> None:
    old, new = (sealed_by(state(n, ends=ENDS_IN), TO_GUEST) for n in (1, 2))
    host.ip(state(1, "replay-window 32", ENDS_IN), POLICY_IN)
    host.receive(old(b"1"))
    host.ip(state(2, "replay-window 32", ENDS_IN))
    host.receive([*old(b"2"), *new(b"3"), *old(b"4")])
    host.ip(f"xfrm state delete {ENDS_IN} spi 1")
    host.receive([*old(b"5"), *new(b"6")])


@scenario("refused: EEXIST", "refused: ENOENT")
def policies_by_index(host: Host) -> None:
    host.listen()
    host.ip(f"{POLICY} index 0x101", f"{POLICY} index 0x109", f"xfrm policy add {FLOW_IN} dir in index 0x100")
    host.ip("xfrm policy get dir out index 0x101", "xfrm policy get dir in index 0x101")
    host.ip("xfrm policy delete dir out index 0x101", "xfrm policy delete dir out index 0x101")
    host.ip("xfrm policy deleteall dir in")


@scenario("SPI 0x7, number 3", "XfrmOutPolBlock")
def sub_policies_come_first(host: Host) -> None:
    host.ip(state(7), POLICY, f"xfrm state add {WITHIN} spi 8 reqid 8 mode transport {GCM}")
    host.ip(f"xfrm policy add {FLOW} dir out ptype sub tmpl {WITHIN} reqid 8")
    host.send()
    host.ip(f"xfrm policy update {FLOW} dir out ptype sub action block")
    host.send()
    host.ip(f"xfrm policy update {FLOW} dir out ptype sub")
    host.send()
    host.ip(f"xfrm policy delete {FLOW} dir out ptype sub")
    host.send()


@scenario("Flushed policy", "clear")
def tables_are_flushed_under_traffic(host: Host) -> None:
    host.listen()
    peer = sealed_by(state(1, ends=ENDS_IN), TO_GUEST)
    host.ip(state(1), POLICY, state(1, "replay-window 32", ENDS_IN), POLICY_IN)
    host.send()
    host.receive(peer(b"1"))
    host.ip("xfrm policy flush")
    host.send()
    host.receive(peer(b"2"))
    host.ip("xfrm state flush")
    host.receive(peer(b"3"))
    host.ip("xfrm state flush", "xfrm policy flush")


@scenario("Sock: IN 0 OUT 1", "SPI 0x9")
def a_sockets_own_policy(host: Host) -> None:
    host.listen()
    host.ip(POLICY, state(1))
    host.send()
    host.socket_policy(f"xfrm policy add {FLOW} dir out tmpl {ENDS} reqid 9 mode tunnel")
    host.send()
    host.ip(f"xfrm state add {ENDS} spi 9 reqid 9 mode tunnel {GCM}")
    host.send()
    host.ip("xfrm policy count")
    host.socket_policy(f"xfrm policy add {FLOW} dir out")
    host.send()


@scenario("clear")
def a_router_asks_for_other_policies(host: Host) -> None:
    """Packets for others need policies of direction fwd on their way in, and out."""
    host.forward()
    clear = sealed_by()
    onward = [packet_to_others(packet) for packet in clear(b"1", b"2", b"3", b"4")]
    host.receive(onward[:1])
    others = "src 10.1.0.1 dst 10.2.0.1"
    host.ip(f"xfrm policy add {others} dir in action block")
    host.receive(onward[1:2])
    host.ip(f"xfrm policy add {others} dir fwd {TEMPLATE_IN}")
    host.receive(onward[2:3])
    host.ip(f"xfrm policy update {others} dir fwd", f"xfrm policy add {others} dir out {TEMPLATE}", state(1))
    host.receive(onward[3:])


def packet_to_others(packet: bytes) -> bytes:
    """The same datagram, to 10.2.0.1."""
    from scapy.layers.inet import IP, UDP

    parsed = IP(packet)
    parsed.dst = "10.2.0.1"
    del parsed.chksum, parsed[UDP].chksum
    return bytes(parsed)
