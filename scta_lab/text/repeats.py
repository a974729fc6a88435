"""What stands in a text twice: runs of thirteen words, by which held-out text is told from what training has seen.

A run of thirteen words that two documents share is the usual sign that a test text leaked into training (Brown et al.
2020, appendix C). Here punctuation and white space are words too, so that in code thirteen are about a line. What is
taken out are paragraphs, up to a blank line, of which much stands elsewhere: licences, copied functions, lists of
parameters that recur. A line or two of a longer paragraph may recur, as the idioms of a language do.
"""

import numpy as np

RUN = 13  # words
SHARE = 0.1  # of a paragraph's words that may lie in such runs, or fewer than RUN of them


def repeated(words: np.ndarray, document: np.ndarray, later: np.ndarray, run: int = RUN) -> np.ndarray:
    """Which words, (m,) bool, lie in a run of so many that stands in an earlier document as well.

    `words`: ids (m,); `document`: the number of each one's document (m,), out of which no run goes; `later` (m,): the
    smaller, the earlier is the document. Equal 64-bit hashes count as equal runs.

    >>> document = np.array([0, 0, 0, 1, 1, 1])
    >>> repeated(np.array([7, 8, 9, 7, 8, 5]), document, later=document, run=2).tolist()
    [False, False, False, True, True, False]
    """
    found, runs = np.zeros(len(words), dtype=bool), max(0, len(words) - run + 1)
    places = np.flatnonzero(document[:runs] == document[len(document) - runs :])  # of runs within one document
    if not len(places):
        return found
    hashed = np.zeros(runs, dtype=np.uint64)
    for k in range(run):
        hashed = hashed * np.uint64(0x9E3779B97F4A7C15) + words[k : k + runs].astype(np.uint64)  # modulo 2^64
    places = places[np.argsort(hashed[places])]
    hashed = hashed[places]
    starts = np.flatnonzero(np.concatenate([[True], hashed[1:] != hashed[:-1]]))  # of groups of equal runs
    first = np.repeat(np.minimum.reduceat(later[places], starts), np.diff(starts, append=len(places)))
    again = places[first < later[places]]
    for k in range(run):
        found[again + k] = True
    return found


def fresh(words: np.ndarray, document: np.ndarray, later: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Which words, (m,) bool, are of a paragraph that is new: little of it stands in an earlier document.

    A paragraph is not new if thirteen of its words, and more than a tenth of them, lie in runs that stand there; a
    shorter one, if all do. The rest as for `repeated`; `ends`: for each word id, whether a paragraph ends with it.
    """
    paragraph = np.concatenate([[0], np.cumsum(ends[words])[:-1]])
    size = np.bincount(paragraph)
    again = np.bincount(paragraph, weights=repeated(words, document, later))
    return ((again < np.minimum(size, RUN)) | (again <= SHARE * size))[paragraph]
