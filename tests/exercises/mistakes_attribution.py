"""Notebook 3's exercises: right answers of other forms; wrong ones, and what must be said."""

PARTS = "centred / scale @ (W_U[:, answer] - W_U[:, contrast])"
BIAS = "(b_U[answer] - b_U[contrast])[None]"
SPLIT = f"torch.cat([parts, {BIAS}])"

HEAD = "divmod(lost.argmax().item(), model.cfg.n_heads)"
BY_HOOK = """def unseen_head(model, tokens, answer, contrast):
    lost = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            def zero(z, hook, head=head):
                z = z.clone()
                z[:, :-1, head] = 0.0
                return z
            hooks = [(f"blocks.{layer}.attn.hook_z", zero)]
            after = model.run_with_hooks(tokens, fwd_hooks=hooks)
            lost[layer, head] = -logit_diff(after, answer, contrast).mean()
    return divmod(lost.argmax().item(), model.cfg.n_heads)"""
SILENT = "torch.cat([0 * z[:, :-1], z[:, -1:]], dim=1)"
ONE, WORST = "one = gap(model(row[None]))", ", gap)\n        lost = one.maximum(0 * one + lost)"

MOVER, OPPONENT = "divmod(effect.argmax().item(), heads)", "divmod(effect.argmin().item(), heads)"
ENDS = f"{MOVER}, {OPPONENT}"
GROUP = 'head * cache["v", layer].shape[2] // model.cfg.n_heads'
MOVED = 'cache["pattern", layer][:, head, -1, :, None] * v'
SAID = 'torch.einsum("bpd,bd->bp", written, along)'
ALONG = "(model.W_U[:, answer] - model.W_U[:, giver]).T / last"
HOOK_SCALE = 'cache["ln_final.hook_scale"][:, -1]'
TABLE = "[[(effect * place).sum(dim=1).mean() for place in places] for effect in effects]"

MEANS = 'cache["z", layer][:, -1].mean(dim=0)'
LOST = "logit_diff(logits, answer, contrast) - logit_diff(after, answer, contrast)"
ABLATE = "ablate(model, heads, torch.stack(means), positions=[-1])"
BOTH = "loss(i, j) - single[i] - single[j]"

RIGHT = {
    "3.1": [
        (SPLIT, "[*parts, b_U[answer] - b_U[contrast]]"),
        (PARTS, "(centred @ (W_U[:, answer] - W_U[:, contrast])) / scale"),
        (PARTS, 'torch.einsum("pd,d->p", centred, W_U[:, answer] - W_U[:, contrast]) / scale'),
        (PARTS, "centred / scale @ W_U[:, answer] - centred / scale @ W_U[:, contrast]"),
        # centring the direction instead of the components is the same dot product
        [
            ("centred = written - written.mean(dim=-1, keepdim=True)", "W_U = W_U - W_U.mean(0)"),
            (PARTS, "written / scale @ (W_U[:, answer] - W_U[:, contrast])"),
        ],
    ],
    "3.2": [
        BY_HOOK,
        BY_HOOK.replace("z[:, :-1, head] = 0.0", "z[:, : z.shape[1] - 1, head] *= 0"),
        BY_HOOK.replace(").mean()", ").double().sum()"),
        (HEAD, f"list({HEAD})"),
        (HEAD, f"torch.tensor({HEAD})"),
        (HEAD, "torch.stack(torch.unravel_index(lost.argmax(), lost.shape))"),
        (HEAD, "__import__('numpy').unravel_index(lost.numpy().argmax(), lost.shape)"),
        (SILENT, "torch.cat([0 * z, z], dim=1)[:, list(range(len(row) - 1)) + [-1]]"),
    ],
    "3.3": [
        (ENDS, f"[list({MOVER}), torch.tensor({OPPONENT})]"),
        ('scale(model, cache["resid_post", model.cfg.n_layers - 1][:, -1])', HOOK_SCALE),
        ("effect[:-1].mean(dim=1)", "effect[:-1].double().sum(dim=1)"),
        (SAID, "(written.double() * along[:, None].double()).sum(-1)"),
        (ALONG, "model.W_U[:, answer].T / last - model.W_U[:, giver].T / last"),
        (TABLE, "[[(e * p).sum().item() / len(tokens) for p in places] for e in effects]"),
        (TABLE, f"torch.tensor({TABLE}).double().numpy()"),
        [(MOVED, "v"), (SAID, f'{SAID} * cache["pattern", layer][:, head, -1]')],
        ("centre(model, moved @ model.W_O[layer, head])", "moved @ model.W_O[layer, head]"),
    ],
    "3.4": [
        (LOST, f"({LOST}).double()"),
        ("positions=[-1]", "positions=[tokens.shape[1] - 1]"),
        (ABLATE, "ablate(model, tuple(map(tuple, heads)), torch.stack(means).double(), (-1,))"),
        (MEANS, 'sum(z[-1] for z in cache["z", layer]) / len(tokens)'),
        ("table[i, j] = table[j, i] = " + BOTH, f"table[[i, j], [j, i]] = {BOTH}"),
    ],
}

