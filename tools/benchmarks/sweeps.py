"""Time patching sweeps side by side and write `tools/benchmarks/results.md`.

    python -m tools.benchmarks.sweeps

All contestants take turns, round after round, so that a busy minute of the machine hits everyone;
medians count. Every timed grid must agree with that of the loop over its cells to 1e-4.
"""

import itertools
import platform
import re
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import torch
import transformer_lens.patching as theirs
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from tools.benchmarks import waits
from tools.benchmarks.environments import Peer, Unavailable
from tools.benchmarks.stages import stages
from helpers import patching
from helpers.models import EMBEDDED_DIRECTORY, load_model
from helpers.product import by_convolution
from helpers.prompts import CITY_PAIRS, PairTokens

BUILD = Path("build")
THREADS, ROUNDS, ROUNDS_OF_LOOPS = 2, 9, 5  # loops take 10 s and more a time
PAUSE = 0.05  # seconds before each turn: the last one's threads look out for work for a while yet
TURN = 0.2  # seconds at least, of whole runs
OURS, LOOP = "helpers.patching", "transformer_lens.patching"
SWEEPS = {  # ours, theirs
    "residual": (patching.patch_residual, theirs.get_act_patch_resid_pre),
    "blocks": (patching.patch_blocks, theirs.get_act_patch_block_every),
    "heads": (patching.patch_heads, theirs.get_act_patch_attn_head_out_all_pos),
    "head x position": (
        patching.patch_head_positions,
        lambda *a: theirs.get_act_patch_attn_head_out_by_pos(*a).transpose(1, 2),
    ),
}
PEERS = {  # name: script, package, ways
    "hooks on transformers": ("hooks.py", None, ["naive"]),
    "nnsight": ("nnsight_peer.py", "nnsight", ["naive", "batched"]),
    "pyvene": ("pyvene_peer.py", "pyvene", ["naive", "batched"]),
}


def gpt2_small() -> Path:
    """A model of gpt2's shape with random weights and biases, made once."""
    path = BUILD / "gpt2-small-random"
    if not (path / "model.safetensors").exists():
        network = GPT2LMHeadModel(GPT2Config(bos_token_id=0, eos_token_id=0))
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
    return PairTokens(clean, corrupted, torch.tensor([5]), torch.tensor([6]))


def timed(function, *arguments) -> tuple[float, torch.Tensor]:
    """Median seconds of the runs of one turn, and the grid.

    A turn is one run, or as many as `TURN` has time for: the first few thousandths of a second
    after a pause measure how the processor wakes up.
    """
    seconds = []
    while sum(seconds) < TURN:
        start = time.perf_counter()
        grid = function(*arguments)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), grid.detach().flatten()


def contest(model, path: Path, positions: int, sweep: str, peers: bool) -> dict:
    """Seconds of each contestant, one a turn. The loop's grid is the measure of all others."""
    tokens = random_pair(model, positions)
    _, cache = model.run_with_cache(tokens.clean)
    arguments = model, tokens.corrupted, cache
    ours, loop = SWEEPS[sweep]
    runs = {
        LOOP: lambda: timed(loop, *arguments, lambda logits: tokens.logit_diff(logits)[0]),
        OURS: lambda: timed(ours, *arguments, tokens.logit_diff),
    }
    started = []
    for name, (script, package, ways) in PEERS.items() if peers else ():
        try:
            peer = Peer(script, package, path, BUILD)
        except Unavailable as reason:
            print(f"  {name}: skipped, {reason}")
            continue
        started.append(peer)
        for way in ways:
            label = f"{name} {peer.version}".strip() + f", {way}"
            runs[label] = lambda peer=peer, way=way: answered(peer, way, tokens)
    seconds = {}
    for turn in range(ROUNDS):
        for name in list(runs):
            is_loop = name == LOOP or name.endswith("naive")
            if turn >= (ROUNDS_OF_LOOPS if is_loop else ROUNDS):
                continue
            time.sleep(PAUSE)
            try:
                took, grid = runs[name]()
            except Unavailable as reason:
                print(f"  {name}: skipped, {reason}")
                del runs[name]
                continue
            if name == LOOP:
                truth = grid
            error = (grid.cpu() - truth).abs().max().item()
            assert error <= 1e-4, f"{name} is {error:.1e} away from the loop on {sweep}"
            seconds.setdefault(name, []).append(took)
    for peer in started:
        peer.close()
    return seconds


def answered(peer: Peer, way: str, tokens: PairTokens) -> tuple[float, torch.Tensor]:
    answer = peer.sweep(
        way=way,
        threads=torch.get_num_threads(),
        turn=TURN,
        **{name: ids[0].tolist() for name, ids in tokens._asdict().items() if ids.ndim == 2},
        answer=tokens.answer.item(),
        distractor=tokens.distractor.item(),
    )
    return answer["seconds"], torch.tensor(answer["values"])


def table(seconds: dict) -> list[str]:
    """A line a contestant: median, fastest, how many runs, and how many times ours takes it."""
    ours = statistics.median(seconds[OURS])
    lines = ["| | median s | fastest s | turns | times ours |", "|---|---|---|---|---|"]
    for name, runs in seconds.items():
        median = statistics.median(runs)
        ratio = f"{median / ours:.1f}"
        lines.append(f"| {name} | {median:.3g} | {min(runs):.3g} | {len(runs)} | {ratio} |")
    return lines


def ideas(model) -> list[str]:
    """The table of `tools.benchmarks.stages` for two sweeps and two lengths."""
    return stages(
        model,
        {
            f"{sweep}, {n} tokens": (random_pair(model, n), SWEEPS[sweep][0])
            for n in (11, 20)
            for sweep in ("residual", "heads")
        },
    )


