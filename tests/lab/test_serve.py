"""examples/serve: what is served is what the model would say, and a bad question is told."""

import sys
from contextlib import nullcontext

import pytest
import torch
from fastapi.testclient import TestClient

from scta_lab import Spec, text, train
from scta_lab.base.files import ROOT
from scta_lab.judge import search

sys.path.insert(0, str(ROOT / "examples" / "serve"))
import bench
import export
import serve

TINY = {
    "corpus": str(ROOT / "tests" / "chat.json"),
    "vocab": 400,
    "hidden": 16,
    "semantic_dim": 16,
    "examples": 64,
    "seq_len": 16,
    "steps": 4,
}
PROMPT = "What is the"


def exported(tmp_path, kind="HNSW32", **changes):
    result = train(Spec(**TINY | changes))
    result.save(tmp_path / "runs")
    export.export(tmp_path / "runs", tmp_path / "served", kind=kind, corpus=(TINY | changes)["corpus"])
    return result, TestClient(serve.app(tmp_path / "served"))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("HNSW32", {"method": "semantic_prior", "optimizer": "rows"}),
        ("HNSW32", {"method": "semantic", "input_dim": 8}),
        ("IVF4,Flat", {"method": "ce"}),
    ],
)
def test_the_model_s_own_best_tokens(tmp_path, kind, changes):
    result, client = exported(tmp_path, kind, **changes)
    vocabulary = text.load(TINY["corpus"]).vocabulary(TINY["vocab"])
    with torch.no_grad():
        hidden, _ = result.model.advance(torch.from_numpy(vocabulary.encode(PROMPT)).long().view(1, -1))
        scores, ids = search.Exact(search.search_space(result.model.head)).search(
            search.query(result.model.head, hidden), 5
        )
    answer = client.post("/next", json={"text": PROMPT, "k": 5})
    assert answer.status_code == 200
    assert [token["id"] for token in answer.json()] == ids[0].tolist()
    assert [token["text"] for token in answer.json()] == [vocabulary.decode([i]) for i in ids[0].tolist()]
    assert [token["score"] for token in answer.json()] == pytest.approx(scores[0].tolist(), abs=2e-3)
    assert client.get("/").json()["vocab"] == TINY["vocab"]
    files = {path.name for path in (tmp_path / "served").iterdir()}
    assert files == {
        "index.faiss",
        "words.json",
        "phrases.npy",
        "config.json",
        f"{result.run_id}.json",
        f"{result.run_id}.safetensors",
    }


def test_a_bad_question_is_told(tmp_path):
    _, client = exported(tmp_path, method="semantic")
    for asked, where in (
        ({"text": ""}, "text"),
        ({"text": "a" * 2_001}, "text"),
        ({"text": "a", "k": 0}, "k"),
        ({}, "text"),
    ):
        answer = client.post("/next", json=asked)
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["body", where]
    assert client.post("/next", content=b" " * 40_000).status_code == 413
    assert client.post("/next", content=iter([b"{}"])).status_code == 413  # chunked: of any size
    assert "8,000 tokens" in client.post("/next", json={"text": "\U0001f9ff" * 2_000}).json()["detail"]
    answer = client.post("/next", content=b'{"text": "a\\ud800"}', headers={"content-type": "application/json"})
    assert answer.status_code == 422


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"method": "ce", "backbone": "transformer"}, "backbone='transformer': expected 'gru'"),
        ({"method": "adaptive"}, "method='adaptive': expected one with a vector for each token"),
        ({"method": "ce", "corpus": "zipf"}, "corpus='zipf': expected a text"),
    ],
)
def test_what_cannot_be_served_is_told(tmp_path, changes, error):
    with pytest.raises(ValueError, match=error):
        exported(tmp_path, **changes)


def test_a_run_without_its_model_is_told(tmp_path):
    result = train(Spec(method="semantic", **TINY))
    result.model = None
    result.save(tmp_path / "runs")
    with pytest.raises(ValueError, match=r"model=None: expected .*\.safetensors beside the run"):
        export.export(tmp_path / "runs", tmp_path / "served")


def test_another_text_is_told(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("\n\n".join(f"Not what it was trained on, {i}. " * 50 for i in range(40)))
    train(Spec(method="semantic", **TINY)).save(tmp_path / "runs")
    with pytest.raises(ValueError, match=r"not as the run read it; expected the text 'chat\.json'"):
        export.export(tmp_path / "runs", tmp_path / "served", corpus=str(other))


def test_bench_counts_answers(tmp_path, monkeypatch):
    _, client = exported(tmp_path, method="semantic")
    monkeypatch.setattr(bench.httpx2, "Client", lambda base_url: nullcontext(client))
    times = bench.measure("", PROMPT, 3, clients=1, seconds=0.3)
    assert times["requests"] > 1
    assert 0 < times["p50_ms"] <= times["p99_ms"]
