"""Ed25519 signature verification, after RFC 8032 section 5.1.7.

In the standard library's own integers, because a board's OpenSSL may be too old to verify Ed25519
(before 3.0) and a board has no `cryptography`. Verification handles no secret, so it need not take
constant time. Strict: an encoding that is not the canonical one is refused, and so are points of
small order as public keys.
"""

from __future__ import annotations

import hashlib
from typing import Tuple

Point = Tuple[int, int, int, int]
"""Extended homogeneous coordinates (X, Y, Z, T), RFC 8032 section 5.1.4."""

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
ROOT_OF_MINUS_1 = pow(2, (P - 1) // 4, P)


def verify(public: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the key of `public` (32 bytes) made `signature` (64 bytes) over `message`."""
    if len(public) != 32 or len(signature) != 64:
        return False
    a, r = _decompress(public), _decompress(signature[:32])
    s = int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L or _equal(_times(8, a), _IDENTITY):
        return False
    digest = hashlib.sha512(signature[:32] + public + message).digest()
    h = int.from_bytes(digest, "little") % L
    return _equal(_times(s, _BASE), _add(r, _times(h, a)))


def _add(p: Point, q: Point) -> Point:
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _times(scalar: int, point: Point) -> Point:
    product = _IDENTITY
    while scalar > 0:
        if scalar & 1:
            product = _add(product, point)
        point = _add(point, point)
        scalar >>= 1
    return product


def _equal(p: Point, q: Point) -> bool:
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def _x_from_y(y: int, sign: int) -> int | None:
    if y >= P:
        return None
    square = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    if square == 0:
        return None if sign else 0
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P != 0:
        x = x * ROOT_OF_MINUS_1 % P
    if (x * x - square) % P != 0:
        return None
    return P - x if (x & 1) != sign else x


def _decompress(encoded: bytes) -> Point | None:
    y = int.from_bytes(encoded, "little")
    sign, y = y >> 255, y & ((1 << 255) - 1)
    x = _x_from_y(y, sign)
    return None if x is None else (x, y, 1, x * y % P)


def _base() -> Point:
    y = 4 * pow(5, P - 2, P) % P
    x = _x_from_y(y, 0)
    assert x is not None
    return x, y, 1, x * y % P


_IDENTITY: Point = (0, 1, 1, 0)
_BASE = _base()
