"""Runs the demo on a real BSV node: starts one in regtest with the rules of the main network, points the demo at it, and ends it.

Prints the demo's document. Called by `.ci/run` with the node's program and the program `sensora`.
"""

import base64
import json
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now, all different."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [listener.getsockname()[1] for listener in held]
    for listener in held:
        listener.close()
    return ports


def answers(port: int) -> bool:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/",
        json.dumps({"id": 0, "method": "getblockcount", "params": []}).encode(),
        {"Authorization": "Basic " + base64.b64encode(b"u:p").decode()},
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status == 200
    except OSError:
        return False


def main(bitcoind: str, sensora: str) -> int:
    with tempfile.TemporaryDirectory() as folder:
        open(f"{folder}/bitcoin.conf", "w", encoding="utf-8").close()
        rpc, p2p = free_ports(2)
        node = subprocess.Popen(
            [
                bitcoind, "-regtest", f"-datadir={folder}", "-server=1", "-daemon=0", "-printtoconsole=0", "-disablewallet=1",
                "-rpcuser=u", "-rpcpassword=p", "-rpcbind=127.0.0.1", "-rpcallowip=127.0.0.1", f"-rpcport={rpc}",
                "-bind=127.0.0.1", f"-port={p2p}", "-dnsseed=0", "-discover=0", "-upnp=0", "-listenonion=0",
                "-genesisactivationheight=1", "-excessiveblocksize=1GB", "-maxstackmemoryusageconsensus=0",
                "-minminingtxfee=0.000001", "-acceptnonstdtxn=0", "-txindex=1", "-disablesafemode=1",
                # A script may take 3 ms otherwise, which a busy machine exceeds.
                "-maxstdtxvalidationduration=5000", "-maxnonstdtxvalidationduration=10000",
                "-maxtxnvalidatorasynctasksrunduration=20000",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(600):
                if answers(rpc):
                    break
                if node.poll() is not None:
                    print(f"the node ended with {node.returncode}", file=sys.stderr)
                    return 1
                time.sleep(0.1)
            demo = [sensora, "demo", "--json", "--chain", f"node-rpc=http://u:p@127.0.0.1:{rpc}"]
            return subprocess.run(demo, check=False).returncode
        finally:
            node.terminate()
            node.wait(timeout=60)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
