"""What makes a policy impossible: every refusal with the kernel's words (xfrm-semantics 3.8)."""

from __future__ import annotations

import errno
from typing import Any

import pytest

from uxfrm.model.address import AF_INET, AF_INET6, parse
from uxfrm.model.error import XfrmError
from uxfrm.model.policy import Direction, Offload, PolicyConfig
from uxfrm.model.selector import ANYTHING, EVERYTHING, Selector
from uxfrm.model.template import Mode, Template

FOUR, SIX = EVERYTHING[AF_INET], EVERYTHING[AF_INET6]
A, B = parse("10.0.0.1"), parse("10.0.0.2")
A6, B6 = parse("2001:db8::1"), parse("2001:db8::2")


def transport(**more: Any) -> Template:
    return Template(**({"family": AF_INET} | more))


def tunnel(**more: Any) -> Template:
    return Template(**({"daddr": B, "saddr": A, "family": AF_INET, "mode": Mode.TUNNEL} | more))


def make(**change: Any) -> PolicyConfig:
    return PolicyConfig(**({"direction": Direction.OUT, "selector": FOUR} | change))


PREFIX4 = "Invalid prefix length in selector (must be <= 32 for IPv4)"
PREFIX6 = "Invalid prefix length in selector (must be <= 128 for IPv6)"
COUNT = "Template count must be <= XFRM_MAX_DEPTH (6)"
OPTIONAL = "Mode in optional template not allowed in outbound policy"
FAMILY_CHANGE = "Mode in template doesn't support a family change"
MODE = "Mode in template must be < XFRM_MODE_MAX (6)"
FAMILY = "Invalid family in template"
PROTOCOL = "Invalid XFRM protocol in template"
INDEX = "Policy index doesn't match direction"

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"share": 4}, "Invalid policy share"),
    ({"action": 2}, "Invalid policy action"),
    ({"selector": ANYTHING}, "Invalid selector family"),
    ({"selector": Selector(7)}, "Invalid selector family"),
    ({"selector": Selector(AF_INET, prefixlen_d=33)}, PREFIX4),
    ({"selector": Selector(AF_INET, prefixlen_s=33)}, PREFIX4),
    ({"selector": Selector(AF_INET6, A6, B6, 129)}, PREFIX6),
    ({"direction": 3}, "Invalid policy direction"),
    ({"index": 8}, INDEX),
    ({"index": 8 + 2}, INDEX),
    ({"direction": Direction.IN, "index": 9}, INDEX),
    ({"type": 2}, "Invalid policy type"),
    ({"type": 255}, "Invalid policy type"),
    ({"templates": (tunnel(),) * 7}, COUNT),
    ({"templates": (tunnel(optional=True),)}, OPTIONAL),
    ({"templates": (tunnel(mode=Mode.BEET, optional=True),)}, OPTIONAL),
    ({"templates": (transport(family=AF_INET6),)}, FAMILY_CHANGE),
    ({"templates": (tunnel(daddr=B6, saddr=A6, family=AF_INET6), transport())}, FAMILY_CHANGE),
    ({"templates": (transport(mode=6),)}, MODE),
    ({"templates": (transport(mode=255),)}, MODE),
    ({"templates": (tunnel(family=7),)}, FAMILY),
    ({"templates": (transport(proto=6),)}, PROTOCOL),
    ({"templates": (transport(proto=255),)}, PROTOCOL),
]


@pytest.mark.parametrize(("change", "words"), REFUSED)
def test_a_contradiction_is_einval_in_the_kernels_words(change: dict[str, Any], words: str) -> None:
    with pytest.raises(XfrmError) as caught:
        make(**change)
    assert (caught.value.number, caught.value.text) == (errno.EINVAL, words)


@pytest.mark.parametrize(
    "change",
    [
        {"share": 3},
        {"action": 1},
        {"selector": Selector(AF_INET, A, B, 32, 32)},
        {"selector": Selector(AF_INET6, A6, B6, 128, 128)},
        {"index": 9},
        {"direction": Direction.IN, "index": 8},
        {"direction": Direction.FWD, "index": 8 + 2},
        {"type": 1},
        {"templates": (tunnel(),) * 6},
        {"templates": (transport(optional=True),)},
        {"direction": Direction.IN, "templates": (tunnel(optional=True),)},
        {"direction": Direction.FWD, "templates": (tunnel(optional=True),)},
        {"templates": (tunnel(mode=Mode.IPTFS, optional=True),)},
        {"templates": (tunnel(daddr=B6, saddr=A6, family=AF_INET6), transport(family=AF_INET6))},
        {"templates": (tunnel(mode=Mode.BEET, daddr=B6, saddr=A6, family=AF_INET6),)},
        {"templates": tuple(transport(proto=p) for p in (50, 51, 108, 43, 60))},
    ],
)
def test_the_limits_themselves_are_allowed(change: dict[str, Any]) -> None:
    made = make(**change)
    assert all(getattr(made, name) == value for name, value in change.items())


IN_ORDER: list[tuple[dict[str, Any], str]] = [
    ({"share": 4}, "Invalid policy share"),
    ({"action": 2}, "Invalid policy action"),
    ({"selector": Selector(AF_INET, prefixlen_d=33)}, PREFIX4),
    ({"direction": 3}, "Invalid policy direction"),
    ({"index": 8}, INDEX),
    ({"type": 2}, "Invalid policy type"),
    ({"templates": (transport(proto=6),)}, PROTOCOL),
]


@pytest.mark.parametrize("first", range(len(IN_ORDER) - 1))
def test_the_first_of_several_faults_is_named(first: int) -> None:
    change, words = IN_ORDER[first]
    for later, _ in IN_ORDER[first + 1 :]:
        with pytest.raises(XfrmError) as caught:
            make(**(later | change))
        assert caught.value.text == words


@pytest.mark.parametrize(
    ("templates", "words"),
    [
        ((tunnel(optional=True, proto=6, family=7),), OPTIONAL),
        ((transport(family=AF_INET6, mode=6, proto=6),), FAMILY_CHANGE),
        ((transport(mode=6, proto=6),), MODE),
        ((tunnel(family=7, proto=6),), FAMILY),
        ((transport(proto=6), tunnel(optional=True)), PROTOCOL),
        ((transport(proto=6),) * 7, COUNT),
    ],
)
def test_templates_are_judged_one_after_the_other(templates: tuple[Template, ...], words: str) -> None:
    with pytest.raises(XfrmError) as caught:
        make(templates=templates)
    assert caught.value.text == words


def test_offloading_a_policy_is_refused() -> None:
    with pytest.raises(XfrmError, match="Policy offload is not supported"):
        make(offload=Offload(2, 4))
    for flags in (0, 1, 2, 5, 6, 8):
        with pytest.raises(XfrmError, match="Unrecognized flags in offload request"):
            make(offload=Offload(2, flags))


@pytest.mark.parametrize(
    ("masks", "shortcut"),
    [
        ({}, True),
        ({"aalgos": 1 << 3}, False),
        ({"ealgos": 0}, False),
        ({"calgos": 0xFFFFFFFE}, False),
    ],
)
def test_algorithms_are_looked_at_as_soon_as_any_mask_excludes_one(
    masks: dict[str, int], shortcut: bool
) -> None:
    assert transport(**masks).any_algorithm is shortcut


@pytest.mark.parametrize(
    ("mode", "tunnels"),
    [(0, False), (1, True), (2, False), (3, False), (4, True), (5, True)],
)
def test_which_modes_have_addresses_of_their_own(mode: int, tunnels: bool) -> None:
    assert Mode(mode).tunnels is tunnels
