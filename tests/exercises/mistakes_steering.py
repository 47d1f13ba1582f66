"""Answers to notebook 6's exercises, as code: right ones in many forms, and typical wrong ones with
what the learner must be told."""

HOOK = """def steer_last(model, tokens, vector, layer):
    def add(stream, hook):
        {body}
    name = f"blocks.{{layer}}.hook_resid_{where}"
    return model.run_with_hooks(tokens, fwd_hooks=[(name, add)])"""


def last(body: str, where: str = "post") -> str:
    return HOOK.format(body="\n        ".join(body.split("; ")), where=where)


def mean(one: str, over: str = "torch.stack({}).mean(0)") -> str:
    """The contrast, by what is taken of each stream `x` and by how that is averaged."""
    both = (over.format(f"[{one} for x in {side}]") for side in ("positives", "negatives"))
    return f"def contrast(positives, negatives): return {' - '.join(both)}"


def priced(returned: str) -> str:
    return f"""def price_of_push(plain, steered):
    log_p, log_q = plain.log_softmax(-1), steered.log_softmax(-1)
    return {returned}"""


def within(*lines: str) -> str:
    return "def best_within(effects, costs, budget):\n    " + "\n    ".join(lines)


BEST = within(
    "best = effects.masked_fill(costs > budget, -torch.inf).argmax().item()",
    "return divmod(best, effects.shape[1])",
)


def swapped(code: str, old: str, new: str) -> str:
    """`code` with one thing changed, which must be there."""
    assert code.count(old) == 1, (code.count(old), old)
    return code.replace(old, new)


MEANS = """
def prompt_means(model, prompts, layer):
    name, means = f"blocks.{layer}.hook_resid_post", []
    for tokens in prompts:
        _, cache = model.run_with_cache(tokens, names_filter=name)
        means.append(cache[name][0, 1:].mean(0))
    return torch.stack(means)
"""
DIFFERENCES = """
def differences(means, norm):
    i, j = torch.combinations(torch.arange(len(means))).T
    rows = means[i] - means[j]
    return rows / rows.norm(dim=-1, keepdim=True) * norm
"""
P_VALUE = """
def p_value(effect, null):
    reach = (null.abs() >= abs(effect)).sum().item()
    return (1 + reach) / (1 + len(null))
"""
NULL = MEANS + DIFFERENCES + P_VALUE

CHANGES = """
def changes(model, tokens, vector, layer):
    with steer(model, vector, layer, 1.0):
        steered = model(tokens)
    change = (steered - model(tokens))[:, 1:].flatten(0, 1)
    return change - change.mean(-1, keepdim=True)
"""
EXPLAINED = """
def explained(changed, guess):
    return 1 - (changed - guess).square().sum() / changed.square().sum()
"""
VERDICT = """
def verdict(model, tokens, vector, layer):
    mine = changes(model, tokens, vector, layer)
    direct = changes(model, tokens, vector, model.cfg.n_layers - 1)
    constant = mine[::2].mean(0)
    return explained(mine[1::2], constant), explained(mine, direct)
"""
BIAS = CHANGES + EXPLAINED + VERDICT

