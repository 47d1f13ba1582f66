"""The residual grid with pyvene: a run for each cell, and a run for all positions of a layer."""

import pyvene
import torch
from worker import serve


def sweep(network, pair, metric, together):
    values, positions = [], range(pair.corrupted.shape[1])
    for layer in range(network.config.n_layer):
        part = pyvene.RepresentationConfig(layer, "block_input", "pos", 1)
        config = pyvene.IntervenableConfig([part], pyvene.VanillaIntervention)
        model = pyvene.IntervenableModel(config, network)
        for rows in [positions] if together else [[p] for p in positions]:
            pasted, copied = pair.corrupted, pair.clean  # pyvene runs the clean prompt itself
            base, source = ({"input_ids": ids.expand(len(rows), -1)} for ids in (pasted, copied))
            where = [[[p] for p in rows]]
            _, out = model(base, [source], {"sources->base": (where, where)})
            values.append(metric(out.logits))
    return torch.cat(values)


def naive(_, network, pair, metric):
    return sweep(network, pair, metric, together=False)


def batched(_, network, pair, metric):
    return sweep(network, pair, metric, together=True)


serve(lambda network: network, {"naive": naive, "batched": batched})
