"""What the peers share: wait for a request, sweep, answer with the seconds and the grid.

Runs in the peer's own environment, which has torch, transformers and the peer, and nothing of ours.
"""

import json
import sys
import time
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

torch.set_grad_enabled(False)


def logit_diff(logits, answer, distractor):
    return logits[:, -1, answer] - logits[:, -1, distractor]


class Pair(NamedTuple):
    """What a sweep is given. The clean run itself is made before the clock starts, as it is for
    `helpers.patching` and `transformer_lens.patching`, which get its cache."""

    clean: Tensor  # token ids [1, pos]
    corrupted: Tensor  # token ids [1, pos]
    streams: tuple[Tensor, ...]  # entering each block of the clean run, [1, pos, d_model] each


def serve(prepare, sweep) -> None:
    """Answer the requests on standard input, one JSON object a line, until it is closed.

    `prepare(network)` gives what `sweep` takes as its model; it is called with that, with
    transformers' own network, a `Pair` and the metric, and gives one number a cell.
    """
    network = AutoModelForCausalLM.from_pretrained(sys.argv[1]).eval().requires_grad_(False)
    model = prepare(network)
    for line in sys.stdin:
        request = json.loads(line)
        torch.set_num_threads(request["threads"])
        clean, corrupted = (torch.tensor([request[name]]) for name in ("clean", "corrupted"))

        def metric(logits, ids=(request["answer"], request["distractor"])):
            return logit_diff(logits, *ids)

        streams = network(clean, output_hidden_states=True).hidden_states[:-1]
        start = time.perf_counter()
        values = sweep(model, network, Pair(clean, corrupted, streams), metric)
        answer = {"seconds": time.perf_counter() - start, "values": values.tolist()}
        # The mark tells an answer from whatever a library may print.
        print("@" + json.dumps(answer), flush=True)
