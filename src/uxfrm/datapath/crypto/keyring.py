"""Key slots: which engine runs an SA's algorithms, and where its contexts are.

Engines are asked in order of preference; one that fails a known-answer test for a kind is not asked again
for it. A cipher and its integrity algorithm may come from different engines.
"""

from __future__ import annotations

import ctypes
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from uxfrm.datapath.crypto import ipsec_mb, known_answers, libcrypto, libnettle
from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto.arena import Arena, aligned
from uxfrm.model.algorithm import Algorithm, aead_spec, auth_spec, crypt_spec
from uxfrm.model.error import XfrmError

ENGINES = (ipsec_mb.NAME, libcrypto.NAME, libnettle.NAME)

_START = 16
_NO_KEY = np.zeros((), k.KEY_DTYPE)


class Engine(Protocol):
    """What the keyring asks of an engine."""

    problem: str

    @property
    def available(self) -> bool: ...

    def fill(self, functions: Any) -> None: ...

    def release(self, row: Any) -> None: ...

    def close(self) -> None: ...


def default_engines() -> tuple[str, ...]:
    """All engines in order of preference, or those that UXFRM_ENGINES names."""
    named = os.environ.get("UXFRM_ENGINES")
    return tuple(name.strip() for name in named.split(",")) if named else ENGINES


class Keyring:
    """Key contexts of one namespace, one slot per SA.

    `rows` (KEY_DTYPE) may be replaced when it grows; `functions` and `scratch` stay. `problems` says which
    engines are absent or were found wanting.
    """

    def __init__(self, engines: Sequence[str] | None = None, prove: bool = True) -> None:
        """Load engines; `prove` has each pass known-answer tests before it is used for an algorithm."""
        self.rows: Any = np.zeros(_START, k.KEY_DTYPE)
        self.functions: Any = np.zeros(k.FUNCTIONS, np.int64)
        self.functions[k.MEMCPY] = ctypes.cast(ctypes.CDLL(None).memcpy, ctypes.c_void_p).value
        self.scratch: Any = aligned(k.SCRATCH)
        self.problems: list[str] = []
        self._prove = prove
        self._arena = Arena()
        self._engines: dict[str, Any] = {}
        self._refused: set[tuple[str, str, int]] = set()
        self._free = list(range(_START - 1, -1, -1))
        for name in default_engines() if engines is None else engines:
            self._load(name)

    def _load(self, name: str) -> None:
        makers: dict[str, Callable[[], Engine]] = {
            ipsec_mb.NAME: lambda: ipsec_mb.IpsecMb(self._arena),
            libcrypto.NAME: lambda: libcrypto.Libcrypto(self._arena),
            libnettle.NAME: lambda: libnettle.Libnettle(self._arena),
        }
        if name not in makers:
            raise ValueError(f"no crypto engine {name!r}; there are {', '.join(ENGINES)}")
        engine: Engine = makers[name]()
        if engine.problem:
            self.problems.append(f"{name}: {engine.problem}")
        if engine.available:
            engine.fill(self.functions)
            self._engines[name] = engine

    def _trusted(self, engine: str, algorithm: Algorithm) -> bool:
        """True unless a known-answer test of this engine and algorithm failed."""
        if not self._prove:
            return True
        key = (engine, algorithm.name, len(algorithm.key))
        if key not in _DISPROVED:
            _DISPROVED[key] = _disproof(engine, algorithm)
        if _DISPROVED[key] and key not in self._refused:
            self._refused.add(key)
            source = _DISPROVED[key]
            self.problems.append(f"{engine}: {algorithm.name}: not used, it does not reproduce {source}")
        return not _DISPROVED[key]

    # -- slots

    def add(
        self,
        *,
        aead: Algorithm | None = None,
        auth: Algorithm | None = None,
        crypt: Algorithm | None = None,
    ) -> int:
        """Set up a slot for a combined algorithm, or for a cipher with or without an integrity algorithm.

        Key lengths have been checked. Raises XfrmError(ENOSYS) where no engine has the algorithm.
        """
        slot = self._take()
        row = self.rows[slot]
        try:
            if aead is not None:
                self._add_aead(row, aead)
            else:
                self._add_auth(row, auth)
                self._add_crypt(row, crypt)
        except BaseException:
            self._release(slot)
            raise
        return slot

    def _add_aead(self, row: Any, aead: Algorithm) -> None:
        spec = aead_spec(aead)
        assert aead.key_bits in spec.key_bits
        row["icv_bytes"] = aead.icv_bits // 8
        row["iv_bytes"] = spec.iv_bytes
        row["block"] = 1
        _set_nonce(row, aead.key[-spec.salt_bytes :])
        self._ask("aead", row, aead, "Requested AEAD algorithm not found")

    def _add_auth(self, row: Any, auth: Algorithm | None) -> None:
        if auth is None or auth.name == "digest_null":
            return
        allowed = auth_spec(auth).key_bits
        assert not allowed or auth.key_bits in allowed
        row["icv_bytes"] = auth.icv_bits // 8
        self._ask("auth", row, auth, "Requested AUTH algorithm not found")

    def _add_crypt(self, row: Any, crypt: Algorithm | None) -> None:
        assert crypt is not None
        spec = crypt_spec(crypt)
        assert crypt.key_bits in spec.key_bits
        row["iv_bytes"] = spec.iv_bytes
        row["block"] = spec.block_bytes
        if crypt.name == "ecb(cipher_null)":
            row["kind"] = k.NULL_CIPHER
            return
        if spec.nonce_bytes:
            _set_nonce(row, crypt.key[-spec.nonce_bytes :])
        self._ask("crypt", row, crypt, "Requested CRYPT algorithm not found")

    def _ask(self, what: str, row: Any, algorithm: Algorithm, words: str) -> None:
        for name, engine in self._engines.items():
            setup = getattr(engine, what, None)
            if setup is None or not self._trusted(name, algorithm):
                continue
            if setup(row, algorithm):
                return
        raise XfrmError(errno.ENOSYS, words)

    def remove(self, slot: int) -> None:
        """Wipe a slot's key material; the slot is used again later."""
        if not self.rows[slot]["kind"]:
            raise ValueError(f"slot {slot} holds no key: it was removed before")
        self._release(slot)

    def _release(self, slot: int) -> None:
        for engine in self._engines.values():
            engine.release(self.rows[slot])
        self.rows[slot] = _NO_KEY
        self._free.append(slot)

    def _take(self) -> int:
        if not self._free:
            old = self.rows
            capacity = len(old) * 2 if len(old) < 65536 else len(old) + len(old) // 4
            self.rows = np.zeros(capacity, k.KEY_DTYPE)
            self.rows[: len(old)] = old
            # Whoever still holds the old rows must find no key there.
            size = len(old)
            old[:] = _NO_KEY
            self._free.extend(range(capacity - 1, size - 1, -1))
        return self._free.pop()

    @property
    def used(self) -> int:
        """How many slots hold keys."""
        return len(self.rows) - len(self._free)

    @property
    def nbytes(self) -> int:
        """Bytes of slots and of key contexts."""
        return int(self.rows.nbytes) + self._arena.nbytes

    def engine_of(self, slot: int) -> str:
        """The engines that run a slot, for people."""
        row = self.rows[slot]
        found = [_ENGINE_OF_KIND.get(int(row["kind"]), ""), _ENGINE_OF_AUTH.get(int(row["auth"]), "")]
        return "+".join(dict.fromkeys(name for name in found if name)) or "none"

    def close(self) -> None:
        """Wipe all key material. The keyring is of no use afterwards."""
        for slot in np.flatnonzero(self.rows["kind"]):
            self.remove(int(slot))
        self.functions[:] = 0
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        self._arena.wipe()
        self.scratch[:] = 0

    def __del__(self, exiting: Callable[[], bool] = sys.is_finalizing) -> None:
        # A constructor that raised has left nothing to free; at exit the process frees everything, and
        # modules are gone already.
        if "_free" in self.__dict__ and not exiting():
            self.close()