RIGHT = {
    "6.1": [
        mean("x[1:].mean(0)"),
        mean("x[1:].sum(0) / (len(x) - 1)"),
        mean("x[1:].double().mean(0)"),
        mean("x[1:].mean(0)", "sum({0}) / len({0})"),
        mean("x[1:].numpy().mean(0)", "sum({0}) / len({0})"),
        mean("x.narrow(0, 1, len(x) - 1).mean(0)"),
        mean("torch.einsum('pd->d', x[1:]) / len(x[1:])"),
        """def contrast(positives, negatives):
    total = 0
    for sign, side in ((1, positives), (-1, negatives)):
        for x in side:
            for row in x[1:]:
                total = total + sign * row / len(x[1:]) / len(side)
    return total.tolist()""",
        """def contrast(positives, negatives):
    import numpy as np
    both = [np.stack([np.asarray(x)[1:].mean(0) for x in s]) for s in (positives, negatives)]
    return both[0].mean(0) - both[1].mean(0)""",
    ],
    "6.2": [
        last("stream = stream.clone(); stream[:, -1] += vector; return stream"),
        last("stream[:, -1] += vector; return stream"),
        last("stream[:, -1] = stream[:, -1] + vector.double()"),
        last("stream = stream.clone(); stream[:, stream.shape[1] - 1, :] += vector; return stream"),
        last("at = torch.zeros(stream.shape[1], 1); at[-1] = 1; return stream + at * vector"),
        last("return torch.cat([stream[:, :-1], stream[:, -1:] + vector], 1)"),
        last("stream[:, -1].add_(vector)"),
        """def steer_last(model, tokens, vector, layer):
    def add(stream, hook):
        stream[:, -1] += vector
        return stream
    with model.hooks(fwd_hooks=[(f"blocks.{layer}.hook_resid_post", add)]):
        return model(tokens).double()""",
        """def steer_last(model, tokens, vector, layer):
    def add(stream, hook):
        stream[:, -1] += vector
        return stream
    model.add_hook(f"blocks.{layer}.hook_resid_post", add)
    logits = model(tokens)
    model.reset_hooks()
    return logits.numpy()""",
    ],
    "6.3": [
        priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:].mean()"),
        priced("(plain.softmax(-1) * (log_p - log_q))[1:].sum(-1).mean()"),
        priced("(log_p.exp() * (log_p - log_q))[1:].sum() / (len(plain) - 1)"),
        priced("torch.einsum('pv,pv->p', log_p.exp(), log_p - log_q)[1:].mean().item()"),
        priced(
            "torch.nn.functional.kl_div(log_q, log_p, reduction='none', log_target=True)"
            "[1:].sum(-1).mean()"
        ),
        priced("kl_divergence(plain, steered)[1:].mean()"),
        priced("kl_divergence(plain.double(), steered.double())[1:].mean()"),
        priced("sum(kl_divergence(a, b) for a, b in zip(plain[1:], steered[1:])) / len(plain[1:])"),
        priced("(log_p.exp() * (log_p - log_q)).numpy().sum(-1)[1:].mean()"),
    ],
    "6.4": [
        BEST,
        within(
            "rows, columns = effects.shape",
            "every = [(r, c) for r in range(rows) for c in range(columns)]",
            "cells = [cell for cell in every if costs[cell] <= budget]",
            "return max(cells, key=lambda cell: effects[cell])",
        ),
        within(
            "kept = torch.where(costs <= budget, effects, torch.tensor(-1e9))",
            "return torch.unravel_index(kept.argmax(), kept.shape)",
        ),
        within(
            "import numpy as np",
            "kept = np.where(costs.numpy() <= budget, effects.numpy(), -np.inf)",
            "return np.unravel_index(kept.argmax(), kept.shape)",
        ),
        within(
            "kept = effects.double().masked_fill(costs > budget, -torch.inf)",
            "layer = kept.amax(1).argmax()",
            "return torch.stack([layer, kept[layer].argmax()])",
        ),
        within(
            "kept = effects.masked_fill(costs > budget, -torch.inf)",
            "return (kept == kept.max()).nonzero()[0]",
        ),
        within(
            "kept = effects.masked_fill(costs > budget, -torch.inf)",
            "column = kept.amax(0).argmax().item()",
            "return [kept[:, column].argmax().item(), column]",
        ),
        within(
            "order = effects.flatten().argsort(descending=True)",
            "first = next(i for i in order.tolist() if costs.flatten()[i] <= budget)",
            "return first // effects.shape[1], first % effects.shape[1]",
        ),
    ],
    "6.5": [
        NULL,
        swapped(NULL, "cache[name][0, 1:].mean(0)", "cache['resid_post', layer][0, 1:].mean(0)"),
        swapped(NULL, "[0, 1:].mean(0)", "[:, 1:].mean(1)[0]"),
        swapped(NULL, "[0, 1:].mean(0)", "[0, 1:].double().mean(0)"),
        swapped(NULL, "return torch.stack(means)", "return torch.stack(means).numpy()"),
        swapped(NULL, "return torch.stack(means)", "return means"),
        swapped(
            NULL,
            DIFFERENCES,
            """
def differences(means, norm):
    pairs = [(i, j) for i in range(len(means)) for j in range(i + 1, len(means))]
    return [norm * (means[i] - means[j]) / (means[i] - means[j]).norm() for i, j in pairs]
""",
        ),
        swapped(
            NULL,
            DIFFERENCES,
            """
def differences(means, norm):
    i, j = torch.triu_indices(len(means), len(means), 1)
    return torch.nn.functional.normalize(means[i] - means[j], dim=1) * norm
""",
        ),
        swapped(
            NULL,
            P_VALUE,
            """
def p_value(effect, null):
    everything = torch.cat([null, torch.tensor([effect])]).abs()
    return (everything >= abs(effect)).double().mean()
""",
        ),
    ],
    "6.6": [
        BIAS,
        swapped(
            BIAS,
            CHANGES,
            """
def changes(model, tokens, vector, layer):
    hook = lambda stream, hook: stream + vector
    hooks = [(f"blocks.{layer}.hook_resid_post", hook)]
    change = model.run_with_hooks(tokens, fwd_hooks=hooks) - model(tokens)
    change = change - change.mean(-1, keepdim=True)
    return change[:, 1:].reshape(-1, change.shape[-1])
""",
        ),
        swapped(
            BIAS,
            "(steered - model(tokens))[:, 1:].flatten(0, 1)",
            "torch.cat([*(steered - model(tokens))[:, 1:]])",
        ),
        swapped(BIAS, "(steered - model(tokens))", "(steered.double() - model(tokens).double())"),
        swapped(BIAS, "(changed - guess).square().sum()", "((changed - guess) ** 2).sum(0).sum()"),
        swapped(
            BIAS,
            "(changed - guess).square().sum() / changed.square().sum()",
            "((changed - guess).norm() / changed.norm()) ** 2",
        ),
        swapped(
            BIAS,
            EXPLAINED,
            """
def explained(changed, guess):
    missed = torch.einsum("cv,cv->", changed - guess, changed - guess)
    return (1 - missed / torch.einsum("cv,cv->", changed, changed)).item()
""",
        ),
        swapped(
            BIAS,
            "return explained(mine[1::2], constant), explained(mine, direct)",
            "return torch.tensor([explained(mine[1::2], constant), explained(mine, direct)])",
        ),
        swapped(
            BIAS,
            "constant = mine[::2].mean(0)",
            "constant = sum(mine[i] for i in range(0, len(mine), 2)) / len(mine[::2])",
        ),
    ],
}

