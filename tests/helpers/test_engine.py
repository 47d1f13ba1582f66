"""`helpers.engine`: both engines against a loop over the cells, on many architectures."""

from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace

import families
import pytest
import torch
from families import bridge, looped, run_pair
from torch.testing import assert_close

from helpers import patching
from helpers.engine import SITES, Cell, hooks, sparse
from helpers.metrics import LastToken
from helpers.prompts import PairTokens

TOKENS = torch.tensor([5, 60, 5])
METRICS = {
    "named tokens": LastToken(
        lambda logits: logits @ torch.tensor([1.0, -2, 1]).to(logits), TOKENS
    ),
    "the whole vocabulary": LastToken(lambda logits: logits.log_softmax(-1)[:, 7]),
    "any positions": lambda logits: logits[:, 2:5].log_softmax(-1)[..., 9].sum(1),
}
ANY = METRICS["any positions"]


def every_cell(model) -> list[Cell]:
    """All cells of the four sweeps, written out anew, in the engines' order."""
    layers, heads, places = range(model.cfg.n_layers), range(model.cfg.n_heads), range(7)
    streams = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
    cells = [Cell(i, s, (p,)) for i in layers for s in streams for p in places]
    cells += [Cell(i, "attn.hook_z", (p, h)) for i in layers for h in heads for p in places]
    cells += [Cell(i, "attn.hook_z", (slice(None), h)) for i in layers for h in heads]
    return sorted(cells, key=lambda cell: (cell.layer, SITES.index(cell.site)))


def on(model) -> SimpleNamespace:
    """The model, and what a sweep of all its cells takes besides a metric."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(2, model.cfg.d_vocab, (2, 1, 7), generator=generator)
    pair = run_pair(model, PairTokens(clean, corrupted, torch.tensor([5]), torch.tensor([6])))
    arguments = model, pair.tokens.corrupted, pair.clean_cache
    return SimpleNamespace(model=model, pair=pair, arguments=arguments, cells=every_cell(model))


@cache
def looking(name: str) -> SimpleNamespace:
    """The same, with the logits of the loop over all cells."""
    it = on(bridge(name))
    it.logits = looped(*it.arguments, it.cells)
    return it


def exact(values, expected) -> None:
    assert_close(values, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 1e-3  # the cells differ: this could have failed


def swept_as_the_loop(it, cells, metrics=(ANY,)) -> None:
    logits = looped(*it.arguments, cells)
    for metric in metrics:
        exact(patching.sweep(*it.arguments, metric, cells), metric(logits))


# Three routes, one answer


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("name", families.KNOWN)
def test_sparse_hooks_and_the_loop_agree(name, metric):
    it = looking(name)
    assert sparse.supports(it.model, 7)
    for engine in (sparse, hooks):
        exact(engine.measure(*it.arguments, it.cells, metric), metric(it.logits))


@pytest.mark.filterwarnings("ignore")  # the libraries' own, about some of these
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("Bloom", "OPT", "Gemma2") else pytest.mark.slow)
        for name in families.OTHERS
    ],
)
def test_the_hook_engine_is_the_loop_on_every_architecture(name):
    it = on(bridge(name))
    assert not sparse.supports(it.model, 7)
    chosen = torch.randperm(len(it.cells), generator=torch.Generator())[:30]
    swept_as_the_loop(it, [it.cells[i] for i in chosen], METRICS.values())


@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeoX"])
def test_any_part_of_an_activation_can_be_patched(name):
    """Slices, lists, single numbers, nothing at all; in the order in which they are asked for."""
    indices = {
        "hook_resid_pre": [(slice(None),), (slice(2, 5),), (-1,), (3, slice(0, 9)), (slice(3, 3),)],
        "attn.hook_z": [(slice(None), slice(0, 2)), (4, 1), (6, 2, 0), (slice(0, 2),)],
        "hook_attn_out": [(slice(None),), (5,)],
        "hook_mlp_out": [(slice(1, 3),), (6,), ([0, 4],)],
    }
    cells = [Cell(i, s, x) for s in reversed(SITES) for x in indices[s] for i in (1, 2, 0)]
    swept_as_the_loop(looking(name), cells, METRICS.values())


@pytest.mark.parametrize("engine", ["sparse", "hooks"])
@pytest.mark.parametrize("max_bytes", [1, 10**5])
def test_the_size_of_a_pass_does_not_show(monkeypatch, engine, max_bytes):
    it, passes = looking("Llama"), []
    if engine == "hooks":
        monkeypatch.setattr(sparse, "supports", lambda *_: False)

    def metric(logits):
        passes.append(len(logits))
        return ANY(logits)

    values = patching.sweep(*it.arguments, metric, it.cells[::4], max_bytes=max_bytes)
    exact(values, ANY(it.logits[::4]))
    assert len(passes) > 1 and sum(passes) == len(values)
    assert max_bytes > 1 or set(passes) == {1}


def test_a_model_that_does_not_run_its_hooks_is_noticed(random_model, random_pair):
    deaf = SimpleNamespace(
        cfg=random_model.cfg, run_with_hooks=lambda tokens, fwd_hooks: random_model(tokens)
    )
    tokens = random_pair.tokens
    with pytest.raises(RuntimeError, match="a hook did not run"):
        patching.patch_heads(deaf, tokens.corrupted, random_pair.clean_cache, tokens.logit_diff)


# A model that is changed is swept as it is


class Tripled(torch.nn.Module):
    """A module instead of the model's own: an adapter, a transcoder, another norm."""

    def __init__(self, own):
        super().__init__()
        self.own = own

    def __getattr__(self, name):  # a weight of its own, say
        return super().__getattr__(name) if name == "own" else getattr(self.own, name)

    def forward(self, *arguments, **keywords):
        out = self.own(*arguments, **keywords)
        return (3 * out[0], *out[1:]) if isinstance(out, tuple) else 3 * out


