"""Answers to notebook 1's exercises, as code: right ones in many forms, and typical wrong ones with
what the learner must be told."""


def swapped(code: str, old: str, new: str) -> str:
    """`code` with one thing changed, which must be there."""
    assert code.count(old) == 1, (code.count(old), old)
    return code.replace(old, new)


ABLATE = """
def ablate_last(model, tokens, layer, head):
    def remove(z, hook):
        z = z.clone()
        z[:, -1, head] = 0.0
        return z

    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", remove)])
"""
BACK = """
def previous_token_head(model):
    tokens = torch.randint(1, model.cfg.d_vocab, (8, 30))
    _, cache = model.run_with_cache(tokens)
    best, found = -1.0, None
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            pattern = cache["pattern", layer][:, head]
            score = pattern.diagonal(-1, 1, 2)[:, 1:].mean().item()
            if score > best:
                best, found = score, (layer, head)
    return found
"""
SHARES = """
def neuron_shares(model, cache, layer):
    writes = cache["post", layer][0, 0][:, None] * model.W_out[layer]
    total = writes.sum(0)
    return writes @ total / total.square().sum()
"""
NORM = """
def norm_without(model, tokens, layer, count):
    _, cache = model.run_with_cache(tokens)
    neurons = neuron_shares(model, cache, layer).topk(count).indices

    def remove(post, hook):
        post = post.clone()
        post[:, 0, neurons] = 0.0
        return post

    with model.hooks(fwd_hooks=[(f"blocks.{layer}.mlp.hook_post", remove)]):
        _, cache = model.run_with_cache(tokens)
    return cache["resid_post", layer][0, 0].norm()
"""
MESSAGES = """
from helpers.architecture import query_key_value
def messages(model, cache, layer):
    v = query_key_value(model, layer, cache["resid_pre", layer])[2][0]
    return cache["pattern", layer][0][..., None] * (v @ model.W_O[layer])[:, None]
"""
POSITION = """
def position_0(model, tokens):
    _, cache = model.run_with_cache(tokens)
    rows = []
    for layer in range(model.cfg.n_layers):
        lengths = messages(model, cache, layer).norm(dim=-1)
        both = torch.stack([cache["pattern", layer][0], lengths / lengths.sum(-1, keepdim=True)])
        rows.append(both[:, :, 2:, 0].mean(-1))
    return torch.stack(rows, 1)
"""

