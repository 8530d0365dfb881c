"""A namespace served to supervisors: `uxfrm daemon` for everybody's, `private` for those of one command."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
import resource
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from uxfrm.daemon import logs, notify, privileges
from uxfrm.daemon.access import OWN_ALONE, Access, Rights, Visitor
from uxfrm.daemon.attached import Attached, Wanted
from uxfrm.daemon.control import PORTS_MAX, PORTS_OF_OTHERS, ControlledEngine
from uxfrm.daemon.numbers import Numbers
from uxfrm.daemon.ports import Hub
from uxfrm.daemon.saved import SavedPolicies
from uxfrm.intercept.remote import serve_control
from uxfrm.namespace import Namespace
from uxfrm.netlink.constants import Xfrm
from uxfrm.netlink.server import Port, Server

_BACKLOG = 64
CONNECTIONS_MAX = 256
CONNECTIONS_OF_OTHERS = 32
"""Control connections, and those of one user who is neither the daemon's own nor root."""
_OTHER_FILES = CONNECTIONS_MAX + 64
_FILES_MAX = 1 << 16
_PAUSE_S = 1.0


class Service:
    """One namespace, its clients' sockets, and the control connections of supervisors, on one event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        namespace = Namespace(randbytes=os.urandom, now_s=time.time())
        self._loop = loop
        self.server = Server(namespace, os.cpu_count() or 1)
        self.server.refused = _tell_refused if logs.debugging() else None
        self.hub = Hub(self.server, loop, max(_allow_files() - _OTHER_FILES, 16))
        self._connections: dict[socket.socket, int] = {}
        self._count = 0
        self.ended = asyncio.Event()
        self.failed = False

    def fail(self) -> None:
        """End, for something cannot go on."""
        self.failed = True
        self.ended.set()

    def control(self, connection: socket.socket, rights: Rights, uid: int = 0, last: bool = False) -> int:
        """Serve a control connection of a user; with `last`, its end is the service's. Its number.

        Other users may have few ports, and none beyond their connection: they can't use up all there are.
        """
        other = uid not in (0, os.geteuid())
        engine = ControlledEngine(self.hub, rights, PORTS_OF_OTHERS if other else PORTS_MAX)
        connection.setblocking(False)
        self._count += 1
        number, self._connections[connection] = self._count, uid

        def readable() -> None:
            try:
                alive = serve_control(connection, engine)
            except Exception as error:
                logs.failure("connection failed", error, connection=number)
                alive = False
            if not alive:
                self._loop.remove_reader(connection)
                del self._connections[connection]
                connection.close()
                if other:
                    engine.close()
                logs.info("disconnected", connection=number)
                if last:
                    self.ended.set()

        self._loop.add_reader(connection, readable)
        return number

    def accept(self, listener: socket.socket, access: Access) -> None:
        """Take control connections of those whom `access` admits."""
        listener.setblocking(False)

        def readable() -> None:
            try:
                self._take(listener, access)
            except (BlockingIOError, ConnectionError):
                return
            except OSError as error:
                # Out of files or memory: the connection still waits, and would wake us for ever.
                logs.error("not accepting", errno=errno.errorcode.get(error.errno or 0))
                self._loop.remove_reader(listener)
                self._loop.call_later(_PAUSE_S, self._resume, listener, readable)

        self._loop.add_reader(listener, readable)

    def _resume(self, listener: socket.socket, readable: object) -> None:
        if listener.fileno() >= 0:
            self._loop.add_reader(listener, readable)  # type: ignore[arg-type]

    def _take(self, listener: socket.socket, access: Access) -> None:
        connection, _ = listener.accept()
        try:
            visitor = Visitor.of(connection)
            why = self._against(visitor, access)
        except OSError:
            connection.close()
            raise
        if why:
            connection.close()
            logs.warning("refused", uid=visitor.uid, pid=visitor.pid, why=why)
            return
        rights = access.rights(visitor)
        number = self.control(connection, rights, visitor.uid)
        told = {"uid": visitor.uid, "pid": visitor.pid, "rights": rights.value}
        logs.info("connected", connection=number, **told)

    def _against(self, visitor: Visitor, access: Access) -> str:
        """Why a visitor is turned away; empty if it is not."""
        if not access.admits(visitor):
            return "another user"
        if len(self._connections) >= CONNECTIONS_MAX:
            return "too many connections"
        if not visitor.own and Counter(self._connections.values())[visitor.uid] >= CONNECTIONS_OF_OTHERS:
            return "too many connections of this user"
        return ""

    def stop(self) -> None:
        """Close everything."""
        self.hub.stop()
        for connection in self._connections:
            self._loop.remove_reader(connection)
            connection.close()


def _tell_refused(port: Port, kind: int, number: int) -> None:
    name = Xfrm(kind).name if kind in list(Xfrm) else kind
    logs.debug("request refused", port=port.id, type=name, errno=errno.errorcode.get(number, number))


def _allow_files() -> int:
    """Raise the soft limit of open files as far as that goes; how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, _FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _FILES_MAX if soft == resource.RLIM_INFINITY else soft


