"""The benchmark on a small model: it compares what it times, and refuses a grid that is wrong."""

import pytest
from families import bridge

from helpers import patching
from tools.benchmarks import sweeps


@pytest.fixture
def case(monkeypatch):
    """A model and a pair, in two turns."""
    monkeypatch.setattr(sweeps, "TURNS", 2)
    monkeypatch.setattr(sweeps.library, "tqdm", lambda cells: cells)
    model = bridge("Llama")
    pair = sweeps.random_pair(model, 5)
    return model, pair._replace(answer=pair.answer % 60, distractor=pair.distractor % 60)


@pytest.mark.parametrize("what", sweeps.SWEEPS)
def test_a_contest_gives_seconds_of_both(case, what):
    seconds = sweeps.contest(*case, what, peers={})
    assert {name: len(taken) for name, taken in seconds.items()} == {
        "helpers.patching": 2, "transformer_lens.patching": 2
    }  # fmt: skip
    assert all(second > 0 for taken in seconds.values() for second in taken)
    (line,) = sweeps.rows("a case", what, seconds)
    assert line.startswith(f"| a case | {what} | transformer_lens.patching |")


def test_a_wrong_grid_is_not_timed(case, monkeypatch):
    monkeypatch.setitem(sweeps.SWEEPS, "heads", lambda *given: patching.patch_heads(*given) + 1e-3)
    with pytest.raises(AssertionError, match="away from our grid"):
        sweeps.contest(*case, "heads", peers={})
