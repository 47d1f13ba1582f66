"""The benchmark on a small model: it compares what it times, and refuses a grid that is wrong."""

import pytest
import transformer_lens.patching as theirs
from test_live import family, small  # noqa: F401

from tools.benchmarks import stages, sweeps
from helpers import patching


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(sweeps, "ROUNDS", 2)
    monkeypatch.setattr(sweeps, "ROUNDS_OF_LOOPS", 1)
    monkeypatch.setattr(theirs, "tqdm", lambda cells: cells)


@pytest.mark.parametrize("sweep", sweeps.SWEEPS)
def test_a_contest_gives_seconds_of_both(small, sweep):  # noqa: F811
    seconds = sweeps.contest(small[0], None, 5, sweep, peers=False)
    assert {name: len(runs) for name, runs in seconds.items()} == {sweeps.LOOP: 1, sweeps.OURS: 2}
    assert sweeps.table(seconds)[-1].endswith("| 2 | 1.0 |")


def test_a_wrong_grid_is_not_timed(small, monkeypatch):  # noqa: F811
    def wrong(*arguments):
        return patching.patch_heads(*arguments) + 1e-3

    loop = theirs.get_act_patch_attn_head_out_all_pos
    monkeypatch.setitem(sweeps.SWEEPS, "heads", (wrong, loop))
    with pytest.raises(AssertionError, match="away from the loop on heads"):
        sweeps.contest(small[0], None, 5, "heads", peers=False)


def test_the_agreement_of_the_estimate_is_told_layer_by_layer(model, pair):
    text = sweeps.screen(model, pair.tokens)
    assert text.split("layer by layer:")[1].count(",") == model.cfg.n_layers - 1


def test_each_stage_is_timed_and_gives_the_same_grid(small):  # noqa: F811
    pairs = {"heads": (sweeps.random_pair(small[0], 5), patching.patch_heads)}
    header, _, *rows = stages.stages(small[0], pairs, rounds=1)
    assert header == "| | heads |" and len(rows) == len(stages.STAGES)
    assert patching.supports_live(small[0])  # switched on again


def test_a_stage_with_another_grid_is_noticed(small, monkeypatch):  # noqa: F811
    calls = []

    def drifting(*arguments):
        calls.append(1)
        return patching.patch_heads(*arguments) + 1e-3 * len(calls)

    pairs = {"heads": (sweeps.random_pair(small[0], 5), drifting)}
    with pytest.raises(AssertionError, match="heads"):
        stages.stages(small[0], pairs, rounds=1)
