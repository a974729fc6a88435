"""What stands in a text twice: runs of thirteen words which two documents share.

Such a run is the usual sign that a test text leaked into training (Brown et al. 2020, appendix C).
Here punctuation and white space are words too, so that in code thirteen are about a line. What is
taken out are paragraphs, up to a blank line, of which much stands elsewhere: licences, copied
functions, lists of parameters that recur. A line or two of a longer paragraph may recur, as the
idioms of a language do.
"""

import numpy as np
import pandas as pd

RUN = 13  # words
SHARE = 0.1  # of a paragraph's words that may lie in such runs, or fewer than RUN of them
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio, and odd: it mixes all bits


def repeated(
    words: np.ndarray, document: np.ndarray, later: np.ndarray, run: int = RUN
) -> np.ndarray:
    """Which words, (m,) bool, lie in a run of so many that stands in an earlier document as well.

    `words`: ids (m,); `document`: the number of each one's document (m,), out of which no run goes;
    `later` (m,): the smaller, the earlier is the document. Equal 64-bit hashes count as equal runs.

    >>> document = np.array([0, 0, 0, 1, 1, 1])
    >>> repeated(np.array([7, 8, 9, 7, 8, 5]), document, later=document, run=2).tolist()
    [False, False, False, True, True, False]
    """
    last_document = document[run - 1 :]  # of each run's last word, (m - run + 1,)
    runs = len(last_document)
    hashes = np.zeros(runs, dtype=np.uint64)
    for k in range(run):
        hashes = hashes * _MULTIPLIER + words[k : k + runs].astype(np.uint64)  # modulo 2^64
    starts = np.flatnonzero(document[:runs] == last_document)  # of runs within one document
    later = pd.Series(later[starts])
    first = later.groupby(hashes[starts], sort=False).transform("min")  # of all runs that are equal
    starts = starts[first < later]
    is_repeated = np.zeros(len(words), dtype=bool)
    for k in range(run):
        is_repeated[starts + k] = True
    return is_repeated


def fresh(
    words: np.ndarray, document: np.ndarray, later: np.ndarray, ends: np.ndarray
) -> np.ndarray:
    """Which words, (m,) bool, are of a paragraph that is new: little of it stands earlier.

    A paragraph is not new if thirteen of its words, and more than a tenth of them, lie in runs that
    stand in an earlier document; a shorter one, if all do. The rest as for `repeated`; `ends`: for
    each word id, whether a paragraph ends with it.
    """
    is_end = ends[words]
    paragraph = is_end.cumsum() - is_end  # (m,), the number of each word's paragraph
    size = np.bincount(paragraph)
    n_repeated = np.bincount(paragraph, weights=repeated(words, document, later))
    is_new = (n_repeated < np.minimum(size, RUN)) | (n_repeated <= SHARE * size)
    return is_new[paragraph]
