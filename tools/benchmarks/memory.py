"""The peak memory of one pass, in a process of its own: `python -m tools.benchmarks.memory DIR 128 live`.

The cells are the dearest there are: layer 0, position 0, so that every state is live. Linux only.
"""

import ctypes
import gc
import re
import sys
from pathlib import Path

import torch

from tools.benchmarks.sweeps import random_pair
from helpers import patching
from helpers.growing import RESIDUAL, Cell
from helpers.models import load_model


def status(key: str) -> float:
    """A size from the kernel's account of this process, in MiB."""
    return int(re.search(rf"{key}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024


def main(directory: str, positions: int, road: str, reads: str) -> None:
    model = load_model(Path(directory), device="cpu")
    tokens = random_pair(model, positions)
    metric = tokens.logit_diff
    if reads == "all":
        metric = lambda logits: tokens.logit_diff(logits)  # noqa: E731 (without the mark)
    if road == "general":
        patching.supports_live = lambda model: False
    names = [f"blocks.{layer}.{RESIDUAL}" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens.clean, names_filter=names)
    one = patching._bytes_a_cell(model, tokens.corrupted, road == "live", reads == "last")
    cells = [Cell(0, RESIDUAL, (0,))] * max(1, patching.MAX_BYTES // one)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what loading has left over would be used again unseen
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    patching.sweep(model, tokens.corrupted, cache, metric, cells)
    print(f"{len(cells)} {status('VmHWM') - before:.0f}")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
