"""Documents in, a corpus in the cache out: ordered, split into words, cleaned of what stands twice, and numbered.

Documents are put in the order of their hashes; the last 3% are held out, before the vocabulary is built. A paragraph of
held-out text is taken out if much of it stands in training (`repeats`). A text of your own is trained on as it is; the
installed sources, which repeat themselves, are cleaned too.
"""

import hashlib
import importlib.util
import json
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np

from scta_lab.base.files import replace_file, seal
from scta_lab.text.examples import save
from scta_lab.text.reading import files_of
from scta_lab.text.repeats import RUN, fresh, repeated
from scta_lab.text.vocabulary import learn, number

PACKAGES = ("torch", "numpy", "pandas", "matplotlib")
HELD_OUT = 0.03  # of the documents
TEMPLATES = 0.1  # of the held-out words that have to be left when repeated paragraphs are taken out
FORMAT = "3"  # of fingerprints: another number, and every corpus is another, and its runs are not compared with earlier
CACHE = "5"  # of what lies in the cache: another number, and every corpus is built anew
KEPT = ("about.json", "words.json", "rare.json", "phrases.npy", "heldout_bytes.npy", "train_words.npy",
        "heldout_words.npy")  # fmt: skip
# Folders of the standard library and the packages that are not read: tests, tables, other packages.
_SKIPPED = {"test", "tests", "testing", "idle_test", "encodings", "pydoc_data",
            "site-packages", "dist-packages", "__pycache__"}  # fmt: skip


def installed(left_out: Counter) -> Iterator[str]:
    """The sources of the standard library and of the packages, without their tests, in an order of no meaning."""
    library = Path(sysconfig.get_path("stdlib"))
    packages = [Path(importlib.util.find_spec(name).origin).parent for name in PACKAGES]
    names = [(path.relative_to(root).as_posix(), root) for root in (library, *packages) for path in root.rglob("*.py")]
    names = [(name, root) for name, root in names if not _SKIPPED & set(name.split("/"))]
    for name, root in sorted(names, key=lambda found: _digest(f"{found[1].name}/{found[0]}")):
        try:
            source = (root / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            left_out["file that is not UTF-8"] += 1
            continue
        if sum(map(str.isalpha, source)) < len("".join(source.split())) / 2:
            left_out["file of tables, less than half of it letters"] += 1
        else:
            yield source


def origin(path: Path | None) -> object:
    """What a cached corpus depends on: the versions of what is installed, or the files as they stand."""
    if path is None:
        return sys.version_info[:3], *(version(name) for name in PACKAGES)
    stats = [(str(file.resolve()), file.stat()) for file in files_of(path)]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def build(folder: Path, found: Iterable[str], left_out: Counter, corpus: str, max_characters: int, clean: bool) -> None:
    """Orders, splits and numbers the documents, and leaves the result in `folder`, whole or not at all."""
    texts, whole = _distinct(found, left_out, max_characters)
    if len(texts) < 2:
        raise ValueError(
            f"corpus={corpus!r}: {len(texts)} document(s); expected at least 2, to hold one out "
            "(in a .txt or .md file blank lines part them)"
        )
    fingerprint, characters = hashlib.sha256(FORMAT.encode()), sum(map(len, texts.values()))
    for key in sorted(texts):
        fingerprint.update(key)
    held_out = max(1, round(HELD_OUT * len(texts)))
    cut = len(texts) - held_out  # the number of the first document that is held out
    spelled, words, document = number(texts.pop(key) + "\n\n" for key in sorted(texts))
    ends = np.array([word.count("\n") > 1 for word in spelled])
    kept = _kept(words, document, ends, cut, clean)
    fingerprint.update(np.packbits(kept).tobytes())
    before, after = _seen_in_training(words, document, cut), _seen_in_training(words[kept], document[kept], cut)
    taken_out = [float(1 - kept[part].mean()) for part in (document < cut, document >= cut)]
    words, document = words[kept], document[kept]
    train, heldout = np.split(words, [np.searchsorted(document, cut)])
    entries, rare, new_id = learn(spelled, train, document[: len(train)])
    about = {
        "fingerprint": fingerprint.hexdigest()[:12], "documents": cut + held_out, "held_out_documents": held_out,
        "characters": characters, "whole": whole, "words": len(words), "largest_vocab": len(entries),
        "taken_out": dict(zip(("training", "held out"), taken_out, strict=True)),
        "repeated": {"before": before, "after": after},
        "left_out": {reason: count for reason, count in left_out.items() if count},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {"train_words": new_id[train], "heldout_words": new_id[heldout], "phrases": entries.phrases,
              "heldout_bytes": _bytes(spelled, heldout, document[len(train) :] - cut, held_out)}  # fmt: skip
    for name, array in arrays.items():
        save(folder / f"{name}.npy", array)
    for name, value in {"words": entries.words, "rare": rare, "about": about}.items():
        replace_file(folder / f"{name}.json", json.dumps(value).encode())
        seal(folder / f"{name}.json")


def _kept(words: np.ndarray, document: np.ndarray, ends: np.ndarray, cut: int, clean: bool) -> np.ndarray:
    """Which words, (m,) bool, are left when held-out text that training has is taken out.

    `clean` before that takes out what training itself repeats, and of two copies training's, not the held-out one. A
    held-out text of which less than a tenth would be left is made of templates, and stays as it is.
    """
    heldout, kept = document >= cut, np.ones(len(words), dtype=bool)
    if clean:
        held_out_first = np.where(heldout, document - document[-1] - 1, document)
        kept = fresh(words, document, held_out_first, ends)
    kept[kept] = fresh(words[kept], document[kept], heldout[kept].astype(np.int32), ends)
    return kept if kept[heldout].mean() >= TEMPLATES else kept | heldout


def _bytes(spelled: list[str], words: np.ndarray, document: np.ndarray, documents: int) -> np.ndarray:
    """Bytes of each document, (documents,), of the words (m,) that are left of them."""
    distinct, place = np.unique(words, return_inverse=True)
    sizes = np.array([len(spelled[word].encode()) for word in distinct.tolist()], dtype=np.int64)
    return np.bincount(document, weights=sizes[place], minlength=documents).astype(np.int64)


def _distinct(found: Iterable[str], left_out: Counter, max_characters: int) -> tuple[dict[bytes, str], bool]:
    """The different documents by their hashes, up to so many characters; and whether these are all."""
    texts: dict[bytes, str] = {}
    characters = 0
    for text in found:
        if characters >= max_characters:  # what comes after this document is not even parsed
            return texts, False
        clean = text.strip()
        key = _digest(clean)
        left_out["document that stood before"] += key in texts
        if clean and key not in texts:
            texts[key] = clean
            characters += len(clean)
    return texts, True


def _seen_in_training(words: np.ndarray, document: np.ndarray, cut: int) -> dict[str, float]:
    """The share of held-out words in a run of 13, and of 8, that the training text has too."""
    part = (document >= cut).astype(np.int32)
    return {str(run): float(repeated(words, document, part, run)[part > 0].mean()) for run in (RUN, 8)}


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
