"""Which line of /proc/net/xfrm_stat a packet moves (xfrm-semantics 7, 8, 12), each by one packet of its own.

The rows are what Linux 6.1 in user-mode-linux did, or 6.18 on output; those marked "source" are read there.
What has a test beside Linux or elsewhere is not repeated: docs/compat/07-counters.md names all.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP

from test_namespace import (
    ALLOW,
    A,
    B,
    datagram,
    esp_null,
    moved,
    namespace,
    outcomes,
    output,
    policy,
    receive,
    sender,
    sent,
    state,
    template,
)
from uxfrm.datapath.batch import Batch
from uxfrm.model import algorithm as algo
from uxfrm.model.dump import LarvalConfig
from uxfrm.model.lifetime import LifetimeConfig
from uxfrm.model.mark import Mark
from uxfrm.model.outcome import Counter, Outcome, show_counters
from uxfrm.model.policy import Action, Direction
from uxfrm.model.state import Encap, ReplayLegacy, SaDir
from uxfrm.model.template import Mode
from uxfrm.namespace import Namespace

OUT = policy(Direction.OUT, template())
NULL, SHA1 = algo.crypt("cipher_null", b""), algo.auth("sha1", b"secret")


def larval() -> Namespace:
    ns = namespace(ALLOW)
    ns.alloc_spi(LarvalConfig(B, A, 50, reqid=1), 0x1000, 0x1000)
    return ns


INPUT = [
    ("state is larval", larval, Outcome.IN_STATE_ACQ, "XfrmAcquireError"),
    (
        "plain ESP for a state that is encapsulated in UDP",
        lambda: namespace(state(encap=Encap(2, 4500, 4500)), ALLOW),
        Outcome.IN_ENCAP_MISMATCH,
        "XfrmInStateMismatch",
    ),
    ("blocked", lambda: namespace(state(), policy(Direction.IN, action=Action.BLOCK)),
     Outcome.IN_POLICY_BLOCK, "XfrmInPolBlock"),
    ("state is for output (source)", lambda: namespace(state(direction=SaDir.OUT, replay_window=0), ALLOW),
     Outcome.IN_STATE_DIR, "XfrmInStateDirError"),
    ("six templates (source)", lambda: namespace(state(), policy(Direction.IN, *[template()] * 6)),
     Outcome.IN_TOO_MANY_TEMPLATES, "XfrmInBufferError"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "outcome", "counter"), [r[1:] for r in INPUT], ids=[r[0] for r in INPUT])
def test_input(make: object, outcome: Outcome, counter: str) -> None:
    ns = make()  # type: ignore[operator]
    assert receive(ns, *output(sender(), datagram())) == [outcome]
    assert moved(ns) == {counter: 1}


FULL = 2**32 - 1
OUTPUT = [
    ("blocked", namespace(policy(Direction.OUT, action=Action.BLOCK)), Outcome.OUT_POLICY_BLOCK,
     {"XfrmOutPolBlock": 1}),
    ("no state, no key manager", namespace(OUT), Outcome.OUT_NO_STATE, {"XfrmOutNoStates": 1}),
    ("last number used (source)", sender(replay=ReplayLegacy(oseq=FULL)), Outcome.OUT_SEQ_OVERFLOW,
     {"XfrmOutStateSeqError": 1}),
    ("used up (source)", sender(lifetime=LifetimeConfig(hard_packet=0)), Outcome.OUT_EXPIRED,
     {"XfrmOutStateExpired": 1}),
    # counted twice: by the search for a state and by what asked for it
    ("state is for input (source)", namespace(state(direction=SaDir.IN), OUT), Outcome.OUT_STATE_DIR,
     {"XfrmOutStateDirError": 1, "XfrmOutPolError": 1}),
    ("the template's SPI is another's (source)",
     namespace(state(reqid=9), policy(Direction.OUT, template(spi=0x1000))), Outcome.OUT_POLICY_ERROR,
     {"XfrmOutPolError": 1}),
    ("six templates (source)", namespace(state(), policy(Direction.OUT, *[template()] * 6)),
     Outcome.OUT_POLICY_ERROR, {"XfrmOutPolError": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("ns", "outcome", "counters"), [r[1:] for r in OUTPUT], ids=[r[0] for r in OUTPUT])
def test_output(ns: Namespace, outcome: Outcome, counters: dict[str, int]) -> None:
    assert sent(ns, datagram()) == [outcome]
    assert moved(ns) == counters


def test_blocked_by_default_is_not_counted_on_output() -> None:
    ns = namespace()
    ns.set_default(out=1)
    assert sent(ns, datagram()) == [Outcome.OUT_DEFAULT_BLOCK]
    assert moved(ns) == {}


def test_bad_ipv4_headers_are_nobodys_drops() -> None:
    ns = sender()
    short = datagram()[:19]
    assert sent(ns, short) == [Outcome.OUT_IP_HEADER]
    assert receive(ns, short) == [Outcome.IN_IP_HEADER]
    assert moved(ns) == {}


def test_what_a_state_counts_itself() -> None:
    """ICV failures and replays are counted in the state too; a packet too old is another figure."""
    ns = namespace(state(replay=ReplayLegacy(seq=100)), ALLOW)
    wire = output(sender(replay=ReplayLegacy(oseq=67)), *[datagram()] * 2)
    assert receive(ns, *wire, wire[1]) == [
        Outcome.IN_SEQ_OLD, Outcome.DELIVERED, Outcome.IN_SEQ_REPLAYED,
    ]  # fmt: skip
    forged = wire[0][:24] + bytes([0, 0, 0, 101]) + wire[0][28:]
    assert receive(ns, forged) == [Outcome.IN_ICV]
    assert tuple(next(iter(ns.dump_states())).stats) == (1, 1, 1)
    assert moved(ns) == {"XfrmInStateSeqError": 2, "XfrmInStateProtoError": 1}


def test_deeper_than_six_layers() -> None:
    """Transport mode around a packet seven times: the seventh layer is one too many."""
    ns = namespace(state(mode=Mode.TRANSPORT, aead=None, crypt=NULL, auth=SHA1), ALLOW)
    packet = esp_null(7, b"\0" * 8, 0, 17)
    for number in range(6, 0, -1):
        packet = esp_null(number, bytes(IP(packet).payload), 0, 50)
    assert receive(ns, packet) == [Outcome.IN_DEPTH]
    assert moved(ns) == {"XfrmInBufferError": 1}


def test_set_mark_marks_what_goes_on() -> None:
    """On input the policy sees it, on output whoever routes the packet does."""
    marking = state(set_mark=Mark(0x12, 0xFF))
    ns = namespace(marking, policy(Direction.IN, template(), mark=Mark(0xAB12, 0xFFFF)))
    batch = Batch.pack(output(sender(), datagram()), mark=0xABCD)
    ns.input(batch)
    assert (outcomes(batch), batch.packets["mark"][0]) == ([Outcome.DELIVERED], 0xAB12)
    batch = Batch.pack([datagram()], mark=0xABCD)
    namespace(marking, OUT).output(batch)
    assert (outcomes(batch), batch.packets["mark"][0]) == ([Outcome.SENT], 0xAB12)


def test_padding_has_a_length_and_any_values() -> None:
    ns = namespace(state(aead=None, crypt=NULL, auth=SHA1), ALLOW)
    batch = Batch.pack([esp_null(1, datagram(16) + b"\xee\xff", 2, 4)])
    ns.input(batch)
    assert (outcomes(batch), batch.packet(0)) == ([Outcome.DELIVERED], datagram(16))


def test_the_file_has_32_lines_in_the_kernels_form() -> None:
    lines = show_counters(list(range(32))).splitlines()
    assert lines[0] == "XfrmInError             \t0"
    assert lines[16] == "XfrmOutBundleCheckError \t16"
    assert lines[31] == "XfrmOutNoQueueSpace     \t31"
    assert len(lines) == len(Counter) == 32
