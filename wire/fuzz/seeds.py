#!/usr/bin/env python3
"""Fills corpus/ from ../vectors, so that the targets begin at what is taken."""

import json
import pathlib

HERE = pathlib.Path(__file__).parent


def seeds(target, inputs):
    folder = HERE / "corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(inputs):
        (folder / f"vector-{number}").write_bytes(data)


# The vectors in their order: suite 1, the same with a swarm key, suite 2, the same with one.
MODES = [0, 1, 2, 3]


def load(name): return json.loads((HERE.parent / "vectors" / name).read_text())


cids, peers, messages = load("cid.json"), load("peer.json"), load("message.json")
handshakes, vouchers = load("handshake.json"), load("voucher.json")
seeds("cid_text", [case["text"].encode() for case in cids if "text" in case])
seeds("cid_bytes", [bytes.fromhex(case["bytes"]) for case in cids if "bytes" in case])
seeds("peer_id", [case["text"].encode() for case in peers if "text" in case])
frames = [bytes.fromhex(case["frame"]) for case in messages]
seeds("message", frames)
seeds("voucher", [bytes.fromhex(case["voucher"]) for case in vouchers if "voucher" in case])
for target, side in (("handshake_initiator", "initiator"), ("handshake_responder", "responder")):
    inputs = []
    for number, case in enumerate(handshakes):
        choice = bytes([MODES[number]])
        flights = [bytes.fromhex(flight) for flight in case["flights"]]
        inputs.append(choice + (flights[1] if side == "initiator" else flights[0] + flights[2]))
        inputs += [choice + bytes.fromhex(bad["input"]) for bad in case["refused"]
                   if bad["to"] == side]
        # A payload that is right, for the mode that says any payload.
        inputs.append(bytes([MODES[number] | 4])
                      + bytes.fromhex(case["payloads"][side == "initiator"]))
    seeds(target, inputs)
# Not the vectors' own records: the keys are the vectors', so they would be taken.
seeds("records", [bytes([mode, 0, at, 1]) + length.to_bytes(2, "big") + bytes(length)
                  for mode in range(4) for at in (0, 1, 2, 20) for length in (0, 17, 18, 64, 4096)])
# libfuzzer's arbitrary reads the choice first and a list's parts behind: near enough to be cut.
framed = [len(frame).to_bytes(4, "big") + frame for frame in frames]
seeds("frames", [bytes([choice, 1, 0]) + frame for frame in framed for choice in (2, 255)])
