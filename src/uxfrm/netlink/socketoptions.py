"""The socket options IP_XFRM_POLICY and IPV6_XFRM_POLICY. Follows: xfrm_user_policy, xfrm_compile_policy.

getsockopt() knows neither, in Linux too.
"""

from __future__ import annotations

import errno

from uxfrm.lifecycle.sockets import Socket
from uxfrm.model.error import XfrmError, invalid
from uxfrm.netlink import decode
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import Attr

LENGTH_MAX = 4096
"""The length of a page: no option may be longer."""


def set_policy(socket: Socket, family: int, payload: bytes | None, capable: bool) -> None:
    """Set a socket's policy as setsockopt() does; None, which is no pointer and no length, takes both away.

    `family` is the option's: AF_INET or AF_INET6. `payload` is struct xfrm_userpolicy_info and templates.
    XfrmError EPERM without CAP_NET_ADMIN, EMSGSIZE, EOPNOTSUPP for the other family's option, EINVAL.
    """
    if not capable:
        raise XfrmError(errno.EPERM)
    if payload is None:
        socket.clear()
        return
    if not 0 < len(payload) <= LENGTH_MAX:
        raise XfrmError(errno.EMSGSIZE)
    if family != socket.family:
        raise XfrmError(errno.EOPNOTSUPP)
    if len(payload) < L.USERPOLICY_INFO.size:
        raise invalid()
    info, templates = L.USERPOLICY_INFO.unpack(payload), payload[L.USERPOLICY_INFO.size :]
    socket.set_policy(decode.policy(info, {Attr.TMPL: templates}))
