"""The structs of linux/xfrm.h as the 64-bit ABI lays them out: one table, read for decoding and encoding.

A field is a name and a format of the struct module, in host byte order; `be16` and `be32` are in network
order; a layout as format nests. Sizes and offsets are checked against the table when this is imported.
"""

from __future__ import annotations

import struct
from collections import namedtuple
from collections.abc import Callable
from typing import Any

_NETWORK = {"be16": 2, "be32": 4}


class _Field:
    """One field: its place, its bytes, and how they are read and written as Python source.

    `code` is its format in the struct, `read` takes the unpacked value, `written` the field's own value.
    """

    def __init__(self, name: str, offset: int, kind: Any) -> None:
        self.name = name
        self.offset = offset
        self.read, self.written, self.empty = "{}", name, "0"
        self.code = str(kind)
        if isinstance(kind, Layout):
            self.code, self.empty = f"{kind.size}s", repr(bytes(kind.size))
            self.read = f"{kind.name}({{}})"
            self.written = f"{name} if type({name}) is bytes else {kind.name}_pack(**{name})"
        elif kind in _NETWORK:
            size = _NETWORK[kind]
            self.code, self.read, self.written = f"{size}s", "int_of({})", f'{name}.to_bytes({size}, "big")'
        elif self.code.endswith("s"):
            self.empty = repr(b"")
        self.size = struct.calcsize("=" + self.code)


class Layout:
    """One struct. `unpack` gives a named tuple of its fields, `pack` takes them by name (else zero).

    Both are made of the table below when this is imported, as namedtuple makes its classes: what is looked up
    there once would be looked up for every message. A nested layout's field is unpacked as a named tuple, and
    packed from a dict of its own fields, or from its bytes. `unpack(data, at=0)` raises struct.error where
    `data` is shorter than the layout.
    """

    unpack: Callable[..., Any]
    pack: Callable[..., bytes]

    def __init__(self, name: str, size: int, /, **fields: Any) -> None:
        """`fields` maps names to (offset, format)."""
        self.name = name
        self.size = size
        found = [_Field(field, *place) for field, place in fields.items()]
        scope = self._scope(found, [kind for _, kind in fields.values() if isinstance(kind, Layout)])
        exec(_source(found), scope)
        self.unpack, self.pack = scope["unpack"], scope["pack"]

    def _scope(self, fields: list[_Field], nested: list[Layout]) -> dict[str, Any]:
        """What the source of `unpack` and `pack` refers to."""
        whole = struct.Struct(self._format(fields))
        make: Any = namedtuple
        scope: dict[str, Any] = {"unpack_from": whole.unpack_from, "pack_all": whole.pack}
        scope |= {"int_of": int.from_bytes, "made": make(self.name, [field.name for field in fields])}
        for layout in nested:
            scope |= {layout.name: layout.unpack, f"{layout.name}_pack": layout.pack}
        return scope

    def _format(self, fields: list[_Field]) -> str:
        """The struct's format, with what lies between fields; AssertionError where the table is wrong."""
        text, at = "=", 0
        for field in fields:
            if field.offset < at:
                raise AssertionError(f"{self.name}.{field.name} overlaps")
            text += f"{field.offset - at}x{field.code}"
            at = field.offset + field.size
        if at > self.size:
            raise AssertionError(f"{self.name} is longer than {self.size} bytes")
        return text + f"{self.size - at}x"


def _source(fields: list[_Field]) -> str:
    """`unpack` and `pack` of a layout."""
    names = ", ".join(field.name for field in fields)
    read = ", ".join(field.read.format(field.name) for field in fields)
    keywords = ", ".join(f"{field.name}={field.empty}" for field in fields)
    written = ", ".join(field.written for field in fields)
    return (
        f"def unpack(data, at=0):\n    {names}, = unpack_from(data, at)\n    return made({read})\n"
        f"def pack(*, {keywords}):\n    return pack_all({written})\n"
    )


ADDRESS = "16s"

