"""States: security associations as they are configured (struct xfrm_usersa_info and its attributes).

What is here is frozen. Counters, sequence numbers, replay windows and life states are a row of the state
table (tables/states.py).
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import NamedTuple

from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6, AF_UNSPEC, ANY4, Address, any_address, is_any
from uxfrm.model.algorithm import Algorithm, Wanted
from uxfrm.model.error import XfrmError, invalid
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_DSTOPTS, PROTO_ESP, PROTO_ROUTING
from uxfrm.model.iptfs import HEADER as AGGFRAG_HEADER
from uxfrm.model.iptfs import Iptfs
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig, LifetimeCurrent
from uxfrm.model.mark import NO_MARK, Mark
from uxfrm.model.policy import OFFLOAD_PACKET, Offload, SecurityContext
from uxfrm.model.selector import ANYTHING, EVERYTHING, Selector, check_prefixes
from uxfrm.model.template import Mode


class LifeState(IntEnum):
    """XFRM_STATE_*: whether a state may be used."""

    VOID = 0
    VALID = 1
    ACQ = 2
    ERROR = 3
    EXPIRED = 4
    DEAD = 5


class SaDir(IntEnum):
    """XFRM_SA_DIR_*: the declared direction of a state."""

    UNSET = 0
    IN = 1
    OUT = 2


NOECN, DECAP_DSCP, NOPMTUDISC, WILDRECV = 1, 2, 4, 8
ICMP, AF_UNSPEC_FLAG, ALIGN4, ESN = 16, 32, 64, 128

DONT_ENCAP_DSCP, OSEQ_MAY_WRAP = 1, 2

OFFLOAD_INBOUND = 2
OFFLOAD_FLAGS = 1 | OFFLOAD_INBOUND | OFFLOAD_PACKET

ENCAP_ESPINUDP, ENCAP_ESPINTCP = 2, 7

REPLAY_ESN_WORDS_MAX = 128
SEQ_MAX = 2**32 - 1
LEGACY_WINDOW_MAX = 32


class Encap(NamedTuple):
    """UDP or TCP around ESP (struct xfrm_encap_tmpl): ports in host order, original address."""

    type: int
    sport: int
    dport: int
    oa: Address = ANY4


class ReplayLegacy(NamedTuple):
    """struct xfrm_replay_state: a window of at most 32, bit 0 of the bitmap is `seq`."""

    oseq: int = 0
    seq: int = 0
    bitmap: int = 0


@dataclass(frozen=True, slots=True)
class ReplayEsn:
    """struct xfrm_replay_state_esn: window and bitmap geometry with the two 64-bit counters.

    `bitmap` holds `words` 32-bit words; shorter is zero-extended by the table. `cut` says that it came in an
    attribute too short for it.
    """

    words: int
    replay_window: int
    oseq: int = 0
    seq: int = 0
    oseq_hi: int = 0
    seq_hi: int = 0
    bitmap: tuple[int, ...] = ()
    cut: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bitmap", self.bitmap[: self.words])


_EMPTY_REPLAY = ReplayLegacy()


@dataclass(frozen=True, slots=True)
class Rare:
    """What few states have; one object shared by all that have none of it."""

    coaddr: Address | None = None
    context: SecurityContext | None = None
    offload: Offload | None = None
    mtimer_thresh: int | None = None
    nat_keepalive: int = 0
    pcpu: int | None = None
    replay_maxage: int | None = None
    replay_maxdiff: int | None = None
    current: LifetimeCurrent | None = None
    iptfs: Iptfs | None = None


PLAIN = Rare()


@dataclass(frozen=True, slots=True)
class StateConfig:
    """What a state was made with; checked when made, in the kernel's order and words.

    Raises XfrmError: EINVAL for contradictions, ENOSYS for unknown algorithms (from model.algorithm),
    EPROTONOSUPPORT for modes and families that do not go together.
    Follows: verify_newsa_info, xfrm_state_construct, __xfrm_init_state.
    """

    daddr: Address
    saddr: Address
    proto: int = PROTO_ESP
    spi: int = 0
    family: int = AF_INET
    mode: int = Mode.TRANSPORT
    reqid: int = 0
    seq: int = 0
    selector: Selector = ANYTHING
    aead: Algorithm | None = None
    auth: Algorithm | None = None
    crypt: Algorithm | None = None
    comp: Algorithm | None = None
    replay_window: int = 0
    replay: ReplayLegacy = _EMPTY_REPLAY
    replay_esn: ReplayEsn | None = None
    flags: int = 0
    extra_flags: int = 0
    encap: Encap | None = None
    tfcpad: int = 0
    mark: Mark = NO_MARK
    set_mark: Mark = NO_MARK
    if_id: int = 0
    direction: int = SaDir.UNSET
    lifetime: LifetimeConfig = UNLIMITED
    rare: Rare = PLAIN

    @property
    def esn(self) -> bool:
        """True with 64-bit sequence numbers."""
        return bool(self.flags & ESN)

    @property
    def cpu(self) -> int | None:
        """The CPU to which the state is bound, if any."""
        return self.rare.pcpu

    def __post_init__(self) -> None:
        for check in _VERIFY:
            check(self)
        self._find_algorithms()
        for check in _INITIALISE:
            check(self)
        if not self.flags & AF_UNSPEC_FLAG and self.selector.family == AF_UNSPEC:
            object.__setattr__(self, "selector", self._selector_of_family())
        object.__setattr__(self, "mark", self.mark.normalised())
        object.__setattr__(self, "replay_window", min(self.replay_window, LEGACY_WINDOW_MAX))

    def _find_algorithms(self) -> None:
        """Look up what a request only named. Follows: the algorithms' part of xfrm_state_construct."""
        for name in ("aead", "auth", "crypt", "comp"):
            wanted = getattr(self, name)
            if isinstance(wanted, Wanted):
                object.__setattr__(self, name, wanted.found())

    def _selector_of_family(self) -> Selector:
        """The selector with the state's own family filled in. Follows: copy_from_user_state."""
        if self.selector == ANYTHING:
            return EVERYTHING[self.family]
        wide = any_address(self.family)
        daddr, saddr = (wide if is_any(end) else end for end in (self.selector.daddr, self.selector.saddr))
        return replace(self.selector, family=self.family, daddr=daddr, saddr=saddr)


