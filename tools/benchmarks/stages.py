"""What each idea of a sweep bought: the same grid with one more of them in each row."""

import statistics
import time
from contextlib import ExitStack
from unittest.mock import patch

from helpers import patching, product
from helpers.metrics import reads_last
from helpers.prompts import PairTokens

GENERAL = patch.object(patching, "supports_live", lambda model: False)
USUAL = patch.object(product, "convolution_wins", lambda threads: False)
MARKS = {  # what the pair's metric says that it reads
    "nothing": lambda tokens: unmarked(tokens),
    "last": lambda tokens: reads_last(unmarked(tokens)),
    "two tokens": lambda tokens: tokens.logit_diff,
}
STAGES = {  # what is switched off, and how the metric is marked
    "all cells in one growing batch (`helpers.growing`)": ([GENERAL], "nothing"),
    "logits of the last position alone (`reads_last`)": ([GENERAL], "last"),
    "live states alone (`helpers.live`)": ([USUAL], "last"),
    "logits of the two tokens alone (`reads_last`)": ([USUAL], "two tokens"),
    "products by the faster library (`helpers.product`)": ([], "two tokens"),
}


def stages(model, pairs: dict[str, tuple[PairTokens, object]], rounds: int = 5) -> list[str]:
    """A table of median seconds: a row a stage, a column for each named pair and sweep.

    The stages take turns. All grids of a column must agree to 1e-4.
    """
    times = {stage: {column: [] for column in pairs} for stage in STAGES}
    for column, (tokens, sweep) in pairs.items():
        _, cache = model.run_with_cache(tokens.clean)
        grids = {}
        for _ in range(rounds):
            for stage, (off, mark) in STAGES.items():
                metric = MARKS[mark](tokens)
                with ExitStack() as stack:
                    for switch in off:
                        stack.enter_context(switch)
                    start = time.perf_counter()
                    grids[stage] = sweep(model, tokens.corrupted, cache, metric)
                    times[stage][column].append(time.perf_counter() - start)
        first, *others = grids.values()
        assert all((grid - first).abs().max() <= 1e-4 for grid in others), column
    lines = [f"| | {' | '.join(pairs)} |", f"|---{'|---' * len(pairs)}|"]
    for stage, columns in times.items():
        medians = (f"{statistics.median(column):.2f}" for column in columns.values())
        lines.append(f"| {stage} | {' | '.join(medians)} |")
    return lines


def unmarked(tokens: PairTokens):
    """The pair's metric without its mark."""
    return lambda logits: tokens.logit_diff(logits)
