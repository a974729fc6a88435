"""The tables of the web book, in Markdown, from what is stored in data/."""

from functools import cache

import pandas as pd

from scta_lab import load_runs
from scta_lab.base.files import ROOT
from scta_lab.base.words import arguments
from scta_lab.run.result import Result, read
from scta_lab.run.table import ratios
from scta_lab.study import figures, quality
from scta_lab.study.claims import claims
from scta_lite.sweep import add_speedup

RUNS = ROOT / "data" / "runs"
STUDY = RUNS / "two-cores" / "quality"
BENCH = RUNS / "amd-epyc-2-cores" / "bench"
A_RUN = "*-*-????????.json"  # a run's file
LINE = "{:<28} {:>9}  {}"
SIDES = {"l": ":--", "r": "--:"}
FORMATS = {"seeds": ".0f", "steps": ",.0f", "seconds": ",.1f"}  # of a comparison's columns
FORMATS |= dict.fromkeys(("NLL", "calibrated", "bits/byte"), ".3f")
FORMATS |= dict.fromkeys(("Hit@1", "Hit@5", "Hit@10"), ".1%")
SPREAD = "NLL ± documents"


def table(rows: pd.DataFrame | dict, align: str = "") -> str:
    """A table in Markdown; `align` has a letter for each column, l or r."""
    rows = pd.DataFrame(rows).astype(str).replace(r"\|", r"\\|", regex=True)
    rule = [SIDES[side] for side in align] or ["---"] * rows.shape[1]
    lines = [rows.columns, rule, *rows.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form)


def method(run: object) -> str:
    return figures.style(run.method, run.optimizer)["label"]


# --- the claims


def known_claims() -> pd.DataFrame:
    return claims().fillna({"value": "–", "why": ""})


def notebook_link(name: str) -> str:
    """To the notebook of this name, a lesson or the laboratory's: a short one."""
    home = ROOT / "notebooks"
    for path in [*home.glob(f"{name}.ipynb"), *home.glob(f"lab/{name}.ipynb")]:
        short = path.relative_to(home).as_posix().partition("_")[0]
        return f"[{short}](../{path.relative_to(ROOT).as_posix()})"
    return name or "–"


def claims_counted() -> str:
    counts = known_claims().verdict.value_counts()
    verdicts = [f"{n} {verdict}" for verdict, n in counts.items()]
    return f"Of {counts.sum()}: {', '.join(verdicts)}."


def claims_table() -> str:
    known = known_claims()
    columns = {
        "": [f"[{name}](#{name.lower()})" for name in known.id],
        "the paper says": known.claim,
        "verdict": "**" + known.verdict + "**",
        "in": known.notebook.map(notebook_link),
    }
    return table(columns)


def claims_in_full() -> str:
    """Each under a heading of its own, so that one can link to it."""
    parts = []
    for claim in known_claims().itertuples():
        parts += [
            f"({claim.id.lower()})=\n## {claim.id}: {claim.verdict}",
            f"*The paper, {claim.where}:* {claim.claim}.",
            f"*What we found:* {claim.value}.",
            claim.why,
            f"*Shown in* {notebook_link(claim.notebook)}.",
        ]
    return "\n\n".join(parts)


# --- times


def step_times() -> str:
    runs = load_runs(BENCH)
    runs = ratios(runs[runs.corpus != "zipf"], method="semantic", optimizer="rows")
    spread = zip(runs.ratio_q1, runs.ratio_q3, strict=True)
    columns = {
        "V": runs.vocab.map(figures.short),
        "method": [method(run) for run in runs.itertuples()],
        "step, ms": runs.step_ms.map("{:,.0f}".format),
        "times row-sparse SEMANTIC": runs.ratio.map("{:.3g}".format),
        "its quartiles": [f"{low:.3g} to {high:.3g}" for low, high in spread],
        "rounds": runs.rounds,
    }
    return table(columns, "rlrrrr")


