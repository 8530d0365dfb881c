"""Vectors of RFCs and drafts, in the shape of ESP jobs; those that engines are admitted by are not repeated.

Hex throughout. RFC 3610 and RFC 4309 have none that fit: their nonces are 13 bytes, or there are none.
"""

from __future__ import annotations

# Source, AES key and salt, SPI, sequence number (64 bits with ESN), IV, text, sealed text and ICV.
_MCGREW = "draft-mcgrew-gcm-test-01, case"
GCM = (
    (f"{_MCGREW} 1", "4c80cdefbb5d10da906ac73c3613a6342e443b68", "00004321", "8765432100000000",
     "4956ed7e3b244cfe",
     "45000048699a000080114db7c0a80102c0a801010a9bf15638d301000001000000000000045f736970045f7564700373"
     "69700963796265726369747902646b000021000101020201",
     "fecf537e729d5b07dc30df528dd22b768d1b98736696a6fd348509fa13ceac34cfa2436f14a3f3cf65925bf1f4a13c5d"
     "15b21e1884f5ff6247aeabb786b93bce61bc17d768fd9732459018148f6cbe722fd04796562dfdb4"),
    (f"{_MCGREW} 2", "feffe9928665731c6d6a8f9467308308cafebabe", "0000a5f8", "0000000a", "facedbaddecaf888",
     "4500003e698f000080114dccc0a80102c0a801010a980035002a2343b2d0010000010000000000000373697009637962"
     "65726369747902646b00000100010001",
     "deb22cd9b07c72c16e3a65beeb8df304a5a5897d33ae530f1ba76d5d114d2a5c3de81827c10e9a4f51330d0eec416642"
     "cfbb85a5b47e48a4ec3b9ba95d918bd183b70d3aa8bc6ee4c309e9d85a41ad4a"),
    (f"{_MCGREW} 3", "abbccddef00112233445566778899aababbccddef00112233445566778899aab11223344", "4a2cbfe3",
     "00000002", "0102030405060708",
     "4500003069a6400080062690c0a801029389155e0a9e008b2dc57ee0000000007002400020bf0000020405b401010402"
     "01020201",
     "ff425c9b724599df7a3bcd510194e00d6a78107f1b0b1cbf06efae9d65a5d763748a637985771d347f0545659f14e99d"
     "ef842d8eb335f4eecfdbf831824b4c4915956c96"),
    (f"{_MCGREW} 7", "feffe9928665731c6d6a8f9467308308feffe9928665731ccafebabe", "0000a5f8", "0000000a",
     "facedbaddecaf888",
     "45000028a4ad4000400678800a01038f0a010612802306b8cb712602dd6bb03e501016d075680001",
     "a5b1f8066029aea40e598b8122de02420938b3ab33f828e687b8858b5bfbdbd0315b27452144cc7795457b9652037f53"
     "18027b5b4cd7a636"),
    (f"{_MCGREW} 9", "abbccddef00112233445566778899aababbccddef00112233445566778899aab73616c74", "17405e67",
     "156f3126dd0db99b", "616e640169766563",
     "45080028732c00004006e9f90a0106120a01038f06b88023dd6bafbecb71260250101f646d540001",
     "f2d69ecdbd5a0d5b8d5ef38bad4da58d1f278fde98ef67549d524a3018d9a57ff4d3a31ce673119e451626c2415771e3"
     "b7eebca614c89b35"),
    (f"{_MCGREW} 12", "7d773d00c144c525ac619d18c84a3f47d9664267", "335467ae", "ffffffff", "43457e9182443bc6",
     "01020201", "437f866bcb3f699fe9b0822bac961c4504bef270"),
)  # fmt: skip

CHACHA = (
    ("RFC 7634, appendix A",
     "808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3", "01020304", "00000005",
     "1011121314151617",
     "45000054a6f200004001e778c6336405c000020508005b7a3a080000553bec100007362708090a0b0c0d0e0f10111213"
     "1415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f303132333435363701020204",
     "24039428b97f417e3c13753a4f05087b67c352e6a7fab1b982d466ef407ae5c614ee8099d52844eb61aa95dfab4c02f7"
     "2aa71e7c4c4f64c9befe2facc638e8f3cbec163fac469b502773f6fb94e664da9165b82829f641e0"
     "76aaa8266b7fb0f7b11b369907e1ad43"),
)  # fmt: skip

_ONE_BLOCK = b"Single block msg".hex()

