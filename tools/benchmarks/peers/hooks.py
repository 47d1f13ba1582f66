"""The residual grid with plain torch hooks on transformers, a run for each cell."""

import torch
from worker import serve


def naive(_, model, pair, metric):
    values = []
    for block, stream in zip(model.transformer.h, pair.streams, strict=True):
        for position in range(pair.corrupted.shape[1]):

            def patch(module, arguments, position=position, stream=stream):
                patched = arguments[0].clone()
                patched[:, position] = stream[:, position]
                return (patched, *arguments[1:])

            handle = block.register_forward_pre_hook(patch)
            values.append(metric(model(pair.corrupted).logits))
            handle.remove()
    return torch.cat(values)


serve(lambda network: network, {"naive": naive})
