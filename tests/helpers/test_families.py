"""Every public helper on other architectures, each against hooks or transformers by hand."""

from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.testing import assert_close
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Olmo2Config,
    Olmo2ForCausalLM,
    PreTrainedTokenizerFast,
)

from helpers import attribution, induction, lens, live, metrics, patching, steering
from helpers.models import load_model
from helpers.prompts import PromptPair

WORDS = [" The", " A", " cat", " dog", " sat", " ran", " on", " under", " mat", " sofa", " rug"]
N, LAYERS, HEADS, CONTEXT = 29, 2, 4, 32
SIZES = {"vocab_size": N, "bos_token_id": 0, "eos_token_id": 0}
WIDE = SIZES | {
    "hidden_size": 24,
    "intermediate_size": 40,
    "max_position_embeddings": CONTEXT,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
}
GROUPED = WIDE | {"num_key_value_heads": 2, "pad_token_id": 0}


def gpt2():
    return GPT2LMHeadModel(
        GPT2Config(**SIZES, n_layer=LAYERS, n_embd=24, n_head=HEADS, n_positions=CONTEXT)
    )


def granite(**scales):
    return GraniteForCausalLM(GraniteConfig(**GROUPED, **scales))


MAKE = {
    "gpt2": gpt2,
    # RMSNorm, rotary positions, two query heads for each key head, gated MLP, no biases
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**GROUPED)),
    "llama-biased": lambda: LlamaForCausalLM(
        LlamaConfig(**GROUPED, attention_bias=True, mlp_bias=True)
    ),
    # LayerNorm, rotary positions, attention and MLP in parallel (or not)
    "pythia": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE)),
    "neox-serial": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WIDE, use_parallel_residual=False)),
    # Refused by some helpers: a norm after each component; a scale of each part; of the logits
    "olmo2": lambda: Olmo2ForCausalLM(Olmo2Config(**GROUPED)),
    "gemma3": lambda: Gemma3ForCausalLM(
        Gemma3TextConfig(**GROUPED, head_dim=6, layer_types=["full_attention"] * LAYERS)
    ),
    "granite": lambda: granite(residual_multiplier=0.3),
    "granite-logits": lambda: granite(logits_scaling=4.0),
}
FAMILIES = ["gpt2", "llama", "llama-biased", "pythia", "neox-serial"]
DOUBLE, HALF = torch.float64, torch.bfloat16
PAIR = PromptPair(" The cat sat on the", " The dog sat on the", " mat", " rug")
TOLERANCE = {"atol": 2e-5, "rtol": 1e-5}  # rotary angles are computed in single precision


