"""`make reproduce`: a stored run, trained again and shown beside what was stored."""

import sys

import pytest

from scta_lab import train
from scta_lab.base.files import ROOT

sys.path.insert(0, str(ROOT / "studies"))
import reproduce


def test_a_stored_run_comes_out_the_same(tiny, tmp_path, monkeypatch, capsys):
    """Here, with one thread, bit for bit; and a file that was changed is seen."""
    result = train(tiny(evaluate=True))
    result.model = None
    result.save(tmp_path / "below")

    def told():
        monkeypatch.setattr(sys, "argv", ["reproduce", result.run_id, "--folder", str(tmp_path)])
        reproduce.main()
        return dict(line.rsplit(None, 1) for line in capsys.readouterr().out.splitlines()[1:])

    assert float(told()["largest difference of the loss curve, nats"]) == 0
    result.loss_curve["loss"][0] += 0.25
    result.save(tmp_path / "below")
    assert float(told()["largest difference of the loss curve, nats"]) == pytest.approx(0.25)


def test_of_two_machines_this_ones_run_is_taken(tiny, tmp_path):
    result = train(tiny())
    result.model, here = None, result.machine
    for folder, result.machine in (("a", "another"), ("b", here), ("c", "a third")):
        result.save(tmp_path / folder)
    assert reproduce.stored(result.run_id, tmp_path).machine == here


def test_what_cannot_be_run_again_is_said(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["reproduce", "ce-9-12345678", "--folder", str(tmp_path)])
    with pytest.raises(SystemExit):
        reproduce.main()
    assert "RUN='ce-9-12345678': no such run" in capsys.readouterr().err
