"""One job at a time: the algorithms that libraries run for one packet in one call.

A job names a slot, the ESP header, the IV and the text; the ICV directly follows the text. `cipher` and
`mac` leave a job WAITING whose algorithm runs in bursts (see burst). Callers have checked by `sound` that
everything a job touches is inside the buffer.
"""

from __future__ import annotations

from typing import Any

import numba
from numba import int64

from uxfrm.compiled import compiled
from uxfrm.datapath.crypto import kinds as k
from uxfrm.datapath.crypto.calls import call, load, load_byte, store, store_byte

DATA: Any = numba.uint8[::1]
I64S: Any = int64[::1]
JOBS: Any = int64[:, ::1]

# Columns of a job.
KEY, HEADER, IV, TEXT, LENGTH, SEQ_HI, RESULT, SPARE = range(8)

OK, MISMATCH, ERROR, WAITING = 1, 0, -1, 2

_SET_TAG, _GET_TAG = 0x11, 0x10
NO_ESN = -1


@compiled(int64(int64))
def as_int(register: int) -> int:
    """The C int in a 64-bit return register."""
    return ((register & 0xFFFFFFFF) ^ 0x80000000) - 0x80000000


@compiled(numba.boolean(k.KEY, int64, int64, int64, int64, int64))
def sound(key: Any, size: int, header: int, iv: int, text: int, length: int) -> bool:
    """True when all that a job touches lies inside a buffer of `size` bytes and suits the cipher.

    Each figure is known to be small before it is added to another: sums must not wrap around.
    """
    if header < 0 or header > size or iv < 0 or iv > size or text < 0 or text > size:
        return False
    if length < 0 or length > size - text or key["icv_bytes"] > size - text - length:
        return False
    if iv < header + 8 or text < iv + key["iv_bytes"] or text - header > 4096:
        return False
    if text + length - header + 4 > k.MESSAGE_BYTES - 32 or key["kind"] == k.NO_KEY:
        return False
    return bool(key["block"] <= 1 or length % key["block"] == 0)


@compiled(numba.void(DATA, int64, int64))
def wipe(data: Any, start: int, length: int) -> None:
    """Zero a text that could not be sealed: it must not leave as clear text."""
    size = data.shape[0]
    if length <= 0 or start >= size:
        return
    first = max(start, 0)
    end = size if length > size - first else min(start + length, size)
    for at in range(first, end):
        data[at] = 0


@compiled(numba.boolean(int64, int64, int64))
def equal(a: int, b: int, length: int) -> bool:
    """Compare the tags at two addresses in constant time."""
    difference = 0
    whole = length - length % 8
    for n in range(0, whole, 8):
        difference |= load(a + n) ^ load(b + n)
    for n in range(whole, length):
        difference |= load_byte(a + n) ^ load_byte(b + n)
    return difference == 0


@compiled(numba.void(int64, int64, int64))
def copy(to: int, source: int, length: int) -> None:
    """Copy a tag."""
    whole = length - length % 8
    for n in range(0, whole, 8):
        store(to + n, load(source + n))
    for n in range(whole, length):
        store_byte(to + n, load_byte(source + n))


@compiled(numba.void(k.KEY, int64, int64))
def write_nonce(key: Any, iv: int, to: int) -> None:
    """Write salt and explicit IV, given by its address, to the address `to`."""
    store(to, key["nonce"])
    store(to + key["nonce_bytes"], load(iv))


@compiled(int64(int64))
def big_endian(high: int) -> int:
    """A sequence number's high half, as a word that memory holds in network order."""
    return (high >> 24 & 0xFF) | (high >> 8 & 0xFF00) | (high << 8 & 0xFF0000) | (high & 0xFF) << 24


@compiled(int64(int64, int64, int64))
def write_aad(header: int, high: int, to: int) -> int:
    """Write SPI, the high half with ESN, and the sequence number to an address; return how many bytes."""
    words = load(header)
    store(to, words)
    if high == NO_ESN:
        return 8
    store(to + 4, (words & ~0xFFFFFFFF) | big_endian(high))
    return 12


# -- libipsec-mb, single shot


