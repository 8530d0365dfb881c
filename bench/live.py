"""TCP and UDP through two gateways, in one run: clear, uxfrm, strongSwan's libipsec, wireguard-go.

    python bench/live.py [--json FILE] [--quick] [--seconds N]

Needs root, iperf3 and ping; what else is compared needs Debian's libcharon-extra-plugins, wireguard-go and
wireguard-tools, and is left out where they are not. Hosts, gateways and the router are network namespaces
of one machine and share its processors: only figures of one run can be compared. TCP is CUBIC, whatever the
host likes best. CPU is that of the gateways' processes, user and system, by the byte that arrived; the
kernel's own forwarding is in nobody's figure. Pings go while TCP flows.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common import finish, options, ready
from uxfrm.lab.ends import End
from uxfrm.lab.network import Lab
from uxfrm.lab.plan import two_gateways
from uxfrm.lab.setup import Setup, gcm
from uxfrm.lab.watch import Kind

CHARON = "/usr/lib/ipsec/charon"
LIBIPSEC = Path("/usr/lib/ipsec/plugins/libstrongswan-kernel-libipsec.so")
OWN_RUN = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /run; exec "$@"', "sh")
TICKS = os.sysconf("SC_CLK_TCK")
_TIME = re.compile(r"time=([\d.]+) ms")

Pids = list[int]


@contextmanager
def clear(lab: Lab, folder: Path) -> Iterator[Pids]:
    """No IPsec."""
    yield []


def uxfrm(in_udp: bool = False, queues: bool = False) -> Callable[[Lab, Path], Any]:
    """uxfrm with a TUN device, or with NFQUEUEs, and AES-GCM-128."""

    @contextmanager
    def run(lab: Lab, folder: Path) -> Iterator[Pids]:
        setup = Setup(gcm(os.urandom(20)), in_udp=in_udp, queues=queues)
        ends = [End(lab, number, setup, folder) for number in range(2)]
        for end in ends:
            end.wait()
        yield [end.process.pid for end in ends]

    return run


CHARON_CONF = """
charon {{
  load = random nonce openssl aes sha1 sha2 hmac pem kernel-libipsec kernel-netlink socket-default vici kdf
  plugins {{
    vici {{ socket = unix://{dir}/vici }}
    kernel-libipsec {{ load = yes }}
  }}
}}
"""
SWANCTL_CONF = """
connections {{ c {{
  local_addrs = {me}
  remote_addrs = {peer}
  version = 2
  proposals = aes128-sha256-modp2048
  local {{ auth = psk }}
  remote {{ auth = psk }}
  children {{ net {{
    local_ts = {own}
    remote_ts = {other}
    esp_proposals = aes128gcm16
  }} }}
}} }}
secrets {{ ike {{ secret = "not a secret, a bench" }} }}
"""


@contextmanager
def libipsec(lab: Lab, folder: Path) -> Iterator[Pids]:
    """strongSwan's charon with kernel-libipsec, its own ESP in UDP in user space, AES-GCM-128."""
    started = []
    for number, node in enumerate(lab.plan.ends):
        here = folder / node
        here.mkdir()
        (here / "strongswan.conf").write_text(CHARON_CONF.format(dir=here))
        environment = {"PATH": os.environ["PATH"], "STRONGSWAN_CONF": str(here / "strongswan.conf")}
        started.append(lab.start(node, *OWN_RUN, CHARON, env=environment))
        _until((here / "vici").exists)
        plan, other = lab.plan, 1 - number
        conf = SWANCTL_CONF.format(
            me=plan.address(node),
            peer=plan.address(plan.ends[other]),
            own=plan.network(plan.hosts[number]),
            other=plan.network(plan.hosts[other]),
        )
        (here / "swanctl.conf").write_text(conf)
        _swanctl(here, "--load-all", "--file", str(here / "swanctl.conf"))
    _swanctl(folder / lab.plan.ends[0], "--initiate", "--child", "net")
    yield [process.pid for process in started]


def _swanctl(here: Path, *words: str) -> None:
    subprocess.run(["swanctl", *words, "--uri", f"unix://{here / 'vici'}"], check=True, capture_output=True)


@contextmanager
def wireguard(lab: Lab, folder: Path) -> Iterator[Pids]:
    """Debian's wireguard-go."""
    keys = []
    for _ in range(2):
        private = subprocess.check_output(["wg", "genkey"], text=True).strip()
        keys.append((private, subprocess.check_output(["wg", "pubkey"], input=private, text=True).strip()))
    started = []
    for number, node in enumerate(lab.plan.ends):
        other, peer = 1 - number, lab.plan.ends[1 - number]
        conf = folder / f"{node}.conf"
        conf.touch(0o600)
        own = f"[Interface]\nPrivateKey = {keys[number][0]}\nListenPort = 51820\n"
        theirs = f"[Peer]\nPublicKey = {keys[other][1]}\nEndpoint = {lab.plan.address(peer)}:51820\n"
        conf.write_text(f"{own}{theirs}AllowedIPs = {lab.plan.network(lab.plan.hosts[other])}\n")
        script = (
            "mkdir -p /run/wireguard; wireguard-go -f wg0 & "
            "until test -S /run/wireguard/wg0.sock; do sleep 0.1; done; "
            f"wg setconf wg0 {conf}; ip link set wg0 mtu 1420 up; "
            f"ip route replace {lab.plan.network(lab.plan.hosts[other])} dev wg0; wait"
        )
        environment = os.environ | {"WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1"}
        shell = lab.start(node, *OWN_RUN, "sh", "-c", script, env=environment)
        _until(lambda node=node: "wg0" in lab.run(node, "ip", "route"))  # type: ignore[misc]
        started += _children(shell.pid, "wireguard-go")
    yield started


def _children(pid: int, name: str) -> Pids:
    """The descendants of a process with a name."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if Path(f"/proc/{child}/comm").read_text().strip() == name:
            found.append(child)
        found += _children(child, name)
    return found


def _until(done: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not done():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.1)


CONTENDERS: dict[str, tuple[Callable[[Lab, Path], Any], Callable[[], object]]] = {
    "no IPsec": (clear, lambda: True),
    "uxfrm, TUN, ESP in UDP": (uxfrm(in_udp=True), lambda: True),
    "uxfrm, TUN, raw ESP": (uxfrm(), lambda: True),
    "uxfrm, NFQUEUE, raw ESP": (uxfrm(queues=True), lambda: True),
    "strongSwan libipsec": (libipsec, LIBIPSEC.exists),
    "wireguard-go": (wireguard, lambda: shutil.which("wireguard-go") and shutil.which("wg")),
}


def _cpu(pids: Pids) -> float:
    """Seconds of processor time that processes have used, each with all its threads."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in fields) / TICKS


def _iperf(lab: Lab, seconds: int, *more: str) -> dict[str, Any]:
    b = lab.plan.address("b")
    tcp = () if "-u" in more else ("-C", "cubic")
    line = ("iperf3", "-J", "-c", b, "-t", str(seconds), *tcp, *more)
    said = lab.run("a", *line, timeout_s=seconds + 30)
    return dict(json.loads(said)["end"])


def _best_udp(lab: Lab, seconds: int) -> float:
    """Gb/s of UDP of which less than 1 % is lost: the highest of the rates tried, 25 % apart; 0 for none."""
    rate, best = 0.02, 0.0
    while True:
        asked = ("-u", "-b", f"{rate:.3f}G", "-l", "1300")
        said = _iperf(lab, min(seconds, 2), *asked)["sum"]
        if said["lost_percent"] >= 1 or said["bits_per_second"] < 0.9e9 * rate:
            return best
        best, rate = said["bits_per_second"] / 1e9, rate * 1.25


def measure(lab: Lab, pids: Pids, seconds: int) -> dict[str, Any]:
    """Gb/s of TCP and UDP, the gateways' CPU seconds per GB, and pings while TCP flows."""
    lab.start("b", "iperf3", "-s")
    b = lab.plan.address("b")
    _until(lambda: "1 received" in lab.run("a", "ping", "-c1", "-W1", b, check=False))
    time.sleep(0.5)
    _iperf(lab, 1)
    pings = subprocess.Popen(
        lab.command("a", "ping", "-i0.02", "-c", str(seconds * 50), b), stdout=subprocess.PIPE, text=True
    )
    before = _cpu(pids)
    tcp = _iperf(lab, seconds)["sum_received"]
    used = _cpu(pids) - before
    times = sorted(map(float, _TIME.findall(pings.communicate()[0])))
    udp = _best_udp(lab, seconds)
    return {
        "TCP Gb/s": tcp["bits_per_second"] / 1e9,
        "CPU s/GB": used / (tcp["bytes"] / 1e9),
        "Gb/s a CPU s": tcp["bytes"] * 8 / 1e9 / used if used else "",
        "UDP Gb/s": udp,
        "ping p50 ms": times[len(times) // 2] if times else "",
        "ping p99 ms": times[len(times) * 99 // 100] if times else "",
    }


def main() -> None:
    """Measure everybody in turn."""
    given = options(__doc__, seconds=int)
    seconds = given.seconds or (1 if given.quick else 5)
    if os.geteuid():
        print("bench/live.py makes network namespaces: it needs root", file=sys.stderr)
        return
    ready()
    rows = []
    for name, (run, there) in CONTENDERS.items():
        if not there():
            print(f"{name}: not installed, left out", file=sys.stderr)
            continue
        with (
            tempfile.TemporaryDirectory() as folder,
            Lab(two_gateways()) as lab,
            run(lab, Path(folder)) as pids,
        ):
            rows.append({"gateways": name} | measure(lab, pids, seconds))
            clear_ones = lab.watch.seen().total(Kind.CLEAR)
            # WireGuard's datagrams are none of those that the watch knows.
            assert not pids or not clear_ones or name == "wireguard-go", f"{clear_ones} packets in clear"
    finish(rows, given.json)


if __name__ == "__main__":
    main()
