"""OpenSSL 3's libcrypto, in a library context of its own with the default and legacy providers.

Contexts are set up once per SA with the key; per packet only the IV is set. HMAC, CMAC and XCBC too.
"""

from __future__ import annotations

import ctypes
from typing import Any

from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto.arena import Arena
from uxfrm.model.algorithm import Algorithm

NAME = "libcrypto"

_LIBRARY = "libcrypto.so.3"

_SET_IV_LENGTH, _SET_TAG = 0x9, 0x11

# Kernel name -> (OpenSSL's name by key bytes or one name, kind, IV length, salt bytes).
_AEADS: dict[str, tuple[dict[int, bytes], int, int, int]] = {
    "rfc4106(gcm(aes))": (
        {16: b"AES-128-GCM", 24: b"AES-192-GCM", 32: b"AES-256-GCM"}, k.EVP_AEAD, 12, 4),
    "rfc4543(gcm(aes))": (
        {16: b"AES-128-GCM", 24: b"AES-192-GCM", 32: b"AES-256-GCM"}, k.EVP_GMAC, 12, 4),
    "rfc4309(ccm(aes))": (
        {16: b"AES-128-CCM", 24: b"AES-192-CCM", 32: b"AES-256-CCM"}, k.EVP_CCM, 11, 3),
    "rfc7539esp(chacha20,poly1305)": ({32: b"ChaCha20-Poly1305"}, k.EVP_AEAD, 12, 4),
}  # fmt: skip

_ANY_LENGTH = 0
_CIPHERS: dict[str, dict[int, bytes]] = {
    "cbc(aes)": {16: b"AES-128-CBC", 24: b"AES-192-CBC", 32: b"AES-256-CBC"},
    "rfc3686(ctr(aes))": {16: b"AES-128-CTR", 24: b"AES-192-CTR", 32: b"AES-256-CTR"},
    "cbc(des)": {8: b"DES-CBC"},
    "cbc(des3_ede)": {24: b"DES-EDE3-CBC"},
    "cbc(camellia)": {16: b"CAMELLIA-128-CBC", 24: b"CAMELLIA-192-CBC", 32: b"CAMELLIA-256-CBC"},
    "cbc(blowfish)": {_ANY_LENGTH: b"BF-CBC"},
    "cbc(cast5)": {_ANY_LENGTH: b"CAST5-CBC"},
    "cbc(sm4)": {16: b"SM4-CBC"},
}

_HMACS: dict[str, tuple[bytes, int]] = {
    "hmac(md5)": (b"MD5", 16),
    "hmac(sha1)": (b"SHA1", 20),
    "hmac(sha256)": (b"SHA256", 32),
    "hmac(sha384)": (b"SHA384", 48),
    "hmac(sha512)": (b"SHA512", 64),
    "hmac(rmd160)": (b"RIPEMD160", 20),
    "hmac(sm3)": (b"SM3", 32),
}

_CMAC_CIPHERS = {16: b"AES-128-CBC", 24: b"AES-192-CBC", 32: b"AES-256-CBC"}
_XCBC_KEYS = 32


class _Parameter(ctypes.Structure):
    """OSSL_PARAM."""

    _fields_ = (
        ("key", ctypes.c_char_p),
        ("data_type", ctypes.c_uint),
        ("data", ctypes.c_char_p),
        ("data_size", ctypes.c_size_t),
        ("return_size", ctypes.c_size_t),
    )


_UTF8_STRING = 4

_POINTERS = (
    "OSSL_LIB_CTX_new", "OSSL_PROVIDER_load", "EVP_CIPHER_fetch", "EVP_CIPHER_CTX_new", "EVP_MAC_fetch",
    "EVP_MAC_CTX_new",
)  # fmt: skip


