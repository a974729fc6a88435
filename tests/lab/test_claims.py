import pandas as pd
import pytest

from scta_lab.study import claims


def test_a_verdict_is_one_of_six(monkeypatch):
    table = claims.claims().assign(verdict="true")
    monkeypatch.setattr(claims, "published_table", lambda name, columns: table)
    with pytest.raises(ValueError, match="C1: verdict='true': expected one of supported, supported as arithmetic, "):
        claims.claims()


def test_claims_and_open_questions_in_order():
    table = claims.claims()
    assert isinstance(table, pd.DataFrame)
    assert table.id.tolist() == [f"C{i}" for i in range(1, 14)] + [f"F{i}" for i in range(1, 7)]
