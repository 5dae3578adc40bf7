#!/usr/bin/env python3
"""Writes the vectors from SPEC.md alone: an implementation of its own, which shares no code with
the crate, so that the two check each other. Needs the package `cryptography`."""

import base64
import hashlib
import hmac
import json
import pathlib
import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = pathlib.Path(__file__).parent
RAW = (Encoding.Raw, PublicFormat.Raw)


def write(name, cases):
    text = "[\n" + ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases) + "\n]\n"
    (HERE / name).write_text(text)


def u8(n): return struct.pack(">B", n)
def u16(n): return struct.pack(">H", n)
def u32(n): return struct.pack(">I", n)
def u64(n): return struct.pack(">Q", n)


def base58(data):
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number, text = int.from_bytes(data, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = alphabet[digit] + text
    return "1" * (len(data) - len(data.lstrip(b"\0"))) + text


def varint(n):
    out = b""
    while n >= 0x80:
        out += u8(n & 0x7F | 0x80)
        n >>= 7
    return out + u8(n)


# --- Cids ---

SHA = hashlib.sha256(b"hello world").digest()
BLAKE = bytes.fromhex("d74981efa70a0c880b8d8c1985d075dbcbf679b99a5f9914e5aaf96b831a9e24")


def cid1(codec, code, digest):
    return b"\x01" + varint(codec) + varint(code) + varint(len(digest)) + digest


def base32(data): return "b" + base64.b32encode(data).decode().lower().rstrip("=")


def cids():
    cases = []

    def good(rules, name, binary, version, codec, code, digest, text=None):
        cid = {"version": version, "codec": codec, "code": code, "digest": digest.hex()}
        form = {"text": text} if text is not None else {"bytes": binary.hex()}
        display = base58(binary) if version == 0 else base32(binary)
        cases.append({"rules": rules, "name": name, **form, "cid": cid, "display": display})

    def bad(rules, name, error, binary=None, text=None):
        form = {"text": text} if text is not None else {"bytes": binary.hex()}
        cases.append({"rules": rules, "name": name, **form, "error": error})

    v0, v1 = b"\x12\x20" + SHA, cid1(0x55, 0x12, SHA)
    good(["W-2", "W-6"], "version 0", v0, 0, 0x70, 0x12, SHA)
    good(["W-2", "W-4", "W-6"], "version 1, raw, sha2-256", v1, 1, 0x55, 0x12, SHA)
    good(["W-4"], "version 1, dag-cbor, blake3", cid1(0x71, 0x1E, BLAKE), 1, 0x71, 0x1E, BLAKE)
    good(["W-3"], "a codec of two bytes", cid1(0x129, 0x12, SHA), 1, 0x129, 0x12, SHA)
    top = 2**63 - 1
    good(["W-3"], "the highest codec", cid1(top, 0x12, SHA), 1, top, 0x12, SHA)
    for size in (0, 5, 128):
        data = bytes(range(size))
        good(["W-5"], f"identity of {size} bytes", cid1(0x55, 0, data), 1, 0x55, 0, data)

    bad(["W-2"], "nothing", "malformed", b"")
    for version in (0, 2, 18):
        changed = varint(version) + v1[1:]
        bad(["W-2"], f"version {version} spelled out", "malformed", changed)
    for cut in (1, 2, 3, 4, 35):
        bad(["W-2"], f"version 1 cut to {cut} bytes", "malformed", v1[:cut])
    for cut in (1, 2, 33):
        bad(["W-2"], f"version 0 cut to {cut} bytes", "malformed", v0[:cut])
    bad(["W-3"], "a codec with a needless byte", "malformed", b"\x01\xd5\x00" + v1[2:])
    bad(["W-3"], "a version with a needless byte", "malformed", b"\x81\x00" + v1[1:])
    bad(["W-3"], "a length with a needless byte", "malformed", v1[:3] + b"\xa0\x00" + v1[4:])
    ten = b"\x80" * 9 + b"\x01"
    bad(["W-3"], "a codec of ten bytes", "malformed", b"\x01" + ten + v1[2:])
    lost = b"\xd5" + b"\x80" * 8 + b"\x02"
    bad(["W-3"], "a codec whose top bits are lost", "malformed", b"\x01" + lost + v1[2:])
    bad(["W-4"], "a truncated digest", "hash", cid1(0x55, 0x12, SHA[:20]))
    bad(["W-4"], "a digest of 33 bytes", "hash", cid1(0x55, 0x12, SHA + b"\0"))
    bad(["W-4"], "a truncated blake3 digest", "hash", cid1(0x55, 0x1E, BLAKE[:31]))
    bad(["W-4"], "sha2-512", "hash", cid1(0x55, 0x13, SHA + SHA))
    bad(["W-4"], "sha1", "hash", cid1(0x55, 0x11, SHA[:20]))
    bad(["W-4"], "a digest of 2^62 bytes", "hash", b"\x01\x55\x12" + varint(2**62))
    bad(["W-5"], "identity of 129 bytes", "too_long", cid1(0x55, 0, bytes(129)))
    bad(["W-5"], "identity of 2^62 bytes", "too_long", b"\x01\x55\x00" + varint(2**62))
    bad(["W-5"], "identity cut short", "malformed", cid1(0x55, 0, bytes(9))[:-1])
    bad(["W-6"], "a byte behind version 1", "malformed", v1 + b"\0")
    bad(["W-6"], "a byte behind version 0", "malformed", v0 + b"\0")

    text, text0 = base32(v1), base58(v0)
    good(["W-7"], "text of version 0", v0, 0, 0x70, 0x12, SHA, text0)
    good(["W-7"], "base32", v1, 1, 0x55, 0x12, SHA, text)
    good(["W-7"], "base32 in upper case", v1, 1, 0x55, 0x12, SHA, text.upper())
    good(["W-7"], "base16", v1, 1, 0x55, 0x12, SHA, "f" + v1.hex())
    good(["W-7"], "base58btc", v1, 1, 0x55, 0x12, SHA, "z" + base58(v1))
    ones = cid1(0x55, 0x12, b"\xff" * 32)
    slashes = "m" + base64.b64encode(ones).decode().rstrip("=")
    assert "/" in slashes
    good(["W-7"], "base64 with slashes", ones, 1, 0x55, 0x12, b"\xff" * 32, slashes)
    bits = "0" + "".join(f"{byte:08b}" for byte in cid1(top, 0, bytes(128)))
    assert len(bits) <= 1129
    good(["W-8"], "the longest identity in base 2", cid1(top, 0, bytes(128)), 1, top, 0,
         bytes(128), bits)
    bad(["W-7"], "no text", "malformed", text="")
    bad(["W-7"], "version 0 behind a multibase", "malformed", text="z" + text0)
    bad(["W-7"], "version 0 in base32", "malformed", text=base32(v0))
    bad(["W-7"], "version 1 without a multibase", "malformed", text=base58(v1))
    bad(["W-7"], "the multibase of bytes", "malformed", text="\0\x01\x55\0\x03abc")
    for around in ("/ipfs/" + text, "junk/ipfs/" + text, " " + text, text + " ", text + "\n",
                   text + "/", text + "?x"):
        bad(["W-7"], "something around a text", "malformed", text=around)
    bad(["W-6", "W-7"], "bytes behind the Cid in a text", "malformed", text=base32(v1 + bytes(5)))
    bad(["W-7"], "a character of no alphabet", "malformed", text="b0" + text[2:])
    bad(["W-7"], "bits behind the last byte", "malformed", text=text[:-1] + "f")
    bad(["W-7"], "a text cut short", "malformed", text=text[:-1])
    bad(["W-7"], "version 0 cut short", "malformed", text=text0[:-1])
    bad(["W-8"], "a text of 1,130 bytes", "too_long", text="0" * 1130)
    write("cid.json", cases)


# --- Peers ---

def identity(n): return Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32)
def peer(n): return identity(n).public_key().public_bytes(*RAW)


