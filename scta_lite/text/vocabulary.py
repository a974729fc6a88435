"""Words, then phrases: a vocabulary of exactly V entries for any V that a text can fill, nested and decodable.

The paper says neither which tokenizer it used nor how V reaches a million; a byte-pair encoding stops early on a small
text. Here id 0 is the unknown word; then come the words seen at least twice, most frequent first; then the most
frequent phrases of two to four words. Every occurrence of a phrase is one of its prefix too, so a prefix is never
rarer and always has the smaller id: the first V entries are a trie for every V, and a phrase is stored as the pair
(id of its prefix, its last word). Text is encoded by greedy longest match.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

UNKNOWN = "\N{REPLACEMENT CHARACTER}"
LONGEST = 4  # words in a phrase
# A word takes the one space before it; names are split at underscores and numbers into threes, so that few are unknown;
# punctuation and white space are words too: the pieces join to the text again.
_PIECES = re.compile(r" ?[^\W\d_]+| ?\d{1,3}|_+| ?[^\w\s]+|\s+")


@dataclass(frozen=True)
class Vocabulary:
    """`words[i]` is the word of id i, `words[0]` the unknown one; `phrases` (P,) int64 holds prefix id << 32 | word id.

    >>> vocabulary, _ = learn([" to be or not to be"])
    >>> [vocabulary.decode([i]) for i in range(len(vocabulary))]
    ['�', ' to', ' be', ' to be']
    >>> vocabulary.encode(" to be to go").tolist(), vocabulary.first(3).encode(" to be to go").tolist()
    ([3, 1, 0], [1, 2, 1, 0])
    """

    words: list[str]
    phrases: np.ndarray

    def __len__(self) -> int:
        return len(self.words) + len(self.phrases)

    def first(self, vocab: int) -> "Vocabulary":
        """The vocabulary's first `vocab` entries; ValueError if it has fewer."""
        if vocab > len(self):
            raise ValueError(
                f"vocab={vocab}: expected at most {len(self)}, all the words and phrases that this text has; "
                'corpus="zipf" has ids without text for any vocab'
            )
        return replace(self, words=self.words[:vocab], phrases=self.phrases[: max(0, vocab - len(self.words))])

    def encode(self, text: str) -> np.ndarray:
        """Ids (n,) int32 of a text, by greedy longest match."""
        ids = {word: i for i, word in enumerate(self.words)}
        return self.encode_words(np.array([ids.get(word, 0) for word in split(text)], dtype=np.int32))

    def encode_words(self, words: np.ndarray) -> np.ndarray:
        """Ids (n,) int32 of a text given as word ids (m,), n ≤ m; a word id beyond this vocabulary is unknown."""
        words = np.where(words < len(self.words), words, 0)
        best, length = words.astype(np.int32), np.ones(len(words), dtype=np.int8)
        order = np.argsort(self.phrases)
        keys, gram = self.phrases[order], words
        for n in range(2, LONGEST + 1):  # gram[i]: id of the n-gram that starts at word i, 0 where it has none
            wanted = _pair(gram[: len(words) - n + 1], words[n - 1 :])
            at = np.minimum(np.searchsorted(keys, wanted), max(0, len(keys) - 1))
            found = (keys[at] == wanted) if len(keys) else np.zeros(len(wanted), dtype=bool)
            gram = np.where(found, len(self.words) + order[at] if len(keys) else 0, 0)
            where = np.flatnonzero(found)
            best[where], length[where] = gram[where], n
        starts, i, step = [], 0, length.tolist()
        while i < len(step):
            starts.append(i)
            i += step[i]
        return best[starts]

    def lengths(self) -> np.ndarray:
        """Characters of each token, (V,) int64; of the unknown word none: it does not say what stood there."""
        length = np.zeros(len(self), dtype=np.int64)
        length[1 : len(self.words)] = [len(word) for word in self.words[1:]]
        for _ in range(LONGEST - 1):  # a phrase is its prefix, which may be a phrase, and a word
            length[len(self.words) :] = length[self.phrases >> 32] + length[self.phrases & 0xFFFFFFFF]
        return length

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; an unknown word reads �."""
        pieces: list[str] = []
        for i in map(int, ids):
            tail = []
            while i >= len(self.words):  # a phrase: its last word, then its prefix
                i, last = divmod(int(self.phrases[i - len(self.words)]), 1 << 32)
                tail.append(self.words[last])
            pieces += [self.words[i], *reversed(tail)]
        return "".join(pieces)


def split(text: str) -> list[str]:
    """The words of a text, white space and punctuation included, so that joining them gives the text again.

    >>> split("def top_k(x):  # go on")
    ['def', ' top', '_', 'k', '(', 'x', '):', '  ', '#', ' go', ' on']
    """
    return _PIECES.findall(text)


def learn(train: Iterable[str], heldout: Iterable[str] = ()) -> tuple[Vocabulary, list[np.ndarray]]:
    """The whole vocabulary of the training texts, and both parts' word ids (m,) int32, each part's texts joined."""
    seen: dict[str, int] = {}
    parts = [_number(train, seen), _number(heldout, seen)]
    counts = np.bincount(parts[0], minlength=len(seen))
    kept = np.argsort(-counts, kind="stable")  # equal counts: in the order of their first appearance
    kept = kept[: np.count_nonzero(counts >= 2)]
    spelled = list(seen)
    words = [UNKNOWN, *(spelled[i] for i in kept)]
    new_id = np.zeros(len(seen), dtype=np.int32)
    new_id[kept] = np.arange(1, len(words))
    parts = [new_id[part] for part in parts]
    return Vocabulary(words, _phrases(parts[0], len(words))), parts


def _number(texts: Iterable[str], seen: dict[str, int]) -> np.ndarray:
    """Word ids (m,) of the texts in the order of first appearance; `seen` grows."""
    ids = [np.array([seen.setdefault(w, len(seen)) for w in split(t)], dtype=np.int32) for t in texts]
    return np.concatenate(ids) if ids else np.zeros(0, dtype=np.int32)


def _phrases(words: np.ndarray, base: int) -> np.ndarray:
    """All phrases (P,) of known words, by falling count, shorter ones first among equals; ids count from `base`."""
    gram, levels, counts = words, [], []
    for n in range(2, LONGEST + 1):
        pairs = _pair(gram[: len(words) - n + 1], words[n - 1 :])
        known = np.flatnonzero(pairs >= 0)
        unique, inverse, count = np.unique(pairs[known], return_inverse=True, return_counts=True)
        gram = np.zeros(len(pairs), dtype=np.int64)
        gram[known] = inverse + 1  # n-grams of this length, counted from 1: 0 stays unknown
        levels.append(unique)
        counts.append(count)
    order = np.argsort(-np.concatenate(counts), kind="stable")
    ids = np.empty(len(order), dtype=np.int64)
    ids[order] = np.arange(base, base + len(order))
    of_level = np.split(ids, np.cumsum([len(level) for level in levels])[:-1])
    for n in range(1, LONGEST - 1):  # a longer phrase's prefix was numbered within its level: now it gets its id
        prefix, last = levels[n] >> 32, levels[n] & 0xFFFFFFFF
        levels[n] = of_level[n - 1][prefix - 1] << 32 | last
    return np.concatenate(levels)[order]


def _pair(prefix: np.ndarray, last: np.ndarray) -> np.ndarray:
    """prefix << 32 | last, (m,) int64; -1 where either is unknown."""
    return np.where((prefix > 0) & (last > 0), prefix.astype(np.int64) << 32 | last, -1)
