"""Every way a packet can end: one table gives the enum, the counter and the sentence.

The counters are those of /proc/net/xfrm_stat, in the order and with the names of net/xfrm/xfrm_proc.c.
A new drop is one line of `Outcome`.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Self


class Counter(IntEnum):
    """Lines of /proc/net/xfrm_stat, in file order (Linux 6.14 and later have all 32)."""

    XfrmInError = 0
    XfrmInBufferError = 1
    XfrmInHdrError = 2
    XfrmInNoStates = 3
    XfrmInStateProtoError = 4
    XfrmInStateModeError = 5
    XfrmInStateSeqError = 6
    XfrmInStateExpired = 7
    XfrmInStateMismatch = 8
    XfrmInStateInvalid = 9
    XfrmInTmplMismatch = 10
    XfrmInNoPols = 11
    XfrmInPolBlock = 12
    XfrmInPolError = 13
    XfrmOutError = 14
    XfrmOutBundleGenError = 15
    XfrmOutBundleCheckError = 16
    XfrmOutNoStates = 17
    XfrmOutStateProtoError = 18
    XfrmOutStateModeError = 19
    XfrmOutStateSeqError = 20
    XfrmOutStateExpired = 21
    XfrmOutPolBlock = 22
    XfrmOutPolDead = 23
    XfrmOutPolError = 24
    XfrmFwdHdrError = 25
    XfrmOutStateInvalid = 26
    XfrmAcquireError = 27
    XfrmOutStateDirError = 28
    XfrmInStateDirError = 29
    XfrmInIptfsError = 30
    XfrmOutNoQueueSpace = 31


def show_counters(values: list[int]) -> str:
    """Print as /proc/net/xfrm_stat. Follows: xfrm_statistics_seq_show."""
    return "".join(f"{counter.name:<24}\t{values[counter]}\n" for counter in Counter)


class Verdict(IntEnum):
    """The kinds of end.

    SPLIT: went on as others, which the batch has as well. RETURNED: made here, to go back to who sent the
    origin. STREAMED: handed over to a TCP connection, whose segments carry it.
    """

    PENDING = 0
    DELIVERED = 1
    FORWARDED = 2
    CLEAR = 3
    SENT = 4
    DROPPED = 5
    UNSUPPORTED = 6
    IGNORED = 7
    HELD = 8
    SPLIT = 9
    RETURNED = 10
    STREAMED = 11


class Outcome(IntEnum):
    """How a packet ended: its verdict, the counter that moves (None: no counter of XFRM), the words.

    The words may use the fields that explain fills in: spi, seq, top, window, proto, detail.
    """

    verdict: Verdict
    counter: Counter | None
    words: str

    def __new__(cls, verdict: Verdict, counter: Counter | None, words: str) -> Self:
        member = int.__new__(cls, len(cls.__members__))
        member._value_ = len(cls.__members__)
        member.verdict = verdict
        member.counter = counter
        member.words = words
        return member

    @classmethod
    def of(cls, number: int) -> Outcome:
        """The outcome that a packet's record holds as a number."""
        return _BY_NUMBER[number]

    PENDING = (Verdict.PENDING, None, "not decided yet")
    DELIVERED = (Verdict.DELIVERED, None, "decrypted and allowed by policy")
    FORWARDED = (Verdict.FORWARDED, None, "decrypted and allowed by forward policy")
    DELIVERED_NO_POLICY = (
        Verdict.DELIVERED,
        None,
        "decrypted; no policy matches, which transport mode does not need",
    )
    DELIVERED_UNCHECKED = (Verdict.DELIVERED, None, "decrypted; the device's disable_policy skips the check")
    FORWARDED_UNCHECKED = (
        Verdict.FORWARDED,
        None,
        "decrypted, for others; the device's disable_policy skips the check",
    )
    CLEAR = (Verdict.CLEAR, None, "no policy asks for IPsec")
    CLEAR_ALLOWED = (Verdict.CLEAR, None, "a policy allows it in clear")
    OUT_KEEPALIVE = (Verdict.CLEAR, None, "a NAT keepalive, made here")
    CLEAR_OPTIONAL = (Verdict.CLEAR, None, "all templates of the policy are optional and no state fits")
    SENT = (Verdict.SENT, None, "protected as the policy asks")
    STREAMED = (Verdict.STREAMED, None, "protected as the policy asks, in a TCP stream")
    SENT_NO_POLICY = (Verdict.SENT, None, "protected; no policy of the setup asks for it")
    SENT_UNPROTECTED = (Verdict.CLEAR, None, "sent in clear, although a policy asks for IPsec")
    # before XFRM: the IP layer drops these and counts them elsewhere
    IN_NOT_IP = (Verdict.IGNORED, None, "not IP")
    IN_IP_HEADER = (Verdict.DROPPED, None, "the IP header is malformed; the IP layer drops it before XFRM")
    IN_IP_CHECKSUM = (
        Verdict.DROPPED,
        None,
        "the IPv4 header checksum is wrong; the IP layer drops it before XFRM",
    )
    IN_IP_TRUNCATED = (
        Verdict.DROPPED,
        None,
        "shorter than its IP header says; the IP layer drops it before XFRM",
    )
    # not supported by this version
    UNSUPPORTED_CUT = (
        Verdict.UNSUPPORTED,
        None,
        "the capture holds only the beginning of this frame (snap length)",
    )
    UNSUPPORTED_MODE = (
        Verdict.UNSUPPORTED,
        None,
        "AH in BEET mode around IPv4: what Linux makes of it has lost its first bytes, uxfrm makes nothing",
    )
    # fragments: the IP layer keeps and drops these before XFRM
    IN_FRAGMENT = (Verdict.HELD, None, "a fragment: kept until its packet is whole, which then goes on")
    IN_FRAGMENT_DUPLICATE = (Verdict.DROPPED, None, "a fragment that is here already")
    IN_FRAGMENT_OVERLAP = (
        Verdict.DROPPED,
        None,
        "a fragment that overlaps another: it ends its packet, with all fragments that were kept",
    )
    IN_FRAGMENT_LENGTH = (
        Verdict.DROPPED,
        None,
        "a fragment of no length, or whose end does not go with the others or lies beyond 65,535 bytes: it "
        "ends its packet, with all fragments that were kept",
    )
    IN_FRAGMENT_ECN = (
        Verdict.DROPPED,
        None,
        "the last fragment of a packet of which some have ECN and some have not",
    )
    IN_FRAGMENT_HEADER = (
        Verdict.DROPPED,
        None,
        "a malformed IPv6 fragment: not in units of 8 bytes, beyond 65,535, in another fragment, or the "
        "first one without all headers",
    )
    IN_FRAGMENT_FLOOD = (Verdict.DROPPED, None, "a fragment, while others use all memory that is for them")
    IN_UDP_HEADER = (
        Verdict.DROPPED,
        None,
        "the length or the checksum of the UDP header around ESP is wrong",
    )
    IN_UDP_SHORT = (
        Verdict.DROPPED,
        None,
        "ESP in UDP, shorter than an IP and a UDP header: Linux takes it for cut off",
    )
    UNSUPPORTED_STREAM = (
        Verdict.UNSUPPORTED,
        None,
        "a segment of a TCP stream of which the capture lacks what is needed to find its messages",
    )
    STREAM_SEGMENT = (Verdict.IGNORED, None, "a segment of a TCP stream with ESP that completes no packet")
    STREAM_IKE = (Verdict.IGNORED, None, "an IKE message in a TCP stream")
    STREAM_BROKEN = (
        Verdict.IGNORED,
        None,
        "a TCP stream whose framing is broken: Linux reads nothing of it any more",
    )
    IN_KEEPALIVE = (Verdict.IGNORED, None, "a NAT keepalive")
    IN_STREAM_FULL = (
        Verdict.DROPPED,
        Counter.XfrmInError,
        "an IKE message of a TCP stream, whose reader has no room for it",
    )
    # input, in the order of xfrm_input
    IN_HEADER_SHORT = (
        Verdict.DROPPED,
        Counter.XfrmInHdrError,
        "too short for a {proto} header: no SPI can be read",
    )
    IN_DEPTH = (Verdict.DROPPED, Counter.XfrmInBufferError, "more than 6 transforms around one packet")
    IN_NO_STATE = (
        Verdict.DROPPED,
        Counter.XfrmInNoStates,
        "no state for {proto} SPI {spi} to this destination",
    )
    IN_STATE_DIR = (Verdict.DROPPED, Counter.XfrmInStateDirError, "the state is declared for output only")
    IN_STATE_ACQ = (Verdict.DROPPED, Counter.XfrmAcquireError, "the state is larval: it has no keys yet")
    IN_STATE_INVALID = (Verdict.DROPPED, Counter.XfrmInStateInvalid, "the state is no longer valid")
    IN_ENCAP_MISMATCH = (
        Verdict.DROPPED,
        Counter.XfrmInStateMismatch,
        "plain ESP, ESP in UDP or in TCP where the state expects it otherwise",
    )
    IN_SEQ_ZERO = (Verdict.DROPPED, Counter.XfrmInStateSeqError, "sequence number 0 is never sent")
    IN_SEQ_OLD = (
        Verdict.DROPPED,
        Counter.XfrmInStateSeqError,
        "sequence number {seq} is older than the replay window ({window} up to {top})",
    )
    IN_SEQ_REPLAYED = (
        Verdict.DROPPED,
        Counter.XfrmInStateSeqError,
        "sequence number {seq} was received before: a replay (window {window}, newest {top})",
    )
    IN_SEQ_HIGH = (
        Verdict.DROPPED,
        Counter.XfrmInStateSeqError,
        "the high half of the extended sequence number does not fit the window any more",
    )
    IN_EXPIRED = (
        Verdict.DROPPED,
        Counter.XfrmInStateExpired,
        "the state's hard limit of bytes or packets is reached",
    )
    IN_ESP_LENGTH = (
        Verdict.DROPPED,
        Counter.XfrmInStateProtoError,
        "the length does not fit: too short for IV and ICV, or no multiple of the cipher block",
    )
    IN_ICV = (
        Verdict.DROPPED,
        Counter.XfrmInStateProtoError,
        "the ICV is wrong: forged, damaged, or sealed with another key or algorithm",
    )
    IN_PADDING = (
        Verdict.DROPPED,
        Counter.XfrmInStateProtoError,
        "the ESP padding is longer than the payload",
    )
    IN_DUMMY = (Verdict.DROPPED, Counter.XfrmInStateProtoError, "a dummy packet (next header 59)")
    IN_AH = (
        Verdict.DROPPED,
        Counter.XfrmInStateProtoError,
        "the AH header is not as long as the state's ICV needs, or the headers around it are malformed",
    )
    IN_AH_INSIDE = (
        Verdict.DROPPED,
        Counter.XfrmInStateProtoError,
        "AH inside another transform in transport mode: Linux compares its ICV while the IP header still "
        "names the outer protocol, so that it cannot be right",
    )
    IN_COMP = (
        Verdict.DROPPED,
        Counter.XfrmInStateProtoError,
        "what IPComp carries is no whole deflate stream, longer than 65400 bytes, or no shorter compressed",
    )
    IN_MODE = (
        Verdict.DROPPED,
        Counter.XfrmInStateModeError,
        "a tunnel-mode state, but the payload is not an IP packet of the kind its next header says",
    )
    IN_BEET = (
        Verdict.DROPPED,
        Counter.XfrmInStateModeError,
        "the BEET pseudo header is malformed, or the state's selector has no family",
    )
    IN_ROUTE_OPTIMISATION = (
        Verdict.DROPPED,
        Counter.XfrmInStateModeError,
        "route optimisation mode, in which Linux receives nothing",
    )
    # IP-TFS on input
    IN_IPTFS = (Verdict.SPLIT, None, "its AGGFRAG payload is taken apart: what it carried goes on by itself")
    IN_IPTFS_PART = (Verdict.SPLIT, None, "it carried a piece of an inner packet that others make whole")
    IN_IPTFS_PAD = (Verdict.IGNORED, None, "an AGGFRAG payload of nothing but padding")
    IN_IPTFS_WAITS = (Verdict.HELD, None, "it waits in the reorder window for those before it")
    IN_IPTFS_REST = (
        Verdict.DROPPED,
        None,
        "it carried nothing but the rest of an inner packet whose beginning is not there",
    )
    IN_IPTFS_LATE = (
        Verdict.DROPPED,
        None,
        "it comes when the reorder window has passed it, or a second time",
    )
    IN_IPTFS_SHORT = (Verdict.DROPPED, Counter.XfrmInBufferError, "the AGGFRAG payload ends in its header")
    IN_IPTFS_HEADER = (
        Verdict.DROPPED,
        Counter.XfrmInHdrError,
        "an AGGFRAG header with flags or of a sub-type that is not known",
    )
    IN_IPTFS_BLOCK = (
        Verdict.DROPPED,
        Counter.XfrmInBufferError,
        "an AGGFRAG data block that is neither IPv4, IPv6 nor padding; all of the payload is lost",
    )
    IN_IPTFS_LENGTH = (
        Verdict.DROPPED,
        Counter.XfrmInHdrError,
        "an IPv4 packet in an AGGFRAG payload that is shorter than its header; all of the payload is lost",
    )
    IN_IPTFS_LOST = (
        Verdict.DROPPED,
        Counter.XfrmInIptfsError,
        "an inner packet of which a piece is missing or does not fit",
    )
    IN_IPTFS_TIMEOUT = (
        Verdict.DROPPED,
        None,
        "an inner packet of which the next piece did not come within the drop time",
    )
    IN_IPTFS_GONE = (Verdict.DROPPED, None, "it waited in IP-TFS when its state went")
    # policy check on input
    IN_STATE_SELECTOR = (
        Verdict.DROPPED,
        Counter.XfrmInStateMismatch,
        "the inner packet is outside the selector of the state that carried it: {detail}",
    )
    IN_NO_POLICY = (
        Verdict.DROPPED,
        Counter.XfrmInNoPols,
        "no policy matches the inner packet, and tunnel mode needs one",
    )
    IN_DEFAULT_BLOCK = (
        Verdict.DROPPED,
        Counter.XfrmInNoPols,
        "no policy matches, and the default policy is block",
    )
    IN_POLICY_BLOCK = (Verdict.DROPPED, Counter.XfrmInPolBlock, "a policy blocks it")
    IN_TOO_MANY_TEMPLATES = (
        Verdict.DROPPED,
        Counter.XfrmInBufferError,
        "the policies of the packet have 6 or more templates together",
    )
    IN_TEMPLATE = (Verdict.DROPPED, Counter.XfrmInTmplMismatch, "not protected as the policy asks: {detail}")
    # output
    OUT_IP_HEADER = (Verdict.DROPPED, None, "the IP header is malformed")
    OUT_DEFAULT_BLOCK = (Verdict.DROPPED, None, "no policy matches, and the default policy is block")
    OUT_CARRIER = (Verdict.DROPPED, None, "no transform for an xfrm interface, a carrier error: {detail}")
    OUT_NO_METADATA = (Verdict.DROPPED, None, "the xfrm interface wants an if_id with each packet")
    OUT_INTERFACE_TOO_BIG = (
        Verdict.DROPPED,
        None,
        "larger than the states behind the xfrm interface leave room for, and it must not be fragmented",
    )
    OUT_ROUTING_LOOP = (
        Verdict.DROPPED,
        None,
        "local routing loop: the outer packet goes to the xfrm interface again",
    )
    OUT_POLICY_BLOCK = (Verdict.DROPPED, Counter.XfrmOutPolBlock, "a policy blocks it")
    OUT_NO_STATE = (
        Verdict.DROPPED,
        Counter.XfrmOutNoStates,
        "no usable state for the policy's template: {detail}",
    )
    OUT_SOCKET_NO_STATE = (
        Verdict.DROPPED,
        None,
        "no usable state for the template of the socket's policy (EAGAIN): {detail}",
    )
    HELD = (Verdict.HELD, None, "held until a state is negotiated: {detail}")
    OUT_HELD_FULL = (Verdict.DROPPED, None, "too many packets are held for the policy's state already")
    OUT_HELD_GIVEN_UP = (Verdict.DROPPED, None, "held, but the state never came, or the policy went")
    OUT_POLICY_ERROR = (
        Verdict.DROPPED,
        Counter.XfrmOutPolError,
        "the policy's templates cannot be resolved: {detail}",
    )
    OUT_STATE_DIR = (Verdict.DROPPED, Counter.XfrmOutStateDirError, "the state is declared for input only")
    OUT_STATE_INVALID = (Verdict.DROPPED, Counter.XfrmOutStateInvalid, "the state is no longer valid")
    OUT_EXPIRED = (
        Verdict.DROPPED,
        Counter.XfrmOutStateExpired,
        "the state's hard limit of bytes or packets is reached",
    )
    OUT_SEQ_OVERFLOW = (
        Verdict.DROPPED,
        Counter.XfrmOutStateSeqError,
        "the sequence number would wrap: a rekey is due",
    )
    OUT_MODE = (
        Verdict.DROPPED,
        Counter.XfrmOutStateModeError,
        "the packet cannot be encapsulated in the state's mode",
    )
    OUT_BEET_FRAGMENT = (
        Verdict.DROPPED,
        Counter.XfrmOutStateModeError,
        "a fragment: BEET mode sends whole packets only",
    )
    OUT_TOO_BIG = (
        Verdict.DROPPED,
        None,
        "larger than the state's MTU, and it must not be fragmented; sockets and forwarding refuse it "
        "before XFRM",
    )
    OUT_OUTER_TOO_BIG = (
        Verdict.DROPPED,
        None,
        "protected, but larger than the path's MTU, and it must not be fragmented",
    )
    OUT_FRAGMENTED = (
        Verdict.SPLIT,
        None,
        "protected as the policy asks, and larger than the path's MTU: sent in fragments",
    )
    OUT_FRAGMENTED_FIRST = (
        Verdict.SPLIT,
        None,
        "larger than the tunnel's MTU, and this host's own: its fragments are protected one by one",
    )
    CLEAR_FRAGMENTED = (
        Verdict.SPLIT,
        None,
        "in clear; it came in fragments, was put together to be judged, and goes in fragments again",
    )
    ICMP_TOO_BIG = (
        Verdict.RETURNED,
        None,
        "ICMP to who sent a packet that is too big, made here: it tells the MTU",
    )
    OUT_UDP_LENGTH = (
        Verdict.DROPPED,
        Counter.XfrmOutStateProtoError,
        "ESP in UDP would be longer than 65,535 bytes",
    )
    OUT_STREAM_LENGTH = (
        Verdict.DROPPED,
        Counter.XfrmOutStateProtoError,
        "ESP in TCP would be longer than the 65,535 bytes of a message",
    )
    OUT_STREAM_NONE = (
        Verdict.DROPPED,
        Counter.XfrmOutStateProtoError,
        "no TCP stream has the addresses and ports of the state",
    )
    OUT_STREAM_FULL = (Verdict.DROPPED, None, "the TCP stream has not sent what it was given before")
    OUT_ENGINE = (Verdict.DROPPED, Counter.XfrmOutStateProtoError, "the cipher engine refused the packet")
    OUT_ROOM = (Verdict.DROPPED, Counter.XfrmOutError, "no room for headers and trailer")
    # IP-TFS on output
    OUT_IPTFS = (Verdict.SPLIT, None, "it goes on in packets of its state's IP-TFS")
    OUT_IPTFS_WAITS = (Verdict.HELD, None, "it waits for others to go with it in IP-TFS (initial delay)")
    OUT_IPTFS_FULL = (Verdict.DROPPED, Counter.XfrmOutNoQueueSpace, "the queue of the state's IP-TFS is full")
    OUT_IPTFS_TOO_BIG = (
        Verdict.DROPPED,
        Counter.XfrmOutError,
        "longer than a payload of IP-TFS, which is told not to cut packets",
    )
    OUT_IPTFS_GONE = (Verdict.DROPPED, None, "it waited in IP-TFS when its state went")


_BY_NUMBER = tuple(Outcome)
