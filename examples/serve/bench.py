"""Latency and requests a second of a running server: `python examples/serve/bench.py --text "The model is"`."""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import httpx2
import numpy as np


def measure(url: str, text: str, k: int, clients: int, seconds: float) -> dict:
    """`clients` at a time ask again as soon as they are answered; milliseconds of an answer, and answers a second."""

    def ask(_: int) -> list[float]:
        with httpx2.Client(base_url=url) as client:
            took = []
            while perf_counter() < end:
                began = perf_counter()
                client.post("/next", json={"text": text, "k": k}).raise_for_status()
                took.append(1e3 * (perf_counter() - began))
        return took

    began, end = perf_counter(), perf_counter() + seconds
    with ThreadPoolExecutor(clients) as pool:
        took = np.concatenate(list(pool.map(ask, range(clients))))
    p50, p99 = np.percentile(took, [50, 99])
    return {"clients": clients, "requests": len(took), "p50_ms": p50, "p99_ms": p99,
            "requests_per_s": len(took) / (perf_counter() - began)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--text", default="The model is")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=20)
    asked = parser.parse_args()
    for clients in asked.clients:
        print(json.dumps(measure(asked.url, asked.text, asked.k, clients, asked.seconds)))


if __name__ == "__main__":
    main()
