"""Find a model's files in the hub's cache, or fetch them there; never wait without an end."""

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

PROBE_SECONDS = 6  # for the hub's first answer
STALL_SECONDS = 120  # for the next piece of a download; huggingface_hub writes pieces of 10 MB

_INDEX = "model.safetensors.index.json"  # names the shards; without it transformers finds none
_TOKENIZERS = {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"}
_NEEDED = {
    "config.json": {"config.json"},
    "model.safetensors": {"model.safetensors", _INDEX},
    "tokenizer.json": _TOKENIZERS,
}
_WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors")
_TEXT = re.compile(r"[^/]+\.(json|txt|model|jinja)")
ADVICE = (
    'The embedded model needs no network: load_model("tutorial-4l"), or load_model() with '
    'TUTORIAL_MODEL unset. A model on this machine: load_model("path/to/dir") or '
    "TUTORIAL_MODEL=path/to/dir."
)


def cached(name: str) -> Path | None:
    """The directory of a complete copy in the hub's cache; uses no network."""
    config = try_to_load_from_cache(name, "config.json")
    directory = Path(config).parent if isinstance(config, str) else None
    return directory if directory and not missing_files(directory) else None


def download(name: str) -> Path:
    """Fetch a model into the hub's cache; return its directory there.

    ValueError where the hub knows no such model, or it has no safetensors; ConnectionError for no
    answer in PROBE_SECONDS, or a download that stands still."""
    tried = f"{name!r}: no copy in {constants.HF_HUB_CACHE}"
    if constants.HF_HUB_OFFLINE:
        raise ConnectionError(f"{tried}, and HF_HUB_OFFLINE is set. {ADVICE}")
    tried += f"; tried {constants.ENDPOINT}"
    try:
        with quiet():
            ask = HfApi().model_info
            info = watch(lambda: ask(name, files_metadata=True, timeout=10), PROBE_SECONDS)
            sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
            if not (missing := _missing(set(sizes))):
                return _fetch(name, sizes)
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):  # 401 is also its answer to names that do not exist
            reason = f"which knows no such model, or keeps it from you (HTTP {status})"
            raise ValueError(f"{tried}, {reason}. {ADVICE}") from None
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ConnectionError(f"{tried}, which failed ({reason}). {ADVICE}") from None
    raise ValueError(f"{name!r} on {constants.ENDPOINT} lacks {missing}. {ADVICE}")


def _fetch(name: str, sizes: dict[str, int]) -> Path:
    # Weights last: a copy that has them is complete.
    wanted = [file for kind in (_TEXT, _WEIGHTS) for file in sizes if kind.fullmatch(file)]
    total = sum(sizes[file] for file in wanted)
    print(f"Fetching {name} from {constants.ENDPOINT}: {total / 1e6:.0f} MB, once.")
    blobs = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "blobs")

    def fetch() -> Path:
        return Path([hf_hub_download(name, file) for file in wanted][-1]).parent

    return watch(fetch, STALL_SECONDS, lambda: folder_size(blobs), total)


def watch(work: Callable, seconds: float, size: Callable[[], int] = lambda: 0, total: int = 0):
    """Return `work()`, with a bar of `size()` bytes out of `total`; TimeoutError where nothing has
    arrived for `seconds`, or later for STALL_SECONDS.

    An HTTP client's time-outs do not cover name look-up, or a server that sends a byte now and
    then; hence a thread. It cannot be stopped: when given up, it lingers until it fails itself."""
    future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    seen, since = size(), time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    options = {"unit": "B", "unit_scale": True, "leave": False, "delay": 1}
    with tqdm(total=total, disable=not total, **options) as bar:
        while not wait([future], timeout=0.2).done:
            if (now := size()) != seen:
                bar.update(now - seen)
                seen, since, seconds = now, time.monotonic(), max(seconds, STALL_SECONDS)
            elif time.monotonic() - since > seconds:
                raise TimeoutError(f"nothing arrived in {seconds:g} s")
    return future.result()


def folder_size(directory: Path) -> int:
    """Bytes in a directory, unfinished downloads included."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):  # renamed the moment it was finished
            total += path.stat().st_size if path.is_file() else 0
    return total


def missing_files(directory: Path) -> str:
    """Which of configuration, weights and tokenizer a directory lacks; "" where none."""
    names = {path.name for path in directory.iterdir() if path.is_file()}
    if _INDEX in names:
        shards = set(json.loads((directory / _INDEX).read_text())["weight_map"].values())
        names -= set() if shards <= names else {_INDEX}
    return _missing(names)


def _missing(names: set[str]) -> str:
    return ", ".join(name for name, any_of in _NEEDED.items() if names.isdisjoint(any_of))


@contextmanager
def quiet() -> Iterator[None]:
    """Without the libraries' progress bars; their setting is restored afterwards."""
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            transformers_logging.enable_progress_bar()
