#!/usr/bin/env python3
"""Writes the golden bytes of the protocol into fuzz/corpus, where the fuzz targets begin with them."""

import hashlib
import json
import pathlib

HERE = pathlib.Path(__file__).resolve().parent
VECTORS = HERE.parent / "protocol" / "tests" / "vectors"

TARGETS = {
    "market-request": ["market_request", "codec"],
    "market-response": ["market_response", "codec"],
    "chain-request": ["chain_messages", "codec"],
    "chain-response": ["chain_messages", "headers", "codec"],
    "signed": ["ad", "statements", "key_release"],
    "ad": ["ad", "statements"],
    "offer": ["statements"],
    "order": ["statements"],
    "receipt": ["statements"],
    "checkpoint": ["statements"],
    "release-to-seller": ["key_release", "codec"],
    "release-to-buyer": ["key_release", "codec"],
    "key-release-offer": ["key_release", "statements"],
    "part": ["key_release"],
    "misbehaviour": ["key_release"],
    "columns": ["columns"],
    "run": ["page"],
    "page": ["page", "key_release"],
    "proof-v1": ["anchor"],
    "proof-v2": ["anchor"],
    "anchor-proof": ["anchor"],
    "script": ["script", "anchor", "ad"],
    "beef": ["beef"],
    "channel": ["script"],
    "key-release": ["script"],
    "transaction": ["transaction"],
}

count = 0
for path in sorted(VECTORS.glob("*.json")):
    for vector in json.loads(path.read_text()).get("vectors", []):
        data = bytes.fromhex(vector["bytes"])
        seeds = [(target, data) for target in TARGETS.get(vector["type"], [])]
        if vector["type"] == "beef":
            # An Atomic BEEF is 36 bytes and a BEEF. In the golden one a single path stands first, and transactions follow.
            seeds.append(("bump", data[41:]))
            seeds.append(("transaction", data[36:]))
        # The target's first byte chooses between a locking script and a transaction.
        if vector["type"] in ("channel", "key-release"):
            seeds.append(("contracts", b"\x00" + data))
        if vector["type"] == "transaction":
            seeds.append(("contracts", b"\x01" + data))
        if vector["type"] == "columns":
            # The target's first two bytes choose the schema (float, int, bool, text) and the first number.
            seeds = [("columns", b"\xe4\x00" + data)]
        for target, seed in seeds:
            folder = HERE / "corpus" / target
            folder.mkdir(parents=True, exist_ok=True)
            (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
            count += 1
folder = HERE / "corpus" / "evidence"
folder.mkdir(parents=True, exist_ok=True)
(folder / "golden").write_text((VECTORS / "evidence.json").read_text())
count += 1
folder = HERE / "corpus" / "services"
folder.mkdir(parents=True, exist_ok=True)
answers = HERE.parent / "chain" / "tests" / "it" / "http" / "answers.json"
for answer in json.loads(answers.read_text())["answers"]:
    (folder / hashlib.sha256(answer.encode()).hexdigest()[:16]).write_text(answer)
    count += 1
print(f"{count} seeds in {HERE / 'corpus'}")
