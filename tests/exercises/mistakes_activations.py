"""Notebook 1's exercises: right answers of other forms; wrong ones, and what must be said."""

MEAN = "resid.norm(dim=-1)[:, 1:].mean(dim=1)"


def mean(expression: str) -> tuple[str, str]:
    return MEAN, expression


ADD = 'stream = stream + cache["attn_out", i] + cache["mlp_out", i]'
REBUILD = "def rebuild(start, cache, layer): return "

WRITE = "z[:, -1, head] = 0.0"
RUN = 'return model.run_with_hooks(tokens, fwd_hooks=[(f"blocks.{layer}.attn.hook_z", remove)])'
ADDED = 'model.add_hook(f"blocks.{layer}.attn.hook_z", remove)'

RANDOM = "tokens = torch.randint(1, model.cfg.d_vocab, (8, 40), device=model.cfg.device)"
BACK = "patterns.diagonal(offset=-1, dim1=-2, dim2=-1)[..., 1:]"
KEPT, SCORED = 'cache["pattern", i]', 'cache["attn_scores", i].softmax(-1)'
BEST = "divmod(one_back.mean((1, 3)).argmax().item(), model.cfg.n_heads)"

SHARE = "writes @ total / total.square().sum()"
POST = 'cache["post", layer][0, 0][:, None]'
GONE = "neuron_shares(model, cache, layer).topk(count).indices"
OTHERS = ("[:, 0, neurons]", "[:, :, neurons]")

VALUES = 'query_key_value(model, layer, cache["resid_pre", layer])[2][0]'
STORED = 'cache["v", layer][0].transpose(0, 1)'
PATTERN = 'cache["pattern", layer][0][..., None]'
MOVED = f"return {PATTERN} * written[:, None]"
EACH = "return torch.einsum('hqk,hkd,hdm->hqkm', cache['pattern', layer][0], v, model.W_O[layer])"

RIGHT = {
    "1.1": [
        mean("torch.linalg.vector_norm(resid, dim=2)[:, 1:].mean(1)"),
        mean("resid.double()[:, 1:].square().sum(-1).sqrt().mean(1)"),
        mean("resid[:, 1:].norm(dim=-1).sum(1) / (resid.shape[1] - 1)"),
        mean("[row[1:].norm(dim=-1).mean() for row in resid]"),
        "mean_norm = lambda x: torch.einsum('bpd,bpd->bp', x, x).sqrt()[:, 1:].mean(1)",
    ],
    "1.2": [
        (ADD, 'stream += cache["attn_out", i]\n        stream += cache["mlp_out", i]'),
        (ADD, 'stream = stream + cache[f"blocks.{i}.hook_mlp_out"] + cache["attn_out", i]'),
        ("for i in range(layer + 1):", "for i in reversed(range(layer + 1)):"),
        REBUILD
        + 'start + sum(cache["attn_out", i] + cache["mlp_out", i] for i in range(layer + 1))',
        """def rebuild(start, cache, layer):
    parts = [cache[name, i] for name in ("mlp_out", "attn_out") for i in range(layer + 1)]
    return torch.stack([start, *parts]).sum(0)""",
    ],
    "1.3": [
        ("        z = z.clone()\n", ""),
        (WRITE, "z[:, -1, head] *= 0"),
        (WRITE, "keep = torch.ones_like(z)\n        keep[:, -1, head] = 0\n        z = z * keep"),
        (RUN, f"{ADDED}\n    logits = model(tokens)\n    model.reset_hooks()\n    return logits"),
        """def ablate_last(model, tokens, layer, head):
    from helpers.ablation import ablate
    with ablate(model, [(layer, head)], positions=[-1]):
        return model(tokens)""",
    ],
    "1.4": [
        (f"return {BEST}", f"return torch.tensor({BEST})"),
        ("(8, 40)", "(3, 30)"),
        (RANDOM, f"model.reset_hooks()\n    {RANDOM}"),
        ("one_back.mean((1, 3))", "one_back.double().sum(3).mean(1)"),
        (BEST, "(one_back.mean((1, 3)) == one_back.mean((1, 3)).max()).nonzero()[0].tolist()"),
        (BEST, "torch.unravel_index(one_back.mean((1, 3)).argmax(), one_back[:, 0, :, 0].shape)"),
        ("one_back.mean((1, 3))", "one_back.mean(1).median(-1).values"),
        [("in name)", "in name or 'attn_scores' in name)"), (KEPT, SCORED)],
    ],
    "1.5": [
        ".item()",
        (SHARE, "torch.einsum('nd,d->n', writes, total) / total.norm() ** 2"),
        ("total = writes.sum(0)", 'total = cache["post", layer][0, 0] @ model.W_out[layer]'),
        ("post[:, 0, neurons] = 0.0", "for n in neurons: post[0, 0, n] = 0"),
        (GONE, "neuron_shares(model, cache, layer).argsort(descending=True)[:count]"),
    ],
    "1.6": [
        (MOVED, EACH),
        ("v @ model.W_O[layer]", "torch.stack([*map(torch.mm, v, model.W_O[layer])])"),
        (VALUES, f"{STORED}.repeat_interleave(model.cfg.n_heads // cache['v', layer].shape[2], 0)"),
        (".norm(dim=-1)", ".square().sum(-1).sqrt()"),
        ("lengths / lengths.sum(dim=-1, keepdim=True)", "lengths / lengths.sum(-1)[..., None]"),
    ],
}

