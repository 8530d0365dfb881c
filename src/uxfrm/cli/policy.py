"""`uxfrm policy`: made beside `uxfrm state`, of which it differs in one word."""

from uxfrm.cli.state import policy

__all__ = ["policy"]