MISTAKES = {
    "6.1": [
        (mean("x.mean(0)"), "BOS is counted"),
        (
            "def contrast(p, n):\n"
            + mean("x[1:].mean(0)").replace("def contrast", "    def right")
            + "\n    return right(n, p)",
            "sign is swapped",
        ),
        (mean("x[1:].sum(0)"), "sums over positions"),
        (mean("x[1:].sum(0) / len(x)"), "still counted in the mean"),
        (mean("x[-1]"), "the last position alone"),
        (mean("x[1:]", "torch.cat({}).mean(0)"), "a longer prompt weighs more"),
        (mean("x", "torch.cat({}).mean(0)"), "pooled, BOS too"),
        (mean("x[1:].mean(0)", "torch.stack({}).sum(0)"), "sums over prompts"),
        (mean("x[1:].mean(0)", "{}[0]"), "Only the first prompt"),
        (mean("x[1:].mean()"), "expected shape (4,)"),
        ("def contrast(p, n): return torch.tensor([-1.6667, -1.6667, 2.1667, 0.1667])", "differ"),
    ],
    "6.2": [
        (last("stream = stream.clone(); stream[:, -1] += vector"), "Nothing has changed"),
        (last("return stream + vector"), "added at every position"),
        (last("stream = stream.clone(); stream[:, 1] += vector; return stream"), "at position 1"),
        (last("stream = stream.clone(); stream[:, -1] = vector; return stream"), "is replaced"),
        (last("stream = stream.clone(); stream[:, -1] -= vector; return stream"), "subtracted"),
        (
            last("stream = stream.clone(); stream[:, -1] += vector; return stream", "pre"),
            "*entering* block",
        ),
        (last("stream = stream.clone(); stream[:, -1] += 2 * vector; return stream"), "twice"),
        (
            "def steer_last(model, tokens, vector, layer): return model(tokens)[:, -1] + 1",
            "expected shape",
        ),
        (
            """def steer_last(model, tokens, vector, layer):
    def add(stream, hook):
        stream[:, -1] += vector
        return stream
    model.add_hook(f"blocks.{layer}.hook_resid_post", add)
    return model(tokens)""",
            "leaves a hook",
        ),
        (
            """layer_here = model.cfg.n_layers // 2
def steer_last(model, tokens, vector, layer):
    def add(stream, hook):
        stream[:, -1] += vector
        return stream
    hooks = [(f"blocks.{layer_here}.hook_resid_post", add)]
    return model.run_with_hooks(tokens, fwd_hooks=hooks)""",
            "not on another one",
        ),
    ],
    "6.3": [
        (priced("kl_divergence(steered, plain)[1:].mean()"), "arguments are swapped"),
        (priced("(log_q.exp() * (log_q - log_p)).sum(-1)[1:].mean()"), "arguments are swapped"),
        (priced("(log_p.exp() * (log_q - log_p)).sum(-1)[1:].mean()"), "The sign is wrong"),
        (priced("(log_p.exp() * (log_p - log_q)).sum(-1).mean()"), "Position 0 is counted"),
        (
            priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:].sum() / len(plain)"),
            "still counted in the mean",
        ),
        (priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:].sum()"), "sum over positions"),
        (priced("(log_p.exp() * (log_p - log_q)).sum()"), "position 0 too"),
        (priced("(log_p.exp() * (log_p - log_q))[1:].mean()"), "over the vocabulary, too"),
        (priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:].mean() / 0.693147"), "in bits"),
        (priced("(plain.softmax(-1) * (plain - steered)).sum(-1)[1:].mean()"), "`log_softmax`"),
        (priced("(log_p.exp() - log_q.exp()).abs().sum(-1)[1:].mean()"), "you give"),
        (priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:]"), "expected shape ()"),
        (priced("0.2067"), "too large"),
    ],
    "6.4": [
        (within("return divmod(effects.argmax().item(), effects.shape[1])"), "over the budget"),
        (within("return divmod(costs.argmin().item(), effects.shape[1])"), "the cheapest"),
        (
            within(
                "kept = effects.abs().masked_fill(costs > budget, -torch.inf)",
                "return divmod(kept.argmax().item(), effects.shape[1])",
            ),
            "the other way",
        ),
        (
            within(
                "ratio = effects / (costs + 1e-3)",
                "return divmod(ratio[1:].argmax().item() + effects.shape[1], effects.shape[1])",
            ),
            "per cost",
        ),
        (swapped(BEST, "divmod(best, effects.shape[1])", "best"), "flattened table"),
        (swapped(BEST, "effects.shape[1])", "effects.shape[1])[::-1]"), "Swapped"),
        (swapped(BEST, "shape[1]", "shape[0]"), "number of columns"),
        (swapped(BEST, ">", ">="), "is within it"),
        (swapped(BEST, "effects.shape[1]", "4"), "differ"),
        (within("return 1, 2"), "differ"),
    ],
    "6.5": [
        (swapped(NULL, "[0, 1:].mean(0)", "[0].mean(0)"), "Step 1: BOS is counted"),
        (swapped(NULL, "hook_resid_post", "hook_resid_pre"), "enters the block"),
        (swapped(NULL, "[0, 1:].mean(0)", "[0, -1]"), "the last position alone"),
        (swapped(NULL, "means[i] - means[j]", "means[j] - means[i]"), "Step 2"),
        (
            swapped(NULL, "return rows / rows.norm(dim=-1, keepdim=True) * norm", "return rows"),
            "not scaled",
        ),
        (swapped(NULL, "keepdim=True) * norm", "keepdim=True)"), "unit vectors"),
        (swapped(NULL, "rows.norm(dim=-1, keepdim=True)", "rows.norm()"), "take each row's own"),
        (swapped(NULL, "rows.norm(dim=-1, keepdim=True)", "rows.norm(dim=0)"), "columns"),
        (
            swapped(
                NULL,
                "torch.combinations(torch.arange(len(means))).T",
                "torch.cartesian_prod(*[torch.arange(len(means))] * 2).T",
            ),
            "each pair once",
        ),
        (swapped(NULL, "(1 + reach) / (1 + len(null))", "reach / len(null)"), "add 1 to both"),
        (swapped(NULL, "null.abs() >= abs(effect)", "null >= effect"), "both signs count"),
        (swapped(NULL, "null.abs() >= abs(effect)", "null.abs() > abs(effect)"), "equal effect"),
        (swapped(NULL, "(1 + len(null))", "len(null)"), "one of the two counts"),
        (
            swapped(NULL, "{layer}.hook", "{model_layers - 1}.hook").replace(
                "\ndef prompt_means", "\nmodel_layers = model.cfg.n_layers\ndef prompt_means"
            ),
            "stopped with KeyError",
        ),
    ],
    "6.6": [
        (
            swapped(BIAS, "return change - change.mean(-1, keepdim=True)", "return change"),
            "mean over the vocabulary",
        ),
        (swapped(BIAS, "[:, 1:].flatten", "[:, :].flatten"), "position 0 is counted"),
        (swapped(BIAS, "steered - model(tokens)", "model(tokens) - steered"), "sign is swapped"),
        (swapped(BIAS, "(steered - model(tokens))", "steered"), "steered logits"),
        (swapped(BIAS, "change.mean(-1, keepdim=True)", "change.mean(0)"), "over contexts"),
        (swapped(BIAS, "return 1 - (changed", "return (changed"), "that is *missed*"),
        (swapped(BIAS, "/ changed.square()", "/ (changed - changed.mean(0)).square()"), "spread"),
        (
            swapped(
                BIAS,
                "(changed - guess).square().sum() / changed.square().sum()",
                "(changed - guess).norm() / changed.norm()",
            ),
            "root",
        ),
        (
            swapped(BIAS, "explained(mine[1::2], constant)", "explained(mine, mine.mean(0))"),
            "fitted on",
        ),
        (swapped(BIAS, "explained(mine[1::2], constant)", "1.0"), "Step 3"),
        (
            swapped(
                BIAS,
                "explained(mine[1::2], constant), explained(mine, direct)",
                "explained(mine, direct), explained(mine[1::2], constant)",
            ),
            "Step 3",
        ),
        (swapped(BIAS, "explained(mine, direct)", "explained(direct, mine)"), "own changes"),
        (
            swapped(
                BIAS,
                "return explained(mine[1::2], constant), explained(mine, direct)",
                "return explained(mine[1::2], constant)",
            ),
            "two numbers",
        ),
    ],
}