ORDER = 2**252 + 27742317777372353535851937790883648493


def stretched(signature):
    """The same signature with the group's order added to its scalar."""
    scalar = int.from_bytes(signature[32:], "little") + ORDER
    return signature[:32] + scalar.to_bytes(32, "little")


# --- Ed25519, as far as a library does not go: points of small order, and what one can sign with
# them (RFC 8032, section 5.1, in affine coordinates) ---

PRIME = 2**255 - 19
D = -121665 * pow(121666, -1, PRIME) % PRIME


def add(p, q):
    (x1, y1), (x2, y2) = p, q
    t = D * x1 * x2 * y1 * y2
    return ((x1 * y2 + x2 * y1) * pow(1 + t, -1, PRIME) % PRIME,
            (y1 * y2 + x1 * x2) * pow(1 - t, -1, PRIME) % PRIME)


def multiply(n, p):
    result = (0, 1)
    while n:
        if n & 1:
            result = add(result, p)
        p, n = add(p, p), n >> 1
    return result


def encode(p): return (p[1] | (p[0] & 1) << 255).to_bytes(32, "little")


def decode(data):
    number = int.from_bytes(data, "little")
    y, sign = number & (2**255 - 1), number >> 255
    square = (y * y - 1) * pow(D * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    assert x * x % PRIME == square
    return (PRIME - x if x & 1 != sign else x, y)


BASE = decode(bytes.fromhex("58" + "66" * 31))
# A point of order 8: its multiples are all of small order.
TORSION = decode(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"))


def challenge(r, key, message):
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % ORDER


def hostile_signatures():
    """Name, key, message, signature, valid: where implementations of Ed25519 differ."""
    secret = 2**251 + 12345
    honest = multiply(secret, BASE)
    commitment = 2**250 + 6789

    def sign(key, message, r):
        s = (commitment + challenge(r, key, message) * secret) % ORDER
        return r + s.to_bytes(32, "little")

    plain = encode(multiply(commitment, BASE))
    message = b"what is signed"
    key = encode(honest)
    yield "by the numbers", key, message, sign(key, message, plain), True
    # The cofactored equation, which multiplies both sides by 8, would take these.
    shifted = encode(add(multiply(commitment, BASE), TORSION))
    yield "R with a part of order 8", key, message, sign(key, message, shifted), False
    mixed = encode(add(honest, TORSION))
    fits = [0, 0]
    for n in range(64):
        said = b"message %d" % n
        h = challenge(plain, mixed, said)
        valid = h % 8 == 0
        if fits[valid] == 0:
            name = "a key with a part of order 8, where " + ("it cancels out" if valid else "it stays")
            yield name, mixed, said, sign(mixed, said, plain), valid
        fits[valid] += 1
    # A commitment of 0: R is the neutral point, which is allowed in its one form.
    neutral = encode((0, 1))
    s = challenge(neutral, key, message) * secret % ORDER
    yield "R of small order", key, message, neutral + s.to_bytes(32, "little"), True
    second = (PRIME + 1).to_bytes(32, "little")
    s = challenge(second, key, message) * secret % ORDER
    yield "R of small order, written another way", key, message, second + s.to_bytes(32, "little"), False
    # Under a key of small order, [S]B is R for every message where h is a multiple of the order.
    small = [(f"{n} times a point of order 8", encode(multiply(n, TORSION))) for n in range(8)]
    sign_bit = 1 << 255
    for name, number in (
        ("0, written as the prime", PRIME), ("0, written as the prime, of the other sign", PRIME | sign_bit),
        ("1, written as the prime and 1", PRIME + 1),
        ("1, written as the prime and 1, of the other sign", PRIME + 1 | sign_bit),
        ("1, of the other sign", 1 | sign_bit), ("-1, of the other sign", PRIME - 1 | sign_bit),
    ):
        small.append((name, number.to_bytes(32, "little")))
    for name, weak in small:
        n = next(n for n in range(256) if challenge(plain, weak, b"message %d" % n) % 8 == 0)
        signature = plain + commitment.to_bytes(32, "little")
        yield f"a key of small order, {name}", weak, b"message %d" % n, signature, False


def peers():
    prefix = bytes.fromhex("002408011220")
    cases = []
    for n in (1, 2, 7):
        cases.append({"rules": ["W-10"], "name": f"identity {n}", "text": base58(prefix + peer(n)),
                      "key": peer(n).hex()})
    text = base58(prefix + peer(7))
    for name, wrong in (
        ("nothing", ""),
        ("cut short", text[:-1]),
        ("a character more", text + "1"),
        ("a character of no alphabet", text[:-1] + "0"),
        ("a blank", text + " "),
        ("a key of 31 bytes", base58(prefix + peer(7)[:-1])),
        ("a key of 33 bytes", base58(prefix + peer(7) + b"\0")),
        ("a secp256k1 key", base58(bytes.fromhex("002508021221") + b"\2" + peer(7))),
        ("another key type", base58(bytes.fromhex("002408021220") + peer(7))),
        ("a hashed key", base58(b"\x12\x20" + SHA)),
        ("libp2p's CID form", base32(b"\x01\x72" + prefix + peer(7))),
        ("a multibase", "z" + text),
        ("much", "1" * 4096),
    ):
        cases.append({"rules": ["W-10"], "name": name, "text": wrong, "error": "peer_id"})
    message = b"what is signed"
    signature = identity(1).sign(message)
    for name, key, said, sign, valid in (
        ("a signature", 1, message, signature, True),
        ("another peer's", 2, message, signature, False),
        ("another message's", 1, b"what was signed", signature, False),
        ("a scalar over the group's order", 1, message, stretched(signature), False),
        ("zeros", 1, message, bytes(64), False),
    ):
        cases.append({"rules": ["W-11"], "name": name, "key": peer(key).hex(),
                      "message": said.hex(), "signature": sign.hex(), "valid": valid})
    for name, key, said, sign, valid in hostile_signatures():
        cases.append({"rules": ["W-11"], "name": name, "key": key.hex(), "message": said.hex(),
                      "signature": sign.hex(), "valid": valid})
    write("peer.json", cases)


# --- Noise (revision 34), from its specification ---

NAMES = {1: "ChaChaPoly", 2: "AESGCM"}


class Cipher:
    def __init__(self, suite, key):
        self.suite, self.key, self.nonce = suite, key, 0

    def seal(self, ad, plaintext):
        if self.suite == 1:
            nonce, aead = bytes(4) + struct.pack("<Q", self.nonce), ChaCha20Poly1305(self.key)
        else:
            nonce, aead = bytes(4) + struct.pack(">Q", self.nonce), AESGCM(self.key)
        self.nonce += 1
        return aead.encrypt(nonce, plaintext, ad)


class Symmetric:
    def __init__(self, suite, psk, prologue):
        name = f"Noise_XX{'psk0' if psk else ''}_25519_{NAMES[suite]}_SHA256".encode()
        self.h = name.ljust(32, b"\0") if len(name) <= 32 else hashlib.sha256(name).digest()
        self.ck, self.suite, self.cipher = self.h, suite, None
        self.mix_hash(prologue)

    def mix_hash(self, data): self.h = hashlib.sha256(self.h + data).digest()

    def hkdf(self, material, count):
        temp = hmac.digest(self.ck, material, "sha256")
        outs, out = [], b""
        for n in range(1, count + 1):
            out = hmac.digest(temp, out + u8(n), "sha256")
            outs.append(out)
        return outs

    def mix_key(self, material):
        self.ck, key = self.hkdf(material, 2)
        self.cipher = Cipher(self.suite, key)

    def mix_psk(self, psk):
        self.ck, hashed, key = self.hkdf(psk, 3)
        self.mix_hash(hashed)
        self.cipher = Cipher(self.suite, key)

    def seal(self, plaintext):
        data = self.cipher.seal(self.h, plaintext) if self.cipher else plaintext
        self.mix_hash(data)
        return data

    def split(self): return [Cipher(self.suite, key) for key in self.hkdf(b"", 2)]


def x(private): return X25519PrivateKey.from_private_bytes(private)
def pub(private): return x(private).public_key().public_bytes(*RAW)
def dh(private, public): return x(private).exchange(X25519PublicKey.from_public_bytes(public))


# Seed of the identity, static and ephemeral keys; the initiator is first.
KEYS = [
    {"identity": 1, "static": bytes([0x11]) * 32, "ephemeral": bytes([0x21]) * 32},
    {"identity": 2, "static": bytes([0x12]) * 32, "ephemeral": bytes([0x22]) * 32},
]


def payload(side, offer=b"", **change):
    """The responder, side 1, says behind its identity which offer it read."""
    keys = KEYS[side]
    who = change.get("identity", keys["identity"])
    signed = change.get("domain", b"barrow noise static key\0") + pub(keys["static"])
    signature = identity(change.get("signer", who)).sign(signed)
    signature = change.get("signature", lambda s: s)(signature)
    read = hashlib.sha256(offer).digest() if side == 1 else b""
    whole = peer(who) + signature + change.get("read", read)
    return whole[:change.get("length")] + change.get("behind", b"")


def flight(data): return u16(len(data)) + data


def handshake(offer, chosen, psk, change1=None, change2=None, first_payload=b"", prologue=None,
              heard=None):
    """The three flights and the two directions' ciphers; what an honest pair says, if nothing is
    given. `heard` is flight 1 as it came to the responder."""
    if prologue is None:
        prologue = b"barrow/1" + bytes(offer)
    (s1, e1), (s2, e2) = [(k["static"], k["ephemeral"]) for k in KEYS]
    offers, states = b"", {}
    for suite in offer:
        state = Symmetric(suite, psk, prologue)
        if psk:
            state.mix_psk(psk)
        state.mix_hash(pub(e1))
        if psk:
            state.mix_key(pub(e1))
        message = pub(e1) + state.seal(first_payload)
        offers += u8(suite) + u8(len(message)) + message
        states[suite] = state
    first = u8(1) + u8(len(offer)) + offers
    state = states[chosen]
    state.mix_hash(pub(e2))
    if psk:
        state.mix_key(pub(e2))
    message = pub(e2)
    state.mix_key(dh(e2, pub(e1)))
    message += state.seal(pub(s2))
    state.mix_key(dh(s2, pub(e1)))
    message += state.seal(payload(1, first if heard is None else heard, **(change2 or {})))
    second = u8(chosen) + message
    third = state.seal(pub(s1))
    state.mix_key(dh(s1, pub(e2)))
    third += state.seal(payload(0, **(change1 or {})))
    return [first, second, third], state.split()


def record(cipher, body, kind):
    sealed = cipher.seal(b"", body + u8(kind))
    return u16(len(sealed)) + sealed


def flip(data, at): return data[:at] + u8(data[at] ^ 1) + data[at + 1:]


def handshakes():
    cases = []
    for suite in (1, 2):
        for psk in (None, bytes([0x5A]) * 32):
            cases.append(one_handshake(suite, psk))
    write("handshake.json", cases)


def one_handshake(suite, psk):
    offer = [1] if suite == 1 else [2, 1]
    both = [2, 1]
    (f1, f2, f3), (to_responder, to_initiator) = handshake(offer, suite, psk)
    refused = []

    def bad(rules, name, to, data, error, **config):
        refused.append({"rules": rules, "name": name, "to": to, "input": data.hex(),
                        "error": error, **config})

    full = flight(f1)
    responder, initiator = "responder", "initiator"
    # Records of both directions.
    hello = u8(1) + u16(4001) + u8(8) + b"barrow/1"
    ping = u8(9) + u64(7)
    block = b"hello world"
    announce = u8(5) + u8(0x12) + SHA + u32(len(block))
    bodies = [(b"".join(u32(len(m)) + m for m in (hello, ping)), 0),
              (u32(len(announce)) + announce, 0), (block, 1)]
    records = [record(to_responder, *body) for body in bodies]
    answer = [record(to_initiator, u32(len(hello)) + hello, 0)]

    # [W-12]
    for to in (responder, initiator):
        bad(["W-12"], "a flight of 0 bytes", to, u16(0), "length")
        bad(["W-12"], "a flight of 1,025 bytes", to, u16(1025), "length")
    # [W-13]
    other = bytes([0x5B]) * 32
    for config in ([other, None] if psk else [other]):
        name = "another swarm key" if config and psk else "a swarm key on one side"
        key = config.hex() if config else None
        bad(["W-13"], name, responder, full, "handshake.noise", swarm_key=key)
    if psk:
        (_, wrong, _), _ = handshake(offer, suite, other)
        bad(["W-13"], "an answer with another swarm key", initiator, flight(wrong),
            "handshake.noise")
    # [W-14]
    for name, prologue in (("another version", b"barrow/2" + bytes(offer)), ("empty", b""),
                           ("no suites", b"barrow/1"),
                           ("another order", b"barrow/1" + bytes(offer[::-1]) + b"\1")):
        (w1, w2, _), _ = handshake(offer, suite, psk, prologue=prologue)
        bad(["W-14"], f"prologue: {name}", initiator, flight(w2), "handshake.noise")
    for name, heard in (("a bit of its version changed", flip(f1, 0)),
                        ("its last bit changed", flip(f1, len(f1) - 1)), ("a byte behind", f1 + b"\0")):
        (_, w2, _), _ = handshake(offer, suite, psk, heard=heard)
        bad(["W-14"], f"the answer to an offer with {name}", initiator, flight(w2),
            "handshake.noise")
    (_, w2, _), _ = handshake(offer, suite, psk, change2={"read": bytes(32), "signer": 3})
    bad(["W-14", "W-23"], "another offer comes before a bad signature", initiator, flight(w2),
        "handshake.noise")
    for length in (96, 127):
        (_, w2, _), _ = handshake(offer, suite, psk, change2={"length": length})
        bad(["W-14", "W-20"], f"an answer of {length} bytes of payload", initiator, flight(w2),
            "handshake.malformed")
    (_, _, w3), _ = handshake(offer, suite, psk, change1={"behind": bytes(32)})
    bad(["W-20"], "a last payload of 128 bytes", responder, full + flight(w3),
        "handshake.malformed")
    if suite == 2:
        stripped = u8(1) + u8(1) + f1[2 + (len(f1) - 2) // 2:]
        downgraded, _ = handshake([1], 1, psk)
        assert psk or stripped == downgraded[0]
        bad(["W-14"], "the answer to an offer that lost its best suite", initiator,
            flight(downgraded[1]), "handshake.noise")
        swapped = bytes([1, 2]) + f1[2 + (len(f1) - 2) // 2:] + f1[2:2 + (len(f1) - 2) // 2]
        answered, _ = handshake([1, 2], 2, psk)
        bad(["W-14"], "the answer to an offer in another order", initiator, flight(answered[1]),
            "handshake.noise")
        bad(["W-14"], "an answer said to be of another suite", initiator,
            flight(u8(1) + f2[1:]), "handshake.noise")
        if psk:
            bad(["W-14"], "an offer that lost its best suite", responder, flight(stripped),
                "handshake.noise")
            bad(["W-14"], "an offer in another order", responder, flight(swapped),
                "handshake.noise")
    # [W-15]
    for name, wrong in (
        ("version 0", u8(0) + f1[1:]), ("version 2", u8(2) + f1[1:]), ("a version alone", f1[:1]),
        ("cut short", f1[:-1]), ("a byte behind", f1 + b"\0"),
        ("fewer offers than said", u8(1) + u8(len(offer) + 1) + f1[2:]),
        ("more offers than said", u8(1) + u8(len(offer) - 1) + f1[2:]),
        ("255 offers", u8(1) + u8(255) + f1[2:]),
        ("a TLS hello", bytes.fromhex("1603010200010001fc0303")),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n"),
    ):
        bad(["W-15"], name, responder, flight(wrong), "handshake.malformed")
    # [W-16]
    bad(["W-16"], "a suite twice", responder,
        flight(u8(1) + u8(len(offer) + 1) + f1[2:] + f1[2:2 + (len(f1) - 2) // len(offer)]),
        "handshake.malformed")
    bad(["W-16"], "no offer", responder, flight(u8(1) + u8(0)), "handshake.no_suite")
    bad(["W-16"], "an unknown suite alone", responder, flight(u8(1) + u8(1) + u8(9) + u8(1) + u8(0)),
        "handshake.no_suite")
    # [W-18]
    (w1, _, _), _ = handshake(offer, suite, psk, first_payload=b"!")
    bad(["W-18"], "a payload in message 1", responder, flight(w1), "handshake.noise")
    # [W-19]
    bad(["W-19"], "suite 0 chosen", initiator, flight(u8(0) + f2[1:]), "handshake.malformed")
    bad(["W-19"], "suite 3 chosen", initiator, flight(u8(3) + f2[1:]), "handshake.malformed")
    if suite == 1:
        bad(["W-19"], "a suite chosen that was not offered", initiator,
            flight(u8(2) + f2[1:]), "handshake.no_suite")
    # [W-20] to [W-22], both ways
    changes = (
        (["W-20"], "an empty payload", {"length": 0}, "handshake.malformed"),
        (["W-20"], "a payload of 95 bytes", {"length": 95}, "handshake.malformed"),
        (["W-20"], "a byte behind the payload", {"behind": b"\0"}, "handshake.malformed"),
        (["W-20", "W-21"], "no domain before the key", {"domain": b""}, "handshake.signature"),
        (["W-20", "W-21"], "another domain", {"domain": b"barrow voucher\0"}, "handshake.signature"),
        (["W-21"], "somebody else's signature", {"signer": 3}, "handshake.signature"),
        (["W-21"], "a changed signature", {"signature": lambda s: flip(s, 5)},
         "handshake.signature"),
        (["W-11", "W-21"], "a stretched signature", {"signature": stretched},
         "handshake.signature"),
    )
    for rules, name, change, error in changes:
        (w1, w2, _), _ = handshake(offer, suite, psk, change2=change)
        bad(rules, name, initiator, flight(w2), error)
        (_, _, w3), _ = handshake(offer, suite, psk, change1=change)
        bad(rules, name, responder, full + flight(w3), error)
    (_, w2, _), _ = handshake(offer, suite, psk, change2={"identity": 1})
    bad(["W-22"], "our own identity", initiator, flight(w2), "handshake.ourselves")
    (_, _, w3), _ = handshake(offer, suite, psk, change1={"identity": 2})
    bad(["W-22"], "our own identity", responder, full + flight(w3), "handshake.ourselves")
    # [W-23]
    bad(["W-23"], "another identity than dialed", initiator, flight(f2), "handshake.wrong_peer",
        expected=peer(3).hex())
    bad(["W-23"], "another identity than awaited", responder, full + flight(f3),
        "handshake.wrong_peer", expected=peer(3).hex())
    (_, w2, _), _ = handshake(offer, suite, psk, change2={"signer": 3})
    bad(["W-23"], "a bad signature comes before a wrong peer", initiator, flight(w2),
        "handshake.signature", expected=peer(3).hex())
    (_, w2, _), _ = handshake(offer, suite, psk, change2={"identity": 1})
    bad(["W-23"], "ourselves come before a wrong peer", initiator, flight(w2),
        "handshake.ourselves", expected=peer(3).hex())
    # [W-24]
    for spot in (1, 33, 81, len(f2) - 1):
        bad(["W-24"], f"byte {spot} of flight 2 changed", initiator, flight(flip(f2, spot)),
            "handshake.noise")
    for spot in (0, 48, len(f3) - 1):
        bad(["W-24"], f"byte {spot} of flight 3 changed", responder, full + flight(flip(f3, spot)),
            "handshake.noise")
    for name, wrong in (("cut", f2[:-1]), ("a choice alone", f2[:1]), ("long", f2 + b"\0")):
        bad(["W-24"], f"flight 2: {name}", initiator, flight(wrong), "handshake.noise")
    for name, wrong in (("cut", f3[:-1]), ("short", f3[:1]), ("long", f3 + b"\0"), ("flight 1", f1)):
        bad(["W-24"], f"flight 3: {name}", responder, full + flight(wrong), "handshake.noise")
    # [W-25], [W-27]
    done = full + flight(f3)
    for size in (0, 16, 17):
        bad(["W-25"], f"a record of {size} bytes", responder, done + u16(size), "length")
    first, second, third = records
    for name, wrong in (
        ("the first bit changed", flip(first, 2)), ("the last bit changed", flip(first, len(first) - 1)),
        ("cut", u16(len(first) - 3) + first[2:-1]), ("a byte longer", u16(len(first) - 1) + first[2:] + b"\0"),
        ("the second record first", second), ("the first record twice", first + first),
        ("a record left out", first + third), ("zeros", u16(64) + bytes(64)),
        ("a record of the other direction", answer[0]),
        ("the handshake's last flight again", flight(f3)),
    ):
        bad(["W-27"], name, responder, done + wrong, "tampered")
    bad(["W-27"], "its own record sent back", initiator, flight(f2) + first, "tampered")

    hex_or_none = psk.hex() if psk else None
    return {
        "rules": ["W-1", "W-12", "W-13", "W-14", "W-15", "W-16", "W-18", "W-19", "W-20", "W-21",
                  "W-22", "W-23", "W-24", "W-25", "W-26", "W-27"],
        "name": f"suite {suite}, {'with' if psk else 'without'} a swarm key",
        "offer": offer, "swarm_key": hex_or_none,
        "keys": [{"seed": (bytes([k["identity"]]) * 32).hex(), "static": k["static"].hex(),
                  "ephemeral": k["ephemeral"].hex()} for k in KEYS],
        "flights": [flight(f).hex() for f in (f1, f2, f3)],
        "payloads": [payload(0).hex(), payload(1, f1).hex()],
        "plaintexts": [(body + u8(kind)).hex() for body, kind in bodies],
        "initiator_records": [r.hex() for r in records],
        "responder_records": [r.hex() for r in answer],
        "unknown_offers": unknown_offers(suite, psk),
        "refused": refused,
    }


def unknown_offers(suite, psk):
    """[W-16]: an initiator of the future, which offers suites 9 and 200 besides."""
    known = [9, suite, 200]
    prologue = b"barrow/1" + bytes(known)
    (inner, _, _), _ = handshake([suite], suite, psk, prologue=prologue)
    first = u8(1) + u8(3) + u8(9) + u8(4) + b"what" + inner[2:] + u8(200) + u8(0)
    (_, second, third), _ = handshake([suite], suite, psk, prologue=prologue, heard=first)
    return [flight(f).hex() for f in (first, second, third)]


# --- Frames and messages ---

def mh(n): return u8(0x12) + hashlib.sha256(b"block %d" % n).digest()
def hashes(*ns): return u16(len(ns)) + b"".join(mh(n) for n in ns)


HELLO = u8(1) + u16(4001) + u8(8) + b"barrow/1"


def messages():
    cases = []

    def good(rules, name, frame, **message):
        cases.append({"rules": rules, "name": name, "frame": frame.hex(), "message": message})

    def bad(rules, name, frame, error, session=None):
        cases.append({"rules": rules, "name": name, "frame": frame.hex(), "error": error,
                      "session": session or error})

    def cut_and_stretched(rules, name, frame, fixed):
        """Every shorter body is truncated, a longer one has something behind it."""
        for size in range(1, len(frame)):
            bad(rules + ["W-35"], f"{name} cut to {size} bytes", frame[:size], "message.truncated")
        bad(rules + ["W-35"], f"a byte behind {name}", frame + b"\0", "message.trailing_bytes",
            "length" if fixed else None)

    good(["W-31", "W-32", "W-35", "W-40"], "hello", HELLO, type="hello", port=4001, agent="barrow/1")
    good(["W-40"], "hello without an agent", u8(1) + u16(0) + u8(0), type="hello", port=0, agent="")
    longest = u8(1) + u16(65535) + u8(64) + b"~" * 64
    good(["W-39", "W-40"], "the longest hello", longest, type="hello", port=65535, agent="~" * 64)
    cut_and_stretched(["W-40"], "hello", HELLO, False)
    bad(["W-32"], "a byte behind the longest hello", longest + b"\0", "message.trailing_bytes",
        "length")
    bad(["W-39"], "an agent of 65 bytes", u8(1) + u16(1) + u8(65), "message.over_limit")
    for byte in (0x00, 0x0A, 0x1B, 0x1F, 0x7F, 0x80, 0xFF):
        bad(["W-40"], f"byte {byte:#x} in an agent", u8(1) + u16(1) + u8(1) + u8(byte),
            "message.invalid")

    for inline in (0, 1):
        good(["W-9", "W-41"], f"want-have, inline {inline}", u8(2) + u8(inline) + hashes(1, 2),
             type="want_have", inline=bool(inline), blocks=[mh(1).hex(), mh(2).hex()])
    cut_and_stretched(["W-41"], "want-have", u8(2) + u8(1) + hashes(1), False)
    for inline in (2, 255):
        bad(["W-41"], f"inline {inline}", u8(2) + u8(inline) + hashes(1), "message.invalid")
    blake = u8(0x1E) + BLAKE
    for code, name in ((4, "want_block"), (6, "cancel")):
        good(["W-9", "W-43"], name, u8(code) + hashes(3), type=name, blocks=[mh(3).hex()])
        good(["W-9", "W-43"], f"{name} of blake3", u8(code) + u16(1) + blake, type=name,
             blocks=[blake.hex()])
        good(["W-43"], f"{name} of nothing", u8(code) + u16(0), type=name, blocks=[])
        cut_and_stretched(["W-43"], name, u8(code) + hashes(1), False)
        bad(["W-39"], f"{name} of 1,025", u8(code) + u16(1025), "message.over_limit")
        bad(["W-39"], f"{name} of 65,535", u8(code) + u16(65535) + mh(1), "message.over_limit")
        bad(["W-35"], f"{name} of 1,024 that are not there", u8(code) + u16(1024) + mh(1),
            "message.truncated")
    for byte in (0x00, 0x11, 0x13, 0x16, 0xFF):
        bad(["W-9"], f"hash code {byte:#x}", u8(4) + u16(1) + u8(byte) + SHA, "message.invalid")
    bad(["W-39"], "want-have of 1,025", u8(2) + u8(0) + u16(1025), "message.over_limit")

    def presence(*entries, price=9):
        return u8(3) + u64(price) + u16(len(entries)) + b"".join(
            mh(n) + u8(tag) + u32(length) for n, tag, length in entries)

    good(["W-1", "W-39", "W-42"], "presence", presence((1, 0, 0), (2, 1, 5), (3, 2, 2097152)),
         type="block_presence", price=9, blocks=[
             [mh(1).hex(), "dont_have", 0], [mh(2).hex(), "have", 5],
             [mh(3).hex(), "complete", 2097152]])
    cut_and_stretched(["W-42"], "presence", presence((1, 1, 5)), False)
    bad(["W-42"], "presence 3", presence((1, 3, 0)), "message.invalid")
    bad(["W-42"], "a length of nothing", presence((1, 0, 1)), "message.invalid")
    bad(["W-39"], "a block of 2 MiB and a byte", presence((1, 1, 2097153)), "message.over_limit")
    bad(["W-39"], "presences: 1,025", u8(3) + u64(0) + u16(1025), "message.over_limit")

    signed = peer(1) + peer(2) + u64(3) + u64(900)
    voucher = signed + identity(1).sign(b"barrow voucher\0" + signed)
    good(["W-48"], "payment", u8(7) + voucher, type="payment", voucher=voucher.hex())
    cut_and_stretched(["W-48"], "payment", u8(7) + voucher, True)

    v4 = peer(1) + u8(4) + bytes([192, 0, 2, 1]) + u16(4001)
    v6 = peer(2) + u8(6) + bytes.fromhex("20010db8000000000000000000000001") + u16(4002)
    good(["W-10", "W-44"], "addresses", u8(8) + u16(2) + v4 + v6, type="peer_addresses", peers=[
        [peer(1).hex(), "192.0.2.1:4001"], [peer(2).hex(), "[2001:db8::1]:4002"]])
    cut_and_stretched(["W-44"], "addresses", u8(8) + u16(1) + v4, False)
    for family in (0, 1, 5, 16, 255):
        bad(["W-44"], f"family {family}", u8(8) + u16(1) + v4[:32] + u8(family) + v4[33:],
            "message.invalid")
    bad(["W-39"], "65 addresses", u8(8) + u16(65), "message.over_limit")
    bad(["W-35"], "64 addresses that are not there", u8(8) + u16(64) + v4, "message.truncated")

    for code, name in ((9, "ping"), (10, "pong")):
        good(["W-1", "W-45"], name, u8(code) + u64(0x0102030405060708), type=name,
             nonce=0x0102030405060708)
        cut_and_stretched(["W-45"], name, u8(code) + u64(1), True)

    cid = cid1(0x71, 0x12, SHA)
    field = u8(len(cid)) + cid
    good(["W-46", "W-47"], "hold slot", u8(11) + field + u16(2) + u16(3), type="hold_slot",
         manifest=cid.hex(), index=2, slots=3)
    cut_and_stretched(["W-46"], "hold slot", u8(11) + field + u16(2) + u16(3), False)
    for index, slots in ((3, 3), (4, 3), (0, 0), (65535, 0)):
        bad(["W-46"], f"slot {index} of {slots}", u8(11) + field + u16(index) + u16(slots),
            "message.invalid")
    for state, name in enumerate(("refused", "fetching", "held", "failed")):
        good(["W-46"], f"slot {name}", u8(12) + field + u16(1) + u8(state), type="slot_held",
             manifest=cid.hex(), index=1, state=name)
    cut_and_stretched(["W-46"], "slot held", u8(12) + field + u16(1) + u8(2), False)
    bad(["W-46"], "slot state 4", u8(12) + field + u16(1) + u8(4), "message.invalid")
    for name, wrong in (
        ("an identity Cid", cid1(0x55, 0, b"hi")), ("an empty field", b""),
        ("a truncated digest", cid1(0x71, 0x12, SHA[:20])), ("a byte behind the Cid", cid + b"\0"),
        ("a needless byte", b"\x81\x00" + cid[1:]),
    ):
        bad(["W-47"], name, u8(11) + u8(len(wrong)) + wrong + u16(0) + u16(1), "message.invalid")
    bad(["W-39"], "a Cid of 65 bytes", u8(11) + u8(65), "message.over_limit")
    for code in (0, 13, 14, 127, 128, 255):
        bad(["W-31"], f"type {code}", u8(code) + b"\0" * 8, "message.invalid")
    write("message.json", cases)


def streams():
    """Plaintext records, from the first behind the handshake."""
    cases = []
    hello = u32(len(HELLO)) + HELLO
    hello_event = ["message", HELLO.hex()]
    pings = [u32(9) + u8(9) + u64(n) for n in range(3)]
    ping_events = [["message", p[4:].hex()] for p in pings]
    block = b"hello world"

    def announce(length, n=1):
        frame = u8(5) + mh(n) + u32(length)
        return u32(len(frame)) + frame

    def case(rules, name, records, events, error=None):
        plain = [(body + u8(kind)).hex() for body, kind in records]
        cases.append({"rules": rules, "name": name, "records": plain, "events": events,
                      "error": error})

    def came(data, n=1): return [["coming", mh(n).hex(), len(data)], ["block", mh(n).hex(), data.hex()]]

    case(["W-29", "W-33"], "many frames in a record", [(hello + b"".join(pings), 0)],
         [hello_event] + ping_events)
    case(["W-29"], "a byte a record", [(u8(b), 0) for b in hello + pings[0]],
         [hello_event, ping_events[0]])
    case(["W-36"], "a block in one record", [(hello + announce(11), 0), (block, 1)],
         [hello_event] + came(block))
    case(["W-36"], "a block in pieces with messages between",
         [(hello + announce(11), 0), (block[:4], 1), (pings[0], 0), (block[4:5], 1),
          (pings[1] + pings[2][:3], 0), (block[5:], 1), (pings[2][3:], 0)],
         [hello_event, came(block)[0], ping_events[0], ping_events[1], came(block)[1],
          ping_events[2]])
    case(["W-34", "W-36"], "two blocks, one after the other",
         [(hello + announce(11), 0), (block, 1), (announce(2, 2), 0), (b"hi", 1)],
         [hello_event] + came(block) + came(b"hi", 2))
    case(["W-36"], "an empty block", [(hello + announce(0) + pings[0], 0)],
         [hello_event] + came(b"") + [ping_events[0]])
    case(["W-30"], "a frame cut short gives nothing", [(hello + pings[0][:-1], 0)], [hello_event])
    case(["W-32"], "a head cut short gives nothing", [(hello + u32(9), 0)], [hello_event])

    case(["W-26"], "kind 2", [(hello, 2)], [], "unexpected_record")
    case(["W-26"], "kind 255 behind a hello", [(hello, 0), (pings[0], 255)], [hello_event],
         "unexpected_record")
    case(["W-26"], "kind 2 in a block", [(hello + announce(11), 0), (block, 2)],
         [hello_event, came(block)[0]], "unexpected_record")
    for size in (0, 262145, 0x01000000, 0xFFFFFFFF):
        case(["W-30"], f"a frame of {size} bytes", [(hello + u32(size), 0)], [hello_event], "length")
        case(["W-30"], f"a first frame of {size} bytes", [(u32(size), 0)], [], "length")
    bounds = {1: 67, 2: 33795, 3: 38922, 4: 33794, 5: 37, 6: 33794, 7: 144, 8: 3266, 9: 8, 10: 8,
              11: 69, 12: 68}
    for code, bound in bounds.items():
        if code == 1:
            case(["W-32"], "a hello of a byte too many, by its head", [(u32(bound + 2) + u8(1), 0)],
                 [], "length")
            continue
        head = u32(bound + 2) + u8(code)
        case(["W-32"], f"type {code} of a byte too many, by its head", [(hello + head, 0)],
             [hello_event], "length")
        case(["W-32"], f"type {code} of its bound, by its head",
             [(hello + u32(bound + 1) + u8(code), 0)], [hello_event])
    for code in (0, 13, 255):
        case(["W-31"], f"type {code}, by its head", [(hello + u32(100) + u8(code), 0)],
             [hello_event], "message.invalid")
        case(["W-31"], f"type {code} first", [(u32(100) + u8(code), 0)], [], "message.invalid")
    for code in bounds:
        if code != 1:
            case(["W-33"], f"type {code} first", [(u32(2) + u8(code), 0)], [], "hello")
    case(["W-33"], "a second hello", [(hello + hello, 0)], [hello_event], "hello")
    case(["W-33"], "a second hello, much later", [(hello + b"".join(pings) + u32(5) + u8(1), 0)],
         [hello_event] + ping_events, "hello")
    case(["W-34"], "a block within a block", [(hello + announce(11), 0), (block[:3], 1),
         (announce(2, 2), 0)], [hello_event, came(block)[0]], "unexpected_block")
    case(["W-34"], "a block right behind another's frame", [(hello + announce(11) + announce(2), 0)],
         [hello_event, came(block)[0]], "unexpected_block")
    case(["W-36"], "block bytes first", [(block, 1)], [], "unexpected_record")
    case(["W-36"], "block bytes without a frame", [(hello, 0), (block, 1)], [hello_event],
         "unexpected_record")
    case(["W-36"], "a byte too many in a block", [(hello + announce(11), 0), (block + b"!", 1)],
         [hello_event, came(block)[0]], "unexpected_record")
    case(["W-36"], "a byte behind a block", [(hello + announce(11), 0), (block, 1), (b"!", 1)],
         [hello_event] + came(block), "unexpected_record")
    case(["W-36"], "bytes of an empty block", [(hello + announce(0), 0), (b"!", 1)],
         [hello_event] + came(b""), "unexpected_record")
    case(["W-39"], "a block of 2 MiB and a byte", [(hello + announce(2097153), 0)], [hello_event],
         "message.over_limit")
    case(["W-39"], "a block of 2 MiB", [(hello + announce(2097152), 0)],
         [hello_event, ["coming", mh(1).hex(), 2097152]])
    frame = u8(5) + u8(0x11) + SHA + u32(4)
    case(["W-9"], "a block of an unknown hash", [(hello + u32(len(frame)) + frame, 0)],
         [hello_event], "message.invalid")
    short = u8(5) + mh(1) + b"\0\0\0"
    case(["W-35"], "a block frame cut short", [(hello + u32(len(short)) + short, 0)],
         [hello_event], "message.truncated")
    write("stream.json", cases)


def vouchers():
    cases = []
    signed = peer(1) + peer(2) + u64(3) + u64(900)
    domain = b"barrow voucher\0"
    voucher = signed + identity(1).sign(domain + signed)
    base = {"payer": peer(1).hex(), "payee": peer(2).hex()}

    def case(rules, name, data, error=None, **change):
        cases.append({"rules": rules, "name": name, "voucher": data.hex(), **base, **change,
                      "error": error})

    case(["W-1", "W-48", "W-49", "W-50"], "a voucher", voucher, seed=(b"\1" * 32).hex(), sequence=3,
         total=900)
    top = peer(1) + peer(2) + u64(2**64 - 1) + u64(2**64 - 1)
    case(["W-48", "W-50"], "the highest numbers", top + identity(1).sign(domain + top),
         seed=(b"\1" * 32).hex(), sequence=2**64 - 1, total=2**64 - 1)
    for at in list(range(0, 64, 7)) + [31, 32, 63]:
        case(["W-49"], f"byte {at} changed", flip(voucher, at), "foreign")
    for at in range(64, 144):
        case(["W-50"], f"byte {at} changed", flip(voucher, at), "forged")
    case(["W-49"], "for another payee", voucher, "foreign", payee=peer(3).hex())
    case(["W-49"], "of another payer", voucher, "foreign", payer=peer(3).hex())
    case(["W-49"], "the other way round", voucher, "foreign", payer=peer(2).hex(),
         payee=peer(1).hex())
    case(["W-50"], "signed by the payee", signed + identity(2).sign(domain + signed), "forged")
    case(["W-50"], "without a domain", signed + identity(1).sign(signed), "forged")
    case(["W-50"], "in the domain of static keys",
         signed + identity(1).sign(b"barrow noise static key\0" + signed), "forged")
    case(["W-11", "W-50"], "a stretched signature", signed + stretched(voucher[80:]), "forged")
    case(["W-50"], "no signature", signed + bytes(64), "forged")
    for last, new, good in (
        ((3, 900), (4, 900), True), ((3, 900), (9, 901), True), ((0, 0), (2**64 - 1, 0), True),
        ((3, 900), (3, 900), False), ((3, 900), (3, 901), False), ((3, 900), (2, 901), False),
        ((3, 900), (4, 899), False), ((2**64 - 1, 0), (0, 1), False),
    ):
        cases.append({"rules": ["W-51"], "name": f"{new} behind {last}", "last": last, "new": new,
                      "supersedes": good})
    write("voucher.json", cases)


if __name__ == "__main__":
    cids()
    peers()
    handshakes()
    messages()
    streams()
    vouchers()
