"""From the model's objects to the bytes of replies and events, attributes in the kernel's order."""

from __future__ import annotations

import struct

from uxfrm.model.address import AF_INET, AF_INET6, Address
from uxfrm.model.aevent import AE_ETHR, AE_RTHR, Aevent
from uxfrm.model.algorithm import Algorithm
from uxfrm.model.dump import LarvalConfig, PolicyDump, StateDump
from uxfrm.model.iptfs import UNSAID
from uxfrm.model.lifetime import UNLIMITED, LifetimeConfig, LifetimeCurrent
from uxfrm.model.mark import Mark
from uxfrm.model.migrate import KmAddress, MigrateEntry
from uxfrm.model.policy import PolicyConfig, SecurityContext
from uxfrm.model.selector import ANYTHING, Selector
from uxfrm.model.state import Encap, ReplayEsn, ReplayLegacy, SaDir, StateConfig
from uxfrm.model.template import Mode, Template
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr
from uxfrm.netlink.wire import attribute

_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_U64 = struct.Struct("=Q")
_LSM_EXTENSION = 24  # SADB_X_EXT_SEC_CTX: what exttype says


def u32(number: Attr, value: int) -> bytes:
    """An attribute with a 32-bit integer."""
    return attribute(number, _U32.pack(value))


def family_of(address: Address) -> int:
    """The family that an address's length tells."""
    return AF_INET if len(address) == 4 else AF_INET6


def selector(x: Selector) -> bytes:
    """struct xfrm_selector."""
    return L.SELECTOR.pack(
        daddr=x.daddr, saddr=x.saddr, dport=x.dport, dport_mask=x.dport_mask, sport=x.sport,
        sport_mask=x.sport_mask, family=x.family, prefixlen_d=x.prefixlen_d, prefixlen_s=x.prefixlen_s,
        proto=x.proto, ifindex=x.ifindex, user=x.user,
    )  # fmt: skip


def lifetime_config(x: LifetimeConfig) -> bytes:
    """struct xfrm_lifetime_cfg."""
    return L.LIFETIME_CONFIG.pack(**x._asdict())


def lifetime_current(x: LifetimeCurrent) -> bytes:
    """struct xfrm_lifetime_cur."""
    return L.LIFETIME_CURRENT.pack(**x._asdict())


def mark(x: Mark) -> bytes:
    """MARK, where there is one. Follows: xfrm_mark_put."""
    return attribute(Attr.MARK, L.MARK.pack(v=x.v, m=x.m)) if x.v | x.m else b""


def if_id(value: int) -> bytes:
    """IF_ID, where there is one."""
    return u32(Attr.IF_ID, value) if value else b""


def security_context(x: SecurityContext | None) -> bytes:
    """SEC_CTX, where there is one."""
    if x is None:
        return b""
    text = x.text.encode("utf-8", "surrogateescape")
    head = L.USER_SEC_CTX.pack(
        len=L.USER_SEC_CTX.size + len(text), exttype=_LSM_EXTENSION, alg=x.alg, doi=x.doi, ctx_len=len(text)
    )
    return attribute(Attr.SEC_CTX, head + text)


# -- states


def _named(x: Algorithm, **extra: int) -> dict[str, bytes | int]:
    return {"name": x.name.encode("latin-1"), "key_len": x.key_bits, **extra}


def _integrity(x: Algorithm | None) -> bytes:
    """ALG_AUTH and ALG_AUTH_TRUNC, always as a pair."""
    if x is None:
        return b""
    plain = L.ALGO.pack(**_named(x)) + x.key
    cut = L.ALGO_AUTH.pack(**_named(x, trunc_len=x.icv_bits)) + x.key
    return attribute(Attr.ALG_AUTH, plain) + attribute(Attr.ALG_AUTH_TRUNC, cut)


def _algorithms(x: StateConfig) -> bytes:
    found = b""
    if x.aead is not None:
        found = attribute(
            Attr.ALG_AEAD, L.ALGO_AEAD.pack(**_named(x.aead, icv_len=x.aead.icv_bits)) + x.aead.key
        )
    found += _integrity(x.auth)
    if x.crypt is not None:
        found += attribute(Attr.ALG_CRYPT, L.ALGO.pack(**_named(x.crypt)) + x.crypt.key)
    if x.comp is not None:
        found += attribute(Attr.ALG_COMP, L.ALGO.pack(name=x.comp.name.encode("latin-1")))
    return found


