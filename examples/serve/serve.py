"""The next tokens of a text over HTTP, from what `export.py` wrote.

python examples/serve/serve.py FOLDER
curl localhost:8000/next --json '{"text": "The model is", "k": 3}'
"""

import argparse
import json
import os
from pathlib import Path
from threading import Semaphore

import faiss
import numpy as np
import torch
import torch.nn.functional as F
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from scta_lab.text.vocabulary import Vocabulary

LONGEST = 2_000  # characters of a text that is read


class Question(BaseModel):
    text: str = Field(min_length=1, max_length=LONGEST)
    k: int = Field(default=5, ge=1, le=100)


class Token(BaseModel):
    id: int
    text: str
    score: float  # not a probability, which would need the scores of all V tokens


class Server:
    """The step, the index and the vocabulary of an exported folder."""

    def __init__(self, folder: Path, effort: int = 64):
        self.config = json.loads((folder / "config.json").read_text())
        self.step = torch.export.load(folder / "step.pt2").module()
        self.index = faiss.read_index(str(folder / "index.faiss"))
        parameter = "efSearch" if "HNSW" in self.config["index"] else "nprobe"
        faiss.ParameterSpace().set_index_parameter(self.index, parameter, effort)
        stored = np.load(folder / "vocabulary.npz")
        self.vocabulary = Vocabulary(stored["words"].tolist(), stored["phrases"])

    @torch.no_grad()
    def next(self, text: str, k: int) -> list[Token]:
        """The k tokens with the highest scores after the text, best first.

        Fewer where the search finds fewer. A query q (1, F) is stretched as `search.Approximate`
        does it, by s = √L / |q| with L the largest squared length of a vector. The squared distance
        to a vector is then 2 (L - s · score).
        """
        state = torch.zeros(1, self.config["hidden"])
        for i in self.vocabulary.encode(text).tolist():
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
    uvicorn.run(app(options.folder, options.effort), port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
