"""What makes a state impossible: every refusal, with the kernel's words (xfrm-semantics 3.1, 3.2)."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

import pytest

from uxfrm.model import algorithm as algo
from uxfrm.model import state as x
from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.error import XfrmError
from uxfrm.model.mark import Mark
from uxfrm.model.policy import Offload
from uxfrm.model.selector import ANYTHING, EVERYTHING, Selector
from uxfrm.model.state import Encap, Rare, ReplayEsn, ReplayLegacy, SaDir, StateConfig
from uxfrm.model.template import Mode

ESP, AH, COMP, DSTOPTS, ROUTING = 50, 51, 108, 60, 43
EINVAL, EPROTONOSUPPORT = errno.EINVAL, errno.EPROTONOSUPPORT
KEY = bytes(range(1, 21))

AEAD = algo.aead("rfc4106(gcm(aes))", KEY, 128)
AUTH = algo.auth("sha1", KEY)
CRYPT = algo.crypt("aes", KEY[:16])
DEFLATE = algo.comp("deflate")
COADDR = Rare(coaddr=parse("10.0.0.9"))

ENDS = {"daddr": parse("10.0.0.2"), "saddr": parse("10.0.0.1"), "spi": 0x1000}
BASES: dict[str, dict[str, Any]] = {
    "esp": {"proto": ESP, "aead": AEAD, "mode": Mode.TUNNEL},
    "authenc": {"proto": ESP, "crypt": CRYPT, "auth": AUTH},
    "ah": {"proto": AH, "auth": AUTH},
    "comp": {"proto": COMP, "comp": DEFLATE},
    "none": {"proto": ESP},
    "out": {"proto": ESP, "aead": AEAD, "direction": SaDir.OUT},
    "in": {"proto": ESP, "aead": AEAD, "direction": SaDir.IN},
    "esn": {"proto": ESP, "aead": AEAD, "flags": x.ESN, "replay_esn": ReplayEsn(2, 64)},
}


def make(base: str, **change: Any) -> StateConfig:
    return StateConfig(**(ENDS | BASES[base] | change))


def refusal(base: str, **change: Any) -> tuple[int, str]:
    with pytest.raises(XfrmError) as caught:
        make(base, **change)
    return caught.value.number, caught.value.text


@pytest.mark.parametrize("base", [name for name in BASES if name != "none"])
def test_the_bases_of_this_file_are_good(base: str) -> None:
    assert make(base).proto == BASES[base]["proto"]


def esn(**more: Any) -> dict[str, Any]:
    return {"flags": x.ESN, "replay_esn": ReplayEsn(**({"words": 2, "replay_window": 64} | more))}


def bitmap(**more: Any) -> dict[str, Any]:
    return {"replay_esn": ReplayEsn(**({"words": 2, "replay_window": 64} | more))}


def v4(d: int = 0, s: int = 0) -> Selector:
    return replace(EVERYTHING[AF_INET], prefixlen_d=d, prefixlen_s=s)


def v6(d: int = 0, s: int = 0) -> Selector:
    return replace(EVERYTHING[AF_INET6], prefixlen_d=d, prefixlen_s=s)


MAX = 2**32 - 1
OUT_WINDOW = "Replay window should be 0 for output SA"
FOUR = "Invalid prefix length in selector (must be <= 32 for IPv4)"
SIX = "Invalid prefix length in selector (must be <= 128 for IPv6)"
AH_FORBIDS = "Invalid attributes for AH: AEAD, CRYPT, COMP, TFCPAD"
COMP_FORBIDS = "Invalid attributes for COMP: AEAD, AUTH, AUTH_TRUNC, CRYPT, TFCPAD"
AEAD_EXCLUDES = "Invalid attribute combination for ESP: AEAD can't be used with AUTH, AUTH_TRUNC, CRYPT"
AH_NEEDS = "Missing required attribute for AH: AUTH_TRUNC or AUTH"
ESP_NEEDS = "Missing required attribute for ESP: at least one of AUTH, AUTH_TRUNC, CRYPT, AEAD"
TUNNELS = "Only tunnel modes can accommodate a change of family"
NO_CRYPTO = "Kernel was unable to initialize cryptographic operations"
TOO_LARGE = "ESN replay window is too large for the chosen bitmap size"
IN_ALL_ONES = "Replay seq and seq_hi should be less than 0xFFFFFFFF for input SA"
OUT_ALL_ONES = "Replay oseq and oseq_hi should be less than 0xFFFFFFFF for output SA"
IN_SEQ = "Replay seq should be less than 0xFFFFFFFF in non-ESN mode for input SA"
OUT_OSEQ = "Replay oseq should be less than 0xFFFFFFFF in non-ESN mode for output SA"

# (base, change, words); the errno is EINVAL.
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # 1, 2: family and selector
    ("esp", {"family": 0}, "Invalid address family"),
    ("esp", {"family": 7}, "Invalid address family"),
    ("esp", {"selector": v4(33)}, FOUR),
    ("esp", {"selector": v4(0, 33)}, FOUR),
    ("esp", {"selector": v6(129)}, SIX),
    ("esp", {"selector": v6(0, 129)}, SIX),
    ("esp", {"selector": replace(ANYTHING, prefixlen_d=33)}, FOUR),
    ("esp", {"selector": replace(ANYTHING, family=7)}, "Invalid address family in selector"),
    # 3: algorithms by protocol
    ("none", {"proto": AH}, AH_NEEDS),
    ("ah", {"aead": AEAD}, AH_FORBIDS),
    ("ah", {"crypt": CRYPT}, AH_FORBIDS),
    ("ah", {"comp": DEFLATE}, AH_FORBIDS),
    ("ah", {"tfcpad": 100}, AH_FORBIDS),
    ("esp", {"comp": DEFLATE}, "Invalid attribute for ESP: COMP"),
    ("none", {}, ESP_NEEDS),
    ("esp", {"auth": AUTH}, AEAD_EXCLUDES),
    ("esp", {"crypt": CRYPT}, AEAD_EXCLUDES),
    ("esp", {"tfcpad": 100, "mode": Mode.TRANSPORT}, "TFC padding can only be used in tunnel mode"),
    ("none", {"proto": COMP}, "Missing required attribute for COMP: COMP"),
    ("comp", {"auth": AUTH}, COMP_FORBIDS),
    ("comp", {"crypt": CRYPT}, COMP_FORBIDS),
    ("comp", {"aead": AEAD}, COMP_FORBIDS),
    ("comp", {"tfcpad": 1}, COMP_FORBIDS),
    ("comp", {"spi": 0x10000}, "SPI is too large for COMP (must be < 0x10000)"),
    ("ah", {"proto": DSTOPTS, "rare": COADDR}, "Invalid attributes for DSTOPTS/ROUTING"),
    ("ah", {"proto": ROUTING, "rare": COADDR}, "Invalid attributes for DSTOPTS/ROUTING"),
    ("none", {"proto": DSTOPTS}, "Missing required COADDR attribute for DSTOPTS/ROUTING"),
    ("esp", {"proto": 6}, "Unsupported protocol"),
    ("esp", {"proto": 0}, "Unsupported protocol"),
    # 6: replay and ESN
    ("esp", {"flags": x.ESN}, "Missing required attribute for ESN"),
    ("esp", esn(words=129), "ESN bitmap length must be <= 128"),
    ("comp", bitmap(), "ESN only supported for ESP and AH"),
    ("esp", esn() | {"replay_window": 32}, "ESN not compatible with legacy replay_window"),
    ("out", esn(), OUT_WINDOW),
    ("out", esn(replay_window=0, seq=1), "Replay seq and seq_hi should be 0 for output SA"),
    ("out", esn(replay_window=0, seq_hi=1), "Replay seq and seq_hi should be 0 for output SA"),
    (
        "out",
        bitmap(replay_window=0, oseq_hi=1),
        "Replay oseq_hi should be 0 in non-ESN mode for output SA",
    ),
    ("out", bitmap(replay_window=0, oseq=MAX), OUT_OSEQ),
    ("out", esn(replay_window=0, oseq=MAX, oseq_hi=MAX), OUT_ALL_ONES),
    ("out", esn(replay_window=0), "Replay bmp_len should 0 for output SA"),
    ("in", esn(oseq=1), "Replay oseq and oseq_hi should be 0 for input SA"),
    ("in", esn(oseq_hi=1), "Replay oseq and oseq_hi should be 0 for input SA"),
    ("in", bitmap(seq_hi=1), "Replay seq_hi should be 0 in non-ESN mode for input SA"),
    ("in", bitmap(seq=MAX), IN_SEQ),
    ("in", esn(seq=MAX, seq_hi=MAX), IN_ALL_ONES),
    # 7: mode
    ("ah", {"mode": Mode.IPTFS}, "IP-TFS mode only supported with ESP"),
    ("esp", {"mode": Mode.IPTFS}, "IP-TFS mode requires in or out direction attribute"),
    ("esp", {"mode": Mode.IN_TRIGGER}, "Unsupported mode"),
    ("esp", {"mode": 6}, "Unsupported mode"),
    ("esp", {"mode": 255}, "Unsupported mode"),
    # 8: mapping timer
    (
        "esp",
        {"rare": Rare(mtimer_thresh=5)},
        "MTIMER_THRESH attribute can only be set on ENCAP states",
    ),
    (
        "out",
        {"rare": Rare(mtimer_thresh=5), "encap": Encap(x.ENCAP_ESPINUDP, 4500, 4500)},
        "MTIMER_THRESH attribute should not be set on output SA",
    ),
    # 9: direction
    ("out", {"flags": x.DECAP_DSCP}, "Flag DECAP_DSCP should not be set for output SA"),
    ("out", {"flags": x.ICMP}, "Flag ICMP should not be set for output SA"),
    ("out", {"flags": x.WILDRECV}, "Flag WILDRECV should not be set for output SA"),
    ("out", {"replay_window": 32}, OUT_WINDOW),
    ("out", {"replay": ReplayLegacy(seq=1)}, "Replay seq and bitmap should be 0 for output SA"),
    ("out", {"replay": ReplayLegacy(bitmap=1)}, "Replay seq and bitmap should be 0 for output SA"),
    ("in", {"flags": x.NOPMTUDISC}, "Flag NOPMTUDISC should not be set for input SA"),
    (
        "in",
        {"extra_flags": x.DONT_ENCAP_DSCP},
        "Flag DONT_ENCAP_DSCP should not be set for input SA",
    ),
    ("in", {"extra_flags": x.OSEQ_MAY_WRAP}, "Flag OSEQ_MAY_WRAP should not be set for input SA"),
    # 10: CPU
    ("esp", {"rare": Rare(pcpu=0)}, "SA_PCPU only supported with SA_DIR"),
    # 3.2: construction
    ("none", {"auth": AUTH}, "ESP: AEAD or CRYPT must be provided"),
    ("esp", {"aead": algo.aead("rfc4106(gcm(aes))", KEY[:19], 128)}, NO_CRYPTO),
    ("authenc", {"crypt": algo.crypt("aes", KEY[:15])}, ""),
    ("esp", {"encap": Encap(1, 4500, 4500)}, "Unsupported encapsulation type for ESP"),
    ("ah", {"encap": Encap(x.ENCAP_ESPINUDP, 4500, 4500)}, "AH is not compatible with encapsulation"),
    (
        "comp",
        {"encap": Encap(x.ENCAP_ESPINUDP, 4500, 4500)},
        "IPComp is not compatible with encapsulation",
    ),
    ("comp", {"mode": Mode.BEET}, "Unsupported XFRM mode for IPcomp"),
    ("esp", esn(words=1, replay_window=33), TOO_LARGE),
    ("esp", bitmap(words=4, replay_window=129), TOO_LARGE),
    # 10: offload, as far as no device is asked
    ("esp", {"rare": Rare(offload=Offload(1, 8))}, "Unrecognized flags in offload request"),
    ("in", {"rare": Rare(offload=Offload(1, 0))}, "Mismatched SA and offload direction"),
    ("out", {"rare": Rare(offload=Offload(1, 2))}, "Mismatched SA and offload direction"),
    ("in", {"rare": Rare(offload=Offload(1, 2)), "if_id": 3}, "XFRM if_id is not supported in RX path"),
    ("esp", {"rare": Rare(offload=Offload(1, 0)), "tfcpad": 9}, "TFC padding can't be offloaded"),
    ("esp", esn(replay_window=0), "ESN replay window must be > 0"),
    ("in", esn(replay_window=0), "ESN replay window must be > 0"),
]


@pytest.mark.parametrize(("base", "change", "words"), REFUSED)
def test_a_contradiction_is_einval_in_the_kernels_words(
    base: str, change: dict[str, Any], words: str
) -> None:
    assert refusal(base, **change) == (EINVAL, words)


@pytest.mark.parametrize(
    ("base", "change", "words"),
    [
        ("esp", {"mode": Mode.ROUTEOPTIMIZATION}, "Requested mode not found"),
        ("authenc", {"selector": v6()}, TUNNELS),
        ("ah", {"selector": v6(), "mode": Mode.TRANSPORT}, TUNNELS),
        ("none", {"proto": DSTOPTS, "rare": COADDR}, "Requested type not found"),
        ("none", {"proto": ROUTING, "rare": COADDR}, "Requested type not found"),
    ],
)
def test_what_the_kernel_has_no_module_for(base: str, change: dict[str, Any], words: str) -> None:
    assert refusal(base, **change) == (EPROTONOSUPPORT, words)


@pytest.mark.parametrize(
    ("base", "change"),
    [
        ("esp", {"selector": v6()}),
        ("esp", {"selector": v6(), "mode": Mode.BEET}),
        ("in", {"mode": Mode.IPTFS, "selector": v6()}),
        ("esp", {"selector": v4(32, 32)}),
        ("esp", {"tfcpad": 1500}),
        ("comp", {"spi": 0xFFFF}),
        ("comp", {"mode": Mode.TUNNEL}),
        ("ah", {"mode": Mode.BEET}),
        ("esp", {"encap": Encap(x.ENCAP_ESPINTCP, 4500, 4500)}),
        ("esp", {"encap": Encap(x.ENCAP_ESPINUDP, 4500, 4500), "rare": Rare(mtimer_thresh=5)}),
        ("esp", esn(words=128, replay_window=4096)),
        ("esp", bitmap(words=128, replay_window=4096)),
        ("esp", bitmap(replay_window=0)),
        ("out", esn(words=0, replay_window=0)),
        ("out", esn(words=0, replay_window=0, oseq=MAX, oseq_hi=MAX - 1)),
        ("in", esn(seq=MAX, seq_hi=MAX - 1)),
        ("in", {"replay_window": 32, "flags": x.DECAP_DSCP | x.ICMP | x.WILDRECV | x.NOECN}),
        ("out", {"flags": x.NOPMTUDISC, "extra_flags": x.DONT_ENCAP_DSCP | x.OSEQ_MAY_WRAP}),
        ("in", {"rare": Rare(pcpu=0)}),
        ("esp", {"flags": x.DECAP_DSCP | x.NOPMTUDISC, "extra_flags": x.DONT_ENCAP_DSCP}),
    ],
)
def test_the_limits_themselves_are_allowed(base: str, change: dict[str, Any]) -> None:
    made = make(base, **change)
    assert all(getattr(made, name) == value for name, value in change.items())


# Two faults at once: the kernel names the one that it checks first.
BAD_FAMILY = {"family": 7}
BAD_SELECTOR = {"selector": v4(33)}
BAD_PROTOCOL = {"proto": 6}
BAD_ESN = {"flags": x.ESN, "replay_esn": None}
BAD_MODE = {"mode": 6}
BAD_TIMER = {"rare": Rare(mtimer_thresh=5, pcpu=0)}
BAD_CPU = {"rare": Rare(pcpu=0)}
BAD_KEY = {"aead": algo.aead("rfc4106(gcm(aes))", b"", 128)}
BAD_WINDOW = {"replay_esn": ReplayEsn(1, 64)}
IN_ORDER = [
    (BAD_FAMILY, "Invalid address family"),
    (BAD_SELECTOR, FOUR),
    (BAD_PROTOCOL, "Unsupported protocol"),
    (BAD_ESN, "Missing required attribute for ESN"),
    (BAD_MODE, "Unsupported mode"),
    (BAD_TIMER, "MTIMER_THRESH attribute can only be set on ENCAP states"),
    (BAD_CPU, "SA_PCPU only supported with SA_DIR"),
    (BAD_KEY, NO_CRYPTO),
    (BAD_WINDOW, TOO_LARGE),
]


@pytest.mark.parametrize("first", range(len(IN_ORDER) - 1))
def test_the_first_of_several_faults_is_named(first: int) -> None:
    change, words = IN_ORDER[first]
    for later, _ in IN_ORDER[first + 1 :]:
        assert refusal("esp", **(later | change)) == (EINVAL, words)


def test_replay_of_an_output_state_is_judged_in_the_kernels_order() -> None:
    """Window, then seq, then oseq, then bitmap length, whatever else is wrong."""
    everything = ReplayEsn(2, 64, oseq=MAX, seq=1, oseq_hi=MAX, seq_hi=1)
    words = []
    for mended in ({}, {"replay_window": 0}, {"seq": 0, "seq_hi": 0}, {"oseq": 0, "oseq_hi": 0}):
        everything = replace(everything, **mended)
        words.append(refusal("out", flags=x.ESN, replay_esn=everything)[1])
    assert words == [
        OUT_WINDOW,
        "Replay seq and seq_hi should be 0 for output SA",
        OUT_ALL_ONES,
        "Replay bmp_len should 0 for output SA",
    ]


def test_a_selector_without_family_gets_the_states() -> None:
    assert make("esp").selector == EVERYTHING[AF_INET]
    six = {"family": AF_INET6, "daddr": parse("2001:db8::2"), "saddr": parse("2001:db8::1")}
    assert make("esp", **six).selector == EVERYTHING[AF_INET6]
    assert make("esp", flags=x.AF_UNSPEC_FLAG).selector == ANYTHING


def test_a_mark_is_kept_masked() -> None:
    assert make("esp", mark=Mark(0xABCD, 0xFF)).mark == Mark(0xCD, 0xFF)


def test_no_key_is_printed_with_a_state_or_its_refusal() -> None:
    texts = [repr(make("authenc")), str(make("esp"))]
    for change in ({"proto": 6}, {"encap": Encap(1, 0, 0)}, {"aead": None, "auth": AUTH}):
        with pytest.raises(XfrmError) as caught:
            make("esp", **change)
        texts += [str(caught.value), repr(caught.value)]
    for text in texts:
        assert KEY[:4].hex() not in text
        assert repr(KEY[:4])[2:-1] not in text


def test_an_error_says_what_the_kernel_says_or_what_the_errno_means() -> None:
    assert str(XfrmError(errno.EEXIST)) == "File exists (EEXIST)"
    assert str(XfrmError(EINVAL, "Unsupported mode")) == "Unsupported mode (EINVAL)"
    assert XfrmError(errno.ESRCH).name == "ESRCH"
