"""A real node and the peer of `peer.py`: they meet, ask, fetch, serve, trade and refuse each other.

    scenes.py PATH_TO_BARROW [SCENE]...

Each function whose name begins with `scene_` is one; it fails by an exception."""

import base64
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

import peer
from peer import (ADDRESSES, BLOCK, CANCEL, HELLO, HOLD_SLOT, PAYMENT, PING, PONG, PRESENCE, SLOT_HELD,
                  WANT_BLOCK, WANT_HAVE, Closed, Link, Refused, multihash)

BARROW = None
# Loopback and a busy machine: what takes longer than this does not come.
PATIENCE = 20


class Node:
    """A `barrow serve` with a directory of its own."""

    def __init__(self, *flags, swarm_key=None):
        self.dir = tempfile.TemporaryDirectory()
        self.data = pathlib.Path(self.dir.name) / "data"
        if swarm_key:
            path = pathlib.Path(self.dir.name) / "swarm"
            path.write_text(swarm_key.hex())
            path.chmod(0o600)
            flags += ("--swarm-key-file", str(path))
        self.log = open(pathlib.Path(self.dir.name) / "log", "wb")
        command = [BARROW, "--data-dir", str(self.data), "serve", "--listen", "127.0.0.1:0",
                   "--http", "127.0.0.1:0", "--no-dht", "--no-mdns", *flags]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=self.log,
                                        stderr=self.log)
        until = time.monotonic() + PATIENCE
        while not (self.data / "node.json").exists():
            assert self.process.poll() is None and time.monotonic() < until, self.said()
            time.sleep(0.05)
        facts = json.loads((self.data / "node.json").read_text())
        self.id = facts["peer_id"]
        host, port = facts["listen"][0].rsplit(":", 1)
        self.address = (host, int(port))

    def said(self): return (pathlib.Path(self.dir.name) / "log").read_text()

    def barrow(self, *args, stdin=None):
        done = subprocess.run([BARROW, "--data-dir", str(self.data), *args], input=stdin,
                              capture_output=True, timeout=3 * PATIENCE)
        assert done.returncode == 0, (args, done, self.said())
        return done.stdout

    def put(self, data): return self.barrow("put", "-", stdin=data).decode().strip()

    def connect(self, **config):
        sock = socket.create_connection(self.address, timeout=PATIENCE)
        config.setdefault("identity", peer.identity())
        return Link(sock, **config)

    def __enter__(self): return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log.close()
            self.dir.cleanup()


class Seller:
    """A peer that listens and serves blocks, for a price or none."""

    def __init__(self, blocks, price=0, wrong=()):
        self.blocks, self.price, self.wrong = blocks, price, wrong
        self.vouchers, self.sent, self.failed = [], [], None
        self.identity = peer.identity()
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def serve(self, sock):
        try:
            link = Link(sock, self.identity, dialed=False)
            while True:
                self.answer(link, *link.receive())
        except (Closed, TimeoutError, OSError):
            pass
        except Exception as error:  # told by the scene, which looks here
            self.failed = error

    def answer(self, link, kind, *body):
        if kind == WANT_HAVE:
            inline, names = body[0][0], peer.read_hashes(body[0][1:])
            entries = []
            for name in names:
                data = self.blocks.get(name)
                if data is not None and inline and not self.price and len(data) <= 4_096:
                    self.send(link, name)
                else:
                    entries.append((name, 0, 0) if data is None else (name, 1, len(data)))
            if entries:
                link.presence(*entries, price=self.price)
        elif kind == WANT_BLOCK:
            for name in peer.read_hashes(body[0]):
                if name in self.blocks:
                    self.send(link, name)
                else:
                    link.presence((name, 0, 0), price=self.price)
        elif kind == PING:
            link.send(PONG, body[0])
        elif kind == PAYMENT:
            self.vouchers.append(peer.read_voucher(body[0]))

    def send(self, link, name):
        data = self.blocks[name]
        self.sent.append(name)
        link.send_block(b"?" * len(data) if name in self.wrong else data, name)

    def close(self): self.listener.close()


def base58_key(text):
    alphabet = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
    number = 0
    for letter in text:
        number = number * 58 + alphabet.index(letter)
    data = number.to_bytes(37, "big")
    assert text[0] == "1" and data[:5].hex() == "2408011220", "W-10"
    return data[5:]