class Libcrypto:
    """The library. `available` is False where it is absent or older than 3."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena
        self._fetched: dict[bytes, Any] = {}
        self._macs: dict[bytes, Any] = {}
        self._providers: list[Any] = []
        self.problem = ""
        self._library: Any = None
        try:
            library = ctypes.CDLL(_LIBRARY)
        except OSError:
            self.problem = "OpenSSL 3 is not installed"
            return
        for function in _POINTERS:
            getattr(library, function).restype = ctypes.c_void_p
        self._library = library
        self._context = ctypes.c_void_p(library.OSSL_LIB_CTX_new())
        for name in (b"default", b"legacy"):
            provider = library.OSSL_PROVIDER_load(self._context, name)
            if provider:
                self._providers.append(ctypes.c_void_p(provider))
            else:
                self.problem = f"OpenSSL's {name.decode()} provider is missing: some old ciphers are too"

    @property
    def available(self) -> bool:
        return self._library is not None

    def fill(self, functions: Any) -> None:
        """Write its function addresses into the function table."""
        for place, name in (
            (k.EVP_INIT, "EVP_CipherInit_ex2"),
            (k.EVP_UPDATE, "EVP_CipherUpdate"),
            (k.EVP_FINAL, "EVP_CipherFinal_ex"),
            (k.EVP_CONTROL, "EVP_CIPHER_CTX_ctrl"),
            (k.MAC_INIT, "EVP_MAC_init"),
            (k.MAC_UPDATE, "EVP_MAC_update"),
            (k.MAC_FINAL, "EVP_MAC_final"),
        ):
            functions[place] = ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value

    # -- what it can take over

    def aead(self, row: Any, algorithm: Algorithm) -> bool:
        """Set a row up for an AEAD; False where this engine has none."""
        names, kind, iv_bytes, salt = _AEADS[algorithm.name]
        key = algorithm.key[:-salt]
        encrypt = decrypt = self._keyed_aead(names[len(key)], key, iv_bytes, 1, algorithm.icv_bits // 8)
        if kind == k.EVP_CCM:
            # A CCM context works only in the direction that it was keyed for.
            decrypt = self._keyed_aead(names[len(key)], key, iv_bytes, 0, algorithm.icv_bits // 8)
        if encrypt is None or decrypt is None:
            self._drop(encrypt, decrypt)
            return False
        row["kind"] = kind
        row["encrypt"], row["decrypt"] = encrypt.value, decrypt.value
        return True

    def _keyed_aead(self, name: bytes, key: bytes, iv_bytes: int, encrypt: int, icv_bytes: int) -> Any:
        """A context with its key and lengths; None where OpenSSL refuses."""
        context = self._new_context(name)
        if context is None:
            return None
        library = self._library
        library.EVP_CipherInit_ex2(context, None, None, None, encrypt, None)
        library.EVP_CIPHER_CTX_ctrl(context, _SET_IV_LENGTH, iv_bytes, None)
        if name.endswith(b"CCM"):
            library.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, icv_bytes, None)
        if library.EVP_CipherInit_ex2(context, None, key, None, encrypt, None) != 1:
            library.EVP_CIPHER_CTX_free(context)
            return None
        return context

    def crypt(self, row: Any, algorithm: Algorithm) -> bool:
        """Set a row up for a cipher; False where this engine has none."""
        names = _CIPHERS.get(algorithm.name, {})
        key = algorithm.key[:-4] if algorithm.name.startswith("rfc3686") else algorithm.key
        name = names.get(len(key)) or names.get(_ANY_LENGTH)
        if name is None:
            return False
        encrypt = self._keyed(name, key, 1)
        decrypt = self._keyed(name, key, 0)
        if encrypt is None or decrypt is None:
            self._drop(encrypt, decrypt)
            return False
        row["kind"] = k.EVP_CIPHER
        row["encrypt"], row["decrypt"] = encrypt.value, decrypt.value
        return True

    def auth(self, row: Any, algorithm: Algorithm) -> bool:
        """Set a row up for an integrity algorithm; False where this engine has none."""
        if algorithm.name == "xcbc(aes)":
            return self._xcbc(row, algorithm.key)
        if algorithm.name == "cmac(aes)":
            cipher = _CMAC_CIPHERS[len(algorithm.key)]
            return self._mac(row, b"CMAC", b"cipher", cipher, algorithm.key, 16)
        if algorithm.name not in _HMACS:
            return False
        digest, size = _HMACS[algorithm.name]
        return self._mac(row, b"HMAC", b"digest", digest, algorithm.key, size)

    def _mac(self, row: Any, kind: bytes, option: bytes, value: bytes, key: bytes, size: int) -> bool:
        library = self._library
        if kind not in self._macs:
            self._macs[kind] = ctypes.c_void_p(library.EVP_MAC_fetch(self._context, kind, None))
        if not self._macs[kind].value:
            return False
        context = ctypes.c_void_p(library.EVP_MAC_CTX_new(self._macs[kind]))
        parameters = (_Parameter * 2)()
        parameters[0] = _Parameter(option, _UTF8_STRING, value, len(value), 0)
        # An empty key is a key: the pointer must not be NULL.
        buffer = ctypes.create_string_buffer(key, len(key) + 1)
        done = library.EVP_MAC_init(context, buffer, ctypes.c_size_t(len(key)), parameters)
        ctypes.memset(buffer, 0, len(key))
        if done != 1:
            library.EVP_MAC_CTX_free(context)
            return False
        row["auth"], row["mac"], row["mac_bytes"] = k.EVP_MAC, context.value, size
        return True

    def _xcbc(self, row: Any, key: bytes) -> bool:
        """AES-XCBC-MAC (RFC 3566): CBC under K1, the last block whitened with K2 or K3."""
        derived = [self._encrypt_block(key, bytes([n]) * 16) for n in (1, 2, 3)]
        context = self._keyed(b"AES-128-CBC", derived[0], 1)
        if context is None:
            return False
        keys = self._arena.take(_XCBC_KEYS + 8)
        ctypes.memmove(keys, derived[1] + derived[2], _XCBC_KEYS)
        ctypes.c_uint64.from_address(keys + _XCBC_KEYS).value = context.value or 0
        row["auth"], row["mac"], row["mac_bytes"] = k.EVP_XCBC, keys, 16
        return True

    def _encrypt_block(self, key: bytes, block: bytes) -> bytes:
        context = self._keyed(b"AES-128-CBC", key, 1)
        assert context is not None
        out = ctypes.create_string_buffer(32)
        length = ctypes.c_int()
        self._library.EVP_CipherInit_ex2(context, None, None, bytes(16), 1, None)
        self._library.EVP_CipherUpdate(context, out, ctypes.byref(length), block, len(block))
        self._library.EVP_CIPHER_CTX_free(context)
        return out.raw[:16]

    def release(self, row: Any) -> None:
        """Free what a row holds of this engine; the library wipes it."""
        free = self._library.EVP_CIPHER_CTX_free
        if row["kind"] in (k.EVP_AEAD, k.EVP_GMAC):
            free(ctypes.c_void_p(int(row["encrypt"])))
        elif row["kind"] in (k.EVP_CIPHER, k.EVP_CCM):
            free(ctypes.c_void_p(int(row["encrypt"])))
            free(ctypes.c_void_p(int(row["decrypt"])))
        if row["auth"] == k.EVP_MAC:
            self._library.EVP_MAC_CTX_free(ctypes.c_void_p(int(row["mac"])))
        elif row["auth"] == k.EVP_XCBC:
            keys = int(row["mac"])
            free(ctypes.c_void_p(ctypes.c_uint64.from_address(keys + _XCBC_KEYS).value))
            self._arena.give_back(keys, _XCBC_KEYS + 8)

    def close(self) -> None:
        """Free the library context. Rows that still hold contexts of it must have been released."""
        if self._library is None:
            return
        for cipher in self._fetched.values():
            self._library.EVP_CIPHER_free(cipher)
        for mac in self._macs.values():
            self._library.EVP_MAC_free(mac)
        for provider in self._providers:
            self._library.OSSL_PROVIDER_unload(provider)
        self._library.OSSL_LIB_CTX_free(self._context)
        self._library = None

    # -- contexts

    def _drop(self, *contexts: Any) -> None:
        """Free what was made before OpenSSL refused."""
        for context in contexts:
            if context is not None:
                self._library.EVP_CIPHER_CTX_free(context)

    def _fetch(self, name: bytes) -> Any:
        found = self._fetched.get(name)
        if found is None:
            found = ctypes.c_void_p(self._library.EVP_CIPHER_fetch(self._context, name, None))
            self._fetched[name] = found
        return found

    def _new_context(self, name: bytes) -> Any:
        """A context with its cipher and no key yet, or None where OpenSSL has no such cipher."""
        cipher = self._fetch(name)
        if not cipher.value:
            return None
        context = ctypes.c_void_p(self._library.EVP_CIPHER_CTX_new())
        self._library.EVP_CipherInit_ex2(context, cipher, None, None, 1, None)
        return context

    def _keyed(self, name: bytes, key: bytes, encrypt: int) -> Any:
        """A context for whole blocks with its key, for one direction; None where OpenSSL refuses."""
        context = self._new_context(name)
        if context is None:
            return None
        library = self._library
        library.EVP_CIPHER_CTX_set_key_length(context, len(key))
        library.EVP_CIPHER_CTX_set_padding(context, 0)
        if library.EVP_CipherInit_ex2(context, None, key, None, encrypt, None) != 1:
            library.EVP_CIPHER_CTX_free(context)
            return None
        library.EVP_CIPHER_CTX_set_padding(context, 0)
        return context
