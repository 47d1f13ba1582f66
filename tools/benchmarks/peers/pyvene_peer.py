"""The residual grid with pyvene, its fastest way: a run for all positions of a layer."""

import pyvene
import torch
from worker import serve


def sweep(_, network, pair, metric):
    values, positions = [], range(pair.corrupted.shape[1])
    for layer in range(network.config.num_hidden_layers):
        part = pyvene.RepresentationConfig(layer, "block_input", "pos", 1)
        config = pyvene.IntervenableConfig([part], pyvene.VanillaIntervention)
        model = pyvene.IntervenableModel(config, network)
        base, source = (  # pyvene runs the clean prompt itself
            {"input_ids": ids.expand(len(positions), -1)} for ids in (pair.corrupted, pair.clean)
        )
        where = [[[p] for p in positions]]
        _, out = model(base, [source], {"sources->base": (where, where)})
        values.append(metric(out.logits))
    return torch.cat(values)


serve(lambda network: network, sweep)
