"""NAT mappings that authenticated packets have shown. The state stays as it is: key managers decide.

Follows: km_new_mapping, build_mapping.
"""

from __future__ import annotations

from uxfrm.lifecycle.events import MappingChanged
from uxfrm.model.dump import StateId
from uxfrm.model.state import StateConfig
from uxfrm.tables import rows as r
from uxfrm.tables.states import State


def mapping_changed(state: State) -> MappingChanged:
    """The event of a state whose row has a new mapping."""
    config, x = state.config, state.record
    assert isinstance(config, StateConfig)
    assert config.encap is not None
    new = r.address([int(word) for word in x["mapped_address"]], config.family)
    return MappingChanged(
        StateId(config.daddr, config.spi, config.proto, config.family),
        config.reqid,
        (config.saddr, config.encap.sport),
        (new, int(x["mapped_port"])),
    )