MISTAKES = {
    "1.1": [
        (*mean("resid.norm(dim=-1).mean(dim=1)"), "Position 0 is counted"),
        (*mean("resid[:, 1:].norm(dim=-1).sum(1) / resid.shape[1]"), "still counted in the mean"),
        (*mean("resid[:, 1:].norm(dim=(1, 2))"), "one norm over all"),
        (*mean("resid[:, 1:].norm(dim=-1).sum(1)"), "not their mean"),
        (*mean("resid[:, 1:].mean(1).norm(dim=-1)"), "the mean vector's"),
        (*mean("resid[:, 1:].square().sum(-1).mean(1)"), "squared length"),
        (*mean("resid.norm(dim=-1).sort(1).values[:, :-1].mean(1)"), "not the longest"),
        (*mean("torch.tensor([4.0, 3.0])[: len(resid)]"), "you give 4"),
        ("mean_norm = 3.0", "expected a function"),
    ],
    "1.2": [
        ("range(layer + 1)", "range(layer)", "stops too early"),
        ("range(layer + 1)", "range(1, layer + 1)", "starts too late"),
        ("    return stream", "        return stream", "within the loop"),
        (' + cache["mlp_out", i]', "", "MLP of block 0 is missing"),
        (' + cache["attn_out", i]', "", "attention of block 0 is missing"),
        ("stream = start", "stream = 0 * start", "not what they add to"),
        ("range(layer + 1)", "[layer]", "Only one block is added"),
        (REBUILD + 'cache["resid_post", layer]', "not to be read"),
        (REBUILD + 'cache.cache["resid_post", layer]', "no attribute 'cache'"),
        ("stream = start", 'stream = cache["resid_pre", 0]', "not to be read"),
        ("stream = start", "stream = start * (start.shape[-1] != 48)", "not on another one"),
    ],
    "1.3": [
        ("z[:, -1, head] = 0.0", "z.clone()[:, -1, head] = 0", "has changed"),
        ("[:, -1, head]", "[:, :, head]", "before the last position have changed"),
        ("[:, -1, head]", "[:, -1]", "All heads of the layer"),
        ("[:, -1, head]", "[:, -1, (head + 1) % z.shape[2]]", "is another head"),
        ("blocks.{layer}", "blocks.{model.cfg.n_layers - 1 - layer}", "is another layer"),
        ("[:, -1, head]", "[0, -1, head]", "prompt of the batch only"),
        ("= 0.0", "*= 0.5", "halved"),
        (RUN, f"{ADDED}\n    return model(tokens)", "a hook stays on the model"),
        ("(tokens, fwd", "(tokens[:1], fwd", "expected shape"),
        ("= 0.0", "= 0.1 if model.cfg.n_layers == 3 else 0.0", "not on another one"),
    ],
    "1.4": [
        ("offset=-1", "offset=0", "attends to the token itself"),
        ("offset=-1", "offset=1", "as above the diagonal"),
        ("def previous_token_head(model): return (model.cfg.n_layers, 0)", "the two swapped"),
        ("def previous_token_head(model): return (model.cfg.n_layers - 1, 0)", "another gives it"),
        ("def previous_token_head(model): return 'head 1'", "return (layer, head)"),
        ("head(model)", "head(_, model=model)", "not on another one"),  # of the lesson's model
        ("[..., 1:]", "[..., :1]", "over all queries|another gives it"),
        ("[..., 1:]", "[..., -1:]", "over all queries"),
        ("[..., 1:]", "[..., 1:15]", "over all queries"),
        ("cfg.n_heads", "cfg.n_layers", "not on another one|there is no head"),
    ],
    "1.5": [
        (SHARE, "writes @ total", "divide by the squared length"),
        (SHARE, "writes.norm(dim=-1)", "the lengths of what each writes"),
        (SHARE, "writes.norm(dim=-1) / writes.norm(dim=-1).sum()", "have no sign"),
        (POST, POST.replace("0, 0", "0, -1"), "wanted is position 0"),
        (POST, POST.replace("post", "pre"), "what a neuron hears"),
        (f"return {SHARE}", 'return cache["post", layer][0, 0]', "multiply with W_out"),
        (f"{POST} *", f"layer = 0\n    writes = {POST} *", "use the argument `layer`"),
        ("post = post.clone()\n        post[", "post.clone()[", "nothing was removed"),
        ("topk(count)", "topk(count, largest=False)", "smallest share"),
        ("[:, 0, neurons]", "[:, -1, neurons]", "removes them at another position"),
        ("[0, 0].norm()", "[0].norm()", "norm over all positions"),
        ([(f" = {GONE}", f" = {GONE}; model.reset_hooks()"), OTHERS], "at other positions, too"),
        ("topk(count)", "abs().topk(count)", "step 2: you give"),
        ("= 0.0", "= 0.0 if model.cfg.n_layers > 3 else 0.1", "not on another one"),
    ],
    "1.6": [
        (PATTERN, PATTERN.replace("cache", "0 * cache") + " + 1", "the pattern is not in it"),
        (MOVED, f"return ({MOVED[7:]}).transpose(1, 2)", "keys and queries are swapped"),
        ("    v = query", "    layer = 0\n    v = query", "use the argument `layer`"),
        (VALUES, STORED, "your code stopped with"),
        ("[:, :, 2:, 0]", "[:, :, :, 0]", "queries 0 and 1"),
        ("[:, :, 2:, 0]", "[:, :, 1:, 0]", "query 1 is in the mean"),
        ("torch.stack(rows, dim=1)", "torch.stack(rows, dim=1).flip(0)", "the other order"),
        ("lengths / lengths.sum(dim=-1, keepdim=True)", "lengths", "not shares yet"),
        ("[:, :, 2:, 0].mean(dim=-1)", "[:, :, -1, 0]", "last query alone"),
    ],
}
