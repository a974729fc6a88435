"""The tables and figures of a campaign on a GPU."""

import pandas as pd

from campaign import Campaign
from scta_lab.base.files import replace_file
from scta_lab.run.table import ratios
from scta_lab.study import figures
from scta_lite import published_runs

KIND = ["vocab", "precision", "method", "optimizer", "captured"]


def report(campaign: Campaign) -> str:
    """The tables of this campaign's runs; with their figures they are in the folder too."""
    folder = campaign.out / "found"
    pieces = []
    timed = campaign.runs.get("bench", []) + campaign.runs.get("rounds", [])
    if timed:
        pieces.append(step_times(pd.DataFrame(timed)))
    for part in ("race", "padded"):
        if campaign.runs.get(part):
            pieces.append(judged(pd.DataFrame(campaign.runs[part])))
    if campaign.runs.get("paper"):
        runs = pd.DataFrame(campaign.runs["paper"])
        pieces += trainings(runs)
        dense = runs[(runs.optimizer == "dense") & runs.method.isin(("ce", "semantic"))]
        if dense.seconds.notna().any():
            figures.save(figures.throughput(dense), folder / "fig_throughput")
            figures.save(figures.training_time(dense), folder / "fig_time")
    if (folder / "kernels.csv").is_file():
        pieces.append(pd.read_csv(folder / "kernels.csv").to_string(index=False))
    pieces += campaign.left_out
    whole = "\n\n".join(pieces)
    replace_file(folder / "table.txt", whole.encode())
    return whole


def step_times(runs: pd.DataFrame) -> str:
    table = ratios(runs)
    table = table.sort_values(["vocab", "step_ms"])
    columns = [*KIND, "step_ms", "step_ms_q1", "step_ms_q3", "ratio", "rounds"]
    table = table.reindex(columns=columns).dropna(axis="columns", how="all")
    return table.to_string(index=False, float_format="{:.3f}".format)


def judged(runs: pd.DataFrame) -> str:
    """Trainings with what their models are worth on held-out text."""
    nll = [(quality or {}).get("nll") for quality in runs.full_vocab]
    columns = [*KIND, "steps_run", "seconds", "final_loss", "nll", "status"]
    return runs.assign(nll=nll).reindex(columns=columns).to_string(index=False)


def trainings(runs: pd.DataFrame) -> list[str]:
    """The paper's table with these runs beside it, and their times and memory."""
    ce = runs[(runs.method == "ce") & (runs.optimizer == "dense")]
    runs["speedup"] = runs.vocab.map(ce.set_index("vocab").seconds) / runs.seconds
    published = published_runs()
    machines = published.machine + " (published)"
    both = pd.concat([runs, published.assign(machine=machines, optimizer="dense")])
    columns = [*KIND, "step_ms", "seconds", "energy_joules", "peak_memory_bytes"]
    times = runs.reindex(columns=columns).sort_values(["vocab", "method"])
    return [figures.results_table(both).to_string(index=False), times.to_string(index=False)]
