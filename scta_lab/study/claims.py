"""The paper's claims, and what our notebooks found.

`settle` writes a notebook's verdicts, `claims` gathers them.
"""

import json

import pandas as pd
from scta_lite.paper import published_table

from scta_lab.base.files import in_clone

VERDICTS = ("supported", "supported as arithmetic", "partly", "contradicted", "measured", "open")
FINDING = ["verdict", "value", "why"]


def claims() -> pd.DataFrame:
    """The paper's claims C1 to C13 and its open questions F1 to F6, with what our notebooks found.

    `value` (measured), `verdict` and `why` come from `data/results/`, from the last notebook there
    that settles the claim, which `settled_in` names. A claim that none settles yet is "open", with
    `notebook` the one that will.
    """
    findings = {}
    for path in sorted(in_clone("data", "results").glob("*.json")):
        for claim, finding in json.loads(path.read_text())["claims"].items():
            findings[claim] = finding | {"settled_in": path.stem}
    columns = [*FINDING, "settled_in"]
    table = pd.DataFrame.from_dict(findings, orient="index", columns=columns)
    return _paper().join(table).fillna({"verdict": "open"}).reset_index()


def _paper() -> pd.DataFrame:
    """What the paper says, by the claim's id."""
    return published_table("claims.csv", {"id", "claim", "notebook", "where"}).set_index("id")


def settle(notebook: str, findings: dict[str, tuple[str, str, str]], *, save: bool) -> pd.DataFrame:
    """A notebook's verdicts as a table.

    `findings` maps a claim's id to its verdict, the measured value and one sentence why. With
    `save` they are written to `data/results/<notebook>.json`, where `claims` finds them.
    ValueError for a verdict that is not one of VERDICTS, or a claim that the paper does not make.
    """
    known = set(_paper().index)
    expected = f"one of C1 … F6 and a verdict of {', '.join(VERDICTS)}"
    for claim, (verdict, *_) in findings.items():
        if verdict not in VERDICTS or claim not in known:
            raise ValueError(f"{claim}={verdict!r}: expected {expected}")
    table = pd.DataFrame.from_dict(findings, orient="index", columns=FINDING)
    if save:
        path = in_clone("data", "results", f"{notebook}.json")
        path.parent.mkdir(exist_ok=True)
        by_claim = table.to_dict("index")
        path.write_text(json.dumps({"claims": by_claim}, indent=1, ensure_ascii=False) + "\n")
    return table
