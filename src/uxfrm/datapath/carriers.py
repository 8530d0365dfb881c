"""What carries ESP between the IP header and its own: nothing, UDP (RFC 3948) or a TCP stream (RFC 9329).

The kinds are those of struct xfrm_encap_tmpl; a packet's and a state's column `encap` hold them.
"""

from __future__ import annotations

from numba import int64

from uxfrm.compiled import compiled

ESPINUDP, ESPINTCP = 2, 7

UDP, TCP = 17, 6
_ESP = 50


@compiled(int64(int64))
def named(encap: int) -> int:
    """The protocol that the IP header around received ESP names."""
    if encap == ESPINUDP:
        return UDP
    return TCP if encap == ESPINTCP else _ESP


@compiled(int64(int64))
def before(encap: int) -> int:
    """Bytes between the IP header and received ESP: a UDP or a TCP header, beginning with the ports."""
    if encap == ESPINUDP:
        return 8
    return 20 if encap == ESPINTCP else 0


@compiled(int64(int64))
def added(encap: int) -> int:
    """Bytes that sending adds in front of ESP: a UDP header, or the length in front of a message."""
    if encap == ESPINUDP:
        return 8
    return 2 if encap == ESPINTCP else 0
