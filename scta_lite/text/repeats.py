"""What stands in a text twice: runs of thirteen words, by which held-out text is told from what training has seen.

A run of thirteen words that two documents share is the usual sign that a test text leaked into training (Brown et al.
2020, appendix C). Here punctuation and white space are words too, so that in code thirteen are about a line. What is
found are paragraphs, up to a blank line, of which much stands in earlier documents: licences, copied functions, lists
of parameters that recur. A line or two of a longer paragraph may recur, as the idioms of a language do.
"""

import numpy as np

RUN = 13  # words
SHARE = 0.15  # of a paragraph's words that may lie in such runs
TEMPLATES = 0.1  # of a text that has to be left; else it is made of templates, and nothing is taken out


def repeated(words: np.ndarray, document: np.ndarray, run: int = RUN) -> np.ndarray:
    """Which words, (m,) bool, lie in a run of so many that stands in a document of a smaller number as well.

    `words`: ids (m,), `document`: the number of each one's document (m,). Equal 64-bit hashes count as equal runs.

    >>> repeated(np.array([7, 8, 9, 7, 8, 5]), np.array([0, 0, 0, 1, 1, 1]), run=2).tolist()
    [False, False, False, True, True, False]
    """
    runs = max(0, len(words) - run + 1)
    found = np.zeros(len(words), dtype=bool)
    if not runs:
        return found
    hashed = np.zeros(runs, dtype=np.uint64)
    for k in range(run):
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + words[k : k + runs].astype(np.uint64)  # modulo 2^64
    order = np.argsort(hashed)
    hashed = hashed[order]
    starts = np.flatnonzero(np.concatenate([[True], hashed[1:] != hashed[:-1]]))  # of groups of equal runs
    first = np.repeat(np.minimum.reduceat(document[order], starts), np.diff(starts, append=runs))
    again = np.empty(runs, dtype=bool)
    again[order] = first < document[order]
    for k in range(run):
        found[k : k + runs] |= again
    return found


def fresh(words: np.ndarray, document: np.ndarray, ends: np.ndarray, cut: int) -> np.ndarray:
    """Which words, (m,) bool, are of a paragraph of which at most 15% lie in runs that stand elsewhere.

    Documents before number `cut` are held out. First every document is compared with those before it, so that of two
    copies training loses its own; then the held-out ones with all of training. `ends`: for each word id, whether a
    paragraph ends with it. All words, if less than a tenth would be left of either part.
    """
    paragraph = np.concatenate([[0], np.cumsum(ends[words])[:-1]])
    heldout, kept = document < cut, np.ones(len(words), dtype=bool)
    for later in (document, heldout.astype(np.int32)):
        again = np.zeros(len(words), dtype=bool)
        again[kept] = repeated(words[kept], later[kept])
        share = np.bincount(paragraph, weights=again) / np.bincount(paragraph)
        kept &= (share <= SHARE)[paragraph]
    left = min(kept[heldout].mean(), kept[~heldout].mean())
    return kept if left >= TEMPLATES else np.ones_like(kept)
