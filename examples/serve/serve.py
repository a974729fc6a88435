"""The next tokens of a text over HTTP, from what `export.py` wrote.

python examples/serve/serve.py FOLDER
curl localhost:8000/next --json '{"text": "The model is", "k": 3}'
"""

import argparse
import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore

import faiss
import numpy as np
import torch
import torch.nn.functional as F
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from torch import Tensor, nn

from scta_lab import load
from scta_lab.judge import search
from scta_lab.methods.model import LanguageModel
from scta_lab.text.vocabulary import Vocabulary
from scta_lite import VocabTable

LONGEST = 2_000  # characters of a text that is read, and tokens
LARGEST = 32_768  # bytes of a request
MOST_S = 10  # seconds of a request, from its first line to its answer


class Question(BaseModel):
    text: str = Field(min_length=1, max_length=LONGEST)
    k: int = Field(default=5, ge=1, le=100)


class Token(BaseModel):
    id: int
    text: str
    score: float  # not a probability, which would need the scores of all V tokens


class Step(nn.Module):
    """What the model does with one more token: ids (B,) and the GRU's state (B, d) to queries (B, F)."""

    def __init__(self, model: LanguageModel):
        super().__init__()
        is_table = isinstance(model.embed, VocabTable)
        self.embed = model.embed.to_embedding() if is_table else model.embed
        self.widen, self.head, gru = model.widen, model.head, model.backbone
        weights = {name.removesuffix("_l0"): x for name, x in gru.state_dict().items()}
        self.cell = nn.GRUCell(gru.input_size, gru.hidden_size)  # a GRU for one token
        self.cell.load_state_dict(weights)

    def forward(self, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = self.cell(self.widen(self.embed(ids)), state)
        return search.query(self.head, state), state


class Server:
    """The step, the index and the vocabulary of an exported folder."""

    def __init__(self, folder: Path, effort: int = 64):
        self.config = json.loads((folder / "config.json").read_text())
        self.step = Step(load(folder, self.config["run_id"]).model.eval())
        self.index = faiss.read_index(str(folder / "index.faiss"))
        parameter = "efSearch" if "HNSW" in self.config["index"] else "nprobe"
        faiss.ParameterSpace().set_index_parameter(self.index, parameter, effort)
        words = json.loads((folder / "words.json").read_text())
        self.vocabulary = Vocabulary(words, np.load(folder / "phrases.npy"))

    @torch.no_grad()
    def next(self, text: str, k: int) -> list[Token]:
        """The k tokens with the highest scores after the text, best first.

        Fewer where the search finds fewer. A query q (1, F) is stretched as `search.Approximate`
        does it, by s = √L / |q| with L the largest squared length of a vector. The squared distance
        to a vector is then 2 (L - s · score).
        """
        state = torch.zeros(1, self.config["hidden"])
        ids = self.vocabulary.encode(text).tolist()
        if len(ids) > LONGEST:
            raise HTTPException(422, f"text of {len(ids):,} tokens: expected at most {LONGEST:,}")
        for i in ids:
            query, state = self.step(torch.tensor([i]), state)
        longest = self.config["longest"]
        stretch = (longest / query.square().sum().clamp_min(1e-12)).sqrt()
        distances, ids = self.index.search(F.pad(stretch * query, (0, 1)).numpy(), k)  # (1, k)
        scores = (longest - torch.from_numpy(distances[0]) / 2) / stretch
        tokens = []
        for i, score in zip(ids[0].tolist(), scores.tolist(), strict=True):
            if i >= 0:  # -1: none was found
                tokens.append(Token(id=i, text=self.vocabulary.decode([i]), score=score))
        return tokens


def app(folder: Path, effort: int = 64) -> FastAPI:
    """`POST /next`, and `GET /` with what is served."""
    torch.set_num_threads(1)  # a request is too small to share out; several use the other cores
    faiss.omp_set_num_threads(1)
    server = Server(folder, effort)
    api = FastAPI(title="scta_lite: the next tokens")
    room = Semaphore(os.cpu_count() or 1)  # more at a time would only wait for one another

    @api.exception_handler(RequestValidationError)
    def explain(_: Request, error: RequestValidationError) -> JSONResponse:
        """What is wrong, without the question: a lone surrogate in it could not be sent back."""
        shown = ("loc", "msg", "type")
        faults = [{key: fault[key] for key in shown} for fault in error.errors()]
        return JSONResponse({"detail": faults}, 422)

    @api.middleware("http")
    async def limit(request: Request, answer: Callable) -> Response:
        """Refuses a large body unread, and gives a slow one up."""
        size = request.headers.get("content-length", "0")
        if "transfer-encoding" in request.headers or not size.isdecimal() or int(size) > LARGEST:
            return JSONResponse({"detail": f"expected a body of at most {LARGEST:,} bytes"}, 413)
        try:
            async with asyncio.timeout(MOST_S):
                return await answer(request)
        except TimeoutError:
            return JSONResponse({"detail": f"expected a request of at most {MOST_S} s"}, 408)

    @api.get("/")
    def config() -> dict:
        return server.config

    @api.post("/next")
    def next_tokens(question: Question) -> list[Token]:
        with room:
            return server.next(question.text, question.k)

    return api


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("folder", type=Path, help="what export.py wrote")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--effort", type=int, default=64, help="HNSW's candidates, or IVF's lists")
    options = parser.parse_args()
    limits = {"limit_concurrency": 128, "timeout_keep_alive": MOST_S}
    served = app(options.folder, options.effort)
    uvicorn.run(served, port=options.port, log_level="warning", **limits)


if __name__ == "__main__":
    main()
