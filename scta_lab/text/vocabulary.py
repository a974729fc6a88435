"""Bytes, then words, then phrases: a vocabulary of exactly V entries for any V from 257 up, nested and lossless.

The paper says neither which tokenizer it used nor how V reaches a million; a byte-pair encoding stops early on a small
text. Here ids 0 to 255 are the bytes, which only spell; then come the words seen at least twice, most frequent first;
then phrases of two to four words, those first that stand in the most documents. Where a phrase stands its prefix stands
too, so a prefix never comes later: the first V entries are a trie for every V, and a phrase is stored as the pair (id
of its prefix, its last word). Text is encoded by greedy longest match over whole words. A word that is not among the
first V is spelled: by the longest word that it begins with, and so on (as WordPiece does), and by bytes where there is
none.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pandas as pd

from scta_lite import checks

BYTES = 256
LONGEST = 4  # words in a phrase
LARGEST = 1 << 24  # phrases that are kept of a text
LEARNT = 1 << 25  # words of a text from which its phrases are learnt: the sorting of more would need much memory
_BLOCK = 1 << 22  # words that are encoded at a time
# A word takes the one space before it; names are split at underscores and numbers into threes, so that few are rare; of
# the scripts without spaces each character is a word (Chinese, Japanese), so that phrases are theirs. Punctuation and
# white space are words too: the pieces join to the text again. None is longer than 64.
_ALONE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff"
_PIECES = re.compile(rf" ?[^\W\d_{_ALONE}]{{1,63}}|[{_ALONE}]| ?\d{{1,3}}|_{{1,64}}| ?[^\w\s]{{1,63}}|\s{{1,64}}")


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
        """The vocabulary's first `vocab` entries; ValueError if it has fewer, or for less than 257."""
        checks.integer("vocab", vocab, BYTES + 1)
        if vocab > len(self):
            raise ValueError(
                f"vocab={vocab}: expected at most {len(self)}, all the bytes, words and phrases that this text has; "
                'corpus="zipf" has ids without text for any vocab'
            )
        return replace(
            self, words=self.words[: vocab - BYTES], phrases=self.phrases[: max(0, vocab - self.phrases_from)]
        )

    def encode(self, text: str) -> np.ndarray:
        """Ids (n,) int32 of a text; `decode` gives it back. ValueError for a lone surrogate, which has no bytes."""
        if not text.isascii() and (lone := re.search("[\ud800-\udfff]", text)):
            raise ValueError(f"text={lone[0]!r} at {lone.start()}: expected no lone surrogate, which is no character")
        ids, spelled = self._ids, {}
        first = self.phrases_from
        numbers = [ids[w] if w in ids else first + spelled.setdefault(w, len(spelled)) for w in split(text)]
        return self.encode_words(np.array(numbers, dtype=np.int32), list(spelled))

    def encode_words(self, words: np.ndarray, spelled: Sequence[str]) -> np.ndarray:
        """Ids (n,) int32 of a text given as word ids (m,): 256 + len(self.words) + i stands for the word spelled[i]."""
        spellings = [self.spell(word) for word in spelled]
        blocks = [words[start : start + _BLOCK] for start in range(0, len(words), _BLOCK)]
        return np.concatenate([np.zeros(0, np.int32), *(self._encode_block(block, spellings) for block in blocks)])

    def spell(self, word: str) -> list[int]:
        """The ids of the longest piece that is a word, of the longest after it, …; bytes where there is none."""
        ids, spelled, start = self._ids, [], 0
        while start < len(word):
            ends = range(min(len(word), start + self._longest), start, -1)
            end = next((end for end in ends if word[start:end] in ids), None)
            spelled += [ids[word[start:end]]] if end else word[start].encode()
            start = end or start + 1
        return spelled

    def lengths(self) -> np.ndarray:
        """Characters and bytes of each token, (2, V) int64; a byte counts as a character if it begins one."""
        begins = [int(byte & 0xC0 != 0x80) for byte in range(BYTES)]
        length = np.zeros((2, len(self)), dtype=np.int64)
        length[0, : self.phrases_from] = begins + [len(word) for word in self.words]
        length[1, : self.phrases_from] = [1] * BYTES + [len(word.encode()) for word in self.words]
        for _ in range(LONGEST - 1):  # a phrase is its prefix, which may be a phrase, and a word
            length[:, self.phrases_from :] = length[:, self.phrases >> 32] + length[:, self.phrases & 0xFFFFFFFF]
        return length

    def token(self, i: int) -> bytes:
        """What the id stands for, in UTF-8; one byte may be a part of a character. ValueError for no id of these."""
        if not 0 <= i < len(self):
            raise ValueError(f"id={i}: expected an integer from 0 to V - 1 = {len(self) - 1}")
        tail: list[bytes] = []
        while i >= self.phrases_from:  # a phrase: its last word, then its prefix
            i, last = divmod(int(self.phrases[i - self.phrases_from]), 1 << 32)
            tail.append(self._word(last))
        return b"".join([self._word(i), *reversed(tail)])

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids. Bytes that are no UTF-8, which `encode` never gives, read �."""
        return b"".join(self.token(int(i)) for i in ids).decode(errors="replace")

    def _word(self, i: int) -> bytes:
        return bytes([i]) if i < BYTES else self.words[i - BYTES].encode()

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: i for i, word in enumerate(self.words, BYTES)}

    @cached_property
    def _longest(self) -> int:
        return max(map(len, self.words), default=1)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.argsort(self.phrases)

    @cached_property
    def _keys(self) -> np.ndarray:
        return self.phrases[self._order]

    def _encode_block(self, words: np.ndarray, spellings: list[list[int]]) -> np.ndarray:
        """Greedy longest match over whole words; then the words that are no entries are spelled."""
        whole = np.where(words < self.phrases_from, words, -1).astype(np.int64)
        best, length, gram = words.astype(np.int32), np.ones(len(words), dtype=np.int8), whole
        keys = self._keys
        for n in range(2, LONGEST + 1 if len(keys) else 2):  # gram[i]: id of the n-gram that starts at word i, or -1
            wanted = _pair(gram[: max(0, len(words) - n + 1)], whole[n - 1 :])
            at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
            found = keys[at] == wanted
            gram = np.where(found, self.phrases_from + self._order[at], -1)
            where = np.flatnonzero(found)
            best[where], length[where] = gram[where], n
        starts = np.fromiter(_jumps(length.tolist()), dtype=np.int64)
        ids, is_spelled = best[starts], whole[starts] < 0
        pieces = [spellings[i] for i in ids[is_spelled] - self.phrases_from]
        counts = np.ones(len(ids), dtype=np.int64)
        counts[is_spelled] = [len(piece) for piece in pieces]
        ids = np.repeat(ids, counts)
        ids[np.repeat(is_spelled, counts)] = [i for piece in pieces for i in piece]
        return ids


def split(text: str) -> list[str]:
    """The words of a text, white space and punctuation included, so that joining them gives the text again.

    >>> split("def top_k(x):  # go on")
    ['def', ' top', '_', 'k', '(', 'x', '):', '  ', '#', ' go', ' on']
    """
    return _PIECES.findall(text)


def number(texts: Iterable[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The words that stand in some texts, in the order in which they appear; the texts, joined, as numbers of words
    (m,) int32; and for each word of them the number of its text, (m,) int32.
    """
    seen: dict[str, int] = {}
    found = [np.array([seen.setdefault(w, len(seen)) for w in split(text)], dtype=np.int32) for text in texts]
    document = np.repeat(np.arange(len(found), dtype=np.int32), [len(words) for words in found])
    return list(seen), np.concatenate([np.zeros(0, np.int32), *found]), document


