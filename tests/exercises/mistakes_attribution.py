"""Typical wrong answers to notebook 3's exercises: code, and what the learner must be told."""

TOWARDS = """def towards(model, answer, contrast):
    one, two = (model.W_U[:, model.to_single_token(word)] for word in (answer, contrast))
    return {}"""

SPLIT = """def split_all(written, scale, W_U, b_U, answer, contrast):
    along, bias = W_U[:, answer] - W_U[:, contrast], b_U[answer] - b_U[contrast]
    centred = written - written.mean(dim=-1, keepdim=True)
    parts = centred / scale @ along
    return {}"""

HEAD = """def head_effect(model, cache, layer, head, direction):
    written = cache["z", layer][:, -1, head] @ model.W_O[layer, head]
    scale = cache["ln_final.hook_scale"][:, -1]
    return {}"""

SOURCE = """def by_source(model, cache, layer, head, direction):
    looks = cache["pattern", layer][:, head, -1]
    out = cache["v", layer][:, :, head] @ model.W_O[layer, head]  # (batch, source, d_model)
    scale = cache["ln_final.hook_scale"][:, -1:]
    effect = (cache["z", layer][:, -1:, head] @ model.W_O[layer, head] / scale @ direction)
    return {}"""

UNSEEN = """def unseen_head(model, tokens, answer, contrast):
    before = logit_diff(model(tokens), answer, contrast)
    lost = torch.zeros(n_layers, n_heads)
    for layer in range(n_layers):
        for head in range(n_heads):
            def silence(z, hook):
                z = z.clone()
                z[:, {}, head] = 0.0
                return z
            hooks = [(f"blocks.{{layer}}.attn.hook_z", silence)]
            changed = model.run_with_hooks(tokens, fwd_hooks=hooks)
            lost[layer, head] = (before - logit_diff(changed, answer, contrast)).mean()
    return divmod(lost.{}().item(), n_heads)"""

MISTAKES = {
    "3.1": [
        (
            """def towards(model, answer, contrast):
    one, two = model.to_single_token(answer), model.to_single_token(contrast)
    return model.W_U[one] - model.W_U[two]""",
            "one column a token",
        ),
        (
            """def towards(model, answer, contrast):
    one, two = model.to_tokens(answer)[0, 0], model.to_tokens(contrast)[0, 0]
    return model.W_U[:, one] - model.W_U[:, two]""",
            "BOS in front",
        ),
        (TOWARDS.format("two - one"), "Swapped"),
        (TOWARDS.format("one"), "The contrast is missing"),
        (TOWARDS.format("one + two"), "the sum of the two columns"),
        (TOWARDS.format("(one - two) / (one - two).norm()"), "its length is not"),
        (TOWARDS.format("torch.stack([one, two])"), "expected shape"),
    ],
    "3.2": [
        (SPLIT.format("parts"), "five numbers are wanted"),
        (SPLIT.format("torch.cat([parts, bias[None] / scale])"), "added after the division"),
        (SPLIT.format("torch.cat([parts, b_U[[answer]]])"), "counts as a difference too"),
        (SPLIT.format("torch.cat([centred @ along, bias[None]])"), "The scale is forgotten"),
        (SPLIT.format("torch.cat([written / scale @ along, bias[None]])"), "Not centred"),
        (SPLIT.format("torch.cat([written @ along, bias[None]])"), "the quick way of Round 1"),
        (
            SPLIT.format(
                "torch.cat([torch.nn.functional.layer_norm(written, written.shape[-1:]) @ along, "
                "bias[None]])"
            ),
            "a scale of its own",
        ),
        (
            SPLIT.format("torch.cat([centred / scale @ W_U[:, answer], b_U[[answer]]])"),
            "The contrast is missing",
        ),
        (SPLIT.format("-torch.cat([parts, bias[None]])"), "Swapped"),
        (SPLIT.format("torch.cat([parts + bias / len(parts), 0 * bias[None]])"), "the parts are"),
        (SPLIT.format("torch.cat([parts, 0 * bias[None]])"), "Your parts sum to"),
    ],
    "3.3": [
        (HEAD.format("written @ direction"), "the scale is forgotten"),
        (HEAD.format("written @ direction / scale"), "make a table"),
        (
            HEAD.format(
                'written / cache[f"blocks.{layer}.ln1.hook_scale"][:, -1].flatten(1)[:, :1]'
                " @ direction"
            ),
            "own LayerNorm",
        ),
        (HEAD.format("written / scale[0] @ direction"), "the first one's scale"),
        (HEAD.format("-(written / scale @ direction)"), "right but for its sign"),
        (
            HEAD.format(
                'cache["z", layer][:, 0, head] @ model.W_O[layer, head] / scale @ direction'
            ),
            "writes at BOS",
        ),
        (
            HEAD.format(
                'cache["z", layer][:, :, head] @ model.W_O[layer, head] / scale[:, None]'
                " @ direction"
            ),
            "only the last is read",
        ),
        (
            HEAD.format('(cache["attn_out", layer][:, -1] - model.b_O[layer]) / scale @ direction'),
            "all heads of the layer",
        ),
        (
            HEAD.format(
                'cache["z", layer][:, -1, head] @ model.W_O[layer, head - 1] / scale @ direction'
            ),
            "this head's z times its own",
        ),
        (HEAD.format("(written / scale @ direction).mean()"), "expected shape (2,)"),
    ],
    "3.4": [
        (SOURCE.format("looks"), "this is where it looks"),
        (SOURCE.format("out / scale @ direction"), "weigh the values"),
        (
            SOURCE.format(
                'out * cache["pattern", layer][:, head, :, -1, None] / scale @ direction'
            ),
            "keys and queries are swapped",
        ),
        (SOURCE.format("looks * effect"), "shared out by attention alone"),
        (SOURCE.format("looks[..., None] * out @ direction"), "the scale is forgotten"),
        (
            SOURCE.format(
                'looks[..., None] * out / cache["ln_final.hook_scale"].reshape(*looks.shape, 1)'
                " @ direction"
            ),
            "the scale of each source",
        ),
        (SOURCE.format("2 * (looks[..., None] * out / scale @ direction)"), "must sum to it"),
        (
            SOURCE.format("(looks[..., None] * out / scale @ direction).flip(1)"),
            "single positions are not",
        ),
    ],
    "3.5": [
        (UNSEEN.format("-1", "argmax"), "when the last position is silent"),
        (UNSEEN.format(":", "argmax"), "leave it as it was"),
        (UNSEEN.format(":-1", "argmin"), "before minus after"),
        ("def unseen_head(model, tokens, answer, contrast): return (n_layers, 0)", "swapped"),
        ("def unseen_head(model, tokens, answer, contrast): return 3", "Return (layer, head)"),
        ("def unseen_head(model, tokens, answer, contrast): return (3, 0)", "another"),
    ],
}
