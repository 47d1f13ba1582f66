"""What the peers share: wait for a request, sweep, answer with the seconds and the grid.

Runs in the peer's own environment, which has torch, transformers and the peer, and nothing of ours.
"""

import json
import sys
import time

import torch
from transformers import GPT2LMHeadModel

torch.set_grad_enabled(False)


def logit_diff(logits, answer, distractor):
    return logits[:, -1, answer] - logits[:, -1, distractor]


def clean_streams(model, tokens):
    """The residual stream entering each block of the clean run, `[1, pos, d_model]` each."""
    return model(tokens, output_hidden_states=True).hidden_states[:-1]


def serve(prepare, sweeps) -> None:
    """Answer the requests on standard input, one JSON object a line, until it is closed.

    `prepare(model)` gives what the sweeps take as their model. A sweep is called with it, with the
    tokens of both runs and the metric, and gives one number a cell.
    """
    network = GPT2LMHeadModel.from_pretrained(sys.argv[1]).eval().requires_grad_(False)
    model = prepare(network)
    for line in sys.stdin:
        request = json.loads(line)
        torch.set_num_threads(request["threads"])
        clean, corrupted = (torch.tensor([request[name]]) for name in ("clean", "corrupted"))

        def metric(logits, ids=(request["answer"], request["distractor"])):
            return logit_diff(logits, *ids)

        start = time.perf_counter()
        values = sweeps[request["way"]](model, network, clean, corrupted, metric)
        seconds = time.perf_counter() - start
        # The mark tells an answer from whatever a library may print.
        print("@" + json.dumps({"seconds": seconds, "values": values.tolist()}), flush=True)