@contextmanager
def replaced(model, path: str):
    """Another part of the model, "blocks.1.attn"; "torch" is transformers' own under it."""
    *path, name = path.replace("torch", "_original_component").split(".")
    for step in path:
        model = model[int(step)] if step.isdigit() else getattr(model, step)
    name = name if hasattr(model, name) else "self_attn"  # Llama's
    own = getattr(model, name)
    setattr(model, name, Tripled(own))
    try:
        yield
    finally:
        setattr(model, name, own)


def hooked(model, part: str):
    """A hook of torch's own, before or after transformers' MLP."""
    module = model.blocks[1]._original_component.mlp._original_component
    if part == "before":
        return module.register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]))
    return module.register_forward_hook(lambda module, args, output: output * 2)


def halved(model, name: str):
    return model.hooks(fwd_hooks=[(name, lambda activation, hook: activation / 2)])


PARTS = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp", "ln1", "ln2"]
PLACES = [f"blocks.1.{part}.torch" for part in PARTS] + ["blocks.1.torch", "ln_final.torch"]
PLACES += ["blocks.2.attn.v.torch", "blocks.1.torch.attn", "blocks.1.torch.mlp", "unembed.torch"]
CHANGES = [(halved, "blocks.1.hook_mlp_out"), (halved, "ln_final.hook_normalized")]
CHANGES += [(hooked, "before"), (hooked, "after"), *((replaced, place) for place in PLACES)]


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize(("change", "what"), CHANGES)
def test_a_changed_model_is_swept_as_it_is(change, what):
    """Also where transformer_lens itself passes a change by, as some of these on one family."""
    effects = []
    for it in (looking("GPT2"), looking("Llama")):
        before = patching.sweep(*it.arguments, ANY, it.cells[::4])
        with change(it.model, what):
            swept_as_the_loop(it, it.cells[::4])
            effects.append((patching.sweep(*it.arguments, ANY, it.cells[::4]) - before).abs().max())
        assert_close(patching.sweep(*it.arguments, ANY, it.cells[::4]), before)
        assert sparse.supports(it.model, 7)
    assert max(effects) > 1e-2


def test_half_precision_and_dropout_are_left_to_the_hooks():
    """In half precision to the last bit where the batch is of one row, as the model rounds."""
    it, metric = on(bridge("Llama", torch.bfloat16)), METRICS["named tokens"]
    assert not sparse.supports(it.model, 7)
    values = patching.sweep(*it.arguments, metric, it.cells[::9], max_bytes=1)
    assert torch.equal(values, metric(looped(*it.arguments, it.cells[::9])))
    model = bridge("GPT2")
    assert not sparse.supports(model.train(), 7)
    assert sparse.supports(model.eval(), 7)


@pytest.mark.parametrize(
    ("name", "settings", "fast"),
    [
        ("Mistral", {"sliding_window": 3}, False),
        ("Mistral", {"sliding_window": 7}, True),  # the prompt is no longer
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, False),
        ("GPT2", {"activation_function": "relu"}, True),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
            0,
        ),
        (
            "Llama",
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            1,
        ),
        ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}, True),
        ("GPTNeoX", {"rotary_pct": 0.5}, True),
    ],
)
def test_a_rarer_setting_is_honoured(name, settings, fast):
    it = on(bridge.__wrapped__(name, **settings))
    assert sparse.supports(it.model, 7) == fast
    swept_as_the_loop(it, it.cells[::4])
