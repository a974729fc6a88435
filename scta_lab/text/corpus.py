"""A text ready to be cut into examples: where it comes from, and the cache that keeps it.

Four kinds of corpora, by name: "installed", the Python sources that are on every machine which can run this project;
the path of a file or a folder of text (`reading`); the path of a .npy file of ids made elsewhere; "zipf", ids without
text, to time a vocabulary beyond what text can fill. `building` makes text into numbered words; here these become ids.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from scta_lab.base.files import alone, cache, sealed
from scta_lab.base.spec import MAX_CHARACTERS
from scta_lab.text.building import CACHE, HELD_OUT, KEPT, build, installed, origin
from scta_lab.text.examples import BLOCK, Examples, Stored, examples, save
from scta_lab.text.reading import documents
from scta_lab.text.repeats import RUN
from scta_lab.text.vocabulary import BYTES, Vocabulary
from scta_lite import checks
from scta_lite.losses import log_uniform

MAX_DRAWN = 1 << 26  # ids of "zipf"; a training that needs more goes through them again
PARTS = ("train", "heldout")


@dataclass(frozen=True)
class Corpus:
    """Text ready to be cut into examples. `fingerprint` is a hash of what it holds; `about`, what a reader should know.

    `about` counts the documents, their characters, the words that were kept, the vocabulary's largest size, and what
    was left out in reading, and why. `whole` says whether all documents were read. `taken_out` is the share of words in
    paragraphs that were taken out as repeated, `repeated` that of held-out words in runs of 13 and of 8 which training
    has too, before that and after.
    """

    name: str
    fingerprint: str
    about: dict
    folder: Path  # of the cache
    ids_made_elsewhere: Path | None = None

    @property
    def has_text(self) -> bool:
        return (self.folder / "words.json").is_file()

    def vocabulary(self, vocab: int) -> Vocabulary:
        """The first `vocab` entries; ValueError where the text has fewer, or the corpus has no text."""
        if not self.has_text:
            raise ValueError(f"corpus={self.name!r} has ids but no text: expected 'installed' or a file of text")
        words = json.loads((self.folder / "words.json").read_text())
        return Vocabulary(words, np.load(self.folder / "phrases.npy", mmap_mode="r")).first(vocab)

    def ids(self, vocab: int, needed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Training ids (n,) and held-out ids (m,), mapped, below `vocab`; made once, then found in the cache.

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
            raise ValueError(f"seq_len={seq_len}: expected at most {len(train)}, the length of the text in ids")
        whole = len(train) // seq_len * seq_len
        counts = torch.zeros(vocab, dtype=torch.int64)
        for block in train.blocks(min(whole, used * seq_len)):
            counts += torch.from_numpy(block.astype(np.int64)).bincount(minlength=vocab)
        lengths = torch.from_numpy(self.vocabulary(vocab).lengths()) if self.has_text else None
        held = examples(heldout.array(), seq_len)
        documents = np.repeat(np.arange(len(held))[:, None], seq_len, axis=1)
        if self.has_text:  # a token is of the document that has its first byte
            sizes = lengths[1].numpy()[held]
            ends = np.load(self.folder / "heldout_bytes.npy").cumsum()
            documents = np.searchsorted(ends, sizes.cumsum().reshape(held.shape) - sizes, side="right")
        seen = self.about.get("repeated", {}).get("after", {}).get(str(RUN), 0.0)
        return Examples(self.name, train, seq_len, counts, held, lengths, documents, seen)

    def _stored(self, vocab: int, needed: int) -> tuple[Stored, Stored]:
        """Training ids and held-out ids below `vocab`, where they lie."""
        if self.ids_made_elsewhere:
            return _checked(self.ids_made_elsewhere, vocab)
        needed = min(needed or 1_000_000, MAX_DRAWN)
        train, heldout = (self.folder / f"{part}_{vocab}.npy" for part in PARTS)
        if not self.has_text:
            train = train.with_stem(f"{train.stem}_{needed}")
        with alone(train):
            sound = [sealed(path) for path in (train, heldout)]
            if not all(sound):
                made = self._encoded(vocab) if self.has_text else (_zipf(vocab, needed, 0), _zipf(vocab, 100_000, 1))
                for path, ids in zip((train, heldout), made, strict=True):
                    save(path, ids)
        return Stored(train), Stored(heldout)

    def statistics(self, vocab: int, seq_len: int = 64) -> pd.DataFrame:
        """How the training text and the held-out text are cut at this V, a row each.

        `tokens_per_character`, `words_per_token`; `spelled`, the share of words that are no entries, and `bytes`, that
        of tokens which are single bytes of these; `examples` of T tokens; `top`, the most frequent token, with its
        `top_id` and `top_share`.
        """
        entries, spelled = self.vocabulary(vocab), self._spelled(vocab)
        characters = entries.lengths()[0]
        bytes_of = np.array([sum(i < BYTES for i in entries.spell(word)) for word in spelled], dtype=np.int64)
        rows = {}
        for name, part, ids in zip(("training", "held out"), PARTS, self.ids(vocab), strict=True):
            words = np.load(self.folder / f"{part}_words.npy", mmap_mode="r")
            words = np.bincount(words, minlength=entries.phrases_from + len(spelled))
            tokens, rare = np.bincount(ids, minlength=vocab), words[entries.phrases_from :]
            top = int(tokens.argmax())
            rows[name] = {
                "tokens_per_character": len(ids) / (tokens * characters).sum(),
                "words_per_token": words.sum() / len(ids),
                "spelled": rare.sum() / words.sum(), "bytes": (rare * bytes_of).sum() / len(ids),
                "examples": len(ids) // seq_len, "top": entries.decode([top]), "top_id": top,
                "top_share": tokens[top] / len(ids),
            }  # fmt: skip
        return pd.DataFrame(rows).T

    def _encoded(self, vocab: int) -> Iterator[np.ndarray]:
        """The training text's ids, then the held-out text's."""
        entries, spelled = self.vocabulary(vocab), self._spelled(vocab)
        for part in PARTS:
            yield entries.encode_words(np.load(self.folder / f"{part}_words.npy", mmap_mode="r"), spelled)

    def _spelled(self, vocab: int) -> list[str]:
        """The text's words that are not among the first `vocab` entries."""
        words, rare = (json.loads((self.folder / f"{name}.json").read_text()) for name in ("words", "rare"))
        return [*words[max(0, vocab - BYTES) :], *rare]


