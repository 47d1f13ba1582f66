"""The residual grid with plain torch hooks on transformers, a run for each cell."""

import torch
from worker import clean_streams, serve


def naive(_, model, clean, corrupted, metric):
    streams, values = clean_streams(model, clean), []
    for block, stream in zip(model.transformer.h, streams, strict=True):
        for position in range(corrupted.shape[1]):

            def patch(module, arguments, position=position, stream=stream):
                patched = arguments[0].clone()
                patched[:, position] = stream[:, position]
                return (patched, *arguments[1:])

            handle = block.register_forward_pre_hook(patch)
            values.append(metric(model(corrupted).logits))
            handle.remove()
    return torch.cat(values)


serve(lambda network: network, {"naive": naive})
