"""What key managers change while packets flow: endpoints, ports, marks; and what they ask and count."""

from __future__ import annotations

from linux.hosts import Host, sealed_by
from linux.scenarios import ENDS, ENDS_IN, FLOW, FLOW_IN, GCM, OTHER_ENDS, POLICY, POLICY_IN, scenario, state
from uxfrm.model.address import AF_INET, parse
from uxfrm.model.dump import StateId
from uxfrm.model.migrate import KmAddress, MigrateEntry, Migration
from uxfrm.model.policy import Direction
from uxfrm.model.selector import Selector
from uxfrm.model.state import Encap
from uxfrm.model.template import Mode

TO_GUEST = POLICY_IN.replace("dir in", "dir out")
A, B, C = parse("10.0.0.1"), parse("10.0.0.2"), parse("10.2.0.2")
OUTBOUND = Selector(AF_INET, parse("10.1.0.1"), parse("10.1.0.2"), 32, 32)
INBOUND = Selector(AF_INET, parse("10.1.0.2"), parse("10.1.0.1"), 32, 32)


def outwards(reqid: int = 7, **more: object) -> Migration:
    """Move the host's own end from 10.0.0.2 to 10.2.0.2."""
    entry = MigrateEntry(A, B, A, C, 50, Mode.TUNNEL, reqid, AF_INET, AF_INET)
    return Migration(OUTBOUND, Direction.OUT, (entry,), **more)  # type: ignore[arg-type]


@scenario("SPI 0x1, number 3")
def a_tunnel_moves_its_near_end(host: Host) -> None:
    host.listen()
    host.ip(state(1, "replay-window 32"), POLICY)
    host.send(2)
    host.ask(lambda: host.client.migrate(outwards(kmaddress=KmAddress(C, A, 0, AF_INET))))
    host.send(2)
    host.tables()
    host.ask(lambda: host.client.migrate(outwards()))


@scenario("XfrmInNoStates 1")
def a_tunnel_moves_for_what_arrives(host: Host) -> None:
    host.listen()
    before, after = (sealed_by(state(1, ends=ends), TO_GUEST.replace(ENDS_IN, ends)) for ends in (
        ENDS_IN, ENDS_IN.replace("10.0.0.2", "10.2.0.2")))  # fmt: skip
    host.ip(state(1, "replay-window 32", ENDS_IN), POLICY_IN)
    host.receive(before(b"1", b"2"))
    entry = MigrateEntry(B, A, C, A, 50, Mode.TUNNEL, 7, AF_INET, AF_INET)
    host.ask(lambda: host.client.migrate(Migration(INBOUND, Direction.IN, (entry,))))
    host.receive(before(b"3"))
    host.receive(after(b"4", b"5", b"6"))


@scenario("ports (4500, 4501)")
def a_move_behind_a_nat(host: Host) -> None:
    host.listen()
    host.ip(state(1), POLICY)
    host.send()
    encap = Encap(2, 4500, 4501, bytes(16))
    host.ask(lambda: host.client.migrate(outwards(encap=encap)))
    host.send()


@scenario("refused: ENOENT", "refused: ENODATA")
def moves_of_what_is_not_there(host: Host) -> None:
    host.listen()
    host.ask(lambda: host.client.migrate(outwards()))
    host.ip(POLICY)
    host.ask(lambda: host.client.migrate(outwards(reqid=8)))
    host.tables()
    host.ip(f"xfrm state allocspi {ENDS} reqid 7 mode tunnel min 0x100 max 0x100")
    host.ask(lambda: host.client.migrate(outwards()))


@scenario("ports (4500, 4600)")
def a_nat_gives_another_port(host: Host) -> None:
    host.listen()
    host.ip(state(1, "encap espinudp 4500 4500 0.0.0.0"), POLICY)
    host.send()
    host.ip(state(1, "encap espinudp 4500 4600 0.0.0.0", do="update"))
    host.send()
    host.ip(state(1, do="update"))
    host.send()


@scenario("mark 0x")
def the_output_mark(host: Host) -> None:
    host.listen()
    host.ip(state(1, "output-mark 0x11 mask 0xff"), POLICY)
    host.send(mark=0x300)
    host.ip(state(1, "output-mark 0x22 mask 0xff", do="update"))
    host.send()


@scenario("SAD count 3", "SPD IN  1 OUT 2 FWD 0")
def what_there_is_is_counted(host: Host) -> None:
    host.ip(state(1), state(2), state(1, ends=ENDS_IN), POLICY, POLICY_IN)
    host.ip(f"xfrm policy add {FLOW} dir out mark 1 mask 1")
    host.ip("xfrm state count", "xfrm policy count")
    host.ip(f"xfrm state delete {ENDS} spi 2", f"xfrm state delete {OTHER_ENDS} spi 2")
    host.ip("xfrm state count")


