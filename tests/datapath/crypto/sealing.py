"""Laying packets out for seal and open_, and taking them back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from uxfrm.datapath.crypto import single
from uxfrm.datapath.crypto.batch import open_, seal
from uxfrm.datapath.crypto.keyring import Keyring
from uxfrm.model import algorithm as algo
from uxfrm.model.algorithm import Algorithm

ENGINES = ("ipsec_mb", "libcrypto", "libnettle")
GAP = 13  # odd, so that nothing is aligned


@dataclass
class Packet:
    """One job's bytes: SPI and sequence number, IV, text, ICV."""

    slot: int
    head: bytes
    iv: bytes
    text: bytes
    icv: bytes = b""
    high: int = -1
    result: int = 9

    def bytes(self) -> bytes:
        return self.head + self.iv + self.text + self.icv


def lay(ring: Keyring, packets: list[Packet]) -> tuple[Any, Any]:
    """The buffer and the jobs of some packets."""
    data = bytearray()
    jobs = np.zeros((len(packets), 8), np.int64)
    for i, packet in enumerate(packets):
        data += bytes([0xA5]) * GAP
        header = len(data)
        text = header + len(packet.head) + len(packet.iv)
        jobs[i] = (packet.slot, header, header + 8, text, len(packet.text), packet.high, 9, 9)
        icv = packet.icv or bytes(int(ring.rows[packet.slot]["icv_bytes"]))
        data += packet.head + packet.iv + packet.text + icv
    return np.frombuffer(data + bytes([0xA5]) * GAP, np.uint8), jobs


def run(function: Any, ring: Keyring, packets: list[Packet]) -> list[Packet]:
    """Run a batch; nothing outside the texts and ICVs may change."""
    data, jobs = lay(ring, packets)
    before = data.tobytes()
    function(ring.functions, ring.rows, ring.scratch, data, jobs, len(packets))
    found = []
    end = 0
    for packet, job in zip(packets, jobs, strict=True):
        text, length = int(job[single.TEXT]), int(job[single.LENGTH])
        assert data[end:text].tobytes() == before[end:text]
        end = text + length + int(ring.rows[packet.slot]["icv_bytes"])
        body, icv = data[text : text + length].tobytes(), data[text + length : end].tobytes()
        result = int(job[single.RESULT])
        found.append(Packet(packet.slot, packet.head, packet.iv, body, icv, packet.high, result))
    assert data[end:].tobytes() == before[end:]
    return found


def sealed(ring: Keyring, *packets: Packet) -> list[Packet]:
    return run(seal, ring, list(packets))


def opened(ring: Keyring, *packets: Packet) -> list[Packet]:
    return run(open_, ring, list(packets))


def slot_for(
    ring: Keyring,
    aead: tuple[str, bytes, int] | None = None,
    auth: tuple[str, bytes, int] | None = None,
    crypt: tuple[str, bytes] | None = None,
) -> int:
    """A slot by names, keys and ICV bits."""
    return ring.add(
        aead=Algorithm(*aead) if aead else None,
        auth=Algorithm(*auth) if auth else None,
        crypt=algo.crypt(*crypt) if crypt else None,
    )
