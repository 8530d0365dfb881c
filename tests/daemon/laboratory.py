"""Two hosts for programs under `uxfrm run`, inside namespaces that vanish with the experiment.

A test calls `experiment(file, folder)`; that runs the file as a program in new user, network, mount and
process namespaces. The program makes a `Laboratory`, does what it is for, and prints JSON. A veth pair joins
the hosts; each has a daemon, and programs started on it have a /run of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ike.charon import Charon, Settings
from ike.connection import OWN_RUN, PATH, Connection
from ike.pluto import Pluto
from waiting import until

UXFRM = [sys.executable, "-m", "uxfrm.cli.main"]
ADDRESS = {"a": "192.0.2.1", "b": "192.0.2.2"}
NET = {"a": "10.1.1.0/24", "b": "10.1.2.0/24"}
OTHER = {"a": "b", "b": "a"}

_NAMESPACES = ("--map-root-user", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_STATE = re.compile(r"^src (\S+) dst (\S+)\n\tproto esp spi 0x([0-9a-f]+) reqid \d+ mode (\w+)", re.M)
_POLICY = re.compile(r"^src (\S+) dst (\S+) .*\n\tdir (\w+) ", re.M)
_SEPARATOR = "\n--\n"


def experiment(file: str, root: Path, *arguments: Path | str) -> Any:
    """Run a file as a program in namespaces of its own, with a folder for it; return what it prints."""
    done = subprocess.run(
        ["unshare", *_NAMESPACES, sys.executable, file, *map(str, (root, *arguments))],
        env=dict(os.environ, PYTHONPATH=str(Path(__file__).parents[1])),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:] + _said(root)
    return json.loads(done.stdout)


def _said(root: Path) -> str:
    """What daemons and programs wrote, for whoever reads a failed test."""
    return "".join(f"\n{path.name}: {path.read_text()[-3000:]}" for path in root.glob("*.err"))


def states(text: str) -> set[tuple[str, ...]]:
    """Source, destination, SPI and mode of each state that `ip xfrm state` shows."""
    return set(_STATE.findall(text))


def policies(text: str) -> set[tuple[str, ...]]:
    """Source, destination and direction of each policy that `ip xfrm policy` shows."""
    return set(_POLICY.findall(text))


def keys(text: str) -> dict[str, list[str]]:
    """The keys of each SPI."""
    entries = re.split(r"^src ", text, flags=re.M)[1:]
    return {
        re.findall(r"spi 0x([0-9a-f]+)", entry)[0]: re.findall(r" (0x[0-9a-f]{20,})", entry)
        for entry in entries
    }


class Laboratory:
    """Host a is where this runs; host b is a network namespace that a sleeping process keeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sh("mount", "-t", "tmpfs", "none", "/run")
        self._keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        keeper = str(self._keeper.pid)
        until(lambda: self._namespace("self") != self._namespace(keeper))
        self._sh("ip", "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", keeper)
        for host in "ab":
            (root / host).mkdir()
            self.on(host, "ip", "addr", "add", f"{ADDRESS[host]}/24", "dev", f"v{host}")
            self.on(host, "ip", "link", "set", f"v{host}", "up")
            self.on(host, "ip", "link", "set", "lo", "up")
            self._begin(host, [*UXFRM, "daemon", "--socket", str(self._socket(host))], os.environ)
        for host in "ab":
            until(self._socket(host).exists)

    @staticmethod
    def _namespace(pid: str) -> str:
        return str(Path(f"/proc/{pid}/ns/net").readlink())

    @staticmethod
    def _sh(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def _socket(self, host: str) -> Path:
        return self.root / host / "socket"

    def _prefix(self, host: str) -> list[str]:
        return [] if host == "a" else ["nsenter", "--net", "--target", str(self._keeper.pid)]

    def _begin(
        self, host: str, command: Sequence[str], environment: Mapping[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.root / f"{host}.err").open("ab") as said:
            line = [*self._prefix(host), *command]
            return subprocess.Popen(line, env=environment, stdout=said, stderr=said)

    def on(self, host: str, *command: str) -> str:
        """What a command prints on a host."""
        return self._sh(*self._prefix(host), *command)

    @staticmethod
    def connection(host: str) -> Connection:
        """What a host's IKE daemon is told of the other's."""
        other = OTHER[host]
        return Connection(ADDRESS[host], ADDRESS[other], host, other, NET[host], NET[other])

    def charon(
        self,
        host: str,
        before: Sequence[str] = (),
        served: bool = True,
        settings: Settings | None = None,
    ) -> Charon:
        """A charon on a host; `before` is what starts it. `served`: not by the machine's kernel."""
        start = partial(self._ike, host, served, *before)
        return Charon(self.root / host, start, self.connection(host), settings)

    def pluto(self, host: str, served: bool = True) -> Pluto:
        """A pluto on a host. `served`: not by the machine's kernel."""
        folder = self.root / f"{host}-{'served' if served else 'kernel'}"
        return Pluto(folder, partial(self._ike, host, served), self.connection(host))

    def _ike(self, host: str, served: bool, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start an IKE daemon with a /run of its own; under `uxfrm run` if it is `served`."""
        run = [*UXFRM, "run", "--daemon", str(self._socket(host)), "--"] if served else []
        return self._begin(host, [*OWN_RUN, *run, *command], {"PATH": PATH, **environment})

    def tables(self, host: str) -> dict[str, str]:
        """What unmodified `ip` shows of a host's daemon, without the policies of sockets."""
        script = f"ip xfrm state && printf '{_SEPARATOR}' && ip xfrm policy list nosock"
        said = self._sh(*UXFRM, "run", "--daemon", str(self._socket(host)), "--", "sh", "-c", script)
        state, policy = said.split(_SEPARATOR)
        return {"state": state, "policy": policy}

    def sockets(self, host: str, served: bool = True) -> list[str]:
        """The policies of sockets that `ip` shows of a host's daemon, or of its kernel; in no order."""
        run = [*UXFRM, "run", "--daemon", str(self._socket(host)), "--"] if served else []
        text = self.on(host, *run, "ip", "xfrm", "policy")
        return sorted(entry for entry in re.split(r"^(?=src )", text, flags=re.M) if "\n\tsocket " in entry)

    def both(self) -> dict[str, dict[str, str]]:
        """The tables of both hosts."""
        return {host: self.tables(host) for host in "ab"}
