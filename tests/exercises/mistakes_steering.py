"""Answers to notebook 6's exercises, in the forms that test_exercises tells: right, then wrong."""

EACH = "torch.stack([stream[1:].mean(0) for stream in streams]).mean(0)"
DIFFERENCE = "mean(positives) - mean(negatives)"
CLONE = "stream = stream.clone()\n        stream[:, -1] += vector\n        return stream"
HOOK = "(f'blocks.{layer}.hook_resid_post', add)"
ADDED = f"model.add_hook(*{HOOK})"
RUN = 'return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.hook_resid_post", add)])'
KL = "(log_p.exp() * (log_p - log_q)).sum(-1)[1:].mean()"
BY_SUM = """kept = effects.masked_fill(costs > budget, -torch.inf)
    layer = effects.where(costs <= budget, 0).sum(1).argmax().item()
    best = layer * effects.shape[1] + kept[layer].argmax().item()"""
KEPT = "effects.masked_fill(costs > budget, -torch.inf)"
BEST = f"best = {KEPT}.argmax().item()"
PLACE = "divmod(best, effects.shape[1])"
PAIRS = "i, j = torch.combinations(torch.arange(len(means))).T"
UNIT = "rows / rows.norm(dim=-1, keepdim=True) * norm"
REACH = "(null.abs() >= abs(effect)).sum().item()"
STEERED = "(f'blocks.{layer}.hook_resid_post', lambda stream, hook: stream + vector)"
CHANGE = "(steered - model(tokens))[:, 1:].flatten(0, 1)"
MISSED = "(changed - guess).square().sum() / changed.square().sum()"
SHARES = "explained(mine[1::2], constant), explained(mine, direct)"
BUT_BOS = STEERED.replace("vector", "(torch.arange(stream.shape[1])[:, None] > 0) * vector")

RIGHT = {
    "6.1": [
        (EACH, "torch.stack([x[1:].sum(0) / (len(x) - 1) for x in streams]).mean(0)"),
        (EACH, "sum(x[1:].mean(0) for x in streams) / len(streams)"),
        (EACH, "sum(x[1:].numpy().mean(0) for x in streams) / len(streams)"),
        (EACH, "sum(torch.einsum('pd->d', x[1:]) / len(x[1:]) for x in streams) / len(streams)"),
        (EACH, "sum(row / len(x[1:]) / len(streams) for x in streams for row in x[1:])"),
    ],
    "6.2": [
        (CLONE, "stream[:, -1] += vector\n        return stream"),
        (CLONE, "stream[:, -1] = stream[:, -1] + vector.double()"),
        (CLONE, "stream[:, -1].add_(vector)"),
        (CLONE, "return torch.cat([stream[:, :-1], stream[:, -1:] + vector], 1)"),
        (RUN, f"with model.hooks(fwd_hooks=[{HOOK}]):\n        return model(tokens)"),
        (RUN, f"{ADDED}\n    logits = model(tokens)\n    model.reset_hooks()\n    return logits"),
    ],
    "6.3": [
        (KL, "(plain.softmax(-1) * (log_p - log_q))[1:].sum(-1).mean()"),
        (KL, "(log_p.exp() * (log_p - log_q))[1:].sum() / (len(plain) - 1)"),
        (KL, "torch.einsum('pv,pv->p', log_p.exp(), log_p - log_q)[1:].mean()"),
        (KL, "kl_divergence(plain, steered)[1:].mean()"),
        (KL, "sum(kl_divergence(a, b) for a, b in zip(plain[1:], steered[1:])) / len(plain[1:])"),
    ],
    "6.4": [
        (BEST, f"best = max(range(costs.numel()), key=lambda i: ({KEPT}).flatten()[i])"),
        (PLACE, f"(({KEPT}) == ({KEPT}).max()).nonzero()[0]"),
        (PLACE, f"torch.unravel_index({KEPT}.argmax(), effects.shape)"),
        (PLACE, "(best // effects.shape[1], best % effects.shape[1])"),
        (PLACE, "torch.tensor(divmod(best, effects.shape[1])).double()"),
        (PLACE, "__import__('numpy').unravel_index(best, effects.shape)"),
        (KEPT, "torch.where(costs <= budget, effects.double(), -1e9)"),
        (PLACE, "list(divmod(best, effects.shape[1]))"),
    ],
    "6.5": [
        ("cache[name][0, 1:].mean(0)", "cache['resid_post', layer][0, 1:].mean(0)"),
        ("[0, 1:].mean(0)", "[0, 1:].double().mean(0)"),
        ("return torch.stack(means)", "return torch.stack(means).numpy()"),
        ("return torch.stack(means)", "return means"),
        (PAIRS, "i, j = torch.triu_indices(len(means), len(means), 1)"),
        (UNIT, "torch.nn.functional.normalize(rows, dim=1) * norm"),
        (REACH, "sum(abs(each) >= abs(effect) for each in null.tolist())"),
    ],
    "6.6": [
        (CHANGE, "(steered.double() - model(tokens).double())[:, 1:].flatten(0, 1)"),
        (MISSED, "((changed - guess) ** 2).sum(0).sum() / changed.norm() ** 2"),
        (MISSED, "((changed - guess).norm() / changed.norm()) ** 2"),
        (SHARES, f"torch.tensor([{SHARES}])"),
        ("mine[::2].mean(0)", "sum(mine[i] for i in range(0, len(mine), 2)) / len(mine[::2])"),
        ("steer(model, vector, layer, 1.0)", f"model.hooks(fwd_hooks=[{STEERED}])"),
    ],
}