@scenario("thresholds: local 16 remote 24")
def thresholds_change_no_answer(host: Host) -> None:
    """The policies that are found are the same with any; Linux sorts them anew."""
    wide = "xfrm policy add src 10.1.0.0/16 dst 10.1.0.0/16 dir out priority 5 action block"
    host.ip(state(1), f"{POLICY} priority 3", wide)
    host.send()
    host.ip("xfrm policy set hthresh4 16 24 hthresh6 64 64")
    host.ask(lambda: "thresholds: local {} remote {}".format(*host.client.get_thresholds()[0]))
    host.send()
    host.ip(f"xfrm policy delete {FLOW} dir out")
    host.send()
    host.ip("xfrm policy set hthresh4 0 0")
    host.send()


@scenario("Deleted")
def states_deleted_by_what_they_have_in_common(host: Host) -> None:
    host.listen()
    host.ip(state(1), state(2), state(1, ends=ENDS_IN), state(3, ends=OTHER_ENDS))
    host.ip("xfrm state deleteall src 10.0.0.2", "xfrm state deleteall src 10.0.0.2")
    host.ip(f"xfrm state get {ENDS} spi 1", f"xfrm state get {ENDS_IN} spi 1")


@scenario("refused: EINVAL", "refused: ESRCH")
def updates_that_are_refused(host: Host) -> None:
    host.listen()
    host.ip(state(1), state(1, "encap espinudp 4500 4500 0.0.0.0", do="update"), state(9, do="update"))
    host.ip(f"xfrm state update {ENDS} spi 1 reqid 9 mode transport {GCM.replace('0x00', '0xff')}")
    host.tables()


@scenario("XfrmInNoStates 1", "XfrmInStateProtoError 1")
def wrong_keys_and_unknown_states(host: Host) -> None:
    host.listen()
    wrong = sealed_by(state(1, ends=ENDS_IN).replace("0x0001", "0x1101"), TO_GUEST)
    other = sealed_by(state(5, ends=ENDS_IN), TO_GUEST)
    host.ip(state(1, "replay-window 32", ENDS_IN), POLICY_IN)
    host.receive(wrong(b"1"))
    host.receive(other(b"2"))
    host.tables()


@scenario("refused: EPERM", "reqid 0(0x00000000) mode tunnel")
def ipcomp_brings_a_state_with_it(host: Host) -> None:
    """One for all IPComp tunnels between two ends, there until the last of them goes."""
    host.listen()
    ends = "src 10.0.0.1 dst 10.0.0.2 proto comp"
    host.ip(f"xfrm state add {ends} spi 0x100 reqid 7 mode tunnel comp deflate")
    host.ip(f"xfrm state add {ends} spi 0x101 reqid 8 mode tunnel comp deflate")
    host.ip("xfrm state add src 10.2.0.1 dst 10.0.0.2 proto comp spi 0x102 mode tunnel comp deflate")
    host.ip("xfrm state add src 10.2.0.1 dst 10.0.0.2 proto comp spi 0x103 mode transport comp deflate")
    host.tables()
    companion = StateId(B, int.from_bytes(A[:4]), 4, AF_INET, saddr=A)
    host.ask(lambda: host.client.delete_state(companion))
    host.ask(lambda: host.client.flush_states(4))
    host.ip(f"xfrm state delete {ends} spi 0x100", "xfrm state count")
    host.ip(f"xfrm state delete {ends} spi 0x101", "xfrm state count")
    host.tables()
    host.ip("xfrm state flush proto comp", "xfrm state count")


@scenario("application: b'in clear'", "protocol 108")
def what_ipcomp_leaves_alone_passes_too(host: Host) -> None:
    """What does not shrink comes as IP in IP, through the companion."""
    comp, esp = (f"tmpl src {{}} dst {{}} proto {what} reqid 7 mode tunnel" for what in ("comp", "esp"))
    ends = "src 10.0.0.1 dst 10.0.0.2 proto comp"
    line = f"xfrm state add {ends} spi 0x100 reqid 7 mode tunnel comp deflate"
    peer = sealed_by(line, f"xfrm policy add {FLOW_IN} dir out {comp.format('10.0.0.1', '10.0.0.2')}")
    host.ip(line, f"xfrm policy add {FLOW_IN} dir in {comp.format('10.0.0.1', '10.0.0.2')} level use")
    host.receive(peer(b"short"))
    host.receive(peer(bytes(500)))
    host.receive(sealed_by()(b"in clear"))
    host.ip("xfrm state add src 10.0.0.2 dst 10.0.0.1 proto comp spi 0x200 reqid 7 mode tunnel comp deflate")
    host.ip(f"xfrm policy add {FLOW} dir out {comp.format('10.0.0.2', '10.0.0.1')}")
    host.send(size=20)
    host.send(size=900)
    host.ip(f"xfrm policy update {FLOW_IN} dir in {esp.format('10.0.0.1', '10.0.0.2')}")
    host.receive(peer(b"short"))
