"""The search for the best tokens, exact and approximate, against all scores."""

import pytest
import torch
import torch.nn.functional as F

from scta_lab.judge import search
from scta_lab.methods.model import LanguageModel

HEADS = [
    {"method": "ce"},
    {"method": "ce", "log_unigram": True},
    {"method": "ce_lowrank"},
    {"method": "ce_lowrank", "log_unigram": True},
    {"method": "semantic", "shared": 5},
    {"method": "semantic_prior", "shared": 5},
    {"method": "sampled_softmax", "shared": 5},
    {"method": "sampled_softmax", "shared": 5, "scores": "dot"},
]


@pytest.mark.parametrize("settings", HEADS, ids=lambda s: "-".join(map(str, s.values())))
def test_exact_search_finds_the_best_scores(tiny, settings):
    torch.manual_seed(0)
    head = LanguageModel(tiny(**settings), torch.arange(300)).head
    hidden = torch.randn(6, 8)
    with torch.no_grad():
        expected = head.scores(hidden).topk(10)
    scores, ids = search.Exact(search.search_space(head)).search(search.query(head, hidden), 10)
    torch.testing.assert_close(scores, expected.values, atol=1e-5, rtol=1e-5)
    assert torch.equal(ids, expected.indices)


@pytest.mark.parametrize(("kind", "effort"), [("HNSW32", 64), ("IVF16,Flat", 8)])
def test_approximate_search_finds_nearly_the_same(tiny, kind, effort):
    pytest.importorskip("faiss", reason='the extra "search" is not installed')
    torch.manual_seed(0)
    head = LanguageModel(tiny("semantic_prior", semantic_dim=8, vocab=2000), torch.arange(2000)).head
    vectors, queries = search.search_space(head), search.query(head, torch.randn(200, 8))
    expected, best = search.Exact(vectors).search(queries, 10)
    scores, ids = search.Approximate(vectors, kind, effort).search(queries, 10)
    recall = (ids.unsqueeze(2) == best.unsqueeze(1)).any(1).double().mean().item()
    assert recall > 0.9
    torch.testing.assert_close(scores[:, 0].median(), expected[:, 0].median(), atol=1e-2, rtol=0)
    least, most = search.compare(vectors, queries, kind, (1, effort))
    assert most["recall@10"] == pytest.approx(recall)
    assert least["recall@10"] < most["recall@10"] <= 1
    assert 0 < most["us"] < 1e6
    assert most["bytes"] > most["exact_bytes"] == vectors.nbytes


def test_an_inverted_index_looks_into_the_lists_that_matter():
    """With the query as short as it is, IVF takes its widest lists for the nearest: 0.72 instead of 0.97."""
    pytest.importorskip("faiss", reason='the extra "search" is not installed')
    torch.manual_seed(0)
    rows = F.normalize(torch.randn(5000, 32), dim=1) / 0.1
    prior = torch.arange(1, 5001).double().reciprocal()
    vectors = torch.cat([rows, (prior / prior.sum()).log().float().unsqueeze(1)], dim=1)
    queries = F.pad(F.normalize(rows[:300] / 10 + 0.05 * torch.randn(300, 32), dim=1), (0, 1), value=1.0)
    best = search.Exact(vectors).search(queries, 1)[1]
    ids = search.Approximate(vectors, "IVF64,Flat", 4).search(queries, 1)[1]
    assert (ids == best).double().mean() > 0.9
