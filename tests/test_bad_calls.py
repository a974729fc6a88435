"""Every public function, called wrongly: the error names the argument, its value and what would be right."""

import re

import pytest
import torch
from conftest import CHAT, LENGTHS, SIZES

import scta_lab
import scta_lite
from scta_lab import decode, evaluate, text
from scta_lab.judge import search
from scta_lab.methods import samplers
from scta_lab.methods.model import LanguageModel
from scta_lite import losses

N, V, d, D, K = 5, 9, 4, 6, 3
SHAPES = {
    "hidden": (N, d),
    "weight": (V, d),
    "query": (N, D),
    "positive": (N, D),
    "negatives": (N, K, D),
    "scores": (N, K),
    "row": (N,),
}
FLOAT = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
TARGET = torch.zeros(N, dtype=torch.long)
SPEC = {"method": "ce", "corpus": "zipf", "device": "cpu", **SIZES, **LENGTHS}


def ce(**wrong):
    given = {"hidden": FLOAT["hidden"], "weight": FLOAT["weight"], "target": TARGET, "chunk": None} | wrong
    return losses.cross_entropy(given.pop("hidden"), given.pop("weight"), given.pop("target"), **given)


def contrastive(**wrong):
    given = {"positive_score": FLOAT["row"], "negative_scores": FLOAT["scores"]} | wrong
    return scta_lite.contrastive_loss(**given)


def semantic(**wrong):
    given = {name: FLOAT[name] for name in ("query", "positive", "negatives")} | wrong
    return scta_lite.semantic_loss(**given)


def table(ids):
    look_up = scta_lite.VocabTable(9, 2)
    scta_lite.RowAdamW([look_up])
    return look_up(ids)


def model():
    return LanguageModel(scta_lab.Spec(**SPEC))


