"""The Linux kernel's XFRM framework (IPsec) in user space."""

__version__ = "0.1.0"
