"""The language of programs: NETLINK_XFRM. The client's half is here; the other one is `netlink.server`."""

from uxfrm.netlink.client import Client, EventsLost, Transport

__all__ = ["Client", "EventsLost", "Transport"]
