"""Bytes, then words, then phrases: a vocabulary of exactly V entries for any V from 257 up.

The paper says neither which tokenizer it used nor how V reaches a million; a byte-pair encoding
stops early on a small text. Here ids 0 to 255 are the bytes, which only spell. Then come the words
seen at least twice, most frequent first; then phrases of two to four words, those first that stand
in the most documents. Where a phrase stands its prefix stands too, so a prefix never comes later:
the first V entries are a trie for every V. A phrase is stored as the pair of its prefix's id and
its last word's.

Text is encoded by greedy longest match over whole words. A word that is not among the first V is
spelled: by the longest word that it begins with, and so on (as WordPiece does), and by bytes where
there is none. Nothing of a text is lost.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain

import numpy as np
import pandas as pd
from scta_lite import checks

BYTES = 256
LONGEST = 4  # words in a phrase
LARGEST = 1 << 24  # phrases that are kept of a text
LEARNT = 1 << 25  # words of a text that phrases are learnt from; to sort more needs much memory
_BLOCK = 1 << 22  # words that are encoded at a time
_LAST = (1 << 32) - 1  # the bits of a pair in which its last word is
# A word takes the one space before it; names are split at underscores and numbers into threes, so
# that few are rare; of the scripts without spaces each character is a word (Chinese, Japanese), so
# that phrases are theirs. Punctuation and white space are words too: the pieces join to the text
# again. None is longer than 64.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_LETTER = rf"[^\W\d_{_ALONE}]"
# Accents and vowel signs that stand after their letter, and what joins two; \w has none of them.
_MARKS = "".join(chr(i) for i in range(0x300, 0x1F000) if unicodedata.category(chr(i))[0] == "M")
_MARK = f"[{_MARKS}\u200c\u200d]"
_PLAIN = rf" ?{_LETTER}{{1,63}}+(?![^\x00-\u02ff])"  # the same where no mark follows, and faster
_LETTERS = rf"{_PLAIN}| ?{_LETTER}(?:{_LETTER}|{_MARK}){{0,62}}|[{_ALONE}]{_MARK}{{0,63}}"
_PIECES = re.compile(_LETTERS + r"| ?\d{1,3}|_{1,64}| ?[^\w\s]{1,63}|\s{1,64}")


@dataclass(frozen=True)
class Vocabulary:
    """`words[i]` is the word of id 256 + i; `phrases` (P,) int64 holds prefix id << 32 | word id.

    >>> vocabulary = learn(*number([" to be or not to be"]))[0]
    >>> [vocabulary.decode([i]) for i in range(256, len(vocabulary))]
    [' to', ' be', ' to be']
    >>> vocabulary.encode(" to be to").tolist(), vocabulary.first(257).encode(" to be").tolist()
    ([258, 256], [256, 32, 98, 101])
    """

    words: Sequence[str]
    phrases: np.ndarray

    def __len__(self) -> int:
        return self.phrases_from + len(self.phrases)

    @property
    def phrases_from(self) -> int:
        """The id of the first phrase: the number of bytes and words."""
        return BYTES + len(self.words)

    def first(self, vocab: int) -> "Vocabulary":
        """The vocabulary's first `vocab` entries; ValueError for more than it has, or below 257."""
        checks.integer("vocab", vocab, BYTES + 1)
        if vocab > len(self):
            raise ValueError(
                f"vocab={vocab}: expected at most {len(self)}, all the bytes, words and phrases "
                'that this text has; corpus="zipf" has ids without text for any vocab'
            )
        phrases = self.phrases[: max(0, vocab - self.phrases_from)]
        return Vocabulary(self.words[: vocab - BYTES], phrases)

    def encode(self, text: str) -> np.ndarray:
        """Ids (n,) int32 of a text, which `decode` gives back.

        ValueError for a lone surrogate, which has no bytes.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            lone = f"{text[error.start]!r} at {error.start}"
            expected = "expected no lone surrogate, which is no character"
            raise ValueError(f"text={lone}: {expected}") from None
        distinct, words, _ = number([text])
        spelled = [word for word in distinct if word not in self._ids]
        rare = {word: i for i, word in enumerate(spelled, self.phrases_from)}
        ids = np.array([self._ids.get(word) or rare[word] for word in distinct], dtype=np.int32)
        return self.encode_words(ids[words], spelled)

    def encode_words(self, words: np.ndarray, spelled: Sequence[str]) -> np.ndarray:
        """Ids (n,) int32 of a text given as word ids (m,).

        256 + len(self.words) + i stands for the word spelled[i], which is no entry.
        """
        spellings = [self.spell(word) for word in spelled]
        blocks = np.split(words, range(_BLOCK, len(words), _BLOCK))
        return np.concatenate([self._encode_block(block, spellings) for block in blocks])

    def spell(self, word: str) -> list[int]:
        """The ids of its longest beginning that is a word, of the longest after that, …

        Where no word begins so, those of a character's bytes.
        """
        ids = []
        while word:
            end = len(word)
            while end and word[:end] not in self._ids:
                end -= 1
            if end:
                ids.append(self._ids[word[:end]])
            else:
                ids.extend(word[0].encode())  # a byte is its id
            word = word[max(end, 1) :]
        return ids

    def lengths(self) -> np.ndarray:
        """Characters and bytes of each token, (2, V) int64.

        A byte counts as a character if it begins one.
        """
        begins = [byte & 0xC0 != 0x80 for byte in range(BYTES)]
        characters = begins + [len(word) for word in self.words]
        n_bytes = [1] * BYTES + [len(word.encode()) for word in self.words]
        lengths = np.zeros((2, len(self)), dtype=np.int64)
        lengths[:, : self.phrases_from] = characters, n_bytes
        prefix, last = self.phrases >> 32, self.phrases & _LAST
        for _ in range(LONGEST - 1):  # the prefix may be a phrase, shorter by a word
            lengths[:, self.phrases_from :] = lengths[:, prefix] + lengths[:, last]
        return lengths

    def token(self, i: int) -> bytes:
        """What the id stands for, in UTF-8; one byte may be a part of a character.

        ValueError for no id of these.
        """
        if not 0 <= i < len(self):
            raise ValueError(f"id={i}: expected an integer from 0 to V - 1 = {len(self) - 1}")
        if i < BYTES:
            return bytes([i])
        if i < self.phrases_from:
            return self.words[i - BYTES].encode()
        pair = int(self.phrases[i - self.phrases_from])
        return self.token(pair >> 32) + self.token(pair & _LAST)

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids. Bytes that are no UTF-8, which `encode` never gives, read �."""
        return b"".join(self.token(int(i)) for i in ids).decode(errors="replace")

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, BYTES)}

    @cached_property
    def _index(self) -> pd.Index:
        """Finds a phrase's place among the phrases."""
        return pd.Index(np.asarray(self.phrases))

    def _encode_block(self, words: np.ndarray, spellings: list[list[int]]) -> np.ndarray:
        """Greedy longest match over whole words; then the words that are no entries are spelled."""
        entry = np.where(words < self.phrases_from, words, -1).astype(np.int64)  # (m,), or -1
        longest = words.astype(np.int32)  # (m,), the longest entry that starts at each word
        length = np.ones(len(words), dtype=np.int8)  # (m,), the number of its words
        gram = entry
        for n in range(2, LONGEST + 1):
            pairs = _pair(gram, entry[n - 1 :])  # (m - n + 1,), the n words from each on
            place = self._index.get_indexer(pairs)  # among the phrases, or -1
            gram = np.where(place >= 0, place + self.phrases_from, -1)
            starts = np.flatnonzero(place >= 0)
            longest[starts] = gram[starts]
            length[starts] = n
        starts = np.fromiter(_jumps(length.tolist()), dtype=np.int64)
        ids = longest[starts]  # (n,)
        is_spelled = entry[starts] < 0
        rare = ids[is_spelled] - self.phrases_from
        pieces = [spellings[i] for i in rare.tolist()]
        return _replaced(ids, is_spelled, pieces)


