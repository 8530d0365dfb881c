"""What is worked out when a state is installed, so that packets need not ask which algorithm it has.

Follows: esp_init_state, esp_init_aead, esp_init_authenc; ah_init_state.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath import ah
from uxfrm.datapath.batch import I64S, Int64s
from uxfrm.datapath.carriers import added
from uxfrm.model import algorithm as algo
from uxfrm.model.address import AF_INET, AF_INET6
from uxfrm.model.flow import PROTO_AH, PROTO_COMP, PROTO_ESP, PROTO_IPIP, PROTO_IPV6
from uxfrm.model.iptfs import HEADER as AGGFRAG_HEADER
from uxfrm.model.state import OSEQ_MAY_WRAP, StateConfig
from uxfrm.model.template import Mode
from uxfrm.tables import rows as r
from uxfrm.tables.states import State

if TYPE_CHECKING:
    from uxfrm.datapath.crypto.keyring import Keyring

RandBytes = Callable[[int], bytes]

_HANDLED_MODES = (Mode.TRANSPORT, Mode.TUNNEL, Mode.BEET, Mode.ROUTEOPTIMIZATION, Mode.IPTFS)

# A row has room for 31 bits; two extra flags are known, and padding ends at the MTU.
_WITHOUT_KEY = {
    PROTO_COMP: r.TRANSFORM_COMP, PROTO_IPIP: r.TRANSFORM_IPIP, PROTO_IPV6: r.TRANSFORM_IPIP,
}  # fmt: skip

_NULL = algo.crypt("ecb(cipher_null)", b"")
_FLAG_BITS = 0x7FFFFFFF
_IP_LENGTH_MAX = 65535

# Columns that are written together.
_CONFIGURED = ["extra_flags", "encap", "encap_ports", "mapping_maxage", "set_v", "set_m"]
_INNER = ["sel_family", "sel_daddr", "sel_saddr"]
_DRAWN = ["iv_salt_hi", "iv_salt_lo", "ip_id", "tfcpad", "transform"]


def install(state: State, keyring: Keyring, randbytes: RandBytes) -> None:
    """Fill the transform columns of a state's row and give it its key slot.

    Raises XfrmError(ENOSYS) where no engine has the algorithm.
    """
    config = state.config
    assert isinstance(config, StateConfig)
    x, mark, encap = state.record, config.set_mark, config.encap
    state.table.rows[_CONFIGURED][state.row] = (
        config.extra_flags & _FLAG_BITS, encap.type if encap else 0, r.ports(encap),
        config.rare.mtimer_thresh or 0, mark.v & mark.m, mark.m,
    )  # fmt: skip
    if config.proto in _WITHOUT_KEY:
        drawn = int.from_bytes(randbytes(2))
        state.table.rows[_DRAWN][state.row] = (0, 0, drawn, 0, _WITHOUT_KEY[config.proto])
        return
    if config.mode == Mode.BEET:
        inner = config.selector
        ends = r.words(inner.daddr), r.words(inner.saddr)
        state.table.rows[_INNER][state.row] = (inner.family, *ends)
    if not _handled(config):
        x["transform"] = r.TRANSFORM_UNSUPPORTED
    elif config.proto == PROTO_AH:
        _install_ah(state, config, keyring, randbytes)
    else:
        _install_esp(state, config, keyring, randbytes)


def _handled(config: StateConfig) -> bool:
    """True where the data path can run the state.

    Linux gives AH no room for BEET's options, and writes its header over the first bytes of IPv4 packets.
    """
    if config.proto == PROTO_AH and config.mode == Mode.BEET:
        return config.selector.family == AF_INET6
    return config.proto in (PROTO_ESP, PROTO_AH) and config.mode in _HANDLED_MODES


def _install_ah(state: State, config: StateConfig, keyring: Keyring, randbytes: RandBytes) -> None:
    """Follows: ah_init_state, ah6_init_state."""
    assert config.auth is not None
    x, spec = state.record, algo.auth_spec(config.auth)
    x["key"] = keyring.add(auth=config.auth, crypt=_NULL)
    x["icv_bytes"] = config.auth.icv_bits // 8
    x["icv_whole"] = spec.full_bits // 8
    x["block"] = ah.block(config.family, config.flags)
    state.table.rows[_DRAWN][state.row] = (0, 0, int.from_bytes(randbytes(2)), 0, r.TRANSFORM_AH)


def _install_esp(state: State, config: StateConfig, keyring: Keyring, randbytes: RandBytes) -> None:
    x = state.record
    x["key"] = keyring.add(aead=config.aead, auth=config.auth, crypt=config.crypt)
    if config.aead is not None:
        x["iv_bytes"] = algo.aead_spec(config.aead).iv_bytes
        x["icv_bytes"] = config.aead.icv_bits // 8
        x["block"] = 4
    else:
        assert config.crypt is not None
        spec = algo.crypt_spec(config.crypt)
        x["iv_bytes"] = spec.iv_bytes
        x["iv_random"] = spec.iv_bytes > 0 and not spec.nonce_bytes
        x["icv_bytes"] = config.auth.icv_bits // 8 if config.auth else 0
        x["block"] = max(spec.block_bytes, 4)
    salt = randbytes(10)
    state.table.rows[_DRAWN][state.row] = (
        int.from_bytes(salt[:4]), int.from_bytes(salt[4:8]), int.from_bytes(salt[8:]),
        min(config.tfcpad, _IP_LENGTH_MAX), r.TRANSFORM_ESP,
    )  # fmt: skip


# -- going on where another state with the same keys stopped


SALT_BYTES = 8


def salt_of(state: State) -> bytes:
    """What a state's IVs are its sequence numbers salted with."""
    x = state.record
    return int(x["iv_salt_hi"]).to_bytes(4) + int(x["iv_salt_lo"]).to_bytes(4)


