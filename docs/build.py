"""Builds the web book: `make book`. Its sources are the notebooks as they were executed, README, and the stored runs.

Nothing is run again. `book/` holds what was written for the book alone, with %NAMES in place of the tables and controls
that are made here from data/. All is assembled in build/book/source. README is the first page. In the notebooks the
input is hidden where it draws or prints a finding, and the finding is its picture's alternative text. A control needs
no kernel: every state that it can have is made here, as a picture or as text.
"""

import argparse
import html
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import torch
from build_notebooks import smaller
from matplotlib.figure import Figure

from scta_lab import load_runs
from scta_lab.base.files import ROOT
from scta_lab.base.words import arguments
from scta_lab.run.result import Result, read
from scta_lab.run.table import add_speedup, ratios
from scta_lab.study import labels, quality
from scta_lab.study.claims import claims
from scta_lite import figures, published_runs
from scta_lite.checks import printable

README = (ROOT / "README.md").read_text()
NOTEBOOKS = [ROOT / name for name in re.findall(r"^\| \[\w+\]\((notebooks/\w+\.ipynb)\)", README, re.M)]  # in its order
BUILT = ROOT / "build" / "book"
RUNS = ROOT / "data" / "runs"
STUDY, BENCH = RUNS / "two-cores" / "quality", RUNS / "intel-xeon-2-cores" / "bench"
SAMPLES = RUNS / "two-cores" / "stages" / "found" / "samples.json"
LEFT_ALONE = (  # of a text, where it gets no links: code, formulas, links, HTML, bold, headings, tables
    *(r"```.*?```", r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$]*\$", r"\[[^\]]*\]\([^)]*\)"),
    *(r"<[^>]*>", r"\*\*.*?\*\*", r"^#[^\n]*$", r"^\|[^\n]*$"),
)
RUN = "*-*-????????.json"  # a run's file
MOST_TYPED = 2_000  # words whose neighbours can be asked for


# --- tables


