"""Intel's multi-buffer library, through its manager table (IMB_MGR).

The table's offsets are those of version 1.3; any other version is not used, and known-answer tests run
through the compiled functions before a packet does (see known_answers).
"""

from __future__ import annotations

import ctypes
import hashlib
from typing import Any

from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto.arena import Arena
from uxfrm.datapath.crypto.calls import call
from uxfrm.model.algorithm import Algorithm

NAME = "ipsec_mb"

_LIBRARY = "libIPSec_MB.so.1"
_VERSION = b"1.3."
_ERRNO = 60

_KEY_EXPAND = {16: 112, 24: 120, 32: 128}
_GCM_PRECOMPUTE = {16: 448, 24: 456, 32: 464}
_OFFSETS = {
    k.GCM_ENCRYPT: 256, k.GCM_ENCRYPT + 1: 264, k.GCM_ENCRYPT + 2: 272,
    k.GCM_DECRYPT: 280, k.GCM_DECRYPT + 1: 288, k.GCM_DECRYPT + 2: 296,
    k.NEXT_JOB: 64, k.SUBMIT_JOB: 80, k.FLUSH_JOB: 96,
    k.CIPHER_BURST: 992, k.HASH_BURST: 1008,
}  # fmt: skip

_GCMS = {"rfc4106(gcm(aes))": k.IMB_GCM, "rfc4543(gcm(aes))": k.IMB_GMAC}
_GCM_KEY_BYTES = 1008
_EXPANDED = 256
_STATE = 64

# With ESN a burst borrows the first four bytes of the ICV (see burst): shorter ones are for other engines.
_LEAST_ICV_BITS = 32

# name: (place in the burst's hash list, offset of the one-block function, hash block, hashlib's name, tag)
_HMACS: dict[str, tuple[int, int, int, str, int]] = {
    "hmac(sha1)": (0, 160, 64, "sha1", 20),
    "hmac(sha256)": (1, 176, 64, "sha256", 32),
    "hmac(sha384)": (2, 184, 128, "sha384", 48),
    "hmac(sha512)": (3, 192, 128, "sha512", 64),
}


class IpsecMb:
    """One manager. `available` is False where the library is absent or of another version."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._manager = 0
        self.problem = ""
        try:
            library: Any = ctypes.CDLL(_LIBRARY)
        except OSError:
            self.problem = "libipsec-mb is not installed"
            return
        library.imb_get_version_str.restype = ctypes.c_char_p
        version = library.imb_get_version_str() or b""
        if not version.startswith(_VERSION):
            self.problem = f"libipsec-mb {version.decode(errors='replace')} is not a known version"
            return
        self._library = library
        library.alloc_mb_mgr.restype = ctypes.c_void_p
        library.alloc_mb_mgr.argtypes = [ctypes.c_uint64]
        manager = library.alloc_mb_mgr(0)
        if not manager:
            self.problem = "libipsec-mb has no memory for its manager"
            return
        library.init_mb_mgr_auto(ctypes.c_void_p(manager), None)
        error = ctypes.c_int.from_address(manager + _ERRNO).value
        if error:
            library.free_mb_mgr(ctypes.c_void_p(manager))
            self.problem = f"libipsec-mb does not run on this processor (its error {error})"
            return
        self._manager = int(manager)

    @property
    def available(self) -> bool:
        return bool(self._manager)

    def fill(self, functions: Any) -> None:
        """Write the manager and its function addresses into the function table."""
        functions[k.MANAGER] = self._manager
        for place, offset in _OFFSETS.items():
            functions[place] = self._function(offset)

    def _function(self, offset: int) -> int:
        return int(ctypes.c_uint64.from_address(self._manager + offset).value)

    def close(self) -> None:
        """Free the manager."""
        if self._manager:
            self._library.free_mb_mgr(ctypes.c_void_p(self._manager))
            self._manager = 0

    # -- what it can take over

    def aead(self, row: Any, algorithm: Algorithm) -> bool:
        """Set a row up for an AEAD; False where this engine has none."""
        if algorithm.name in _GCMS:
            key = algorithm.key[:-4]
            row["kind"] = _GCMS[algorithm.name]
            row["encrypt"] = self._arena.take(_GCM_KEY_BYTES)
            _with_bytes(self._function(_GCM_PRECOMPUTE[len(key)]), key, int(row["encrypt"]))
        elif algorithm.name == "rfc7539esp(chacha20,poly1305)":
            key = algorithm.key[:-4]
            row["kind"] = k.IMB_CHACHA20_POLY1305
            row["encrypt"] = self._arena.take(len(key))
            ctypes.memmove(int(row["encrypt"]), key, len(key))
        else:
            return False
        row["key_bytes"] = len(key)
        return True

    def crypt(self, row: Any, algorithm: Algorithm) -> bool:
        """Set a row up for a cipher; False where this engine has none."""
        if algorithm.name == "cbc(aes)":
            key, row["kind"] = algorithm.key, k.IMB_CBC
        elif algorithm.name == "rfc3686(ctr(aes))":
            key, row["kind"] = algorithm.key[:-4], k.IMB_CTR
        else:
            return False
        row["key_bytes"] = len(key)
        row["encrypt"] = self._arena.take(_EXPANDED)
        row["decrypt"] = self._arena.take(_EXPANDED)
        _with_bytes(self._function(_KEY_EXPAND[len(key)]), key, int(row["encrypt"]), int(row["decrypt"]))
        return True

    def auth(self, row: Any, algorithm: Algorithm) -> bool:
        """Set a row up for an integrity algorithm; False where this engine has none."""
        found = _HMACS.get(algorithm.name)
        if found is None or algorithm.icv_bits < _LEAST_ICV_BITS:
            return False
        row["auth"] = k.IMB_HMAC
        row["hash"], one_block, block, name, row["mac_bytes"] = found
        key = algorithm.key if len(algorithm.key) <= block else hashlib.new(name, algorithm.key).digest()
        row["mac"] = self._arena.take(2 * _STATE)
        for pad, at in ((0x36, 0), (0x5C, _STATE)):
            padded = bytes(byte ^ pad for byte in key.ljust(block, b"\0"))
            _with_bytes(self._function(one_block), padded, int(row["mac"]) + at)
        return True

    def release(self, row: Any) -> None:
        """Wipe and take back what a row holds of this engine."""
        if row["kind"] in (k.IMB_GCM, k.IMB_GMAC):
            self._arena.give_back(int(row["encrypt"]), _GCM_KEY_BYTES)
        elif row["kind"] == k.IMB_CHACHA20_POLY1305:
            self._arena.give_back(int(row["encrypt"]), int(row["key_bytes"]))
        elif row["kind"] in (k.IMB_CBC, k.IMB_CTR):
            self._arena.give_back(int(row["encrypt"]), _EXPANDED)
            self._arena.give_back(int(row["decrypt"]), _EXPANDED)
        if row["auth"] == k.IMB_HMAC:
            self._arena.give_back(int(row["mac"]), 2 * _STATE)


def _with_bytes(function: int, data: bytes, *others: int) -> None:
    """Call `function` with the address of a copy of `data`, which is wiped afterwards."""
    copy = ctypes.create_string_buffer(data, len(data))
    call(function, (ctypes.addressof(copy), *others))
    ctypes.memset(copy, 0, len(data))