RIGHT = {
    "1.1": [
        "def mean_norm(resid): return resid[:, 1:].norm(dim=-1).mean(-1)",
        "def mean_norm(resid): return torch.linalg.vector_norm(resid, dim=2)[:, 1:].mean(1)",
        "def mean_norm(resid): return resid.double()[:, 1:].square().sum(-1).sqrt().mean(1)",
        "def mean_norm(resid): return resid[:, 1:].norm(dim=-1).sum(1) / (resid.shape[1] - 1)",
        "def mean_norm(resid): return [row[1:].norm(dim=-1).mean() for row in resid]",
        "def mean_norm(resid): return resid[:, 1:].norm(dim=-1).mean(1).numpy()",
        "def mean_norm(resid): return resid[:, 1:].norm(dim=-1).mean(1).tolist()",
        """import numpy as np
def mean_norm(resid): return np.linalg.norm(resid.numpy(), axis=-1)[:, 1:].mean(1)""",
        """def mean_norm(resid):
    out = torch.zeros(len(resid))
    for i, row in enumerate(resid):
        for position in range(1, len(row)):
            out[i] += (row[position] @ row[position]) ** 0.5
        out[i] /= len(row) - 1
    return out""",
        "mean_norm = lambda x: torch.einsum('bpd,bpd->bp', x, x).sqrt()[:, 1:].mean(1)",
    ],
    "1.2": [
        """def rebuild(start, cache, layer):
    for i in range(layer + 1):
        start = start + cache["attn_out", i] + cache["mlp_out", i]
    return start""",
        """def rebuild(start, cache, layer):
    for i in range(layer + 1):
        start += cache["attn_out", i]
        start += cache["mlp_out", i]
    return start""",
        """def rebuild(start, cache, layer):
    return start + sum(cache["attn_out", i] + cache["mlp_out", i] for i in range(layer + 1))""",
        """def rebuild(start, cache, layer):
    names = ("attn_out", "mlp_out")
    parts = [cache[name, i] for name in names for i in range(layer + 1)]
    return torch.stack([start, *parts]).sum(0)""",
        """def rebuild(start, cache, layer):
    parts = [cache[f"blocks.{i}.hook_{n}_out"] for i in range(layer + 1) for n in ("mlp", "attn")]
    return start + sum(reversed(parts))""",
        """def rebuild(start, cache, layer):
    stream = start.double()
    for i in range(layer + 1):
        stream = stream + cache["attn_out", i].double() + cache["mlp_out", i].double()
    return stream""",
        """def rebuild(start, cache, layer):
    if layer < 0:
        return start
    return rebuild(start, cache, layer - 1) + cache["attn_out", layer] + cache["mlp_out", layer]""",
        """def rebuild(start, cache, layer):
    stream = start.numpy().copy()
    for i in range(layer + 1):
        stream += cache["attn_out", i].numpy() + cache["mlp_out", i].numpy()
    return stream""",
        """def rebuild(start, cache, layer):
    attn = torch.stack([cache["attn_out", i] for i in range(layer + 1)])
    mlp = torch.stack([cache["mlp_out", i] for i in range(layer + 1)])
    return (attn + mlp).sum(0).add(start).tolist()""",
    ],
    "1.3": [
        ABLATE,
        swapped(ABLATE, "z = z.clone()\n        z[:, -1, head] = 0.0", "z[:, -1, head] = 0.0"),
        swapped(ABLATE, "z = z.clone()\n        z[:, -1, head] = 0.0", "z[:, -1, head] *= 0"),
        swapped(ABLATE, "0.0", "torch.zeros_like(z[:, -1, head])"),
        """def ablate_last(model, tokens, layer, head):
    from helpers.ablation import ablate
    with ablate(model, [(layer, head)], positions=[-1]):
        return model(tokens)""",
        """def ablate_last(model, tokens, layer, head):
    def remove(z, hook):
        z[:, -1, head] = 0
        return z
    with model.hooks(fwd_hooks=[(f"blocks.{layer}.attn.hook_z", remove)]):
        return model(tokens)""",
        """def ablate_last(model, tokens, layer, head):
    def remove(z, hook):
        keep = torch.ones_like(z)
        keep[:, -1, head] = 0
        return z * keep
    name = f"blocks.{layer}.attn.hook_z"
    rows = [model.run_with_hooks(row[None], fwd_hooks=[(name, remove)]) for row in tokens]
    return torch.cat(rows)""",
        """def ablate_last(model, tokens, layer, head):
    def remove(z, hook):
        z[:, -1, head] = 0
        return z
    model.add_hook(f"blocks.{layer}.attn.hook_z", remove)
    try:
        return model(tokens)
    finally:
        model.reset_hooks()""",
        swapped(ABLATE, "    return model.run", "    return 1.0 * model.run") + "\n",
        ABLATE.replace(
            'fwd_hooks=[(f"blocks.{layer}.attn.hook_z", remove)])',
            'fwd_hooks=[(f"blocks.{layer}.attn.hook_z", remove)]).double()',
        ),
    ],
    "1.4": [
        BACK,
        swapped(BACK, "return found", "return list(found)"),
        swapped(BACK, "return found", "return torch.tensor(found)"),
        swapped(BACK, "(8, 30)", "(3, 20)"),
        swapped(BACK, ".diagonal(-1, 1, 2)[:, 1:].mean()", ".diagonal(-1, 1, 2)[:, 1:].median()"),
        """import numpy as np
def previous_token_head(model):
    _, cache = model.run_with_cache(torch.randint(1, model.cfg.d_vocab, (8, 40)))
    scores = np.array([
        [np.diagonal(head.mean(0).numpy(), -1)[1:].mean() for head in cache["pattern", i].unbind(1)]
        for i in range(model.cfg.n_layers)
    ])
    return np.unravel_index(scores.argmax(), scores.shape)""",
        """def previous_token_head(model):
    scores = {}
    for seed in range(4):
        tokens = torch.randint(1, model.cfg.d_vocab, (1, 40))
        _, cache = model.run_with_cache(tokens, names_filter=lambda n: n.endswith("hook_pattern"))
        for i in range(model.cfg.n_layers):
            for h in range(model.cfg.n_heads):
                p = cache["pattern", i][0, h]
                gained = sum(p[q, q - 1].item() for q in range(2, 40))
                scores[i, h] = scores.get((i, h), 0) + gained
    return max(scores, key=scores.get)""",
        """def previous_token_head(model):
    from helpers.induction import previous_token_scores, repeated_tokens
    _, cache = model.run_with_cache(repeated_tokens(model, 15, 4, seed=0))
    each = [previous_token_scores(cache["pattern", i]) for i in range(model.cfg.n_layers)]
    return divmod(int(torch.cat(each).argmax()), model.cfg.n_heads)""",
        """def previous_token_head(model):
    _, cache = model.run_with_cache(torch.randint(1, model.cfg.d_vocab, (8, 40)))
    patterns = torch.stack([cache["pattern", i] for i in range(model.cfg.n_layers)]).mean(1)
    back = torch.einsum("lhqk, qk -> lh", patterns, torch.eye(40).roll(-1, 1))
    return divmod(back.argmax().item(), model.cfg.n_heads)""",
    ],
    "1.5": [
        SHARES + NORM,
        """def neuron_shares(model, cache, layer):
    post, out = cache["post", layer][0, 0], model.W_out[layer]
    total = post @ out
    return post * (out @ total) / (total @ total)"""
        + NORM,
        swapped(SHARES, "writes @ total", "(writes * total).sum(1)") + NORM,
        swapped(SHARES, "writes @ total", "torch.einsum('nd,d->n', writes, total)") + NORM,
        swapped(SHARES, "[0, 0][:, None] *", "[0, 0][:, None].double() *") + NORM,
        swapped(
            SHARES,
            "writes @ total / total.square().sum()",
            "(writes @ total / total.norm() ** 2).tolist()",
        )
        + swapped(
            NORM,
            "neuron_shares(model, cache, layer)",
            "torch.tensor(neuron_shares(model, cache, layer))",
        ),
        """def neuron_shares(model, cache, layer):
    post, out = cache["post", layer][0, 0], model.W_out[layer]
    total = sum(post[n] * out[n] for n in range(len(post)))
    return torch.stack([(post[n] * out[n]) @ total for n in range(len(post))]) / (total @ total)"""
        + NORM,
        SHARES + swapped(NORM, "post[:, 0, neurons] = 0.0", "for n in neurons: post[0, 0, n] = 0"),
        SHARES
        + """
def norm_without(model, tokens, layer, count):
    _, cache = model.run_with_cache(tokens)
    gone = neuron_shares(model, cache, layer).argsort(descending=True)[:count]
    writes = cache["post", layer][0, 0, gone] @ model.W_out[layer][gone]
    return (cache["resid_post", layer][0, 0] - writes).norm()""",
        SHARES
        + """
def norm_without(model, tokens, layer, count):
    _, cache = model.run_with_cache(tokens)
    gone = neuron_shares(model, cache, layer).topk(count).indices
    kept = []
    def remove(post, hook):
        post[:, 0, gone] = 0
        return post
    def keep(resid, hook):
        kept.append(resid[0, 0].clone())
    hooks = [(f"blocks.{layer}.mlp.hook_post", remove), (f"blocks.{layer}.hook_resid_post", keep)]
    model.run_with_hooks(tokens, fwd_hooks=hooks)
    return kept[0].norm().item()""",
    ],
    "1.6": [
        MESSAGES + POSITION,
        swapped(
            MESSAGES, "(v @ model.W_O[layer])", "torch.einsum('hkd,hdm->hkm', v, model.W_O[layer])"
        )
        + POSITION,
        """from helpers.architecture import query_key_value
def messages(model, cache, layer):
    v = query_key_value(model, layer, cache["resid_pre", layer])[2][0]
    pattern = cache["pattern", layer][0]
    return torch.einsum("hqk,hkd,hdm->hqkm", pattern, v, model.W_O[layer])"""
        + POSITION,
        """from helpers.architecture import query_key_value
def messages(model, cache, layer):
    v = query_key_value(model, layer, cache["resid_pre", layer])[2][0].double()
    pattern = cache["pattern", layer][0].double()
    return torch.einsum("hqk,hkd,hdm->hqkm", pattern, v, model.W_O[layer].double())"""
        + swapped(POSITION, 'cache["pattern", layer][0],', 'cache["pattern", layer][0].double(),'),
        """from helpers.architecture import query_key_value
def messages(model, cache, layer):
    v = query_key_value(model, layer, cache["resid_pre", layer])[2][0]
    out = []
    for head in range(model.cfg.n_heads):
        written = v[head] @ model.W_O[layer, head]
        rows = cache["pattern", layer][0, head]
        out.append(torch.stack([row[:, None] * written for row in rows]))
    return torch.stack(out)"""
        + POSITION,
        """def messages(model, cache, layer):
    v = cache["v", layer][0].transpose(0, 1)
    v = v.repeat_interleave(model.cfg.n_heads // len(v), 0)
    return cache["pattern", layer][0][..., None] * (v @ model.W_O[layer])[:, None]"""
        + POSITION,
        MESSAGES
        + swapped(POSITION, "return torch.stack(rows, 1)", "return torch.stack(rows, 1).numpy()"),
        MESSAGES
        + swapped(POSITION, "return torch.stack(rows, 1)", "return torch.stack(rows, 1).tolist()"),
        MESSAGES
        + """
def position_0(model, tokens):
    _, cache = model.run_with_cache(tokens)
    layers = range(model.cfg.n_layers)
    attention = torch.stack([cache["pattern", i][0] for i in layers])
    lengths = torch.stack([messages(model, cache, i).square().sum(-1).sqrt() for i in layers])
    both = torch.stack([attention, lengths / lengths.sum(-1)[..., None]])
    return both[..., 2:, 0].mean(-1)""",
    ],
}