def table(rows: pd.DataFrame | Iterable[dict], align: str = "") -> str:
    """A table in Markdown; `align` has a letter for each column, l or r."""
    rows = pd.DataFrame(rows)
    dashes = {"": "---", "l": ":--", "r": "--:"}
    lines = [list(rows.columns), [dashes[side] for side in align or [""] * rows.shape[1]], *rows.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def notebook_link(name: str | None) -> str:
    there = name and (ROOT / "notebooks" / f"{name}.ipynb").is_file()
    return f"[{name[:2]}](../notebooks/{name}.ipynb)" if there else name or "–"


def known_claims() -> pd.DataFrame:
    return claims().fillna({"value": "–", "why": "", "settled_in": ""})


def claims_counted() -> str:
    counts = known_claims().verdict.value_counts()
    return f"Of {counts.sum()}: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}."


def claims_table() -> str:
    return table({"": f"[{c.id}](#{c.id.lower()})", "the paper says": c.claim, "verdict": f"**{c.verdict}**",
                  "in": notebook_link(c.settled_in)} for c in known_claims().itertuples())  # fmt: skip


def claims_in_full() -> str:
    """Each under a heading of its own, so that one can link to it."""

    def one(c: Any) -> Iterator[str]:
        yield f"({c.id.lower()})=\n## {c.id}: {c.verdict}"
        yield f"*The paper, {c.where}:* {c.claim}."
        yield f"*What we found:* {c.value}."
        yield c.why
        yield f"*Shown in* {notebook_link(c.settled_in or c.notebook)}."

    return "\n\n".join(part for c in known_claims().itertuples() for part in one(c))


def step_times() -> str:
    runs = load_runs(BENCH)
    found = ratios(runs[runs.corpus != "zipf"], method="semantic", optimizer="rows")
    return table(
        ({"V": figures.short(r.vocab), "method": figures.style(r.method, r.optimizer)["label"],
          "step, ms": f"{r.step_ms:,.0f}", "times SEMANTIC on rows": f"{r.ratio:.3g}",
          "its quartiles": f"{r.ratio_q1:.3g} to {r.ratio_q3:.3g}", "rounds": r.rounds} for r in found.itertuples()),
        "rlrrrr",
    )  # fmt: skip


def views() -> str:
    """What the study compares, a table for each, and the differences."""
    parts = []
    for view in (view for vocab in quality.vocabs(STUDY) for view in quality.views(STUDY, vocab)):
        against = view.compared({view.ce: f"NLL minus that of {view.ce}", "trigram": "NLL minus that of the trigram"})
        parts += [f"### V = {view.vocab:,}, after {view.name}", view_table(view),
                  table(against.rename_axis("").reset_index(), "lrr")]  # fmt: skip
    return "\n\n".join(parts)


def view_table(view: quality.View) -> str:
    shown = view.table.astype(float)

    def cells(row: pd.Series) -> dict[str, str]:
        def number(name: str, form: str) -> str:
            return format(row[name], form) if name in row and pd.notna(row[name]) else "–"

        spread = f" ± {row['NLL ± documents']:.2f}" if pd.notna(row["NLL ± documents"]) else ""
        return {"": row.name, "seeds": number("seeds", ".0f"), "steps": number("steps", ",.0f"),
                "seconds": number("seconds", ",.1f"), "NLL": number("NLL", ".3f") + spread,
                "calibrated": number("calibrated", ".3f"), "bits/byte": number("bits/byte", ".3f"),
                **{hit: number(hit, ".1%") for hit in ("Hit@1", "Hit@5", "Hit@10")}}  # fmt: skip

    return table([cells(row) for _, row in shown.iterrows()], "lrrrrrrrrr")


def stored_runs() -> str:
    """Every stored run, a line each, by folder."""
    parts = []
    for folder in sorted({path.parent for path in RUNS.rglob(RUN)}):
        runs = [Result.from_dict(read(path)) for path in sorted(folder.glob(RUN))]
        lines = [f"{run.run_id:<28} {_seconds(run):>9}  {' '.join(arguments(run.spec))}" for run in runs]
        versions = ", ".join(sorted({run.host["torch"] for run in runs}))
        parts.append(f"## {folder.relative_to(RUNS)}\n\n{len(runs)} runs, torch {versions}.")
        parts.append("```text\n" + "\n".join([f"{'run':<28} {'seconds':>9}  settings", *lines]) + "\n```")
    return "\n\n".join(parts)


def _seconds(run: Result) -> str:
    return f"{run.steps_run * run.step_ms / 1e3:,.1f}" if run.step_ms and run.steps_run else "–"


def drills() -> str:
    found = pd.read_csv(ROOT / "data" / "results" / "drill.csv", keep_default_na=False)
    return table(found.assign(tests=[f"`{t}`" if t else "–" for t in found.tests]).drop(columns="part"), "lrrl")


# --- notebooks


def terms(glossary: str) -> list[str]:
    """The words that the glossary explains, long ones first."""
    listed = glossary.partition("```{glossary}")[2].partition("```")[0]
    return sorted(re.findall(r"^(\S.*)$", listed, re.M), key=len, reverse=True)


def linked(markdown: str, words: list[str]) -> str:
    """The text with a link from the first use of each word, which is then taken off the list.

    Headings, code, formulas, links and bold text stay as they are.
    """
    pieces = re.split(f"({'|'.join(LEFT_ALONE)})", markdown, flags=re.S | re.M)
    for n in range(0, len(pieces), 2):
        for word in list(words):
            pattern = rf"(?<![\w{{`*-])({re.escape(word)})(?![\w`*}}-])"
            if "{term}" not in (found := pieces[n]) and re.search(pattern, found):
                pieces[n] = re.sub(pattern, f"{{term}}`{word}`", found, count=1)
                words.remove(word)
    return "".join(pieces)


def plain(markdown: str) -> str:
    """What the Markdown says, without its marks, on one line."""
    text = re.sub(r"\*\*What it shows\.?\*\*", "", markdown)
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[*`$|]|^- ", "", text, flags=re.M).split())


def finding(after: nbformat.NotebookNode) -> str:
    """What the cell after a picture says that it shows, at most 400 characters of it."""
    outputs = (output.get("data", {}).get("text/markdown", "") for output in after.get("outputs", ()))
    said = plain(after.source if after.cell_type == "markdown" else "".join(outputs))
    return said if len(said) <= 400 else said[:400].rsplit(" ", 1)[0] + " …"


def notebook(path: Path, words: list[str]) -> nbformat.NotebookNode:
    """The notebook as the book shows it."""
    book, words = nbformat.read(path, 4), list(words)
    for n, cell in enumerate(book.cells):
        if cell.cell_type == "markdown":
            cell.source = linked(cell.source, words)
            continue
        tags = cell.metadata.setdefault("tags", [])
        for output in cell.outputs:
            if "text/markdown" in output.get("data", {}):  # myst-nb takes a link in an output as it stands
                output.data["text/markdown"] = output.data["text/markdown"].replace(".ipynb)", ".html)")
        kinds = {kind for output in cell.outputs for kind in output.get("data", {})}
        source = cell.source.strip()
        if "text/markdown" in kinds and "image/png" not in kinds:
            tags.append("remove-input" if source.startswith(("Markdown(", "display(Markdown(")) else "hide-input")
        elif "image/png" in kinds or (
            source.startswith("def draw") or (not cell.outputs and len(source.splitlines()) > 14)
        ):
            tags.append("hide-input")
        if "interactive(" in source:
            tags.append("remove-cell")  # it needs a kernel: explore.md has those that do not
        if "image/png" in kinds:
            cell.metadata["mystnb"] = {"image": {"alt": finding(book.cells[n + 1])}}
    return book


# --- controls


def png(figure: Figure) -> bytes:
    made = io.BytesIO()
    figure.savefig(made, format="png", dpi=110, metadata={"Software": None})
    return smaller(made.getvalue())


def control(name: str, choices: dict[str, dict[str, str] | list[str]], frames: dict, **more) -> str:
    """A form: of each choice the label and its values (or, of a list, words to type), and what each of them shows."""
    fields = []
    for n, (label, values) in enumerate(choices.items()):
        at = f"{name}-{n}"
        typed = not isinstance(values, dict)
        named = dict.fromkeys(values, "") if typed else values
        options = "".join(f'<option value="{html.escape(v)}">{html.escape(said)}</option>' for v, said in named.items())
        if typed:
            first = html.escape(values[0])
            field = f'<input id="{at}" list="{at}-all" value="{first}" autocomplete="off">'
            fields.append(f'<label for="{at}">{label} {field}</label><datalist id="{at}-all">{options}</datalist>')
        else:
            fields.append(f'<label for="{at}">{label} <select id="{at}">{options}</select></label>')
    kept = json.dumps({"frames": frames, **more}, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    form = (f'<form class="control" id="{name}" aria-label="{name.replace("-", " ")}">{"".join(fields)}'
            f'<output aria-live="polite"></output><script type="application/json">{kept}</script></form>')  # fmt: skip
    return f"```{{raw}} html\n{form}\n```"


def points_said(runs: pd.DataFrame, column: str, form: Callable[[float], str]) -> str:
    """The medians of a column, in words: by method, at each V."""
    said = []
    for (method, optimizer), part in runs.assign(optimizer=runs.get("optimizer", "dense")).fillna(
        {"optimizer": "dense"}).groupby(["method", "optimizer"], sort=False):  # fmt: skip
        values = part.groupby("vocab")[column].median().dropna()
        at = ", ".join(f"{form(value)} at {figures.short(V)}" for V, value in values.items())
        said.append(f"{figures.style(method, optimizer)['label']}: {at or 'no number'}.")
    return " ".join(said)


class Frames:
    """The frames of one control; pictures are files beside the pages."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder, self.frames = name, folder, {}

    def add(self, key: str, figure: Figure, says: str) -> None:
        file = f"{self.name}-{len(self.frames)}.png"
        (self.folder / file).write_bytes(png(figure))
        self.frames[key] = {"says": says, "picture": f"../_static/frames/{file}"}


def on_gpu() -> pd.DataFrame:
    """The last training of each kind on an H200, as in notebook 05, told apart by whether its steps were captured."""
    runs = add_speedup(figures.by_kind(pd.concat([load_runs(RUNS / "h200" / part) for part in ("paper", "rows")])))
    return runs.sort_values("date").drop_duplicates(["vocab", "method", "optimizer"], keep="last")


def gpu_times() -> str:
    runs = on_gpu().sort_values(["vocab", "step_ms"])
    ce = runs[(runs.method == "ce")].set_index("vocab").step_ms
    return table(
        ({"V": figures.short(r.vocab), "method": figures.style(r.method, r.optimizer)["label"],
          "step, ms": f"{r.step_ms:.2f}", "its quartiles": f"{r.step_ms_q1:.2f} to {r.step_ms_q3:.2f}",
          "times as fast as CE": f"{ce[r.vocab] / r.step_ms:.2f}",
          "joules": "–" if pd.isna(r.energy_joules) else f"{r.energy_joules / r.steps_run:.2f}"}
         for r in runs.itertuples()),
        "rlrrrr",
    )  # fmt: skip


def figure_chooser(folder: Path) -> str:
    """04's figures, of each machine."""
    kept, published, runs = Frames("figures", folder), published_runs(), load_runs(BENCH)
    mine = runs[(runs.corpus != "zipf") & (runs.method.isin(["ce", "semantic"])) & (runs.optimizer != "sparse")]
    machines = {"a6000": ("RTX A6000, published", published[published.machine == "RTX A6000"]),
                "4070": ("RTX 4070 Laptop, published", published[published.machine == "RTX 4070 Laptop"]),
                "here": ("two cores of an Intel Xeon, ours", mine), "h200": ("H200, ours", on_gpu())}  # fmt: skip
    kinds = {"throughput": ("tokens a second", figures.throughput, "tokens_per_s"),
             "time": ("seconds for the whole training", figures.training_time, "seconds"),
             "speedup": ("times as fast as CE", figures.speedup, "speedup")}  # fmt: skip
    for kind, (label, draw, column) in kinds.items():
        for machine, (name, of) in machines.items():
            says = points_said(of[of.method != "ce"] if kind == "speedup" else of, column, figures.short)
            kept.add(f"{kind}|{machine}", draw(of), f"{label[0].upper()}{label[1:]}, {name}. {says}")
    choices = {"Figure": {kind: label for kind, (label, *_) in kinds.items()},
               "Machine": {machine: name for machine, (name, _) in machines.items()}}  # fmt: skip
    return control("figures", choices, kept.frames)


def cost_chooser(folder: Path) -> str:
    """05's time and memory of a step against V, a method at a time, between CE and the backbone."""
    kept, runs = Frames("cost", folder), load_runs(BENCH)
    runs = runs[runs.corpus != "zipf"]
    runs = runs.assign(gb=runs.peak_memory_bytes.astype(float) / 1e9)
    pairs = [(m, o) for m, o in figures.METHODS if ((runs.method == m) & (runs.optimizer == o)).any()]
    ends = {("ce", "dense"), ("backbone", "dense")}
    columns = {"step": ("step_ms", "milliseconds a step", lambda x: f"{x:,.0f} ms"),
               "memory": ("gb", "peak memory (GB)", lambda x: f"{x:.1f} GB")}  # fmt: skip
    for key, (column, label, form) in columns.items():
        for pair in pairs:
            of = runs[[(m, o) in ends | {pair} for m, o in zip(runs.method, runs.optimizer, strict=True)]]
            drawn = figures.against_vocab(of.assign(extrapolated=False), column, label)
            kept.add(
                f"{key}|{'/'.join(pair)}", drawn, f"{label[0].upper()}{label[1:]}. {points_said(of, column, form)}"
            )
    choices = {"Measure": {key: label for key, (_, label, _) in columns.items()},
               "Method": {"/".join(pair): figures.style(*pair)["label"] for pair in pairs}}  # fmt: skip
    return control("cost", choices, kept.frames)


def quality_chooser(folder: Path) -> str:
    """06's quality during training."""
    kept = Frames("quality", folder)
    metrics = {"nll": "NLL, nats", "bits_per_byte": "bits per byte", "hit@1": "Hit@1", "hit@10": "Hit@10"}
    views = {f"{V}/{view.name}": view for V in quality.vocabs(STUDY) for view in quality.views(STUDY, V)}
    for at, view in views.items():
        runs = pd.DataFrame([of[0] for of in view.rows.values()])
        runs["step_ms"] = [view.step_ms[row] for row in view.rows]
        for metric, label in metrics.items():
            ends = {row: of[0]["validation"][-1][metric] for row, of in view.rows.items()}
            order = sorted(ends, key=ends.get, reverse=metric.startswith("hit"))
            form = ".1%" if metric.startswith("hit") else ".3f"
            said = ", ".join(f"{row} {ends[row]:{form}}" for row in order)
            says = f"{label} on validation text, V = {view.vocab:,}. After {view.name}, best first: {said}."
            for x in ("steps", "seconds"):
                kept.add(f"{at}|{metric}|{x}", labels.quality(runs, metric, x), f"Against {x}: {says}")
    choices = {"V and length": {at: f"V = {view.vocab:,}, {view.name}" for at, view in views.items()},
               "Metric": metrics, "Against": {"steps": "steps", "seconds": "seconds"}}  # fmt: skip
    return control("quality", choices, kept.frames)


def words_chooser() -> str:
    """06's nearest tokens of a word: those of the 2,000 most frequent."""
    space = np.load(STUDY / "space.npz")
    labels = [name for name in space.files if name not in ("words", "counts")]
    frequent = [i for i in np.argsort(-space["counts"], kind="stable").tolist() if i >= 256][:MOST_TYPED]
    frames: dict[str, list[int]] = {}
    for label in labels:
        rows = torch.nn.functional.normalize(torch.from_numpy(space[label]).float(), dim=1)
        near = (rows[frequent] @ rows.T).topk(9).indices[:, 1:].tolist()
        frames |= {f"{space['words'][i]}|{label}": found for i, found in zip(frequent, near, strict=True)}
    typed = [str(space["words"][i]) for i in frequent]
    typed.sort(key=lambda word: word != " return")  # the first is what is shown at first
    words = [printable(str(word)) for word in space["words"]]
    return control(
        "nearest-words", {"Word": typed, "Vectors of": {label: label for label in labels}}, frames, words=words
    )


def samples_chooser() -> str:
    """07's samples."""
    samples = json.loads(SAMPLES.read_text())
    frames = {f"{s['model']}|{s['prompt']}": {"says": s["text"]} for s in samples}
    choices = {label: {s[label.lower()]: s[label.lower()] for s in samples} for label in ("Model", "Prompt")}
    return control("samples", choices, frames)


# --- the whole


GROUPS = {  # the order of the pages
    "The companion": [f"notebooks/{path.stem}" for path in NOTEBOOKS],
    "Look for yourself": ["book/explore"],
    "What was found": ["book/claims", "book/results"],
    "To use": ["book/use", "book/api", "book/glossary"],
    "To check": ["data/README", "book/reproduce", "book/faults", "CONTRIBUTING", "CHANGELOG"],
}


def contents() -> str:
    """The pages in order, for the side of each page."""
    trees = [f":hidden:\n:caption: {name}\n\n" + "\n".join(pages) for name, pages in GROUPS.items()]
    return "\n\n".join(f"```{{toctree}}\n{tree}\n```" for tree in trees)


def assemble(source: Path) -> None:
    """Writes all that Sphinx reads, in the folders of the repository, so that the links between the files hold."""
    shutil.rmtree(source, ignore_errors=True)
    frames = source / "static" / "frames"
    frames.mkdir(parents=True)
    for name in ("book", "figures", "data/README.md", "LICENSE", "CITATION.cff", "CONTRIBUTING.md", "CHANGELOG.md"):
        path = ROOT / name
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(path, source / name) if path.is_dir() else shutil.copy(path, source / name)
    (source / "book" / "conf.py").rename(source / "conf.py")
    for path in (source / "book" / "static").iterdir():
        path.rename(source / "static" / path.name)
    made = {
        "CLAIMS_COUNTED": claims_counted, "CLAIMS_TABLE": claims_table, "CLAIMS": claims_in_full,
        "STEP_TIMES": step_times, "GPU_TIMES": gpu_times, "VIEWS": views, "RUNS": stored_runs, "DRILLS": drills,
        "FIGURES": partial(figure_chooser, frames), "COST": partial(cost_chooser, frames),
        "QUALITY": partial(quality_chooser, frames), "WORDS": words_chooser, "SAMPLES": samples_chooser,
    }  # fmt: skip
    for page in (source / "book").glob("*.md"):
        page.write_text(re.sub(r"%([A-Z]{4}[A-Z_]*)\b", lambda found: made[found[1]](), page.read_text()))
    (source / "index.md").write_text(f"{README}\n\n{contents()}\n")
    words = terms((source / "book" / "glossary.md").read_text())
    (source / "notebooks").mkdir()
    for path in NOTEBOOKS:
        nbformat.write(notebook(path, words), source / "notebooks" / path.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BUILT, help="folder (default: build/book)")
    out = parser.parse_args().out
    assemble(out / "source")
    shutil.rmtree(out / "html", ignore_errors=True)
    subprocess.run(
        [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", out / "source", out / "html"], check=True
    )
    print(f"The book: {out / 'html' / 'index.html'}")


if __name__ == "__main__":
    main()
