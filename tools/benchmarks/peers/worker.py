"""What the peers share: wait for a request, sweep, answer with the seconds and the grid.

Runs in the peer's own environment, which has torch, transformers and the peer, and nothing of ours.
"""

import json
import statistics
import sys
import time
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

torch.set_grad_enabled(False)


def logit_diff(logits, answer, distractor):
    return logits[:, -1, answer] - logits[:, -1, distractor]


class Pair(NamedTuple):
    """What a sweep is given. The clean run itself is made before the clock starts, as it is for
    `helpers.patching` and `transformer_lens.patching`, which get its cache."""

    clean: Tensor  # token ids [1, pos]
    corrupted: Tensor  # token ids [1, pos]
    streams: tuple[Tensor, ...]  # entering each block of the clean run, [1, pos, d_model] each


def serve(prepare, sweeps) -> None:
    """Answer the requests on standard input, one JSON object a line, until it is closed.

    `prepare(model)` gives what the sweeps take as their model. A sweep is called with it, with
    transformers' own model, a `Pair` and the metric, and gives one number a cell.
    """
    network = GPT2LMHeadModel.from_pretrained(sys.argv[1]).eval().requires_grad_(False)
    model = prepare(network)
    for line in sys.stdin:
        request = json.loads(line)
        torch.set_num_threads(request["threads"])
        clean, corrupted = (torch.tensor([request[name]]) for name in ("clean", "corrupted"))

        def metric(logits, ids=(request["answer"], request["distractor"])):
            return logit_diff(logits, *ids)

        streams = network(clean, output_hidden_states=True).hidden_states[:-1]
        pair = Pair(clean, corrupted, streams)
        seconds = []
        while sum(seconds) < request["turn"]:  # as `timed` in tools/benchmarks/sweeps.py
            start = time.perf_counter()
            values = sweeps[request["way"]](model, network, pair, metric)
            seconds.append(time.perf_counter() - start)
        answer = {"seconds": statistics.median(seconds), "values": values.tolist()}
        # The mark tells an answer from whatever a library may print.
        print("@" + json.dumps(answer), flush=True)