async def _private(control: int, ready: int) -> None:
    logs.configure("text", "error")
    service = Service(asyncio.get_running_loop())
    relax_collector()
    service.control(socket.socket(fileno=control), Rights.TRUSTED, last=True)
    privileges.give_up(())
    os.close(ready)
    await service.ended.wait()
    service.stop()


def listen(path: Path, mode: int, group: int = -1) -> socket.socket:
    """The daemon's socket at `path`, with `mode` from its first moment on, and a group unless it is -1.

    OSError where one is alive.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    if path.is_socket() and not _alive(path):
        path.unlink()
    before = os.umask(0o777 & ~(0o600 if group >= 0 else mode))
    try:
        listener.bind(str(path))
    finally:
        os.umask(before)
    if group >= 0:
        os.chown(path, -1, group)
        path.chmod(mode)
    listener.listen(_BACKLOG)
    return listener


def _alive(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


_COLLECT_AFTER = 100_000


def relax_collector() -> None:
    """Let Python look for garbage in cycles rarely, and never among what is there when service begins.

    Tables of 100,000 policies are a million objects without cycles; looking through them again and again as
    they grow takes a quarter of the time of adding them. To be called once everything is imported.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)


@dataclass(frozen=True)
class Options:
    """What `uxfrm daemon` is told. `group` is the socket's, -1 to leave it; `attach` says whose packets.

    `setup` fills the tables before anything is served; what it returns keeps account of sequence numbers.
    """

    path: Path
    mode: int = 0o600
    group: int = -1
    access: Access = OWN_ALONE
    state_dir: Path | None = None
    attach: Wanted | None = None
    setup: Callable[[Namespace], Numbers] | None = None


async def daemon(options: Options) -> bool:
    """Serve until SIGTERM or SIGINT; the socket goes with the daemon. False where something failed.

    Raises OSError, AttachmentError.
    """
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_unexpected)
    if options.attach is not None:
        options.attach.demand_rights()
    service = Service(loop)
    relax_collector()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, service.ended.set)
    saved = _restored(options, service)
    listener = listen(options.path, options.mode, options.group)
    attached = None
    try:
        numbers = options.setup(service.server.namespace) if options.setup is not None else None
        if options.attach is not None:
            attached = Attached(service.hub, options.attach, service.fail, numbers)
        kept = _give_up_rights(options, attached)
        for written in (saved, numbers):
            if written is not None:
                privileges.check_writable(written.path.parent)
        await _serve(listener, options, service, saved, kept)
    finally:
        listener.close()
        with suppress(PermissionError):  # in a directory of another's; the next daemon replaces a dead socket
            options.path.unlink(missing_ok=True)
        if attached is not None:
            attached.close()
    return not service.failed


def _give_up_rights(options: Options, attached: Attached | None) -> str:
    """Keep what following policies and asking about visitors takes, on every thread; say what that is."""
    keep = set(options.access.rights_to_ask)
    if attached is not None:
        keep |= attached.rights_to_go_on
        attached.surroundings.ask(lambda: privileges.give_up(keep))
    privileges.give_up(keep)
    if threads := privileges.threads_beyond(keep):
        logs.warning("threads that libraries started keep rights", threads=threads)
    return privileges.show(keep)


async def _serve(
    listener: socket.socket, options: Options, service: Service, saved: SavedPolicies | None, rights: str
) -> None:
    """Let supervisors connect, until it ends."""
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(saved.keep())] if saved else []
    tasks += [loop.create_task(_sign_of_life(period))] if (period := notify.watchdog_s()) else []
    service.accept(listener, options.access)
    logs.info("serving NETLINK_XFRM to supervisors", socket=options.path, pid=os.getpid(), rights=rights)
    notify.tell("READY=1")
    await service.ended.wait()
    notify.tell("STOPPING=1")
    await _cancel(tasks)
    loop.remove_reader(listener)
    service.stop()
    if saved:
        saved.save()
    logs.info("stopped")


def _restored(options: Options, service: Service) -> SavedPolicies | None:
    if options.state_dir is None:
        return None
    saved = SavedPolicies(options.state_dir, service.server)
    logs.info("restored", policies=saved.restore(), path=saved.path)
    return saved


async def _sign_of_life(period_s: float) -> None:
    while True:
        notify.tell("WATCHDOG=1")
        await asyncio.sleep(period_s)


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _unexpected(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """What no callback caught: told without its text, and the loop goes on."""
    caught = context.get("exception")
    logs.failure("unexpected", caught if isinstance(caught, BaseException) else RuntimeError())


if __name__ == "__main__":
    asyncio.run(_private(int(sys.argv[1]), int(sys.argv[2])))
