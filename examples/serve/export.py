"""Makes of a stored run what a server needs: `python examples/serve/export.py RUNS --out FOLDER`. The folder holds

step.pt2        torch.export's program of one step: ids (B,) and the GRU's state (B, d) to queries (B, F), and its next
index.faiss     the index of a vector for each token, which finds those with the highest scores for a query
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

from scta_lab import load, text
from scta_lab.base.files import writable
from scta_lab.judge import search
from scta_lab.methods.model import LanguageModel
from scta_lite import VocabTable


class Step(nn.Module):
    """What the model does with one more token; `search.search_space` holds what its queries are searched in."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        self.embed = model.embed.to_embedding() if isinstance(model.embed, VocabTable) else model.embed
        self.widen, self.head = model.widen, model.head
        self.cell = nn.GRUCell(model.backbone.input_size, model.backbone.hidden_size)  # a GRU for one token
        self.cell.load_state_dict({name.removesuffix("_l0"): x for name, x in model.backbone.state_dict().items()})

    def forward(self, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(self.widen(self.embed(ids)), state)
        return search.query(self.head, state), state


def export(runs: Path, out: Path, run_id: str | None = None, kind: str = "HNSW32", corpus: str | None = None) -> None:
    """Writes the folder; `corpus` is the path of the run's text, of which its file has the name alone.

    ValueError for a run without its model, of a Transformer, without a text, or of another text.
    """
    result = load(runs, run_id)
    spec, model = result.spec, result.model
    for name, found, fits, expected in (
        ("model", None, model is not None, f"{result.run_id}.safetensors beside the run"),
        ("backbone", spec.backbone, spec.backbone == "gru", "'gru', whose state does not grow with the text"),
        ("corpus", spec.corpus, spec.corpus != "zipf", "a text, as a server is asked in words"),
        ("method", spec.method, hasattr(model and model.head, "vectors"), "one with a vector for each token"),
    ):
        if not fits:
            raise ValueError(f"{name}={found!r}: expected {expected}")
    read = text.load(corpus or spec.corpus, max_characters=spec.max_characters)
    if read.fingerprint != result.fingerprint:
        raise ValueError(f"corpus={corpus or spec.corpus!r}: not as the run read it; expected the text {spec.corpus!r} "
                         "as it was then")  # fmt: skip
    writable(out)
    step, state = Step(model.eval()).requires_grad_(False), torch.zeros(2, spec.hidden)
    batch = torch.export.Dim("batch")
    with torch.no_grad():  # else a change to it within the step would be part of the program
        program = torch.export.export(step, (torch.zeros(2).long(), state), dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, out / "step.pt2")
    vectors = search.search_space(model.head)
    index = search.Approximate(vectors, kind)
    faiss.write_index(index.index, str(out / "index.faiss"))
    entries = read.vocabulary(spec.vocab)
    np.savez_compressed(out / "vocabulary.npz", words=np.array(list(entries.words), dtype=str), phrases=entries.phrases)
    config = {"run_id": result.run_id, "vocab": spec.vocab, "hidden": spec.hidden, "query": vectors.shape[1],
              "index": kind, "longest": index.longest.item()}  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=1))
    for suffix in (".json", ".safetensors"):
        shutil.copy(runs / f"{result.run_id}{suffix}", out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="the folder that a training was written to")
    parser.add_argument("--run-id", help="which of its runs, where there are several")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    parser.add_argument("--index", default="HNSW32", help='of faiss: "HNSW32" or "IVF1024,Flat"')
    parser.add_argument("--corpus", help="path of the run's text, if it was not the installed one")
    asked = parser.parse_args()
    try:
        export(asked.runs, asked.out, asked.run_id, asked.index, asked.corpus)
    except (ValueError, OSError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    print(asked.out)


if __name__ == "__main__":
    main()
