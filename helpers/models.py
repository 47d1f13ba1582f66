"""Load the model a notebook works on: the embedded one, a real one, a hub model, a local one.

All go one way from their files on. What is on this machine already needs no network.
`python -m helpers.models NAME` fetches a model ahead of time.
"""

import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import smollm2
from helpers.hub import ADVICE, cached, download, missing_files, quiet

EMBEDDED = "tutorial-4l"
EMBEDDED_DIRECTORY = Path(__file__).parent / "tutorial_4l"
ALIASES = {"gpt2-small": "gpt2"}  # the name in older tutorials
# Nats by which log-probabilities may differ from plain transformers'; half precision rounds
# processed weights otherwise than the ones in the file.
NEAR = {torch.float32: 1e-3, torch.float64: 1e-3, torch.float16: 0.5, torch.bfloat16: 3.0}
# 5.24 hands a layer its key-value cache under a name that transformer_lens 4.3 does not read.
GO_TOGETHER = "transformer_lens 4.3 goes with transformers>=5.9,<5.24"

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

    Processed: transformer_lens' compatibility mode (norms folded, weights centred) leaves
    log-probabilities as they were; logits `[batch, pos, d_vocab]` shift by a constant per position.
    Checked: a forward pass and a step with the key-value cache against plain transformers.
    Parameters require grad, since transformer_lens' attribution patching needs that; where no
    gradient is wanted, `torch.set_grad_enabled(False)`. Every text is read with BOS in front.

    Args:
        name: None for the environment variable TUTORIAL_MODEL or, where that is unset or empty,
            "tutorial-4l", the embedded model; "smollm2-135m", a real one (docs/smollm2-135m.md);
            a hub name ("gpt2", "owner/name"); a directory; or a .gguf file with a tokenizer in it.
            A Path and a string like "./x", "~/x", "/x" or "a/b/c" are always files here; "x" and
            "x/y" are where there is such a directory, but the names above keep their meaning.
        device: None for CUDA where there is one, else the CPU.
        dtype: torch.float32, float64, float16 or bfloat16.
        device_map: instead of `device`, for a model that is too large for one: how accelerate is
            to spread it ("auto", "balanced", or a dict from the names of modules to devices). With
            a part on "cpu" or "disk", nothing is folded or centred, and `helpers.attribution`
            refuses such a model (docs/large-models.md). A spread model is not checked.
        offload_folder: where the parts on "disk" go.

    Returns:
        The model. `model.cfg.model_name` is one of the names above, or the path as given, always in
        path form: `Path("gpt2")` becomes "./gpt2".

    Raises:
        TypeError: name, device or dtype of a wrong type.
        ValueError: a device or dtype that cannot be used; a device and a device_map; a name that
            the hub does not know, or without safetensors there; weights that do not fit.
        FileNotFoundError: no such file or directory, or something is missing from it.
        ConnectionError: no copy here, and no answer from the hub or the package index in 10 s, or
            a download that stands still (noticed after 2 to 4 minutes).
        RuntimeError: the model computes something else here than in plain transformers.

    Loading the embedded model sets torch to one thread in the whole process: on a busy machine a
    run of so small a model took 170 ms with two threads, 1.6 ms with one.
    """
    placement = {"device_map": device_map, "offload_folder": offload_folder}
    placement = {key: value for key, value in placement.items() if value is not None}
    if device_map is not None and device is not None:
        raise ValueError(f"device {device!r} and a device_map: give one of them")
    device = _checked("cpu" if device_map is not None else device, dtype)
    name = name if name is not None else os.environ.get("TUTORIAL_MODEL") or EMBEDDED
    identity, path = _locate(name)
    _expect_complete(name, path)
    if identity == EMBEDDED:
        torch.set_num_threads(1)
    model = _boot(path, dtype, device if device_map is None else None, placement)
    model.cfg.model_name = identity
    return model


def describe(model: TransformerBridge) -> str:
    """Three lines on the model at hand: name, shape and device; what stands in front of every
    text; the libraries' versions."""
    c, tokenizer = model.cfg, model.tokenizer
    own = tokenizer.init_kwargs.get("bos_token")
    note = (
        "" if own else ", borrowed: this tokenizer has no BOS, the model was not trained with one"
    )
    return (
        f"{c.model_name} on {c.device}: {c.n_layers} layers of {c.n_heads} heads, "
        f"d_model {c.d_model}, {c.d_vocab} tokens, context {c.n_ctx}\n"
        f"position 0: {tokenizer.bos_token!r}{note}\n"
        f"transformer_lens {version('transformer_lens')}, torch {version('torch')}"
    )


