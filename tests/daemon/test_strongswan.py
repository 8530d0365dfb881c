"""Two unmodified strongSwan charons, each under `uxfrm run`, as two hosts.

Run as a program, this file is the laboratory: inside namespaces that vanish with it, it joins two hosts by a
veth pair, starts a daemon and a charon on each, and tells as JSON what they hold after every step. Host b's
charon has no CAP_NET_ADMIN.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

UXFRM = [sys.executable, "-m", "uxfrm.cli.main"]
CHARON = "/usr/lib/ipsec/charon"
ADDRESS = {"a": "192.0.2.1", "b": "192.0.2.2"}
NET = {"a": "10.1.1.0/24", "b": "10.1.2.0/24"}
OTHER = {"a": "b", "b": "a"}

STRONGSWAN_CONF = """
charon {{
  load = random nonce openssl aes sha1 sha2 hmac pem kernel-netlink socket-default vici kdf
  install_routes = no
  retransmit_timeout = 0.3
  retransmit_tries = 2
  filelog {{ f {{
    path = {dir}/log
    default = 1
    knl = 1
    flush_line = yes
  }} }}
  plugins {{ vici {{ socket = unix://{dir}/vici }} }}
}}
"""
SWANCTL_CONF = """
connections {{ c {{
  local_addrs = {me}
  remote_addrs = {peer}
  version = 2
  proposals = aes128-sha256-modp2048
  dpd_delay = 1s
  local {{
    auth = psk
    id = {name}
  }}
  remote {{ auth = psk }}
  children {{
    tunnel {{
      mode = tunnel
      local_ts = {net}
      remote_ts = {other}
      esp_proposals = aes128gcm16
    }}
    transport {{
      mode = transport
      esp_proposals = aes128-sha256
    }}
  }}
}} }}
secrets {{ ike {{ secret = "not a secret, a test" }} }}
"""


class Laboratory:
    """Host a is where this runs; host b is a network namespace that a sleeping process keeps."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._sh("mount", "-t", "tmpfs", "none", "/run")
        self._keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._wait(lambda: self._namespace("self") != self._namespace(str(self._keeper.pid)))
        self._sh(
            "ip", "link", "add", "va", "type", "veth", "peer", "name", "vb", "netns", str(self._keeper.pid)
        )
        for name in "ab":
            self._on(name, "ip", "addr", "add", f"{ADDRESS[name]}/24", "dev", f"v{name}")
            self._on(name, "ip", "link", "set", f"v{name}", "up")
            self._on(name, "ip", "link", "set", "lo", "up")

    @staticmethod
    def _namespace(pid: str) -> str:
        return str(Path(f"/proc/{pid}/ns/net").readlink())

    @staticmethod
    def _sh(*command: str) -> str:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    @staticmethod
    def _wait(done: Any) -> None:
        end = time.monotonic() + 60
        while not done():
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.05)

    def _prefix(self, name: str) -> list[str]:
        return [] if name == "a" else ["nsenter", "--net", "--target", str(self._keeper.pid)]

    def _on(self, name: str, *command: str) -> str:
        return self._sh(*self._prefix(name), *command)

    def start(self, name: str) -> None:
        """A daemon and a charon; each charon has a /run of its own."""
        here = self.root / name
        here.mkdir()
        conf = STRONGSWAN_CONF.format(dir=here)
        (here / "strongswan.conf").write_text(conf)
        other = OTHER[name]
        (here / "swanctl.conf").write_text(
            SWANCTL_CONF.format(
                me=ADDRESS[name], peer=ADDRESS[other], name=name, net=NET[name], other=NET[other]
            )
        )
        socket = str(here / "socket")
        subprocess.Popen(
            [*self._prefix(name), *UXFRM, "daemon", "--socket", socket], stderr=subprocess.DEVNULL
        )
        self._wait(Path(socket).exists)
        bounded = (
            [] if name == "a" else ["setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin"]
        )
        own_run = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run; exec "$@"', "sh"]
        run = [*UXFRM, "run", "--daemon", socket, "--", CHARON]
        environment = {
            "STRONGSWAN_CONF": str(here / "strongswan.conf"),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        }
        subprocess.Popen(
            [*self._prefix(name), *own_run, *bounded, *run], env=environment, stderr=subprocess.DEVNULL
        )
        self._wait((here / "vici").exists)
        self.swanctl(name, "--load-all", "--file", str(here / "swanctl.conf"))

    def kill(self, name: str) -> None:
        """End a host's charon as a crash would."""
        mine = f"STRONGSWAN_CONF={self.root / name / 'strongswan.conf'}"
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                found = str((entry / "exe").readlink()) == CHARON and mine in (entry / "environ").read_text()
            except OSError:
                continue
            if found:
                os.kill(int(entry.name), signal.SIGKILL)

    def swanctl(self, name: str, *words: str) -> str:
        uri = f"unix://{self.root / name / 'vici'}"
        done = subprocess.run(
            ["swanctl", *words, "--uri", uri], capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode:
            raise SystemExit(f"swanctl {words} on {name}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
        return done.stdout

    def tables(self, name: str) -> dict[str, str]:
        """What unmodified `ip` shows of a host's daemon."""
        run = [*UXFRM, "run", "--daemon", str(self.root / name / "socket"), "--", "ip", "xfrm"]
        return {what: self._sh(*run, what) for what in ("state", "policy")}

    def both(self) -> dict[str, dict[str, str]]:
        return {name: self.tables(name) for name in "ab"}


def experiment(root: Path) -> None:
    lab = Laboratory(root)
    for name in "ba":
        lab.start(name)
    found: dict[str, Any] = {}
    for child in ("tunnel", "transport"):
        said = lab.swanctl("a", "--initiate", "--child", child)
        found[child] = {"said": said, **lab.both()}
    lab.swanctl("a", "--rekey", "--child", "tunnel")
    lab.swanctl("b", "--rekey", "--ike", "c")
    found["rekeyed"] = lab.both()
    lab.swanctl("a", "--terminate", "--ike", "c")
    Laboratory._wait(lambda: not any(text for name in "ab" for text in lab.tables(name).values()))
    found["ended"] = lab.both()
    lab.swanctl("a", "--initiate", "--child", "tunnel")
    found["before"] = lab.both()
    lab.kill("b")
    Laboratory._wait(lambda: not any(lab.tables("a").values()))
    found["alone"] = lab.both()
    found["complaints"] = [
        line
        for name in "ab"
        for line in (root / name / "log").read_text().splitlines()
        if "[KNL]" in line and ("unable" in line or "fail" in line)
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    experiment(Path(sys.argv[1]))
    sys.exit()

import pytest  # noqa: E402

SPIS = re.compile(r"established with SPIs ([0-9a-f]+)_i ([0-9a-f]+)_o")
STATE = re.compile(r"^src (\S+) dst (\S+)\n\tproto esp spi 0x([0-9a-f]+) reqid \d+ mode (\w+)", re.M)


@pytest.mark.linux
def test_charons_bring_up_rekey_take_down_and_miss_each_other(tmp_path: Path) -> None:
    inside = [
        "unshare",
        "--map-root-user",
        "--net",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]
    done = subprocess.run(
        [*inside, sys.executable, __file__, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    expected: set[tuple[str, ...]] = set()
    for mode in ("tunnel", "transport"):
        match = SPIS.search(found[mode]["said"])
        assert match is not None
        inward, outward = (int(spi, 16) for spi in match.groups())
        expected |= {(ADDRESS["b"], ADDRESS["a"], f"{inward:08x}", mode)}
        expected |= {(ADDRESS["a"], ADDRESS["b"], f"{outward:08x}", mode)}
        for host in "ab":
            assert set(STATE.findall(found[mode][host]["state"])) == expected
            assert keys(found[mode][host]["state"]) == keys(found[mode]["a"]["state"])
    for host in "ab":
        assert {(NET["a"], NET["b"]), (ADDRESS["a"] + "/32", ADDRESS["b"] + "/32")} <= selectors(found, host)
    new = {row[2] for row in STATE.findall(found["rekeyed"]["a"]["state"])} - {row[2] for row in expected}
    assert len(new) == 2
    assert found["ended"] == {host: {"state": "", "policy": ""} for host in "ab"}
    # Dead peer detection clears the host that lives; the tables of the other outlast its charon.
    assert STATE.findall(found["before"]["a"]["state"])
    assert found["alone"]["a"] == {"state": "", "policy": ""}
    assert found["alone"]["b"]["state"] == found["before"]["b"]["state"]
    # b may not touch routing; of XFRM nobody complains.
    assert [line for line in found["complaints"] if "routing table rule" not in line] == []


def keys(text: str) -> dict[str, list[str]]:
    """The keys of each SPI."""
    entries = re.split(r"^src ", text, flags=re.M)[1:]
    return {
        re.findall(r"spi 0x([0-9a-f]+)", entry)[0]: re.findall(r" (0x[0-9a-f]{20,})", entry)
        for entry in entries
    }


def selectors(found: dict[str, Any], host: str) -> set[tuple[str, ...]]:
    """Selectors of a host's policies, source and destination."""
    return set(re.findall(r"^src (\S+) dst (\S+) ", found["transport"][host]["policy"], re.M))
