#!/usr/bin/env python3
"""Writes protected.json from section 14 of SPEC.md alone, with a field, a matrix and a CBOR of its
own, so that the crate and it check each other."""

import base64
import hashlib
import json
import pathlib

HERE = pathlib.Path(__file__).parent


# --- The field, and the code ---

def mul(a, b):
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = a << 1 ^ (0x11D if a & 0x80 else 0)
        b >>= 1
    return product


def power(a, n):
    out = 1
    for _ in range(n):
        out = mul(out, a)
    return out


def inverse(a): return next(b for b in range(256) if mul(a, b) == 1)


def invert(matrix):
    n = len(matrix)
    work = [list(row) + [int(i == j) for j in range(n)] for i, row in enumerate(matrix)]
    for column in range(n):
        pivot = next(row for row in range(column, n) if work[row][column])
        work[column], work[pivot] = work[pivot], work[column]
        factor = inverse(work[column][column])
        work[column] = [mul(factor, value) for value in work[column]]
        for row in range(n):
            if row != column:
                factor = work[row][column]
                work[row] = [a ^ mul(factor, b) for a, b in zip(work[row], work[column])]
    return [row[n:] for row in work]


def dot(row, column):
    out = 0
    for a, b in zip(row, column):
        out ^= mul(a, b)
    return out


def parity_of(data, k, m):
    vandermonde = [[power(row, column) for column in range(k)] for row in range(k + m)]
    top = list(zip(*invert(vandermonde[:k])))
    matrix = [[dot(row, column) for column in top] for row in vandermonde]
    longest = max(map(len, data))
    padded = [shard.ljust(longest, b"\0") for shard in data] + [b"\0" * longest] * (k - len(data))
    return [bytes(dot(row, at) for at in zip(*padded)) for row in matrix[k:]]


# --- DAG-CBOR ---

def head(major, n):
    if n < 24:
        return bytes([major << 5 | n])
    for extra, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 256 ** width:
            return bytes([major << 5 | extra]) + n.to_bytes(width, "big")
    raise ValueError(n)


class Link(bytes):
    pass


def cbor(value):
    if isinstance(value, Link):
        return head(6, 42) + head(2, len(value) + 1) + b"\0" + bytes(value)
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, str):
        return head(3, len(value)) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    entries = sorted(value.items(), key=lambda entry: (len(entry[0]), entry[0]))
    return head(5, len(value)) + b"".join(cbor(key) + cbor(item) for key, item in entries)


def cid(codec, data): return Link(bytes([1, codec, 0x12, 32]) + hashlib.sha256(data).digest())
def raw(data): return cid(0x55, data)
def dag_cbor(value): return cid(0x71, cbor(value))


# --- A dataset of 3 + 2, whose second stripe lacks a shard ---

K, M = 3, 2
LEAVES = [b"the first leaf", b"the second", b"a third", b"the fourth, which is longer", b"five"]
ROOT = cid(0x70, b"stands for a node above the leaves")

stripes = []
for start in range(0, len(LEAVES), K):
    data = LEAVES[start:start + K]
    parity = parity_of(data, K, M)
    stripes.append((data, parity))
stripe_values = [
    [[len(leaf) for leaf in data], [raw(leaf) for leaf in data], [raw(shard) for shard in parity]]
    for data, parity in stripes
]
nodes = [ROOT]
manifest = {
    "kind": "barrow-protected", "version": 1, "root": ROOT, "size": sum(map(len, LEAVES)),
    "data": K, "parity": M, "leaves": len(LEAVES), "longest": max(map(len, LEAVES)),
    "interior": 1, "lists": [dag_cbor(stripe_values)], "nodes": [dag_cbor(nodes)],
}


def text(link): return "b" + base64.b32encode(bytes(link)).decode().lower().rstrip("=")


def changed(**fields):
    return cbor({key: item for key, item in {**manifest, **fields}.items() if item is not None})