@torch.no_grad()
def _boot(path: Path, dtype: torch.dtype, device: str | None, placement: dict) -> TransformerBridge:
    """The model in a directory or .gguf file: read by transformers, wrapped, processed, checked."""
    directory, source = path, {"local_files_only": True}
    if path.is_file():
        directory, source["gguf_file"] = path.parent, path.name
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(directory, add_bos_token=True, **source)
            network, info = AutoModelForCausalLM.from_pretrained(
                directory,
                dtype=dtype,
                attn_implementation="eager",  # the bridge's own, so that rounding is alike
                use_safetensors=True,
                output_loading_info=True,
                **source,
                **placement,
            )
            # transformers fills a gap with random numbers.
            if lacking := sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]])):
                raise ValueError(
                    f"the weights do not fit the model's configuration: {len(lacking)} parameters "
                    f"are missing or of another shape, such as {lacking[0]}"
                )
            if device is not None:
                network.to(device)
            parts = set(map(str, (getattr(network, "hf_device_map", None) or {}).values()))
            eighth = network.config.get_text_config().vocab_size // 8  # any six tokens will do
            ids = torch.arange(1, 7, device=network.device)[None] * eighth
            right = network(ids).logits if len(parts) < 2 else None
            model = TransformerBridge.boot_transformers(
                str(directory), hf_model=network, tokenizer=tokenizer, dtype=dtype, device=device
            )
            # Once: it rewrites the weights, where they are all in reach.
            kept = getattr(network.config, smollm2.PROCESSED, False) or parts & {"cpu", "disk"}
            model.enable_compatibility_mode(no_processing=bool(kept))
            model.eval().cfg.default_prepend_bos = True  # else model(text) is without, for some
            if right is not None:
                _compare(model, ids, right)
            return model
    except Exception as error:
        error.add_note(f"while loading the model in {path}")
        raise


def _compare(
    model: TransformerBridge, ids: Int[Tensor, "1 pos"], right: Float[Tensor, "1 pos d_vocab"]
) -> None:
    """Raise where the model does not answer as plain transformers did, at once and token by token.

    The cache is the one that `generate` uses; a model without one (Mamba's) has no second answer.
    """
    cached = {"use_cache": True} if getattr(model.adapter, "supports_kv_cache", True) else {}
    logits, past = model(ids[:, :-1], return_type="logits_and_cache", **cached)
    answers = {"a forward pass": (logits, right[:, :-1])}
    if cached and past is not None:
        step = model(ids[:, -1:], past_key_values=past)
        answers["a step with the key-value cache"] = (step, right[:, -1:])
    limit = NEAR[model.cfg.dtype]
    for what, both in answers.items():
        found, expected = (logits.float().log_softmax(-1) for logits in both)
        off = (found - expected).abs().max().item()
        if not off <= limit:  # not a number is wrong too
            raise RuntimeError(
                f"{what} differs from plain transformers' by {off:.3g} nats (log-probabilities; "
                f"{limit} is allowed) with transformer_lens {version('transformer_lens')} and "
                f"transformers {version('transformers')}. "
                f"{GO_TOGETHER}; where you have those, config.json asks for something that "
                "transformer_lens leaves out, such as GPT-2's scale_attn_weights: false"
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
        hint = 'leave it out, or use device="cpu"'
        raise ValueError(f"device {str(device)!r} cannot be used ({error}): {hint}") from None
    if dtype not in NEAR:
        kind = ValueError if isinstance(dtype, torch.dtype) else TypeError
        raise kind(f"dtype must be one of {', '.join(map(str, NEAR))}; got {dtype!r}")
    return str(device)


def _expect_complete(name: str | os.PathLike[str], path: Path) -> None:
    problem = "" if path.is_file() and path.suffix == ".gguf" else "is no directory or .gguf file"
    if path.is_dir() and (problem := missing_files(path)):
        problem = (
            f"lacks {problem}. The model's and the tokenizer's save_pretrained write what is "
            "needed. Pickled weights (*.bin) are never read: unpickling can run any code"
        )
    if problem:
        raise FileNotFoundError(f"{name!r}: {path.absolute()} {problem}. {ADVICE}")


def _locate(name: str | os.PathLike[str]) -> tuple[str, Path]:
    """The model's identity, and the directory with its files or its .gguf file."""
    text = os.fspath(name) if isinstance(name, str | os.PathLike) else None
    if not isinstance(text, str):
        raise TypeError(f"name must be a string, a path or None; got {name!r}")
    if not text:
        raise ValueError(f"name is an empty string. {ADVICE}")
    path = Path(text).expanduser()
    if isinstance(name, str):
        official = ALIASES.get(name, name)
        if official == EMBEDDED:
            return EMBEDDED, EMBEDDED_DIRECTORY
        if official == smollm2.NAME:
            return smollm2.NAME, smollm2.files(lambda gguf: _boot(gguf, torch.float32, "cpu", {}))
        local = path.is_dir() or path.suffix == ".gguf"
        if official == "gpt2" or (_HUB_NAME.fullmatch(name) and not local):
            return official, cached(official) or download(official)
    in_path_form = text.startswith((".", "~")) or path.is_absolute()
    return text if in_path_form else f"./{text}", path


if __name__ == "__main__":
    print(describe(load_model(*sys.argv[1:2])))