MISTAKES = {
    "1.1": [
        ("def mean_norm(resid): return resid.norm(dim=-1).mean(dim=1)", "Position 0 is counted"),
        (
            "def mean_norm(resid): return resid[:, 1:].norm(dim=-1).sum(1) / resid.shape[1]",
            "still counted in the mean",
        ),
        ("def mean_norm(resid): return resid[:, 1:].norm(dim=(1, 2))", "one norm over all"),
        ("def mean_norm(resid): return resid[:, 1:].norm(dim=-1)", "expected shape (2,)"),
        ("def mean_norm(resid): resid.norm(dim=-1)", "does it end in `return`?"),
        ("def mean_norm(resid): return resid[:, 1:].norm(dim=-1).sum(1)", "not their mean"),
        ("def mean_norm(resid): return resid[:, 1:].mean(1).norm(dim=-1)", "the mean vector's"),
        (
            "def mean_norm(resid): return resid[:, 1:].square().sum(-1).mean(1)",
            "squared length",
        ),
        ("def mean_norm(resid): return torch.tensor([4.0, 3.0])", "expected shape (1,)"),
        ("mean_norm = 3.0", "expected a function"),
    ],
    "1.2": [
        (
            """def rebuild(start, cache, layer):
    for i in range(layer):
        start = start + cache["attn_out", i] + cache["mlp_out", i]
    return start""",
            "stops too early",
        ),
        (
            """def rebuild(start, cache, layer):
    for i in range(layer + 1):
        start = start + cache["attn_out", i]
    return start""",
            "MLP of block 0 is missing",
        ),
        (
            """def rebuild(start, cache, layer):
    for i in range(layer + 1):
        start = start + cache["mlp_out", i]
    return start""",
            "attention of block 0 is missing",
        ),
        (
            """def rebuild(start, cache, layer):
    return sum(cache["attn_out", i] + cache["mlp_out", i] for i in range(layer + 1))""",
            "not what they add to",
        ),
        (
            """def rebuild(start, cache, layer):
    return start + cache["attn_out", layer] + cache["mlp_out", layer]""",
            "Only one block is added",
        ),
        ("def rebuild(start, cache, layer): return cache['resid_post', layer]", "not to be read"),
        (
            """def rebuild(start, cache, layer):
    return cache[f"blocks.{layer}.hook_resid_post"]""",
            "not to be read",
        ),
        (
            """def rebuild(start, cache, layer):
    before = cache["resid_pre", layer]
    return before + cache["attn_out", layer] + cache["mlp_out", layer]""",
            "not to be read",
        ),
        (
            """def rebuild(start, cache, layer):
    for i in range(4):
        if i <= layer:
            start = start + cache["attn_out", i] + cache["mlp_out", i]
    return start[:, -1]""",
            "expected shape",
        ),
        ("def rebuild(start, cache, layer): return start / 0 * 0", "NaN"),
        ("def rebuild(start, cache, layer): return undefined", "your code stopped with"),
    ],
    "1.3": [
        (
            swapped(
                ABLATE, "z = z.clone()\n        z[:, -1, head] = 0.0", "z.clone()[:, -1, head] = 0"
            ),
            "Nothing has changed",
        ),
        (swapped(ABLATE, "[:, -1, head]", "[:, :, head]"), "before the last position have changed"),
        (swapped(ABLATE, "[:, -1, head]", "[:, -1, 99]"), "your code stopped with"),
        (swapped(ABLATE, "[:, -1, head]", "[:, -1]"), "All heads of the layer"),
        (swapped(ABLATE, "[:, -1, head]", "[:, -1, (head + 1) % z.shape[2]]"), "is another head"),
        (
            swapped(ABLATE, "blocks.{layer}", "blocks.{model.cfg.n_layers - 1 - layer}"),
            "is another layer",
        ),
        (swapped(ABLATE, "[:, -1, head]", "[0, -1, head]"), "first prompt of the batch only"),
        (swapped(ABLATE, "= 0.0", "*= 0.5"), "halved"),
        (swapped(ABLATE, "= 0.0", "= 1.0"), "numbers differ"),
        (
            """def ablate_last(model, tokens, layer, head):
    def remove(z, hook):
        z[:, -1, head] = 0
        return z
    model.add_hook(f"blocks.{layer}.attn.hook_z", remove)
    return model(tokens)""",
            "a hook stays on the model",
        ),
        (
            """def ablate_last(model, tokens, layer, head):
    def remove(z, hook):
        z[:, -1, head] = 0
        return z
    return model.run_with_hooks(tokens[:1], fwd_hooks=[(f"blocks.{layer}.attn.hook_z", remove)])""",
            "expected shape",
        ),
        (
            "def ablate_last(model, tokens, layer, head): return model(tokens)",
            "Nothing has changed",
        ),
    ],
    "1.4": [
        (
            swapped(BACK, ".diagonal(-1, 1, 2)[:, 1:]", ".diagonal(0, 1, 2)[:, 1:]"),
            "attends to the token itself",
        ),
        (
            swapped(BACK, ".diagonal(-1, 1, 2)[:, 1:]", "[:, 2:, 0]").replace(
                "torch.randint(1, model.cfg.d_vocab, (8, 30))", 'model.to_tokens("The cat sat")'
            ),
            "another gives it",
        ),
        ("def previous_token_head(model): return torch.tensor(3)", "Return (layer, head)"),
        ("def previous_token_head(model): return (model.cfg.n_layers, 0)", "swapped the two"),
        ("def previous_token_head(model): return (model.cfg.n_layers - 1, 0)", "another gives it"),
        ("def previous_token_head(model): return 'head 1'", "Return (layer, head)"),
        (
            BACK.replace("previous_token_head", "search")
            + "found = search(model)\ndef previous_token_head(model): return found",
            "search all heads",
        ),
        (
            BACK.replace("previous_token_head", "search")
            + """
layer = search(model)[0]
def previous_token_head(model): return layer, search(model)[1]""",
            "search all heads",
        ),
        (
            swapped(
                BACK,
                "    _, cache",
                """    def look(pattern, hook): return pattern
    model.add_hook("blocks.0.attn.hook_pattern", look)
    _, cache""",
            ),
            "a hook stays on the model",
        ),
        (swapped(BACK, "    return found", ""), "does it end in `return`?"),
    ],
    "1.5": [
        (swapped(SHARES, " / total.square().sum()", "") + NORM, "divide by the squared length"),
        (
            swapped(SHARES, "total.square().sum()", "total.norm()") + NORM,
            "divide by its length once more",
        ),
        (
            swapped(SHARES, "writes @ total / total.square().sum()", "writes.norm(dim=-1)") + NORM,
            "the lengths of what each writes",
        ),
        (
            swapped(
                SHARES,
                "writes @ total / total.square().sum()",
                "writes.norm(dim=-1) / writes.norm(dim=-1).sum()",
            )
            + NORM,
            "have no sign",
        ),
        (swapped(SHARES, "[0, 0]", "[0, -1]") + NORM, "wanted is position 0"),
        (swapped(SHARES, '"post"', '"pre"') + NORM, "what a neuron hears"),
        (
            "def neuron_shares(model, cache, layer): return cache['post', layer][0, 0]" + NORM,
            "multiply with W_out",
        ),
        (
            swapped(SHARES, 'cache["post", layer]', 'cache["post", 0]').replace(
                "W_out[layer]", "W_out[0]"
            )
            + NORM,
            "use the argument `layer`",
        ),
        (
            SHARES + "def norm_without(model, tokens, layer, count): return ...",
            "step 2 is still to do",
        ),
        (
            SHARES + swapped(NORM, "post = post.clone()\n        post[", "post.clone()["),
            "nothing was removed",
        ),
        (SHARES + swapped(NORM, "[:, 0, neurons]", "[:, -1, neurons]"), "nothing was removed"),
        (SHARES + swapped(NORM, "topk(count)", "topk(count - 1)"), "one neuron too few"),
        (SHARES + swapped(NORM, "topk(count)", "topk(count, largest=False)"), "smallest share"),
        (SHARES + swapped(NORM, '"resid_post"', '"mlp_out"'), "wanted is the stream"),
        (SHARES + swapped(NORM, "[0, 0].norm()", "[0].norm()"), "norm over all positions"),
        (
            SHARES
            + """
def norm_without(model, tokens, layer, count):
    _, cache = model.run_with_cache(tokens)
    neurons = neuron_shares(model, cache, layer).topk(count).indices
    def remove(post, hook):
        post[:, 0, neurons] = 0
        return post
    model.add_hook(f"blocks.{layer}.mlp.hook_post", remove)
    return model.run_with_cache(tokens)[1]["resid_post", layer][0, 0].norm()""",
            "a hook stays on the model",
        ),
    ],
    "1.6": [
        (
            swapped(
                MESSAGES,
                'cache["pattern", layer][0][..., None]',
                'torch.ones_like(cache["pattern", layer][0])[..., None]',
            )
            + POSITION,
            "the pattern is not in it",
        ),
        (
            swapped(MESSAGES, "(v @ model.W_O[layer])[:, None]", "(v @ model.W_O[layer])[:, None]")
            .replace('return cache["pattern"', 'return (cache["pattern"')
            .rstrip()
            + ").transpose(1, 2)"
            + POSITION,
            "keys and queries are swapped",
        ),
        (
            MESSAGES.replace(", layer])", ", 0])")
            .replace("model, layer, cache", "model, 0, cache")
            .replace('"pattern", layer', '"pattern", 0')
            .replace("W_O[layer]", "W_O[0]")
            + POSITION,
            "use the argument `layer`",
        ),
        (
            """def messages(model, cache, layer):
    v = cache["v", layer][0].transpose(0, 1)
    return cache["pattern", layer][0][..., None] * (v @ model.W_O[layer])[:, None]"""
            + POSITION,
            "your code stopped with",
        ),
        (swapped(MESSAGES, "[2][0]", "[1][0]") + POSITION, "numbers differ"),
        (
            swapped(MESSAGES, "(v @ model.W_O[layer])[:, None]", "v[:, None]") + POSITION,
            "expected shape",
        ),
        (MESSAGES + "def position_0(model, tokens): return ...", "step 2 is still to do"),
        (MESSAGES + swapped(POSITION, "2:, 0", ":, 0"), "queries 0 and 1"),
        (MESSAGES + swapped(POSITION, "2:, 0", "1:, 0"), "query 1 is in the mean"),
        (MESSAGES + swapped(POSITION, "rows, 1)", "rows, 1).flip(0)"), "the other order"),
        (
            MESSAGES + swapped(POSITION, "lengths / lengths.sum(-1, keepdim=True)", "lengths"),
            "not shares yet",
        ),
        (MESSAGES + swapped(POSITION, "2:, 0].mean(-1)", "-1, 0]"), "last query alone"),
        (
            MESSAGES + swapped(POSITION, "torch.stack(rows, 1)", "torch.stack(rows)"),
            "expected shape",
        ),
    ],
}