CALLS = [  # the function, a wrong call of it, and how its error begins
    ("cross_entropy", lambda: ce(hidden=torch.zeros(N)), "hidden of shape (5,): expected (N, d)"),
    ("cross_entropy", lambda: ce(hidden=torch.zeros(0, d)), "hidden of shape (0, 4): expected (N, d) with each from 1"),
    ("cross_entropy", lambda: ce(hidden=[[1.0]]), "hidden=[[1.0]]: expected a tensor of shape (N, d)"),
    ("cross_entropy", lambda: ce(hidden=torch.zeros(N, d).long()), "hidden of torch.int64: expected one of torch.float"),
    ("cross_entropy", lambda: ce(weight=torch.zeros(V, 3)), "weight of shape (9, 3): expected (V, d) = (V, 4)"),
    ("cross_entropy", lambda: ce(target=torch.zeros(N, 1).long()), "target of shape (5, 1): expected (N,) = (5,)"),
    ("cross_entropy", lambda: ce(target=torch.zeros(N)), "target of torch.float32: expected one of torch.int64"),
    ("cross_entropy", lambda: ce(chunk=0), "chunk=0: expected an integer from 1 up"),
    ("cross_entropy", lambda: ce(chunk=2.5), "chunk=2.5: expected an integer from 1 up"),
    ("contrastive_loss", lambda: contrastive(positive_score=torch.zeros(N, 1)), "positive_score of shape (5, 1): expect"),
    ("contrastive_loss", lambda: contrastive(positive_score=torch.zeros(0)), "positive_score of shape (0,): expected (N,)"),
    ("contrastive_loss", lambda: contrastive(negative_scores=torch.zeros(1, K)), "negative_scores of shape (1, 3): expec"),
    ("contrastive_loss", lambda: contrastive(negative_scores=torch.zeros(N, 0)), "negative_scores of shape (5, 0): expec"),
    ("contrastive_loss", lambda: contrastive(log_q=FLOAT["row"]), "log_q of type Tensor: expected a pair, of the posi"),
    ("contrastive_loss", lambda: contrastive(log_q=(FLOAT["row"], torch.zeros(N))), "log_q[1] of shape (5,): expected (K,)"),
    ("contrastive_loss", lambda: contrastive(hits=torch.zeros(N, K)), "hits of torch.float32: expected one of torch.bool"),
    ("contrastive_loss", lambda: contrastive(hits=torch.zeros(N).bool()), "hits of shape (5,): expected (N, K) = (5, 3)"),
    ("semantic_loss", lambda: semantic(positive=torch.zeros(N, 1)), "positive of shape (5, 1): expected (N, D) = (5, 6)"),
    ("semantic_loss", lambda: semantic(positive=torch.zeros(1, D)), "positive of shape (1, 6): expected (N, D) = (5, 6)"),
    ("semantic_loss", lambda: semantic(positive=torch.zeros(N, 2)), "positive of shape (5, 2): expected (N, D) = (5, 6)"),
    ("semantic_loss", lambda: semantic(negatives=torch.zeros(N, K, 7)), "negatives of shape (5, 3, 7): expected (N, K, D)"),
    ("semantic_loss", lambda: semantic(negatives=torch.zeros(2, K, D)), "negatives of shape (2, 3, 6): expected (N, K, D)"),
    ("semantic_loss", lambda: semantic(negatives=torch.zeros(8, 7)), "negatives of shape (8, 7): expected (S, D) = (S, 6)"),
    ("semantic_loss", lambda: semantic(negatives=torch.zeros(N, 0, D)), "negatives of shape (5, 0, 6): expected (N, K, D)"),
    ("semantic_loss", lambda: semantic(query=torch.zeros(0, D)), "query of shape (0, 6): expected (N, D) with each from 1"),
    ("semantic_loss", lambda: semantic(temperature=0), "temperature=0: expected a finite number above 0"),
    ("semantic_loss", lambda: semantic(temperature=-1.0), "temperature=-1.0: expected a finite number above 0"),
    ("semantic_loss", lambda: semantic(temperature=float("nan")), "temperature=nan: expected a finite number above 0"),
    ("cosines", lambda: losses.cosines(FLOAT["query"], FLOAT["row"]), "vectors of shape (5,): expected (S, D) = (S, 6)"),
    ("uniform", lambda: losses.uniform((3,), 0), "vocab=0: expected an integer from 1 up"),
    ("log_uniform", lambda: losses.log_uniform((3,), 2.5), "vocab=2.5: expected an integer from 1 up"),
    ("weighted", lambda: samplers.weighted((3,), torch.zeros(2, 2)), "cumulative of shape (2, 2): expected (V,)"),
    ("log_unigram", lambda: samplers.log_unigram(torch.zeros(0)), "counts of shape (0,): expected (V,) with each from 1"),
    ("log_q", lambda: samplers.log_q("zipf", torch.ones(3)), "sampler='zipf': expected one of uniform, log_uniform, unig"),
    ("VocabTable", lambda: scta_lite.VocabTable(0, 4), "rows=0: expected an integer from 1 up"),
    ("VocabTable", lambda: table(torch.tensor([1.5])), "ids of torch.float32: expected one of torch.int64, torch.int32"),
    ("VocabTable", lambda: table(torch.tensor([True])), "ids of torch.bool: expected one of torch.int64, torch.int32"),
    ("VocabTable", lambda: table([1]), "ids=[1]: expected a tensor of any shape"),
    ("VocabTable", lambda: scta_lite.VocabTable.from_embedding(torch.nn.Embedding(3, 2, padding_idx=0)),
     "embedding.padding_idx=0: expected an embedding without it"),
    ("RowAdamW", lambda: scta_lite.RowAdamW(scta_lite.VocabTable(3, 2)), "tables=VocabTable: expected a list of VocabTables"),
    ("RowAdamW", lambda: scta_lite.RowAdamW([torch.nn.Embedding(3, 2)]), "tables of type Embedding: expected VocabTables"),
    ("RowAdamW", lambda: scta_lite.RowAdamW([scta_lite.VocabTable(3, 2)], lr=-1.0), "lr=-1.0: expected a finite number"),
    ("Spec", lambda: scta_lab.Spec(method="ce", vocab=0), "vocab=0: expected an integer from 2 up"),
    ("grid", lambda: scta_lab.grid(vocab=[], method="ce"), "vocab=[]: expected at least one value"),
    ("train", lambda: scta_lab.train(scta_lab.Spec(**SPEC | {"device": "tpu"})), "device='tpu': expected"),
    ("train", lambda: scta_lab.train(scta_lab.Spec(**SPEC | {"device": "cuda0"})), "device='cuda0': expected"),
    ("train", lambda: scta_lab.train("ce"), "spec='ce': expected a Spec"),
    ("train", lambda: scta_lite.train("ce"), "spec='ce': expected a Spec"),
    ("train", lambda: scta_lite.train(scta_lite.Spec(method="ce", vocab=9, device="tpu")), "device='tpu': expected"),
    ("load_runs", lambda: scta_lite.load_runs("no/such"), "folder='no/such': no runs (*.json) are here"),
    ("sweep", lambda: scta_lite.sweep(["ce"], "runs"), "specs[0]='ce': expected a Spec"),
    ("sweep", lambda: scta_lab.sweep(["ce"], "runs"), "specs[0]='ce': expected a Spec"),
    ("load", lambda: scta_lab.load("no/such"), "run_id=None: expected one of [], the runs in no/such"),
    ("load_runs", lambda: scta_lab.load_runs("no/such"), "folder='no/such': no runs (*.json) are here"),
    ("text.load", lambda: text.load("no/such.json"), "corpus='no/such.json': no such file"),
    ("text.load", lambda: text.load(str(CHAT)).vocabulary(10**7), "vocab=10000000: expected at most"),
    ("text.sharegpt", lambda: next(text.sharegpt("no/such.json")), "corpus='no/such.json': no such file"),
    ("text.examples", lambda: text.examples(torch.zeros(9).numpy(), 0), "seq_len=0: expected an integer from 1 up"),
    ("evaluate.metrics", lambda: evaluate.metrics(model(), torch.zeros(9).long()), "ids of shape (9,): expected (n, T)"),
    ("evaluate.metrics", lambda: evaluate.metrics(model(), torch.zeros(2, 9)), "ids of torch.float32: expected one of"),
    ("evaluate.metrics", lambda: evaluate.metrics(model(), torch.zeros(2, 9).long(), lengths=torch.ones(4)),
     "lengths of shape (4,): expected (2, V) = (2, 300)"),
    ("evaluate.metrics", lambda: evaluate.metrics(model(), torch.zeros(2, 9).long(), scale=0), "scale=0: expected a fin"),
    ("decode.generate", lambda: decode.generate(model(), torch.zeros(0).long()), "prompt of shape (0,): expected (T,)"),
    ("decode.generate", lambda: decode.generate(model(), torch.zeros(3).long(), top_p=2), "top_p=2: expected above 0"),
    ("search.Exact", lambda: search.Exact(torch.zeros(9)), "vectors of shape (9,): expected (V, F)"),
    ("search.Exact", lambda: search.Exact(torch.zeros(9, 2)).search(torch.zeros(3, 2), 10), "k=10: expected an integer f"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "call", "message"), CALLS, ids=[f"{name}: {message}" for name, _, message in CALLS])
def test_bad_calls_are_told(name, call, message):
    with pytest.raises((ValueError, OSError), match=f"^{re.escape(message)}") as error:
        call()
    assert "\n" not in str(error.value)


def test_every_public_function_is_in_the_table():
    nothing_to_give = {"Result", "published_runs", "published_epoch_losses"}
    for package in (scta_lite, scta_lab):
        public = {name for name in package.__all__ if callable(getattr(package, name))} - nothing_to_give
        assert public - {"PAPER"} <= {name for name, *_ in CALLS}
