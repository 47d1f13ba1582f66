"""Tiny random models of many architectures, made in memory, and what is run on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from helpers.engine import Cell
from helpers.prompts import PromptPair

WORDS = [" The", " A", " cat", " dog", " sat", " ran", " on", " the", " mat", " rug"]
PAIR = PromptPair(" The cat sat on the", " The dog sat on the", " mat", " rug")
LAYERS, HEADS, D_MODEL, VOCABULARY, CONTEXT = 3, 4, 24, 64, 32

IDS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
OLD = IDS | {"n_layer": LAYERS, "n_embd": D_MODEL, "n_head": HEADS, "n_positions": CONTEXT}
WIDE = IDS | {
    "hidden_size": D_MODEL,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 40,
    "max_position_embeddings": CONTEXT,
}
GROUPED = WIDE | {"num_key_value_heads": 2}  # two query heads for each key head
SIX = GROUPED | {"head_dim": 6}
EXPERTS = GROUPED | {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2}
EXPERTS |= {"moe_intermediate_size": 16}
KNOWN = {  # to helpers.architecture: by name, transformers' class and configuration
    "GPT2": ("GPT2", OLD),
    "Llama": ("Llama", GROUPED),
    "Llama with biases": ("Llama", GROUPED | {"attention_bias": True, "mlp_bias": True}),
    "Mistral": ("Mistral", GROUPED),
    "Qwen2": ("Qwen2", GROUPED),
    "GPTNeoX": ("GPTNeoX", WIDE),
    "GPTNeoX in series": ("GPTNeoX", WIDE | {"use_parallel_residual": False}),
}
OTHERS = {
    "GPTJ": OLD | {"rotary_dim": 4},
    "GPTNeo": IDS
    | {"hidden_size": 24, "num_layers": 2, "num_heads": 4, "max_position_embeddings": CONTEXT}
    | {"attention_types": [[["global", "local"], 1]], "intermediate_size": 40},
    "OPT": WIDE | {"ffn_dim": 40, "word_embed_proj_dim": 24},  # an MLP on [batch * pos, d_model]
    "Bloom": IDS | {"hidden_size": 24, "n_layer": 2, "n_head": 4},  # ALiBi, made for a batch
    "Falcon": WIDE | {"new_decoder_architecture": False, "multi_query": True, "alibi": False},
    "Mpt": IDS | {"d_model": 24, "n_layers": 2, "n_heads": 4, "max_seq_len": CONTEXT},
    "Phi": WIDE,
    "Phi3": SIX,
    "Gemma": SIX,
    "Gemma2": SIX,
    "Olmo": GROUPED,
    "Olmo2": GROUPED,
    "StableLm": GROUPED,
    "Cohere": GROUPED,
    "Granite": GROUPED | {"residual_multiplier": 0.3},
    "Mixtral": EXPERTS,
    "Starcoder2": GROUPED,
    "CodeGen": OLD | {"n_embd": 32, "rotary_dim": 4, "n_ctx": CONTEXT},
    "GPTBigCode": OLD,
    "Qwen2Moe": EXPERTS | {"shared_expert_intermediate_size": 16},
    "Qwen3": SIX,
    "Olmoe": EXPERTS,
    "SmolLM3": GROUPED,
}


@cache
def network(name: str, dtype: torch.dtype = torch.float32, **changes):
    """transformers' own model, with random weights of which none is small."""
    kind, settings = KNOWN.get(name) or (name, OTHERS[name])
    config = getattr(transformers, f"{kind}Config")(**settings | changes)
    head = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    made = getattr(transformers, kind + head)._from_config(config, attn_implementation="eager")
    made.config.architectures = [type(made).__name__]  # by which transformer_lens knows it
    generator = torch.Generator().manual_seed(0)
    for key, parameter in made.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        if "norm" in key or "ln_" in key:
            parameter.data += key.endswith("weight")
    return made.to(dtype).eval()


@cache
def bridge(name: str, dtype: torch.dtype = torch.float32, **changes) -> TransformerBridge:
    """The same as `load_model` would give it. Shared by the tests: put back what you change."""
    made = network.__wrapped__(name, dtype, **changes)  # it is rewritten, so one of its own
    with tokenizer() as words:
        model = TransformerBridge.boot_transformers(
            name, hf_model=made, tokenizer=words, dtype=dtype, device="cpu"
        )
    model.enable_compatibility_mode()
    model.eval().cfg.default_prepend_bos = True
    return model


@contextmanager
def tokenizer(**special) -> Iterator[PreTrainedTokenizerFast]:
    """One token a word, its space included; BOS is 0."""
    tokens = ["<s>", "<unk>", *WORDS]
    tokens += [f" w{i}" for i in range(VOCABULARY - len(tokens))]
    words = models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="<unk>")
    made = Tokenizer(words)
    made.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    names = {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>", "unk_token": "<unk>"}
    saved = PreTrainedTokenizerFast(tokenizer_object=made, **names | special)
    with TemporaryDirectory() as folder:  # transformer_lens asks where a tokenizer came from,
        saved.save_pretrained(folder)  # and loads it again
        yield AutoTokenizer.from_pretrained(folder)


def run_pair(model, tokens) -> SimpleNamespace:
    clean_logits, clean_cache = model.run_with_cache(tokens.clean)
    corrupted_logits, corrupted_cache = model.run_with_cache(tokens.corrupted)
    return SimpleNamespace(
        tokens=tokens,
        clean_logits=clean_logits,
        clean_cache=clean_cache,
        corrupted_logits=corrupted_logits,
        corrupted_cache=corrupted_cache,
    )


def looped(model, tokens, clean_cache, cells: list[Cell]) -> torch.Tensor:
    """The logits of each cell's run, one run with one hook a cell: `[cells, pos, d_vocab]`."""
    rows = []
    for layer, site, index in cells:
        name = f"blocks.{layer}.{site}"

        def patch(activation, hook, name=name, index=index):
            patched = activation.clone()
            patched[0][index] = clean_cache[name][0][index]
            return patched

        rows.append(model.run_with_hooks(tokens, fwd_hooks=[(name, patch)])[0])
    return torch.stack(rows)
