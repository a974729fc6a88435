"""Makes of a stored run what a server needs: `python examples/serve/export.py RUNS --out FOLDER`.

The folder holds

index.faiss     the index of a vector for each token: finds the highest scores for a query
words.json, phrases.npy   the vocabulary, to turn text into ids and back
config.json     the sizes, and what the index needs to turn its distances into scores
<run id>.json, <run id>.safetensors   the run and its weights, as they were trained

Numbers and words alone: nothing in it is executed.
"""

import argparse
import json
import shutil
from pathlib import Path

import faiss
import numpy as np

from scta_lab import Result, load, text
from scta_lab.base.files import writable
from scta_lab.judge import search


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
    vectors = search.search_space(model.head)  # (V, F)
    index = search.Approximate(vectors, kind)
    faiss.write_index(index.index, str(out / "index.faiss"))
    vocabulary = source.vocabulary(spec.vocab)
    (out / "words.json").write_text(json.dumps(list(vocabulary.words)))
    np.save(out / "phrases.npy", vocabulary.phrases)
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
