"""Find a model's files in the hub's cache, or fetch them there; never wait without an end."""

import json
import re
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download, try_to_load_from_cache
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

PROBE_SECONDS = 6  # for the hub's first answer
STALL_SECONDS = 120  # for the next piece of a download; huggingface_hub writes pieces of 10 MB
ADVICE = (
    "The embedded model needs no network: load_model() with TUTORIAL_MODEL unset. "
    'A model on this machine: load_model("path/to/dir"), or TUTORIAL_MODEL=path/to/dir.'
)
_INDEX = "model.safetensors.index.json"  # names the shards; without it transformers finds none
_NEEDED = {  # one of the files on the right
    "config.json": ["config.json"],
    "model.safetensors": ["model.safetensors", _INDEX],
    "tokenizer.json": ["tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json"],
}
_WANTED = re.compile(r"model(-\d+-of-\d+)?\.safetensors|[^/]+\.(json|txt|model|jinja)")
transformers_logging.disable_progress_bar()  # a bar for each file; ours has the whole


def cached(name: str) -> Path | None:
    """The directory of a complete copy in the hub's cache; uses no network."""
    config = try_to_load_from_cache(name, "config.json")
    directory = Path(config).parent if isinstance(config, str) else None
    return directory if directory and not missing_files(directory) else None


def download(name: str) -> Path:
    """Fetch a model into the hub's cache; return its directory. ValueError where it is not known
    there or has no safetensors; ConnectionError for no answer in PROBE_SECONDS, or a standstill."""
    tried = f"{name!r}: no copy in {constants.HF_HUB_CACHE}; tried {constants.ENDPOINT}"
    try:
        ask = partial(HfApi().model_info, name, files_metadata=True, timeout=10)
        sizes = {f.rfilename: f.size or 0 for f in watch(ask, PROBE_SECONDS).siblings or []}
        if not (missing := _missing(sizes)):
            sizes = {file: size for file, size in sizes.items() if _WANTED.fullmatch(file)}
            total = sum(sizes.values())
            print(f"Fetching {name} from {constants.ENDPOINT}: {total / 1e6:.0f} MB, once.")
            blobs = Path(constants.HF_HUB_CACHE, f"models--{name.replace('/', '--')}", "blobs")
            # Weights last: a copy that has them is complete.
            fetch = sorted(sizes, key=lambda file: file.endswith(".safetensors"))
            work = map(partial(hf_hub_download, name), fetch)
            return Path(watch(lambda: list(work), STALL_SECONDS, blobs, total)[-1]).parent
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403, 404):  # 401 is also its answer to names that do not exist
            reason = f"which knows no such model, or keeps it from you (HTTP {status})"
            raise ValueError(f"{tried}, {reason}. {ADVICE}") from None
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
        raise ConnectionError(f"{tried}, which failed ({reason}). {ADVICE}") from None
    raise ValueError(f"{name!r} on {constants.ENDPOINT} lacks {missing}. {ADVICE}")


def watch(work: Callable, seconds: float, folder: Path | None = None, total: int = 0):
    """Return `work()`, with a bar of the bytes in `folder` out of `total`; TimeoutError where none
    arrive for `seconds`, later STALL_SECONDS. A thread, since an HTTP client's time-outs do not
    cover name look-up; when given up it lingers until it fails itself."""
    future = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except Exception as error:
            future.set_exception(error)

    seen, since = 0, time.monotonic()
    threading.Thread(target=run, daemon=True).start()
    with tqdm(total=total, disable=not total, unit="B", unit_scale=1, leave=False, delay=1) as bar:
        while not wait([future], timeout=0.2).done:
            now, files = seen, folder.rglob("*") if folder else []
            with suppress(FileNotFoundError):  # a file renamed the moment it was finished
                now = sum(file.stat().st_size for file in files if file.is_file())
            if now != seen:
                bar.update(now - seen)
                seen, since, seconds = now, time.monotonic(), max(seconds, STALL_SECONDS)
            elif time.monotonic() - since > seconds:
                raise TimeoutError(f"nothing arrived in {seconds:g} s")
    return future.result()


def missing_files(directory: Path) -> str:
    """Which of configuration, weights and tokenizer a directory lacks; "" where none."""
    names = {path.name for path in directory.iterdir() if path.is_file()}
    if _INDEX in names:
        with suppress(ValueError, KeyError):  # no JSON, which transformers tells
            shards = json.loads((directory / _INDEX).read_text(encoding="utf-8"))["weight_map"]
            names -= set() if set(shards.values()) <= names else {_INDEX}
    return _missing(names)


def _missing(names: Collection[str]) -> str:
    return ", ".join(name for name, some in _NEEDED.items() if not any(s in names for s in some))
