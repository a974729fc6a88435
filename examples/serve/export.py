"""Makes of a stored run what a server needs: `python examples/serve/export.py RUNS --out FOLDER`.

The folder holds

step.pt2        torch.export's program of one step: ids (B,) and the GRU's state (B, d) to queries
                (B, F), and its next state
index.faiss     the index of a vector for each token: finds the highest scores for a query
vocabulary.npz  words and phrases, to turn text into ids and back
config.json     the sizes, and what the index needs to turn its distances into scores
<run id>.json, <run id>.safetensors   the run and its weights, as they were trained
"""

import argparse
import json
import shutil
from pathlib import Path

import faiss
import numpy as np
import torch
from torch import Tensor, nn

from scta_lab import Result, load, text
from scta_lab.base.files import writable
from scta_lab.judge import search
from scta_lab.methods.model import LanguageModel
from scta_lite import VocabTable


class Step(nn.Module):
    """What the model does with one more token; `search.search_space` holds what it looks for."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        is_table = isinstance(model.embed, VocabTable)
        self.embed = model.embed.to_embedding() if is_table else model.embed
        self.widen, self.head, gru = model.widen, model.head, model.backbone
        weights = {name.removesuffix("_l0"): x for name, x in gru.state_dict().items()}
        self.cell = nn.GRUCell(gru.input_size, gru.hidden_size)  # a GRU for one token
        self.cell.load_state_dict(weights)

    def forward(self, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(self.widen(self.embed(ids)), state)
        return search.query(self.head, state), state


def export(runs: Path, out: Path, run_id: str = "", kind: str = "HNSW32", corpus: str = "") -> None:
    """Writes the folder; `corpus` is the path of the run's text, of which its file has the name.

    ValueError for a run without its model, of a Transformer, without a text, or of another text.
    """
    result = load(runs, run_id or None)
    check(result)
    spec, model = result.spec, result.model
    path = corpus or spec.corpus
    source = text.load(path, max_characters=spec.max_characters)
    if source.fingerprint != result.fingerprint:
        expected = f"expected the text {spec.corpus!r} as it was then"
        raise ValueError(f"corpus={path!r}: not as the run read it; {expected}")
    writable(out)
    torch.export.save(step_program(model), out / "step.pt2")
    vectors = search.search_space(model.head)  # (V, F)
    index = search.Approximate(vectors, kind)
    faiss.write_index(index.index, str(out / "index.faiss"))
    vocabulary = source.vocabulary(spec.vocab)
    words = np.array(list(vocabulary.words), dtype=str)
    np.savez_compressed(out / "vocabulary.npz", words=words, phrases=vocabulary.phrases)
    config = {"run_id": result.run_id, "vocab": spec.vocab, "hidden": spec.hidden}
    config |= {"query": vectors.shape[1], "index": kind, "longest": index.longest.item()}
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for suffix in (".json", ".safetensors"):
        shutil.copy(runs / f"{result.run_id}{suffix}", out)


def check(result: Result) -> None:
    """ValueError for a run that cannot be served."""
    spec, model = result.spec, result.model
    if model is None:
        raise ValueError(f"model=None: expected {result.run_id}.safetensors beside the run")
    if spec.backbone != "gru":
        expected = "expected 'gru', whose state does not grow with the text"
        raise ValueError(f"backbone={spec.backbone!r}: {expected}")
    if spec.corpus == "zipf":
        raise ValueError("corpus='zipf': expected a text, as a server is asked in words")
    if not hasattr(model.head, "vectors"):
        raise ValueError(f"method={spec.method!r}: expected one with a vector for each token")


def step_program(model: LanguageModel) -> torch.export.ExportedProgram:
    """The program of a `Step`, for any number B of texts at a time."""
    step = Step(model.eval()).requires_grad_(False)
    ids = torch.zeros(2).long()
    state = torch.zeros(2, model.backbone.hidden_size)
    batch = torch.export.Dim("batch")
    with torch.no_grad():  # else a change to it within the step would be part of the program
        return torch.export.export(step, (ids, state), dynamic_shapes=({0: batch}, {0: batch}))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    add = parser.add_argument
    add("runs", type=Path, help="the folder that a training was written to")
    add("--run-id", default="", help="which of its runs, where there are several")
    add("--out", type=Path, required=True, help="the folder to write")
    add("--index", default="HNSW32", help='of faiss: "HNSW32" or "IVF1024,Flat"')
    add("--corpus", default="", help="path of the run's text, if it was not the installed one")
    options = parser.parse_args()
    try:
        export(options.runs, options.out, options.run_id, options.index, options.corpus)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(options.out)


if __name__ == "__main__":
    main()