@compiled(int64(I64S, k.KEY, int64, int64, int64, int64, int64, int64, int64, numba.boolean))
def imb_gcm(
    functions: Any,
    key: Any,
    s: int,
    d: int,
    header: int,
    iv: int,
    text: int,
    length: int,
    high: int,
    encrypt: bool,
) -> int:
    """AES-GCM. `s` and `d` are the addresses of scratch and data; the others a job's columns."""
    write_nonce(key, d + iv, s + k.NONCE)
    aad, aad_length = d + header, 8
    if high != NO_ESN:
        aad, aad_length = s + k.AAD, write_aad(d + header, high, s + k.AAD)
    size = key["key_bytes"] // 8 - 2
    where = d + text
    icv = key["icv_bytes"]
    if encrypt:
        call(
            functions[k.GCM_ENCRYPT + size],
            (key["encrypt"], s + k.CONTEXT, where, where, length, s + k.NONCE, aad, aad_length,
             where + length, icv),
        )  # fmt: skip
        return OK
    call(
        functions[k.GCM_DECRYPT + size],
        (key["encrypt"], s + k.CONTEXT, where, where, length, s + k.NONCE, aad, aad_length,
         s + k.TAG, icv),
    )  # fmt: skip
    return OK if equal(s + k.TAG, where + length, icv) else MISMATCH


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean))
def _imb_gmac(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int, encrypt: bool) -> int:
    """AES-GMAC (RFC 4543): GCM of no text, everything is AAD; it is copied where it is not in one piece."""
    key = keys[jobs[i, KEY]]
    s, d = scratch.ctypes.data, data.ctypes.data
    header, iv, end = jobs[i, HEADER], jobs[i, IV], jobs[i, TEXT] + jobs[i, LENGTH]
    write_nonce(key, d + iv, s + k.NONCE)
    aad, aad_length = d + header, end - header
    if jobs[i, SEQ_HI] != NO_ESN or iv != header + 8:
        aad = s + k.MESSAGE
        first = write_aad(d + header, jobs[i, SEQ_HI], aad)
        aad_length = first + end - iv
        call(functions[k.MEMCPY], (aad + first, d + iv, end - iv))
    tag = d + end if encrypt else s + k.TAG
    call(
        functions[k.GCM_ENCRYPT + key["key_bytes"] // 8 - 2],
        (key["encrypt"], s + k.CONTEXT, d + end, d + end, 0, s + k.NONCE, aad, aad_length,
         tag, key["icv_bytes"]),
    )  # fmt: skip
    return OK if encrypt or equal(s + k.TAG, d + end, key["icv_bytes"]) else MISMATCH


# -- libcrypto and Nettle, single shot


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean))
def _evp_aead(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int, encrypt: bool) -> int:
    """AES-GCM, AES-CCM, GMAC and ChaCha20-Poly1305 by EVP."""
    key = keys[jobs[i, KEY]]
    kind, icv = key["kind"], key["icv_bytes"]
    context = key["encrypt"] if encrypt else key["decrypt"]
    s, d = scratch.ctypes.data, data.ctypes.data
    text, length, out = jobs[i, TEXT], jobs[i, LENGTH], s + k.LENGTH_OUT
    update, control = functions[k.EVP_UPDATE], functions[k.EVP_CONTROL]
    write_nonce(key, d + jobs[i, IV], s + k.NONCE)
    aad_length = write_aad(d + jobs[i, HEADER], jobs[i, SEQ_HI], s + k.AAD)
    way = 1 if encrypt else 0
    tag = d + text + length
    if kind == k.EVP_CCM and length == 0:
        # OpenSSL does not look at the tag of an empty CCM text; ESP never has one.
        return ERROR
    if as_int(call(functions[k.EVP_INIT], (context, 0, 0, s + k.NONCE, way, 0))) != 1:
        return ERROR
    if kind == k.EVP_CCM:
        call(control, (context, _SET_TAG, icv, 0 if encrypt else tag))
        call(update, (context, 0, out, 0, length))
    call(update, (context, 0, out, s + k.AAD, aad_length))
    if kind == k.EVP_GMAC:
        iv = jobs[i, IV]
        call(update, (context, 0, out, d + iv, text + length - iv))
    elif length or kind == k.EVP_CCM:
        done = as_int(call(update, (context, d + text, out, d + text, length)))
        if kind == k.EVP_CCM and not encrypt:
            return OK if done == 1 else MISMATCH
        if done != 1:
            return ERROR
    if not encrypt:
        call(control, (context, _SET_TAG, icv, tag))
        done = as_int(call(functions[k.EVP_FINAL], (context, s + k.TAG, out)))
        return OK if done == 1 else MISMATCH
    if as_int(call(functions[k.EVP_FINAL], (context, s + k.TAG, out))) != 1:
        return ERROR
    return OK if as_int(call(control, (context, _GET_TAG, icv, tag))) == 1 else ERROR


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean))
def _evp_cipher(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int, encrypt: bool) -> int:
    """CBC and CTR by EVP; a counter block is nonce, IV and 1 (RFC 3686)."""
    key = keys[jobs[i, KEY]]
    s, d = scratch.ctypes.data, data.ctypes.data
    text, length = jobs[i, TEXT], jobs[i, LENGTH]
    context = key["encrypt"] if encrypt else key["decrypt"]
    iv = d + jobs[i, IV]
    if key["nonce_bytes"]:
        write_nonce(key, iv, s + k.NONCE)
        for n in range(12, 16):
            scratch[k.NONCE + n] = 1 if n == 15 else 0
        iv = s + k.NONCE
    way = 1 if encrypt else 0
    if as_int(call(functions[k.EVP_INIT], (context, 0, 0, iv, way, 0))) != 1:
        return ERROR
    if length == 0:
        return OK
    where = d + text
    done = as_int(call(functions[k.EVP_UPDATE], (context, where, s + k.LENGTH_OUT, where, length)))
    return OK if done == 1 else ERROR


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean))
def _nettle(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int, encrypt: bool) -> int:
    """CBC by Nettle, which writes the next IV over the one it is given."""
    key = keys[jobs[i, KEY]]
    s, where = scratch.ctypes.data, data.ctypes.data + jobs[i, TEXT]
    block = functions[(k.SERPENT_ENCRYPT if key["kind"] == k.NETTLE_SERPENT else k.TWOFISH_ENCRYPT)
                      + (0 if encrypt else 1)]  # fmt: skip
    run = functions[k.NETTLE_CBC_ENCRYPT if encrypt else k.NETTLE_CBC_DECRYPT]
    copy(s + k.NONCE, data.ctypes.data + jobs[i, IV], key["iv_bytes"])
    call(run, (key["encrypt"], block, key["block"], s + k.NONCE, jobs[i, LENGTH], where, where))
    return OK


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64, numba.boolean))
def cipher(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int, encrypt: bool) -> int:
    """Run job i's cipher at once, or leave it WAITING for a burst. AES-GCM is `imb_gcm`."""
    kind = keys[jobs[i, KEY]]["kind"]
    if kind == k.NULL_CIPHER:
        return OK
    if kind == k.IMB_CBC or kind == k.IMB_CTR or kind == k.IMB_CHACHA20_POLY1305:
        return WAITING
    if kind == k.IMB_GMAC:
        return _imb_gmac(functions, keys, scratch, data, jobs, i, encrypt)
    if kind == k.EVP_AEAD or kind == k.EVP_CCM or kind == k.EVP_GMAC:
        return _evp_aead(functions, keys, scratch, data, jobs, i, encrypt)
    if kind == k.EVP_CIPHER:
        return _evp_cipher(functions, keys, scratch, data, jobs, i, encrypt)
    if kind == k.NETTLE_SERPENT or kind == k.NETTLE_TWOFISH:
        return _nettle(functions, keys, scratch, data, jobs, i, encrypt)
    return ERROR


