"""A text ready to be cut into examples: where it comes from, and the cache that keeps it.

Four kinds of corpora, by name: "installed", the Python sources that are on every machine which can
run this project; the path of a file or a folder of text (`reading`); the path of a .npy file of ids
made elsewhere; "zipf", ids without text, to time a vocabulary beyond what text can fill. `building`
makes text into numbered words; here these become ids.
"""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scta_lite import checks
from scta_lite.losses import log_uniform
from tqdm import tqdm

from scta_lab.base.files import alone, cache, sealed
from scta_lab.base.spec import MAX_CHARACTERS
from scta_lab.text.building import CACHE, HELD_OUT, KEPT, build, installed, origin
from scta_lab.text.examples import BLOCK, Examples, Stored, examples, save
from scta_lab.text.reading import documents
from scta_lab.text.repeats import RUN
from scta_lab.text.vocabulary import BYTES, Vocabulary

MAX_DRAWN = 1 << 26  # ids of "zipf"; a training that needs more goes through them again


@dataclass(frozen=True)
class Corpus:
    """Text ready to be cut into examples. `fingerprint` is a hash of what it holds.

    `about` is what a reader should know. It counts the documents, their characters, the words that
    were kept, the vocabulary's largest size, what was left out in reading, and why, and what no
    rule reads; `not_read` says these two in a line. `whole` says whether all documents were read.
    `taken_out` is the share of words in paragraphs that were taken out as repeated, `repeated` that
    of held-out words in runs of 13 and of 8 which training has too, before that and after.
    """

    name: str
    fingerprint: str
    about: dict
    folder: Path  # of the cache
    ids_made_elsewhere: Path | None = None

    @property
    def remarks(self) -> list[str]:
        """A line on what was not read, if anything was not; of the default text `about` has it."""
        not_read = self.name != "installed" and self.about.get("not_read")
        return [f"{self.name}: {not_read}"] if not_read else []

    @property
    def has_text(self) -> bool:
        return (self.folder / "words.json").is_file()

    def vocabulary(self, vocab: int) -> Vocabulary:
        """The first `vocab` entries; ValueError where the text has fewer, or there is no text."""
        if not self.has_text:
            expected = "expected 'installed' or a file of text"
            raise ValueError(f"corpus={self.name!r} has ids but no text: {expected}")
        return Vocabulary(self._json("words"), self._array("phrases")).first(vocab)

    def ids(self, vocab: int, needed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Training ids (n,) and held-out ids (m,), mapped, below `vocab`; made once, then cached.

        `needed` is how many training ids are asked for: only "zipf" can make as many as one wishes.
        """
        train, heldout = self._stored(vocab, needed)
        return train.array(), heldout.array()

    def examples(self, vocab: int, seq_len: int, used: int) -> Examples:
        """The training examples, of which the first `used` are counted, and the held-out ones.

        ValueError where the text does not fill one example.
        """
        checks.integer("seq_len", seq_len, 1)
        train, heldout = self._stored(vocab, used * seq_len)
        if len(train) < seq_len:
            expected = f"expected at most {len(train)}, the length of the text in ids"
            raise ValueError(f"seq_len={seq_len}: {expected}")
        n_counted = min(used, len(train) // seq_len) * seq_len
        counts = np.zeros(vocab, dtype=np.int64)
        for block in train.blocks(n_counted):
            counts += np.bincount(block.astype(np.int64), minlength=vocab)
        held = examples(heldout.array(), seq_len)  # (n, T)
        if self.has_text:
            lengths = torch.from_numpy(self.vocabulary(vocab).lengths())
            n_bytes = lengths[1].numpy()[held]
            first_byte = n_bytes.cumsum().reshape(held.shape) - n_bytes  # of each token, (n, T)
            ends = self._array("heldout_bytes").cumsum()
            document = np.searchsorted(ends, first_byte, side="right")  # the one that has that byte
        else:
            lengths = None
            document = np.repeat(np.arange(len(held))[:, None], seq_len, axis=1)
        seen = self.about.get("repeated", {}).get("after", {}).get(str(RUN), 0.0)
        counts = torch.from_numpy(counts)
        return Examples(self.name, train, seq_len, counts, held, lengths, document, seen)

    def statistics(self, vocab: int, seq_len: int = 64) -> pd.DataFrame:
        """How the training text and the held-out text are cut at this V, a row each.

        `tokens_per_character`, `words_per_token`; `spelled`, the share of words that are no
        entries, and `bytes`, that of tokens which are single bytes of these; `examples` of T
        tokens; `top`, the most frequent token, with its `top_id` and `top_share`.
        """
        entries = self.vocabulary(vocab)
        spellings = [entries.spell(word) for word in self._spelled(vocab)]
        n_words = entries.phrases_from + len(spellings)
        n_bytes = np.array([sum(i < BYTES for i in ids) for ids in spellings], dtype=np.int64)
        train, heldout = self.ids(vocab)
        characters = entries.lengths()[0]
        rows = {}
        for name, part, ids in (("training", "train", train), ("held out", "heldout", heldout)):
            words = np.bincount(self._array(f"{part}_words"), minlength=n_words)
            rare = words[entries.phrases_from :]
            tokens = np.bincount(ids, minlength=vocab)
            top = int(tokens.argmax())
            rows[name] = {
                "tokens_per_character": len(ids) / (tokens * characters).sum(),
                "words_per_token": words.sum() / len(ids),
                "spelled": rare.sum() / words.sum(),
                "bytes": (rare * n_bytes).sum() / len(ids),
                "examples": len(ids) // seq_len,
                "top": entries.decode([top]),
                "top_id": top,
                "top_share": tokens[top] / len(ids),
            }
        return pd.DataFrame(rows).T

    def _stored(self, vocab: int, needed: int) -> tuple[Stored, Stored]:
        """Training ids and held-out ids below `vocab`, where they lie."""
        if self.ids_made_elsewhere:
            return _checked(self.ids_made_elsewhere, vocab)
        needed = min(needed or 1_000_000, MAX_DRAWN)
        name = f"train_{vocab}" if self.has_text else f"train_{vocab}_{needed}"
        train, heldout = self.folder / f"{name}.npy", self.folder / f"heldout_{vocab}.npy"
        with alone(train):
            are_sound = [sealed(train), sealed(heldout)]  # both, so that each damaged one is named
            if not all(are_sound) and self.has_text:
                entries, spelled = self.vocabulary(vocab), self._spelled(vocab)
                save(train, entries.encode_words(self._array("train_words"), spelled))
                save(heldout, entries.encode_words(self._array("heldout_words"), spelled))
            elif not all(are_sound):
                save(train, _zipf(vocab, needed, seed=0))
                save(heldout, _zipf(vocab, 100_000, seed=1))
        return Stored(train), Stored(heldout)

    def _spelled(self, vocab: int) -> list[str]:
        """The text's words that are not among the first `vocab` entries."""
        return self._json("words")[max(0, vocab - BYTES) :] + self._json("rare")

    def _json(self, name: str) -> list[str]:
        return json.loads((self.folder / f"{name}.json").read_text())

    def _array(self, name: str) -> np.ndarray:
        return np.load(self.folder / f"{name}.npy", mmap_mode="r")


def load(
    corpus: str = "installed", *, max_characters: int = MAX_CHARACTERS, progress: bool = True
) -> Corpus:
    """The corpus of that name: "installed", "zipf", or a path (.npy ids, or text for `reading`).

    Documents are read until they have `max_characters`, split and numbered once, and then found in
    the cache ($XDG_CACHE_HOME, by default ~/.cache). Raises FileNotFoundError for a missing file
    and ValueError for one that has no text to read.
    """
    checks.integer("max_characters", max_characters, 1)
    if not isinstance(corpus, str | Path) or not str(corpus):
        expected = "expected 'installed', 'zipf', or the path of a file or folder"
        raise ValueError(f"corpus={corpus!r}: {expected}")
    if any("\ud800" <= letter <= "\udfff" for letter in str(corpus)):  # as a run's file cannot
        raise ValueError(f"corpus={str(corpus)!r}: its name is not UTF-8; expected one that is")
    if "://" in str(corpus):
        expected = "expected a file or folder here: download it first (curl -O, hf download)"
        raise ValueError(f"corpus={corpus!r}: an address; {expected}")
    if corpus == "zipf":
        about = {"documents": None, "note": "log-uniform ids, no text"}
        return Corpus("zipf", "zipf-2", about, cache() / "zipf-2")
    if corpus == "installed":
        return _load_text(corpus, None, max_characters, progress)
    path = Path(corpus).expanduser()
    if path.suffix != ".npy" or not path.is_file():
        return _load_text(corpus, path, max_characters, progress)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    about = {"documents": None, "note": "ids made elsewhere"}
    return Corpus(path.name, digest, about, cache() / digest, path)


def _load_text(corpus: str, path: Path | None, max_characters: int, progress: bool) -> Corpus:
    """The corpus of a file or folder of text, or of the installed sources."""
    key = repr((CACHE, max_characters, origin(path)))
    folder = cache() / hashlib.sha256(key.encode()).hexdigest()[:12]
    with alone(folder):
        are_sound = [sealed(folder / name) for name in KEPT]  # all, so that each damaged is named
        if not all(are_sound):
            left_out, unread = Counter(), Counter()
            texts = installed(left_out)
            if path:
                texts = documents(path, left_out, unread, max_characters)
            title = f"reading {path.name if path else 'the installed text'}"
            texts = tqdm(texts, title, unit=" documents", disable=not progress)
            build(folder, texts, left_out, unread, corpus, max_characters)
    about = json.loads((folder / "about.json").read_text())
    return Corpus(path.name if path else corpus, about["fingerprint"], about, folder)


def _zipf(vocab: int, n: int, seed: int) -> np.ndarray:
    """Ids (n,) int32, independent and by Zipf's law."""
    generator = torch.Generator().manual_seed(seed)
    ids = np.empty(n, np.int32)
    for block in np.split(ids, range(BLOCK, n, BLOCK)):  # not all at once in float64
        block[:] = log_uniform(block.shape, vocab, generator=generator)
    return ids


def _checked(path: Path, vocab: int) -> tuple[Stored, Stored]:
    """Training ids and held-out ids of a .npy file made elsewhere, the last 3% of them."""
    try:
        ids = Stored(path)
    except (ValueError, AttributeError, EOFError) as error:
        expected = f"expected a .npy file of integers, in C's order ({error})"
        raise ValueError(f"corpus={path.name!r}: {expected}") from None
    are_integers = np.issubdtype(ids.dtype, np.integer) and len(ids) > 0
    if not are_integers or any(block.min() < 0 or block.max() >= vocab for block in ids.blocks()):
        expected = f"expected integer ids from 0 to vocab - 1 = {vocab - 1}"
        raise ValueError(f"corpus={path.name!r}: {expected}")
    cut = round((1 - HELD_OUT) * len(ids))
    return Stored(path, stop=cut), Stored(path, start=cut)
