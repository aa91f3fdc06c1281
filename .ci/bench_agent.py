"""Measures the binary `sensora` as a device runs it: its size, how soon it is ready, and what it takes while nothing happens.

An agent sells one simulated sensor (a reading each second) beside a bootstrap node with the development chain, each with a home of
its own in a temporary folder. Called by `.ci/bench`; Linux only, for it reads /proc.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

STARTS = 11
IDLE_SECONDS = int(os.environ.get("SENSORA_IDLE_SECONDS", "60"))


def started(command: list[str]) -> tuple[subprocess.Popen, dict, float]:
    """Starts a node; returns it with its first event and how many milliseconds that took."""
    began = time.perf_counter()
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    line = node.stdout.readline()
    took = (time.perf_counter() - began) * 1000
    if not line:
        sys.exit(f"{command[0]} ended with {node.wait()}")
    event = json.loads(line)
    assert event["event"] == "ready", event
    return node, event, took


def stopped(node: subprocess.Popen) -> None:
    node.terminate()
    node.wait(timeout=20)


def status(pid: int) -> dict[str, int]:
    """Memory in KiB and the number of threads, as the kernel counts them."""
    lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = ["VmHWM", "VmRSS", "RssAnon", "RssFile", "Threads"]
    return {name: int(fields[name].split()[0]) for name in names}


def cpu_seconds(pid: int) -> float:
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def mib(kib: int) -> str:
    return f"{kib / 1024:.1f} MiB"


def main(folder: str) -> None:
    programs = {name: pathlib.Path(folder, name) for name in ["sensora", "sensora-bootstrap"]}
    for name, path in programs.items():
        print(f"{'binary ' + name:<40} {path.stat().st_size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as homes:
        sensora = [str(programs["sensora"]), "--home", f"{homes}/agent", "--network", "regtest", "--json"]
        listen = ["--listen", "/ip4/127.0.0.1/tcp/0"]
        bootstrap, ready, _ = started(
            [str(programs["sensora-bootstrap"]), "--home", f"{homes}/bootstrap", "--dev-chain", "--json", *listen]
        )
        agent = None
        try:
            meet = ["--bootstrap", ready["addresses"][0]]
            subprocess.run([*sensora, "init", *meet], check=True, stdout=subprocess.DEVNULL)
            version = [str(programs["sensora"]), "--version"]
            began = time.perf_counter()
            subprocess.run(version, check=True, stdout=subprocess.DEVNULL)
            print(f"{'sensora --version':<40} {(time.perf_counter() - began) * 1000:.0f} ms")
            command = [*sensora, "agent", "--sim", "--interval", "1s", *listen, *meet]
            times = []
            for _ in range(STARTS):
                if agent:
                    stopped(agent)
                agent, _, took = started(command)
                times.append(took)
            times.sort()
            middle, slowest = times[len(times) // 2], times[-1]
            print(f"{'start until listening and selling':<40} {middle:.0f} ms (median of {STARTS}, slowest {slowest:.0f})")
            time.sleep(30)
            cpu = cpu_seconds(agent.pid)
            time.sleep(IDLE_SECONDS)
            cpu = cpu_seconds(agent.pid) - cpu
            for name, pid in [("agent", agent.pid), ("bootstrap", bootstrap.pid)]:
                now = status(pid)
                print(
                    f"{'idle ' + name:<40} RSS {mib(now['VmRSS'])} (heap and stacks {mib(now['RssAnon'])}, program and "
                    f"libraries {mib(now['RssFile'])}), peak {mib(now['VmHWM'])}, {now['Threads']} threads"
                )
            print(f"{'idle agent, a reading each second':<40} {100 * cpu / IDLE_SECONDS:.2f} % of a core")
        finally:
            if agent:
                stopped(agent)
            stopped(bootstrap)


main(sys.argv[1])
