"""Find a model's files in the hub's cache, or fetch them there; never wait without an end."""

import logging
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from transformers.utils import logging as transformers_logging

PROBE_SECONDS = 6  # for the hub's first answer
STALL_SECONDS = 120  # for the next piece of a download; huggingface_hub writes pieces of 10 MB

_SHARD = re.compile(r"model-\d+-of-(\d+)\.safetensors")
_INDEX = "model.safetensors.index.json"  # without it transformers overlooks the shards
_TOKENIZERS = {"tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt"}
ADVICE = (
    'The embedded model needs no network: load_model("tutorial-4l"), or load_model() with '
    'TUTORIAL_MODEL unset. A model on this machine: load_model("path/to/dir") or '
    "TUTORIAL_MODEL=path/to/dir."
)


def cached(name: str) -> Path | None:
    """The directory of a complete copy in the hub's cache; uses no network."""
    config = try_to_load_from_cache(name, "config.json")
    directory = Path(config).parent if isinstance(config, str) else None
    return directory if directory and not missing_files(file_names(directory)) else None


def download(name: str) -> Path:
    """Fetch a model into the hub's cache; return its directory there."""
    cache = Path(constants.HF_HUB_CACHE)
    if constants.HF_HUB_OFFLINE:
        reason = f"HF_HUB_OFFLINE is set, and {cache} holds no complete copy"
        raise ConnectionError(f"{name!r}: {reason}. {ADVICE}")
    blobs = cache / f"models--{name.replace('/', '--')}" / "blobs"
    with library_messages():
        info = _ask_hub(name, PROBE_SECONDS, lambda: HfApi().model_info(name, timeout=10))
        files = [file.rfilename for file in info.siblings or [] if "/" not in file.rfilename]
        if missing := missing_files(files):
            raise ValueError(f"{name!r} on {constants.ENDPOINT} lacks {missing}. {ADVICE}")
        print(f"Downloading {name} from {constants.ENDPOINT} (once, without a progress bar).")
        return _ask_hub(name, STALL_SECONDS, lambda: _fetch(name, files), lambda: _size(blobs))


def _fetch(name: str, files: list[str]) -> Path:
    weights = [file for file in files if file == "model.safetensors" or _SHARD.fullmatch(file)]
    others = [file for file in files if file.endswith((".json", ".txt", ".model", ".jinja"))]
    # Weights last: a copy that has them is complete, even where a download was cut off before.
    return Path([hf_hub_download(name, file) for file in others + weights][-1]).parent


def _size(directory: Path) -> int:
    """Bytes in a directory, unfinished downloads included."""
    total = 0
    for path in directory.glob("*"):
        with suppress(FileNotFoundError):  # renamed the moment it was finished
            total += path.stat().st_size
    return total


def _ask_hub(name: str, seconds: float, work: Callable, progress: Callable = lambda: 0):
    """Return `work()`; give up where `progress()` has not changed for `seconds`.

    An HTTP client's time-outs do not cover name look-up, or a server that sends a byte now and
    then; hence a thread. It cannot be stopped: when given up, it lingers until it fails by itself.
    """
    future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        seen = progress()
        while not wait([future], timeout=seconds).done:
            if (now := progress()) == seen:
                raise TimeoutError(f"nothing arrived in {seconds:g} s")
            seen = now
        return future.result()
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        tried = f"{name!r}: no copy in {constants.HF_HUB_CACHE}; tried {constants.ENDPOINT}"
        if status in (401, 403, 404):  # 401 is also its answer to names that do not exist
            reason = f"which knows no such model, or keeps it from you (HTTP {status})"
            raise ValueError(f"{tried}, {reason}. {ADVICE}") from None
        first_line = str(error).partition("\n")[0]
        reason = f"{type(error).__name__}: {first_line}"
        raise ConnectionError(f"{tried}, in vain ({reason}). {ADVICE}") from None


def file_names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir() if path.is_file()]


def missing_files(names: list[str]) -> str:
    """Which of configuration, weights and tokenizer a list of file names lacks."""
    shards = [match for name in names if (match := _SHARD.fullmatch(name))]
    sharded = _INDEX in names and len(shards) == int(shards[0][1] if shards else -1)
    there = {
        "config.json": "config.json" in names,
        "model.safetensors": "model.safetensors" in names or sharded,
        "tokenizer.json": not _TOKENIZERS.isdisjoint(names),
    }
    return ", ".join(name for name, found in there.items() if not found)


@contextmanager
def library_messages() -> Iterator[list[str]]:
    """Collect what the libraries log and show no progress bars; restore both afterwards."""
    messages = []
    collector = logging.Handler()
    collector.emit = lambda record: messages.append(record.getMessage())
    names = ("transformers", "huggingface_hub", "accelerate")
    loggers = [logging.getLogger(name) for name in names]
    before = [(logger.handlers, logger.propagate, logger.level) for logger in loggers]
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.handlers, logger.propagate = [collector], False
        logger.setLevel(logging.WARNING)
    try:
        yield messages
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        if bars:
            transformers_logging.enable_progress_bar()
