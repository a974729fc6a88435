"""Text in, token ids out: chat files (`chat`), a nested vocabulary (`vocabulary`), and what joins them (`corpus`)."""

from scta_lite.text.chat import sharegpt
from scta_lite.text.corpus import Corpus, examples, load
from scta_lite.text.vocabulary import Vocabulary

__all__ = ["Corpus", "Vocabulary", "examples", "load", "sharegpt"]
