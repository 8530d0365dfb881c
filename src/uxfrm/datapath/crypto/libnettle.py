"""Nettle: Serpent and Twofish, which OpenSSL lacks."""

from __future__ import annotations

import ctypes
from typing import Any

from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto.arena import Arena
from uxfrm.model.algorithm import Algorithm

NAME = "libnettle"

_LIBRARY = "libnettle.so.8"

# Kernel name -> (kind, Nettle's description of the cipher, what expands a key).
_CIPHERS = {
    "cbc(serpent)": (k.NETTLE_SERPENT, "nettle_serpent256", "nettle_serpent_set_key"),
    "cbc(twofish)": (k.NETTLE_TWOFISH, "nettle_twofish256", "nettle_twofish_set_key"),
}


class _Description(ctypes.Structure):
    """The beginning of struct nettle_cipher."""

    _fields_ = (("name", ctypes.c_char_p), ("context_size", ctypes.c_uint))


class Libnettle:
    """The library. `available` is False where it is absent."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self.problem = ""
        self._library: Any = None
        try:
            self._library = ctypes.CDLL(_LIBRARY)
        except OSError:
            self.problem = "Nettle is not installed"

    @property
    def available(self) -> bool:
        return self._library is not None

    def fill(self, functions: Any) -> None:
        """Write its function addresses into the function table."""
        for place, name in (
            (k.NETTLE_CBC_ENCRYPT, "nettle_cbc_encrypt"),
            (k.NETTLE_CBC_DECRYPT, "nettle_cbc_decrypt"),
            (k.SERPENT_ENCRYPT, "nettle_serpent_encrypt"),
            (k.SERPENT_DECRYPT, "nettle_serpent_decrypt"),
            (k.TWOFISH_ENCRYPT, "nettle_twofish_encrypt"),
            (k.TWOFISH_DECRYPT, "nettle_twofish_decrypt"),
        ):
            functions[place] = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value

    def crypt(self, row: Any, algorithm: Algorithm) -> bool:
        """Set a row up for a cipher; False where this engine has none."""
        if algorithm.name not in _CIPHERS:
            return False
        kind, description, expand = _CIPHERS[algorithm.name]
        context = self._arena.take(self._size(description))
        key = algorithm.key
        getattr(self._library, expand)(ctypes.c_void_p(context), ctypes.c_size_t(len(key)), key)
        row["kind"] = kind
        row["encrypt"] = row["decrypt"] = context
        return True

    def _size(self, description: str) -> int:
        return int(_Description.in_dll(self._library, description).context_size)

    def release(self, row: Any) -> None:
        """Wipe and give back what a row holds of this engine."""
        for kind, description, _ in _CIPHERS.values():
            if row["kind"] == kind:
                self._arena.give_back(int(row["encrypt"]), self._size(description))

    def close(self) -> None:
        """Nothing is the engine's own: the library lives as long as the process."""
