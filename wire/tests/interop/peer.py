"""A peer of barrow, written from SPEC.md alone; it shares no code with the crate.

`Link` is one connection: handshake, records, frames, messages. What a peer does with it stands in
`scenes.py`. Needs the package `cryptography`."""

import hashlib
import hmac
import os
import socket
import struct

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HELLO, WANT_HAVE, PRESENCE, WANT_BLOCK, BLOCK, CANCEL = range(0x01, 0x07)
PAYMENT, ADDRESSES, PING, PONG, HOLD_SLOT, SLOT_HELD = range(0x07, 0x0D)
CONTROL, BYTES = 0, 1
SHA2_256, BLAKE3 = 0x12, 0x1E
RECORD_BODY_MAX = 65_518
FRAME_MAX = 262_144
BLOCK_MAX = 2_097_152
PRIME = 2**255 - 19
SMALL_ORDER = [
    0, 1, PRIME - 1,
    int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
    int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
]


class Refused(Exception):
    """The other side broke a rule; the text is the class of section 10."""


class Closed(Exception):
    """The other side closed the connection."""


def raw(public): return public.public_bytes(Encoding.Raw, PublicFormat.Raw)


def verifies(key, message, signature):
    """W-11."""
    number = int.from_bytes(key, "little") & (2**255 - 1)
    if number >= PRIME or number in SMALL_ORDER:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def multihash(data): return bytes([SHA2_256]) + hashlib.sha256(data).digest()


def cid(multihash, codec=0x55):
    """The binary Cid, version 1 (W-2); both hashes have 32 bytes of digest, raw one byte of codec."""
    return bytes([1, codec, multihash[0], 32]) + multihash[1:]


# --- Noise (its specification, revision 34), as far as XX needs it ---


class Cipher:
    def __init__(self, suite, key):
        self.suite, self.count = suite, 0
        self.aead = ChaCha20Poly1305(key) if suite == 1 else AESGCM(key)

    def nonce(self):
        number = struct.pack("<Q" if self.suite == 1 else ">Q", self.count)
        self.count += 1
        return bytes(4) + number

    def seal(self, plaintext, ad=b""):
        return self.aead.encrypt(self.nonce(), plaintext, ad)

    def open(self, ciphertext, ad=b""):
        return self.aead.decrypt(self.nonce(), ciphertext, ad)


class Noise:
    """One handshake of the pattern XX, or XXpsk0."""

    def __init__(self, suite, swarm_key, prologue, static, dialed):
        cipher = {1: "ChaChaPoly", 2: "AESGCM"}[suite]
        name = f"Noise_XX{'psk0' if swarm_key else ''}_25519_{cipher}_SHA256".encode()
        self.hash = name.ljust(32, b"\0") if len(name) <= 32 else hashlib.sha256(name).digest()
        self.chain, self.cipher, self.suite, self.psk = self.hash, None, suite, swarm_key
        self.static, self.ephemeral, self.dialed = static, X25519PrivateKey.generate(), dialed
        self.their_ephemeral = self.their_static = None
        self.mix_hash(prologue)

    def mix_hash(self, data): self.hash = hashlib.sha256(self.hash + data).digest()

    def hkdf(self, material, count):
        temporary = hmac.digest(self.chain, material, "sha256")
        outputs, last = [], b""
        for n in range(1, count + 1):
            last = hmac.digest(temporary, last + bytes([n]), "sha256")
            outputs.append(last)
        return outputs

    def mix_key(self, material):
        self.chain, key = self.hkdf(material, 2)
        self.cipher = Cipher(self.suite, key)

    def mix_psk(self):
        self.chain, mixed, key = self.hkdf(self.psk, 3)
        self.mix_hash(mixed)
        self.cipher = Cipher(self.suite, key)

    def seal(self, plaintext):
        out = self.cipher.seal(plaintext, self.hash) if self.cipher else plaintext
        self.mix_hash(out)
        return out

    def open(self, ciphertext):
        out = self.cipher.open(ciphertext, self.hash) if self.cipher else ciphertext
        self.mix_hash(ciphertext)
        return out

    def dh(self, ours, theirs):
        self.mix_key(ours.exchange(X25519PublicKey.from_public_bytes(theirs)))

    def put_ephemeral(self):
        public = raw(self.ephemeral.public_key())
        self.mix_hash(public)
        if self.psk:
            self.mix_key(public)
        return public

    def take_ephemeral(self, public):
        self.their_ephemeral = public
        self.mix_hash(public)
        if self.psk:
            self.mix_key(public)

    def write_first(self):
        if self.psk:
            self.mix_psk()
        return self.put_ephemeral() + self.seal(b"")

    def read_first(self, message):
        if self.psk:
            self.mix_psk()
        self.take_ephemeral(message[:32])
        if self.open(message[32:]):
            raise Refused("handshake.noise")

    def write_second(self, payload):
        out = self.put_ephemeral()
        self.dh(self.ephemeral, self.their_ephemeral)
        out += self.seal(raw(self.static.public_key()))
        self.dh(self.static, self.their_ephemeral)
        return out + self.seal(payload)

    def read_second(self, message):
        self.take_ephemeral(message[:32])
        self.dh(self.ephemeral, self.their_ephemeral)
        self.their_static = self.open(message[32:80])
        self.dh(self.ephemeral, self.their_static)
        return self.open(message[80:])

    def write_third(self, payload):
        out = self.seal(raw(self.static.public_key()))
        self.dh(self.static, self.their_ephemeral)
        return out + self.seal(payload)

    def read_third(self, message):
        self.their_static = self.open(message[:48])
        self.dh(self.ephemeral, self.their_static)
        return self.open(message[48:])

    def split(self):
        first, second = (Cipher(self.suite, key) for key in self.hkdf(b"", 2))
        return (first, second) if self.dialed else (second, first)


