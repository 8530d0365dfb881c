"""Packets exchanged with a real Linux 6.1: see guest.py."""
