"""What one run found: `Result`, which is one JSON file."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from scta_lab.base.files import printable, remove, replace_file, set_aside
from scta_lab.base.spec import Spec
from scta_lab.base.weights import write

CHECKPOINT = ".checkpoint.safetensors"  # how the name of a run's unfinished state ends
ATTEMPT = ".json.attempt"  # and the name of a run that was not to replace the "ok" one there
STATUSES = ("ok", "out_of_memory", "killed", "failed", "skipped")
NUMBERS = {
    int: int,
    int | None: int,
    float | None: (int, float),
}  # what JSON has for a field's type
FORMER = {"eval_every_s": None, "learn_temperature": False, "end_factor": 0.1}  # settings that were
AVERAGED = 50  # steps at an epoch's start and end over which a loss is averaged


@dataclass(kw_only=True)
class Result:
    """What one run found.

    Times are medians over the steps after the warm-up. What was not measured is None.
    """

    spec: Spec
    status: str  # one of STATUSES
    reason: str | None = None  # why it is not "ok"
    fingerprint: str  # of the corpus
    corpus: str  # its name
    examples_available: int | None = None  # different ones in the text; an epoch of more cycles
    captured: bool = False  # whether the steps were replays of one CUDA graph
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
    extrapolated: bool | None = None  # fewer steps were run: `seconds` is step_ms × steps_total
    tokens_per_s: float | None = None  # predicted positions over `seconds`
    examples_per_s: float | None = None
    peak_memory_bytes: int | None = None
    peak_memory_of: str | None = None  # "CUDA allocator" or "process RSS"
    needed_memory_bytes: int | None = None  # predicted by cost.memory_bytes
    free_memory_bytes: int | None = None  # before the run
    energy_joules: float | None = None  # that the GPU took for the steps run
    # Of each epoch: its number, first and last (nats), the steps averaged for each, and its steps.
    epoch_losses: list[dict] = field(default_factory=list)
    final_loss: float | None = None  # the last epoch's `last`
    loss_curve: dict | None = None  # step, loss: means of at most 100 equal blocks, nats
    full_vocab: dict | None = None  # metrics on the test half of the held-out text
    # On the other half: step, seconds of training, and metrics.
    validation: list[dict] = field(default_factory=list)
    # The metrics of the test half with scores times `scale`, which validation chose.
    calibrated: dict | None = None
    controls: dict | None = None  # the test half's, of the unigram and of constant scores
    # Sums over the test half's positions of each document, as `uncertainty` reads them.
    by_document: dict | None = None
    machine: str | None = None
    host: dict = field(default_factory=dict)  # threads, memory, versions, git commit
    date: str | None = None  # UTC
    model: Any = field(default=None, repr=False, compare=False)

    @property
    def run_id(self) -> str:
        return self.spec.run_id(self.fingerprint)

    def to_dict(self) -> dict:
        """The run as its JSON file holds it: every field of the Spec, then what was found."""
        settings = asdict(self.spec)
        if self.spec.stage1:  # a file counts by its name, never by its path
            settings["stage1"] = Path(self.spec.stage1).name
        measured = {name: getattr(self, name) for name in measured_fields()}
        return {"run_id": self.run_id, **settings, **measured}

    @staticmethod
    def from_dict(run: dict) -> "Result":
        """The inverse of `to_dict`; fields that this version does not know are dropped."""
        settings = {f.name: run[f.name] for f in fields(Spec) if f.name in run}
        measured = {name: run[name] for name in measured_fields() if name in run}
        return Result(spec=Spec(**settings), **measured)

    def save(self, folder: str | Path) -> Path:
        """Writes `<run id>.json`, and `<run id>.safetensors` if there is a model.

        Each is written whole or not at all. A run that is "ok" removes what the unfinished one left
        in the folder, and sets an earlier model aside if it has none. One that is not leaves these,
        and replaces no run that was trained to its end: it is written beside it, as
        `<run id>.json.attempt`.

        Where there is no room for the model, the run is written all the same, and its checkpoint
        stays; then OSError, which names the file.
        """
        path = Path(folder) / f"{self.run_id}.json"
        model_path = path.with_suffix(".safetensors")
        content = json.dumps(_finite(self.to_dict()), indent=1, ensure_ascii=False).encode()
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.status != "ok" and is_trained(path):
            replace_file(path.with_suffix(ATTEMPT), content)
            return path.with_suffix(ATTEMPT)
        replace_file(path, content)
        remove(path.with_suffix(ATTEMPT))
        if self.model is not None:
            write(model_path, self.model.state_dict())
        if self.status == "ok":
            if self.model is None and model_path.is_file():
                set_aside(model_path)
            remove(path.with_suffix(CHECKPOINT))
        return path


def measured_fields() -> list[str]:
    """The names of a Result's fields that stand in its file beside the Spec's."""
    return [f.name for f in fields(Result) if f.name not in ("spec", "model")]


def is_trained(path: Path) -> bool:
    """Whether a run that was trained to its end, judged or not, has this file."""
    try:
        run = read(path)
        return run["status"] == "ok" or run.get("final_loss") is not None
    except (OSError, ValueError):
        return False


def read(path: Path) -> dict:
    """A run's file as `Result.save` wrote it.

    Settings that came later have the defaults that it was run with. ValueError names a file that
    is no run's: no JSON, without a status that there is, with text where a number belongs, or of
    another run than its name says.
    """
    try:
        run = json.loads(path.read_bytes())
        later = _later_settings(run, path.stem)
        _refuse_markup(run)
        return run | later
    except (FileNotFoundError, NotADirectoryError):
        raise
    except KeyError as error:
        reason = f"it has no {error}"
    except (OSError, ValueError, TypeError, RecursionError) as error:
        reason = str(error) or type(error).__name__
    raise ValueError(f"{path.name}: not a run's file ({reason})")


def _refuse_markup(run: dict) -> None:
    """ValueError for words that would act where they are shown: in a terminal, or in the book."""
    host = run.get("host") or {}
    shown = {name: run.get(name) for name in ("machine", "corpus", "reason")} | host
    for name, text in shown.items():
        acts = name != "reason" and "<" in str(text)
        if acts or printable(str(text)) != str(text):
            raise ValueError(f"{name}={text!r}: expected plain words")


def _later_settings(run: Any, run_id: str) -> dict:
    """Settings that a run's file has not got yet; ValueError for what is not that run's."""
    if not isinstance(run, dict) or run.get("status") not in STATUSES:
        raise ValueError("it has no status that there is")
    for f in fields(Result):
        value = run.get(f.name)
        if value is not None and not isinstance(value, NUMBERS.get(f.type, object)):
            raise ValueError(f"{f.name}={value!r}: expected a number")
    for name, default in FORMER.items():
        if run.get(name, default) != default:
            raise ValueError(f"{name}={run[name]!r}: a setting that is no longer there")
    result = Result.from_dict(run)
    if result.run_id != run_id:
        raise ValueError(f"it is of the run {result.run_id}")
    later = {f.name: getattr(result.spec, f.name) for f in fields(Spec) if f.name not in run}
    return {"captured": run.get("captured", bool(result.spec.capture)), **later}


def loss_summary(losses: list[float], spec: Spec) -> dict:
    """The losses of each epoch, begun ones too, and the curve, in nats."""
    epochs = []
    for start in range(0, len(losses), spec.epoch_steps):
        epoch = losses[start : start + spec.epoch_steps]
        averaged = min(AVERAGED, (len(epoch) + 1) // 2)  # of a short epoch each half
        means = {"first": np.mean(epoch[:averaged]), "last": np.mean(epoch[-averaged:])}
        counts = {"averaged": averaged, "steps": len(epoch)}
        epochs.append({"epoch": len(epochs) + 1, **means, **counts})
    blocks = np.array_split(losses, min(100, len(losses)))
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