MISTAKES = {
    "6.1": [
        ("stream[1:].mean(0)", "stream.mean(0)", "BOS is counted"),
        (EACH, "torch.cat([x[1:] for x in streams]).mean(0)", "a longer prompt weighs more"),
        (DIFFERENCE, "mean(negatives) - mean(positives)", "sign is swapped"),
        ("stream[1:].mean(0)", "stream[1:].sum(0)", "sums over positions"),
        ("stream[1:].mean(0)", "stream[1:].sum(0) / len(stream)", "still counted in the mean"),
        ("stream[1:].mean(0)", "stream[-1]", "the last position alone"),
        ("]).mean(0)", "]).sum(0)", "sums over prompts"),
        ("stream[1:]", "stream[stream.norm(dim=-1) < 50]", "not the longest"),
        (DIFFERENCE, "torch.tensor([-1.6667, -1.6667, 2.1667, 0.1667])", "differ"),
    ],
    "6.2": [
        (CLONE, CLONE.replace("\n        return stream", ""), "Nothing has changed"),
        (CLONE, "return stream + vector", "added at every position"),
        ("stream[:, -1]", "stream[0, -1]", "in the first row only"),
        ("    def add", "    layer = model.cfg.n_layers // 2\n    def add", "numbers differ"),
        ("stream[:, -1]", "stream[:, 1]", "at position 1"),
        ("+= vector", "= vector", "is replaced"),
        ("+= vector", "-= vector", "subtracted"),
        ("hook_resid_post", "hook_resid_pre", "*entering* block"),
        (RUN, f"{ADDED}\n    return model(tokens)", "a hook stays on the model"),
        ("stream[:, -1]", "stream[:, 4]", "not on another one"),
    ],
    "6.3": [
        (KL, "kl_divergence(steered, plain)[1:].mean()", "arguments are swapped"),
        ("[1:].mean()", ".mean()", "Position 0 is counted"),
        ("log_p - log_q", "log_q - log_p", "The sign is wrong"),
        ("[1:].mean()", "[1:].sum() / len(plain)", "still counted in the mean"),
        ("[1:].mean()", "[1:].sum()", "sum over positions"),
        (".sum(-1)[1:].mean()", "[1:].mean()", "over the vocabulary, too"),
        ("[1:].mean()", "[1:].mean() / 0.693147", "in bits"),
        (KL, "(plain.softmax(-1) * (plain - steered)).sum(-1)[1:].mean()", "`log_softmax`"),
        ("(log_p.exp() * (log_p - log_q))", "(log_p - log_q)", "is weighted by P"),
        (KL, "0.30343", "too small"),
    ],
    "6.4": [
        (KEPT, "effects", "over the budget"),
        (KEPT, "effects[costs <= budget]", "are not those of the table"),
        (f"{KEPT}.argmax()", "costs.argmin()", "the cheapest"),
        (KEPT, KEPT.replace("effects", "effects.abs()"), "the other way"),
        (f"{KEPT}.argmax()", "(4 + (effects / (costs + 1e-3))[1:].argmax())", "per cost"),
        (PLACE, f"{PLACE}[::-1]", "Swapped"),
        ("shape[1]", "shape[0]", "number of columns"),
        ("costs > budget", "costs >= budget", "is within it"),
        (PLACE, "(1, 2)", "differ"),
        (KEPT, KEPT.replace("-torch.inf", "0"), "where all else is below 0"),
        (f"{KEPT}.argmax()", f"{KEPT}.clamp(min=0).argmax()", "where all else is below 0"),
        (KEPT, "costs.masked_fill(costs > budget, 0)", "the most that the budget buys"),
        (BEST, BY_SUM, "largest sum"),
    ],
    "6.5": [
        ("[0, 1:].mean(0)", "[0].mean(0)", "step 1: BOS is counted"),
        ("means[i] - means[j]", "means[j] - means[i]", "step 2"),
        ("hook_resid_post", "hook_resid_pre", "enters the block"),
        ("{layer}.hook", "{model.cfg.n_layers - 1}.hook", "numbers differ"),
        ("[0, 1:].mean(0)", "[0, -1]", "the last position alone"),
        (UNIT, "rows", "not scaled"),
        ("keepdim=True) * norm", "keepdim=True)", "unit vectors"),
        (PAIRS, "i, j = torch.cartesian_prod(*[torch.arange(len(means))] * 2).T", "each pair once"),
        ("(1 + reach) / (1 + len(null))", "reach / len(null)", "add 1 to both"),
        ("null.abs() >= abs(effect)", "null >= effect", "both signs count"),
        ("null.abs() >= abs(effect)", "null.abs() > abs(effect)", "equal effect"),
        ("(1 + reach) / (1", "reach / (1", "one of the two counts"),
        ("(1 + len(null))", "len(null)", "one of the two counts"),
        ("(model, prompts, layer)", "(_, prompts, layer, model=model)", "not on another one"),
    ],
    "6.6": [
        ("return change - change.mean(-1, keepdim=True)", "return change", "over the vocabulary"),
        (f"1 - {MISSED}", MISSED, "that is *missed*"),
        ("[:, 1:].flatten", "[:, :].flatten", "position 0 is counted"),
        ("(steered - model(tokens))", "steered", "steered logits"),
        ("steer(model, vector, layer, 1.0)", f"model.hooks(fwd_hooks=[{BUT_BOS}])", "at BOS, too"),
        ("/ changed.square()", "/ (changed - changed.mean(0)).square()", "spread"),
        ("explained(mine[1::2], constant)", "explained(mine, mine.mean(0))", "fitted on"),
        ("explained(mine[1::2], constant)", "1.0", "step 3"),
        (SHARES, "explained(mine, direct), explained(mine[1::2], constant)", "step 3"),
        ("explained(mine, direct)", "explained(direct, mine)", "own changes"),
        ("def changes(model", "def changes(net", "your code stopped with"),  # the notebook's model
    ],
}