def name_of(cid):
    """The multihash of a text of version 1 (W-2, W-7, W-9)."""
    assert cid[0] == "b"
    data = base64.b32decode(cid[1:].upper() + "=" * (-len(cid[1:]) % 8))
    assert data[0] == 1 and data[3] == 32 and len(data) == 36
    return data[2:3] + data[4:]


def links(node):
    """The multihashes that a dag-pb node links to, whose order is that of the file."""
    def fields(data):
        at = 0
        while at < len(data):
            (key, at), value = varint(data, at), None
            if key & 7 == 2:
                count, at = varint(data, at)
                value, at = data[at:at + count], at + count
            else:
                value, at = varint(data, at)
            yield key >> 3, value

    def varint(data, at):
        value = shift = 0
        while True:
            value |= (data[at] & 0x7F) << shift
            shift, at = shift + 7, at + 1
            if data[at - 1] < 0x80:
                return value, at

    for field, value in fields(node):
        if field == 2:
            for inner, cid in fields(value):
                if inner == 1:
                    yield cid[2:3] + cid[4:]


def fetch(link, names):
    """Blocks by WANT_BLOCK, each checked (W-38); neighbours may have changed places (W-62)."""
    link.want_block(*names)
    blocks = {}
    while len(blocks) < len(names):
        name, data = link.until(BLOCK)[1:]
        assert name in names and name not in blocks and multihash(data) == name
        blocks[name] = data
    return [blocks[name] for name in names]


def closes(link, within=PATIENCE):
    """The other side closes, whatever it says before."""
    link.sock.settimeout(within)
    try:
        while True:
            link.receive()
    except Closed:
        return True


def is_silent(link, seconds):
    link.sock.settimeout(seconds)
    try:
        got = link.receive()
    except TimeoutError:
        link.sock.settimeout(10)
        return True
    raise AssertionError(got)


def big_file(node, leaves):
    """A file of whole leaves of 1 MiB; its CID, its root's bytes and its leaves."""
    content = os.urandom(leaves << 20)
    cid = node.put(content)
    link = node.connect()
    [root] = fetch(link, [name_of(cid)])
    link.close()
    parts = [content[n << 20:n + 1 << 20] for n in range(leaves)]
    assert [multihash(part) for part in parts] == list(links(root))
    return cid, root, parts


# --- Handshake ---


def scene_meet_with_each_suite():
    with Node() as node:
        key = base58_key(node.id)
        for offered, taken in (((2, 1), {1, 2}), ((1, 2), {1, 2}), ((1,), {1})):
            link = node.connect(suites=offered, expected=key)
            kind, hello = link.receive()
            assert kind == HELLO and link.suite in taken and link.peer == key
            port, count = struct.unpack(">HB", hello[:3])
            assert port == node.address[1] and hello[3:].decode().isprintable() and len(hello) == 3 + count
            link.ping(7)
            assert link.until(PONG)[1] == struct.pack(">Q", 7)
            link.close()


def scene_meet_by_a_swarm_key():
    secret = os.urandom(32)
    with Node(swarm_key=secret) as node:
        link = node.connect(swarm_key=secret)
        assert link.receive()[0] == HELLO
        for wrong in (None, os.urandom(32)):
            try:
                node.connect(swarm_key=wrong)
                raise AssertionError("it answers without the key")
            except Closed:
                pass


def scene_a_peer_that_is_another_is_refused_by_us():
    with Node() as node:
        try:
            node.connect(expected=os.urandom(32))
            raise AssertionError("another peer than expected")
        except Refused as refused:
            assert str(refused) == "handshake.wrong_peer"


def scene_broken_handshakes_are_closed():
    def whole(flight): return struct.pack(">H", len(flight)) + flight
    ephemeral = os.urandom(32)
    offer = bytes([1, 32]) + ephemeral
    with Node() as node:
        for flight in (
            struct.pack(">H", 0), struct.pack(">H", 1_025), whole(b"\2\1" + offer), whole(b"\1\2" + offer),
            whole(b"\1\1" + offer + b"\0"), whole(b"\1\2" + offer + offer), whole(b"\1\1\7\x20" + ephemeral),
            whole(b"\1\1\1\x21" + ephemeral + b"\0"), b"GET / HTTP/1.1\r\n\r\n" + bytes(60_000),
        ):
            with socket.create_connection(node.address, timeout=PATIENCE) as sock:
                sock.sendall(flight)
                try:
                    assert sock.recv(1) == b"", flight[:40]
                except ConnectionError:
                    pass