# Source, cipher, key, IV, text, sealed text.
CIPHERS = (
    ("RFC 3602, case 1", "cbc(aes)", "06a9214036b8a15b512e03d534120006", "3dafba429d9eb430b422da802c9fac41",
     _ONE_BLOCK, "e353779c1079aeb82708942dbe77181a"),
    ("RFC 3602, case 2", "cbc(aes)", "c286696d887c9aa0611bbb3e2025a45a", "562e17996d093d28ddb3ba695a2e6f58",
     bytes(range(32)).hex(), "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1"),
    ("RFC 3686, vector 1", "rfc3686(ctr(aes))", "ae6852f8121067cc4bf7a5765577f39e00000030",
     "0000000000000000", _ONE_BLOCK, "e4095d4fb7a7b3792d6175a3261311b8"),
    ("RFC 3686, vector 7", "rfc3686(ctr(aes))",
     "776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c10400000060", "db5672c97aa8f0b2",
     _ONE_BLOCK, "145ad01dbf824ec7560863dc71e3e0c0"),
    ("NIST SP 800-38A, F.2.3", "cbc(aes)", "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
     "000102030405060708090a0b0c0d0e0f", "6bc1bee22e409f96e93d7e117393172a",
     "4f021db243bc633d7178183a9fa071e8"),
    ("NIST SP 800-38A, F.2.5", "cbc(aes)", "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
     "000102030405060708090a0b0c0d0e0f", "6bc1bee22e409f96e93d7e117393172a",
     "f58c4c04d6e5f1ba779eabfb5f7bfbd6"),
)  # fmt: skip

_HI, _WHAT = b"Hi There".hex(), b"what do ya want for nothing?".hex()
_LARGER = b"Test Using Larger Than Block-Size Key - Hash Key First".hex()
_JEFE, _UP = b"Jefe".hex(), bytes(range(34)).hex()
_XCBC_KEY = bytes(range(16)).hex()

# Source, algorithm, key, message (8 bytes at least: it starts with SPI and sequence number), whole tag.
MACS = (
    ("RFC 2202, 2.1", "hmac(md5)", "0b" * 16, _HI, "9294727a3638bb1c13f48ef8158bfc9d"),
    ("RFC 2202, 2.2", "hmac(md5)", _JEFE, _WHAT, "750c783e6ab0b503eaa86e310a5db738"),
    ("RFC 2202, 3.1", "hmac(sha1)", "0b" * 20, _HI, "b617318655057264e28bc0b6fb378c8ef146be00"),
    ("RFC 2202, 3.2", "hmac(sha1)", _JEFE, _WHAT, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    ("RFC 2286, 2.1", "hmac(rmd160)", "0b" * 20, _HI, "24cb4bd67d20fc1a5d2ed7732dcc39377f0a5668"),
    ("RFC 2286, 2.2", "hmac(rmd160)", _JEFE, _WHAT, "dda6c0213a485a9e24f4742064a7f033b43c4069"),
    ("RFC 4231, 4.2", "hmac(sha256)", "0b" * 20, _HI,
     "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    ("RFC 4231, 4.3", "hmac(sha256)", _JEFE, _WHAT,
     "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    ("RFC 4231, 4.7", "hmac(sha256)", "aa" * 131, _LARGER,
     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    ("RFC 4231, 4.2", "hmac(sha384)", "0b" * 20, _HI,
     "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6"),
    ("RFC 4231, 4.2", "hmac(sha512)", "0b" * 20, _HI,
     "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cde"
     "daa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854"),
    ("RFC 4231, 4.7", "hmac(sha512)", "aa" * 131, _LARGER,
     "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f352"
     "6b56d037e05f2598bd0fd2215d6a1e5295e64f73f63f0aec8b915a985d786598"),
    ("RFC 3566, case 3", "xcbc(aes)", _XCBC_KEY, _UP[:32], "d2a246fa349b68a79998a4394ff7a263"),
    ("RFC 3566, case 4", "xcbc(aes)", _XCBC_KEY, _UP[:40], "47f51b4564966215b8985c63055ed308"),
    ("RFC 3566, case 5", "xcbc(aes)", _XCBC_KEY, _UP[:64], "f54f0ec8d2b9f3d36807734bd5283fd4"),
    ("RFC 3566, case 6", "xcbc(aes)", _XCBC_KEY, _UP, "becbb3bccdb518a30677d5481fb6b4d8"),
    ("RFC 3566, case 7", "xcbc(aes)", _XCBC_KEY, "00" * 1000, "f0dafee895db30253761103b5d84528f"),
    ("RFC 4493, example 2", "cmac(aes)", "2b7e151628aed2a6abf7158809cf4f3c",
     "6bc1bee22e409f96e93d7e117393172a", "070a16b46b4d4144f79bdd9dd04a287c"),
)  # fmt: skip