def on_gpu() -> pd.DataFrame:
    """The last training of each kind on an H200, as in notebook 04; captured steps are a kind."""
    runs = pd.concat([load_runs(RUNS / "h200" / part) for part in ("paper", "rows")])
    runs = add_speedup(figures.by_kind(runs)).sort_values("date")
    return runs.drop_duplicates(["vocab", "method", "optimizer"], keep="last")


def gpu_times() -> str:
    runs = on_gpu().sort_values(["vocab", "step_ms"])
    ce = runs[runs.method == "ce"].set_index(["vocab", "captured"]).step_ms
    ce_ms = ce.reindex(pd.MultiIndex.from_frame(runs[["vocab", "captured"]])).to_numpy()
    joules = runs.energy_joules / runs.steps_run
    spread = zip(runs.step_ms_q1, runs.step_ms_q3, strict=True)
    columns = {
        "V": runs.vocab.map(figures.short),
        "method": [method(run) for run in runs.itertuples()],
        "step, ms": runs.step_ms.map("{:.2f}".format),
        "its quartiles": [f"{low:.2f} to {high:.2f}" for low, high in spread],
        "times as fast as CE, captured or not alike": [
            number(x, ".2f") for x in ce_ms / runs.step_ms
        ],
        "joules": [number(value, ".2f") for value in joules],
    }
    return table(columns, "rlrrrr")


# --- quality


@cache
def equal_steps() -> dict[int, quality.View]:
    """By V what was trained for equal steps, the most of them."""
    views = {V: quality.views(STUDY, V) for V in quality.vocabs(STUDY)}
    return {V: [view for view in of if view.name.endswith("steps")][-1] for V, of in views.items()}


def comparisons() -> str:
    """A table for each view of the study, and the differences."""
    parts = []
    for view in [view for vocab in quality.vocabs(STUDY) for view in quality.views(STUDY, vocab)]:
        others = {other: f"NLL minus that of {other}" for other in (view.ce, "trigram")}
        differences = view.compared(others).rename_axis("").reset_index()
        heading = f"### V = {view.vocab:,}, after {view.name}"
        parts += [heading, view_table(view), table(differences, "lrr")]
    return "\n\n".join(parts)


def view_table(view: quality.View) -> str:
    shown = view.table.astype(float).reindex(columns=[*FORMATS, SPREAD])
    columns = {"": shown.index}
    for name, form in FORMATS.items():
        columns[name] = [number(value, form) for value in shown[name]]
    for n, spread in enumerate(shown[SPREAD]):
        if pd.notna(spread):
            columns["NLL"][n] += f" ± {spread:.2f}"
    return table(columns, "lrrrrrrrrr")


# --- runs


def stored_runs() -> str:
    """Every stored run, a line each, by folder."""
    parts = []
    for folder in sorted({path.parent for path in RUNS.rglob(A_RUN)}):
        runs = [Result.from_dict(read(path)) for path in sorted(folder.glob(A_RUN))]
        versions = ", ".join(sorted({run.host["torch"] for run in runs}))
        parts.append(f"## {folder.relative_to(RUNS)}\n\n{len(runs)} runs, torch {versions}.")
        listed = [LINE.format("run", "seconds", "settings"), *map(line, runs)]
        parts.append("\n".join(["```text", *listed, "```"]))
    return "\n\n".join(parts)


def line(run: Result) -> str:
    return LINE.format(run.run_id, whole_seconds(run), " ".join(arguments(run.spec)))


def whole_seconds(run: Result) -> str:
    if not run.step_ms or not run.steps_run:
        return "–"
    return f"{run.steps_run * run.step_ms / 1e3:,.1f}"


def drills() -> str:
    rows = pd.read_csv(ROOT / "data" / "results" / "drill.csv", keep_default_na=False)
    tests = [f"`{names}`" if names else "–" for names in rows.tests]
    return table(rows.assign(tests=tests).drop(columns="part"), "lrrl")
