"""What README and the project's files promise is there."""

import json
import re
import subprocess
import sys
import tomllib

import pytest
from conftest import CHAT

from scta_lite import PAPER, load_runs
from scta_lite.claims import claims
from scta_lite.figures import style
from scta_lite.files import ROOT
from scta_lite.runs.table import ratios

README = (ROOT / "README.md").read_text()
AMD = ROOT / "data" / "runs" / "amd-epyc-2-cores"
BENCH = ROOT / "data" / "runs" / "intel-xeon-2-cores" / "bench"


def test_links_and_pictures_exist():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert len(links) > 5
    assert not [link for link in links if not link.startswith("https://doi.org/") and not (ROOT / link).exists()]


def test_both_records_are_cited():
    for name in ("README.md", "CITATION.cff"):
        text = (ROOT / name).read_text()
        assert "10.5281/zenodo.17931292" in text, name
        assert "10.17605/OSF.IO/MRKPU" in text, name


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"make ([a-z]+)(?=[`\s]+(?:#|lists|opens))", README)) <= targets
    assert {"help", "demo", "lab", "test", "lint", "notebooks", "bench"} <= targets


def reading_order():
    """The modules as README's table lists them, and the file of each."""
    table = re.search(r"The package reads.*?\n\n.*?\n\n", README, re.S)[0]
    return re.findall(r"`([\w/]*[\w])`", table.partition("\n\n")[2])


def test_every_module_is_in_the_reading_order():
    modules = {p.relative_to(ROOT / "scta_lite").with_suffix("").as_posix()
               for p in (ROOT / "scta_lite").rglob("[a-z]*.py")}  # fmt: skip
    assert modules == set(reading_order())


def test_modules_import_only_from_those_above():
    order = reading_order()
    last = {name.split("/")[0]: i for i, name in enumerate(order)}  # a folder counts as the last of its modules
    for here, name in enumerate(order):
        text = (ROOT / "scta_lite" / f"{name}.py").read_text()
        used = [module.replace(".", "/") for module in re.findall(r"^from scta_lite\.([\w.]+) import", text, re.M)]
        for folder, names in re.findall(r"^from scta_lite(?:\.(\w+))? import (.*)$", text, re.M):
            used += [f"{folder}/{module}" if folder else module for module in names.split(", ")]
        places = [order.index(module) if module in order else last.get(module, -1) for module in used]
        assert all(place < here for place in places), name


def test_conda_and_pip_install_the_same():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    makefile = (ROOT / "Makefile").read_text()
    torch = re.search(r"^TORCH := (.*)$", makefile, re.M)[1]  # what is tested; the package takes any later one
    assert torch.split(",")[0] in project["dependencies"]
    pip = {*project["dependencies"], *project["optional-dependencies"]["dev"], torch} - {torch.split(",")[0]}
    lines = re.findall(r"^  - (\S+)$", (ROOT / "environment.yml").read_text(), re.M)
    conda = {line.replace("pytorch", "torch") for line in lines} - {"conda-forge", "nodefaults", "pip"}
    python = {line for line in conda if line.startswith("python>")}
    assert conda - python == pip
    assert python == {f"python{project['requires-python']},<3.14"}


