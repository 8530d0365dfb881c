"""What a key slot can be, and the addresses that compiled code calls.

A slot's kinds are columns of its row, chosen when the SA is installed; no function is ever chosen by what
happened to be loaded when it was compiled.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

# Ciphers. A slot of kind NO_KEY seals nothing and opens nothing.
NO_KEY = 0
NULL_CIPHER = 1
IMB_GCM = 2
IMB_CHACHA20_POLY1305 = 3
IMB_CBC = 4
IMB_CTR = 5
EVP_AEAD = 6
EVP_CCM = 7
EVP_GMAC = 8
EVP_CIPHER = 9
NETTLE_SERPENT = 10
NETTLE_TWOFISH = 11
IMB_GMAC = 12

AEADS = (IMB_GCM, IMB_GMAC, IMB_CHACHA20_POLY1305, EVP_AEAD, EVP_CCM, EVP_GMAC)

# Integrity algorithms beside a cipher.
NO_AUTH = 0
IMB_HMAC = 1
EVP_MAC = 2
EVP_XCBC = 3

KEY_DTYPE = np.dtype(
    [
        ("kind", np.int64),
        ("auth", np.int64),
        ("icv_bytes", np.int64),
        ("iv_bytes", np.int64),
        ("block", np.int64),
        ("nonce", np.int64),  # salt or nonce: its bytes in the order of memory, then zeros
        ("nonce_bytes", np.int64),
        ("key_bytes", np.int64),  # of the cipher proper: 16, 24 or 32 with AES
        ("encrypt", np.int64),  # pointer: key data or context
        ("decrypt", np.int64),
        ("mac", np.int64),  # pointer: inner and outer hash state, or context
        ("hash", np.int64),  # which multi-buffer hash, 0 to 3
        ("mac_bytes", np.int64),  # the untruncated tag
    ],
    align=True,
)
KEY: Any = numba.from_dtype(KEY_DTYPE)
KEYS: Any = KEY[::1]

# Places in the function table.
(
    MANAGER,
    GCM_ENCRYPT,  # three: by key of 16, 24, 32 bytes
    _GCM_ENCRYPT_192,
    _GCM_ENCRYPT_256,
    GCM_DECRYPT,
    _GCM_DECRYPT_192,
    _GCM_DECRYPT_256,
    NEXT_JOB,
    SUBMIT_JOB,
    FLUSH_JOB,
    CIPHER_BURST,
    HASH_BURST,
    EVP_INIT,
    EVP_UPDATE,
    EVP_FINAL,
    EVP_CONTROL,
    MAC_INIT,
    MAC_UPDATE,
    MAC_FINAL,
    NETTLE_CBC_ENCRYPT,
    NETTLE_CBC_DECRYPT,
    SERPENT_ENCRYPT,
    SERPENT_DECRYPT,
    TWOFISH_ENCRYPT,
    TWOFISH_DECRYPT,
    MEMCPY,
) = range(26)
FUNCTIONS = 26

# The scratch buffer: multi-buffer jobs, then per job of a burst an IV and a tag, then room for one message.
BURST = 128
JOB_WORDS = 25
JOB_AREA = BURST * JOB_WORDS * 8
IV_AREA = JOB_AREA
TAG_AREA = IV_AREA + BURST * 16
NONCE = TAG_AREA + BURST * 64
AAD = NONCE + 16
TAG = AAD + 32
LENGTH_OUT = TAG + 64
CONTEXT = LENGTH_OUT + 64
MESSAGE = CONTEXT + 512
MESSAGE_BYTES = 65536 + 64
SCRATCH = MESSAGE + MESSAGE_BYTES
