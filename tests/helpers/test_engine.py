"""`helpers.engine`: both engines against a loop over the cells, on many architectures."""

from contextlib import contextmanager
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


def every_cell(model, positions: int) -> list[Cell]:
    """All cells of the four sweeps, written out anew."""
    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    streams = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out")
    cells = [Cell(i, s, (p,)) for i in layers for s in streams for p in range(positions)]
    cells += [Cell(i, "attn.hook_z", (slice(None), h)) for i in layers for h in heads]
    return cells + [
        Cell(i, "attn.hook_z", (p, h)) for i in layers for h in heads for p in range(positions)
    ]


@pytest.fixture(scope="module")
def looking():
    """A function: a model of that family, a pair of runs, all cells in the engines' order, and the
    logits of the loop over them."""
    made = {}

    def at(name: str):
        if name not in made:
            model = bridge(name)
            pair = random_pair(model)
            made[name] = SimpleNamespace(model=model, pair=pair, **loop(model, pair))
        return made[name]

    return at


def random_pair(model, positions: int = 7):
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(2, model.cfg.d_vocab, (2, 1, positions), generator=generator)
    return run_pair(model, PairTokens(clean, corrupted, torch.tensor([5]), torch.tensor([6])))


def loop(model, pair) -> dict:
    tokens = pair.tokens.corrupted
    cells = every_cell(model, tokens.shape[1])
    cells.sort(key=lambda cell: (cell.layer, SITES.index(cell.site)))
    return {"cells": cells, "logits": looped(model, tokens, pair.clean_cache, cells)}


def exact(values, expected) -> None:
    assert_close(values, expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 1e-3  # the cells differ: this could have failed


# Three routes, one answer


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
@pytest.mark.parametrize("name", families.KNOWN)
def test_sparse_hooks_and_the_loop_agree(looking, name, metric):
    it = looking(name)
    assert sparse.supports(it.model, 7)
    arguments = it.model, it.pair.tokens.corrupted, it.pair.clean_cache, it.cells, metric
    for engine in (sparse, hooks):
        exact(engine.measure(*arguments), metric(it.logits))


@pytest.mark.filterwarnings("ignore")  # the libraries' own, about some of these
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("Bloom", "OPT", "Gemma2") else pytest.mark.slow)
        for name in families.OTHERS
    ],
)
def test_the_hook_engine_is_the_loop_on_every_architecture(name):
    model = bridge(name)
    assert not sparse.supports(model, 7)
    pair = random_pair(model)
    chosen = torch.randperm(len(cells := every_cell(model, 7)), generator=torch.Generator())[:30]
    cells = [cells[i] for i in chosen]
    arguments = model, pair.tokens.corrupted, pair.clean_cache
    logits = looped(*arguments, cells)
    for metric in METRICS.values():
        exact(patching.sweep(*arguments, metric, cells), metric(logits))


@pytest.mark.parametrize("name", ["GPT2", "Llama", "GPTNeoX"])
def test_any_part_of_an_activation_can_be_patched(looking, name):
    """Slices, lists, single numbers, nothing at all; in the order in which they are asked for."""
    it = looking(name)
    indices = {
        "hook_resid_pre": [(slice(None),), (slice(2, 5),), (-1,), (3, slice(0, 9)), (slice(3, 3),)],
        "attn.hook_z": [(slice(None), slice(0, 2)), (4, 1), (6, 2, 0), (slice(0, 2),)],
        "hook_attn_out": [(slice(None),), (5,)],
        "hook_mlp_out": [(slice(1, 3),), (6,), ([0, 4],)],
    }
    cells = [Cell(i, s, x) for s in reversed(SITES) for x in indices[s] for i in (1, 2, 0)]
    arguments = it.model, it.pair.tokens.corrupted, it.pair.clean_cache
    logits = looped(*arguments, cells)
    for metric in METRICS.values():
        exact(patching.sweep(*arguments, metric, cells), metric(logits))


@pytest.mark.parametrize("engine", ["sparse", "hooks"])
@pytest.mark.parametrize("max_bytes", [1, 10**5])
def test_the_size_of_a_pass_does_not_show(looking, monkeypatch, engine, max_bytes):
    it, passes = looking("Llama"), []
    if engine == "hooks":
        monkeypatch.setattr(sparse, "supports", lambda *_: False)

    def metric(logits):
        passes.append(len(logits))
        return METRICS["any positions"](logits)

    cells = it.cells[::4]
    arguments = it.model, it.pair.tokens.corrupted, it.pair.clean_cache, metric, cells
    values = patching.sweep(*arguments, max_bytes=max_bytes)
    exact(values, metric(it.logits[::4]))
    assert len(passes) > 2 and sum(passes[:-1]) == len(cells)
    assert max_bytes > 1 or set(passes[:-1]) == {1}


@pytest.mark.parametrize("engine", [sparse, hooks])
@pytest.mark.parametrize("tokens", [TOKENS, None])
def test_a_last_token_metric_is_handed_just_those_logits(looking, engine, tokens):
    it, handed = looking("Qwen2"), []

    def keep(logits):
        handed.append(logits)
        return logits[:, 0]

    arguments = it.model, it.pair.tokens.corrupted, it.pair.clean_cache, it.cells
    engine.measure(*arguments, LastToken(keep, tokens))
    expected = it.logits[:, -1] if tokens is None else it.logits[:, -1, tokens]
    exact(handed[0], expected)
    assert len(handed) == 1


def test_a_model_that_does_not_run_its_hooks_is_noticed(random_model, random_pair):
    deaf = SimpleNamespace(
        cfg=random_model.cfg, run_with_hooks=lambda tokens, fwd_hooks: random_model(tokens)
    )
    tokens = random_pair.tokens
    with pytest.raises(RuntimeError, match="a hook did not run"):
        patching.patch_heads(deaf, tokens.corrupted, random_pair.clean_cache, tokens.logit_diff)


