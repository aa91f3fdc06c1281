#!/usr/bin/env python3
"""Checks a Sensora evidence file with nothing but Python's standard library.

    python3 verify_evidence.py FILE [--header HEX]

It is a second implementation of docs/evidence.md, written to be read: if it and `sensora verify` ever disagree, one of
them is wrong. --header gives the 80-byte block header at the file's height from a source you trust (a node, a block
explorer); without it the header in the file is checked for its own proof of work only, and is printed for you to compare.

Exit code 0: everything in the file holds. 1: something does not. 2: the file cannot be read.
"""

import argparse
import hashlib
import json
import math
import struct
import sys


class Invalid(Exception):
    """Something in the file does not hold."""


def check(holds, what):
    if not holds:
        raise Invalid(what)


def sha256(data):
    return hashlib.sha256(data).digest()


# --- deterministic CBOR (RFC 8949 section 4.2; floats always in 64 bits) ----------------------------------------------

def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if number < 1 << (8 * size):
            return bytes([major << 5 | info]) + number.to_bytes(size, "big")
    raise Invalid("a number does not fit 64 bits")


def cbor(value):
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, float):
        return b"\xfb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    entries = sorted((cbor(key), cbor(item)) for key, item in value.items())
    return head(5, len(entries)) + b"".join(key + item for key, item in entries)


def uncbor(data):
    """Integers, strings and maps: all that a checkpoint is made of. What it reads it would write the same."""
    def item(at):
        major, info = data[at] >> 5, data[at] & 31
        at += 1
        size = {24: 1, 25: 2, 26: 4, 27: 8}.get(info, 0)
        number = int.from_bytes(data[at:at + size], "big") if size else info
        at += size
        if major == 0:
            return number, at
        if major == 1:
            return -1 - number, at
        if major in (2, 3):
            text = data[at:at + number]
            return (text if major == 2 else text.decode()), at + number
        check(major == 5, "the checkpoint is not a CBOR map")
        result = {}
        for _ in range(number):
            key, at = item(at)
            result[key], at = item(at)
        return result, at

    value, _ = item(0)
    check(cbor(value) == data, "the checkpoint is not deterministic CBOR")
    return value


# --- ECDSA on secp256k1 -----------------------------------------------------------------------------------------------

P = 2**256 - 2**32 - 977
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
G = (0x79BE667EF9DCBBAC55A06295CE870B07029BFCDB2DCE28D959F2815B16F81798,
     0x483ADA7726A3C4655DA4FBFC0E1108A8FD17B448A68554199C47D08FFB10D4B8)


def add(a, b):
    if a is None or b is None:
        return b if a is None else a
    if a[0] == b[0] and (a[1] + b[1]) % P == 0:
        return None
    if a == b:
        slope = 3 * a[0] * a[0] * pow(2 * a[1], -1, P) % P
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, P) % P
    x = (slope * slope - a[0] - b[0]) % P
    return x, (slope * (a[0] - x) - a[1]) % P


def times(point, number):
    result = None
    while number:
        if number & 1:
            result = add(result, point)
        point, number = add(point, point), number >> 1
    return result


