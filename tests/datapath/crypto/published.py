"""Vectors of RFCs and drafts, in the shape of ESP jobs; those that engines are admitted by are not repeated.

Hex throughout. RFC 3610 and RFC 4309 have none that fit: their nonces are 13 bytes, or there are none;
test_wycheproof has some of AES-CCM. RFC 3566's cases 1 and 2 are shorter than an ESP header.
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

GMAC = (
    ("draft-mcgrew-gcm-test-01, page 18", "4c80cdefbb5d10da906ac73c3613a63422433c64", "00004321", "00000007",
     "0000000000000000",
     "45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364"
     "65666768696a6b6c6d6e6f707172737401020201",
     "45000030da3a00008001df3bc0a80005c0a800010800c6cd0200070061626364"
     "65666768696a6b6c6d6e6f707172737401020201f2a9a836e155106aa8dcd618e4099aaa"),
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
_UP = bytes(range(36)).hex()
_CTR = "rfc3686(ctr(aes))"

# Source, cipher, key, IV, text, sealed text.
CIPHERS = (
    ("RFC 3602, case 1", "cbc(aes)", "06a9214036b8a15b512e03d534120006", "3dafba429d9eb430b422da802c9fac41",
     _ONE_BLOCK, "e353779c1079aeb82708942dbe77181a"),
    ("RFC 3602, case 2", "cbc(aes)", "c286696d887c9aa0611bbb3e2025a45a", "562e17996d093d28ddb3ba695a2e6f58",
     _UP[:64], "d296cd94c2cccf8a3a863028b5e1dc0a7586602d253cfff91b8266bea6d61ab1"),
    ("RFC 3602, case 3", "cbc(aes)", "6c3ea0477630ce21a2ce334aa746c2cd", "c782dc4c098c66cbd9cd27d825682c81",
     b"This is a 48-byte message (exactly 3 AES blocks)".hex(),
     "d0a02b3836451753d493665d33f0e8862dea54cdb293abc7506939276772f8d5021c19216bad525c8579695d83ba2684"),
    ("RFC 3602, case 4", "cbc(aes)", "56e47a38c5598974bc46903dba290349", "8ce82eefbea0da3c44699ed7db51b7d9",
     bytes(range(0xA0, 0xE0)).hex(),
     "c30e32ffedc0774e6aff6af0869f71aa0f3af07a9a31a9c684db207eb0ef8e4e"
     "35907aa632c3ffdf868bb7b29d3d46ad83ce9f9a102ee99d49a53e87f4c3da55"),
    ("RFC 3686, vector 1", _CTR, "ae6852f8121067cc4bf7a5765577f39e00000030", "0000000000000000", _ONE_BLOCK,
     "e4095d4fb7a7b3792d6175a3261311b8"),
    ("RFC 3686, vector 2", _CTR, "7e24067817fae0d743d6ce1f32539163006cb6db", "c0543b59da48d90b", _UP[:64],
     "5104a106168a72d9790d41ee8edad388eb2e1efc46da57c8fce630df9141be28"),
    ("RFC 3686, vector 3", _CTR, "7691be035e5020a8ac6e618529f9a0dc00e0017b", "27777f3f4a1786f0", _UP,
     "c1cf48a89f2ffdd9cf4652e9efdb72d74540a42bde6d7836d59a5ceaaef3105325b2072f"),
    ("RFC 3686, vector 5", _CTR, "7c5cb2401b3dc33c19e7340819e0f69c678c3db8e6f6a91a0096b03b",
     "020c6eadc2cb500d", _UP[:64], "453243fc609b23327edfaafa7131cd9f8490701c5ad4a79cfc1fe0ff42f4fb00"),
    ("RFC 3686, vector 6", _CTR, "02bf391ee8ecb159b959617b0965279bf59b60a786d3e0fe0007bdfd",
     "5cbd60278dcc0912", _UP, "96893fc55e5c722f540b7dd1ddf7e758d288bc95c69165884536c811662f2188abee0935"),
    ("RFC 3686, vector 7", _CTR, "776beff2851db06f4c8a0542c8696f6c6a81af1eec96b4d37fc1d689e6c1c10400000060",
     "db5672c97aa8f0b2", _ONE_BLOCK, "145ad01dbf824ec7560863dc71e3e0c0"),
    ("RFC 3686, vector 8", _CTR, "f6d66d6bd52d59bb0796365879eff886c66dd51a5b6a99744b50590c87a2388400faac24",
     "c1585ef15a43d875", _UP[:64], "f05e231b3894612c49ee000b804eb2a9b8306b508f839d6a5530831d9344af1c"),
    ("RFC 3686, vector 9", _CTR, "ff7a617ce69148e4f1726e2f43581de2aa62d9f805532edff1eed687fb54153d001cc5b7",
     "51a51d70a1c11148", _UP, "eb6c52821d0bbbf7ce7594462aca4faab407df866569fd07f48cc0b583d6071f1ec0e6b8"),
    ("NIST SP 800-38A, F.2.3", "cbc(aes)", "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
     "000102030405060708090a0b0c0d0e0f", "6bc1bee22e409f96e93d7e117393172a",
     "4f021db243bc633d7178183a9fa071e8"),
    ("NIST SP 800-38A, F.2.5", "cbc(aes)", "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
     "000102030405060708090a0b0c0d0e0f", "6bc1bee22e409f96e93d7e117393172a",
     "f58c4c04d6e5f1ba779eabfb5f7bfbd6"),
)  # fmt: skip

_HI, _WHAT = b"Hi There".hex(), b"what do ya want for nothing?".hex()
_LARGER = b"Test Using Larger Than Block-Size Key - Hash Key First".hex()
_BOTH = b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data".hex()
_THIS = (
    b"This is a test using a larger than block-size key and a larger than block-size data. "
    b"The key needs to be hashed before being used by the HMAC algorithm."
).hex()
_CUT = b"Test With Truncation".hex()
_JEFE, _TO_25 = b"Jefe".hex(), bytes(range(1, 26)).hex()
_DD, _CD = "dd" * 50, "cd" * 50
_XCBC_KEY = bytes(range(16)).hex()

# Source, algorithm, key, message (8 bytes at least: it starts with SPI and sequence number), whole tag.
# What is cut to 96 bits or half is cut by the test: RFC 2403, 2404, 4494 and 4868 are about that.
MACS = (
    ("RFC 2202, 2.1", "hmac(md5)", "0b" * 16, _HI, "9294727a3638bb1c13f48ef8158bfc9d"),
    ("RFC 2202, 2.2", "hmac(md5)", _JEFE, _WHAT, "750c783e6ab0b503eaa86e310a5db738"),
    ("RFC 2202, 2.3", "hmac(md5)", "aa" * 16, _DD, "56be34521d144c88dbb8c733f0e8b3f6"),
    ("RFC 2202, 2.4", "hmac(md5)", _TO_25, _CD, "697eaf0aca3a3aea3a75164746ffaa79"),
    ("RFC 2202, 2.5", "hmac(md5)", "0c" * 16, _CUT, "56461ef2342edc00f9bab995690efd4c"),
    ("RFC 2202, 2.6", "hmac(md5)", "aa" * 80, _LARGER, "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"),
    ("RFC 2202, 2.7", "hmac(md5)", "aa" * 80, _BOTH, "6f630fad67cda0ee1fb1f562db3aa53e"),
    ("RFC 2202, 3.1", "hmac(sha1)", "0b" * 20, _HI, "b617318655057264e28bc0b6fb378c8ef146be00"),
    ("RFC 2202, 3.2", "hmac(sha1)", _JEFE, _WHAT, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
    ("RFC 2202, 3.3", "hmac(sha1)", "aa" * 20, _DD, "125d7342b9ac11cd91a39af48aa17b4f63f175d3"),
    ("RFC 2202, 3.4", "hmac(sha1)", _TO_25, _CD, "4c9007f4026250c6bc8414f9bf50c86c2d7235da"),
    ("RFC 2202, 3.5", "hmac(sha1)", "0c" * 20, _CUT, "4c1a03424b55e07fe7f27be1d58bb9324a9a5a04"),
    ("RFC 2202, 3.6", "hmac(sha1)", "aa" * 80, _LARGER, "aa4ae5e15272d00e95705637ce8a3b55ed402112"),
    ("RFC 2202, 3.7", "hmac(sha1)", "aa" * 80, _BOTH, "e8e99d0f45237d786d6bbaa7965c7808bbff1a91"),
    ("RFC 2286, 2.1", "hmac(rmd160)", "0b" * 20, _HI, "24cb4bd67d20fc1a5d2ed7732dcc39377f0a5668"),
    ("RFC 2286, 2.2", "hmac(rmd160)", _JEFE, _WHAT, "dda6c0213a485a9e24f4742064a7f033b43c4069"),
    ("RFC 2286, 2.3", "hmac(rmd160)", "aa" * 20, _DD, "b0b105360de759960ab4f35298e116e295d8e7c1"),
    ("RFC 2286, 2.4", "hmac(rmd160)", _TO_25, _CD, "d5ca862f4d21d5e610e18b4cf1beb97a4365ecf4"),
    ("RFC 2286, 2.5", "hmac(rmd160)", "0c" * 20, _CUT, "7619693978f91d90539ae786500ff3d8e0518e39"),
    ("RFC 2286, 2.6", "hmac(rmd160)", "aa" * 80, _LARGER, "6466ca07ac5eac29e1bd523e5ada7605b791fd8b"),
    ("RFC 2286, 2.7", "hmac(rmd160)", "aa" * 80, _BOTH, "69ea60798d71616cce5fd0871e23754cd75d5a0a"),
    ("RFC 4231, 4.2", "hmac(sha256)", "0b" * 20, _HI,
     "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    ("RFC 4231, 4.3", "hmac(sha256)", _JEFE, _WHAT,
     "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    ("RFC 4231, 4.4", "hmac(sha256)", "aa" * 20, _DD,
     "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    ("RFC 4231, 4.5", "hmac(sha256)", _TO_25, _CD,
     "82558a389a443c0ea4cc819899f2083a85f0faa3e578f8077a2e3ff46729665b"),
    ("RFC 4231, 4.7", "hmac(sha256)", "aa" * 131, _LARGER,
     "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54"),
    ("RFC 4231, 4.8", "hmac(sha256)", "aa" * 131, _THIS,
     "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2"),
    ("RFC 4231, 4.2", "hmac(sha384)", "0b" * 20, _HI,
     "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6"),
    ("RFC 4231, 4.3", "hmac(sha384)", _JEFE, _WHAT,
     "af45d2e376484031617f78d2b58a6b1b9c7ef464f5a01b47e42ec3736322445e8e2240ca5e69e2c78b3239ecfab21649"),
    ("RFC 4231, 4.4", "hmac(sha384)", "aa" * 20, _DD,
     "88062608d3e6ad8a0aa2ace014c8a86f0aa635d947ac9febe83ef4e55966144b2a5ab39dc13814b94e3ab6e101a34f27"),
    ("RFC 4231, 4.5", "hmac(sha384)", _TO_25, _CD,
     "3e8a69b7783c25851933ab6290af6ca77a9981480850009cc5577c6e1f573b4e6801dd23c4a7d679ccf8a386c674cffb"),
    ("RFC 4231, 4.7", "hmac(sha384)", "aa" * 131, _LARGER,
     "4ece084485813e9088d2c63a041bc5b44f9ef1012a2b588f3cd11f05033ac4c60c2ef6ab4030fe8296248df163f44952"),
    ("RFC 4231, 4.8", "hmac(sha384)", "aa" * 131, _THIS,
     "6617178e941f020d351e2f254e8fd32c602420feb0b8fb9adccebb82461e99c5a678cc31e799176d3860e6110c46523e"),
    ("RFC 4231, 4.2", "hmac(sha512)", "0b" * 20, _HI,
     "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4"
     "be9d914eeb61f1702e696c203a126854"),
    ("RFC 4231, 4.3", "hmac(sha512)", _JEFE, _WHAT,
     "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fd"
     "caeab1a34d4a6b4b636e070a38bce737"),
    ("RFC 4231, 4.4", "hmac(sha512)", "aa" * 20, _DD,
     "fa73b0089d56a284efb0f0756c890be9b1b5dbdd8ee81a3655f83e33b2279d39bf3e848279a722c806b485a47e67c807"
     "b946a337bee8942674278859e13292fb"),
    ("RFC 4231, 4.5", "hmac(sha512)", _TO_25, _CD,
     "b0ba465637458c6990e5a8c5f61d4af7e576d97ff94b872de76f8050361ee3dba91ca5c11aa25eb4d679275cc5788063"
     "a5f19741120c4f2de2adebeb10a298dd"),
    ("RFC 4231, 4.7", "hmac(sha512)", "aa" * 131, _LARGER,
     "80b24263c7c1a3ebb71493c1dd7be8b49b46d1f41b4aeec1121b013783f8f3526b56d037e05f2598bd0fd2215d6a1e52"
     "95e64f73f63f0aec8b915a985d786598"),
    ("RFC 4231, 4.8", "hmac(sha512)", "aa" * 131, _THIS,
     "e37b6a775dc87dbaa4dfa9f96e5e3ffddebd71f8867289865df5a32d20cdc944b6022cac3c4982b10d5eeb55c3e4de15"
     "134676fb6de0446065c97440fa8c6a58"),
    ("RFC 4868, AUTH256-1", "hmac(sha256)", "0b" * 32, _HI,
     "198a607eb44bfbc69903a0f1cf2bbdc5ba0aa3f3d9ae3c1c7a3b1696a0b68cf7"),
    ("RFC 4868, AUTH256-2", "hmac(sha256)", _JEFE * 8, _WHAT,
     "167f928588c5cc2eef8e3093caa0e87c9ff566a14794aa61648d81621a2a40c6"),
    ("RFC 4868, AUTH256-3", "hmac(sha256)", "aa" * 32, _DD,
     "cdcb1220d1ecccea91e53aba3092f962e549fe6ce9ed7fdc43191fbde45c30b0"),
    ("RFC 4868, AUTH256-4", "hmac(sha256)", bytes(range(1, 33)).hex(), _CD,
     "372efcf9b40b35c2115b1346903d2ef42fced46f0846e7257bb156d3d7b30d3f"),
    ("RFC 4868, AUTH384-1", "hmac(sha384)", "0b" * 48, _HI,
     "b6a8d5636f5c6a7224f9977dcf7ee6c7fb6d0c48cbdee9737a959796489bddbc4c5df61d5b3297b4fb68dab9f1b582c2"),
    ("RFC 4868, AUTH384-2", "hmac(sha384)", _JEFE * 12, _WHAT,
     "2c7353974f1842fd66d53c452ca42122b28c0b594cfb184da86a368e9b8e16f5349524ca4e82400cbde0686d403371c9"),
    ("RFC 4868, AUTH512-1", "hmac(sha512)", "0b" * 64, _HI,
     "637edc6e01dce7e6742a99451aae82df23da3e92439e590e43e761b33e910fb8ac2878ebd5803f6f0b61dbce5e251ff8"
     "789a4722c1be65aea45fd464e89f8f5b"),
    ("RFC 4868, AUTH512-2", "hmac(sha512)", _JEFE * 16, _WHAT,
     "cb370917ae8a7ce28cfd1d8f4705d6141c173b2a9362c15df235dfb251b154546aa334ae9fb9afc2184932d8695e397b"
     "fa0ffb93466cfcceaae38c833b7dba38"),
    ("RFC 3566, case 3", "xcbc(aes)", _XCBC_KEY, _UP[:32], "d2a246fa349b68a79998a4394ff7a263"),
    ("RFC 3566, case 4", "xcbc(aes)", _XCBC_KEY, _UP[:40], "47f51b4564966215b8985c63055ed308"),
    ("RFC 3566, case 5", "xcbc(aes)", _XCBC_KEY, _UP[:64], "f54f0ec8d2b9f3d36807734bd5283fd4"),
    ("RFC 3566, case 6", "xcbc(aes)", _XCBC_KEY, _UP[:68], "becbb3bccdb518a30677d5481fb6b4d8"),
    ("RFC 3566, case 7", "xcbc(aes)", _XCBC_KEY, "00" * 1000, "f0dafee895db30253761103b5d84528f"),
    ("RFC 4493, example 2", "cmac(aes)", "2b7e151628aed2a6abf7158809cf4f3c",
     "6bc1bee22e409f96e93d7e117393172a", "070a16b46b4d4144f79bdd9dd04a287c"),
)  # fmt: skip