def replay(x: ReplayLegacy | ReplayEsn) -> bytes:
    """REPLAY_VAL or REPLAY_ESN_VAL."""
    if isinstance(x, ReplayLegacy):
        return attribute(Attr.REPLAY_VAL, L.REPLAY.pack(oseq=x.oseq, seq=x.seq, bitmap=x.bitmap))
    head = L.REPLAY_ESN.pack(
        bmp_len=x.words, oseq=x.oseq, seq=x.seq, oseq_hi=x.oseq_hi, seq_hi=x.seq_hi,
        replay_window=x.replay_window,
    )  # fmt: skip
    bitmap = x.bitmap + (0,) * (x.words - len(x.bitmap))
    return attribute(Attr.REPLAY_ESN_VAL, head + struct.pack(f"={x.words}I", *bitmap))


def _set_mark(x: Mark) -> bytes:
    if not x.v | x.m:
        return b""
    return u32(Attr.SET_MARK, x.v) + u32(Attr.SET_MARK_MASK, x.m)


def encapsulation(e: Encap | None) -> bytes:
    """ENCAP, where there is one."""
    if e is None:
        return b""
    return attribute(Attr.ENCAP, L.ENCAP_TMPL.pack(type=e.type, sport=e.sport, dport=e.dport, oa=e.oa))


def bound(pcpu: int | None, direction: int) -> bytes:
    """SA_PCPU and SA_DIR."""
    found = b"" if pcpu is None else u32(Attr.SA_PCPU, pcpu)
    return found + (attribute(Attr.SA_DIR, bytes([direction])) if direction else b"")


def scope(dump: StateDump) -> bytes:
    """MARK, IF_ID, SA_PCPU and SA_DIR: what events tell of a state besides its fixed part."""
    x = dump.config
    pcpu = x.rare.pcpu if isinstance(x, StateConfig) else x.pcpu
    return mark(x.mark) + if_id(x.if_id) + bound(pcpu, x.direction)


def _iptfs(x: StateConfig) -> bytes:
    """IPTFS_*, those of the state's direction, with their defaults. Follows: iptfs_copy_to_user."""
    if x.mode != Mode.IPTFS:
        return b""
    options = x.rare.iptfs or UNSAID
    if x.direction == SaDir.IN:
        time, window = options.receiving()
        return u32(Attr.IPTFS_DROP_TIME, time) + attribute(Attr.IPTFS_REORDER_WINDOW, _U16.pack(window))
    whole, delay, queue, size = options.sending()
    found = attribute(Attr.IPTFS_DONT_FRAG, b"") if whole else b""
    found += u32(Attr.IPTFS_INIT_DELAY, delay) + u32(Attr.IPTFS_MAX_QSIZE, queue)
    return found + u32(Attr.IPTFS_PKT_SIZE, size)


def _tail(x: StateConfig) -> bytes:
    """What follows the security context."""
    found = _iptfs(x)
    found += u32(Attr.MTIMER_THRESH, x.rare.mtimer_thresh) if x.rare.mtimer_thresh else b""
    found += bound(x.rare.pcpu, x.direction)
    if x.rare.nat_keepalive:
        found += u32(Attr.NAT_KEEPALIVE_INTERVAL, x.rare.nat_keepalive)
    return found


def _offload(x: StateConfig) -> bytes:
    if x.rare.offload is None:
        return b""
    return attribute(
        Attr.OFFLOAD_DEV, L.USER_OFFLOAD.pack(ifindex=x.rare.offload.ifindex, flags=x.rare.offload.flags)
    )


def coaddr(x: Address | None) -> bytes:
    """A care-of address."""
    return b"" if x is None else attribute(Attr.COADDR, x.ljust(16, b"\0"))


def _state_attributes(dump: StateDump, x: StateConfig) -> bytes:
    """Follows: copy_to_user_state_extra."""
    found = u32(Attr.SA_EXTRA_FLAGS, x.extra_flags) if x.extra_flags else b""
    found += coaddr(x.rare.coaddr)
    if dump.lastused:
        found += attribute(Attr.LASTUSED, _U64.pack(dump.lastused))
    found += _algorithms(x) + encapsulation(x.encap)
    if x.tfcpad:
        found += u32(Attr.TFCPAD, x.tfcpad)
    found += mark(x.mark) + _set_mark(x.set_mark) + replay(dump.replay) + _offload(x)
    return found + if_id(x.if_id) + security_context(x.rare.context) + _tail(x)


def _larval_attributes(dump: StateDump, x: LarvalConfig) -> bytes:
    return mark(x.mark) + replay(dump.replay) + if_id(x.if_id) + bound(x.pcpu, x.direction)