def split(text: str) -> list[str]:
    """The words of a text, white space and punctuation included, so that they join to the text.

    >>> split("def top_k(x):  # go on")
    ['def', ' top', '_', 'k', '(', 'x', '):', '  ', '#', ' go', ' on']
    """
    return _PIECES.findall(text)


def number(texts: Iterable[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The distinct words of some texts; the texts as numbers of these; the text of each word.

    The distinct words are in the order in which they appear. The texts are joined, (m,) int32.
    """
    numbers: dict[str, int] = {}
    parts = []
    for text in texts:
        part = [numbers.setdefault(word, len(numbers)) for word in split(text)]
        parts.append(np.array(part, dtype=np.int32))
    sizes = [len(part) for part in parts]
    document = np.repeat(np.arange(len(parts), dtype=np.int32), sizes)
    return list(numbers), np.concatenate(parts), document


def learn(
    spelled: list[str], words: np.ndarray, document: np.ndarray
) -> tuple[Vocabulary, list[str], np.ndarray]:
    """The whole vocabulary of a text that `number` gave; its rare words; the id of each word.

    Rare are those seen less than twice. Their ids follow those of the others, as
    `Vocabulary.encode_words` takes them.
    """
    counts = np.bincount(words, minlength=len(spelled))
    order = np.argsort(-counts, kind="stable")  # equal counts: in the order of first appearance
    by_count = [spelled[i] for i in order.tolist()]
    new_id = np.argsort(order).astype(np.int32) + BYTES
    n_entries = np.count_nonzero(counts >= 2)
    entries, rare = by_count[:n_entries], by_count[n_entries:]
    phrases = _phrases(new_id[words[:LEARNT]], document[:LEARNT], BYTES + n_entries)
    return Vocabulary(entries, phrases), rare, new_id


def _phrases(words: np.ndarray, document: np.ndarray, base: int) -> np.ndarray:
    """Phrases (P,) of words with ids below `base`: by the number of their documents, then by count.

    Among equals shorter ones come first. Ids of phrases count from `base`.
    """
    words = np.where(words < base, words, -1).astype(np.int64)  # (m,)
    gram = words
    n_phrases = 0
    levels = []  # for each n: the pairs (p,), and in how many documents and how often each stands
    for n in range(2, LONGEST + 1):
        pairs = _pair(gram, words[n - 1 :])  # (m - n + 1,)
        in_one_document = document[: len(pairs)] == document[n - 1 :]
        starts = np.flatnonzero((pairs >= 0) & in_one_document)
        numbers, distinct = pd.factorize(pairs[starts])
        documents = _documents(numbers, document[starts])  # (p,)
        levels.append((distinct, documents, np.bincount(numbers)))
        gram = np.full(len(pairs), -1)
        gram[starts] = base + n_phrases + numbers  # an id until all are known and ordered
        n_phrases += len(distinct)
    pairs, documents, counts = map(np.concatenate, zip(*levels, strict=True))
    order = np.lexsort((-counts, -documents))  # which is stable
    new_id = np.arange(base + n_phrases)  # of each id so far; a word's stays
    new_id[base + order] = np.arange(base, base + n_phrases)
    pairs = pairs[order[:LARGEST]]
    return _pair(new_id[pairs >> 32], pairs & _LAST)


def _documents(numbers: np.ndarray, document: np.ndarray) -> np.ndarray:
    """In how many documents each number from 0 up stands, given the document of each place (n,)."""
    n_documents = int(document.max(initial=0)) + 1
    once = pd.unique(numbers * n_documents + document)  # each number once a document
    return np.bincount(once // n_documents)


def _pair(prefix: np.ndarray, last: np.ndarray) -> np.ndarray:
    """prefix << 32 | last, (m,) int64, as long as `last`; negative where either is."""
    return prefix[: len(last)] << 32 | last


def _jumps(lengths: list[int]) -> Iterator[int]:
    """The places reached from the first on, at each place jumping as far as its length says."""
    place = 0
    while place < len(lengths):
        yield place
        place += lengths[place]


def _replaced(ids: np.ndarray, where: np.ndarray, pieces: list[list[int]]) -> np.ndarray:
    """Ids (n,) in which the i-th one that `where` (n,) is true of has become pieces[i].

    >>> _replaced(np.array([7, 8, 9]), np.array([False, True, False]), [[1, 2]]).tolist()
    [7, 1, 2, 9]
    """
    counts = np.ones(len(ids), dtype=np.int64)
    counts[where] = [len(piece) for piece in pieces]
    ids = np.repeat(ids, counts)
    ids[np.repeat(where, counts)] = list(chain.from_iterable(pieces))
    return ids
