"""A stored run with its model, and the second stage that begins from one."""

from pathlib import Path

import torch

from scta_lab.base import weights
from scta_lab.base.spec import SHAPE, Spec
from scta_lab.judge import evaluate
from scta_lab.judge.evaluate import HeldOut
from scta_lab.run.loop import LabRun, initial_model
from scta_lab.run.result import Result, read

# The settings in which both stages agree, as their models and scores do.
MUST_AGREE = ("vocab", "method", *SHAPE, "semantic_dim", "sampler", "scores", "log_unigram")


def load(folder: str | Path, run_id: str | None = None) -> Result:
    """The run that `Result.save` wrote into the folder, with its model if that was saved.

    `run_id` may be left out where the folder holds one run. FileNotFoundError names what is there.
    """
    paths = sorted(Path(folder).glob("*.json"))
    if run_id is None and len(paths) == 1:
        run_id = paths[0].stem
    path = Path(folder) / f"{run_id}.json"
    if path not in paths:  # so that no id, such as "../other/run", leads out of the folder
        expected = f"expected one of {[p.stem for p in paths]}, the runs in {folder}"
        raise FileNotFoundError(f"run_id={run_id!r}: {expected}")
    result = Result.from_dict(read(path))
    model_path = path.with_suffix(".safetensors")
    if model_path.is_file():
        result.model = initial_model(result.spec, None, torch.device("cpu"))
        try:
            result.model.load_state_dict(weights.read(model_path)[0])
        except RuntimeError as error:  # other names, or other sizes
            message = f"{model_path.name}: not the model of this run ({error})"
            raise ValueError(message) from None
    return result


def begin_second_stage(run: LabRun, held: HeldOut | None, fingerprint: str) -> None:
    """Gives the run's model what the first stage left; its token head begins as the Spec says."""
    spec, model = run.spec, run.model
    first = first_stage(spec, fingerprint).model.to(run.device)
    for name in ("embed", "widen", "backbone"):
        getattr(model, name).load_state_dict(getattr(first, name).state_dict())
    if not spec.token_head:
        model.head.load_state_dict(first.head.state_dict())
    elif spec.token_head != "random":
        model.head.begin(first.head)
    if spec.token_head == "plain":
        if held is None:
            expected = "expected held-out text, on which its scale is fitted"
            raise ValueError(f"token_head='plain': {expected}")
        scale = evaluate.best_scale(model, held.validation, offset=model.head.take_prior())
        model.head.begin(first.head, scale)


def first_stage(spec: Spec, fingerprint: str) -> Result:
    """The run of the Spec's first stage; ValueError for one that this Spec cannot begin from."""
    path = Path(spec.stage1)
    first = load(path.parent, path.stem)
    different = [name for name in MUST_AGREE if getattr(first.spec, name) != getattr(spec, name)]
    if first.fingerprint != fingerprint:
        different.append("corpus")
    if first.model is None or different or first.spec.token_head:
        same = ", ".join(different or MUST_AGREE)
        expected = f"expected a first stage saved with its model, and with the same {same}"
        raise ValueError(f"stage1={path.name!r}: {expected}")
    return first
