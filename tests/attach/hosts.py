"""Network namespaces for a test, made with unshare and gone when it is over; needs root.

A descriptor holds each; `inside` runs the caller in it, since sockets and devices stay where they were made.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import time
from collections.abc import Iterator

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Host:
    """One network namespace, with its loopback device up."""

    def __init__(self) -> None:
        with open("/proc/thread-self/ns/net") as home:
            if _libc.unshare(_CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number))
            try:
                self.descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            finally:
                _setns(home.fileno())
        self.run("ip link set lo up")

    @property
    def path(self) -> str:
        """A name for `ip link ... netns`."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Run the caller's thread in the namespace."""
        with open("/proc/thread-self/ns/net") as home:
            _setns(self.descriptor)
            try:
                yield
            finally:
                _setns(home.fileno())

    def run(self, command: str, check: bool = True) -> str:
        """A command's output; its errors fail the test."""
        with self.inside():
            done = subprocess.run(command.split(), capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 0 or not check, f"{command}: {done.stderr}"
        return done.stdout

    def start(self, *command: str, **more: object) -> subprocess.Popen[bytes]:
        """A process in the namespace."""
        with self.inside():
            return subprocess.Popen(command, **more)  # type: ignore[call-overload, no-any-return]

    def close(self) -> None:
        """Let the namespace go: with its last process and socket it is gone."""
        os.close(self.descriptor)


def join(left: Host, right: Host, mtu: int = 1500) -> None:
    """A veth between two hosts: eth0 of each, 192.0.2.x and 2001:db8::x, left x = 1 and right x = 2.

    They know each other's MAC: otherwise few packets wait for the first answer, and IPv6 takes a second.
    """
    left.run(
        f"ip link add eth0 address 02:00:00:00:00:01 mtu {mtu} type veth "
        f"peer name eth0 address 02:00:00:00:00:02 mtu {mtu} netns {right.path}"
    )
    for number, host in enumerate((left, right), 1):
        host.run(f"ip addr add 192.0.2.{number}/24 dev eth0")
        host.run(f"ip addr add 2001:db8::{number}/64 dev eth0 nodad")
        host.run("ip link set eth0 up")
        other = 3 - number
        for address in (f"192.0.2.{other}", f"2001:db8::{other}"):
            host.run(f"ip neigh replace {address} lladdr 02:00:00:00:00:0{other} dev eth0")
    for host in (left, right):
        _await_ipv6(host)


def _await_ipv6(host: Host) -> None:
    """Wait until IPv6 has seen that the link is up, which the kernel tells it a moment later."""
    for _ in range(250):
        if "state UP" in host.run("ip link show dev eth0") and host.run("ip -6 route show 2001:db8::/64"):
            return
        time.sleep(0.02)
    raise AssertionError("IPv6 does not come up")
