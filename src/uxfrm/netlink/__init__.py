"""The language of programs: NETLINK_XFRM, its server's half and its client's."""

from uxfrm.netlink.client import Client, EventsLost, Transport
from uxfrm.netlink.memory import connect
from uxfrm.netlink.server import Server

__all__ = ["Client", "EventsLost", "Server", "Transport", "connect"]
