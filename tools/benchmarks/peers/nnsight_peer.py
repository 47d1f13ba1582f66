"""The residual grid with nnsight, its fastest way: all cells as invokes of one trace."""

import sys
import warnings

import torch
from nnsight import LanguageModel
from transformers import AutoTokenizer
from worker import serve

warnings.filterwarnings("ignore", module="nnsight")


def prepare(network):
    return LanguageModel(network, tokenizer=AutoTokenizer.from_pretrained(sys.argv[1]))


def sweep(model, network, pair, metric):
    llama = hasattr(network, "model")
    blocks = model.model.layers if llama else model.transformer.h
    with model.trace() as tracer:
        values = list().save()  # noqa: C408 (nnsight saves objects, not literals)
        for layer, stream in enumerate(pair.streams):
            for position in range(pair.corrupted.shape[1]):
                with tracer.invoke(pair.corrupted):
                    blocks[layer].input[:, position] = stream[:, position]
                    values.append(metric(model.output.logits))
    return torch.cat(list(values))


serve(prepare, sweep)
