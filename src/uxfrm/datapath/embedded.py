"""The packet inside an ICMP error, as the flow of its answer: what states and policies with flag icmp go by.

Follows: xfrm_icmp_flow_decode. The sender cut the packet, so that its own lengths and checksum say nothing;
whatever is there is read as far as it goes.
"""

from __future__ import annotations

import numpy as np

from uxfrm.datapath.batch import Batch
from uxfrm.datapath.context import flow_of
from uxfrm.datapath.flowtable import INPUT, KEY_COLUMNS, flow_key
from uxfrm.datapath.headers import parse, write_checksum
from uxfrm.model.flow import Flow

_ICMP_HEADER = 8


def embedded_flow(packet: bytes, outer: Flow) -> Flow | None:
    """The reversed flow of what an ICMP error is about, with mark and interface of the error's own flow.

    None where no header can be read. The IP header counts as one without options, as in Linux.
    """
    header = 20 if outer.family == 2 else 40
    inner = bytearray(packet[header + _ICMP_HEADER :])
    if len(inner) < header or inner[0] >> 4 != packet[0] >> 4:
        return None
    size, at = (len(inner), 2) if header == 20 else (len(inner) - header, 4)
    inner[at : at + 2] = size.to_bytes(2)
    batch, key = Batch.pack([bytes(inner)]), np.zeros(KEY_COLUMNS, np.int64)
    start, length = int(batch.packets[0]["offset"]), (inner[0] & 15) * 4
    if header == 20 and 20 <= length <= len(inner):
        write_checksum(batch.data, start, length)
    if parse(batch.data, batch.packets, 0):
        return None
    flow_key(batch.data, batch.packets, 0, INPUT, key)
    return flow_of(key).reversed()._replace(mark=outer.mark, oif=outer.oif)
