"""IP-TFS sent: what goes on the wire is opened by pyca/cryptography and read after RFC 9347.

No kernel here has IP-TFS. What the RFC leaves to the sender (what is put together, sizes, marks, counters) is
written after Linux's xfrm_iptfs.c.
"""

from __future__ import annotations

import struct

import pytest

from aggfrag import (
    BASIC,
    ENDS,
    NEXT,
    NOW,
    chosen,
    counted,
    end,
    ipv4,
    ipv6,
    opened,
    outcomes,
    receive,
    send,
)  # fmt: skip
from uxfrm.datapath.batch import Batch
from uxfrm.model.outcome import Outcome, Verdict

# IPv4 outer, ESP with AES-GCM-128, 1,500 bytes: ((1500 - 20 - 8 - 8 - 4 - 16) & ~3) - 2.
ROOM = 1442


def payloads(outer: list[bytes]) -> list[tuple[int, bytes]]:
    """Block offset and data of what was sent; numbers and headers are as they must be."""
    found = []
    for number, packet in enumerate(outer, 1):
        seq, next_header, payload = opened(packet)
        assert (seq, next_header, payload[:2]) == (number, NEXT, BASIC)
        found.append((int.from_bytes(payload[2:4]), payload[4:]))
    return found


def test_packets_that_fit_whole_share_a_payload() -> None:
    inner = [ipv4(n, 64) for n in range(50)]
    sent = payloads(send(end("out"), inner))
    each = ROOM // 64
    assert sent == [(0, b"".join(inner[at : at + each])) for at in range(0, 50, each)]


def test_one_that_does_not_fit_begins_the_next_payload() -> None:
    inner = [ipv4(1, 800), ipv6(2, 800), ipv4(3, 64)]
    assert payloads(send(end("out"), inner)) == [(0, inner[0]), (0, inner[1] + inner[2])]


def test_one_that_is_too_long_is_cut_and_others_follow_its_end() -> None:
    inner = [ipv4(1, 3000), ipv4(2, 64), ipv4(3, 1400)]
    left = 3000 - ROOM
    assert payloads(send(end("out"), inner)) == [
        (0, inner[0][:ROOM]),
        (left, inner[0][ROOM : 2 * ROOM]),
        (left - ROOM, inner[0][2 * ROOM :] + inner[1]),
        (0, inner[2]),
    ]


def test_no_packet_is_longer_than_the_path_takes() -> None:
    outer = send(end("out"), [ipv4(n, 1300 + n) for n in range(40)] + [ipv6(99, 9000)])
    assert max(map(len, outer)) == 1500


@pytest.mark.parametrize("version", [4, 6])
def test_the_outer_header_tells_nothing_of_the_inner_ones(version: int) -> None:
    for tos in (0, 0xB8, 3):
        (packet,) = send(end("out", version=version), [ipv4(1, 100, tos)])
        if version == 6:
            assert packet[:4] == b"\x60\0\0\0"
            assert packet[6:8] == bytes([50, 64])
            continue
        # No DSCP, no ECN, DF, no identification.
        assert packet[:2] + packet[4:10] == bytes([0x45, 0, 0, 0, 0x40, 0, 64, 50])
        assert ".".join(map(str, packet[12:16])) == ENDS[4][0]


# Linux takes the headers off the size that was said, but not the trailer: with it, packets are longer.
@pytest.mark.parametrize(("size", "room"), [(1000, 960), (100, 60), (41, 1), (1500, ROOM), (9000, ROOM)])
def test_a_packet_size_bounds_the_payload(size: int, room: int) -> None:
    inner = [ipv4(1, 20), ipv4(2, 200)]
    sent = payloads(send(end("out", f"iptfs-opts pkt-size {size}"), inner))
    assert max(len(data) for _, data in sent) <= room
    assert b"".join(data for _, data in sent) == b"".join(inner)
    assert room > 220 or len(sent[-2][1]) == room or len(sent) == 2


def test_dont_frag_refuses_what_would_be_cut() -> None:
    out = end("out", "iptfs-opts dont-frag pkt-size 540")
    out.path.source_of = lambda address: bytes([10, 0, 1, 254])
    inner = [ipv4(1, 500), ipv4(2, 501, df=True), ipv4(3, 100), ipv4(4, 400)]
    batch = Batch.pack(inner, NOW)
    out.output(batch)
    assert [opened(p)[2][4:] for p in chosen(batch, Verdict.SENT)] == [inner[0], inner[2] + inner[3]]
    assert Outcome.of(int(batch.packets[1]["outcome"])) == Outcome.OUT_IPTFS_TOO_BIG
    assert counted(out) == {"XfrmOutError": 1}
    (answer,) = chosen(batch, Verdict.RETURNED)
    # ICMP: fragmentation needed, and the size that would do.
    assert (answer[9], answer[20:22], struct.unpack(">H", answer[26:28])) == (1, b"\3\4", (500,))


def test_a_full_queue_takes_no_more_and_a_nearly_full_one_marks() -> None:
    out = end("out", "iptfs-opts max-queue-size 1000")
    # 950 bytes are 95 %: the tenth is marked, the eleventh refused.
    inner = [ipv4(n, 100, tos=2) for n in range(11)]
    batch = Batch.pack(inner, NOW)
    out.output(batch)
    (packet,) = chosen(batch, Verdict.SENT)
    assert opened(packet)[2][4:] == b"".join(inner[:9]) + ipv4(9, 100, tos=3)
    assert Outcome.of(int(batch.packets[10]["outcome"])) == Outcome.OUT_IPTFS_FULL
    assert counted(out) == {"XfrmOutNoQueueSpace": 1}
    assert len(send(out, inner[:9])) == 1


