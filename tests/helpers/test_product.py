"""The two ways of a matrix product give one answer, and the faster one is taken."""

import time

import pytest
import test_live
import torch
from test_live import family, small  # noqa: F401
from test_patching import SWEEPS
from torch.testing import assert_close
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import product


def numbers(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


# As GPT-2's own layers keep their weights, and as torch's linear layers do.
KEPT = {"in, out": lambda weight: weight, "out, in": lambda weight: weight.mT.contiguous().mT}


@pytest.fixture
def measured(monkeypatch):
    """A function: from now on the measurement says this, and every product counts as large."""

    def say(wins: bool) -> None:
        monkeypatch.setattr(product, "LARGE", 0)
        monkeypatch.setattr(product, "convolution_wins", lambda threads: wins)

    return say


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize(("rows", "d_in", "d_out"), [(1, 3, 5), (7, 8, 4), (300, 64, 96)])
def test_both_ways_are_the_definition(kept, rows, d_in, d_out):
    x, weight, bias = numbers(rows, d_in), KEPT[kept](numbers(d_in, d_out)), numbers(d_out)
    expected = (x.double() @ weight.double() + bias.double()).float()
    assert_close(product.by_convolution(x, weight, bias), expected, atol=1e-4, rtol=1e-5)
    assert_close(product.product(x, weight, bias), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("kept", KEPT)
def test_nothing_given_is_changed(kept):
    x, weight, bias = numbers(6, 4), KEPT[kept](numbers(4, 5)), numbers(5)
    before = [t.clone() for t in (x, weight, bias)]
    product.by_convolution(x, weight, bias)
    assert all(torch.equal(a, b) for a, b in zip(before, (x, weight, bias), strict=True))


def test_weights_laid_out_are_the_same_matrices():
    network = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=11)).eval()
    linear = torch.nn.Linear(8, 5)
    linear.weight.data = linear.weight.data.mT.contiguous().mT  # as transformer_lens makes them
    whole = torch.nn.ModuleDict({"network": network, "linear": linear})
    before = {name: weight.clone() for name, weight in whole.state_dict().items()}
    ids = torch.arange(6)[None]
    logits = network(ids).logits
    product.lay_out(whole)
    after = whole.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert_close(network(ids).logits, logits, atol=1e-6, rtol=0)
    mlp = network.transformer.h[0].mlp
    assert mlp.c_fc.weight.shape == (8, 32) and mlp.c_fc.weight.mT.is_contiguous()
    assert mlp.c_proj.weight.mT.is_contiguous() and linear.weight.is_contiguous()
    assert network.lm_head.weight is network.transformer.wte.weight


def test_a_loaded_models_weights_are_laid_out(model):
    for block in model.blocks:
        parts = [block.attn.q, block.attn.k, block.attn.v, block.attn.o]
        for part in (*parts, getattr(block.mlp, "in"), block.mlp.out):
            layer = part.original_component
            by_output = layer.weight if type(layer) is torch.nn.Linear else layer.weight.mT
            assert by_output.is_contiguous()


@pytest.mark.parametrize("wins", [True, False])
def test_the_measurement_decides(measured, monkeypatch, wins):
    measured(wins)
    monkeypatch.setattr(product, "by_convolution", lambda *given: torch.full((2, 4), 7.0))
    found = product.product(numbers(2, 3), numbers(3, 4), numbers(4))
    assert (found == 7).all() == wins


def test_a_small_or_precise_product_is_left_to_torch(measured, monkeypatch):
    measured(True)
    monkeypatch.setattr(product, "by_convolution", None)  # a call would raise
    product.product(numbers(2, 3).double(), numbers(3, 4).double(), numbers(4).double())
    monkeypatch.setattr(product, "LARGE", 25)
    product.product(numbers(2, 3), numbers(3, 4), numbers(4))  # 24 multiplications


@pytest.mark.parametrize(("slow", "wins"), [("by_convolution", False), ("addmm", True)])
def test_the_slower_way_loses_the_measurement(monkeypatch, slow, wins):
    place = product if slow == "by_convolution" else product.torch
    monkeypatch.setattr(place, slow, lambda *given: time.sleep(0.05))
    assert product.convolution_wins.__wrapped__(torch.get_num_threads()) is wins


@pytest.mark.parametrize("name", SWEEPS)
def test_a_sweep_by_convolutions_is_the_loop(measured, small, name):  # noqa: F811
    measured(True)
    test_live.test_the_live_road_is_the_loop(small, name)