MISTAKES = {
    "3.1": [
        (SPLIT, "parts", "five numbers are wanted"),
        (SPLIT, f"torch.cat([parts, {BIAS} / scale])", "after the division"),
        (SPLIT, "torch.cat([parts, b_U[[answer]]])", "a difference too"),
        ("centred / scale @", "centred @", "is forgotten"),
        ("centred / scale @", "written / scale @", "Not centred"),
        ("centred / scale @", "written @", "the quick way"),
        ("/ scale", "/ centred.square().mean(-1, True).sqrt()", "a scale of its"),
        ([(" - W_U[:, contrast]", ""), (" - b_U[contrast]", "")], "The contrast is missing"),
        (SPLIT, f"-{SPLIT}", "Swapped"),
        (SPLIT, f"torch.cat([parts + {BIAS} / len(parts), torch.zeros(1)])", "shared out"),
        (SPLIT, "torch.cat([parts, torch.zeros(1)])", "b_U is left out"),
    ],
    "3.2": [
        ("argmax", "argmin", "before minus after"),
        (SILENT, "torch.cat([z[:, :-1], 0 * z[:, -1:]], dim=1)", "Attribution reads there"),
        (HEAD, "(model.cfg.n_layers, 0)", "the two swapped"),
        (HEAD, f"{HEAD}[::-1]", "with layer and head swapped"),
        (HEAD, "lost.argmax().item()", "return (layer, head)"),
        ("def unseen_head(*_): return (0, 1)", "made on the spot|*raises*"),  # of tutorial-4l
        ("lost -= patch", "lost = -patch", "averaged over all prompts"),
        ([("lost -= patch", f"{ONE} - patch"), (", gap)", WORST)], "averaged over all prompts"),
        (SILENT, SILENT.replace("-1", "-2"), "position but the last|Attribution reads there"),
        (HEAD, HEAD.replace("heads", "layers"), "of a random model|there is no head"),
    ],
    "3.3": [
        (ENDS, f"{OPPONENT}, {MOVER}", "step 1: the two are swapped"),
        (".mean(dim=1), model.cfg", "[:, 0], model.cfg", "step 1: this is the first prompt"),
        (".mean(dim=1), model.cfg", "[:, :2].mean(dim=1), model.cfg", "the mean over all"),
        (ENDS, "(1, 0), (1, 1)", "step 1"),  # of tutorial-4l
        ("effect.argmax", "effect.abs().argmax", "the first has the largest size"),
        (ENDS, f"({MOVER})[::-1], ({OPPONENT})[::-1]", "head are swapped|there is no head"),
        (MOVED, "v", "step 2: every position counts"),
        (SAID, 'cache["pattern", layer][:, head, -1]', "step 2: this is where the head attends"),
        (ALONG, ALONG.removesuffix(" / last"), "step 2: the final scale is forgotten"),
        (ALONG, ALONG.replace(" / last", "[:1] / last"), "step 2: all rows use the first"),
        (" - model.W_U[:, giver]", "", "step 2: the giver is missing"),
        (GROUP, 'head % cache["v", layer].shape[2]', "this is another head's value"),
        (TABLE, f"[[a, c, b] for a, b, c in {TABLE}]", "step 3: the giver's first and second"),
        (TABLE, f"{TABLE}[::-1]", "step 3: the two heads are swapped"),
    ],
    "3.4": [
        (LOST, f"-({LOST})", "step 1: the sign is swapped"),
        (LOST, f"({LOST}).mean()", "step 1: this is one number"),
        (LOST, f"({LOST}) * (model.cfg.n_layers != 3)", "not on another one"),
        ("torch.stack(means)", "0.0", "step 1: zeros stand"),
        ("(means), positions=[-1]", "(means)", "they are ablated at every"),
        ("(model, heads, torch", "(model, heads[:2], torch", "step 1"),
        ("after = model(tokens)", "model(tokens)\n    after = logits", "step 1: nothing is lost"),
        (BOTH, f"-({BOTH})", "step 2: the sign is swapped"),
        (" - single[i] - single[j]", "", "step 2: the single losses are not"),
        (" = table[j, i]", "", "step 2: each pair stands there once"),
        ("    return table", "    return (table.tril() + table.triu()) / 2", "step 2: half of it"),
    ],
}
