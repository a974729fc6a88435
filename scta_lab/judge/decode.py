"""The paper's third stage, and what comes before a token is chosen: from hidden states to tokens.

`generate` writes token after token, a step of the backbone for each. `Exact` and `Approximate` find the tokens with the
highest scores without a softmax over them: a head's scores are products of a query with a vector for each token, so
this is a search for the largest inner product. Left out: beam search, and batches of prompts.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import perf_counter

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from scta_lab.methods.heads import CEHead, LowRankCEHead, TokenHead
from scta_lab.methods.model import LanguageModel
from scta_lab.text.vocabulary import Vocabulary
from scta_lite import checks
from scta_lite.timing import finish


def generate(
    model: LanguageModel,
    prompt: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generator | None = None,
) -> Iterator[int]:
    """Yields the ids that follow the prompt (T,), for ever; the state is carried over, so each costs one step.

    A GRU's state stays as large as it is; a Transformer's, its key–value cache, grows with each token.

    `temperature` divides the scores before the softmax; 0 always takes the best (greedy). `top_k` keeps the k best
    tokens, `top_p` the fewest best ones that hold this much of the probability (Holtzman et al. 2020).

    ValueError for an empty prompt, or an argument out of its range.
    """
    if prompt.dim() != 1 or not len(prompt):
        raise ValueError(f"prompt of shape {tuple(prompt.shape)}: expected (T,) with T from 1 up")
    for name, value, fits, expected in (
        ("temperature", temperature, temperature >= 0, "a number from 0 up"),
        ("top_k", top_k, top_k is None or (isinstance(top_k, int) and top_k >= 1), "an integer from 1 up"),
        ("top_p", top_p, top_p is None or 0 < top_p <= 1, "above 0, at most 1"),
    ):
        if not fits:
            raise ValueError(f"{name}={value!r}: expected {expected}")
    return _generate(model, prompt.view(1, -1), lambda scores: _choose(scores, temperature, top_k, top_p, generator))


def _generate(model: LanguageModel, ids: Tensor, choose: Callable[[Tensor], Tensor]) -> Iterator[int]:
    state = None
    while True:
        with torch.no_grad():
            hidden, state = model.advance(ids, state)
            scores = model.head.scores(hidden)[0].float()  # (V,)
        ids = choose(scores).view(1, 1)
        yield ids.item()


def write(model: LanguageModel, vocabulary: Vocabulary, prompt: str, tokens: int, **how) -> Iterator[str]:
    """Yields the prompt, then `tokens` pieces of text that follow it, one after another; `how` as for `generate`.

    A piece may be empty: bytes wait until they are a character. ValueError for an empty prompt, or a vocabulary of
    another size than the model's.
    """
    if len(vocabulary) != model.vocab:
        raise ValueError(f"vocabulary of {len(vocabulary):,} entries: expected the model's, V = {model.vocab:,}")
    ids = torch.from_numpy(vocabulary.encode(prompt)).long().to(model.device)
    characters = getincrementaldecoder("utf-8")(errors="replace")
    yield prompt
    for i in islice(generate(model, ids, **how), tokens):
        yield characters.decode(vocabulary.token(i))
    if unfinished := characters.decode(b"", final=True):
        yield unfinished


def _choose(
    scores: Tensor, temperature: float, top_k: int | None, top_p: float | None, generator: Generator | None
) -> Tensor:
    """One id, drawn from the softmax of the scores (V,) that are left."""
    if temperature == 0:
        return scores.argmax()
    scores, order = scores.sort(descending=True)
    scores = (scores[:top_k] - scores[0]) / temperature  # at most 0, so that no temperature overflows
    p = scores.softmax(0)
    if top_p is not None:
        p = p.where(p.cumsum(0) - p < top_p, 0.0)  # what comes before a token does not yet hold top_p
    return order[torch.multinomial(p, 1, generator=generator)]


@torch.no_grad()
def search_space(head: LowRankCEHead | TokenHead | CEHead) -> Tensor:
    """A vector for each token, (V, F), whose inner product with `query(head, hidden)` is its score.

    Of a semantic head the unit rows over τ, [e/τ]. Where log u is added to the scores, as with a prior, [e/τ, log u]:
    then the best token is not the one nearest to z.
    """
    vectors, bias = head.vectors(), head.bias()
    return vectors if bias is None else torch.cat([vectors, bias.unsqueeze(1)], dim=1)


@torch.no_grad()
def query(head: LowRankCEHead | TokenHead | CEHead, hidden: Tensor) -> Tensor:
    """What is searched for, (N, F), from hidden states (N, d)."""
    x = head.query(hidden)
    return x if head.bias() is None else F.pad(x, (0, 1), value=1.0)


class Exact:
    """The largest inner products with vectors (V, F), all of them computed: N V numbers at a time."""

    def __init__(self, vectors: Tensor):
        checks.shape("vectors", vectors, "V F")
        self.vectors = vectors

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores (N, k), falling, and ids (N, k), of queries (N, F); k at most V."""
        checks.shape("queries", queries, "N F", F=self.vectors.shape[1])
        checks.integer("k", k, 1)
        if k > len(self.vectors):
            raise ValueError(f"k={k}: expected an integer from 1 to V = {len(self.vectors)}")
        return (queries @ self.vectors.T).topk(k)


