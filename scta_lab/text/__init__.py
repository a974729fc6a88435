"""Text in, token ids out.

Files (`reading`, `formats`) hold records (`records`, `turns`), which are documents. Their words are
numbered and make a `vocabulary`; what stands in a text twice is taken out (`repeats`). `building`
joins these steps and keeps the result, which is a `corpus`; `examples` are cut from it.
"""

from scta_lab.text.corpus import Corpus, load
from scta_lab.text.examples import Examples, examples
from scta_lab.text.reading import documents
from scta_lab.text.vocabulary import Vocabulary

sharegpt = documents  # the name that it had when it read chats alone

__all__ = ["Corpus", "Examples", "Vocabulary", "documents", "examples", "load", "sharegpt"]