class Weak(Link):
    """It says that it is the key 1 of small order, for which S = 1 and R = B is a signature of anything."""

    def payload(self, static):
        base = bytes.fromhex("58" + "66" * 31)
        return (1).to_bytes(32, "little") + base + (1).to_bytes(32, "little")


def scene_an_identity_of_small_order_is_refused():
    with Node() as node:
        # A library takes it.
        key = peer.Ed25519PublicKey.from_public_bytes((1).to_bytes(32, "little"))
        key.verify(bytes.fromhex("58" + "66" * 31) + (1).to_bytes(32, "little"), b"anything")
        sock = socket.create_connection(node.address, timeout=PATIENCE)
        try:
            assert closes(Weak(sock, peer.identity()))
        except Closed:
            pass


def scene_a_slow_handshake_is_closed_after_ten_seconds():
    with Node() as node, socket.create_connection(node.address, timeout=3 * PATIENCE) as sock:
        began = time.monotonic()
        assert sock.recv(1) == b""
        assert 9 < time.monotonic() - began < 9 + PATIENCE


# --- Asking and fetching ---


def scene_ask():
    with Node() as node:
        small, middle = b"small " * 9, os.urandom(4_097)
        edge = os.urandom(4_096)
        for data in (small, middle, edge):
            node.put(data)
        absent = multihash(b"nobody has this")
        names = [multihash(data) for data in (small, middle, edge)]
        link = node.connect()
        # Without inline, an entry for each, once, though one is named twice.
        link.want_have(*names, absent, names[0])
        said, price = {}, None
        while len(said) < 4:
            price, entries = peer.read_presence(link.until(PRESENCE)[1])
            assert not said.keys() & entries.keys(), "answered twice"
            said |= entries
        assert price == 0 and said[absent] == (0, 0)
        assert [said[name][1] for name in names] == [len(small), len(middle), len(edge)]
        assert all(said[name][0] in (1, 2) for name in names)
        # With inline, blocks of at most 4,096 bytes come; with presence 2, it came before.
        link = node.connect()
        link.want_have(*names, inline=1)
        came, entries = {}, {}
        while set(came) != {names[0], names[2]} or names[1] not in entries:
            got = link.receive()
            if got[0] == BLOCK:
                came[got[1]] = got[2]
            elif got[0] == PRESENCE:
                fresh = peer.read_presence(got[1])[1]
                for name in (names[0], names[2]):
                    assert name not in fresh or (fresh[name][0] == 2 and name not in came)
                entries |= fresh
        assert came == {names[0]: small, names[2]: edge}
        # What is absent and wanted gets presence 0; what is wanted twice at a time comes once.
        link.want_block(absent, names[1], names[1], names[0])
        got = {}
        order = []
        while len(order) < 3:
            message = link.receive()
            if message[0] == BLOCK:
                order.append(message[1])
            elif message[0] == PRESENCE:
                got |= peer.read_presence(message[1])[1]
                order.append(absent)
        assert got == {absent: (0, 0)} and set(order) == {absent, names[0], names[1]}
        assert is_silent(link, 0.3)
        link.want_block()
        link.cancel()
        link.cancel(absent)
        fetch(link, [names[1]])


def scene_fetch_a_file_that_is_complete():
    with Node() as node:
        cid, root, parts = big_file(node, 9)
        link = node.connect(suites=(1,))
        link.want_have(name_of(cid))
        entry = peer.read_presence(link.until(PRESENCE)[1])[1]
        assert entry == {name_of(cid): (2, len(root))}
        # Presence 2 is said of all below: they are asked for at once.
        assert fetch(link, list(links(root))) == parts


def scene_a_block_taken_back_in_time_does_not_come():
    with Node("--limit-up", "2MiB") as node:
        _, _, parts = big_file(node, 3)
        names = [multihash(part) for part in parts]
        link = node.connect()
        link.want_block(*names)
        link.cancel(names[2])
        came = {link.until(BLOCK)[1] for _ in range(2)}
        assert came == set(names[:2])
        fetch(link, [names[2]])


