"""The paper's claims, and what our notebooks found: `settle` writes a notebook's verdicts, `claims` gathers them."""

import json

import pandas as pd

from scta_lab.base.files import in_clone
from scta_lite.paper import published_table

VERDICTS = ("supported", "supported as arithmetic", "partly", "contradicted", "measured", "open")


def claims() -> pd.DataFrame:
    """The paper's claims C1 to C13 and its open questions F1 to F6, each with what our notebooks found.

    `value` (measured), `verdict` and `why` come from `data/results/`, from the last notebook there that settles the
    claim, which `settled_in` names; a claim that none settles yet is "open", with `notebook` the one that will.
    """
    table = _paper()
    found = {}
    for path in sorted(in_clone("data", "results").glob("*.json")):
        for claim, finding in json.loads(path.read_text())["claims"].items():
            found[claim] = {**finding, "settled_in": path.stem}
    findings = pd.DataFrame.from_dict(found, orient="index", columns=["verdict", "value", "why", "settled_in"])
    return table.join(findings).fillna({"verdict": "open"}).reset_index()


def _paper() -> pd.DataFrame:
    """What the paper says, by the claim's id."""
    return published_table("claims.csv", {"id", "claim", "notebook", "where"}).set_index("id")


def settle(notebook: str, findings: dict[str, tuple[str, str, str]], *, save: bool) -> pd.DataFrame:
    """A notebook's verdicts as a table: `findings` maps a claim's id to (verdict, measured value, one sentence why).

    With `save` they are written to `data/results/<notebook>.json`, where `claims` finds them. ValueError for a verdict
    that is not one of VERDICTS, or a claim that the paper does not make.
    """
    known = set(_paper().index)
    for claim, (verdict, *_) in findings.items():
        if verdict not in VERDICTS or claim not in known:
            raise ValueError(f"{claim}={verdict!r}: expected one of C1 … F6 and a verdict of {', '.join(VERDICTS)}")
    found = {claim: dict(zip(("verdict", "value", "why"), finding, strict=True)) for claim, finding in findings.items()}
    if save:
        path = in_clone("data", "results", f"{notebook}.json")
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"claims": found}, indent=1, ensure_ascii=False) + "\n")
    return pd.DataFrame.from_dict(found, orient="index")