def usersa_info(dump: StateDump) -> bytes:
    """struct xfrm_usersa_info. Follows: copy_to_user_state."""
    x = dump.config
    if isinstance(x, StateConfig):
        sel, limits, window, flags = x.selector, x.lifetime, x.replay_window, x.flags
    else:
        sel, limits = x.selector or ANYTHING, UNLIMITED._replace(hard_add=x.hard_add)
        window = flags = 0
    return L.USERSA_INFO.pack(
        sel=selector(sel), id={"daddr": x.daddr, "spi": x.spi, "proto": x.proto}, saddr=x.saddr,
        lft=lifetime_config(limits), curlft=lifetime_current(dump.current), stats=dump.stats._asdict(),
        seq=x.seq, reqid=x.reqid, family=x.family, mode=x.mode, replay_window=window, flags=flags,
    )  # fmt: skip


def state_attributes(dump: StateDump) -> bytes:
    """What follows the struct in NEWSA."""
    if isinstance(dump.config, StateConfig):
        return _state_attributes(dump, dump.config)
    return _larval_attributes(dump, dump.config)


def state(dump: StateDump) -> bytes:
    """The payload of NEWSA and UPDSA."""
    return usersa_info(dump) + state_attributes(dump)


def usersa_id(dump: StateDump) -> bytes:
    """struct xfrm_usersa_id."""
    x = dump.config
    return L.USERSA_ID.pack(daddr=x.daddr, spi=x.spi, family=x.family, proto=x.proto)


def aevent(x: Aevent) -> bytes:
    """The payload of NEWAE. Follows: build_aevent."""
    c = x.state.config
    named = {"daddr": c.daddr, "spi": c.spi, "family": c.family, "proto": c.proto}
    body = L.AEVENT_ID.pack(sa_id=named, saddr=c.saddr, flags=x.flags, reqid=c.reqid)
    body += replay(x.state.replay) + attribute(Attr.LTIME_VAL, lifetime_current(x.state.current))
    if x.flags & AE_RTHR:
        body += u32(Attr.REPLAY_THRESH, x.maxdiff)
    if x.flags & AE_ETHR:
        body += u32(Attr.ETIMER_THRESH, x.maxage)
    return body + scope(x.state)


# -- policies


def _template(x: Template) -> bytes:
    return L.USER_TMPL.pack(
        id={"daddr": x.daddr, "spi": x.spi, "proto": x.proto}, family=x.family, saddr=x.saddr, reqid=x.reqid,
        mode=x.mode, share=x.share, optional=int(x.optional), aalgos=x.aalgos, ealgos=x.ealgos,
        calgos=x.calgos,
    )  # fmt: skip


def templates(x: PolicyConfig) -> bytes:
    """TMPL, where there are any."""
    return attribute(Attr.TMPL, b"".join(map(_template, x.templates))) if x.templates else b""


def userpolicy_info(
    x: PolicyConfig, current: LifetimeCurrent, direction: int | None = None, share: int = 0
) -> bytes:
    """struct xfrm_userpolicy_info; a policy's own share is never told. Follows: copy_to_user_policy."""
    shown = x.direction if direction is None else direction
    return L.USERPOLICY_INFO.pack(
        sel=selector(x.selector), lft=lifetime_config(x.lifetime), curlft=lifetime_current(current),
        priority=x.priority, index=x.index, dir=shown, action=x.action, flags=x.flags,
        share=share,
    )  # fmt: skip


def policy_type(kind: int) -> bytes:
    """POLICY_TYPE."""
    return attribute(Attr.POLICY_TYPE, L.USERPOLICY_TYPE.pack(type=kind))


def policy_attributes(x: PolicyConfig) -> bytes:
    """What follows the struct in NEWPOLICY."""
    return templates(x) + security_context(x.context) + policy_scope(x)


def policy_scope(x: PolicyConfig) -> bytes:
    """POLICY_TYPE, MARK and IF_ID."""
    return policy_type(x.type) + mark(x.mark) + if_id(x.if_id)


def policy(dump: PolicyDump) -> bytes:
    """The payload of NEWPOLICY and UPDPOLICY."""
    return userpolicy_info(dump.config, dump.current) + policy_attributes(dump.config)


# -- migration


def migrate_entry(x: MigrateEntry) -> bytes:
    """One MIGRATE attribute."""
    return attribute(Attr.MIGRATE, L.USER_MIGRATE.pack(**x._asdict()))


def kmaddress(x: KmAddress | None) -> bytes:
    """KMADDRESS, where there is one."""
    return b"" if x is None else attribute(Attr.KMADDRESS, L.USER_KMADDRESS.pack(**x._asdict()))