class Approximate:
    """faiss's index over vectors (V, F), made once; `kind` is its factory's string, "HNSW32" or "IVF1024,Flat".

    A vector x is stored as [x, √(M² - ‖x‖²)], M the largest length, and searched for with [q, 0]: among these, all of
    length M, the nearest is the one with the largest inner product (Bachrach et al. 2014), as faiss's graphs need it.
    The query is stretched to length M. That changes no order among the stored, but IVF's choice among its lists, whose
    centres are shorter the more they spread: to a short query the widest list would be the nearest.
    `effort`: the candidates kept in HNSW's search, or the lists that IVF looks into.
    """

    def __init__(self, vectors: Tensor, kind: str = "HNSW32", effort: int = 64):
        import faiss  # only here: the extra "search" brings it

        self.kind = kind
        lengths = vectors.square().sum(1)
        last = (lengths.max() - lengths).clamp_min(0).sqrt()
        rows = torch.cat([vectors, last.unsqueeze(1)], dim=1).contiguous().numpy(force=True)
        self.index = faiss.index_factory(rows.shape[1], kind)
        self.index.train(rows)
        self.index.add(rows)
        self.longest = lengths.max()
        self.set_effort(effort)

    def set_effort(self, effort: int) -> None:
        """Sets `efSearch` or `nprobe`."""
        import faiss

        name = "efSearch" if "HNSW" in self.kind else "nprobe"
        faiss.ParameterSpace().set_index_parameter(self.index, name, effort)

    def search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Scores (N, k), falling, and ids (N, k), of queries (N, F); an id of -1 stands where none was found."""
        stretch = (self.longest / queries.square().sum(1, keepdim=True).clamp_min(1e-12)).sqrt()
        squares, ids = self.index.search(F.pad(stretch * queries, (0, 1)).numpy(force=True), k)
        squares, ids = (torch.from_numpy(x).to(queries.device) for x in (squares, ids))
        return (self.longest - squares / 2) / stretch, ids  # |s q - x|² = M² + M² - 2 s q·x

    def nbytes(self) -> int:
        """Bytes of the index as it would be written to a file."""
        import faiss

        return faiss.serialize_index(self.index).nbytes


def compare(vectors: Tensor, queries: Tensor, kind: str, effort: Iterable[int], k: int = 10) -> list[dict]:
    """What an approximate search gives up and gains against the exact one, on one thread, a query at a time.

    A row for each effort: `recall@1` and `recall@k`, the share of the exact search's best and k best that were found;
    median microseconds of a search, `us`, and of the exact one, `exact_us`; `bytes` of the index, `exact_bytes` of the
    vectors; `build_s`, seconds to build it, on all threads.
    """
    import faiss

    began = perf_counter()
    approximate, exact = Approximate(vectors, kind), Exact(vectors)
    built, threads = perf_counter() - began, (torch.get_num_threads(), faiss.omp_get_max_threads())
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    try:
        wanted, exact_us = _one_by_one(exact, queries, k)
        found = []
        for e in effort:
            approximate.set_effort(e)
            ids, us = _one_by_one(approximate, queries, k)
            shared = (ids.unsqueeze(2) == wanted.unsqueeze(1)).any(2)  # (N, k): what was found is wanted
            found.append({"kind": kind, "effort": e, "recall@1": (ids[:, 0] == wanted[:, 0]).double().mean().item(),
                          f"recall@{k}": shared.double().mean().item(), "us": us, "exact_us": exact_us,
                          "bytes": approximate.nbytes(), "exact_bytes": vectors.nbytes, "build_s": built})  # fmt: skip
        return found
    finally:
        torch.set_num_threads(threads[0])
        faiss.omp_set_num_threads(threads[1])


def _one_by_one(index: Exact | Approximate, queries: Tensor, k: int) -> tuple[Tensor, float]:
    """Ids (N, k) found for queries (N, F), and the median microseconds of a search."""
    ids, times = [], []
    for q in queries.split(1):
        finish(queries.device)
        began = perf_counter()
        ids.append(index.search(q, k)[1])
        finish(queries.device)
        times.append(perf_counter() - began)
    return torch.cat(ids), 1e6 * float(np.median(times))
