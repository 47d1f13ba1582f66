"""The benchmark on a small model: it compares what it times, and refuses a grid that is wrong."""

import pytest
from families import bridge

from helpers import patching
from tools.benchmarks import sweeps


def test_a_contest_gives_seconds_of_both_and_times_no_wrong_grid(monkeypatch):
    monkeypatch.setattr(sweeps, "TURNS", 2)
    monkeypatch.setattr(sweeps.library, "tqdm", lambda cells: cells)
    model = bridge("Llama")
    pair = sweeps.random_pair(model, 5)
    pair = pair._replace(answer=pair.answer % 60, distractor=pair.distractor % 60)
    for what in sweeps.SWEEPS:
        seconds = sweeps.contest(model, pair, what, peers={})
        assert list(seconds) == ["helpers.patching", "transformer_lens.patching"]
        assert all(len(taken) == 2 and min(taken) > 0 for taken in seconds.values())
    monkeypatch.setitem(sweeps.SWEEPS, "heads", lambda *given: patching.patch_heads(*given) + 1e-3)
    with pytest.raises(AssertionError, match="away from our grid"):
        sweeps.contest(model, pair, "heads", peers={})