def save_tokenizer(path) -> None:
    """One token a word, its space included; BOS is 0."""
    tokens = ["<s>", "<unk>", *WORDS, " the", *(f" w{i}" for i in range(N - 3 - len(WORDS)))]
    words = models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>")
    tokenizer = Tokenizer(words)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    special = {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(path)


@pytest.fixture(scope="module")
def family(tmp_path_factory):
    """A function: a random model of that family and precision, the same in transformers, a pair."""
    paths, made = {}, {}

    def one(name: str, dtype: torch.dtype = DOUBLE):
        if name not in paths:
            paths[name] = tmp_path_factory.mktemp(name)
            network = MAKE[name]()
            generator = torch.Generator().manual_seed(0)
            for key, parameter in network.named_parameters():
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
                if "norm" in key or "ln_" in key:
                    parameter.data += key.endswith("weight")
            network.save_pretrained(paths[name])
            save_tokenizer(paths[name])
        if (name, dtype) not in made:
            model = load_model(paths[name], device="cpu", dtype=dtype)
            tokens = PAIR.tokens(model)
            logits, cache = model.run_with_cache(tokens.clean)
            network = AutoModelForCausalLM.from_pretrained(
                paths[name], dtype=dtype, attn_implementation="eager"
            ).eval()
            made[name, dtype] = SimpleNamespace(
                model=model, network=network, tokens=tokens, logits=logits, cache=cache
            )
        return made[name, dtype]

    return one


@pytest.fixture(params=FAMILIES)
def it(request, family):
    return family(request.param)


def ids(it):
    return it.tokens.answer, it.tokens.distractor


def with_hook(it, name: str, change, tokens=None):
    """The logits of a run in which one activation is changed, by one hook."""

    def hooked(activation, hook):
        return change(activation.clone())

    tokens = it.tokens.corrupted if tokens is None else tokens
    return it.model.run_with_hooks(tokens, fwd_hooks=[(name, hooked)])


def final_norm(network):
    base = network.base_model
    return next(
        getattr(base, name) for name in ("ln_f", "norm", "final_layer_norm") if hasattr(base, name)
    )


@torch.no_grad()
def hidden_states(it, tokens):
    return it.network(tokens, output_hidden_states=True).hidden_states


# Loading, prompts, metrics


@torch.no_grad()
def test_a_model_says_what_transformers_says(it):
    expected = it.network(it.tokens.clean).logits.log_softmax(-1)
    assert_close(it.logits.log_softmax(-1), expected, **TOLERANCE)
    assert it.model.cfg.d_vocab == N and it.logits.dtype == DOUBLE


def test_a_pair_is_of_the_familys_own_tokens(it):
    tokenizer = it.model.tokenizer
    expected = [0, *tokenizer(PAIR.clean, add_special_tokens=False).input_ids]
    assert it.tokens.clean.tolist() == [expected]
    assert tokenizer.convert_ids_to_tokens([ids(it)[0].item()]) == [" mat"]
    assert (it.tokens.clean != it.tokens.corrupted).nonzero().tolist() == [[0, 2]]
    with pytest.raises(ValueError, match="until they line up"):
        PromptPair(" The cat", " The cat sat", " mat", " rug").tokens(it.model)


@torch.no_grad()
def test_metrics(it):
    """On transformers' logits, which differ by a constant a position: no metric sees it."""
    answer, distractor = (i.item() for i in ids(it))
    theirs = it.network(it.tokens.clean).logits
    last = theirs[0, -1]
    assert_close(it.tokens.logit_diff(it.logits)[0], last[answer] - last[distractor], **TOLERANCE)
    assert metrics.answer_rank(it.logits, ids(it)[0]).item() == (
        last.argsort(descending=True).tolist().index(answer) + 1
    )
    loss = torch.nn.functional.cross_entropy(theirs[0, :-1], it.tokens.clean[0, 1:])
    ours = -metrics.next_token_log_probs(it.logits, it.tokens.clean).mean()
    assert_close(ours, loss, **TOLERANCE)
    probs = torch.distributions.Categorical(logits=theirs)
    assert_close(metrics.entropy(it.logits), probs.entropy(), **TOLERANCE)
    assert_close(metrics.kl_divergence(it.logits, theirs), torch.zeros(1, 6).double(), **TOLERANCE)


# Patching


def swept(it, function):
    return function(it.model, it.tokens.corrupted, it.cache, it.tokens.logit_diff)


def test_patching_is_the_loop(it):
    assert live.supports_live(it.model) == (it.model.cfg.architecture == "GPT2LMHeadModel")
    positions = it.tokens.clean.shape[1]
    blocks = torch.zeros(3, LAYERS, positions).double()
    heads, each = torch.zeros(LAYERS, HEADS), torch.zeros(LAYERS, HEADS, positions)
    heads, each = heads.double(), each.double()

    def patched(name, index):
        def change(activation):
            activation[0][index] = it.cache[name][0][index]
            return activation

        return it.tokens.logit_diff(with_hook(it, name, change))[0]

    for layer in range(LAYERS):
        for i, site in enumerate(("hook_resid_pre", "hook_attn_out", "hook_mlp_out")):
            for p in range(positions):
                blocks[i, layer, p] = patched(f"blocks.{layer}.{site}", (p,))
        for h in range(HEADS):
            name = f"blocks.{layer}.attn.hook_z"
            heads[layer, h] = patched(name, (slice(None), h))
            for p in range(positions):
                each[layer, h, p] = patched(name, (p, h))
    for function, expected in [
        (patching.patch_residual, blocks[0]),
        (patching.patch_blocks, blocks),
        (patching.patch_heads, heads),
        (patching.patch_head_positions, each),
    ]:
        assert_close(swept(it, function), expected, **TOLERANCE)
        assert expected.std() > 1e-2


@torch.no_grad()
def test_patching_is_what_transformers_computes(it):
    """The stream entering layer 1 at the last position, put into transformers' own layer."""
    clean = hidden_states(it, it.tokens.clean)[1]
    base = it.network.base_model
    layers = base.h if hasattr(base, "h") else base.layers

    def enter(module, arguments, keywords):
        stream = arguments[0].clone()
        stream[:, -1] = clean[:, -1]
        return (stream, *arguments[1:]), keywords

    handle = layers[1].register_forward_pre_hook(enter, with_kwargs=True)
    expected = it.tokens.logit_diff(it.network(it.tokens.corrupted).logits)[0]
    handle.remove()
    assert_close(swept(it, patching.patch_residual)[1, -1], expected, **TOLERANCE)


def test_attribution_patching_is_the_directional_derivative(it):
    """By central differences of hooked runs: no gradient taken."""
    estimate = swept(it, patching.attribution_patch)
    _, corrupted = it.model.run_with_cache(it.tokens.corrupted)
    for layer in range(LAYERS):
        name = f"blocks.{layer}.hook_resid_pre"
        for position in (2, it.tokens.clean.shape[1] - 1):
            towards = it.cache[name][0, position] - corrupted[name][0, position]
            ends = []
            for sign in (1, -1):

                def change(stream, sign=sign, towards=towards, position=position):
                    stream[0, position] += sign * 1e-4 * towards
                    return stream

                ends.append(it.tokens.logit_diff(with_hook(it, name, change))[0])
            # norms and rotations of some families run in single precision
            slope = (ends[0] - ends[1]) / 2e-4
            assert_close(estimate[layer, position], slope, atol=2e-2, rtol=1e-2)
    assert estimate.abs().max() > 0.05


# Attribution


@torch.no_grad()
def test_attribution_sums_to_the_logit_difference_of_transformers(it):
    parts = attribution.attribute_logit_diff(it.model, it.cache, *ids(it))
    theirs = it.tokens.logit_diff(it.network(it.tokens.clean).logits)[0]
    assert_close(parts.total, theirs, **TOLERANCE)
    assert (parts.pos_embed == 0) == (it.model.cfg.architecture != "GPT2LMHeadModel")


def test_each_part_is_what_goes_missing_without_it(it):
    """Subtract the component from the last stream, the norm's scale held: the logits lose it."""
    parts = attribution.attribute_logit_diff(it.model, it.cache, *ids(it))
    last, scale = f"blocks.{LAYERS - 1}.hook_resid_post", it.cache["ln_final.hook_scale"][:, -1]
    direction = it.model.W_U[:, ids(it)[0]] - it.model.W_U[:, ids(it)[1]]  # (d_model, 1)
    whole = it.cache[last][:, -1]

    def lost(written):
        streams = torch.stack([whole, whole - written])
        if it.model.cfg.normalization_type.startswith("LN"):  # RMSNorm does not centre
            streams = streams - streams.mean(-1, keepdim=True)
        with_it, without = (streams / scale @ direction).flatten()
        return with_it - without

    for layer in range(LAYERS):
        mlp = it.cache[f"blocks.{layer}.hook_mlp_out"][:, -1]
        assert_close(parts.mlps[layer], lost(mlp), **TOLERANCE)
        attention = 0
        for head in range(HEADS):
            z = it.cache[f"blocks.{layer}.attn.hook_z"][:, -1]
            alone = torch.zeros_like(z)
            alone[:, head] = z[:, head]
            written = alone.flatten(1) @ it.model.W_O[layer].flatten(0, 1)
            assert_close(parts.heads[layer, head], lost(written), **TOLERANCE)
            attention = attention + written
        bias = it.model.blocks[layer].attn.b_O
        attention = attention + (0 if bias is None else bias)
        assert_close(attention, it.cache[f"blocks.{layer}.hook_attn_out"][:, -1], **TOLERANCE)


def test_neurons_are_what_goes_missing_without_them(it):
    for layer in range(LAYERS):
        neurons = attribution.attribute_neurons(it.model, it.cache, layer, *ids(it))
        assert neurons.shape == (it.model.cfg.d_mlp,)
        bias = it.model.blocks[layer].mlp.b_out
        scale = it.cache["ln_final.hook_scale"][0, -1]
        direction = it.model.W_U[:, ids(it)[0]] - it.model.W_U[:, ids(it)[1]]
        if it.model.cfg.normalization_type.startswith("LN"):
            direction = direction - direction.mean(0)
        rest = 0 if bias is None else (bias / scale @ direction)[0]
        mlp = attribution.attribute_logit_diff(it.model, it.cache, *ids(it)).mlps[layer]
        assert_close(neurons.sum() + rest, mlp, **TOLERANCE)

        # one neuron shut by a hook: what the MLP then writes has lost that neuron's part
        def shut(activation, hook):
            activation = activation.clone()
            activation[..., 7] = 0
            return activation

        name = f"blocks.{layer}.hook_mlp_out"
        with it.model.hooks(fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", shut)]):
            _, without = it.model.run_with_cache(it.tokens.clean, names_filter=name)
        lost = (it.cache[name][0, -1] - without[name][0, -1]) / scale @ direction
        assert_close(neurons[7], lost[0], **TOLERANCE)


@pytest.mark.filterwarnings("ignore:Olmo2")  # the library says what is refused here
@pytest.mark.parametrize(
    ("name", "refusal"),
    [
        ("olmo2", "this Olmo2ForCausalLM: its final norm is not folded into W_U"),
        ("gemma3", "in Gemma3ForCausalLM more happens between a component and the residual"),
        ("granite", "in GraniteForCausalLM more happens between a component and the residual"),
    ],
)
def test_attribution_refuses_what_is_no_sum(family, name, refusal):
    it = family(name)
    with pytest.raises(ValueError, match=refusal):
        attribution.attribute_logit_diff(it.model, it.cache, *ids(it))
    with pytest.raises(ValueError, match=refusal):
        attribution.attribute_neurons(it.model, it.cache, 1, *ids(it))
    name, head = f"blocks.{LAYERS - 1}.attn.hook_z", 1  # but patching holds, as the message says

    def change(z):
        z[:, :, head] = it.cache[name][:, :, head]
        return z

    expected = it.tokens.logit_diff(with_hook(it, name, change))[0]
    assert_close(swept(it, patching.patch_heads)[-1, head], expected, **TOLERANCE)


def test_scaled_logits_are_refused(family):
    it = family("granite-logits")
    for call in (
        lambda: lens.logit_lens(it.model, it.cache),
        lambda: attribution.attribute_logit_diff(it.model, it.cache, *ids(it)),
        lambda: attribution.attribute_neurons(it.model, it.cache, 1, *ids(it)),
    ):
        with pytest.raises(
            ValueError, match="GraniteForCausalLM divides its logits after the unembedding"
        ):
            call()


def test_weights_as_in_the_file_are_refused(family, tmp_path):
    """As a model must be loaded whose layers are offloaded: its final norm is not in W_U."""
    it = family("llama")
    it.network.save_pretrained(tmp_path)
    it.model.tokenizer.save_pretrained(tmp_path)
    raw = TransformerBridge.boot_transformers(str(tmp_path), device="cpu", dtype=DOUBLE)
    raw.enable_compatibility_mode(no_processing=True)
    with torch.no_grad():
        logits, cache = raw.run_with_cache(it.tokens.clean)
    assert_close(it.tokens.logit_diff(logits), it.tokens.logit_diff(it.logits), **TOLERANCE)
    for call in (
        lambda: attribution.attribute_logit_diff(raw, cache, *ids(it)),
        lambda: attribution.attribute_neurons(raw, cache, 1, *ids(it)),
    ):
        with pytest.raises(ValueError, match="final norm is not folded into W_U"):
            call()
    assert_close(lens.logit_lens(raw, cache)[-1], logits, **TOLERANCE)
    arguments = raw, it.tokens.corrupted, cache, it.tokens.logit_diff
    assert_close(patching.patch_heads(*arguments), swept(it, patching.patch_heads), **TOLERANCE)


def test_steering_leaves_bos_out_and_only_bos(it):
    """Of prompts of one word, so that a word taken for BOS would leave nothing."""
    vector = steering.steering_vector(it.model, " cat", " dog", 0)
    two = torch.tensor([[0, it.model.tokenizer.convert_tokens_to_ids(w)] for w in (" cat", " dog")])
    _, cache = it.model.run_with_cache(two)
    streams = cache["blocks.0.hook_resid_post"][:, 1]
    assert_close(vector, streams[0] - streams[1], **TOLERANCE)


# Lens, induction, steering


@torch.no_grad()
def test_the_lens_is_transformers_own_head(it):
    rows = lens.logit_lens(it.model, it.cache)
    assert_close(rows[-1], it.logits, **TOLERANCE)
    norm, head = final_norm(it.network), it.network.get_output_embeddings()
    for row, stream in zip(rows[:-1], hidden_states(it, it.tokens.clean)[:-1], strict=True):
        assert_close(row.log_softmax(-1), head(norm(stream)).log_softmax(-1), **TOLERANCE)


@torch.no_grad()
def test_induction_scores_of_transformers_attention(it):
    n, batch = 5, 3
    tokens = induction.repeated_tokens(it.model, n, batch, seed=0)
    assert (tokens[:, 0] == it.model.tokenizer.bos_token_id).all() and (tokens[:, 1:] != 0).all()
    assert torch.equal(tokens[:, 1 : n + 1], tokens[:, n + 1 :])
    _, cache = it.model.run_with_cache(tokens)
    theirs = it.network(tokens, output_attentions=True).attentions
    for layer, attention in enumerate(theirs):
        pattern = cache[f"blocks.{layer}.attn.hook_pattern"]
        scores = induction.induction_scores(pattern, n)
        twins = induction.duplicate_token_scores(pattern, n)
        before = induction.previous_token_scores(pattern)
        for head in range(HEADS):
            of = attention[:, head].double()
            second = range(n + 1, 2 * n + 1)
            by_hand = torch.stack([of[:, q, q - n + 1] for q in second]).mean()
            assert_close(scores[head], by_hand, **TOLERANCE)
            by_hand = torch.stack([of[:, q, q - n] for q in second]).mean()
            assert_close(twins[head], by_hand, **TOLERANCE)
            by_hand = torch.stack([of[:, q, q - 1] for q in range(2, 2 * n + 1)]).mean()
            assert_close(before[head], by_hand, **TOLERANCE)
    with pytest.raises(ValueError, match="exceed the context; at most 15 here"):
        induction.repeated_tokens(it.model, 16, 1, seed=0)


@torch.no_grad()
def test_steering_is_adding_in_transformers(it):
    layer, coefficient = 0, 1.5
    vector = steering.steering_vector(it.model, PAIR.clean, PAIR.corrupted, layer)
    base = it.network.base_model
    streams = [hidden_states(it, t)[layer + 1] for t in (it.tokens.clean, it.tokens.corrupted)]
    theirs = streams[0][0, 1:].mean(0) - streams[1][0, 1:].mean(0)
    # loading centres what a LayerNorm model writes to the stream; RMSNorm models stay as they were
    if it.model.cfg.normalization_type.startswith("LN"):
        theirs = theirs - theirs.mean()
    assert_close(vector, theirs, **TOLERANCE)

    def add(module, arguments, output):
        whole = output[0] if isinstance(output, tuple) else output
        moved = whole + coefficient * theirs
        return (moved, *output[1:]) if isinstance(output, tuple) else moved

    blocks = base.h if hasattr(base, "h") else base.layers
    handle = blocks[layer].register_forward_hook(add)
    expected = it.network(it.tokens.corrupted).logits.log_softmax(-1)
    written = it.tokens.corrupted
    for _ in range(4):
        token = it.network(written).logits[:, -1:].argmax(-1)
        written = torch.cat([written, token], dim=1)
    handle.remove()
    with steering.steer(it.model, vector, layer, coefficient):
        steered = it.model(it.tokens.corrupted)
        ours = it.model.generate(
            it.tokens.corrupted,
            max_new_tokens=4,
            do_sample=False,
            verbose=False,
            stop_at_eos=False,
            return_type="tokens",
        )
    assert_close(steered.log_softmax(-1), expected, **TOLERANCE)
    assert ours.tolist() == written.tolist()
    plain = it.model(it.tokens.corrupted).log_softmax(-1)
    assert (plain - expected).abs().max() > 1e-2


# Half precision


@pytest.mark.parametrize("name", ["gpt2", "llama", "pythia"])
def test_half_precision_is_the_same_but_coarse(family, name):
    """Each helper on bfloat16, against the same on double precision."""
    half, full = family(name, HALF), family(name)
    assert half.model.cfg.dtype == half.logits.dtype == HALF
    assert not live.supports_live(half.model)

    def near(function):
        ours, exact = function(half).double(), function(full)
        assert (ours - exact).abs().max() < 0.1 * exact.abs().max() + 0.03

    near(lambda it: it.logits.log_softmax(-1))
    near(lambda it: it.tokens.logit_diff(it.logits))
    for function in (
        patching.patch_residual,
        patching.patch_blocks,
        patching.patch_heads,
        patching.patch_head_positions,
        patching.attribution_patch,
    ):
        near(lambda it, function=function: swept(it, function))
    near(lambda it: attribution.attribute_logit_diff(it.model, it.cache, *ids(it)).heads)
    near(lambda it: attribution.attribute_logit_diff(it.model, it.cache, *ids(it)).total)
    near(lambda it: attribution.attribute_neurons(it.model, it.cache, 1, *ids(it)))
    near(lambda it: lens.logit_lens(it.model, it.cache))
    near(lambda it: induction.previous_token_scores(it.cache["blocks.1.attn.hook_pattern"]))
    near(lambda it: steering.steering_vector(it.model, PAIR.clean, PAIR.corrupted, 1))

    vector = steering.steering_vector(full.model, PAIR.clean, PAIR.corrupted, 1)

    def steered(it):
        with steering.steer(it.model, vector, 1, 1.5):  # a vector of another precision
            return it.model(it.tokens.clean)

    near(steered)
    assert steered(half).dtype == HALF
