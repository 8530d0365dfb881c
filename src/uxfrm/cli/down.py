"""`uxfrm down`: see `up`, its other half."""

from uxfrm.cli.up import down as down
