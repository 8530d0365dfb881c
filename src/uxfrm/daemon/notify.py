"""Telling systemd how the daemon is. Follows: sd_notify(3), the part that a few lines can do."""

from __future__ import annotations

import os
import socket


def tell(state: str) -> None:
    """Send `state`, such as READY=1, to the service manager; nothing without one, or if it is not there."""
    path = os.environ.get("NOTIFY_SOCKET", "")
    if path[:1] not in ("/", "@"):
        return
    address = "\0" + path[1:] if path.startswith("@") else path
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.sendto(state.encode(), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, address)
    except OSError:
        return


def watchdog_s() -> float | None:
    """Seconds between signs of life that the service manager wants, twice as often as it must; or None."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    wanted_of = os.environ.get("WATCHDOG_PID", "")
    if not microseconds.isdigit() or (wanted_of and wanted_of != str(os.getpid())):
        return None
    return max(int(microseconds) / 2e6, 0.1)
