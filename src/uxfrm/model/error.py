"""The one exception that requests raise: what the kernel would answer."""

from __future__ import annotations

import errno as _errno
import os


class XfrmError(Exception):
    """A refused request: the kernel's errno and, where it gives one, its extended-ack text.

    `number` is positive (EINVAL = 22). `text` is empty where the kernel says nothing beyond the errno.
    `attribute` is the number of the netlink attribute at fault, where the kernel names one.
    No key material is ever put into `text`.
    """

    def __init__(self, number: int, text: str = "", attribute: int | None = None) -> None:
        super().__init__(number, text)
        self.number = number
        self.text = text
        self.attribute = attribute

    @property
    def name(self) -> str:
        """The errno's symbol, such as EINVAL."""
        return _errno.errorcode.get(self.number, str(self.number))

    def __str__(self) -> str:
        words = os.strerror(self.number)
        return f"{self.text} ({self.name})" if self.text else f"{words} ({self.name})"


def invalid(text: str = "", attribute: int | None = None) -> XfrmError:
    """EINVAL with the kernel's words."""
    return XfrmError(_errno.EINVAL, text, attribute)