def ecdsa_holds(key, digest, signature):
    if len(key) != 33 or key[0] not in (2, 3) or len(signature) != 64:
        return False
    x = int.from_bytes(key[1:], "big")
    y = pow(x**3 + 7, (P + 1) // 4, P)
    if x >= P or y * y % P != (x**3 + 7) % P:
        return False
    point = (x, y if y & 1 == key[0] & 1 else P - y)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    if not (0 < r < N and 0 < s <= N // 2):
        return False
    inverse, number = pow(s, -1, N), int.from_bytes(digest, "big")
    found = add(times(G, number * inverse % N), times(point, r * inverse % N))
    return found is not None and found[0] % N == r


def statement_digest(name, version, network, body):
    return sha256(cbor([name, version, network, body]))


# --- the log of a stream: RFC 9162 section 2.1 ------------------------------------------------------------------------

def node(left, right):
    return sha256(b"\x01" + left + right)


def split(size):
    """The largest power of two below size."""
    return 1 << (size - 1).bit_length() - 1


def range_root(leaves, first, size, proof):
    """The root of a log of `size` leaves of which we have those from `first` on: each largest subtree without any of them is the
    next hash of the proof."""
    hashes, end = list(reversed(proof)), first + len(leaves)

    def root(start, stop):
        if stop <= first or start >= end:
            check(hashes, "the range proof is too short")
            return hashes.pop()
        if stop - start == 1:
            return leaves[start - first]
        middle = start + split(stop - start)
        left = root(start, middle)
        return node(left, root(middle, stop))

    found = root(0, size)
    check(not hashes, "the range proof is too long")
    return found


def inclusion_root(leaf, index, size, path):
    """The root of a tree of `size` leaves of which we have one; the path goes from the leaf up."""
    hashes = list(path)

    def root(start, stop):
        if stop - start == 1:
            return leaf
        check(hashes, "the path to the anchor is too short")
        beside, middle = hashes.pop(), start + split(stop - start)
        if index < middle:
            return node(root(start, middle), beside)
        return node(beside, root(middle, stop))

    check(index < size, "the checkpoint is beyond the end of the anchor")
    found = root(0, size)
    check(not hashes, "the path to the anchor is too long")
    return found


# --- transactions: Atomic BEEF (BRC-95, BRC-62, BRC-96) and BUMP (BRC-74) ---------------------------------------------

class Reader:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, size):
        check(self.at + size <= len(self.data), "the anchor transaction ends early")
        self.at += size
        return self.data[self.at - size:self.at]

    def number(self, size):
        return int.from_bytes(self.take(size), "little")

    def varint(self):
        first = self.number(1)
        return first if first < 0xFD else self.number({0xFD: 2, 0xFE: 4, 0xFF: 8}[first])


def read_bump(reader):
    """Height and root of a Merkle path, and the transactions it proves."""
    height, levels = reader.varint(), reader.number(1)
    nodes, txids = {}, set()
    for level in range(levels):
        given = {}
        for _ in range(reader.varint()):
            offset, flags = reader.varint(), reader.number(1)
            given[offset] = None if flags & 1 else reader.take(32)
            if level == 0 and given[offset]:
                txids.add(given[offset])
        for offset, value in nodes.items():
            check(given.get(offset, value) == value, "the Merkle path contradicts itself")
            given[offset] = value
        nodes = {}
        for offset, left in given.items():
            if offset % 2 == 0 and offset + 1 in given:
                right = given[offset + 1] or left
                nodes[offset // 2] = sha256(sha256(left + right))
    check(list(nodes) == [0], "the Merkle path does not lead to one root")
    return height, nodes[0], txids


def read_tx(reader):
    """Id and locking scripts of a transaction."""
    start = reader.at
    reader.take(4)
    for _ in range(reader.varint()):
        reader.take(36)
        reader.take(reader.varint())
        reader.take(4)
    scripts = []
    for _ in range(reader.varint()):
        reader.take(8)
        scripts.append(reader.take(reader.varint()))
    reader.take(4)
    return sha256(sha256(reader.data[start:reader.at])), scripts


def read_beef(data):
    """Id, locking scripts and Merkle path (or None) of the transaction that an Atomic BEEF is about."""
    reader = Reader(data)
    check(reader.take(4) == b"\x01\x01\x01\x01", "the anchor is not an Atomic BEEF")
    subject = reader.take(32)
    version = reader.take(4)
    check(version in (b"\x01\x00\xbe\xef", b"\x02\x00\xbe\xef"), "a BEEF of an unknown version")
    bumps = [read_bump(reader) for _ in range(reader.varint())]
    found = None
    for _ in range(reader.varint()):
        bump = None
        if version[0] == 2:
            form = reader.number(1)
            check(form in (0, 1), "a transaction in the BEEF is there by its id only")
            if form == 1:
                bump = bumps[reader.varint()]
            txid, scripts = read_tx(reader)
        else:
            txid, scripts = read_tx(reader)
            if reader.number(1) == 1:
                bump = bumps[reader.varint()]
        check(bump is None or txid in bump[2], "a Merkle path proves another transaction")
        if txid == subject:
            found = txid, scripts, bump
    check(found, "the BEEF does not hold the transaction that it is about")
    check(reader.at == len(data), "bytes follow the BEEF")
    return found


def data_of(script):
    """The single push after OP_FALSE OP_RETURN, or None."""
    if script[:2] != b"\x00\x6a" or len(script) < 3:
        return None
    size, rest = script[2], script[3:]
    for opcode, width in ((0x4C, 1), (0x4D, 2), (0x4E, 4)):
        if script[2] == opcode:
            size, rest = int.from_bytes(rest[:width], "little"), rest[width:]
    return rest if script[2] <= 0x4E and len(rest) == size else None


# --- the evidence -----------------------------------------------------------------------------------------------------

def value_of(kind, value, seq):
    fits = {
        "float": lambda: isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value),
        "int": lambda: isinstance(value, int) and not isinstance(value, bool) and -2**63 <= value < 2**63,
        "bool": lambda: isinstance(value, bool),
        "text": lambda: isinstance(value, str) and len(value.encode()) <= 256,
    }
    if value is None:
        return None
    check(fits[kind](), f"reading {seq}: {value!r} is no {kind}")
    return float(value) if kind == "float" else value


def leaf_of(reading, fields):
    seq, salt = reading["seq"], bytes.fromhex(reading["salt"])
    check(len(salt) == 16, f"reading {seq}: a salt has 16 bytes")
    check(len(reading["values"]) == len(fields), f"reading {seq}: another number of values than fields")
    values = [value_of(field["kind"], value, seq) for field, value in zip(fields, reading["values"])]
    return sha256(b"\x00" + cbor([seq, int(reading["time_ns"]), values, salt]))


def verify(file, trusted_header):
    check(file["format"] == "sensora-evidence" and file["version"] == 1, "not a Sensora evidence file of version 1")
    network, seller = file["network"], bytes.fromhex(file["seller"])

    # 1. The stream's id follows from seller, name and schema.
    stream = file["stream"]
    genesis = cbor({"name": stream["name"], "schema": stream["schema"], "seller": seller})
    expected = statement_digest("sensora/stream", 1, network, genesis)[:16]
    check(bytes.fromhex(stream["id"]) == expected, "the stream's id does not follow from seller, name and schema")

    # 2. The seller signed the checkpoint.
    signed = file["checkpoint"]["signed"]
    body = bytes.fromhex(signed["body"])
    digest = statement_digest("sensora/checkpoint", 1, network, body)
    check(bytes.fromhex(signed["key"]) == seller, "the checkpoint is signed by somebody else")
    check(ecdsa_holds(seller, digest, bytes.fromhex(signed["signature"])), "the checkpoint's signature does not hold")
    checkpoint = uncbor(body)
    check(set(checkpoint) == {"stream", "size", "root", "issued_ms"}, "the checkpoint has other fields")
    size, root = checkpoint["size"], checkpoint["root"]
    check(checkpoint["stream"] == expected, "the checkpoint is of another stream")
    said = (file["checkpoint"]["size"], bytes.fromhex(file["checkpoint"]["root"]))
    check(said == (size, root), "the file says something else than the signed checkpoint")

    # 3. The readings are in the log at the checkpoint, without holes.
    readings = file["readings"]
    check(readings, "no readings")
    first = readings[0]["seq"]
    check([reading["seq"] for reading in readings] == list(range(first, first + len(readings))), "a reading is missing")
    check(first + len(readings) <= size, "readings beyond the end of the log")
    leaves = [leaf_of(reading, stream["schema"]["fields"]) for reading in readings]
    proof = [bytes.fromhex(text) for text in file["range_proof"]]
    check(range_root(leaves, first, size, proof) == root, "the readings are not in the seller's log")
    print(f"{len(readings)} readings from {first} on are in the log of {size} that {seller.hex()} signed")

    # 4. The checkpoint is under the anchor, and the anchor in a block.
    anchor = file["anchor"]
    if anchor is None:
        print("not anchored: their time is the seller's word")
        return
    txid, scripts, bump = read_beef(bytes.fromhex(anchor["proof"]["beef"]))
    check(txid[::-1].hex() == anchor["txid"], "the file names another anchor transaction")
    index, count = anchor["proof"]["index"], anchor["proof"]["count"]
    start = b"SENSORA_PROOF\x02" + seller
    payloads = [data_of(script) for script in scripts]
    payloads = [data for data in payloads if data and data[:47] == start and data[79:] == count.to_bytes(4, "big")]
    check(payloads, "the transaction carries no anchor of this seller: it is a foreign anchor")
    path = [bytes.fromhex(text) for text in anchor["proof"]["path"]]
    found = inclusion_root(sha256(b"\x00" + digest), index, count, path)
    check(found == payloads[0][47:79], "the checkpoint is not under the anchor")
    if bump is None:
        check(anchor["height"] is None and anchor["header"] is None, "the file names a block, the anchor has none")
        print(f"anchored by {anchor['txid']}, which is in no block yet")
        return
    header = bytes.fromhex(anchor["header"] or "")
    check(len(header) == 80 and bump[0] == anchor["height"], "the file does not name the anchor's block")
    check(header[36:68] == bump[1], "the anchor transaction is not in the block")
    exponent, mantissa = header[75], int.from_bytes(header[72:75], "little")
    target = mantissa << 8 * (exponent - 3) if exponent > 3 else mantissa >> 8 * (3 - exponent)
    block = sha256(sha256(header))
    check(int.from_bytes(block, "little") <= target, "the header does not have the work it claims")
    check(trusted_header in (None, header), "the block is not on the chain that --header is of")
    print(f"anchored by {anchor['txid']} in block {anchor['height']} ({block[::-1].hex()})")
    if trusted_header is None:
        print("compare this block with a source that you trust, or give its header with --header")


def main():
    parser = argparse.ArgumentParser(description="Checks a Sensora evidence file.")
    parser.add_argument("file")
    parser.add_argument("--header", help="the block's header in hex, from a source you trust")
    args = parser.parse_args()

    def refuse(constant):
        raise ValueError(f"{constant} is no value")

    try:
        with open(args.file, encoding="utf-8") as file:
            evidence = json.load(file, parse_constant=refuse)
        verify(evidence, bytes.fromhex(args.header) if args.header else None)
    except Invalid as reason:
        print(f"does not hold: {reason}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        print(f"cannot be read: {error!r}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