def learn(spelled: list[str], words: np.ndarray, document: np.ndarray) -> tuple[Vocabulary, list[str], np.ndarray]:
    """The whole vocabulary of a text that `number` gave; its rare words, seen less than twice; the id of each word.

    The ids of rare words follow those of the others, as `Vocabulary.encode_words` takes them.
    """
    counts = np.bincount(words, minlength=len(spelled))
    order = np.argsort(-counts, kind="stable")  # equal counts: in the order of their first appearance
    kept = int(np.count_nonzero(counts >= 2))
    new_id = np.empty(len(spelled), dtype=np.int32)
    new_id[order] = np.arange(BYTES, BYTES + len(spelled))
    entries, rare = ([spelled[i] for i in part] for part in (order[:kept], order[kept:]))
    return Vocabulary(entries, _phrases(new_id[words[:LEARNT]], document[:LEARNT], BYTES + kept)), rare, new_id


def _phrases(words: np.ndarray, document: np.ndarray, base: int) -> np.ndarray:
    """Phrases (P,) of words with ids below `base`: by the number of documents that hold them, then by count.

    Among equals shorter ones come first. Ids of phrases count from `base`.
    """
    words, documents = np.where(words < base, words, -1).astype(np.int64), int(document.max(initial=0)) + 1
    gram, levels, ranks = words, [], []
    for n in range(2, LONGEST + 1):
        pairs = _pair(gram[: max(0, len(words) - n + 1)], words[n - 1 :])
        known = np.flatnonzero((pairs >= 0) & (document[: len(pairs)] == document[n - 1 :]))
        codes, unique = pd.factorize(pairs[known])
        gram = np.full(len(pairs), -1)
        gram[known] = codes  # numbered within their level
        in_document = pd.unique(codes * documents + document[known]) // documents  # each phrase once a document
        levels.append(unique)
        ranks.append([np.bincount(in_document, minlength=len(unique)), np.bincount(codes, minlength=len(unique))])
    in_documents, counts = (np.concatenate(column) for column in zip(*ranks, strict=True))
    order = np.lexsort((-counts, -in_documents))  # which is stable
    ids = np.empty(len(order), dtype=np.int64)
    ids[order] = np.arange(base, base + len(order))
    of_level = np.split(ids, np.cumsum([len(level) for level in levels])[:-1])
    for n in range(1, LONGEST - 1):  # a longer phrase's prefix was numbered within its level: now it gets its id
        levels[n] = _pair(of_level[n - 1][levels[n] >> 32], levels[n] & 0xFFFFFFFF)
    return np.concatenate(levels)[order[:LARGEST]]


def _pair(prefix: np.ndarray, last: np.ndarray) -> np.ndarray:
    """prefix << 32 | last, (m,) int64; -1 where either is."""
    return np.where((prefix >= 0) & (last >= 0), prefix << 32 | last, -1)


def _jumps(lengths: list[int]) -> Iterator[int]:
    """The places where one comes by jumping from the first on, at each place as far as its length says."""
    at = 0
    while at < len(lengths):
        yield at
        at += lengths[at]