# -- integrity beside a cipher, single shot: the tag goes to scratch


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64))
def _evp_mac(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int) -> int:
    """HMAC or CMAC over header to end of text, and the high half with ESN."""
    context = keys[jobs[i, KEY]]["mac"]
    s, d = scratch.ctypes.data, data.ctypes.data
    header, high = jobs[i, HEADER], jobs[i, SEQ_HI]
    if as_int(call(functions[k.MAC_INIT], (context, 0, 0, 0))) != 1:
        return ERROR
    length = jobs[i, TEXT] + jobs[i, LENGTH] - header
    call(functions[k.MAC_UPDATE], (context, d + header, length))
    if high != NO_ESN:
        for n in range(4):
            scratch[k.AAD + n] = (high >> (24 - 8 * n)) & 0xFF
        call(functions[k.MAC_UPDATE], (context, s + k.AAD, 4))
    done = as_int(call(functions[k.MAC_FINAL], (context, s + k.TAG, s + k.LENGTH_OUT, 64)))
    return OK if done == 1 else ERROR


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64))
def _xcbc(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int) -> int:
    """AES-XCBC-MAC: the message is copied, its last block padded and whitened, and all of it CBC-encrypted.

    The slot's memory holds K2, K3 and the pointer to the context keyed with K1.
    """
    s, d = scratch.ctypes.data, data.ctypes.data
    derived = keys[jobs[i, KEY]]["mac"]
    header, high = jobs[i, HEADER], jobs[i, SEQ_HI]
    length = jobs[i, TEXT] + jobs[i, LENGTH] - header
    where = s + k.MESSAGE
    call(functions[k.MEMCPY], (where, d + header, length))
    if high != NO_ESN:
        store(where + length, big_endian(high))
        length += 4
    store(where + length, 0x80)
    store(where + length + 8, 0)
    whole = length % 16 == 0
    end = length if whole else (length // 16 + 1) * 16
    whitening = derived if whole else derived + 16
    for n in range(0, 16, 8):
        store(where + end - 16 + n, load(where + end - 16 + n) ^ load(whitening + n))
        store(s + k.NONCE + n, 0)
    context = load(derived + 32)
    if as_int(call(functions[k.EVP_INIT], (context, 0, 0, s + k.NONCE, 1, 0))) != 1:
        return ERROR
    if as_int(call(functions[k.EVP_UPDATE], (context, where, s + k.LENGTH_OUT, where, end))) != 1:
        return ERROR
    copy(s + k.TAG, where + end - 16, 16)
    return OK


@compiled(int64(I64S, k.KEYS, DATA, DATA, JOBS, int64))
def mac(functions: Any, keys: Any, scratch: Any, data: Any, jobs: Any, i: int) -> int:
    """Compute job i's tag into scratch at once, or leave it WAITING for a burst."""
    auth = keys[jobs[i, KEY]]["auth"]
    if auth == k.IMB_HMAC:
        return WAITING
    if auth == k.EVP_MAC:
        return _evp_mac(functions, keys, scratch, data, jobs, i)
    return _xcbc(functions, keys, scratch, data, jobs, i)
