"""The devices of a namespace: which are xfrm interfaces, and which are exempt from XFRM by sysctl.

A device that was never added is an ordinary one. Follows: xfrm_interface_core.c, struct xfrmi_net; devinet.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

from uxfrm.model.address import AF_INET
from uxfrm.model.device import Device, XfrmInterface
from uxfrm.model.error import XfrmError, invalid
from uxfrm.model.sysctl import number

_SYSCTLS = (("ipv4", "disable_xfrm"), ("ipv4", "disable_policy"), ("ipv6", "disable_policy"))
_PARTS = 5


class DeviceTable:
    """Devices by index, xfrm interfaces by if_id. `changed` is told when packets may fare otherwise."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._devices: dict[int, Device] = {}
        self._by_if_id: dict[int, Device] = {}
        self._collecting: Device | None = None
        self._values = {(*entry, device): 0 for entry in _SYSCTLS for device in ("all", "default")}

    def get(self, ifindex: int) -> Device | None:
        """The device of an index, if it was added."""
        return self._devices.get(ifindex)

    def xfrmi(self, ifindex: int) -> XfrmInterface | None:
        """The xfrm interface of an index."""
        device = self._devices.get(ifindex)
        return None if device is None else device.xfrmi

    @property
    def has_interfaces(self) -> bool:
        """Whether packets can appear on an xfrm interface at all."""
        return bool(self._by_if_id) or self._collecting is not None

    def arrival(self, if_id: int) -> Device | None:
        """The interface on which packets of a state with `if_id` appear. Its link does not matter.

        Follows: xfrmi_lookup.
        """
        for device in (self._by_if_id.get(if_id), self._collecting):
            if device is not None and device.up:
                return device
        return None

    # -- changes

    def add(self, device: Device) -> None:
        """Add a device. XfrmError EINVAL and EEXIST as rtnetlink says them.

        Follows: xfrmi_newlink, register_netdevice.
        """
        if device.xfrmi is not None:
            device.xfrmi.check()
            taken = self._collecting if device.xfrmi.collect_md else self._by_if_id.get(device.xfrmi.if_id)
            if taken is not None:
                raise XfrmError(errno.EEXIST)
        if any(device.name == other.name for other in self._devices.values()):
            raise XfrmError(errno.EEXIST)
        if device.ifindex in self._devices:
            raise XfrmError(errno.EEXIST)
        self._values |= {(*entry, device.name): self._initial(entry, device) for entry in _SYSCTLS}
        self._link(device)

    def change(self, ifindex: int, wanted: XfrmInterface) -> None:
        """Give an xfrm interface another if_id. XfrmError ENODEV, EINVAL, EEXIST.

        Follows: xfrmi_changelink.
        """
        device = self._known(ifindex)
        if not wanted.if_id:
            raise invalid("if_id must be non zero")
        if wanted.collect_md or (device.xfrmi is not None and device.xfrmi.collect_md):
            raise invalid("collect_md can't be changed")
        if self._by_if_id.get(wanted.if_id, device) != device:
            raise XfrmError(errno.EEXIST)
        if device.xfrmi is None or device.xfrmi.link != wanted.link:
            raise invalid()
        self._unlink(device)
        self._link(replace(device, xfrmi=replace(device.xfrmi, if_id=wanted.if_id)))

    def set_up(self, ifindex: int, up: bool) -> None:
        """`ip link set NAME up`, `down`: no packet appears on an interface that is down. XfrmError ENODEV."""
        device = self._known(ifindex)
        self._unlink(device)
        self._link(replace(device, up=up))

    def delete(self, ifindex: int) -> None:
        """`ip link delete`, with the device's sysctls. XfrmError ENODEV."""
        device = self._known(ifindex)
        self._unlink(device)
        for entry in _SYSCTLS:
            del self._values[*entry, device.name]

    def _known(self, ifindex: int) -> Device:
        if ifindex not in self._devices:
            raise XfrmError(errno.ENODEV)
        return self._devices[ifindex]

    def _link(self, device: Device) -> None:
        self._devices[device.ifindex] = device
        if device.xfrmi is not None and device.xfrmi.collect_md:
            self._collecting = device
        elif device.xfrmi is not None:
            self._by_if_id[device.xfrmi.if_id] = device
        self._changed()

    def _unlink(self, device: Device) -> None:
        del self._devices[device.ifindex]
        if device.xfrmi is not None and device.xfrmi.collect_md:
            self._collecting = None
        elif device.xfrmi is not None:
            del self._by_if_id[device.xfrmi.if_id]
        self._changed()

    # -- sysctls

    def disable_xfrm(self, ifindex: int, family: int) -> bool:
        """No output lookup of if_id 0 for what is routed here: IPv4 only. Follows: DST_NOXFRM."""
        return family == AF_INET and self._either("ipv4", "disable_xfrm", ifindex)

    def disable_policy(self, ifindex: int, family: int) -> bool:
        """No policy check of what is received here. Follows: DST_NOPOLICY."""
        return self._either("ipv4" if family == AF_INET else "ipv6", "disable_policy", ifindex)

    def sysctl(self, name: str) -> int:
        """The value of net.ipv4.conf.DEV.disable_xfrm and its like. XfrmError ENOENT."""
        return self._values[self._key(name)]

    def set_sysctl(self, name: str, value: int | str) -> None:
        """Set one; a text is read as the kernel reads it. XfrmError ENOENT, EINVAL."""
        key = self._key(name)
        if value != "":
            self._values[key] = number(value)
            self._changed()

    def _initial(self, entry: tuple[str, str], device: Device) -> int:
        """Follows: inetdev_init, inetdev_event (NETDEV_REGISTER)."""
        if device.loopback and entry[0] == "ipv4":
            return 1
        return self._values[*entry, "default"]

    def _either(self, family: str, name: str, ifindex: int) -> bool:
        device = self._devices.get(ifindex)
        own = device is not None and self._values[family, name, device.name]
        return bool(own or self._values[family, name, "all"])

    def _key(self, name: str) -> tuple[str, str, str]:
        parts = name.split(".")
        if len(parts) == _PARTS and (parts[0], parts[2]) == ("net", "conf"):
            # As sysctl writes it: a dot in a device's name is a slash.
            key = parts[1], parts[4], parts[3].replace("/", ".")
            if key in self._values:
                return key
        raise XfrmError(errno.ENOENT)
