"""What uxfrm does, in under a minute: run by `make demo`.

1. A capture of two Linux hosts goes through host b as Linux played it, every frame explained.
2. One packet on its way out and in, step by step, between two namespaces in this process.
3. A replay attack and a forged packet, and why they are dropped.
4. The tables afterwards, as `ip -s xfrm state` and /proc/net/xfrm_stat print them.
5. Where there are the rights for it: a network of namespaces, in which hosts ping through two gateways.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from rich.console import Console
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from uxfrm.cli.progress import compile_once
from uxfrm.datapath.batch import Batch
from uxfrm.explain.oneline import one_line
from uxfrm.explain.report import IN, Part, Reporter, heads_of
from uxfrm.iproute2.output import show_state
from uxfrm.model.outcome import Counter, Outcome
from uxfrm.namespace import Namespace
from uxfrm.replay.setup import Interfaces, apply_setup

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "captures" / "data"
OUT = ROOT / "demo-output"
MAC = "02:00:00:00:00:0b"

KEY = "0x" + os.urandom(20).hex()
STATE = (
    "xfrm state add src 192.0.2.1 dst 192.0.2.2 proto esp spi 0x1234 reqid 7 mode tunnel "
    f"replay-window 64 flag esn aead 'rfc4106(gcm(aes))' {KEY} 128"
)
POLICY = (
    "xfrm policy add src 10.1.0.0/24 dst 10.2.0.0/24 dir {} "
    "tmpl src 192.0.2.1 dst 192.0.2.2 proto esp reqid 7 mode tunnel"
)

UNSHARED = ("unshare", "--map-root-user", "--net", "true")

console = Console(highlight=False, soft_wrap=True)


def title(text: str) -> None:
    """A heading, and time to read it."""
    console.print(f"\n[bold cyan]{text}[/]")


def command(*words: str) -> None:
    """Run a command of uxfrm as a user would, and say which."""
    shown = " ".join(words).replace(str(ROOT) + "/", "")
    console.print(f"[dim]$ uxfrm {shown}[/]")
    sys.stdout.flush()
    subprocess.run([sys.executable, "-m", "uxfrm.cli.main", *words], check=True)


def replays() -> None:
    """The recorded captures."""
    title("1. A capture from a Linux 6.1 host, explained (AES-GCM tunnel; the last frames are hostile)")
    case = DATA / "esp-gcm128-icv128"
    command(
        "replay", str(case / "wire.pcap"), "--setup", str(case / "setup-b.batch"), "--mac", MAC,
        "--tables", str(OUT / "tables"), "--write", str(OUT / "inner.pcapng"),
    )  # fmt: skip
    console.print("\nThe same with transport mode over IPv6, AES-CBC with SHA-256: only what was dropped.")
    case = DATA / "mode-transport-6in6-cbc"
    command(
        "replay", str(case / "wire.pcap"), "--setup", str(case / "setup-b.batch"), "--mac", MAC,
        "--only", "dropped",
    )  # fmt: skip


def host(direction: str) -> Namespace:
    """One end of a tunnel, set up with the words of `ip xfrm`."""
    namespace = Namespace(randbytes=os.urandom, now_s=int(time.time()))
    problems = apply_setup(namespace, [STATE, POLICY.format(direction)], "demo", False, Interfaces())
    if problems:
        raise SystemExit(problems[0])
    return namespace


def receive(namespace: Namespace, packet: bytes, what: str) -> bytes:
    """Give a packet to a namespace and tell what became of it."""
    batch = Batch.pack([packet], namespace.now_s)
    heads = heads_of(batch)
    namespace.input(batch)
    part = Part(batch, heads, batch.packets["offset"] * 0 + 1, batch.packets["time"] * 10**9, IN)
    report = next(Reporter(namespace.path).reports(part))
    colour = "green" if report.outcome == "delivered" else "bold red"
    counter = f" [dim]{report.counter}[/]" if report.counter else ""
    console.print(f"  {what:<28} [{colour}]{report.outcome}[/]: {report.reason}{counter}")
    return report.inner or b""


def one_packet() -> Namespace:
    """Out through one namespace, in through another, then the attacks."""
    title("2. One packet, out and in (two hosts in this process, no root, no sockets)")
    left, right = host("out"), host("in")
    plain = bytes(IP(src="10.1.0.5", dst="10.2.0.9", tos=0xB8) / UDP(sport=4000, dport=53) / Raw(b"hello"))
    console.print(f"  application sends            {one_line(plain)}")
    batch = Batch.pack([plain], left.now_s)
    left.output(batch)
    record = batch.packets[0]
    policy = left.path.policy_at(int(record["policy"]))
    state = left.path.path(record)[0]
    wire = batch.packet(0)
    console.print(f"  policy index {policy.index if policy else '-'} asks for       mode tunnel, reqid 7")
    console.print(f"  the state found              {state!r}")
    console.print(f"  outcome                      {Outcome.of(int(record['outcome'])).words}")
    console.print(f"  on the wire                  {one_line(wire)}, {len(plain)} bytes became {len(wire)}")
    console.print(f"  [dim]{wire[:48].hex(' ')} ...[/]")
    inner = receive(right, wire, "the other end")
    console.print(f"  application gets             {one_line(inner)}: {inner == plain and 'the same bytes'}")
    title("3. Attacks on the receiver")
    receive(right, wire, "the same packet again")
    forged = bytearray(wire)
    forged[24:28] = (1000).to_bytes(4)
    receive(right, bytes(forged), "sequence number forged")
    flipped = bytearray(wire)
    flipped[20:24] = (0x9999).to_bytes(4)
    receive(right, bytes(flipped), "an unknown SPI")
    receive(right, plain, "the packet in clear")
    return right


def tables(namespace: Namespace) -> None:
    """What `ip xfrm` would show."""
    title("4. The receiver's tables, as `ip -s xfrm state` and /proc/net/xfrm_stat print them")
    for dump in namespace.dump_states():
        sys.stdout.write(show_state(dump, nokeys=True))
    values = namespace.counters()
    for counter in Counter:
        if values[counter]:
            console.print(f"{counter.name:<24}\t{values[counter]}")


def network() -> None:
    """The lab, where namespaces can be made and a TUN device be had."""
    title("5. Two hosts, two gateways running uxfrm, and what the router between them sees")
    lacking = [program for program in ("nft", "ping", "nsenter") if shutil.which(program) is None]
    lacking += [] if os.access("/dev/net/tun", os.R_OK | os.W_OK) else ["/dev/net/tun"]
    lacking += [] if os.geteuid() == 0 or not subprocess.call(UNSHARED) else ["the right to make namespaces"]
    if lacking:
        console.print(f"  Not here: {', '.join(lacking)} lacking. Elsewhere: uxfrm lab")
        return
    command("lab")


def main() -> None:
    OUT.mkdir(exist_ok=True)
    compile_once()
    start = time.monotonic()
    replays()
    tables(one_packet())
    network()
    title("Next")
    console.print(
        "  Your own host:   tcpdump -i eth0 -w traffic.pcap esp\n"
        "                   (ip -s xfrm state; ip -s xfrm policy) > tables.txt      (it holds keys)\n"
        "                   .venv/bin/uxfrm replay traffic.pcap --setup tables.txt --mac YOUR:MAC\n"
        "  In Wireshark:    demo-output/inner.pcapng has the inner packets, outcomes as comments\n"
        "  The tables:      demo-output/tables/state.txt, policy.txt, xfrm_stat.txt\n"
        "  To read on:      docs/getting-started.md, docs/replay.md\n"
        f"[dim]  ({time.monotonic() - start:.0f} s)[/]"
    )


if __name__ == "__main__":
    main()