def _check_family(x: StateConfig) -> None:
    if x.family not in (AF_INET, AF_INET6):
        raise invalid("Invalid address family")


def _check_selector(x: StateConfig) -> None:
    family = x.selector.family
    if family == AF_UNSPEC and not x.flags & AF_UNSPEC_FLAG:
        family = x.family
    if family != AF_UNSPEC:
        check_prefixes(x.selector, family, "Invalid address family in selector")


def _check_algorithms_ah(x: StateConfig) -> None:
    if x.auth is None:
        raise invalid("Missing required attribute for AH: AUTH_TRUNC or AUTH")
    if x.aead or x.crypt or x.comp or x.tfcpad:
        raise invalid("Invalid attributes for AH: AEAD, CRYPT, COMP, TFCPAD")


def _check_algorithms_esp(x: StateConfig) -> None:
    if x.comp:
        raise invalid("Invalid attribute for ESP: COMP")
    if not (x.auth or x.crypt or x.aead):
        raise invalid("Missing required attribute for ESP: at least one of AUTH, AUTH_TRUNC, CRYPT, AEAD")
    if x.aead and (x.auth or x.crypt):
        raise invalid(
            "Invalid attribute combination for ESP: AEAD can't be used with AUTH, AUTH_TRUNC, CRYPT"
        )
    if x.tfcpad and x.mode != Mode.TUNNEL:
        raise invalid("TFC padding can only be used in tunnel mode")
    if x.rare.iptfs is not None and x.mode != Mode.IPTFS:
        raise invalid("IP-TFS options can only be used in IP-TFS mode")


