"""What one run found: `Result`, which is one JSON file."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from scta_lab.base.files import remove, replace_file, set_aside
from scta_lab.base.spec import Spec
from scta_lab.base.weights import write

CHECKPOINT = ".checkpoint.safetensors"  # how the name of a run's unfinished state ends
STATUSES = ("ok", "out_of_memory", "killed", "failed", "skipped")
NUMBERS = {
    int: int,
    int | None: int,
    float | None: (int, float),
}  # of a field's type, what JSON has for it
FORMER = {"eval_every_s": None, "learn_temperature": False, "end_factor": 0.1}  # settings that were
AVERAGED = 50  # steps at an epoch's start and end over which a loss is averaged


@dataclass(kw_only=True)
class Result:
    """What one run found. Times are medians over the steps after the warm-up; what was not measured is None."""

    spec: Spec
    status: str  # one of STATUSES
    reason: str | None = None  # why it is not "ok"
    fingerprint: str  # of the corpus
    corpus: str  # its name
    examples_available: int | None = (
        None  # different examples that the text has; an epoch cycles if it needs more
    )
    steps_run: int = 0
    steps_measured: int = 0  # steps_run less the warm-up
    step_ms: float | None = None
    step_ms_q1: float | None = None
    step_ms_q3: float | None = None
    data_ms: float | None = None
    forward_ms: float | None = None
    backward_ms: float | None = None
    optimizer_ms: float | None = None
    seconds: float | None = None  # of the whole training
    extrapolated: bool | None = (
        None  # True: fewer steps than a training were run, `seconds` is step_ms × steps_total
    )
    tokens_per_s: float | None = None  # predicted positions over `seconds`
    examples_per_s: float | None = None
    peak_memory_bytes: int | None = None
    peak_memory_of: str | None = None  # "CUDA allocator" or "process RSS"
    needed_memory_bytes: int | None = None  # predicted by cost.memory_bytes
    free_memory_bytes: int | None = None  # before the run
    energy_joules: float | None = None  # that the GPU took for the steps run
    epoch_losses: list[dict] = field(
        default_factory=list
    )  # epoch, first, last (nats), and the steps averaged for each
    final_loss: float | None = None  # the last epoch's `last`
    loss_curve: dict | None = None  # step, loss: means of at most 100 equal blocks, nats
    full_vocab: dict | None = None  # evaluate.metrics on the test half of the held-out text
    validation: list[dict] = field(
        default_factory=list
    )  # step, seconds of training, and metrics on the other half
    calibrated: dict | None = (
        None  # the metrics of the test half with scores times `scale`, which validation chose
    )
    controls: dict | None = (
        None  # of the test half: the unigram's metrics and those of constant scores
    )
    by_document: dict | None = (
        None  # sums over the test half's positions of each document, as `spread` reads them
    )
    machine: str | None = None
    host: dict = field(default_factory=dict)  # threads, memory, versions, git commit
    date: str | None = None  # UTC
    model: Any = field(default=None, repr=False, compare=False)

    @property
    def run_id(self) -> str:
        return self.spec.run_id(self.fingerprint)

    def to_dict(self) -> dict:
        """The run as its JSON file holds it: every field of the Spec, then what was found."""
        found = {
            f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("spec", "model")
        }
        first = (
            self.spec.stage1 and Path(self.spec.stage1).name
        )  # a file counts by its name, never by its path
        return {"run_id": self.run_id, **asdict(self.spec), "stage1": first, **found}

    @staticmethod
    def from_dict(run: dict) -> "Result":
        """The inverse of `to_dict`; fields that this version does not know are dropped."""
        spec = Spec(**{f.name: run[f.name] for f in fields(Spec) if f.name in run})
        known = {f.name for f in fields(Result)} - {"spec", "model"}
        return Result(spec=spec, **{name: value for name, value in run.items() if name in known})

    def save(self, folder: str | Path) -> Path:
        """Writes `<run id>.json`, and `<run id>.safetensors` if there is a model; whole or not at all.

        What the unfinished run left in the folder is removed, and the model of an earlier run of the Spec set aside if
        there is none now. Where there is no room for the model, the run is written all the same, and its checkpoint
        stays; then OSError, which names the file.
        """
        path = Path(folder) / f"{self.run_id}.json"
        file = path.with_suffix(".safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(
            path, json.dumps(_finite(self.to_dict()), indent=1, ensure_ascii=False).encode()
        )
        if self.model is not None:
            write(file, self.model.state_dict())
        elif file.is_file():
            set_aside(file)
        checkpoint = path.with_suffix(CHECKPOINT)
        if (
            self.model is not None or not checkpoint.is_dir()
        ):  # of several ranks, too large to be put together
            remove(checkpoint)
        return path


def read(path: Path) -> dict:
    """A run's file as `Result.save` wrote it, and the settings that came later, at the defaults that it was run with.

    ValueError names a file that is none: no JSON, without a status that there is, with text where a number belongs, or
    of another run than its name says.
    """
    try:
        run = json.loads(path.read_bytes())
        if not isinstance(run, dict) or run.get("status") not in STATUSES:
            raise ValueError("it has no status that there is")
        for f in fields(Result):
            number = NUMBERS.get(f.type)
            if number and not isinstance(value := run.get(f.name), number) and value is not None:
                raise ValueError(f"{f.name}={value!r}: expected a number")
        for name, value in FORMER.items():
            if run.get(name, value) != value:
                raise ValueError(f"{name}={run[name]!r}: a setting that is no longer there")
        result = Result.from_dict(run)
        if path.stem != result.run_id:
            raise ValueError(f"it is of the run {result.run_id}")
    except (FileNotFoundError, NotADirectoryError):
        raise
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        said = (
            f"it has no {error}"
            if isinstance(error, KeyError)
            else str(error) or type(error).__name__
        )
        raise ValueError(f"{path.name}: not a run's file ({said})") from None
    return run | {f.name: getattr(result.spec, f.name) for f in fields(Spec) if f.name not in run}


def loss_summary(losses: list[float], spec: Spec) -> dict:
    """The losses of each epoch, begun ones too, and the curve, in nats."""
    epochs = []
    for number, start in enumerate(range(0, len(losses), spec.epoch_steps), 1):
        part = losses[start : start + spec.epoch_steps]
        n = min(AVERAGED, (len(part) + 1) // 2)  # of a short epoch: its first and its second half
        epochs.append({"epoch": number, "first": np.mean(part[:n]), "last": np.mean(part[-n:]), "averaged": n,
                       "steps": len(part)})  # fmt: skip
    blocks = np.array_split(np.array(losses), min(100, len(losses)))
    ends = np.cumsum([len(block) for block in blocks])
    curve = {"step": ends.tolist(), "loss": [round(float(block.mean()), 7) for block in blocks]}
    return {"epoch_losses": epochs, "final_loss": epochs[-1]["last"], "loss_curve": curve}


def _finite(value: Any) -> Any:
    """The value with null for every NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
