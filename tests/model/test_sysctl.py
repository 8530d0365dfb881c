"""Sysctls: any text sets a value within its sysctl's range, or is refused. Beside Linux: tests/linux."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from uxfrm.model.error import XfrmError
from uxfrm.model.sysctl import SYSCTLS, Sysctls


def test_an_unknown_name() -> None:
    for ask in (Sysctls().get, lambda name: Sysctls().set(name, 1), lambda name: Sysctls().write(name, "1")):
        with pytest.raises(XfrmError) as refused:
            ask("net.core.xfrm_nosuch")
        assert refused.value.name == "ENOENT"


@given(st.sampled_from(sorted(SYSCTLS)), st.one_of(st.text(max_size=24), st.integers().map(str)))
def test_any_text_is_a_value_in_range_or_refused(name: str, text: str) -> None:
    try:
        value, refused = Sysctls().write(name, text).get(name), ""
    except XfrmError as error:
        value, refused = Sysctls().get(name), error.name
    assert refused in ("", "EINVAL")
    assert SYSCTLS[name].low <= value <= SYSCTLS[name].high