def scene_others_are_named():
    with Node() as node:
        third = node.connect(port=4_999)
        third.until(HELLO)
        third.ping(1)
        third.until(PONG)
        link = node.connect()
        # Once without being asked.
        body = link.until(ADDRESSES)[1]
        assert struct.unpack(">H", body[:2])[0] == 1
        assert body[2:34] == third.key and body[34:] == b"\4\x7f\0\0\1" + struct.pack(">H", 4_999)
        time.sleep(1.1)
        link.send(ADDRESSES, struct.pack(">H", 0))
        link.ping(9)
        assert [link.receive()[0] for _ in range(2)] == [ADDRESSES, PONG]
        # Not again within a second.
        link.send(ADDRESSES, struct.pack(">H", 0))
        link.ping(10)
        assert link.receive() == (PONG, struct.pack(">Q", 10))


def scene_a_slot_is_refused_to_strangers():
    with Node() as node:
        link = node.connect()
        field = peer.cid(multihash(b"a manifest"), 0x71)
        field = bytes([len(field)]) + field
        link.send(HOLD_SLOT, field + struct.pack(">HH", 1, 3))
        assert link.until(SLOT_HELD)[1] == field + struct.pack(">HB", 1, 0)


# --- Serving ---


def scene_serve_and_tell_who_waits():
    with Node() as first:
        cid, root, parts = big_file(first, 3)
        blocks = {multihash(data): data for data in (root, *parts)}
        seller = Seller(blocks)
        with Node() as node:
            waits = node.connect()
            names = list(blocks)
            waits.want_have(*names)
            said = {}
            while len(said) < 4:
                said |= peer.read_presence(waits.until(PRESENCE)[1])[1]
            assert set(said.values()) == {(0, 0)}
            node.barrow("connect", seller.address)
            out = os.path.join(node.dir.name, "out")
            node.barrow("get", cid, "-o", out)
            assert pathlib.Path(out).read_bytes() == b"".join(parts)
            assert seller.failed is None and set(seller.sent) == set(names)
            # The subscription: presence 1, once each.
            said = {}
            while len(said) < 4:
                fresh = peer.read_presence(waits.until(PRESENCE)[1])[1]
                assert not said.keys() & fresh.keys()
                said |= fresh
            assert said == {name: (1, len(data)) for name, data in blocks.items()}
        seller.close()


def scene_wrong_bytes_go_nowhere():
    with Node() as first:
        cid, root, parts = big_file(first, 2)
        blocks = {multihash(data): data for data in (root, *parts)}
        liar, honest = Seller(blocks, wrong={multihash(parts[1])}), Seller(blocks)
        with Node("--peer", liar.address, "--peer", honest.address) as node:
            out = os.path.join(node.dir.name, "out")
            node.barrow("get", cid, "-o", out)
            assert pathlib.Path(out).read_bytes() == b"".join(parts)
            assert liar.failed is None and honest.failed is None


# --- Trading ---


def scene_buy():
    with Node("--price", "10", "--credit", "20") as node:
        cid, root, parts = big_file(node, 4)
        link = node.connect()
        names = list(links(root))
        link.want_have(name_of(cid), *names, inline=1)
        said = {}
        while len(said) < 5:
            price, fresh = peer.read_presence(link.until(PRESENCE)[1])
            assert price == 10
            said |= fresh
        link.want_block(*names)
        for n, name in enumerate(names):
            assert link.until(BLOCK)[1] == name
            # 10 units are owed, and a block of unknown length counts as 20 more: it is held back.
            if n < 3:
                assert is_silent(link, 0.3)
                link.pay(n + 1, 10 * (n + 1))
        # A voucher that is older is passed over, and the last one is shown when the two meet again.
        link.pay(4, 40)
        link.pay(2, 20)
        link.ping(1)
        link.until(PONG)
        again = node.connect(identity=link.identity)
        shown = peer.read_voucher(again.until(PAYMENT)[1])
        assert shown == (link.key, link.peer, 4, 40)


def scene_sell():
    with Node() as first:
        cid, root, parts = big_file(first, 4)
        blocks = {multihash(data): data for data in (root, *parts)}
        seller = Seller(blocks, price=16)
        with Node("--peer", seller.address, "--max-price", "20", "--budget", "1000") as node:
            out = os.path.join(node.dir.name, "out")
            node.barrow("get", cid, "-o", out)
            assert pathlib.Path(out).read_bytes() == b"".join(parts)
            total = 16 * (4 << 20) + 16 * len(root) >> 20
            until = time.monotonic() + PATIENCE
            while not seller.vouchers or seller.vouchers[-1][3] < total:
                assert time.monotonic() < until, (seller.vouchers, seller.failed)
                time.sleep(0.05)
            key = peer.raw(seller.identity.public_key())
            buyer = base58_key(node.id)
            assert seller.failed is None
            assert [v[:3] for v in seller.vouchers] == [(buyer, key, n + 1) for n in range(len(seller.vouchers))]
            totals = [voucher[3] for voucher in seller.vouchers]
            assert totals == sorted(set(totals)) and totals[-1] == total
        seller.close()


