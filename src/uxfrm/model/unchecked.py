"""Frozen configurations that are not checked: what lives already changes, or what somebody tells of it."""

from __future__ import annotations

from copy import copy
from dataclasses import MISSING, fields
from typing import Any, TypeVar

Config = TypeVar("Config")


def changed(config: Config, **values: Any) -> Config:
    """A copy with what may change while the state or policy lives."""
    found = copy(config)
    for name, value in values.items():
        object.__setattr__(found, name, value)
    return found


def told(kind: type[Config], **values: Any) -> Config:
    """A configuration as a dump or an event tells it: with what is left out there, and what a new one may
    not have. Every field without a default must be given."""
    found = object.__new__(kind)
    for field in fields(kind):  # type: ignore[arg-type]
        value = values.pop(field.name) if field.name in values else field.default
        assert value is not MISSING, field.name
        object.__setattr__(found, field.name, value)
    assert not values, values
    return found
