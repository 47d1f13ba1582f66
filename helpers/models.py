"""Load the model a notebook works on: the embedded one, a hub model, or a local directory.

All three end in a directory of files and take one road from there; a model that is on this machine
needs no network. Importing this module changes no library's settings.
"""

import os
import re
from importlib.metadata import version
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from helpers.hub import ADVICE, cached, download, file_names, library_messages, missing_files
from helpers.product import lay_out

EMBEDDED = "tutorial-4l"
EMBEDDED_DIRECTORY = Path(__file__).parent / "tutorial_4l"
ALIASES = {"gpt2-small": "gpt2"}  # the name in older tutorials
DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)  # "gpt2" or "owner/name"


def load_model(
    name: str | os.PathLike[str] | None = None,
    *,
    device: str | torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    device_map: str | dict[str, str | int] | None = None,
    offload_folder: str | os.PathLike[str] | None = None,
) -> TransformerBridge:
    """Return a model ready for analysis: weights processed, parameters frozen, eval mode.

    Processed: transformer_lens' compatibility mode (LayerNorm folded, weights centred) leaves
    log-probabilities as they were; logits `[batch, pos, d_vocab]` shift by a constant per position.
    Frozen: logits carry no graph, yet gradients with respect to activations work.

    Args:
        name: None for the environment variable TUTORIAL_MODEL or, where that is unset or empty,
            "tutorial-4l", the embedded model; a hub name ("gpt2", "owner/name"); or a directory.
            A Path and a string like "./x", "~/x", "/x" or "a/b/c" always mean a directory; "x"
            and "x/y" do where one exists, except that "gpt2" and "tutorial-4l" keep their meaning.
        device: None for CUDA where there is one, else the CPU.
        dtype: torch.float32, float64, float16 or bfloat16.
        device_map: in place of `device`, for a model that is too large for one: how accelerate is
            to spread it ("auto", "balanced", or a dict from the names of modules to devices). With
            a part on "cpu" or "disk", weights stay as they are in the file: nothing is folded or
            centred, and `helpers.attribution` refuses such a model (docs/large-models.md).
        offload_folder: where the parts on "disk" go.

    Returns:
        The model. `model.cfg.model_name` is "tutorial-4l", the hub name, or the directory as given,
        always in path form: `Path("gpt2")` becomes "./gpt2".

    Raises:
        TypeError: name, device or dtype of a wrong type.
        ValueError: a device or dtype that cannot be used; a device and a device_map; a name that
            the hub does not know, or without safetensors weights there; weights that do not fit
            their config.json.
        FileNotFoundError: no such directory, or a file is missing from it.
        ConnectionError: no copy in the hub's cache here, and no answer from the hub in 6 s, or a
            download that stands still (noticed after 1 to 4 minutes).

    Loading the embedded model sets torch to one thread in the whole process: on a busy machine a
    run of so small a model took 170 ms with two threads, 1.6 ms with one. Other models leave the
    number alone; `torch.set_num_threads` changes it.
    """
    if device_map is None:
        device, dtype = _checked(device, dtype)
    elif device is not None:
        raise ValueError(f"device {device!r} and a device_map: give one of them")
    else:
        _, dtype = _checked("cpu", dtype)
    placement = {"device": device, "device_map": device_map}
    if offload_folder is not None:
        placement["offload_folder"] = os.fspath(offload_folder)
    name = name if name is not None else os.environ.get("TUTORIAL_MODEL") or EMBEDDED
    identity, directory = _locate(name)
    if not directory.is_dir():
        raise FileNotFoundError(f"{name!r}: {directory.absolute()} is no directory. {ADVICE}")
    if missing := missing_files(file_names(directory)):
        raise FileNotFoundError(
            f"{name!r}: {directory.absolute()} lacks {missing}. The model's and the tokenizer's "
            "save_pretrained write what is needed. Pickled weights (*.bin) are never read, since "
            f"unpickling can run any code. {ADVICE}"
        )
    if identity == EMBEDDED:
        torch.set_num_threads(1)
    model = _boot(directory, dtype, placement)
    model.cfg.model_name = identity
    return model


def describe(model: TransformerBridge) -> str:
    """Two lines on the model at hand: its name, shape and device; the libraries' versions."""
    c = model.cfg
    return (
        f"{c.model_name} on {c.device}: {c.n_layers} layers of {c.n_heads} heads, "
        f"d_model {c.d_model}, {c.d_vocab} tokens, context {c.n_ctx}\n"
        f"transformer_lens {version('transformer_lens')}, torch {version('torch')}"
    )


def _boot(directory: Path, dtype: torch.dtype, placement: dict) -> TransformerBridge:
    with library_messages() as messages:
        try:
            model = TransformerBridge.boot_transformers(str(directory), dtype=dtype, **placement)
            parts = getattr(model.original_model, "hf_device_map", None) or {}
            offloaded = not {"cpu", "disk"}.isdisjoint(map(str, parts.values()))
            # Once: it rewrites the weights, where they are all in reach.
            model.enable_compatibility_mode(no_processing=offloaded)
            if not parts:
                lay_out(model.original_model)
        except Exception as error:
            error.add_note(f"while loading the model in {directory}")
            raise
    # Where the file lacks parameters, transformers invents random ones and merely logs it.
    if invented := [message for message in messages if "MISSING" in message]:
        raise ValueError(f"the weights in {directory} do not fit its config.json:\n{invented[0]}")
    model.requires_grad_(False)
    return model.eval()


def _checked(device: str | torch.device | None, dtype: torch.dtype) -> tuple[str, torch.dtype]:
    if device is None:
        # Never "mps" unasked: transformer_lens avoids it too, for silently wrong results there
        # (its issue 1178).
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(device, str | torch.device):
        raise TypeError(f'device must be a string such as "cpu", or None; got {device!r}')
    try:
        torch.zeros(1, device=device).item()  # a device that is there and computes
    except (RuntimeError, AssertionError) as error:
        hint = 'leave it out, or use device="cpu"'
        raise ValueError(f"device {str(device)!r} cannot be used ({error}): {hint}") from None
    if dtype not in DTYPES:
        kind = ValueError if isinstance(dtype, torch.dtype) else TypeError
        raise kind(f"dtype must be one of {', '.join(map(str, DTYPES))}; got {dtype!r}")
    return str(device), dtype


def _locate(name: str | os.PathLike[str]) -> tuple[str, Path]:
    """The model's identity, and the directory with its files."""
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
        if official == "gpt2" or (_HUB_NAME.fullmatch(name) and not path.is_dir()):
            return official, cached(official) or download(official)
    in_path_form = text.startswith((".", "~")) or path.is_absolute()
    return text if in_path_form else f"./{text}", path