def load(corpus: str = "installed", *, max_characters: int = MAX_CHARACTERS, progress: bool = True) -> Corpus:
    """The corpus of that name: "installed", "zipf", or a path (.npy ids; otherwise text, as `reading` reads it).

    Documents are read until they have `max_characters`, split and numbered once, and then found in the cache
    ($XDG_CACHE_HOME, by default ~/.cache). Raises FileNotFoundError for a missing file and ValueError for one that has
    no text to read.
    """
    checks.integer("max_characters", max_characters, 1)
    if not isinstance(corpus, str | Path) or not str(corpus):
        raise ValueError(f"corpus={corpus!r}: expected 'installed', 'zipf', or the path of a file or folder")
    home = cache()
    if corpus == "zipf":
        return Corpus("zipf", "zipf-2", {"documents": None, "note": "log-uniform ids, no text"}, home / "zipf-2")
    path = None if corpus == "installed" else Path(corpus).expanduser()
    if path and path.suffix == ".npy" and path.is_file():
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
        return Corpus(path.name, digest, {"documents": None, "note": "ids made elsewhere"}, home / digest, path)
    key = repr((CACHE, max_characters, origin(path)))
    folder = home / hashlib.sha256(key.encode()).hexdigest()[:12]
    with alone(folder):
        sound = [sealed(folder / name) for name in KEPT]  # of all, so that each damaged one is told
        if not all(sound):
            left_out: Counter = Counter()
            found = installed(left_out) if path is None else documents(path, left_out)
            named = f"reading {path.name if path else 'the installed text'}"
            build(folder, tqdm(found, named, unit=" documents", disable=not progress), left_out, corpus, max_characters,
                  clean=path is None)  # fmt: skip
    about = json.loads((folder / "about.json").read_text())
    return Corpus(path.name if path else corpus, about["fingerprint"], about, folder)


def _zipf(vocab: int, n: int, seed: int) -> np.ndarray:
    """Ids (n,) int32, independent and by Zipf's law."""
    generator, ids = torch.Generator().manual_seed(seed), np.empty(n, np.int32)
    for part in np.split(ids, range(BLOCK, n, BLOCK)):  # not all at once in float64
        part[:] = log_uniform(part.shape, vocab, generator=generator)
    return ids


def _checked(path: Path, vocab: int) -> tuple[Stored, Stored]:
    """Training ids and held-out ids of a .npy file made elsewhere, the last 3% of them."""
    try:
        ids = Stored(path)
    except (ValueError, AttributeError, EOFError) as error:
        raise ValueError(f"corpus={path.name!r}: expected a .npy file of integers, in C's order ({error})") from None
    integers = np.issubdtype(ids.dtype, np.integer) and len(ids) > 0
    if not integers or not all(block.min() >= 0 and block.max() < vocab for block in ids.blocks()):
        raise ValueError(f"corpus={path.name!r}: expected integer ids from 0 to vocab - 1 = {vocab - 1}")
    cut = round((1 - HELD_OUT) * len(ids))
    return Stored(path, stop=cut), Stored(path, start=cut)