# --- Being refused ---


def scene_too_many_wants():
    with Node("--limit-up", "64KiB") as node:
        _, _, parts = big_file(node, 2)
        link = node.connect()
        link.want_block(*(multihash(part) for part in parts))
        # The first takes up the limit for a while, and the second waits with all behind it.
        link.until(BLOCK)
        link.want_block(*(multihash(b"%d" % n) for n in range(1_023)))
        link.ping(1)
        link.until(PONG)
        link.want_block(multihash(b"one more"))
        assert closes(link)


def scene_too_many_messages():
    with Node() as node:
        link = node.connect()
        frames = struct.pack(">IB", 3, CANCEL) + peer.hashes()
        for _ in range(40):
            try:
                link.put_record(frames * 1_000, peer.CONTROL)
            except Closed:
                break
        assert closes(link)


def scene_errors_of_the_session_close_it():
    def unsealed(link):
        link.write(struct.pack(">H", 20) + bytes(20))

    def repeated(link):
        sealed = link.out.seal(struct.pack(">IBQ", 9, PING, 1) + b"\0")
        link.write(2 * (struct.pack(">H", len(sealed)) + sealed))
    name = multihash(b"x")
    with Node() as node:
        for what in (
            lambda link: link.write(struct.pack(">H", 17)),
            unsealed, repeated,
            lambda link: link.put_record(b"x", 2),
            lambda link: link.put_record(b"x", peer.BYTES),
            lambda link: link.put_record(struct.pack(">I", 0), peer.CONTROL),
            lambda link: link.put_record(struct.pack(">IB", 262_145, PING), peer.CONTROL),
            lambda link: link.send(0x0D),
            lambda link: link.send(PING, bytes(9)),
            lambda link: link.send(PING, bytes(7)),
            lambda link: link.send(HELLO, bytes(3)),
            lambda link: link.send(WANT_HAVE, b"\2" + peer.hashes(name)),
            lambda link: link.send(WANT_BLOCK, struct.pack(">H", 1_025)),
            lambda link: link.send(BLOCK, name + struct.pack(">I", 2_097_153)),
            lambda link: (link.send(BLOCK, name + struct.pack(">I", 9)),
                          link.send(BLOCK, name + struct.pack(">I", 9))),
            lambda link: (link.presence((name, 1, 1), price=1), link.presence((name, 1, 1), price=2)),
        ):
            link = node.connect()
            try:
                what(link)
            except Closed:
                continue
            assert closes(link)
        link = node.connect(hello=False)
        link.ping(1)
        assert closes(link)


def scene_three_offences_ban():
    def unasked(link, n): link.send_block(b"nobody asked %d" % n)

    def foreign(link, n): link.pay(n + 1, 5, payee=os.urandom(32))

    def forged(link, n):
        signed = link.key + link.peer + struct.pack(">QQ", n + 1, 5)
        link.send(PAYMENT, signed + bytes(64))

    with Node() as node:
        for offence in (unasked, foreign, forged):
            identity = peer.identity()
            for n in range(3):
                # Over connections: they are counted for the identity.
                link = node.connect(identity=identity)
                link.until(HELLO)
                offence(link, n)
                if n < 2:
                    link.ping(n)
                    link.until(PONG)
                    link.close()
            assert closes(link)
            link = node.connect(identity=identity)
            assert closes(link) and link.seen == [], "a banned peer hears no HELLO"


def scene_a_second_connection_replaces_the_first():
    with Node() as node:
        first = node.connect()
        first.until(HELLO)
        second = node.connect(identity=first.identity)
        assert second.until(HELLO)
        assert closes(first)
        second.ping(3)
        second.until(PONG)


def main():
    global BARROW
    BARROW = os.path.abspath(sys.argv[1])
    scenes = {name[6:]: scene for name, scene in globals().items() if name.startswith("scene_")}
    for name in sys.argv[2:] or scenes:
        began = time.monotonic()
        scenes[name]()
        print(f"{name.replace('_', ' ')}: {time.monotonic() - began:.1f} s", flush=True)


if __name__ == "__main__":
    main()