def counts_on(state: State) -> bool:
    """True where a state may use more than 2^32 numbers."""
    return bool(state.record["esn"]) or bool(int(state.record["extra_flags"]) & OSEQ_MAY_WRAP)


def go_on(state: State, used: int, salt: bytes) -> None:
    """Let a state send as one that has used `used` numbers, with that one's salt: no IV comes twice."""
    x = state.record
    x["oseq"] = x["pre_oseq"] = used & 0xFFFFFFFF
    x["oseq_hi" if x["esn"] else "wraps"] = used >> 32
    x["iv_salt_hi"], x["iv_salt_lo"] = int.from_bytes(salt[:4]), int.from_bytes(salt[4:])


def numbers_used(rows: Any, those: Int64s) -> Int64s:
    """How many numbers the states of these rows have used."""
    esn, high, wraps, oseq = (rows[name][those] for name in ("esn", "oseq_hi", "wraps", "oseq"))
    used: Int64s = np.where(esn > 0, high, wraps) << 32 | oseq
    return used


@compiled(int64(r.ROWS, I64S, I64S, int64))
def any_near(rows: Any, those: Int64s, ends: Int64s, margin: int) -> int:
    """1 where a state of these rows has less than `margin` numbers left up to its end."""
    for k in range(those.shape[0]):
        x = rows[those[k]]
        high = x["oseq_hi"] if x["esn"] else x["wraps"]
        if (high << 32 | x["oseq"]) > ends[k] - margin:
            return 1
    return 0


def uninstall(state: State, keyring: Keyring) -> None:
    """Give back a state's key slot; the keyring wipes it."""
    key = int(state.record["key"])
    if key >= 0:
        keyring.remove(key)
        state.record["key"] = -1


def header_bytes(state: State) -> int:
    """Bytes a state puts in front of its payload (x->props.header_len)."""
    x, own = state.record, 0
    if x["transform"] == r.TRANSFORM_ESP:
        own = 8 + int(x["iv_bytes"])
    elif x["transform"] == r.TRANSFORM_AH:
        own = ah.header_bytes(state.table.rows, state.row, int(x["icv_bytes"]))
    return own + _mode_bytes(x) + added(int(x["encap"]))


def _mode_bytes(x: Any) -> int:
    """Bytes that a state's mode adds at most. BEET: options' pseudo header, and the headers' difference."""
    if x["mode"] in (Mode.TUNNEL, Mode.IPTFS):
        outer = 20 if x["family"] == AF_INET else 40
        return outer + (AGGFRAG_HEADER if x["mode"] == Mode.IPTFS else 0)
    if x["mode"] == Mode.BEET and x["sel_family"] != AF_INET6:
        return 8 if x["family"] == AF_INET else 28
    return 0


def trailer_bytes(state: State) -> int:
    """The most bytes a state puts behind its payload, TFC padding included."""
    x = state.record
    if x["transform"] != r.TRANSFORM_ESP:
        return 0
    return int(x["block"]) + 2 + int(x["icv_bytes"]) + int(x["tfcpad"])


def mtu(state: State, path_mtu: int) -> int:
    """The largest payload packet that fits in `path_mtu` bytes. Follows: xfrm_state_mtu.

    For IP-TFS, the payload without its header. Linux counts that header with those that are not encrypted, so
    that by blocks of 16 bytes a packet may be longer than its path: here it is not.
    """
    x = state.record
    block = int(x["block"])
    outer = header_bytes(state)
    if x["transform"] != r.TRANSFORM_ESP:
        return max(path_mtu - outer, 1)
    adjust = 0 if x["mode"] in (Mode.TUNNEL, Mode.IPTFS) else (20 if x["family"] == 2 else 40)
    room = path_mtu - outer - int(x["icv_bytes"]) - adjust
    fits = room - room % block + adjust - 2
    if x["mode"] == Mode.IPTFS:
        text = room + AGGFRAG_HEADER
        fits = min(fits, text - text % block - AGGFRAG_HEADER - 2)
    return max(fits, 1)


def inner_mtu(state: State, payload: int) -> int:
    """The longest packet that an IP-TFS state takes. Follows: iptfs_get_inner_mtu."""
    config = state.config
    options = config.rare.iptfs if isinstance(config, StateConfig) else None
    if options is not None and options.dont_frag:
        return payload
    return _IP_LENGTH_MAX + (0 if config.family == AF_INET else 40)
