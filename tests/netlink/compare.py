"""Two answers to one request, made comparable: what may differ is taken out, and only that."""

from __future__ import annotations

import struct
import sys

from netlink.kernel import Answer
from uxfrm.netlink.constants import Xfrm
from uxfrm.netlink.wire import HEADER, messages

# Offsets, in a message's payload, of the wall-clock seconds of addition and use.
_ADDED = {
    Xfrm.NEWSA: 160 + 16, Xfrm.UPDSA: 160 + 16, Xfrm.EXPIRE: 160 + 16, Xfrm.NEWPOLICY: 120 + 16,
    Xfrm.UPDPOLICY: 120 + 16, Xfrm.POLEXPIRE: 120 + 16, Xfrm.DELSA: 24 + 4 + 160 + 16,
    Xfrm.DELPOLICY: 64 + 4 + 120 + 16, Xfrm.ACQUIRE: 96 + 120 + 16,
}  # fmt: skip

_ACQUIRE_SEQ = slice(276, 280)
"""The number of a question, which a kernel counts for all its namespaces."""


def comparable(answer: Answer, port: int) -> list[list[str]]:
    """Each message as text: type, flags, sequence number, "own" for the requester's port, payload in hex."""
    return [[_message(m, port) for d in side for m in messages(d)] for side in answer]


def _message(m: object, port: int) -> str:
    kind, flags, seq, pid, payload = m  # type: ignore[misc]
    at = _ADDED.get(kind)
    if kind == Xfrm.NEWAE:  # behind the replay state, whose size varies
        at = 48 + int.from_bytes(payload[48:50], sys.byteorder) + 4 + 16
    if at is not None and len(payload) >= at + 16:
        payload = payload[:at] + bytes(16) + payload[at + 16 :]
    if kind == Xfrm.ACQUIRE and len(payload) >= _ACQUIRE_SEQ.stop:
        payload = payload[: _ACQUIRE_SEQ.start] + bytes(4) + payload[_ACQUIRE_SEQ.stop :]
    name = Xfrm(kind).name if kind in list(Xfrm) else str(kind)
    return f"{name} {flags:#x} {seq} {'own' if pid == port else pid} {payload.hex()}"


def request(kind: int, body: bytes, flags: int = 5, seq: int = 7, pid: int = 0) -> bytes:
    """A request with its header."""
    return HEADER.pack(HEADER.size + len(body), kind, flags, seq, pid) + body


def attribute(kind: int, payload: bytes) -> bytes:
    """An attribute made without uxfrm's help."""
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)