def _check_algorithms_comp(x: StateConfig) -> None:
    if x.comp is None:
        raise invalid("Missing required attribute for COMP: COMP")
    if x.aead or x.auth or x.crypt or x.tfcpad:
        raise invalid("Invalid attributes for COMP: AEAD, AUTH, AUTH_TRUNC, CRYPT, TFCPAD")
    if x.spi >= 0x10000:
        raise invalid("SPI is too large for COMP (must be < 0x10000)")


def _check_algorithms_mip6(x: StateConfig) -> None:
    if x.comp or x.auth or x.aead or x.crypt or x.encap or x.tfcpad:
        raise invalid("Invalid attributes for DSTOPTS/ROUTING")
    if x.rare.coaddr is None:
        raise invalid("Missing required COADDR attribute for DSTOPTS/ROUTING")


_BY_PROTOCOL = {
    PROTO_AH: _check_algorithms_ah,
    PROTO_ESP: _check_algorithms_esp,
    PROTO_COMP: _check_algorithms_comp,
    PROTO_DSTOPTS: _check_algorithms_mip6,
    PROTO_ROUTING: _check_algorithms_mip6,
}


def _check_protocol(x: StateConfig) -> None:
    check = _BY_PROTOCOL.get(x.proto)
    if check is None:
        raise invalid("Unsupported protocol")
    check(x)


def _check_lengths(x: StateConfig) -> None:
    """Follows: verify_aead, verify_auth_trunc, verify_one_alg, verify_sec_ctx_len."""
    for algorithm in (x.aead, x.auth, x.crypt, x.comp):
        if isinstance(algorithm, Wanted) and algorithm.flaw:
            raise invalid(algorithm.flaw)
    if x.rare.context is not None:
        x.rare.context.check()


def _check_replay(x: StateConfig) -> None:
    """Follows: verify_replay, with the direction's rules of Linux 6.10."""
    esn = x.replay_esn
    if esn is None:
        if x.flags & ESN:
            raise invalid("Missing required attribute for ESN")
        return
    if esn.words > REPLAY_ESN_WORDS_MAX:
        raise invalid("ESN bitmap length must be <= 128")
    if esn.cut:
        raise invalid("ESN attribute is too short to fit the full bitmap length")
    if x.proto not in (PROTO_ESP, PROTO_AH):
        raise invalid("ESN only supported for ESP and AH")
    if x.replay_window:
        raise invalid("ESN not compatible with legacy replay_window")
    if x.direction == SaDir.OUT:
        _check_replay_out(esn, x.esn)
    elif x.direction == SaDir.IN:
        _check_replay_in(esn, x.esn)


def _check_replay_out(r: ReplayEsn, esn: bool) -> None:
    if r.replay_window:
        raise invalid("Replay window should be 0 for output SA")
    if r.seq or r.seq_hi:
        raise invalid("Replay seq and seq_hi should be 0 for output SA")
    if not esn and r.oseq_hi:
        raise invalid("Replay oseq_hi should be 0 in non-ESN mode for output SA")
    if not esn and r.oseq == SEQ_MAX:
        raise invalid("Replay oseq should be less than 0xFFFFFFFF in non-ESN mode for output SA")
    if esn and r.oseq == SEQ_MAX and r.oseq_hi == SEQ_MAX:
        raise invalid("Replay oseq and oseq_hi should be less than 0xFFFFFFFF for output SA")
    if r.words:
        raise invalid("Replay bmp_len should 0 for output SA")


def _check_replay_in(r: ReplayEsn, esn: bool) -> None:
    if r.oseq or r.oseq_hi:
        raise invalid("Replay oseq and oseq_hi should be 0 for input SA")
    if not esn and r.seq_hi:
        raise invalid("Replay seq_hi should be 0 in non-ESN mode for input SA")
    if not esn and r.seq == SEQ_MAX:
        raise invalid("Replay seq should be less than 0xFFFFFFFF in non-ESN mode for input SA")
    if esn and r.seq == SEQ_MAX and r.seq_hi == SEQ_MAX:
        raise invalid("Replay seq and seq_hi should be less than 0xFFFFFFFF for input SA")