def swapped(stripe, part, value):
    changed = [list(stripe) for stripe in stripe_values]
    changed[stripe][part] = value
    return cbor(changed)


whole = cbor(manifest)
identity = Link(bytes([1, 0x71, 0, 1, 65]))
lens, data, parity = stripe_values[0]
HUGE = 2 ** 64 - 1
refused = [
    ("manifest", "Cbor", whole[:-1]),
    ("manifest", "Cbor", whole + b"\0"),
    ("manifest", "Cbor", whole.replace(b"\x64size\x18", b"\x64size\x19\x00")),
    ("manifest", "Kind", cbor([])),
    ("manifest", "Kind", changed(kind="barrow")),
    ("manifest", "Version", changed(version=2)),
    ("manifest", "Field", changed(more=1)),
    ("manifest", "Field", changed(size=None)),
    ("manifest", "Field", changed(size=-1)),
    ("manifest", "Field", changed(root="bafy")),
    ("manifest", "Field", changed(lists=1)),
    ("manifest", "Shape", changed(data=0)),
    ("manifest", "Shape", changed(parity=0)),
    ("manifest", "Shape", changed(parity=254)),
    ("manifest", "Shape", changed(data=HUGE)),
    ("manifest", "Length", changed(longest=2 * 1024 * 1024 + 1)),
    ("manifest", "Length", changed(longest=HUGE)),
    ("manifest", "StripeBytes", changed(parity=30, longest=1024 * 1024)),
    ("manifest", "Link", changed(root=identity)),
    ("manifest", "Link", changed(lists=[raw(b"")])),
    ("manifest", "Link", changed(nodes=[identity])),
    ("manifest", "Count", changed(leaves=0)),
    ("manifest", "Count", changed(leaves=HUGE)),
    ("manifest", "Count", changed(leaves=0, lists=[], interior=0, nodes=[])),
    ("manifest", "Count", changed(lists=[])),
    ("manifest", "Count", changed(lists=manifest["lists"] * 2)),
    ("manifest", "Count", changed(interior=HUGE)),
    ("manifest", "Count", changed(nodes=[])),
    ("list", "Cbor", cbor(stripe_values)[:-1]),
    ("list", "Field", cbor(1)),
    ("list", "Field", cbor([1, 2])),
    ("list", "Field", swapped(0, 1, [1, 2, 3])),
    ("list", "Field", swapped(0, 0, ["a", "b", "c"])),
    ("list", "Count", cbor(stripe_values[:1])),
    ("list", "Count", cbor(stripe_values * 2)),
    ("list", "Count", cbor(stripe_values[::-1])),
    ("list", "Count", swapped(0, 0, lens[:2])),
    ("list", "Count", swapped(0, 1, data[:2])),
    ("list", "Count", swapped(1, 2, parity[:1])),
    ("list", "Length", swapped(0, 0, [HUGE, 1, 1])),
    ("list", "Length", swapped(0, 0, [manifest["longest"] + 1, 1, 1])),
    ("list", "Twice", swapped(0, 1, [data[0], data[1], data[0]])),
    ("list", "Link", swapped(0, 1, [data[0], data[1], identity])),
    ("list", "Link", swapped(0, 2, [parity[0], ROOT])),
    ("nodes", "Field", cbor(1)),
    ("nodes", "Count", cbor([])),
    ("nodes", "Count", cbor(nodes * 2)),
    ("nodes", "Link", cbor([identity])),
]
case = {
    "cid": text(dag_cbor(manifest)),
    "root": text(ROOT),
    "data": K,
    "parity": M,
    "stripes": [
        {"data": [leaf.hex() for leaf in data], "parity": [shard.hex() for shard in parity]}
        for data, parity in stripes
    ],
    "manifest": whole.hex(),
    "list": cbor(stripe_values).hex(),
    "nodes": cbor(nodes).hex(),
    "refused": [{"of": of, "error": error, "bytes": data.hex()} for of, error, data in refused],
}
(HERE / "protected.json").write_text(json.dumps(case, indent=1) + "\n")