# A model that is changed is swept as it is


class Changed(torch.nn.Module):
    """A module instead of the model's own: an adapter, a transcoder, another norm."""

    def __init__(self, own, change):
        super().__init__()
        self.own, self.change = own, change

    def __getattr__(self, name):  # a weight of its own, say
        return super().__getattr__(name) if name == "own" else getattr(self.own, name)

    def forward(self, *arguments, **keywords):
        out = self.own(*arguments, **keywords)
        return (self.change(out[0]), *out[1:]) if isinstance(out, tuple) else self.change(out)


def at(model, path: str):
    """A part of the model, "blocks.1.attn"; "torch" is transformers' own under the bridge's."""
    for name in path.split("."):
        model = (
            model[int(name)]
            if name.isdigit()
            else getattr(model, {"torch": "_original_component"}.get(name, name))
        )
    return model


def replaced(path: str, change=lambda out: 3 * out):
    @contextmanager
    def change_it(model):
        holder, _, name = path.rpartition(".")
        holder, name = at(model, holder), {"torch": "_original_component"}.get(name, name)
        name = name if hasattr(holder, name) else "self_attn"  # Llama's
        own = getattr(holder, name)
        setattr(holder, name, Changed(own, change))
        try:
            yield
        finally:
            setattr(holder, name, own)

    return change_it


def torch_hook(before: bool, first_layer: bool):
    @contextmanager
    def change_it(model):
        module = at(model, "blocks.1.torch.mlp.torch")
        module = next(module.children()) if first_layer else module
        if before:
            handle = module.register_forward_pre_hook(lambda module, args: (args[0] * 2, *args[1:]))
        else:
            handle = module.register_forward_hook(lambda module, args, output: output * 2)
        with handle:
            yield

    return change_it


def halved(name: str):
    return lambda model: model.hooks(fwd_hooks=[(name, lambda activation, hook: activation / 2)])


PARTS = ["attn.q", "attn.k", "attn.v", "attn.o", "mlp", "ln1", "ln2"]
CHANGES = {
    **{name: halved(name) for name in ("blocks.1.hook_mlp_out", "ln_final.hook_normalized")},
    **{f"hook of torch {x} {y}": torch_hook(x, y) for x in (0, 1) for y in (0, 1)},
    **{f"another {part}": replaced(f"blocks.1.{part}.torch") for part in PARTS},
    **{f"another {path}": replaced(path) for path in ("blocks.1.torch", "blocks.2.attn.v.torch")},
    **{f"transformers' {part}": replaced(f"blocks.1.torch.{part}") for part in ("attn", "mlp")},
    **{
        f"another {path}": replaced(f"{path}.torch", torch.tanh) for path in ("ln_final", "unembed")
    },
}


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_model_is_swept_as_it_is(looking, change):
    """Also where transformer_lens itself passes a change by, as some of these on one family."""
    metric, effects = METRICS["any positions"], []
    for name in ("GPT2", "Llama"):
        it = looking(name)
        cells = it.cells[::4]
        arguments = it.model, it.pair.tokens.corrupted, it.pair.clean_cache
        before = patching.sweep(*arguments, metric, cells)
        with change(it.model):
            values = patching.sweep(*arguments, metric, cells)
            exact(values, metric(looped(*arguments, cells)))
        effects.append((values - before).abs().max())
        assert torch.equal(patching.sweep(*arguments, metric, cells), before)
        assert sparse.supports(it.model, 7)
    assert max(effects) > 1e-2


def test_half_precision_and_dropout_are_left_to_the_hooks():
    """In half precision to the last bit where the batch is of one row, as the model rounds."""
    model = bridge("Llama", torch.bfloat16)
    assert not sparse.supports(model, 7)
    pair, metric = random_pair(model), METRICS["named tokens"]
    cells = every_cell(model, 7)[::9]
    arguments = model, pair.tokens.corrupted, pair.clean_cache
    values = patching.sweep(*arguments, metric, cells, max_bytes=1)
    assert torch.equal(values, metric(looped(*arguments, cells)))
    model = bridge("GPT2")
    assert not sparse.supports(model.train(), 7)
    assert sparse.supports(model.eval(), 7)


@pytest.mark.parametrize(("window", "whole"), [(3, False), (7, True)])
def test_a_sliding_window_is_kept(window, whole):
    """Attention reaches back over so many positions: as if all, where the prompt is no longer."""
    model, metric = bridge("Mistral", sliding_window=window), METRICS["any positions"]
    assert sparse.supports(model, 7) == whole
    pair = random_pair(model)
    cells = every_cell(model, 7)[::4]
    arguments = model, pair.tokens.corrupted, pair.clean_cache
    exact(patching.sweep(*arguments, metric, cells), metric(looped(*arguments, cells)))
    free = random_pair(bridge("Mistral")).clean_logits
    assert torch.allclose(pair.clean_logits, free, atol=1e-4) == whole


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}),
        ("Llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}),
        ("Llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
        ("GPTNeoX", {"rotary_pct": 0.5}),
        ("GPT2", {"activation_function": "relu"}),
        ("Llama", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else value,
)
def test_a_rarer_setting_is_honoured(name, settings):
    made = {k: tuple(v.items()) if isinstance(v, dict) else v for k, v in settings.items()}
    model = bridge(name, **made) if made == settings else bridge.__wrapped__(name, **settings)
    pair, metric = random_pair(model), METRICS["any positions"]
    cells = every_cell(model, 7)[::4]
    arguments = model, pair.tokens.corrupted, pair.clean_cache
    exact(patching.sweep(*arguments, metric, cells), metric(looped(*arguments, cells)))