# Known-answer tests that were run, by engine, algorithm and key length: the source of the first that failed,
# or nothing. One keyring per engine runs them.
_DISPROVED: dict[tuple[str, str, int], str] = {}
_PROVING: dict[str, Keyring] = {}


def _disproof(engine: str, algorithm: Algorithm) -> str:
    """Run an engine's known-answer tests of one algorithm; what it lacks beside it others lend."""
    keyring = _PROVING.get(engine)
    if keyring is None:
        order = (engine, *(name for name in ENGINES if name != engine))
        keyring = _PROVING[engine] = Keyring(order, prove=False)
    for answer in known_answers.rows_for(algorithm)[:2]:
        try:
            if not known_answers.holds(keyring, answer):
                return answer[0]
        except XfrmError:
            # The engine lacks the algorithm, and so do the others: there is nothing to distrust.
            continue
    return ""


_ENGINE_OF_KIND = {
    k.IMB_GCM: ipsec_mb.NAME,
    k.IMB_GMAC: ipsec_mb.NAME,
    k.IMB_CHACHA20_POLY1305: ipsec_mb.NAME,
    k.IMB_CBC: ipsec_mb.NAME,
    k.IMB_CTR: ipsec_mb.NAME,
    k.EVP_AEAD: libcrypto.NAME,
    k.EVP_CCM: libcrypto.NAME,
    k.EVP_GMAC: libcrypto.NAME,
    k.EVP_CIPHER: libcrypto.NAME,
    k.NETTLE_SERPENT: libnettle.NAME,
    k.NETTLE_TWOFISH: libnettle.NAME,
}
_ENGINE_OF_AUTH = {k.IMB_HMAC: ipsec_mb.NAME, k.EVP_MAC: libcrypto.NAME, k.EVP_XCBC: libcrypto.NAME}


def _set_nonce(row: Any, nonce: bytes) -> None:
    row["nonce_bytes"] = len(nonce)
    row["nonce"] = int.from_bytes(nonce, sys.byteorder)