def _check_mode(x: StateConfig) -> None:
    if x.mode == Mode.IPTFS:
        if x.proto != PROTO_ESP:
            raise invalid("IP-TFS mode only supported with ESP")
        if not x.direction:
            raise invalid("IP-TFS mode requires in or out direction attribute")
    elif x.mode not in (Mode.TRANSPORT, Mode.TUNNEL, Mode.ROUTEOPTIMIZATION, Mode.BEET):
        raise invalid("Unsupported mode")


def _check_mapping_timer(x: StateConfig) -> None:
    if x.rare.mtimer_thresh is None:
        return
    if x.encap is None:
        raise invalid("MTIMER_THRESH attribute can only be set on ENCAP states")
    if x.direction == SaDir.OUT:
        raise invalid("MTIMER_THRESH attribute should not be set on output SA")


_NOT_OUT = ((DECAP_DSCP, "DECAP_DSCP"), (ICMP, "ICMP"), (WILDRECV, "WILDRECV"))
_NOT_IN = ((DONT_ENCAP_DSCP, "DONT_ENCAP_DSCP"), (OSEQ_MAY_WRAP, "OSEQ_MAY_WRAP"))

_IPTFS_NOT_OUT = (("drop_time", "drop time"), ("reorder_window", "reorder window"))
_IPTFS_NOT_IN = (
    ("dont_frag", "don't fragment"),
    ("init_delay", "initial delay"),
    ("max_qsize", "max queue size"),
    ("pkt_size", "packet size"),
)


def _check_direction(x: StateConfig) -> None:
    if x.direction == SaDir.OUT:
        for bit, name in _NOT_OUT:
            if x.flags & bit:
                raise invalid(f"Flag {name} should not be set for output SA")
        if x.replay_window:
            raise invalid("Replay window should be 0 for output SA")
        _check_iptfs(x.rare.iptfs, _IPTFS_NOT_OUT, "output")
        if x.replay.seq or x.replay.bitmap:
            raise invalid("Replay seq and bitmap should be 0 for output SA")
    elif x.direction == SaDir.IN:
        if x.flags & NOPMTUDISC:
            raise invalid("Flag NOPMTUDISC should not be set for input SA")
        for bit, name in _NOT_IN:
            if x.extra_flags & bit:
                raise invalid(f"Flag {name} should not be set for input SA")
        _check_iptfs(x.rare.iptfs, _IPTFS_NOT_IN, "input")


def _check_iptfs(options: Iptfs | None, names: tuple[tuple[str, str], ...], way: str) -> None:
    for field, name in names:
        if options is not None and getattr(options, field) is not None:
            raise invalid(f"IP-TFS {name} should not be set for {way} SA")


def _check_pcpu(x: StateConfig) -> None:
    if x.rare.pcpu is not None and not x.direction:
        raise invalid("SA_PCPU only supported with SA_DIR")


def _check_modes_families(x: StateConfig) -> None:
    if x.mode == Mode.ROUTEOPTIMIZATION and x.family == AF_INET:
        raise XfrmError(errno.EPROTONOSUPPORT, "Requested mode not found")
    other = x.selector.family not in (AF_UNSPEC, x.family)
    if other and not Mode(x.mode).tunnels:
        raise XfrmError(errno.EPROTONOSUPPORT, "Only tunnel modes can accommodate a change of family")


def _init_esp(x: StateConfig) -> None:
    """Follows: esp_init_state."""
    if x.aead is not None:
        algo.check_aead_key(x.aead)
    elif x.crypt is None:
        raise invalid("ESP: AEAD or CRYPT must be provided")
    else:
        algo.check_esp_keys(x.crypt, x.auth)
    if x.encap is not None and x.encap.type not in (ENCAP_ESPINUDP, ENCAP_ESPINTCP):
        raise invalid("Unsupported encapsulation type for ESP")


