"""Time patching sweeps side by side and write `results.md` beside this file.

    python -m tools.benchmarks.sweeps [--quick]

Contestants: `helpers.patching`, `transformer_lens.patching` on the same model, and the fastest way
of nnsight and of pyvene in processes of their own. They take turns, so that a busy minute of the
machine hits everyone; medians count. The loop of transformer_lens takes a tenth of its cells a turn
(of head × position, where the whole takes minutes, a tenth in all). Every timed grid must agree
with the loop's to 1e-4.
"""

import argparse
import platform
import re
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import torch
import transformer_lens.patching as library
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from helpers import models, patching
from helpers.engine import SITES, Cell
from helpers.models import EMBEDDED_DIRECTORY, load_model
from helpers.prompts import CITY_PAIRS, PairTokens
from tools.benchmarks.environments import Peer, Unavailable

BUILD = Path("build/bench")
TURNS, THREADS = 10, 2
PEERS = {"nnsight": "nnsight_peer.py", "pyvene": "pyvene_peer.py"}
SWEEPS = {
    "residual": patching.patch_residual,
    "heads": patching.patch_heads,
    "blocks": patching.patch_blocks,
    "head_positions": patching.patch_head_positions,
}
BARS = {"residual": 25, "heads": 14, "blocks": 25, "head_positions": 25}  # times the loop
PEER_BAR = 4


def gpt2_small() -> Path:
    """A model of gpt2-small's shape; random, but no bias is 0 and no head is even."""
    path = BUILD / "gpt2-small-shape"
    if not (path / "model.safetensors").exists():
        network = GPT2LMHeadModel(GPT2Config())
        generator = torch.Generator().manual_seed(0)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                torch.nn.init.normal_(parameter, std=0.02, generator=generator)
            elif parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=0.05, generator=generator)
        network.save_pretrained(path)
        AutoTokenizer.from_pretrained(EMBEDDED_DIRECTORY).save_pretrained(path)
    return path


def random_pair(model, positions: int) -> PairTokens:
    """Two runs of random tokens: they differ at every position, so that no cell is for free."""
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(1, model.cfg.d_vocab, (2, 1, positions), generator=generator)
    return PairTokens(clean, corrupted, torch.tensor([500]), torch.tensor([900]))


def library_loop(model, tokens: PairTokens, cache, cells: list[Cell]) -> torch.Tensor:
    """The cells by `transformer_lens.patching.generic_activation_patch`, one site at a time."""
    values = {}
    for site in SITES:
        rows = [cell for cell in cells if cell.site == site]
        if not rows:
            continue

        def put(activation, index, clean, rows=rows):
            where = rows[index[1]].index
            activation[0][where] = clean[0][where]
            return activation

        frame = pd.DataFrame({"layer": [cell.layer for cell in rows], "row": range(len(rows))})
        got = library.generic_activation_patch(
            model,
            tokens.corrupted,
            cache,
            lambda logits: tokens.logit_diff(logits)[0],
            put,
            site.partition("hook_")[2],
            index_df=frame,
        )
        values |= dict(zip(map(repr, rows), got.tolist(), strict=True))
    return torch.tensor([values[repr(cell)] for cell in cells])


def timed(function: Callable) -> tuple[float, torch.Tensor]:
    start = time.perf_counter()
    grid = function()
    return time.perf_counter() - start, grid.detach().flatten()


def contest(model, tokens: PairTokens, what: str, peers: dict[str, Peer]) -> dict[str, list[float]]:
    """Seconds of a whole grid for each contestant, turn by turn."""
    _, cache = model.run_with_cache(tokens.clean)
    arguments = model, tokens.corrupted, cache, tokens.logit_diff
    cells, _ = patching.grid(model, tokens.corrupted, what)
    step = TURNS * (TURNS if what == "head_positions" else 1)
    ids = {name: ids[0].tolist() for name, ids in tokens._asdict().items() if ids.ndim == 2}
    ids |= {"answer": tokens.answer.item(), "distractor": tokens.distractor.item()}
    seconds: dict[str, list[float]] = {"helpers.patching": [], "transformer_lens.patching": []}
    for turn in range(TURNS):
        took, grid = timed(lambda: SWEEPS[what](*arguments))
        seconds["helpers.patching"].append(took)
        share = list(range(turn, len(cells), step))
        mine = [cells[i] for i in share]
        took, loop = timed(lambda mine=mine: library_loop(model, tokens, cache, mine))
        seconds["transformer_lens.patching"].append(took * len(cells) / len(share))
        agree("transformer_lens.patching", grid[share], loop)
        for name, peer in list(peers.items()) if turn < 3 else ():
            try:
                answer = peer.sweep(threads=torch.get_num_threads(), **ids)
            except Unavailable as reason:
                print(f"  {name}: skipped, {reason}")
                del peers[name]
                continue
            agree(name, grid, torch.tensor(answer["values"]))
            seconds.setdefault(f"{name} {peer.version}", []).append(answer["seconds"])
    return seconds


def agree(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    error = (ours.cpu() - theirs.cpu()).abs().max().item()
    assert error <= 1e-4, f"{name}: {error:.1e} away from our grid"


def started(path: Path) -> dict[str, Peer]:
    """The peers that can be installed here, with the model loaded."""
    peers = {}
    for name, script in PEERS.items():
        try:
            peers[name] = Peer(script, name, path, BUILD)
        except Unavailable as reason:
            print(f"{name}: skipped, {reason}")
    return peers


def rows(case: str, what: str, seconds: dict[str, list[float]]) -> list[str]:
    """A table line for each contestant but ours: medians, and how many times ours that is."""
    ours = statistics.median(seconds.pop("helpers.patching"))
    lines = []
    for name, taken in seconds.items():
        bar = BARS[what] if name.startswith("transformer_lens") else PEER_BAR
        ratio = statistics.median(taken) / ours
        verdict = "" if ratio >= bar else " **below**"
        lines.append(
            f"| {case} | {what} | {name} | {statistics.median(taken):.2f} | {ours:.3f} | "
            f"{ratio:.1f}{verdict} | {bar} |"
        )
    return lines


def machine() -> str:
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
    packages = ("torch", "transformers", "transformer_lens")
    return (
        f"{named[1] if named else platform.processor()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the residual grid alone")
    quick = parser.parse_args().quick
    torch.set_grad_enabled(False)
    library.tqdm = lambda cells, **_: cells
    BUILD.mkdir(parents=True, exist_ok=True)
    small = load_model(gpt2_small(), device="cpu")
    real = load_model("smollm2-135m", device="cpu")
    torch.set_num_threads(THREADS)
    here = [machine(), "", "| model, tokens | sweep | against | its s | our s | times | bar |"]
    out = [
        "# Results",
        "",
        "Written by `make bench`: medians, whole grids, one process.",
        "",
        *here,
    ]
    out.append("|---|---|---|---|---|---|---|")
    lesson = CITY_PAIRS[0].tokens(real)
    cases = [
        (f"gpt2-small shape, {n}", small, random_pair(small, n), gpt2_small()) for n in (11, 20)
    ]
    cases.append(
        (f"smollm2-135m, {lesson.clean.shape[1]}", real, lesson, models.REAL.files(load_model))
    )
    for case, model, tokens, path in cases:
        peers = started(path)
        for what in ["residual"] if quick else SWEEPS:
            lines = rows(
                case, what, contest(model, tokens, what, peers if what == "residual" else {})
            )
            print("\n".join(lines), flush=True)
            out += lines
        for peer in peers.values():
            peer.close()
    (Path(__file__).parent / "results.md").write_text("\n".join(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
