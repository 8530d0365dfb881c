"""IPTFS_* in requests and dumps.

No kernel here has the mode: the requests and what must come of them are written by hand after xfrm_iptfs.c of
Linux 6.14 (iptfs_user_init, iptfs_copy_to_user). What is refused before is compared with 6.18 in
test_kernel_answers.py.
"""

from __future__ import annotations

import errno
import struct

import pytest

from netlink.compare import attribute as attr
from netlink.compare import request
from netlink.test_kernel_answers import (
    AEAD,
    ENCAP,
    IN,
    OUT,
    migrate,
    policy,
    policy_id,
    state,
    template,
    usersa_id,
)
from netlink.test_server import errnos, server, taken
from uxfrm.netlink.wire import attributes, messages

INFO = 224


def u32(value: int) -> bytes:
    return struct.pack("=I", value)


def told(*extra: bytes, family: int = 2) -> list[tuple[int, bytes]]:
    """The IPTFS attributes of a state made with `extra`, in the order of its dump."""
    made, port = server()
    made.receive(port, request(0x10, state(mode=5, family=family) + AEAD + b"".join(extra)))
    assert errnos(port) == [0]
    made.receive(port, request(0x12, usersa_id(family=family)))
    (message,) = (m for datagram in taken(port) for m in messages(datagram) if m.type == 0x10)
    found, rest = attributes(message.payload, INFO)
    assert not rest
    numbers = [a.type for a in found]
    assert numbers.index(33) > max(numbers.index(n) for n in numbers if 36 <= n <= 41)
    return [(a.type, a.payload) for a in found if 36 <= a.type <= 41]


def test_input_states_tell_drop_time_and_window_with_defaults() -> None:
    assert told(IN) == [(36, u32(1_000_000)), (37, struct.pack("=H", 3))]
    given = attr(37, struct.pack("=H", 0)), attr(36, u32(7))
    assert told(IN, *given) == [(36, u32(7)), (37, struct.pack("=H", 0))]


def test_output_states_tell_the_others_with_defaults() -> None:
    assert told(OUT) == [(39, u32(0)), (40, u32(10 * 1024 * 1024)), (41, u32(0))]
    given = attr(41, u32(1000)), attr(40, u32(1)), attr(39, u32(2**32 - 1)), attr(38, b"")
    assert told(OUT, *given) == [(38, b""), (39, u32(2**32 - 1)), (40, u32(1)), (41, u32(1000))]


# IP header, ESP header, 8 bytes of IV, 4 of AGGFRAG header, and UDP where there is any.
@pytest.mark.parametrize(
    ("family", "extra", "header"), [(2, b"", 20 + 8 + 8 + 4), (10, b"", 60), (2, ENCAP, 48)]
)
def test_a_packet_size_is_larger_than_all_headers(family: int, extra: bytes, header: int) -> None:
    made, port = server()
    port.extended = True
    for size in (1, header, header + 1):
        body = state(mode=5, family=family) + AEAD + OUT + extra + attr(41, u32(size))
        made.receive(port, request(0x10, body))
    words = b"Packet size must be 0 or greater than IPTFS/ESP header length"
    said = [m.payload for datagram in taken(port) for m in messages(datagram) if m.type == 2]
    assert [-struct.unpack_from("=i", payload)[0] for payload in said] == [errno.EINVAL, errno.EINVAL, 0]
    assert [words in payload for payload in said] == [True, True, False]


def test_an_update_leaves_the_options_of_a_living_state() -> None:
    made, port = server()
    made.receive(port, request(0x10, state(mode=5) + AEAD + IN + attr(36, u32(7))))
    made.receive(port, request(0x1A, state(mode=5) + AEAD + IN + attr(36, u32(8))))
    assert errnos(port) == [0, 0]
    (found,) = made.namespace.dump_states()
    assert found.config.rare.iptfs.drop_time == 7


def test_a_migrated_state_keeps_its_options() -> None:
    made, port = server()
    made.receive(port, request(0x13, policy(direction=1) + attr(5, template(mode=5))))
    made.receive(port, request(0x10, state(mode=5) + AEAD + OUT + attr(41, u32(1000)) + attr(38, b"")))
    assert errnos(port) == [0, 0]
    old = next(made.namespace.dump_states()).config
    ends = struct.pack("=16s16s", old.daddr.ljust(16, b"\0"), old.saddr.ljust(16, b"\0"))
    entry = migrate(old=(ends[:16], ends[16:]), mode=5)
    made.receive(port, request(0x21, policy_id(direction=1) + attr(17, entry)))
    assert errnos(port) == [0]
    new = next(made.namespace.dump_states()).config
    assert new.daddr != old.daddr
    assert new.rare.iptfs == old.rare.iptfs


def test_templates_may_ask_for_the_mode() -> None:
    made, port = server()
    for body in (attr(5, template(mode=5)), attr(5, template(mode=5, family=10)), attr(5, template(mode=6))):
        made.receive(port, request(0x13, policy(direction=1) + body))
        made.namespace.flush_policies()
    assert errnos(port) == [0, 0, errno.EINVAL]
