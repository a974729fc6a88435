"""Documents in, a corpus in the cache out: ordered, split into words, cleaned, and numbered.

Documents are put in the order of their hashes; the last 3% are held out, before the vocabulary is
built. A paragraph of held-out text is taken out if much of it stands in training (`repeats`). A
text of your own is trained on as it is; the installed sources, which repeat themselves, are cleaned
too.
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
FORMAT = "3"  # of fingerprints: with another number every corpus is another, and no runs compare
SHOWN, SHARE = 5, 0.01  # keys that are not read: so many, each with so much of the text, are said
CACHE = "7"  # of what lies in the cache: with another number every corpus is built anew
_ARRAYS = ("phrases.npy", "heldout_bytes.npy", "train_words.npy", "heldout_words.npy")
KEPT = ("about.json", "words.json", "rare.json", *_ARRAYS)
# Folders of the standard library and of packages that are not read.
_TESTS = {"test", "tests", "testing", "idle_test"}
_TABLES = {"encodings", "pydoc_data"}
_OTHERS = {"site-packages", "dist-packages", "__pycache__"}
_SKIPPED = _TESTS | _TABLES | _OTHERS


def installed(left_out: Counter) -> Iterator[str]:
    """The sources of the standard library and of the packages, without their tests.

    They come in an order of no meaning.
    """
    roots = [Path(importlib.util.find_spec(name).origin).parent for name in PACKAGES]
    paths = {}
    for root in [Path(sysconfig.get_path("stdlib")), *roots]:
        for path in root.rglob("*.py"):
            name = path.relative_to(root)
            if _SKIPPED.isdisjoint(name.parts):
                paths[_digest(f"{root.name}/{name.as_posix()}")] = path
    for _, path in sorted(paths.items()):
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            left_out["file that is not UTF-8"] += 1
            continue
        letters = sum(map(str.isalpha, source))
        if letters < len("".join(source.split())) / 2:
            left_out["file of tables, less than half of it letters"] += 1
        else:
            yield source


def origin(path: Path | None) -> object:
    """What a cached corpus depends on: the versions of what is installed, or the files' stats."""
    if path is None:
        return sys.version_info[:3], *(version(name) for name in PACKAGES)
    stats = [(str(file.resolve()), file.stat()) for file in files_of(path)]
    return [
        (name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        for name, stat in stats
    ]


def build(
    folder: Path,
    documents: Iterable[str],
    left_out: Counter,
    unread: Counter,
    corpus: str,
    limit: int,
) -> None:
    """Orders, splits and numbers the documents, up to `limit` characters; saves all in `folder`."""
    texts, whole = _distinct(documents, left_out, limit)
    if len(texts) < 2:
        _refuse_few(corpus, len(texts), "" if whole else f" in the first {limit:,} characters")
    characters = sum(map(len, texts.values()))
    keys = sorted(texts)
    n_heldout = max(1, round(HELD_OUT * len(keys)))
    cut = len(keys) - n_heldout  # the number of the first document that is held out
    spelled, words, document = number(texts.pop(key) + "\n\n" for key in keys)
    ends = np.array([word.count("\n") > 1 for word in spelled])  # with which a paragraph ends
    kept = _kept(words, document, ends, cut, clean=corpus == "installed")
    hashed = [FORMAT.encode(), *keys, np.packbits(kept).tobytes()]
    heldout = document >= cut
    taken_out = {"training": 1 - kept[~heldout].mean(), "held out": 1 - kept[heldout].mean()}
    before = _seen_in_training(words, document, cut)
    words, document, heldout = words[kept], document[kept], heldout[kept]
    after = _seen_in_training(words, document, cut)
    about = {
        "fingerprint": hashlib.sha256(b"".join(hashed)).hexdigest()[:12],
        "documents": len(keys),
        "held_out_documents": n_heldout,
        "characters": characters,
        "whole": whole,
        "words": len(words),
        "largest_vocab": _save_words(folder, spelled, words, document, cut, n_heldout),
        "taken_out": taken_out,
        "repeated": {"before": before, "after": after},
        "left_out": left_out,
        "unread": _shares(unread, characters),
    }
    about["not_read"] = _not_read(about)
    _save_json(folder / "about.json", about)


def _refuse_few(corpus: str, documents: int, where: str) -> None:
    advice = "(in a .txt or .md file blank lines part them)"
    expected = f"expected at least 2, to hold one out {advice}"
    raise ValueError(f"corpus={corpus!r}: {documents} document(s){where}; {expected}")


def _shares(unread: Counter, characters: int) -> dict[str, float]:
    """The share of all characters under each key that is not read, of the largest of these."""
    total = characters + unread.total()
    shares = {key: count / total for key, count in unread.most_common(SHOWN)}
    return {key: share for key, share in shares.items() if share >= SHARE}


def _not_read(about: dict) -> str:
    """What was not read of the text, in one line; empty if all was."""
    left_out = [f"{count:,} × {reason}" for reason, count in about["left_out"].items()]
    unread = [f"{key} ({share:.0%} of the characters)" for key, share in about["unread"].items()]
    parts = {"left out": left_out, "not read": unread}
    said = [f"{name}: {', '.join(part)}" for name, part in parts.items() if part]
    return "; ".join([f"{about['documents']:,} documents", *said]) if said else ""


def _save_words(
    folder: Path, spelled: list[str], words: np.ndarray, document: np.ndarray, cut: int, size: int
) -> int:
    """Learns the vocabulary, saves it and the texts as ids of words; the number of its entries.

    The first held-out document has the number `cut`; there are `size` of these.
    """
    heldout = document >= cut
    vocabulary, rare, new_id = learn(spelled, words[~heldout], document[~heldout])
    n_bytes = np.array([len(word.encode()) for word in spelled])  # of each word
    heldout_bytes = np.bincount(document[heldout] - cut, n_bytes[words[heldout]], size)
    save(folder / "train_words.npy", new_id[words[~heldout]])
    save(folder / "heldout_words.npy", new_id[words[heldout]])
    save(folder / "phrases.npy", vocabulary.phrases)
    save(folder / "heldout_bytes.npy", heldout_bytes.astype(np.int64))
    _save_json(folder / "words.json", vocabulary.words)
    _save_json(folder / "rare.json", rare)
    return len(vocabulary)


def _kept(
    words: np.ndarray, document: np.ndarray, ends: np.ndarray, cut: int, clean: bool
) -> np.ndarray:
    """Which words, (m,) bool, are left when held-out text that training has is taken out.

    `clean` before that takes out what training itself repeats, and of two copies training's, not
    the held-out one. A held-out text of which less than a tenth would be left is made of templates,
    and stays as it is.
    """
    heldout = document >= cut
    kept = np.ones(len(words), dtype=bool)
    if clean:
        heldout_first = np.where(heldout, document - len(document), document)  # before training
        kept = fresh(words, document, heldout_first, ends)
    kept[kept] = fresh(words[kept], document[kept], heldout[kept].astype(np.int32), ends)
    if kept[heldout].mean() < TEMPLATES:
        kept |= heldout
    return kept


def _distinct(
    documents: Iterable[str], left_out: Counter, limit: int
) -> tuple[dict[bytes, str], bool]:
    """The different documents by their hashes, up to so many characters; whether these are all."""
    texts: dict[bytes, str] = {}
    characters = 0
    for document in documents:
        if characters >= limit:  # what comes after this document is not even parsed
            return texts, False
        text = document.strip()
        key = _digest(text)
        if key in texts:
            left_out["document that stood before"] += 1
        elif text:
            texts[key] = text
            characters += len(text)
    return texts, True


def _seen_in_training(words: np.ndarray, document: np.ndarray, cut: int) -> dict[str, float]:
    """The share of held-out words in a run of 13, and of 8, that the training text has too."""
    heldout = document >= cut
    shares = {}
    for run in (RUN, 8):
        is_repeated = repeated(words, document, heldout.astype(np.int32), run)
        shares[str(run)] = float(is_repeated[heldout].mean())
    return shares


def _save_json(path: Path, value: object) -> None:
    replace_file(path, json.dumps(value).encode())
    seal(path)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
