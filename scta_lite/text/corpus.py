"""Text in, token ids out: where the text comes from, what is held out, and the examples of exactly T ids.

Four corpora, by name: "installed", the Python sources and docstrings that are on every machine which can run this
project; the path of a chat file; the path of a .npy file of ids made elsewhere; "zipf", ids without text, to time a
vocabulary beyond what text can fill. Documents are put in the order of their hashes; the first 3% are held out, before
the vocabulary is built, and a paragraph of 80 characters or more that stood in an earlier one is removed.
"""

import ast
import hashlib
import importlib.util
import io
import json
import os
import sys
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from scta_lite import checks
from scta_lite.files import replace_file
from scta_lite.losses import log_uniform
from scta_lite.text.chat import sharegpt
from scta_lite.text.vocabulary import Vocabulary, learn

PACKAGES = ("torch", "numpy", "pandas", "matplotlib")
HELD_OUT = 0.03  # of the documents
MAX_CHARACTERS = 64_000_000  # of a corpus that are used: several times what 20,000 examples at V = 1,000,000 need
_FORMAT = "2"  # of the cache: another number, and every corpus is built anew
# Folders of the standard library and the packages that are not read: tests, tables of code pages, other packages.
_SKIPPED = {"test", "tests", "testing", "idle_test", "encodings", "site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """Text ready to be cut into examples. `fingerprint` is a hash of what it holds; `about`, what a reader should know.

    `about` counts the documents, characters and words, the vocabulary's largest size, and what was left out, and why.
    """

    name: str
    fingerprint: str
    about: dict
    folder: Path | None = None  # of the cache

    def vocabulary(self, vocab: int) -> Vocabulary:
        """The first `vocab` words and phrases; ValueError where the text has fewer, or the corpus has no text."""
        if self.folder is None:
            raise ValueError(f"corpus={self.name!r} has ids but no text: expected 'installed' or a chat file")
        words = json.loads((self.folder / "words.json").read_text())
        return Vocabulary(words, np.load(self.folder / "phrases.npy", mmap_mode="r")).first(vocab)

    def lengths(self, vocab: int) -> torch.Tensor | None:
        """Characters of each token, (V,), or None for a corpus without text."""
        return None if self.folder is None else torch.from_numpy(self.vocabulary(vocab).lengths())

    def ids(self, vocab: int, needed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Training ids (n,) and held-out ids (m,), int32 and below `vocab`; from the cache where it has them.

        `needed` is how many training ids are asked for: only "zipf" can make as many as one wishes.
        """
        if self.name == "zipf":
            return _zipf(vocab, needed or 1_000_000, seed=0), _zipf(vocab, 100_000, seed=1)
        if self.folder is None:
            return _stored_ids(self.about["path"], vocab)
        paths = [self.folder / f"{part}_{vocab}.npy" for part in ("train", "heldout")]
        if not all(path.is_file() for path in paths):
            entries = self.vocabulary(vocab)
            for path in paths:
                words = np.load(self.folder / path.name.replace(f"_{vocab}", "_words"))
                _save(path, entries.encode_words(words))
        return tuple(np.load(path, mmap_mode="r") for path in paths)


def examples(ids: np.ndarray, seq_len: int) -> np.ndarray:
    """Examples (n, T) of exactly T = `seq_len` consecutive ids; what is left at the end is dropped."""
    checks.integer("seq_len", seq_len, 1)
    return ids[: len(ids) // seq_len * seq_len].reshape(-1, seq_len)


def load(corpus: str = "installed", *, progress: bool = True) -> Corpus:
    """The corpus of that name: "installed", "zipf", or a path (.npy ids; otherwise chat, as `sharegpt` reads it).

    Text is read, split and numbered once and then found in the cache ($XDG_CACHE_HOME, by default ~/.cache). Raises
    FileNotFoundError for a missing file and ValueError for one without a usable record.
    """
    if corpus == "zipf":
        return Corpus("zipf", "zipf-2", {"documents": None, "note": "log-uniform ids, no text"})
    path = None if corpus == "installed" else Path(corpus).expanduser()
    if path and not path.is_file():
        raise FileNotFoundError(f"corpus={str(corpus)!r}: no such file; expected 'installed', 'zipf' or a file's path")
    if path and path.suffix == ".npy":
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:12]
        return Corpus(path.name, digest, {"documents": None, "note": "ids made elsewhere", "path": path})
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "scta_lite"
    folder = home / hashlib.sha256(repr((_FORMAT, _origin(path))).encode()).hexdigest()[:12]
    if not (folder / "about.json").is_file():
        left_out: Counter = Counter()
        documents = _installed(left_out, progress) if path is None else sharegpt(path, left_out)
        _build(folder, list(documents), left_out, corpus, progress)
    about = json.loads((folder / "about.json").read_text())
    return Corpus(path.name if path else corpus, about["fingerprint"], about, folder)


def _installed(left_out: Counter, progress: bool) -> Iterator[str]:
    """The standard library's sources, and the docstrings of each file of the packages; tests are left out."""
    library = Path(sysconfig.get_path("stdlib"))
    packages = [Path(importlib.util.find_spec(name).origin).parent for name in PACKAGES]
    files = [(path, root) for root in (library, *packages) for path in sorted(root.rglob("*.py"))]
    files = [(path, root) for path, root in files if not _SKIPPED & set(path.relative_to(root).parts)]
    for path, root in tqdm(files, "reading the installed text", unit=" files", disable=not progress):
        try:
            source = path.read_text(encoding="utf-8")
            yield source if root == library else _docstrings(source)
        except (SyntaxError, ValueError):
            left_out["file that is not UTF-8 Python"] += 1


def _docstrings(source: str) -> str:
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    found = (ast.get_docstring(node) for node in ast.walk(ast.parse(source)) if isinstance(node, kinds))
    return "\n\n".join(filter(None, found))


def _origin(path: Path | None) -> object:
    """What a cached corpus depends on: the versions of what is installed, or the file as it stands."""
    if path is None:
        return sys.version_info[:3], *(version(name) for name in PACKAGES)
    stat = path.stat()
    return str(path.resolve()), stat.st_size, stat.st_mtime_ns


def _build(folder: Path, documents: list[str], left_out: Counter, corpus: str, progress: bool) -> None:
    """Orders, cleans, splits and numbers the documents, and leaves the result in `folder`, whole or not at all."""
    texts = {_digest(d): d for d in (d.encode(errors="replace").decode().strip() for d in documents) if d}
    left_out["document that stood before"] = len(documents) - len(texts)
    ordered, characters, seen = [], 0, set()
    for key in sorted(texts):
        if characters < MAX_CHARACTERS:
            ordered.append(_without_repeats(texts[key], seen, left_out))
            characters += len(ordered[-1])
    left_out[f"document beyond {MAX_CHARACTERS:,} characters"] = len(texts) - len(ordered)
    if len(ordered) < 2:
        raise ValueError(f"corpus={corpus!r}: {len(ordered)} document(s); expected at least 2, to hold one out")
    cut = max(1, round(HELD_OUT * len(ordered)))
    parts = [document + "\n\n" for document in ordered]
    shown = tqdm(parts[cut:], "splitting it into words", unit=" documents", disable=not progress)
    entries, (train, heldout) = learn(shown, parts[:cut])
    about = {
        "fingerprint": hashlib.sha256("\0".join(ordered).encode()).hexdigest()[:12],
        "documents": len(ordered), "held_out_documents": cut, "characters": characters,
        "words": len(train) + len(heldout), "largest_vocab": len(entries),
        "left_out": {reason: count for reason, count in left_out.items() if count},
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in {"train_words": train, "heldout_words": heldout, "phrases": entries.phrases}.items():
        _save(folder / f"{name}.npy", array)
    replace_file(folder / "words.json", json.dumps(entries.words).encode())
    replace_file(folder / "about.json", json.dumps(about).encode())  # last: where it stands, the rest does


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _without_repeats(text: str, seen: set[bytes], left_out: Counter) -> str:
    """The text less the paragraphs of 80 characters and more that stood in an earlier one: licence headers and such."""
    kept = []
    for paragraph in text.split("\n\n"):
        key = _digest(paragraph.strip()) if len(paragraph) >= 80 else None
        if key in seen:
            left_out["paragraph that stood before"] += 1
            continue
        if key:
            seen.add(key)
        kept.append(paragraph)
    return "\n\n".join(kept)


def _zipf(vocab: int, n: int, seed: int) -> np.ndarray:
    """Ids (n,) int32, independent and by Zipf's law."""
    return log_uniform((n,), vocab, generator=torch.Generator().manual_seed(seed)).numpy().astype(np.int32)


def _stored_ids(path: Path, vocab: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.load(path, mmap_mode="r").reshape(-1)
    if not np.issubdtype(ids.dtype, np.integer) or not len(ids) or ids.min() < 0 or ids.max() >= vocab:
        raise ValueError(f"corpus={path.name!r}: expected integer ids from 0 to vocab - 1 = {vocab - 1}")
    cut = round((1 - HELD_OUT) * len(ids))
    return ids[:cut], ids[cut:]


def _save(path: Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    replace_file(path, buffer.getvalue())
