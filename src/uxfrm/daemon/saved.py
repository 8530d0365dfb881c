"""Policies, defaults and thresholds on disk, for a daemon that starts again.

The file holds the netlink requests that bring them back, oldest policy first, so what is restored is checked
as any request is. States are never written: they are secret, and a sequence number that was used after the
last write would be used twice with one key.

Follows: `ip route save`, whose files are such messages too.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Iterator
from pathlib import Path

from uxfrm.daemon import logs
from uxfrm.daemon.wholefile import own_directory, replace
from uxfrm.model.dump import PolicyDump
from uxfrm.model.policy import OWN
from uxfrm.namespace import Namespace
from uxfrm.netlink import encode
from uxfrm.netlink import layouts as L
from uxfrm.netlink.constants import SpdAttr, Xfrm
from uxfrm.netlink.server import Server
from uxfrm.netlink.wire import NLM_F_REQUEST, Message, aligned, attribute, messages, padded

_MAGIC = b"uxfrm policies 1\n"
_PERIOD_S = 1.0
_AT_ONCE = 256
_RESTORED = {Xfrm.SETDEFAULT, Xfrm.NEWSPDINFO, Xfrm.NEWPOLICY}


class SavedPolicies:
    """The file of one namespace, in a directory that is the daemon's alone."""

    def __init__(self, directory: Path, server: Server) -> None:
        """Make the directory if it is not there. OSError where it is not ours, or others may write to it."""
        self.path = own_directory(directory) / "policies"
        self._server = server
        self._written = self._version()

    def _version(self) -> object:
        policies = self._server.namespace.policies
        return policies.generation, policies.thresholds4, policies.thresholds6

    def restore(self) -> int:
        """Bring back what was saved; how many policies. OSError for a file that is damaged or refused."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return 0
        if not data.startswith(_MAGIC):
            raise self._damaged()
        requests = list(messages(data[len(_MAGIC) :]))
        whole = sum(aligned(16 + len(x.payload)) for x in requests)
        if len(_MAGIC) + whole != len(data) or not {x.type for x in requests} <= _RESTORED:
            raise self._damaged()
        self._carry_out(requests)
        self._written = self._version()
        return len(self._server.namespace.policies)

    def _carry_out(self, requests: list[Message]) -> None:
        port = self._server.open(0, capable=True)
        try:
            for request in requests:
                self._server.receive(port, request.pack())
                if port.next() is not None:
                    raise self._damaged()
        finally:
            self._server.close(port)

    def _damaged(self) -> OSError:
        return OSError(errno.EINVAL, "damaged, or of another version", str(self.path))

    async def keep(self) -> None:
        """Save what has changed, until cancelled: once a second, or for a tenth of the time."""
        loop, took = asyncio.get_running_loop(), 0.0
        while True:
            await asyncio.sleep(max(_PERIOD_S, 9 * took))
            began = loop.time()
            try:
                await self._save_in_turns()
            except OSError as error:
                logs.error("policies not saved", path=self.path, errno=errno.errorcode.get(error.errno or 0))
            took = loop.time() - began

    async def _save_in_turns(self) -> None:
        version = self._version()
        if version == self._written:
            return
        dumps = self._dumps()
        parts = [_settings(self._server.namespace)]
        for start in range(0, len(dumps), _AT_ONCE):
            parts += _policies(dumps[start : start + _AT_ONCE])
            await asyncio.sleep(0)
        replace(self.path, _MAGIC + b"".join(parts))
        self._written = version

    def _dumps(self) -> list[PolicyDump]:
        """All policies, oldest first; those of sockets go with their sockets."""
        dumps = self._server.namespace.dump_policies()
        return [dump for dump in dumps if dump.config.direction < OWN][::-1]

    def save(self) -> None:
        """Save now, if anything has changed. Raises OSError."""
        version = self._version()
        if version != self._written:
            dumps = self._dumps()
            parts = [_settings(self._server.namespace), *_policies(dumps)]
            replace(self.path, _MAGIC + b"".join(parts))
            self._written = version


def _request(kind: Xfrm, payload: bytes) -> bytes:
    return padded(Message(kind, NLM_F_REQUEST, 0, 0, payload).pack())


def _settings(namespace: Namespace) -> bytes:
    in_, fwd, out = namespace.get_default()
    ipv4, ipv6 = namespace.get_thresholds()
    thresholds = attribute(SpdAttr.IPV4_HTHRESH, bytes(ipv4)) + attribute(SpdAttr.IPV6_HTHRESH, bytes(ipv6))
    defaults = padded(L.USERPOLICY_DEFAULT.pack(in_=in_, fwd=fwd, out=out))
    return _request(Xfrm.SETDEFAULT, defaults) + _request(Xfrm.NEWSPDINFO, bytes(4) + thresholds)


def _policies(dumps: list[PolicyDump]) -> Iterator[bytes]:
    return (_request(Xfrm.NEWPOLICY, encode.policy(dump)) for dump in dumps)
