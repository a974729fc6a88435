"""Latency and requests a second of a running server.

python examples/serve/bench.py --text "The model is"
"""

import argparse
import json
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter

import httpx2
import numpy as np


def measure(url: str, text: str, k: int, clients: int, seconds: float) -> dict:
    """Milliseconds of an answer, and answers a second.

    `clients` at a time ask again as soon as they are answered.
    """
    began = perf_counter()
    end = began + seconds

    def ask(_: int) -> list[float]:
        latencies = []
        with httpx2.Client(base_url=url) as client:
            while perf_counter() < end:
                asked = perf_counter()
                client.post("/next", json={"text": text, "k": k}).raise_for_status()
                latencies.append(1e3 * (perf_counter() - asked))
        return latencies

    with ThreadPoolExecutor(clients) as pool:
        latencies = np.concatenate(list(pool.map(ask, range(clients))))
    p50, p99 = np.percentile(latencies, [50, 99])
    rate = len(latencies) / (perf_counter() - began)
    counts = {"clients": clients, "requests": len(latencies)}
    return {**counts, "p50_ms": p50, "p99_ms": p99, "requests_per_s": rate}


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--text", default="The model is")
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    for clients in options.clients:
        times = measure(options.url, options.text, options.k, clients, options.seconds)
        print(json.dumps(times))


if __name__ == "__main__":
    main()
