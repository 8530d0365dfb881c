"""The combinations of algorithms, modes and families that are tried with Linux."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

from linux.twin import (
    AH,
    BEETS,
    BEHIND,
    MIDDLE,
    SHAPES,
    SPI,
    TRANSPORT4,
    TRANSPORT6,
    TUNNELS,
    Case,
    Shape,
    Suite,
    aead,
    cipher,
    with_auth,
)
from uxfrm.model.state import (
    AF_UNSPEC_FLAG,
    ALIGN4,
    DECAP_DSCP,
    DONT_ENCAP_DSCP,
    ICMP,
    NOECN,
    NOPMTUDISC,
    OSEQ_MAY_WRAP,
)
from uxfrm.model.template import Mode

GCM = [aead("rfc4106(gcm(aes))", key + 4, icv) for key in (16, 24, 32) for icv in (64, 96, 128)]
CCM = [aead("rfc4309(ccm(aes))", key + 3, icv) for key in (16, 24, 32) for icv in (64, 96, 128)]
GMAC = [aead("rfc4543(gcm(aes))", key + 4, 128) for key in (16, 24, 32)]
CHACHA = aead("rfc7539esp(chacha20,poly1305)", 36, 128)

CIPHERS = [
    *(cipher("cbc(aes)", size) for size in (16, 24, 32)),
    *(cipher("rfc3686(ctr(aes))", size + 4) for size in (16, 24, 32)),
    *(cipher("cbc(camellia)", size) for size in (16, 24, 32)),
    *(cipher("cbc(serpent)", size) for size in (16, 24, 32)),
    *(cipher("cbc(twofish)", size) for size in (16, 24, 32)),
    *(cipher("cbc(blowfish)", size) for size in (4, 16, 56)),
    *(cipher("cbc(cast5)", size) for size in (5, 10, 11, 16)),
    cipher("cbc(des)", 8),
    cipher("cbc(des3_ede)", 24),
    cipher("ecb(cipher_null)", 0),
]

AUTHS: list[tuple[str, int, int]] = [
    ("hmac(md5)", 16, 0),
    ("hmac(sha1)", 20, 0),
    ("hmac(sha256)", 32, 0),
    ("hmac(sha256)", 32, 128),
    ("hmac(sha384)", 48, 0),
    ("hmac(sha512)", 64, 0),
    ("hmac(rmd160)", 20, 0),
    ("xcbc(aes)", 16, 0),
    ("cmac(aes)", 16, 0),
]

AH_SUITES = [with_auth(AH, *auth) for auth in AUTHS]

_AES, _NULL = CIPHERS[0], CIPHERS[-1]
AH_AND_ESP = ((AH_SUITES[3], GCM[2]), (AH_SUITES[7], with_auth(_AES, *AUTHS[1])))
# Around something protected already, Linux 6.1 adds a fragment header here, which AH does not survive.
_4_IN_6 = TUNNELS[2]

# Not encrypted and the same every time: what is inside can be read, and whole packets compared.
CLEAR = with_auth(_NULL, "hmac(sha256)", 32, 128)


def _every_auth(suite: Suite) -> list[Suite]:
    return [with_auth(suite, *auth) for auth in AUTHS]


_WITHOUT_AUTH = [CIPHERS[0], CIPHERS[3], CIPHERS[6]]

# Every algorithm by itself: tried in every mode.
BASIC = [
    *GCM, *CCM, *GMAC, CHACHA,
    *(with_auth(suite, "hmac(sha256)", 32, 128) for suite in CIPHERS),
    *_every_auth(_AES), *_every_auth(_NULL), *_WITHOUT_AUTH,
]  # fmt: skip
_NAMES: set[str] = set()
BASIC = [s for s in BASIC if s.name not in _NAMES and not _NAMES.add(s.name)]  # type: ignore[func-returns-value]

# Every cipher with every integrity algorithm: each in one mode.
PRODUCT = [s for suite in CIPHERS for s in _every_auth(suite) if s.name not in _NAMES]

WITH_ESN = [GCM[2], GCM[6], CCM[2], GMAC[0], CHACHA, *_every_auth(_AES), *_every_auth(_NULL)]

PAYLOADS = tuple(bytes(i * 7 + size & 0xFF for i in range(size)) for size in (0, 1, 15, 16, 17, 100, 1000))


def nest(suites: tuple[Suite, ...], *shapes: Shape) -> Case:
    """States around each other, innermost first, with the suites in turn.

    Each takes both families inside: a selector would have to hold for the innermost packet as well.
    """
    states = [
        Case(suites[i % len(suites)], shape, flags=AF_UNSPEC_FLAG, spi=SPI + i)
        for i, shape in enumerate(shapes)
    ]
    return replace(states[0], around=tuple(states[1:]))


TUNNELS_IN_TUNNELS = [
    (Shape(Mode.TUNNEL, middle, inner, net=MIDDLE), Shape(Mode.TUNNEL, outer, middle))
    for outer, middle, inner in product((4, 6), repeat=3)
]


def _nested() -> list[Case]:
    """Transport in tunnel, tunnel in transport, tunnel in tunnel: in every combination of families."""
    transport = {family: Shape(Mode.TRANSPORT, family, family) for family in (4, 6)}
    shapes: list[tuple[Shape, ...]] = [
        (replace(transport[tunnel.inner], net=BEHIND), tunnel) for tunnel in TUNNELS
    ]
    shapes += [(tunnel, transport[tunnel.outer]) for tunnel in TUNNELS]
    shapes += TUNNELS_IN_TUNNELS
    aes = with_auth(_AES, "hmac(sha256)", 32, 128)
    return [nest(pair, *shape) for shape in shapes for pair in ((GCM[2], aes), (aes, CHACHA))]


def _matrix() -> list[Case]:
    made = [Case(suite, shape) for suite in BASIC for shape in SHAPES]
    made += [Case(suite, SHAPES[i % len(SHAPES)]) for i, suite in enumerate(PRODUCT)]
    shapes = (TRANSPORT4, TRANSPORT6, TUNNELS[0], TUNNELS[3])
    made += [Case(suite, shape, esn=True) for suite in WITH_ESN for shape in shapes]
    beet = (GCM[0], CHACHA, with_auth(_AES, *AUTHS[3]), CLEAR)
    made += [Case(suite, shape) for suite in beet for shape in BEETS]
    made += [Case(suite, BEETS[i % 4]) for i, suite in enumerate(BASIC) if suite not in beet]
    made += [Case(suite, BEETS[i % 4], esn=True) for i, suite in enumerate(WITH_ESN)]
    return made + _nested() + _authenticated() + _flagged()


def _flagged() -> list[Case]:
    """Each flag in every mode; both ends have it, whichever it concerns. What it does: test_headers.

    But for wildrecv, with which nothing is sent: test_wildrecv.
    """
    flags = [{"flags": bit} for bit in (NOECN, DECAP_DSCP, NOPMTUDISC, ICMP, AF_UNSPEC_FLAG)]
    flags += [{"extra_flags": bit} for bit in (DONT_ENCAP_DSCP, OSEQ_MAY_WRAP)]
    every = NOECN | DECAP_DSCP | NOPMTUDISC | ICMP
    flags.append({"flags": every, "extra_flags": DONT_ENCAP_DSCP | OSEQ_MAY_WRAP})
    return [Case(GCM[2], shape, **words) for words in flags for shape in SHAPES]


def _authenticated() -> list[Case]:
    """AH: every algorithm in every mode, with ESN, aligned to 4 bytes; around ESP, and in ESP's tunnels."""
    made = [Case(suite, shape) for suite in AH_SUITES for shape in SHAPES]
    made += [Case(suite, shape, esn=True) for suite in AH_SUITES for shape in (TRANSPORT6, TUNNELS[0])]
    made += [Case(suite, shape, flags=ALIGN4) for suite in AH_SUITES for shape in (TRANSPORT4, TUNNELS[3])]
    for ah, esp in AH_AND_ESP:
        for transport in (TRANSPORT4, TRANSPORT6):
            made += [nest((esp, ah), transport, transport), nest((ah, ah), transport, transport)]
        for tunnel in TUNNELS:
            made.append(nest((esp, ah), tunnel, TRANSPORT6 if tunnel.outer == 6 else TRANSPORT4))
            if tunnel != _4_IN_6:
                inner = Shape(Mode.TRANSPORT, tunnel.inner, tunnel.inner, net=BEHIND)
                made += [nest(pair, inner, tunnel) for pair in ((ah, esp), (esp, ah), (ah, ah))]
    return made


# What is sent to the guest; `reversed` makes it what the guest sends.
MATRIX = _matrix()

SM3 = ("hmac(sm3)", 32)
_SM4 = cipher("cbc(sm4)", 16)
SM_SUITES = [
    with_auth(_SM4, *SM3),
    with_auth(_SM4, *SM3, 128),
    with_auth(_SM4, "hmac(sha256)", 32, 128),
    _SM4,
    with_auth(_AES, *SM3),
    with_auth(AH, *SM3),
    with_auth(AH, *SM3, 96),
]

# The same for Linux 6.12: what 6.1 has not.
MATRIX_612 = [Case(suite, shape) for suite in SM_SUITES for shape in SHAPES]
MATRIX_612 += [Case(suite, shape, esn=True) for suite in (SM_SUITES[0], SM_SUITES[5]) for shape in SHAPES]
