"""Typical wrong answers to notebook 1's exercises: code, and what the learner must be told."""

MISTAKES = {
    "1.1": [
        ("def mean_norm(resid): return resid.norm(dim=-1).mean(dim=1)", "BOS is counted"),
        (
            "def mean_norm(resid): return resid[:, 1:].norm(dim=-1).sum(1) / resid.shape[1]",
            "still counted in the mean",
        ),
        ("def mean_norm(resid): return resid[:, 1:].norm(dim=(1, 2))", "one norm over all"),
        ("def mean_norm(resid): return resid[:, 1:].norm(dim=-1)", "expected shape (2,)"),
        ("def mean_norm(resid): resid.norm(dim=-1)", "does it end in `return`?"),
    ],
    "1.2": [
        (
            "def looks_at(pattern, query): return pattern[:, query].argmax(-1)",
            "leave position 0 out",
        ),
        ("def looks_at(pattern, query): return pattern[:, query, 1:].argmax(-1)", "Off by one"),
        (
            "def looks_at(pattern, query): return pattern[:, 1:, query].argmax(-1) + 1",
            "swapped",
        ),
        (
            "def looks_at(pattern, query): return pattern[:, -1, 1:].argmax(-1) + 1",
            "use the argument `query`",
        ),
    ],
    "1.3": [
        (
            """def rebuild(cache, layer):
    return cache["hook_embed"] + sum(
        cache["attn_out", i] + cache["mlp_out", i] for i in range(layer + 1)
    )""",
            "position embedding is missing",
        ),
        (
            """def rebuild(cache, layer):
    stream = cache["hook_embed"] + cache["hook_pos_embed"]
    for i in range(layer):
        stream = stream + cache["attn_out", i] + cache["mlp_out", i]
    return stream""",
            "stops one too early",
        ),
        (
            """def rebuild(cache, layer):
    stream = cache["hook_embed"] + cache["hook_pos_embed"]
    for i in range(layer + 1):
        stream = stream + cache["attn_out", i]
    return stream""",
            "MLP of block 0 is missing",
        ),
        ("def rebuild(cache, layer): return cache['mlp_out', layer]", "misses the stream by"),
        ("def rebuild(cache, layer): return cache['nowhere', layer]", "your code stopped with"),
    ],
    "1.4": [
        (
            """def silence_last(model, tokens, layer, head):
    def silence(z, hook):
        z.clone()[:, -1, head] = 0.0
        return z
    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])""",
            "Nothing has changed",
        ),
        (
            """def silence_last(model, tokens, layer, head):
    def silence(z, hook):
        z = z.clone()
        z[:, :, head] = 0.0
        return z
    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])""",
            "before the last position have changed",
        ),
        (
            """def silence_last(model, tokens, layer, head):
    def silence(z, hook):
        z = z.clone()
        z[:, -1] = 0.0
        return z
    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])""",
            "All heads of the layer are silent",
        ),
        (
            """def silence_last(model, tokens, layer, head):
    def silence(z, hook):
        z = z.clone()
        z[:, -1, head - 1] = 0.0
        return z
    return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", silence)])""",
            "is it another head",
        ),
    ],
    "1.5": [
        (
            """def previous_token_head(model):
    tokens = torch.randint(1, model.cfg.d_vocab, (8, 40))
    _, cache = model.run_with_cache(tokens)
    scores = [
        cache["pattern", i].diagonal(dim1=-2, dim2=-1)[..., 1:].mean((0, 2))
        for i in range(model.cfg.n_layers)
    ]
    return divmod(torch.stack(scores).argmax().item(), model.cfg.n_heads)""",
            "looks at the token itself",
        ),
        ("def previous_token_head(model): return torch.tensor(3)", "Return (layer, head)"),
        ("def previous_token_head(model): return (model.cfg.n_layers, 0)", "swapped the two"),
        ("def previous_token_head(model): return (0, 0)", "another gives it"),
    ],
}