ID = Layout("xfrm_id", 24, daddr=(0, ADDRESS), spi=(16, "be32"), proto=(20, "B"))
SELECTOR = Layout(
    "xfrm_selector", 56,
    daddr=(0, ADDRESS), saddr=(16, ADDRESS), dport=(32, "be16"), dport_mask=(34, "be16"), sport=(36, "be16"),
    sport_mask=(38, "be16"), family=(40, "H"), prefixlen_d=(42, "B"), prefixlen_s=(43, "B"), proto=(44, "B"),
    ifindex=(48, "i"), user=(52, "I"),
)  # fmt: skip
LIFETIME_CONFIG = Layout(
    "xfrm_lifetime_cfg", 64,
    soft_byte=(0, "Q"), hard_byte=(8, "Q"), soft_packet=(16, "Q"), hard_packet=(24, "Q"),
    soft_add=(32, "Q"), hard_add=(40, "Q"), soft_use=(48, "Q"), hard_use=(56, "Q"),
)  # fmt: skip
LIFETIME_CURRENT = Layout(
    "xfrm_lifetime_cur", 32, bytes=(0, "Q"), packets=(8, "Q"), add_time=(16, "Q"), use_time=(24, "Q")
)
STATS = Layout("xfrm_stats", 12, replay_window=(0, "I"), replay=(4, "I"), integrity_failed=(8, "I"))
REPLAY = Layout("xfrm_replay_state", 12, oseq=(0, "I"), seq=(4, "I"), bitmap=(8, "I"))
REPLAY_ESN = Layout(
    "xfrm_replay_state_esn", 24,
    bmp_len=(0, "I"), oseq=(4, "I"), seq=(8, "I"), oseq_hi=(12, "I"), seq_hi=(16, "I"),
    replay_window=(20, "I"),
)  # fmt: skip
ALGO = Layout("xfrm_algo", 68, name=(0, "64s"), key_len=(64, "I"))
ALGO_AUTH = Layout("xfrm_algo_auth", 72, name=(0, "64s"), key_len=(64, "I"), trunc_len=(68, "I"))
ALGO_AEAD = Layout("xfrm_algo_aead", 72, name=(0, "64s"), key_len=(64, "I"), icv_len=(68, "I"))
USERSA_INFO = Layout(
    "xfrm_usersa_info", 224,
    sel=(0, SELECTOR), id=(56, ID), saddr=(80, ADDRESS), lft=(96, LIFETIME_CONFIG),
    curlft=(160, LIFETIME_CURRENT), stats=(192, STATS), seq=(204, "I"), reqid=(208, "I"), family=(212, "H"),
    mode=(214, "B"), replay_window=(215, "B"), flags=(216, "B"),
)  # fmt: skip
USERSA_ID = Layout(
    "xfrm_usersa_id", 24, daddr=(0, ADDRESS), spi=(16, "be32"), family=(20, "H"), proto=(22, "B")
)
USERSPI_INFO = Layout("xfrm_userspi_info", 232, info=(0, USERSA_INFO), min=(224, "I"), max=(228, "I"))
USERPOLICY_INFO = Layout(
    "xfrm_userpolicy_info", 168,
    sel=(0, SELECTOR), lft=(56, LIFETIME_CONFIG), curlft=(120, LIFETIME_CURRENT), priority=(152, "I"),
    index=(156, "I"), dir=(160, "B"), action=(161, "B"), flags=(162, "B"), share=(163, "B"),
)  # fmt: skip
USERPOLICY_ID = Layout("xfrm_userpolicy_id", 64, sel=(0, SELECTOR), index=(56, "I"), dir=(60, "B"))
USER_TMPL = Layout(
    "xfrm_user_tmpl", 64,
    id=(0, ID), family=(24, "H"), saddr=(28, ADDRESS), reqid=(44, "I"), mode=(48, "B"), share=(49, "B"),
    optional=(50, "B"), aalgos=(52, "I"), ealgos=(56, "I"), calgos=(60, "I"),
)  # fmt: skip
ENCAP_TMPL = Layout(
    "xfrm_encap_tmpl", 24, type=(0, "H"), sport=(2, "be16"), dport=(4, "be16"), oa=(8, ADDRESS)
)
AEVENT_ID = Layout(
    "xfrm_aevent_id", 48, sa_id=(0, USERSA_ID), saddr=(24, ADDRESS), flags=(40, "I"), reqid=(44, "I")
)
USER_ACQUIRE = Layout(
    "xfrm_user_acquire", 280,
    id=(0, ID), saddr=(24, ADDRESS), sel=(40, SELECTOR), policy=(96, USERPOLICY_INFO), aalgos=(264, "I"),
    ealgos=(268, "I"), calgos=(272, "I"), seq=(276, "I"),
)  # fmt: skip
USER_EXPIRE = Layout("xfrm_user_expire", 232, state=(0, USERSA_INFO), hard=(224, "B"))
USER_POLEXPIRE = Layout("xfrm_user_polexpire", 176, pol=(0, USERPOLICY_INFO), hard=(168, "B"))
USER_REPORT = Layout("xfrm_user_report", 60, proto=(0, "B"), sel=(4, SELECTOR))
USER_KMADDRESS = Layout(
    "xfrm_user_kmaddress", 40, local=(0, ADDRESS), remote=(16, ADDRESS), reserved=(32, "I"), family=(36, "H")
)
USER_MIGRATE = Layout(
    "xfrm_user_migrate", 76,
    old_daddr=(0, ADDRESS), old_saddr=(16, ADDRESS), new_daddr=(32, ADDRESS), new_saddr=(48, ADDRESS),
    proto=(64, "B"), mode=(65, "B"), reserved=(66, "H"), reqid=(68, "I"), old_family=(72, "H"),
    new_family=(74, "H"),
)  # fmt: skip
USER_MAPPING = Layout(
    "xfrm_user_mapping", 64,
    id=(0, USERSA_ID), reqid=(24, "I"), old_saddr=(28, ADDRESS), new_saddr=(44, ADDRESS),
    old_sport=(60, "be16"), new_sport=(62, "be16"),
)  # fmt: skip
ADDRESS_FILTER = Layout(
    "xfrm_address_filter", 36,
    saddr=(0, ADDRESS), daddr=(16, ADDRESS), family=(32, "H"), splen=(34, "B"), dplen=(35, "B"),
)  # fmt: skip
USER_OFFLOAD = Layout("xfrm_user_offload", 8, ifindex=(0, "i"), flags=(4, "B"))
USERPOLICY_TYPE = Layout("xfrm_userpolicy_type", 6, type=(0, "B"))
USERPOLICY_DEFAULT = Layout("xfrm_userpolicy_default", 3, in_=(0, "B"), fwd=(1, "B"), out=(2, "B"))
USER_SEC_CTX = Layout(
    "xfrm_user_sec_ctx", 8, len=(0, "H"), exttype=(2, "H"), alg=(4, "B"), doi=(5, "B"), ctx_len=(6, "H")
)
MARK = Layout("xfrm_mark", 8, v=(0, "I"), m=(4, "I"))
SAD_HINFO = Layout("xfrmu_sadhinfo", 8, sadhcnt=(0, "I"), sadhmcnt=(4, "I"))
SPD_INFO = Layout(
    "xfrmu_spdinfo", 24,
    incnt=(0, "I"), outcnt=(4, "I"), fwdcnt=(8, "I"), inscnt=(12, "I"), outscnt=(16, "I"), fwdscnt=(20, "I"),
)  # fmt: skip
SPD_HINFO = Layout("xfrmu_spdhinfo", 8, spdhcnt=(0, "I"), spdhmcnt=(4, "I"))
SPD_HTHRESH = Layout("xfrmu_spdhthresh", 2, lbits=(0, "B"), rbits=(1, "B"))
USERSA_FLUSH = Layout("xfrm_usersa_flush", 1, proto=(0, "B"))
