"""States that are asked for: larval ones, what waits for them, how they are completed or given up."""

from __future__ import annotations

from dataclasses import replace

from linux.hosts import Host
from linux.scenarios import ENDS, ENDS_IN, FLOW, GCM, OTHER_ENDS, POLICY, TEMPLATE, scenario, state
from linux.twin import LINK
from uxfrm.model.dump import LarvalConfig
from uxfrm.model.mark import Mark

LARVAL_DROP = "net.core.xfrm_larval_drop"


def larval_seq(host: Host) -> int:
    """The number by which a key manager names what it was asked for."""
    (seq,) = {dump.config.seq for dump in host.client.dump_states() if isinstance(dump.config, LarvalConfig)}
    return seq


@scenario("acquire proto esp", "XfrmOutNoStates 3")
def dropped_until_the_state_is_there(host: Host) -> None:
    host.listen()
    host.ip(POLICY)
    host.send()
    host.tables()
    host.send()
    host.ip(f"xfrm state allocspi {ENDS} reqid 7 mode tunnel min 0x100 max 0x100")
    host.send()
    host.ip(state(0x100, do="update"))
    host.send(2)


@scenario("XfrmOutNoStates 1")
def nobody_listens(host: Host) -> None:
    host.ip(POLICY)
    host.send()
    host.ip(state(1))
    host.send()


@scenario("acquire proto esp", "number 3")
def held_and_sent_in_order_when_the_key_manager_updates(host: Host) -> None:
    host.listen()
    host.sysctl(LARVAL_DROP, 0)
    host.ip(POLICY)
    host.send(2)
    host.send()
    seq = larval_seq(host)
    host.ip(f"xfrm state allocspi {ENDS} reqid 7 mode tunnel seq {seq} min 0x100 max 0x100")
    host.tables()
    host.ip(state(0x100, f"seq {seq}", do="update"))
    host.wait(1)
    host.send()


@scenario("acquire proto esp", "number 2")
def held_and_sent_when_the_key_manager_adds(host: Host) -> None:
    """The larval state goes when one that does for its flow comes, whatever number that one has."""
    host.listen()
    host.sysctl(LARVAL_DROP, 0)
    host.ip(POLICY)
    host.send(2)
    host.ip(state(0x200))
    host.tables()
    host.wait(1)


@scenario("hard 1")
def given_up_when_nobody_answers(host: Host) -> None:
    host.listen()
    host.sysctl("net.core.xfrm_acq_expires", 2)
    host.ip(POLICY)
    host.send()
    host.wait(1)
    host.send()
    host.wait(1)
    host.send()
    host.tables()


@scenario("hard 1")
def held_for_nothing(host: Host) -> None:
    """When the larval state ends, what was held asks again."""
    host.listen()
    host.sysctl(LARVAL_DROP, 0)
    host.sysctl("net.core.xfrm_acq_expires", 1)
    host.ip(POLICY)
    host.send(3)
    host.ip(f"xfrm policy delete {FLOW} dir out")
    host.wait(1)


@scenario("number 100")
def no_more_than_a_hundred_are_held(host: Host) -> None:
    host.listen()
    host.sysctl(LARVAL_DROP, 0)
    host.ip(POLICY)
    host.send(105)
    host.ip(state(1))
    host.wait(1)


@scenario("clear")
def what_is_held_goes_as_a_changed_policy_says(host: Host) -> None:
    host.listen()
    host.sysctl(LARVAL_DROP, 0)
    host.ip(POLICY)
    host.send(2)
    host.ip(f"xfrm policy update {FLOW} dir out")
    host.wait(1)
    host.send()


@scenario("refused: ENOENT", "refused: EEXIST")
def spis_that_are_taken(host: Host) -> None:
    host.listen()
    alloc = f"xfrm state allocspi {ENDS} reqid 7 mode tunnel"
    host.ip(f"{alloc} min 0x100 max 0x100")
    host.ip(f"xfrm state allocspi {ENDS} reqid 8 mode tunnel min 0x100 max 0x100")
    host.ip(f"xfrm state allocspi {ENDS_IN} reqid 8 mode tunnel min 0x102 max 0x102")
    host.ip(state(0x100), state(0x100, do="update"), state(0x100, do="update"))
    host.ip(f"{alloc} min 0x100 max 0x100", f"{alloc} min 0x101 max 0x101")
    host.ip(f"xfrm state delete {ENDS} spi 0x101", f"xfrm state delete {ENDS} spi 0x101")


@scenario("level required", "acquire proto esp")
def each_template_asks_in_its_turn(host: Host) -> None:
    host.listen()
    inner = f"tmpl {OTHER_ENDS} reqid 8 mode tunnel"
    host.ip(f"xfrm policy add {FLOW} dir out {inner} {TEMPLATE}")
    host.send()
    host.ip(f"xfrm state add {OTHER_ENDS} spi 8 reqid 8 mode tunnel {GCM}")
    host.send()
    host.tables()
    host.ip(state(7))
    host.send()


@scenario("acquire proto esp")
def another_flow_does_not_ask_again(host: Host) -> None:
    """The larval state's selector is of the first flow: another one of the same policy asks for its own."""
    host.listen()
    host.ip(f"xfrm policy add src 10.1.0.0/16 dst 10.1.0.0/16 dir out {TEMPLATE}")
    host.ip(f"xfrm policy add src 10.0.0.2 dst 10.0.0.1 dir out {TEMPLATE}")
    host.send()
    host.send(1, LINK)
    host.send()
    host.tables()
    host.ip(state(1))
    host.send()
    host.send(1, LINK)


@scenario("acquire proto esp", "mark 0x5/0xff")
def larval_states_have_the_policys_mark(host: Host) -> None:
    host.listen()
    host.ip(f"xfrm policy add {FLOW} dir out mark 5 mask 0xff {TEMPLATE}")
    host.send(mark=4)
    host.send(mark=5)
    host.tables()
    host.ip(state(1), state(2, "mark 5 mask 0xff"))
    host.send(mark=5)
    host.send(mark=0x105)


@scenario("acquire proto esp")
def a_larval_state_that_is_flushed_is_asked_for_again(host: Host) -> None:
    host.listen()
    host.ip(POLICY)
    host.send()
    host.send()
    host.ip("xfrm state flush")
    host.send()
    host.tables()


@scenario("acquire proto esp")
def key_managers_ask_each_other(host: Host) -> None:
    """ACQUIRE as a request: nothing is kept, all are asked."""
    host.listen()
    host.ip(POLICY)
    (policy,) = host.client.dump_policies()
    (template,) = policy.config.templates
    wanted = LarvalConfig(
        daddr=template.daddr, saddr=template.saddr, proto=50, selector=policy.config.selector, mark=Mark(0, 0)
    )
    host.ask(lambda: host.client.acquire(wanted, replace(policy.config, index=0), (1, 2, 3)))
    host.tables()
