"""Measures how soon an order goes on after `kill -9`: from the connection between buyer and seller to the first new reading that is verified.

Real processes on loopback, each with a home of its own in a temporary folder: a bootstrap node with the development chain, an agent with a recording,
another with a simulated sensor, and a buyer. In each round an agent or the buyer is killed in the middle of a range or a live stream, and started again at
once. Both moments are read from the buyer's log, with the buyer's own time stamps. Called with the folder of the programs.
"""

import datetime
import json
import os
import pathlib
import queue
import socket
import subprocess
import sys
import tempfile
import threading
import time

ROUNDS = int(os.environ.get("SENSORA_ROUNDS", "20"))
ROWS = 10_000
GOAL_MS = 100


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A program under way; its lines are taken from both of its outputs as they come."""

    def __init__(self, command: list[str]) -> None:
        environment = {**os.environ, "SENSORA_LOG": "warn,sensora_node=debug"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.command = command
        self.child = subprocess.Popen(command, env=environment, **pipes)
        self.lines: queue.Queue = queue.Queue()
        for name in ["stdout", "stderr"]:
            threading.Thread(target=self.read, args=(name,), daemon=True).start()

    def read(self, name: str) -> None:
        for line in getattr(self.child, name):
            try:
                self.lines.put((name, json.loads(line)))
            except ValueError:
                self.lines.put((name, {"text": line}))
        self.lines.put((name, None))

    def wait_for(self, wanted, seconds: float = 60) -> dict | None:
        """The first line that is wanted; nothing where the program has ended."""
        until, open_outputs = time.monotonic() + seconds, 2
        while open_outputs:
            left = until - time.monotonic()
            if left <= 0:
                sys.exit(f"waited too long for {' '.join(self.command)}")
            try:
                name, line = self.lines.get(timeout=left)
            except queue.Empty:
                continue
            if line is None:
                open_outputs -= 1
            elif wanted(name, line):
                return line
        return None

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()


def says(message: str, **fields):
    """Whether a log line says this, with these fields."""

    def wanted(name: str, line: dict) -> bool:
        said = line.get("fields", {})
        return name == "stderr" and said.get("message") == message and all(
            str(said.get(key)) == value for key, value in fields.items()
        )

    return wanted


def moment(line: dict) -> datetime.datetime:
    return datetime.datetime.fromisoformat(line["timestamp"].replace("Z", "+00:00"))


class Market:
    def __init__(self, programs: pathlib.Path, homes: str) -> None:
        self.programs, self.homes = programs, homes
        listen = ["--listen", "/ip4/127.0.0.1/tcp/0"]
        bootstrap = [str(programs / "sensora-bootstrap"), "--home", f"{homes}/bootstrap", "--dev-chain", "--json"]
        self.bootstrap = Process([*bootstrap, *listen])
        ready = self.bootstrap.wait_for(lambda name, line: line.get("event") == "ready")
        self.meet = ["--bootstrap", ready["addresses"][0]]
        for home in ["machine", "simulated", "buyer"]:
            self.run(home, "init", *self.meet, *listen)
        self.rows = 4 * ROUNDS * ROWS
        self.recording = pathlib.Path(homes, "machine.csv")
        with self.recording.open("w") as out:
            out.write("timestamp,value\n")
            for row in range(self.rows):
                at = datetime.datetime.fromtimestamp(1_600_000_000 + row, datetime.timezone.utc)
                out.write(f"{at:%Y-%m-%dT%H:%M:%SZ},{row * 2654435761 % 2**32 / 1000}\n")
        self.ports = {name: free_port() for name in ["machine", "simulated"]}
        self.agents = {name: self.sell(name) for name in self.ports}
        self.run("buyer", "wallet", "fund", "10000000")
        streams = []
        while len(streams) < 2:
            time.sleep(1)
            streams = json.loads(self.run("buyer", "search"))["streams"]
        self.peers = {stream["name"]: stream["seller"] for stream in streams}
        for name, peer in self.peers.items():
            self.run("buyer", "channels", "open", name, "--seller", peer, "--value", "100000", "--blocks", "900")
        self.next = 0

    def command(self, home: str, *words: str) -> list[str]:
        sensora = [str(self.programs / "sensora"), "--home", f"{self.homes}/{home}", "--network", "regtest"]
        return [*sensora, "--json", "--log", "json", *words]

    def run(self, home: str, *words: str) -> str:
        done = subprocess.run(self.command(home, *words), capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(words)}: {done.stderr}{done.stdout}")
        return done.stdout

    def sell(self, name: str) -> Process:
        source = ["--csv", str(self.recording)] if name == "machine" else ["--sim", "--interval", "20ms"]
        listen = ["--listen", f"/ip4/127.0.0.1/tcp/{self.ports[name]}"]
        terms = ["--name", name, "--price", "0.1", "--anchor-every", "5"]
        agent = Process(self.command(name, "agent", *source, *terms, *listen, *self.meet))
        wanted = self.rows if name == "machine" else 0

        def is_ready(_: str, line: dict) -> bool:
            if line.get("event") == "recorded":
                return line["readings"] >= wanted
            return line.get("event") == "ready" and sum(stream["readings"] for stream in line["streams"]) >= wanted

        agent.wait_for(is_ready)
        return agent

    def buy(self) -> Process:
        """Some of the recording, with many vouchers."""
        words = ["--seller", self.peers["machine"], "--seq", f"{self.next}..{self.next + ROWS}", "--mode", "channel"]
        return Process(self.command("buyer", "buy", "machine", *words, "--exposure", "20"))

    def subscribe(self) -> Process:
        words = ["--seller", self.peers["simulated"], "--budget", "1000", "--exposure", "20"]
        return Process(self.command("buyer", "subscribe", "simulated", *words))

    def round(self, seller: str, start, kills_buyer: bool) -> float | None:
        """Milliseconds from the new connection to the first new reading; nothing where the order was over too soon."""
        buyer = start()
        verified = buyer.wait_for(says("readings are verified"))
        if verified is None:
            return None
        if kills_buyer:
            buyer.kill()
            buyer = start()
        else:
            self.agents[seller].kill()
            self.agents[seller] = self.sell(seller)
        connected = buyer.wait_for(says("a peer is connected", peer=self.peers[seller]))
        fresh = connected and buyer.wait_for(says("readings are verified"))
        if start == self.subscribe:
            buyer.child.terminate()
        buyer.wait_for(lambda *_: False, 120)
        return fresh and (moment(fresh) - moment(connected)).total_seconds() * 1000


def main(folder: str) -> None:
    with tempfile.TemporaryDirectory() as homes:
        market = Market(pathlib.Path(folder), homes)
        for name, seller, start in [
            ("range", "machine", market.buy),
            ("live stream", "simulated", market.subscribe),
        ]:
            for killed in ["seller", "buyer"]:
                took = []
                for _ in range(ROUNDS):
                    took.append(market.round(seller, start, killed == "buyer"))
                    market.next += ROWS
                took = sorted(one for one in took if one is not None)
                label = f"{name}, {killed} killed"
                if not took:
                    print(f"{label:<28} no round came to it")
                    continue
                within = sum(one <= GOAL_MS for one in took)
                print(
                    f"{label:<28} p50 {took[len(took) // 2]:6.1f} ms, most {took[-1]:6.1f} ms, "
                    f"{within} of {len(took)} within {GOAL_MS} ms",
                    flush=True,
                )
        for process in [*market.agents.values(), market.bootstrap]:
            process.kill()


main(sys.argv[1])
