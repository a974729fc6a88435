import pytest

from scta_lab.base import files
from scta_lab.base.files import ROOT
from scta_lab.study.claims import claims, settle


def test_claims_are_whole_and_open_until_settled(monkeypatch, tmp_path):
    (tmp_path / "data/paper").mkdir(parents=True)
    (tmp_path / "data/paper/claims.csv").write_text((ROOT / "data/paper/claims.csv").read_text())
    monkeypatch.setattr(files, "ROOT", tmp_path)
    table = claims()
    assert table.id.tolist() == [f"C{i}" for i in range(1, 14)] + [f"F{i}" for i in range(1, 7)]
    assert set(table.verdict) == {"open"}
    finding = {"C3": ("partly", "488×", "Because.")}
    assert settle("01_x", finding, save=False).loc["C3", "verdict"] == "partly"
    assert set(claims().verdict) == {"open"}  # nothing was written
    settle("01_x", finding, save=True)
    settle("05_y", {"C3": ("supported", "5×", "Later notebooks know more.")}, save=True)
    settled = claims().set_index("id").loc["C3"]
    assert settled[["verdict", "value", "settled_in"]].tolist() == ["supported", "5×", "05_y"]


@pytest.mark.parametrize("finding", [{"C3": ("true", "", "")}, {"C99": ("open", "", "")}])
def test_unknown_verdicts_and_claims(finding):
    with pytest.raises(ValueError, match="expected one of C1 … F6 and a verdict of supported, supported as"):
        settle("x", finding, save=False)


def test_committed_results_are_of_known_notebooks():
    for path in (ROOT / "data" / "results").glob("*.json"):
        assert (ROOT / "notebooks" / "lab" / f"{path.stem}.ipynb").is_file()
