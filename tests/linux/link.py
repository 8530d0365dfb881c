"""The Ethernet link to the guest's vec0: one datagram of a SOCK_SEQPACKET socket is one frame.

vec0 connects to a listening socket each time that it is brought up. (Handed a socketpair it would work once: the
driver closes the descriptor when the device goes down, and a device goes down when it changes namespaces.) So
every namespace begins with an empty link.
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from pathlib import Path

from linux.uml import GuestError

BUFFER = 8 << 20
SO_SNDBUFFORCE = 32
# Where multicast listener reports go. Linux sends them for every IPv6 address, at random times.
MLD_GROUP = bytes.fromhex("333300000016")


class Link:
    """The host's end. Frames that the guest sent wait here until they are received."""

    def __init__(self, path: Path) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen(8)
        self._listener.setblocking(False)
        self._peer: socket.socket | None = None
        self._frames: deque[bytes] = deque()

    def send(self, frame: bytes) -> None:
        """Send, and wait for room if there is none; what arrives meanwhile is kept."""
        peer = self._current()
        until = time.monotonic() + 10
        while True:
            try:
                peer.send(frame, socket.MSG_DONTWAIT)
                return
            except BlockingIOError:
                self._read(peer)
            except OSError as error:
                raise GuestError(f"the guest's vec0 went down: {error}") from error
            if time.monotonic() > until:
                raise GuestError("the guest has read no frame for 10 seconds")
            select.select([peer], [peer], [], 0.1)

    def receive(self, timeout: float) -> bytes | None:
        """Return the guest's next frame; None after this many seconds without one."""
        until = time.monotonic() + timeout
        while not self._frames:
            peer = self._current()
            if self._read(peer):
                continue
            left = until - time.monotonic()
            if left <= 0 or not select.select([peer], [], [], left)[0]:
                return None
        return self._frames.popleft()

    def restart(self) -> None:
        """Forget what was connected and what waits."""
        self._frames.clear()
        if self._peer:
            self._peer.close()
            self._peer = None

    def close(self) -> None:
        self.restart()
        self._listener.close()

    def _current(self) -> socket.socket:
        """Return the newest connection: the device may have gone down and up since the last frame."""
        with contextlib.suppress(BlockingIOError):
            while True:
                peer, _ = self._listener.accept()
                self.restart()
                with contextlib.suppress(PermissionError):
                    peer.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, BUFFER)
                self._peer = peer
        if self._peer is None:
            raise GuestError("the guest's vec0 is down")
        return self._peer

    def _read(self, peer: socket.socket) -> bool:
        """Take in all that has arrived; False if there was nothing."""
        before = len(self._frames)
        while True:
            try:
                frame = peer.recv(1 << 16, socket.MSG_DONTWAIT)
            except (BlockingIOError, ConnectionResetError):
                break
            if not frame:
                break
            if frame[:6] != MLD_GROUP:
                self._frames.append(frame)
        return len(self._frames) > before
