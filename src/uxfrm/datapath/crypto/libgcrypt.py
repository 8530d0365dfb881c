"""libgcrypt: Serpent and Twofish, which OpenSSL lacks."""

from __future__ import annotations

import ctypes
from typing import Any

from uxfrm.datapath.crypto import kinds as k
from uxfrm.model.algorithm import Algorithm

NAME = "libgcrypt"

_LIBRARY = "libgcrypt.so.20"
_CBC = 3
_DISABLE_SECMEM, _INITIALIZATION_FINISHED, _ANY_INITIALIZATION = 37, 38, 40
_SERPENT256 = 306
_TWOFISH = {16: 10, 32: 303}


class Libgcrypt:
    """The library. `available` is False where it is absent."""

    def __init__(self) -> None:
        self.problem = ""
        self._library: Any = None
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            self.problem = "libgcrypt is not installed"
            return
        library.gcry_check_version.restype = ctypes.c_char_p
        if not library.gcry_control(_ANY_INITIALIZATION, 0):
            library.gcry_check_version(None)
            library.gcry_control(_DISABLE_SECMEM, 0)
            library.gcry_control(_INITIALIZATION_FINISHED, 0)
        self._library = library

    @property
    def available(self) -> bool:
        return self._library is not None

    def fill(self, functions: Any) -> None:
        """Write its function addresses into the function table."""
        for place, name in (
            (k.GCRYPT_SETIV, "gcry_cipher_setiv"),
            (k.GCRYPT_ENCRYPT, "gcry_cipher_encrypt"),
            (k.GCRYPT_DECRYPT, "gcry_cipher_decrypt"),
        ):
            functions[place] = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value

    def crypt(self, row: Any, algorithm: Algorithm) -> bool:
        """Set a row up for a cipher; False where this engine has none (Twofish with 192 bits)."""
        key = algorithm.key
        if algorithm.name == "cbc(serpent)":
            # A short Serpent key is a longer one: a one bit, then zeros (Serpent submission, 4).
            number, key = _SERPENT256, key if len(key) == 32 else (key + b"\x01").ljust(32, b"\0")
        elif algorithm.name == "cbc(twofish)" and len(key) in _TWOFISH:
            number = _TWOFISH[len(key)]
        else:
            return False
        handle = ctypes.c_void_p()
        if self._library.gcry_cipher_open(ctypes.byref(handle), number, _CBC, 0):
            return False
        if self._library.gcry_cipher_setkey(handle, key, ctypes.c_size_t(len(key))):
            self._library.gcry_cipher_close(handle)
            return False
        row["kind"] = k.GCRYPT_CIPHER
        row["encrypt"] = row["decrypt"] = handle.value
        return True

    def release(self, row: Any) -> None:
        """Close what a row holds of this engine; the library wipes it."""
        if row["kind"] == k.GCRYPT_CIPHER:
            self._library.gcry_cipher_close(ctypes.c_void_p(int(row["encrypt"])))

    def close(self) -> None:
        """Nothing is the engine's own: the library lives as long as the process."""
