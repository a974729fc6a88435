"""The paper's third stage: from hidden states to tokens.

`generate` writes token after token, a step of the backbone for each. How the best tokens are found
without a softmax over all stands in `search`. Left out: beam search, and batches of prompts.
"""

from codecs import getincrementaldecoder
from collections.abc import Callable, Iterator
from itertools import islice

import torch
from scta_lite import checks
from torch import Generator, Tensor

from scta_lab.methods.model import LanguageModel
from scta_lab.text.vocabulary import Vocabulary

Choice = Callable[[Tensor], Tensor]  # an id, of the scores (V,)
Pieces = Iterator[str]


def generate(
    model: LanguageModel,
    prompt: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: Generator | None = None,
) -> Iterator[int]:
    """Yields the ids that follow the prompt (T,), for ever.

    The state is carried over, so each costs one step. A GRU's state stays as large as it is; a
    Transformer's, its key–value cache, grows with each token.

    `temperature` divides the scores before the softmax; 0 always takes the best (greedy). `top_k`
    keeps the k best tokens, `top_p` the fewest best ones that hold this much of the probability
    (Holtzman et al. 2020).

    ValueError for an empty prompt, an argument out of its range, or scores that are NaN.
    """
    if prompt.dim() != 1 or not len(prompt):
        raise ValueError(f"prompt of shape {tuple(prompt.shape)}: expected (T,) with T from 1 up")
    if not checks.is_number(temperature) or temperature < 0:
        raise ValueError(f"temperature={temperature!r}: expected a number from 0 up")
    if top_k is not None:
        checks.integer("top_k", top_k, 1)
    if top_p is not None and not (checks.is_number(top_p) and 0 < top_p <= 1):
        raise ValueError(f"top_p={top_p!r}: expected above 0, at most 1")

    def choose(scores: Tensor) -> Tensor:
        if temperature == 0:
            return scores.argmax()
        scores, order = scores.sort(descending=True)
        best = scores[:top_k] - scores[0]  # at most 0, so that no temperature overflows
        p = (best / temperature).softmax(0)
        if top_p is not None:
            before = p.cumsum(0) - p  # what stands before a token, which is left while below top_p
            p = p.where(before < top_p, 0.0)
        return order[torch.multinomial(p, 1, generator=generator)]

    return _generate(model, prompt.unsqueeze(0), choose)


def _generate(model: LanguageModel, ids: Tensor, choose: Choice) -> Iterator[int]:
    state = None
    while True:
        with torch.no_grad():
            hidden, state = model.advance(ids, state)  # of ids (1, T): (1, d)
            scores = model.head.scores(hidden)[0].float()  # (V,)
        if scores.isnan().any():
            raise ValueError("scores with NaN: expected a model whose training did not diverge")
        ids = choose(scores).view(1, 1)
        yield ids.item()


def write(model: LanguageModel, vocabulary: Vocabulary, prompt: str, tokens: int, **how) -> Pieces:
    """Yields the prompt, then `tokens` pieces of text that follow it, one after another.

    `how` as for `generate`. A piece may be empty: bytes wait until they are a character. ValueError
    for an empty prompt, or a vocabulary of another size than the model's.
    """
    if len(vocabulary) != model.vocab:
        size = f"vocabulary of {len(vocabulary):,} entries"
        raise ValueError(f"{size}: expected the model's, V = {model.vocab:,}")
    ids = torch.from_numpy(vocabulary.encode(prompt)).long().to(model.device)
    characters = getincrementaldecoder("utf-8")(errors="replace")
    yield prompt
    for i in islice(generate(model, ids, **how), tokens):
        yield characters.decode(vocabulary.token(i))
    unfinished = characters.decode(b"", final=True)
    if unfinished:
        yield unfinished
