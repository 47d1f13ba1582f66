"""The residual grid with nnsight: a trace for each cell, and all cells as invokes of one trace."""

import sys
import warnings

import torch
from nnsight import LanguageModel
from transformers import AutoTokenizer
from worker import serve

warnings.filterwarnings("ignore", module="nnsight")


def prepare(network):
    return LanguageModel(network, tokenizer=AutoTokenizer.from_pretrained(sys.argv[1]))


def naive(model, _, pair, metric):
    values = []
    for layer, stream in enumerate(pair.streams):
        for position in range(pair.corrupted.shape[1]):
            with model.trace(pair.corrupted):
                model.transformer.h[layer].input[:, position] = stream[:, position]
                logits = model.output.logits.save()
            values.append(metric(logits))
    return torch.cat(values)


def batched(model, _, pair, metric):
    corrupted = pair.corrupted
    with model.trace() as tracer:
        values = list().save()  # noqa: C408 (nnsight saves objects, not literals)
        for layer, stream in enumerate(pair.streams):
            for position in range(corrupted.shape[1]):
                with tracer.invoke(corrupted):
                    model.transformer.h[layer].input[:, position] = stream[:, position]
                    values.append(metric(model.output.logits))
    return torch.cat(list(values))


serve(prepare, {"naive": naive, "batched": batched})
