"""One crypto engine interface: a batch of jobs in, a batch of results out.

`keyring` turns an SA's algorithms into a key slot, `batch` runs jobs on slots, the engine modules set slots
up: ipsec_mb (multi-buffer, made for IPsec), libcrypto (OpenSSL, everything common), Nettle (what OpenSSL
lacks).
"""
