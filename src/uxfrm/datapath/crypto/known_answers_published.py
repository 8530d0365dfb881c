"""Published vectors of algorithms and key sizes that no recorded packet covers, in the shape of ESP jobs.

A single-block vector of a cipher is CBC with an IV of zeros; a MAC's message is header and text of a null
cipher. Each row: (source, auth, cipher, header, IV, text, sealed text and ICV).
"""

from __future__ import annotations

from uxfrm.datapath.crypto.known_answers_data import Named

Published = tuple[str, Named | None, Named, str, str, str, str]

_NULL: Named = ("ecb(cipher_null)", "", 0)
_HEADER = "0000000100000001"
_UP = "000102030405060708090a0b0c0d0e0f"


def _block(source: str, name: str, key: str, text: str, sealed: str) -> Published:
    return source, None, (name, key, 0), _HEADER, "00" * (len(text) // 2), text, sealed


def _tag(source: str, name: str, key: str, message: str, tag: str) -> Published:
    return source, (name, key, len(tag) * 4), _NULL, message[:16], "", message[16:], message[16:] + tag


_RFC3713 = "0123456789abcdeffedcba9876543210"
_SERPENT = "Linux crypto/testmgr.h, serpent_tv_template"
_BLOWFISH = "Schneier, vectors.txt, set_key test"
_TWOFISH = "Twofish submission, ecb_ival.txt"
_NIST = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e5130c81c46a35ce411"

PUBLISHED: tuple[Published, ...] = (
    _block("RFC 3713", "cbc(camellia)", _RFC3713, _RFC3713, "67673138549669730857065648eabe43"),
    _block("RFC 3713", "cbc(camellia)", _RFC3713 + "0011223344556677", _RFC3713,
           "b4993401b3e996f84ee5cee7d79b09b9"),
    _block("RFC 3713", "cbc(camellia)", _RFC3713 + "00112233445566778899aabbccddeeff", _RFC3713,
           "9acc237dff16d76c20ef7c919e3a7509"),
    _block("RFC 2144, B.1", "cbc(cast5)", "0123456712345678234567893456789a", "0123456789abcdef",
           "238b4fe5847e44b2"),
    _block("RFC 2144, B.1", "cbc(cast5)", "01234567123456782345", "0123456789abcdef", "eb6a711a2c02271b"),
    _block("RFC 2144, B.1", "cbc(cast5)", "0123456712", "0123456789abcdef", "7ac816d16e9b302e"),
    _block(_BLOWFISH, "cbc(blowfish)", "f0e1d2c3", "fedcba9876543210", "be1e639408640f05"),
    _block(_BLOWFISH, "cbc(blowfish)", "f0e1d2c3b4", "fedcba9876543210", "b39e44481bdb1e6e"),
    _block(_BLOWFISH, "cbc(blowfish)", "f0e1d2c3b4a59687", "fedcba9876543210", "e87a244e2cc85e82"),
    _block(_BLOWFISH, "cbc(blowfish)", "f0e1d2c3b4a5968778695a4b3c2d1e0f", "fedcba9876543210",
           "93142887ee3be15c"),
    _block(_SERPENT, "cbc(serpent)", "", _UP, "1207fcce9bd0d6476ae98fbed143a0e2"),
    _block(_SERPENT, "cbc(serpent)", _UP, _UP, "4c7d8a328072a22c823e4a1f3acda16d"),
    _block(_SERPENT, "cbc(serpent)", _UP + "101112131415161718191a1b1c1d1e1f", _UP,
           "de269ff833e432b85b2e88d2701ce75c"),
    _block(_TWOFISH, "cbc(twofish)", "00" * 16, "00" * 16, "9f589f5cf6122c32b6bfec2f2ae8c35a"),
    _block(_TWOFISH, "cbc(twofish)", _RFC3713 + "0011223344556677", "00" * 16,
           "cfd1d2e5a9be9cdf501f13b892bd2248"),
    _block(_TWOFISH, "cbc(twofish)", _RFC3713 + "00112233445566778899aabbccddeeff", "00" * 16,
           "37527be0052334b89f0cfccae87cfa20"),
    _block("GB/T 32907-2016, A.1", "cbc(sm4)", _RFC3713, _RFC3713, "681edf34d206965e86b3e94f536e4246"),
    (
        "RFC 3686, test vector 4",
        None,
        ("rfc3686(ctr(aes))", "16af5b145fc9f579c175f93e3bfb0eed863d06ccfdb7851500000048", 0),
        _HEADER,
        "36733c147d6d93cb",
        b"Single block msg".hex(),
        "4b55384fe259c9c84e7935a003cbe928",
    ),
    _tag("RFC 4493", "cmac(aes)", "2b7e151628aed2a6abf7158809cf4f3c", _NIST,
         "dfa66747de9ae63030ca32611497c827"),
    _tag("NIST SP 800-38B, D.2", "cmac(aes)", "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b", _NIST,
         "8a1de5be2eb31aad089a82e6ee908b0e"),
    _tag("NIST SP 800-38B, D.3", "cmac(aes)",
         "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4", _NIST,
         "aaf3d8f1de5640c232f5b169b9c911e6"),
    _tag("GM/T 0042-2015, appendix D.3", "hmac(sm3)", bytes(range(1, 0x21)).hex(),
         b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq".hex() * 2,
         "ca05e144ed05d1857840d1f318a4a8669e559fc8391f414485bfdf7bb408963a"),
)  # fmt: skip
