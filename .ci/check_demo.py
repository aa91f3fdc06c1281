"""Checks the document that `sensora demo --json` prints: its shape, and that its numbers belong together."""

import json
import sys


def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        demo = json.load(file)

    assert set(demo) == {
        "network", "peers", "streams", "ad", "orders", "charged_once", "rejected", "balance",
    }, sorted(demo)
    assert demo["network"] == "regtest"
    assert set(demo["peers"]) == {"bootstrap", "agent", "buyer"}
    assert len(set(demo["peers"].values())) == 3
    assert all(peer.startswith("16Uiu2HA") for peer in demo["peers"].values())

    streams = {stream["id"]: stream for stream in demo["streams"]}
    assert streams and len(streams) == len(demo["streams"])
    for stream in streams.values():
        assert set(stream) == {"id", "name", "readings"} and len(stream["id"]) == 32, stream

    assert set(demo["ad"]) == {"txid", "height", "found_by"}
    assert len(demo["ad"]["txid"]) == 64 and demo["ad"]["height"] > 0
    assert sorted(demo["ad"]["found_by"]) == ["chain", "dht", "gossip"]

    assert len(demo["orders"]) >= 2
    for order in demo["orders"]:
        assert set(order) == {
            "order", "stream", "first", "count", "price_sat", "txid", "height", "verified", "evidence", "millis",
        }, sorted(order)
        assert order["stream"] in streams and order["verified"] is True
        assert len(order["order"]) == 64 and len(order["txid"]) == 64 and order["height"] > 0
        assert order["count"] > 0 and order["price_sat"] > 0 and order["evidence"]
        assert order["first"] + order["count"] <= streams[order["stream"]]["readings"]
    assert len({order["order"] for order in demo["orders"]}) == len(demo["orders"])

    assert demo["charged_once"] is True
    assert sorted(demo["rejected"]) == ["altered", "foreign_anchor", "omitted"]

    balance = demo["balance"]
    assert set(balance) == {
        "buyer_before_sat", "buyer_after_sat", "agent_before_sat", "agent_after_sat", "fees_sat", "ok",
    }, sorted(balance)
    before = balance["buyer_before_sat"] + balance["agent_before_sat"]
    after = balance["buyer_after_sat"] + balance["agent_after_sat"]
    assert balance["ok"] is True and before - after == balance["fees_sat"], balance
    print(f"the demo's document holds: {len(demo['orders'])} orders, {balance['fees_sat']} sat of fees")


if __name__ == "__main__":
    main(sys.argv[1])