def _init_ah(x: StateConfig) -> None:
    """Follows: ah_init_state."""
    if x.encap is not None:
        raise invalid("AH is not compatible with encapsulation")
    assert x.auth is not None
    algo.check_auth_key(x.auth)
    if x.family == AF_INET6 and x.mode not in (Mode.TRANSPORT, Mode.TUNNEL, Mode.BEET):
        raise invalid("Invalid mode requested for AH, must be one of TRANSPORT, TUNNEL, BEET")


def _init_comp(x: StateConfig) -> None:
    """Follows: ipcomp_init_state."""
    if x.encap is not None:
        raise invalid("IPComp is not compatible with encapsulation")
    if x.mode not in (Mode.TRANSPORT, Mode.TUNNEL):
        raise invalid("Unsupported XFRM mode for IPcomp")


_INIT = {PROTO_ESP: _init_esp, PROTO_AH: _init_ah, PROTO_COMP: _init_comp}


def _init_type(x: StateConfig) -> None:
    init = _INIT.get(x.proto)
    if init is None:
        raise XfrmError(errno.EPROTONOSUPPORT, "Requested type not found")
    init(x)


def _init_keepalive(x: StateConfig) -> None:
    """Follows: the keepalive part of __xfrm_init_state."""
    if not x.rare.nat_keepalive:
        return
    if x.direction != SaDir.OUT:
        raise invalid("NAT keepalive is only supported for outbound SAs")
    if x.encap is None or x.encap.type != ENCAP_ESPINUDP:
        raise invalid("NAT keepalive is only supported for UDP encapsulation")


def _init_offload(x: StateConfig) -> None:
    """What is said before any device is looked for. Follows: xfrm_dev_state_add."""
    offload = x.rare.offload
    if offload is None:
        return
    if offload.flags & ~OFFLOAD_FLAGS:
        raise invalid("Unrecognized flags in offload request")
    inbound = bool(offload.flags & OFFLOAD_INBOUND)
    if x.direction == (SaDir.OUT if inbound else SaDir.IN):
        raise invalid("Mismatched SA and offload direction")
    if inbound and x.if_id:
        raise invalid("XFRM if_id is not supported in RX path")
    if x.tfcpad:
        raise invalid("TFC padding can't be offloaded")


def _init_replay(x: StateConfig) -> None:
    """Follows: xfrm_init_replay."""
    esn = x.replay_esn
    if esn is None:
        return
    if esn.replay_window > esn.words * 32:
        raise invalid("ESN replay window is too large for the chosen bitmap size")
    if x.esn and not esn.replay_window and x.direction != SaDir.OUT:
        raise invalid("ESN replay window must be > 0")


def esp_bytes(x: StateConfig) -> int:
    """Bytes of ESP header and IV, and of UDP or TCP around them. Follows: esp_init_state."""
    around = {ENCAP_ESPINUDP: 8, ENCAP_ESPINTCP: 2}
    iv = algo.aead_spec(x.aead).iv_bytes if x.aead else algo.crypt_spec(x.crypt).iv_bytes if x.crypt else 0
    return 8 + iv + (around.get(x.encap.type, 0) if x.encap else 0)


def _init_iptfs(x: StateConfig) -> None:
    """Follows: iptfs_user_init."""
    options = x.rare.iptfs
    if options is None or not options.pkt_size:
        return
    outer = (20 if x.family == AF_INET else 40) + AGGFRAG_HEADER
    if options.pkt_size <= outer + esp_bytes(x):
        raise invalid("Packet size must be 0 or greater than IPTFS/ESP header length")


_VERIFY = (
    _check_family,
    _check_selector,
    _check_protocol,
    _check_lengths,
    _check_replay,
    _check_mode,
    _check_mapping_timer,
    _check_direction,
    _check_pcpu,
)

_INITIALISE = (
    _check_modes_families,
    _init_type,
    _init_keepalive,
    _init_replay,
    _init_offload,
    _init_iptfs,
)
