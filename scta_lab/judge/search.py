"""The tokens with the highest scores, found without a softmax over all tokens.

A head's scores are products of a query with a vector for each token, so this is a search for the
largest inner product: `Exact`, or `Approximate` by an index of faiss.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from scta_lite import checks
from scta_lite.timing import finish
from torch import Tensor

from scta_lab.methods.heads import Head, append_bias, append_one

Found = tuple[Tensor, Tensor]  # scores (N, k), falling, and ids (N, k)


@torch.no_grad()
def search_space(head: Head) -> Tensor:
    """A vector for each token, (V, F), whose inner product with `query(head, hidden)` is its score.

    Of a semantic head the unit rows over τ, [e/τ]. Where log u is added to the scores, as with a
    prior, [e/τ, log u]: then the best token is not the one nearest to z.
    """
    vectors, bias = head.vectors(), head.bias()
    return vectors if bias is None else append_bias(vectors, bias)


@torch.no_grad()
def query(head: Head, hidden: Tensor) -> Tensor:
    """What is searched for, (N, F), from hidden states (N, d)."""
    x = head.query(hidden)
    return x if head.bias() is None else append_one(x)


class Exact:
    """The largest inner products with vectors (V, F); all are computed, N V numbers at a time."""

    def __init__(self, vectors: Tensor):
        checks.shape("vectors", vectors, "V F")
        self.vectors = vectors

    def search(self, queries: Tensor, k: int) -> Found:
        """Scores (N, k), falling, and ids (N, k), of queries (N, F); k at most V."""
        V, width = self.vectors.shape
        checks.shape("queries", queries, "N F", F=width)
        checks.integer("k", k, 1)
        if k > V:
            raise ValueError(f"k={k}: expected an integer from 1 to V = {V}")
        return (queries @ self.vectors.T).topk(k)


class Approximate:
    """faiss's index over vectors (V, F), made once.

    `kind` is its factory's string, "HNSW32" or "IVF1024,Flat". `effort`: the candidates kept in
    HNSW's search, or the lists that IVF looks into.

    A vector x is stored as [x, √(M² - ‖x‖²)], M the largest length, and searched for with [q, 0].
    Among these, all of length M, the nearest is the one with the largest inner product (Bachrach et
    al. 2014), as faiss's graphs need it. The query is stretched to length M. That changes no order
    among the stored, but IVF's choice among its lists, whose centres are shorter the more they
    spread: to a short query the widest list would be the nearest.
    """

    def __init__(self, vectors: Tensor, kind: str = "HNSW32", effort: int = 64):
        import faiss  # only here: the extra "search" brings it

        self.kind = kind
        squares = vectors.square().sum(1)  # (V,), ‖x‖²
        self.longest = squares.max()  # M²
        last = (self.longest - squares).clamp_min(0).sqrt()
        rows = append_bias(vectors, last).contiguous().numpy(force=True)  # (V, F + 1)
        self.index = faiss.index_factory(rows.shape[1], kind)
        self.index.train(rows)
        self.index.add(rows)
        self.set_effort(effort)

    def set_effort(self, effort: int) -> None:
        """Sets `efSearch` or `nprobe`."""
        import faiss

        name = "efSearch" if "HNSW" in self.kind else "nprobe"
        faiss.ParameterSpace().set_index_parameter(self.index, name, effort)

    def search(self, queries: Tensor, k: int) -> Found:
        """As `Exact.search`; an id of -1 stands where none was found."""
        squares = queries.square().sum(1, keepdim=True).clamp_min(1e-12)  # (N, 1), |q|²
        stretch = (self.longest / squares).sqrt()  # s = M / |q|
        padded = F.pad(stretch * queries, (0, 1))  # (N, F + 1)
        distances, ids = self.index.search(padded.numpy(force=True), k)
        distances = torch.from_numpy(distances).to(queries.device)  # |s q - x|² = 2 M² - 2 s q·x
        scores = (self.longest - distances / 2) / stretch
        return scores, torch.from_numpy(ids).to(queries.device)

    def nbytes(self) -> int:
        """Bytes of the index as it would be written to a file."""
        import faiss

        return faiss.serialize_index(self.index).nbytes


def compare(
    vectors: Tensor,
    queries: Tensor,
    kind: str,
    effort: Iterable[int],
    k: int = 10,
) -> list[dict]:
    """What an approximate search gives up and gains against the exact one.

    On one thread, a query at a time. A row for each effort: `recall@1` and `recall@k`, the share of
    the exact search's best and k best that were found; `us` and `exact_us`, median microseconds of
    a search and of an exact one; `bytes` of the index, `exact_bytes` of the vectors; `build_s`,
    seconds to build the index, on all threads.
    """
    began = perf_counter()
    index = Approximate(vectors, kind)
    build_s = perf_counter() - began
    rows = []
    with _one_thread():
        exact_ids, exact_us = _one_by_one(Exact(vectors), queries, k)
        for value in effort:
            index.set_effort(value)
            ids, us = _one_by_one(index, queries, k)
            best = ids[:, 0] == exact_ids[:, 0]  # (N,)
            among = (ids.unsqueeze(2) == exact_ids.unsqueeze(1)).any(2)  # (N, k)
            row = {"kind": kind, "effort": value}
            row["recall@1"] = best.double().mean().item()
            row[f"recall@{k}"] = among.double().mean().item()
            row |= {"us": us, "exact_us": exact_us}
            row |= {"bytes": index.nbytes(), "exact_bytes": vectors.nbytes, "build_s": build_s}
            rows.append(row)
    return rows


@contextmanager
def _one_thread() -> Iterator[None]:
    """For its time torch and faiss use one thread each."""
    import faiss

    of_torch, of_faiss = torch.get_num_threads(), faiss.omp_get_max_threads()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(of_torch)
        faiss.omp_set_num_threads(of_faiss)


def _one_by_one(index: Exact | Approximate, queries: Tensor, k: int) -> tuple[Tensor, float]:
    """Ids (N, k) for queries (N, F), and the median microseconds of a search."""
    ids, times = [], []
    for q in queries.split(1):
        finish(queries.device)
        began = perf_counter()
        ids.append(index.search(q, k)[1])
        finish(queries.device)
        times.append(perf_counter() - began)
    return torch.cat(ids), 1e6 * float(np.median(times))