def test_a_packet_that_is_not_ecn_capable_is_not_marked() -> None:
    out = end("out", "iptfs-opts max-queue-size 100")
    (packet,) = send(out, [ipv4(1, 100)])
    assert opened(packet)[2][4:] == ipv4(1, 100)


# -- the initial delay


def test_with_a_delay_packets_of_several_batches_share_payloads() -> None:
    out = end("out", "iptfs-opts init-delay 2000")
    inner = [ipv4(n, 64) for n in range(6)]
    batch = Batch.pack(inner[:2], NOW)
    out.output(batch)
    assert outcomes(batch) == [Outcome.OUT_IPTFS_WAITS] * 2
    out.advance(NOW + 0.001)
    assert send(out, inner[2:]) == []
    assert out.next_deadline() == NOW + 0.002
    out.advance(NOW + 0.002)
    (released,) = out.released()
    assert payloads(chosen(released, Verdict.SENT)) == [(0, b"".join(inner))]
    assert out.next_deadline() is None
    assert send(out, inner[:1]) == []


def test_what_waits_counts_for_the_queue() -> None:
    out = end("out", "iptfs-opts init-delay 2000 max-queue-size 150")
    assert send(out, [ipv4(1, 100)]) == send(out, [ipv4(2, 100)]) == []
    assert counted(out) == {"XfrmOutNoQueueSpace": 1}
    out.advance(NOW + 1)
    assert send(out, [ipv4(2, 100)]) == []
    assert counted(out) == {"XfrmOutNoQueueSpace": 1}


def test_what_waits_goes_with_its_state() -> None:
    out = end("out", "iptfs-opts init-delay 2000")
    send(out, [ipv4(1, 100)])
    out.flush_states()
    (released,) = out.released()
    assert outcomes(released) == [Outcome.OUT_IPTFS_GONE]
    out.advance(NOW + 1)
    assert not out.released()


def test_what_waits_is_sent_by_a_state_that_was_updated_meanwhile() -> None:
    out = end("out", "iptfs-opts init-delay 2000")
    send(out, [ipv4(1, 100)])
    (state,) = out.dump_states()
    out.update_state(state.config)
    out.advance(NOW + 1)
    (released,) = out.released()
    assert payloads(chosen(released, Verdict.SENT)) == [(0, ipv4(1, 100))]


# -- what a state counts


def test_a_state_counts_packets_and_bytes_of_payloads() -> None:
    out = end("out")
    inner = [ipv4(n, 64) for n in range(50)]
    send(out, inner)
    (state,) = out.dump_states()
    assert (state.current.packets, state.current.bytes) == (3, 50 * 64 + 3 * 4)


def test_the_limit_of_a_state_is_one_of_outer_packets() -> None:
    out = end("out", "limit packet-hard 2")
    batch = Batch.pack([ipv4(n, 1400) for n in range(4)], NOW)
    out.output(batch)
    assert len(chosen(batch, Verdict.SENT)) == 2
    assert counted(out) == {"XfrmOutStateExpired": 1, "XfrmOutStateInvalid": 1}
    assert not list(out.dump_states())


def test_packets_of_one_batch_do_not_wait_for_the_next() -> None:
    out, into = end("out"), end("in")
    inner = [ipv4(n, 64) for n in range(20)]
    outer = [packet for one in inner for packet in send(out, [one])]
    assert len(outer) == 20
    assert receive(into, outer) == inner


def test_through_another_transform() -> None:
    """IP-TFS inside AH: the payloads are put together, then each is protected once more."""
    ah = f"auth-trunc hmac(sha1) 0x{bytes(20).hex()} 96"
    more = [
        f"ip xfrm state add src 192.0.2.1 dst 192.0.2.2 proto ah spi 0x99 reqid 2 mode transport {ah}",
        "ip xfrm policy add src 10.0.1.0/24 dst 10.0.2.0/28 dir DIR priority 1 "
        "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode iptfs tmpl proto ah reqid 2 mode transport",
    ]
    out = end("out", more=[line.replace("DIR", "out") for line in more])
    into = end("in", more=[line.replace("DIR", "in") for line in more])
    inner = [ipv4(1, 3000), *(ipv4(n, 64) for n in range(30))]
    outer = send(out, inner)
    assert {packet[9] for packet in outer} == {51}
    assert max(map(len, outer)) <= 1500
    assert receive(into, outer) == inner


def test_one_tunnel_in_another() -> None:
    """IP-TFS inside IP-TFS: payloads are packets of other payloads."""
    key = f"aead rfc4106(gcm(aes)) 0x{bytes(20).hex()} 128"
    more = [
        "ip xfrm state add src 203.0.113.1 dst 203.0.113.2 proto esp spi 9 reqid 2 mode iptfs dir DIR " + key,
        "ip xfrm policy add src 10.0.1.0/24 dst 10.0.2.0/28 dir DIR priority 1 "
        "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 1 mode iptfs "
        "tmpl src 203.0.113.1 dst 203.0.113.2 proto esp reqid 2 mode iptfs",
    ]
    out = end("out", more=[line.replace("DIR", "out") for line in more])
    into = end("in", more=[line.replace("DIR", "in") for line in more])
    inner = [ipv4(1, 3000), *(ipv4(n, 64) for n in range(30))]
    outer = send(out, inner)
    assert {packet[12:16] for packet in outer} == {bytes([203, 0, 113, 1])}
    assert receive(into, outer) == inner