@pytest.mark.parametrize("module", ["train", "sweep"])
def test_help_explains_every_setting(module):
    command = [sys.executable, "-W", "error", "-m", f"scta_lite.{module}", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "--weight-decay" in done.stdout


def test_data_dictionary_knows_every_field():
    from scta_lite.runs.result import Result

    dictionary = (ROOT / "data" / "README.md").read_text()
    for name in Result.__dataclass_fields__:
        if name not in ("spec", "model"):
            assert re.search(rf"^\|[^|]*\b{name}\b", dictionary, re.M), name


def test_the_python_example_runs():
    first, rows, _ = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(first.replace("vocab=50_000", 'vocab=2_000, corpus="zipf"'), {})
    exec(rows.replace("_000", "0"), {})


def test_the_three_stages_run(tmp_path, monkeypatch):
    """On a small chat file, with few steps."""
    monkeypatch.chdir(tmp_path)
    code = re.findall(r"```python\n(.*?)```", README, re.S)[2]
    small = {"8_192, steps=600": f"400, steps=4, corpus={str(CHAT)!r}", "steps=200": "steps=4", "8_192": "400",
             "text.load()": f"text.load({str(CHAT)!r})"}  # fmt: skip
    for wanted, instead in small.items():
        assert wanted in code, wanted
        code = code.replace(wanted, instead)
    exec(code, {})


def test_the_table_of_step_times_is_that_of_the_stored_rounds():
    runs = load_runs(BENCH)
    table = ratios(runs[runs.corpus != "zipf"], method="semantic", optimizer="rows")
    for run in table.itertuples():
        (line,) = re.findall(rf"^\| {style(run.method, run.optimizer)['label']} \|.*$", README, re.M)
        rows = (run.method, run.optimizer) == ("semantic", "rows")
        times = "1" if rows else f"{run.ratio:.3g} [{run.ratio_q1:.3g}–{run.ratio_q3:.3g}]"
        cell = line.split(" | ")[1 + PAPER.vocabs.index(run.vocab)]
        assert cell.removesuffix(" |") == f"{run.step_ms:,.0f} ms: {times}", run


def test_like_is_compared_with_like():
    runs = load_runs(BENCH)
    step = runs[runs.corpus != "zipf"].set_index(["vocab", "method", "optimizer", "seed"]).step_ms.astype(float)
    for name, above, below in (
        ("both with a dense optimiser, as published", ("ce", "dense"), ("semantic", "dense")),
        ("both on rows, CE in chunks", ("ce_chunked", "rows"), ("semantic", "rows")),
        ("mixed: CE with a dense optimiser, SEMANTIC on rows", ("ce", "dense"), ("semantic", "rows")),
    ):
        cells = [f"{(step.loc[(V, *above)] / step.loc[(V, *below)]).median():.3g}" for V in PAPER.vocabs]
        assert f"| {name} | {' | '.join(cells)} |" in README
    sparse = step.loc[(1_000_000, "semantic", "sparse")] / step.loc[(1_000_000, "semantic", "rows")]
    assert f"At 1M it takes {sparse.median():.2f} times as long as rows." in README


def test_measured_steps_are_enough():
    """At least four of each method a round; five rounds up to 200K, three at 1M."""
    runs = load_runs(BENCH).query("status == 'ok' and corpus != 'zipf'")
    assert runs.steps_measured.min() >= 4
    rounds = runs.groupby(["vocab", "method", "optimizer"]).seed.nunique()
    assert rounds[[50_000, 200_000]].min() >= 5
    assert rounds[1_000_000].min() >= 3


def test_the_growth_in_prose_is_that_of_the_stored_rounds():
    runs = load_runs(BENCH).query("optimizer == 'rows'")
    step = runs[runs.method == "semantic"].groupby([runs.corpus == "zipf", "vocab"]).step_ms.median()
    assert f"{step[False, 1_000_000] / step[False, 50_000]:.1f} times the time at 1M tokens as at 50K" in README
    assert f"{step[True, 5_000_000] / step[True, 50_000]:.1f} times at 5M" in README


def test_the_table_of_claims_is_that_of_the_results():
    found = claims().fillna("–")
    for claim in found.itertuples():
        where = f"[{claim.settled_in[:2]}](notebooks/{claim.settled_in}.ipynb)" if claim.settled_in != "–" else "–"
        assert f"| {claim.id} | {claim.claim} | **{claim.verdict}** | {claim.value} | {where} |" in README, claim.id
    assert len(re.findall(r"^\| [CF]\d+ \|", README, re.M)) == len(found)


def test_the_seven_figures_of_the_paper_are_there():
    for gpu in ("rtx_4070", "rtx_a6000"):
        for what in ("throughput", "speedup", "time"):
            for suffix in ("png", "pdf"):
                assert (ROOT / "figures" / f"fig_{what}_vs_vocab_{gpu}.{suffix}").is_file()
    assert (ROOT / "figures" / "fig_comparison_all_gpus.png").is_file()


QUALITY = {  # the columns of README's table, and the runs they are of
    "CE": '(method == "ce" and log_unigram != True) or method == "ce_chunked"',
    "CE at D = 64": 'method == "ce_lowrank"',
    "adaptive softmax": 'method == "adaptive"',
    "SEMANTIC as published": 'method == "semantic" and lr == 3e-4',
    "SEMANTIC tuned": 'method == "semantic" and lr != 3e-4',
    "sampled softmax": 'method == "sampled_softmax"',
    "with prior": 'method == "semantic_prior" and semantic_dim == 64',
    "with prior, D = 256": 'method == "semantic_prior" and semantic_dim == 256',
}


def test_the_table_of_quality_is_that_of_the_stored_runs():
    runs = load_runs(AMD / "quality")
    assert f"| | {' | '.join(QUALITY)} | unigram |" in README
    for vocab, of_vocab in runs.groupby("vocab"):
        columns = [of_vocab.query(which).full_vocab for which in QUALITY.values()]
        columns.append([of_vocab.controls.iloc[0]["unigram"]])
        for name, key, form in (("NLL", "nll", "{:.2f}"), ("Hit@1", "hit@1", "{:.1%}")):
            cells = [form.format(sum(found[key] for found in column) / len(column)) for column in columns]
            (line,) = re.findall(rf"^\| V = {vocab:,}, [^|]*: {name} \|.*$", README, re.M)
            assert line.split(" | ", 1)[1] == " | ".join(cells) + " |"


def test_what_is_lost_and_gained_is_what_the_stored_runs_say():
    runs = load_runs(AMD / "quality")
    told_there = re.search(r"\*SEMANTIC as published\* has.*?### Alignment", README, re.S)[0]
    said = " ".join(told_there.replace("**", "").split())

    def told(name, vocab):
        run = runs[runs.vocab == vocab].query(QUALITY[name]).iloc[0]
        return {
            "nats": run.full_vocab["nll"],
            "hits": run.full_vocab["hit@1"],
            "nll": f"{run.full_vocab['nll']:.2f}",
            "hit": f"{run.full_vocab['hit@1']:.1%}",
            "ms": f"{run.step_ms:.0f}",
            "s": f"{run.steps_run * run.step_ms / 1e3:.0f}",
            "steps": f"{run.steps_run:,}",
        }

    (ce, published, prior), (ce2, published2, prior2) = (
        [told(name, vocab) for name in ("CE", "SEMANTIC as published", "with prior")] for vocab in (50_000, 200_000)
    )
    adaptive = told("adaptive softmax", 50_000)
    behind = f"{prior['nats'] - ce['nats']:.2f} nats and {100 * (ce['hits'] - prior['hits']):.1f} points of Hit@1"
    for sentence in (
        f"at {published['ms']} ms a step instead of {ce['ms']}",
        f"NLL {published['nll']} against CE's {ce['nll']}",
        f"At 50,000 it is {behind} behind CE",
        f"The adaptive softmax has {adaptive['nll']} and {adaptive['hit']}, in {adaptive['s']} seconds",
        f"Hit@1 at {published['hit']} against {ce['hit']}",
        f"after ten minutes each, it has {published2['nll']} against {ce2['nll']}",
        f"{prior['nll']} and {prior['hit']} after the same 600 steps of {prior['ms']} ms",
        f"in {prior['s']} seconds instead of CE's {ce['s']}",
        f"NLL {prior2['nll']} and Hit@1 {prior2['hit']} against CE's {ce2['nll']} and {ce2['hit']}",
        f"CE makes {ce2['steps']} steps",
        f"makes {prior2['steps']}: this tells",
    ):
        assert sentence in said, sentence


STAGES = {  # the columns of README's table of alignment, and the runs they are of
    "stage 1": "token_head.isna()",
    "normalised, A": 'token_head == "normalised" and freeze',
    "normalised, B": 'token_head == "normalised" and not freeze and not sampled_head',
    "normalised, B, sampled": "sampled_head",
    "plain, A": 'token_head == "plain" and freeze',
    "plain, B": 'token_head == "plain" and not freeze',
    "random, B": 'token_head == "random" and not freeze',
}


def stages_table():
    """Lines by what they begin with: NLL, Hit@1, and the seconds of both stages."""
    runs = load_runs(AMD / "stages").set_index("run_id")
    first = runs.stage1.str.removesuffix(".safetensors")
    took = runs.steps_run * runs.step_ms / 1e3
    runs["seconds"] = took + first.map(took).fillna(0)
    runs["begun"] = first.map(runs.steps_run).fillna(runs.steps_run)

    def cell(of):
        if of.empty:
            return "–"
        (run,) = of.itertuples()
        return f"{run.full_vocab['nll']:.2f}, {run.full_vocab['hit@1']:.1%}, {run.seconds:.0f} s"

    lines = {}
    for vocab, begun in ((8_192, 1250), (50_000, 600), (50_000, 1250)):
        mine = runs[(runs.vocab == vocab) & (runs.begun == begun) & (runs.method == "semantic_prior")]
        cells = [cell(mine.query(which, engine="python")) for which in STAGES.values()]
        ce = cell(runs[(runs.vocab == vocab) & (runs.method == "ce")])
        steps = mine[mine.token_head.notna()].steps_run.iloc[0]
        lines[f"| V = {vocab:,}, {begun:,} + {steps:,} steps"] = " | ".join([*cells, ce]) + " |"
    return lines


def test_the_table_of_alignment_is_that_of_the_stored_runs():
    assert f"| | {' | '.join(STAGES)} | CE |" in README
    for start, cells in stages_table().items():
        assert f"{start} | {cells}" in README, start


def test_alignment_in_prose_is_that_of_the_stored_runs():
    said = " ".join(README.split())
    runs = load_runs(AMD / "stages").query(
        "vocab == 8192 and method == 'semantic' and token_head.notna()", engine="python"
    )
    runs["nll"] = [found["nll"] for found in runs.full_vocab]
    both, alone = (runs[runs.freeze == frozen].nll.min() for frozen in (False, True))
    assert f"at the rates tried: {both:.2f} nats at V = 8,192, with the head alone {alone:.2f}." in said
    stage1 = load_runs(AMD / "stages").query(
        "vocab == 50000 and steps_run == 1250 and token_head.isna()", engine="python"
    )
    (nll,) = (found["nll"] for found in stage1.full_vocab)
    assert f"so is stage 1 alone, {nll:.2f} after {(stage1.steps_run * stage1.step_ms / 1e3).item():.0f} s" in said
    table = {start: cells.removesuffix(" |").split(" | ") for start, cells in stages_table().items()}
    seconds = {start: [cell.split(", ")[-1].removesuffix(" s") for cell in cells] for start, cells in table.items()}
    equal, longer = seconds["| V = 50,000, 600 + 200 steps"], seconds["| V = 50,000, 1,250 + 200 steps"]
    assert f"CE is ahead, and takes {float(equal[-1]) / float(equal[3]):.0f} times as long" in said
    assert f"200 sampled steps, {longer[3]} seconds, are ahead of where CE is after {longer[-1]};" in said
    found = json.loads((AMD / "stages" / "found" / "search.json").read_text())
    good = [s for s in found if s["vocab"] == 1_000_000 and s["rows"] == "trained" and s["recall@10"] >= 0.95]
    best = min(good, key=lambda s: s["us"])
    us, exact = best["us"] / 1e3, best["exact_us"] / 1e3
    assert f"of the {best['vectors']:,} tokens that training saw at V = 1,000,000 an index finds" in said
    assert (
        f"finds {best['recall@10']:.0%} of the ten best in {us:.2f} ms, where all products take {exact:.0f} ms" in said
    )