def products(model, positions: int, sweep: str) -> str:
    """Our sweep's floating-point operations a second, beside those of one large matrix product, as
    torch computes it and as a convolution (helpers/product.py)."""
    tokens = random_pair(model, positions)
    _, cache = model.run_with_cache(tokens.clean)
    arguments = model, tokens.corrupted, cache, tokens.logit_diff
    a, none = torch.randn(2048, 2048), torch.zeros(2048)
    ways = [lambda: torch.mm(a, a), lambda: by_convolution(a, a.mT, none)]
    peak, other = (2 * 2048**3 / min(timed(way)[0] for _ in range(9)) for way in ways)
    took = statistics.median(timed(SWEEPS[sweep][0], *arguments)[0] for _ in range(5))
    with FlopCounterMode(display=False) as counter:
        SWEEPS[sweep][0](*arguments)
    rate = counter.get_total_flops() / took
    return (
        f"{sweep}, {positions} tokens: {counter.get_total_flops() / 1e9:.0f} GFLOP at "
        f"{rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the {peak / 1e9:.0f} GFLOP/s that a "
        f"square float32 product of 2,048 reaches here by `torch.mm`, {rate / other:.0%} of the "
        f"{other / 1e9:.0f} that it reaches as a convolution."
    )


def screen(model, tokens: PairTokens) -> str:
    """Attribution patching: what it takes, and how far it agrees with the exact grid."""
    logits, _ = model.run_with_cache(tokens.corrupted)
    _, cache = model.run_with_cache(tokens.clean)
    arguments = model, tokens.corrupted, cache, tokens.logit_diff
    took = statistics.median(timed(patching.attribution_patch, *arguments)[0] for _ in range(5))
    exact = patching.patch_residual(*arguments) - tokens.logit_diff(logits)
    estimate = patching.attribution_patch(*arguments)
    pairs = [torch.stack(rows) for rows in zip(exact, estimate, strict=True)]
    by_layer = ", ".join(f"{torch.corrcoef(rows)[0, 1].item():.2f}" for rows in pairs)
    return f"{took:.3f} s. Correlation with the exact grid, layer by layer: {by_layer}."


def memory(path: Path) -> list[str]:
    """Peak memory, the median of five processes: the allocator's luck is in it."""
    lines = ["| tokens | road | logits read | cells a pass | peak MiB |", "|---|---|---|---|---|"]
    for positions in (11, 128, 1024):
        for road, reads in (("live", "last"), ("live", "all"), ("general", "last")):
            command = [sys.executable, "-m", "tools.benchmarks.memory", path, str(positions), road, reads]
            runs = [subprocess.run(command, capture_output=True, text=True) for _ in range(5)]
            if any(run.returncode for run in runs):
                lines.append(f"| {positions:,} | {road} | {reads} | - | - |")
                continue
            cells, peaks = zip(*(run.stdout.split() for run in runs), strict=True)
            peak = statistics.median(map(int, peaks))
            lines.append(f"| {positions:,} | {road} | {reads} | {cells[0]} | {peak} |")
    return lines


def machine() -> str:
    """Processor, threads and versions."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*:\s*(.*)", info.read_text()) if info.exists() else None
    packages = ("torch", "transformers", "transformer_lens")
    return (
        f"{named[1] if named else platform.processor()}, {torch.get_num_threads()} threads, "
        f"Python {platform.python_version()}, " + ", ".join(f"{p} {version(p)}" for p in packages)
    )


def main() -> None:
    torch.set_grad_enabled(False)
    theirs.tqdm = lambda cells: cells
    path = gpt2_small()
    small, embedded = load_model(path, device="cpu"), load_model("tutorial-4l", device="cpu")
    torch.set_num_threads(THREADS)
    out = ["# Results", "", "Written by `make bench`.", "", machine(), ""]
    cases = [(small, path, n, THREADS) for n in (11, 20)]
    cases += [(embedded, EMBEDDED_DIRECTORY, 11, n) for n in (THREADS, 1)]  # load_model sets 1
    for (model, where, positions, threads), sweep in itertools.product(cases, SWEEPS):
        torch.set_num_threads(threads)
        name = "gpt2-small shape" if model is small else "tutorial-4l"
        alone = "" if threads == THREADS else ", one thread"
        title = f"## {name}, {positions} tokens{alone}: {sweep}"
        print(f"\n{title}", flush=True)
        lines = table(contest(model, where, positions, sweep, peers=sweep == "residual"))
        print("\n".join(lines), flush=True)
        out += [title, "", *lines, ""]
    torch.set_num_threads(THREADS)
    out += ["## What each idea bought, gpt2-small shape, seconds", "", *ideas(small), ""]
    out += ["## Against the processor", ""]
    out += [f"- {products(small, n, sweep)}" for n in (11, 20) for sweep in ("residual", "heads")]
    out += [
        "",
        "## Attribution patching, 11 tokens",
        "",
        f"- gpt2-small shape: {screen(small, random_pair(small, 11))}",
    ]
    lesson = CITY_PAIRS[0].tokens(embedded)
    out += [
        f"- tutorial-4l, the lesson's pair: {screen(embedded, lesson)}",
        "",
        "## Peak memory of a pass",
        "",
    ]
    out += [
        f"Budget {patching.MAX_BYTES // 2**20} MiB, gpt2-small shape; medians of five processes.",
        "",
        *memory(path),
    ]
    out += ["", "## The other waits", ""]
    first = waits.first_result()
    out += [f"First result of the embedded model, from the start of Python: {first:.1f} s.", ""]
    out += ["Seconds of each notebook, one at a time:", "", *waits.by_notebook()]
    (Path(__file__).parent / "results.md").write_text("\n".join(out) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
