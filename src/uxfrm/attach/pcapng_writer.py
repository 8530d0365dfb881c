"""Write packets as pcapng, with a comment on each: what Wireshark then shows in the packet list.

Follows: draft-ietf-opsawg-pcapng "Section Header Block", "Interface Description Block", "Enhanced Packet
Block", "Options". Little-endian, nanoseconds, one section. Writes at once and never seeks: a pipe will do.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

from uxfrm import __version__
from uxfrm.attach.pcap_walk import ENHANCED_PACKET, INTERFACE_DESCRIPTION, SECTION_HEADER

_OPT_COMMENT, _SHB_USERAPPL, _IF_NAME, _IF_TSRESOL = 1, 4, 2, 9
_OPTION_MAX = 0xFFFF
_SNAPLEN = 0  # no limit
_CUT = "…".encode()


def _option(code: int, value: bytes) -> bytes:
    """One option, padded to 32 bits."""
    return struct.pack("<HH", code, len(value)) + value + bytes(-len(value) % 4)


def _text(code: int, text: str) -> bytes:
    """A text option; one that is longer than an option can be ends in an ellipsis."""
    value = text.encode(errors="replace")
    if len(value) > _OPTION_MAX:
        kept = value[: _OPTION_MAX - len(_CUT)].decode(errors="ignore")
        value = kept.encode() + _CUT
    return _option(code, value)


def _block(kind: int, body: bytes, options: bytes = b"") -> bytes:
    """A block: type, length, body, options, length again."""
    end = bytes(4) if options else b""  # opt_endofopt
    size = struct.pack("<I", 12 + len(body) + len(options) + len(end))
    return struct.pack("<I", kind) + size + body + options + end + size


class PcapngWriter:
    """Writes to `file`, which stays the caller's to flush and close.

    `link` is the LINKTYPE_ of interface 0 (101: raw IP); `application` names the writer of the file.
    """

    def __init__(self, file: BinaryIO, link: int = 101, application: str = f"uxfrm {__version__}") -> None:
        self._file = file
        self._interfaces = 0
        section = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
        file.write(_block(SECTION_HEADER, section, _text(_SHB_USERAPPL, application)))
        self.add_interface(link)

    def add_interface(self, link: int, name: str = "") -> int:
        """Describe one more interface; return its number."""
        options = (_text(_IF_NAME, name) if name else b"") + _option(_IF_TSRESOL, bytes([9]))
        self._file.write(_block(INTERFACE_DESCRIPTION, struct.pack("<HHI", link, 0, _SNAPLEN), options))
        self._interfaces += 1
        return self._interfaces - 1

    def write(
        self,
        packet: bytes,
        time_ns: int,
        comment: str | None = None,
        interface: int = 0,
        wire_length: int | None = None,
    ) -> None:
        """Write one packet at `time_ns` since 1970; `wire_length` in bytes if `packet` is not all of it."""
        if not 0 <= interface < self._interfaces:
            raise ValueError(f"interface {interface} of {self._interfaces}")
        time = max(time_ns, 0)
        length = len(packet)
        wire = length if wire_length is None else wire_length
        head = struct.pack("<IIIII", interface, time >> 32, time & 0xFFFFFFFF, length, wire)
        options = _text(_OPT_COMMENT, comment) if comment else b""
        self._file.write(_block(ENHANCED_PACKET, head + packet + bytes(-length % 4), options))