# --- Sessions ---


class Link:
    """A session over a socket: messages as (type, body), blocks as (BLOCK, multihash, data)."""

    def __init__(self, sock, identity, swarm_key=None, suites=(2, 1), expected=None, dialed=True,
                 agent="interop/1", port=0, hello=True):
        self.sock, self.identity, self.swarm_key = sock, identity, swarm_key
        self.key = raw(identity.public_key())
        self.expected, self.peer, self.suite = expected, None, None
        self.frames, self.block, self.seen = b"", None, []
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(10)
        noise = self.dial(suites) if dialed else self.accept(suites)
        self.out, self.into = noise.split()
        if hello:
            self.send(HELLO, struct.pack(">HB", port, len(agent)) + agent.encode())

    # Flights.

    def read_exactly(self, count):
        data = b""
        while len(data) < count:
            try:
                more = self.sock.recv(count - len(data))
            except ConnectionError:
                more = b""
            if not more:
                raise Closed()
            data += more
        return data

    def write(self, data):
        try:
            self.sock.sendall(data)
        except ConnectionError:
            raise Closed() from None

    def put_flight(self, flight): self.write(struct.pack(">H", len(flight)) + flight)

    def take_flight(self):
        count = struct.unpack(">H", self.read_exactly(2))[0]
        if not 1 <= count <= 1_024:
            raise Refused("length")
        return self.read_exactly(count)

    def payload(self, static):
        said = b"barrow noise static key\0" + raw(static.public_key())
        return self.key + self.identity.sign(said)

    def check(self, noise, payload):
        """W-20 to W-23, in their order; without the hash of the offer."""
        if len(payload) != 96:
            raise Refused("handshake.malformed")
        key, signature = payload[:32], payload[32:]
        if not verifies(key, b"barrow noise static key\0" + noise.their_static, signature):
            raise Refused("handshake.signature")
        if key == self.key:
            raise Refused("handshake.ourselves")
        if self.expected and key != self.expected:
            raise Refused("handshake.wrong_peer")
        self.peer = key

    def dial(self, suites):
        static, prologue = X25519PrivateKey.generate(), b"barrow/1" + bytes(suites)
        offers = {s: Noise(s, self.swarm_key, prologue, static, True) for s in suites}
        flight = bytes([1, len(suites)])
        for suite, noise in offers.items():
            message = noise.write_first()
            flight += bytes([suite, len(message)]) + message
        self.put_flight(flight)
        answer = self.take_flight()
        if answer[0] not in (1, 2):
            raise Refused("handshake.malformed")
        if answer[0] not in offers:
            raise Refused("handshake.no_suite")
        self.suite, noise = answer[0], offers[answer[0]]
        try:
            payload = noise.read_second(answer[1:])
        except (InvalidTag, ValueError):
            raise Refused("handshake.noise") from None
        if len(payload) != 128:
            raise Refused("handshake.malformed")
        if payload[96:] != hashlib.sha256(flight).digest():
            raise Refused("handshake.noise")
        self.check(noise, payload[:96])
        self.put_flight(noise.write_third(self.payload(static)))
        return noise

    def accept(self, suites):
        flight = self.take_flight()
        if len(flight) < 2 or flight[0] != 1:
            raise Refused("handshake.malformed")
        offers, rest = {}, flight[2:]
        for _ in range(flight[1]):
            if len(rest) < 2 or len(rest) < 2 + rest[1] or rest[0] in offers:
                raise Refused("handshake.malformed")
            offers[rest[0]], rest = rest[2:2 + rest[1]], rest[2 + rest[1]:]
        if rest:
            raise Refused("handshake.malformed")
        chosen = [suite for suite in suites if suite in offers]
        if not chosen:
            raise Refused("handshake.no_suite")
        self.suite, static = chosen[0], X25519PrivateKey.generate()
        noise = Noise(self.suite, self.swarm_key, b"barrow/1" + bytes(offers), static, False)
        try:
            noise.read_first(offers[self.suite])
            payload = self.payload(static) + hashlib.sha256(flight).digest()
            self.put_flight(bytes([self.suite]) + noise.write_second(payload))
            payload = noise.read_third(self.take_flight())
        except (InvalidTag, ValueError):
            raise Refused("handshake.noise") from None
        self.check(noise, payload)
        return noise

    # Records and frames.

    def put_record(self, body, kind):
        sealed = self.out.seal(body + bytes([kind]))
        self.write(struct.pack(">H", len(sealed)) + sealed)

    def take_record(self):
        count = struct.unpack(">H", self.read_exactly(2))[0]
        if count < 18:
            raise Refused("length")
        try:
            plaintext = self.into.open(self.read_exactly(count))
        except InvalidTag:
            raise Refused("tampered") from None
        return plaintext[:-1], plaintext[-1]

    def send(self, kind, body=b""):
        frame = struct.pack(">IB", len(body) + 1, kind) + body
        for at in range(0, len(frame), RECORD_BODY_MAX):
            self.put_record(frame[at:at + RECORD_BODY_MAX], CONTROL)

    def send_block(self, data, name=None):
        self.send(BLOCK, (name or multihash(data)) + struct.pack(">I", len(data)))
        for at in range(0, len(data), RECORD_BODY_MAX):
            self.put_record(data[at:at + RECORD_BODY_MAX], BYTES)

    def next_frame(self):
        """A frame that is whole, or nothing."""
        if len(self.frames) < 5:
            return None
        count, kind = struct.unpack(">IB", self.frames[:5])
        if not 1 <= count <= FRAME_MAX:
            raise Refused("length")
        if not self.seen and kind != HELLO or self.seen and kind == HELLO:
            raise Refused("hello")
        if len(self.frames) < 4 + count:
            return None
        body, self.frames = self.frames[5:4 + count], self.frames[4 + count:]
        self.seen.append(kind)
        return kind, body

    def receive(self):
        """The next message or block. A block comes between messages, when it is whole."""
        while True:
            if self.block and len(self.block[2]) == self.block[1]:
                (name, _, data), self.block = self.block, None
                return BLOCK, name, bytes(data)
            frame = self.next_frame()
            if frame and frame[0] == BLOCK:
                if self.block:
                    raise Refused("unexpected_block")
                name, count = frame[1][:33], struct.unpack(">I", frame[1][33:])[0]
                if count > BLOCK_MAX:
                    raise Refused("message.over_limit")
                self.block = (name, count, bytearray())
                continue
            if frame:
                return frame
            body, kind = self.take_record()
            if kind == CONTROL:
                self.frames += body
            elif kind == BYTES and self.block and len(self.block[2]) + len(body) <= self.block[1]:
                self.block[2].extend(body)
            else:
                raise Refused("unexpected_record")

    def until(self, kind):
        """Passes over what comes before the next of this type."""
        while True:
            got = self.receive()
            if got[0] == kind:
                return got

    # Messages.

    def want_have(self, *names, inline=0): self.send(WANT_HAVE, bytes([inline]) + hashes(*names))
    def want_block(self, *names): self.send(WANT_BLOCK, hashes(*names))
    def cancel(self, *names): self.send(CANCEL, hashes(*names))
    def ping(self, nonce): self.send(PING, struct.pack(">Q", nonce))

    def presence(self, *entries, price=0):
        body = struct.pack(">QH", price, len(entries))
        for name, state, count in entries:
            body += name + struct.pack(">BI", state, count)
        self.send(PRESENCE, body)

    def pay(self, sequence, total, payee=None):
        signed = self.key + (payee or self.peer) + struct.pack(">QQ", sequence, total)
        self.send(PAYMENT, signed + self.identity.sign(b"barrow voucher\0" + signed))

    def close(self): self.sock.close()


def hashes(*names): return struct.pack(">H", len(names)) + b"".join(names)


def read_hashes(body):
    count = struct.unpack(">H", body[:2])[0]
    assert len(body) == 2 + 33 * count, "message.truncated or .trailing_bytes"
    return [body[2 + 33 * n:35 + 33 * n] for n in range(count)]


def read_presence(body):
    """The price, and presence and length by multihash."""
    price, count = struct.unpack(">QH", body[:10])
    assert len(body) == 10 + 38 * count
    entries = [body[10 + 38 * n:48 + 38 * n] for n in range(count)]
    return price, {entry[:33]: struct.unpack(">BI", entry[33:]) for entry in entries}


def read_voucher(body):
    """Payer, payee, sequence and total, of a voucher that its payer signed."""
    assert len(body) == 144 and verifies(body[:32], b"barrow voucher\0" + body[:80], body[80:])
    return body[:32], body[32:64], *struct.unpack(">QQ", body[64:80])


def identity(): return Ed25519PrivateKey.from_private_bytes(os.urandom(32))
