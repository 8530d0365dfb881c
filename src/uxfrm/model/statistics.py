"""What can be counted in a namespace as a whole: netns_xfrm as an object to look at.

All figures are of one moment, and taking them changes nothing. Sizes are in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Index:
    """A hash index: what is in it, its buckets, those in use, the most that one bucket holds."""

    entries: int
    buckets: int
    used: int
    longest: int


@dataclass(frozen=True, slots=True)
class StateFigures:
    """States by life; `dying` ones are among the valid. `kernel_buckets` is what GETSADINFO tells."""

    all: int
    valid: int
    dying: int
    larval: int
    expired: int
    kernel_buckets: int
    by_spi: Index
    by_destination: Index
    by_source: Index
    by_sequence: Index


@dataclass(frozen=True, slots=True)
class PolicyFigures:
    """Policies, and the classifiers they are found with (tables.classifier).

    A classifier looks a destination up once for each of its `prefix_lengths`. What it finds is one of the
    `prefixes`, which has its policies in a list (`listed`) or, where they are many, in hash tables (`masks`
    of them, with `tabled` policies); no prefix has more than `masks_of_one`. `hidden` are those behind
    another of the same selector.
    """

    all: int
    incoming: int
    outgoing: int
    forwarded: int
    kernel_buckets: int
    classifiers: int
    prefix_lengths: int
    prefixes: int
    listed: int
    masks: int
    masks_of_one: int
    tabled: int
    hidden: int


@dataclass(frozen=True, slots=True)
class FlowFigures:
    """The flow table: its entries, those of them that no longer hold, and packets that asked it.

    `bundles` are the combinations of states that its entries name.
    """

    entries: int
    capacity: int
    stale: int
    hits: int
    misses: int
    bundles: int


@dataclass(frozen=True, slots=True)
class HeldFigures:
    """Packets that wait for states, at how many policies; and those whose states never came."""

    packets: int
    bytes: int
    policies: int
    given_up: int


@dataclass(frozen=True, slots=True)
class FragmentFigures:
    """Packets that wait for the rest of their fragments; since the beginning, what Linux counts of these.

    `bytes` is what they count for against ipfrag_high_thresh and ip6frag_high_thresh.
    """

    packets: int
    bytes: int
    required: int
    completed: int
    failed: int
    timed_out: int


@dataclass(frozen=True, slots=True)
class TimerFigures:
    """Planned checks of each kind, and when the first of all is due (seconds from now; none: null)."""

    states: int
    policies: int
    aevents: int
    keepalives: int
    held: int
    next: float | None


@dataclass(frozen=True, slots=True)
class KeyFigures:
    """Key slots: one for each state with a transform."""

    used: int
    slots: int


@dataclass(frozen=True, slots=True)
class EventFigures:
    """Who listens, and events that anybody heard. A netlink server is one listener, whoever joined it."""

    listeners: int
    told: int


@dataclass(frozen=True, slots=True)
class MemoryFigures:
    """Bytes of the big arrays; objects of Python's are not among them."""

    states: int
    windows: int
    indexes: int
    keys: int
    flows: int
    bundles: int


@dataclass(frozen=True, slots=True)
class AttachmentFigures:
    """Packets of one attachment since it was opened; the last five are those it lost, by reason.

    `full`: the kernel did not take more then. `too_long`: for the link. `refused`: by the kernel.
    `malformed`: no IP packets. `foreign`: not for this attachment.
    """

    received: int
    sent: int
    full: int
    too_long: int
    refused: int
    malformed: int
    foreign: int


@dataclass(frozen=True, slots=True)
class GatewayFigures:
    """What became of packets between the attachments of a daemon, and has no outcome.

    `nowhere`: no attachment sends their kind. `unclaimed`: came from the network, were not IPsec, and are the
    kernel's. `lost_batches`: ended by an error, which the log tells.
    """

    nowhere: int = 0
    unclaimed: int = 0
    lost_batches: int = 0


@dataclass(frozen=True, slots=True)
class Statistics:
    """Everything. `attachments` by name, `gateway`: of daemons with packets."""

    states: StateFigures
    policies: PolicyFigures
    flows: FlowFigures
    held: HeldFigures
    fragments: FragmentFigures
    timers: TimerFigures
    keys: KeyFigures
    events: EventFigures
    memory: MemoryFigures
    gateway: GatewayFigures = field(default_factory=GatewayFigures)
    attachments: dict[str, AttachmentFigures] = field(default_factory=dict)
