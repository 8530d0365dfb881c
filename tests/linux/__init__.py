"""A real Linux kernel in a test: see guest.py for the interface."""
