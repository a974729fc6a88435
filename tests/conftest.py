from pathlib import Path

import pytest
from hypothesis import settings

from scta_lab import Spec, train
from scta_lab.run import processes

settings.register_profile("ci", max_examples=200, database=None)
settings.register_profile("drill", max_examples=10_000, database=None)
settings.load_profile("ci")

CHAT = Path(__file__).parent / "chat.json"
SIZES = {"vocab": 300, "hidden": 8, "semantic_dim": 4, "negatives": 3}
LENGTHS = {"examples": 24, "batch": 4, "seq_len": 8}


@pytest.fixture(autouse=True, scope="session")
def _fresh_cache(tmp_path_factory):
    """Corpora are built anew for the tests; one test alone builds the installed one where a reader's would be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def tiny():
    """Makes Specs of a few milliseconds."""
    defaults = {**SIZES, **LENGTHS, "corpus": "zipf", "device": "cpu"}
    return lambda method="semantic", **changes: Spec(method=method, **{**defaults, **changes})


@pytest.fixture
def here(monkeypatch):
    """Runs in this process, where a process of each run's own is not what is tested: it takes seconds to begin."""

    def child(spec, folder, stop):
        result = train(spec)
        result.model = None
        result.save(folder)
        return 0, []

    monkeypatch.setattr(processes, "_child", child)
