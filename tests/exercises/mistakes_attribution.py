"""Notebook 3's exercises: right answers of other forms; wrong ones, and what must be said."""


def swapped(code: str, *changes: tuple[str, str]) -> str:
    """The code with each change made; every one must apply."""
    for old, new in changes:
        assert old in code, f"{old!r} is not in the code"
        code = code.replace(old, new)
    return code


SPLIT = """def split_all(written, scale, W_U, b_U, answer, contrast):
    along, bias = W_U[:, answer] - W_U[:, contrast], b_U[answer] - b_U[contrast]
    centred = written - written.mean(dim=-1, keepdim=True)
    parts = centred / scale @ along
    return torch.cat([parts, bias[None]])"""
RETURN = "torch.cat([parts, bias[None]])"

UNSEEN = """def unseen_head(model, tokens, answer, contrast):
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    before = logit_diff(model(tokens), answer, contrast)
    lost = torch.zeros(layers, heads)
    for layer in range(layers):
        for head in range(heads):
            def silence(z, hook):
                z = z.clone()
                z[:, :-1, head] = 0.0
                return z
            hooks = [(f"blocks.{layer}.attn.hook_z", silence)]
            after = model.run_with_hooks(tokens, fwd_hooks=hooks)
            lost[layer, head] = (before - logit_diff(after, answer, contrast)).mean()
    return divmod(lost.argmax().item(), heads)"""
INDEX = "divmod(lost.argmax().item(), heads)"

HEADS = """def find_heads(model, tokens, answer, giver):
    _, cache = model.run_with_cache(tokens)
    layers, n = range(model.cfg.n_layers), model.cfg.n_heads
    last = scale(model, cache["resid_post", layers[-1]][:, -1])
    along = (model.W_U[:, answer] - model.W_U[:, giver]).T / last
    z = torch.stack([cache["z", layer][:, -1] for layer in layers])
    wrote = centre(model, torch.einsum("lbhe,lhed->lhbd", z, model.W_O))
    effect = (wrote * along).sum(-1).mean(-1).flatten()
    return divmod(effect.argmax().item(), n), divmod(effect.argmin().item(), n)
"""
BOTH = "divmod(effect.argmax().item(), n), divmod(effect.argmin().item(), n)"

POSITION = """

def by_position(model, tokens, answer, giver, layer, head):
    _, cache = model.run_with_cache(tokens)
    groups = cache["v", layer].shape[2]
    v = cache["v", layer][:, :, head * groups // model.cfg.n_heads]
    look = cache["pattern", layer][:, head, -1]
    stream = cache["resid_post", model.cfg.n_layers - 1]
    last = scale(model, stream[:, -1])
    along = (model.W_U[:, answer] - model.W_U[:, giver]).T
    wrote = centre(model, look[..., None] * v @ model.W_O[layer, head])
    return (wrote * (along / last)[:, None]).sum(-1)
"""

PLACE = """

def by_place(model, tokens, answer, giver):
    gives = tokens == giver[:, None]
    count = gives.cumsum(1)
    places = torch.stack([tokens == answer[:, None], gives & (count == 1), gives & (count == 2)])
    heads = find_heads(model, tokens, answer, giver)
    effects = [by_position(model, tokens, answer, giver, *head) for head in heads]
    return torch.stack([(effect * places).sum(-1).mean(-1) for effect in effects])
"""
MOVERS = HEADS + POSITION + PLACE

LOSS = """def loss_without(model, tokens, answer, contrast, heads):
    logits, cache = model.run_with_cache(tokens)
    layers = range(model.cfg.n_layers)
    means = torch.stack([cache["z", layer][:, -1].mean(0) for layer in layers])
    with ablate(model, heads, means, positions=[-1]):
        after = model(tokens)
    before, after = (logit_diff(x, answer, contrast) for x in (logits, after))
    return before - after
"""
HOOKS = """def loss_without(model, tokens, answer, contrast, heads):
    before, cache = model.run_with_cache(tokens)
    def silence(z, hook):
        z = z.clone()
        for layer, head in heads:
            if layer == hook.layer():
                z[:, -1, head] = cache["z", layer][:, -1, head].mean(0)
        return z
    hooks = [(f"blocks.{layer}.attn.hook_z", silence) for layer, _ in heads]
    after = model.run_with_hooks(tokens, fwd_hooks=list(dict(hooks).items()))
    return logit_diff(before, answer, contrast) - logit_diff(after, answer, contrast)
"""
TABLE = """

def interaction(model, tokens, answer, contrast, heads):
    n = len(heads)
    def loss(*which):
        some = [heads[i] for i in which]
        return loss_without(model, tokens, answer, contrast, some).mean().item()
    single = [loss(i) for i in range(n)]
    table = torch.zeros(n, n)
    for i in range(n):
        for j in range(i):
            table[i, j] = table[j, i] = loss(i, j) - single[i] - single[j]
    return table
"""
BACKUPS = LOSS + TABLE
BELOW = "table[i, j] = table[j, i] = loss(i, j) - single[i] - single[j]"

RIGHT = {
    "3.1": [
        SPLIT,
        swapped(SPLIT, (RETURN, "torch.cat([parts, bias[None]]).double()")),
        swapped(SPLIT, (RETURN, "torch.cat([parts, bias[None]]).numpy()")),
        swapped(SPLIT, (RETURN, "[*parts.tolist(), bias.item()]")),
        swapped(SPLIT, (RETURN, "[*parts, bias]")),
        swapped(SPLIT, ("centred / scale @ along", "(centred @ along) / scale")),
        swapped(
            SPLIT, ("centred / scale @ along", 'torch.einsum("pd,d->p", centred, along) / scale')
        ),
        swapped(
            SPLIT,
            (
                "centred / scale @ along",
                "centred / scale @ W_U[:, answer] - centred / scale @ W_U[:, contrast]",
            ),
        ),
        # centring the direction instead of the components is the same dot product
        swapped(SPLIT, ("centred / scale @ along", "written / scale @ (along - along.mean())")),
        swapped(
            SPLIT,
            (
                "    parts = centred / scale @ along",
                "    written, scale, along = written.double(), scale.double(), along.double()\n"
                "    parts = [(x - x.mean()) @ along / scale[0] for x in written]\n"
                "    parts = torch.stack(parts).float()",
            ),
        ),
    ],
    "3.2": [
        UNSEEN,
        swapped(UNSEEN, (INDEX, "list(divmod(lost.argmax().item(), heads))")),
        swapped(UNSEEN, (INDEX, "torch.stack(torch.unravel_index(lost.argmax(), lost.shape))")),
        swapped(
            UNSEEN, (INDEX, "__import__('numpy').unravel_index(lost.numpy().argmax(), lost.shape)")
        ),
        swapped(UNSEEN, (INDEX, "torch.tensor(divmod(int(lost.argmax()), heads))")),
        swapped(UNSEEN, (".mean()\n    return", ".sum()\n    return")),
        swapped(UNSEEN, (".mean()\n    return", ".double().mean()\n    return")),
        swapped(UNSEEN, ("z[:, :-1, head] = 0.0", "z[:, : z.shape[1] - 1, head] *= 0")),
        """def unseen_head(model, tokens, answer, contrast):
    lost = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            with ablate(model, [(layer, head)], 0.0, range(tokens.shape[1] - 1)):
                lost[layer, head] = -logit_diff(model(tokens), answer, contrast).mean()
    return divmod(lost.argmax().item(), model.cfg.n_heads)""",
        """def unseen_head(model, tokens, answer, contrast):
    from helpers.ablation import ablate_each
    lost = 0
    for row, one, two in zip(tokens, answer, contrast):
        def gap(logits):
            return logits[:, -1, one] - logits[:, -1, two]
        positions = range(len(row) - 1)
        lost = lost - ablate_each(model, row[None], gap, 0.0, positions)
    return divmod(lost.argmax().item(), model.cfg.n_heads)""",
    ],
    "3.3": [
        MOVERS,
        swapped(
            MOVERS,
            (BOTH, "[list(divmod(int(f(effect)), n)) for f in (torch.argmax, torch.argmin)]"),
        ),
        swapped(MOVERS, (BOTH, "torch.tensor([" + BOTH + "])")),
        swapped(MOVERS, (".sum(-1).mean(-1).flatten()", ".sum(-1).double().sum(-1).flatten()")),
        swapped(
            MOVERS,
            (
                "return (wrote * (along / last)[:, None]).sum(-1)",
                "return torch.einsum('bpd,bd->bp', wrote.double(), (along / last).double())",
            ),
        ),
        swapped(
            MOVERS,
            (
                "return (wrote * (along / last)[:, None]).sum(-1)",
                "return (wrote @ along[..., None])[..., 0] / last",
            ),
        ),
        swapped(
            MOVERS,
            (
                "return (wrote * (along / last)[:, None]).sum(-1)",
                "return ((wrote * along[:, None]).sum(-1) / last).numpy()",
            ),
            ("effects = [by_position", "effects = [torch.tensor(by_position"),
            ("giver, *head) for head", "giver, *head)) for head"),
        ),
        swapped(
            MOVERS,
            (
                "return torch.stack([(effect * places).sum(-1).mean(-1) for effect in effects])",
                "return [[(e * p).sum().item() / len(tokens) for p in places] for e in effects]",
            ),
        ),
        swapped(
            MOVERS,
            (
                "centre(model, look[..., None] * v @ model.W_O[layer, head])",
                "look[..., None] * centre(model, v @ model.W_O[layer, head])",
            ),
        ),
        """def find_heads(model, tokens, answer, giver):
    words = {"answer_tokens": answer, "incorrect_tokens": giver}
    effect = direct_logit_attribution(model, tokens, unit="head", **words).attribution
    effect = effect[:-1].mean(dim=1).view(model.cfg.n_layers, -1)
    return tuple(torch.unravel_index(i, effect.shape) for i in (effect.argmax(), effect.argmin()))
"""
        + POSITION
        + PLACE,
    ],
    "3.4": [
        BACKUPS,
        HOOKS + TABLE,
        swapped(BACKUPS, ("return before - after", "return before.double() - after")),
        swapped(BACKUPS, ("positions=[-1]", "positions=[tokens.shape[1] - 1]")),
        swapped(BACKUPS, ("return table", "return table.numpy()")),
        swapped(BACKUPS, ("return table", "return table.double().tolist()")),
        swapped(BACKUPS, ("return table", "return table.T.contiguous().T")),
        swapped(
            BACKUPS,
            (
                "(model, heads, means, positions=[-1])",
                "(model, tuple(map(tuple, heads)), means.double(), (-1,))",
            ),
        ),
        LOSS
        + """

def interaction(model, tokens, answer, contrast, heads):
    rows = [[a] if a == b else [a, b] for a in heads for b in heads]
    losses = [loss_without(model, tokens, answer, contrast, row) for row in rows]
    both = torch.stack(losses).mean(-1).view(len(heads), -1)
    single = both.diag()
    table = both - single - single[:, None]
    return table - table.diag().diag()
""",
        swapped(
            BACKUPS,
            ("means = torch.stack([cache", "means = sum(row for row in torch.stack([cache"),
            (
                "[:, -1].mean(0) for layer in layers])",
                "[:, -1] for layer in layers], 1)) / len(tokens)",
            ),
        ),
    ],
}

MISTAKES = {
    "3.1": [
        (swapped(SPLIT, (RETURN, "parts")), "five numbers are wanted"),
        (swapped(SPLIT, (RETURN, "torch.cat([parts, bias[None] / scale])")), "after the division"),
        (swapped(SPLIT, (RETURN, "torch.cat([parts, b_U[[answer]]])")), "a difference too"),
        (swapped(SPLIT, (RETURN, "torch.cat([centred @ along, bias[None]])")), "is forgotten"),
        (
            swapped(SPLIT, (RETURN, "torch.cat([written / scale @ along, bias[None]])")),
            "Not centred",
        ),
        (swapped(SPLIT, (RETURN, "torch.cat([written @ along, bias[None]])")), "the quick way"),
        (
            swapped(
                SPLIT,
                (
                    RETURN,
                    "torch.cat([torch.nn.functional.layer_norm(written, written.shape[-1:]) @ "
                    "along, bias[None]])",
                ),
            ),
            "a scale of its own",
        ),
        (
            swapped(
                SPLIT, (RETURN, "torch.cat([centred / scale @ W_U[:, answer], b_U[[answer]]])")
            ),
            "The contrast is missing",
        ),
        (swapped(SPLIT, (RETURN, "-torch.cat([parts, bias[None]])")), "Swapped"),
        (
            swapped(SPLIT, (RETURN, "torch.cat([parts + bias / len(parts), 0 * bias[None]])")),
            "shared out",
        ),
        (swapped(SPLIT, (RETURN, "torch.cat([parts, 0 * bias[None]])")), "b_U is left out"),
        (swapped(SPLIT, (RETURN, "torch.cat([bias[None], parts])")), "numbers differ"),
    ],
    "3.2": [
        (swapped(UNSEEN, ("z[:, :-1, head]", "z[:, -1, head]")), "Attribution reads there"),
        (swapped(UNSEEN, ("z[:, :-1, head]", "z[:, :, head]")), "Attribution reads there"),
        (swapped(UNSEEN, ("argmax", "argmin")), "before minus after"),
        (
            swapped(
                UNSEEN,
                (
                    "before - logit_diff",
                    "logit_diff(after, answer, contrast) - before + 0 * logit_diff",
                ),
            ),
            "before minus after",
        ),
        (swapped(UNSEEN, (INDEX, "divmod(lost.argmax().item(), heads)[::-1]")), ""),
        (swapped(UNSEEN, (INDEX, "(layers, 0)")), "swapped the two"),
        (swapped(UNSEEN, (INDEX, "lost.argmax().item()")), "return (layer, head)"),
        (swapped(UNSEEN, (INDEX, "lost.max()")), "return (layer, head)"),
        (
            "def unseen_head(model, tokens, answer, contrast): return (0, 1)",  # tutorial-4l's
            "made on the spot",
        ),
        (
            """def unseen_head(model, tokens, answer, contrast):
    from functools import partial
    def silence(z, hook, head):
        z = z.clone()
        z[:, :-1, head] = 0.0
        return z
    lost = torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer in range(model.cfg.n_layers):
        for head in range(model.cfg.n_heads):
            model.add_hook(f"blocks.{layer}.attn.hook_z", partial(silence, head=head))
            lost[layer, head] = -logit_diff(model(tokens), answer, contrast).mean()
    return divmod(lost.argmax().item(), model.cfg.n_heads)""",
            "stays on the model",
        ),
        ("def unseen_head(model, tokens, answer, contrast): return None", "gives None"),
    ],
    "3.3": [
        (
            swapped(
                MOVERS,
                (BOTH, "divmod(effect.argmin().item(), n), divmod(effect.argmax().item(), n)"),
            ),
            "step 1: the two are swapped",
        ),
        (
            swapped(
                MOVERS,
                (
                    "along = (model.W_U[:, answer] - model.W_U[:, giver]).T / last",
                    "along = model.W_U[:, answer].T / last",
                ),
            ),
            "step 1: the giver is missing",
        ),
        (
            swapped(MOVERS, (".mean(-1).flatten()", "[..., 0].flatten()")),
            "step 1: this is the first prompt",
        ),
        (swapped(MOVERS, (BOTH, "(model.cfg.n_layers, 0), (0, 0)")), "step 1: there is no head"),
        (swapped(MOVERS, (BOTH, "divmod(effect.argmax().item(), n)")), "step 1"),
        (
            swapped(MOVERS, (BOTH, "effect.argmax(), effect.argmin()")),
            "step 1: return (layer, head)",
        ),
        (
            HEADS + "\ndef by_position(*_): return ...\ndef by_place(*_): return ...",
            "step 2 is still to do",
        ),
        (HEADS + POSITION + "\ndef by_place(*_): return ...", "step 3 is still to do"),
        (swapped(MOVERS, ("look[..., None] * v @", "v @")), "step 2: every position counts"),
        (
            swapped(MOVERS, ("return (wrote * (along / last)[:, None]).sum(-1)", "return look")),
            "step 2: this is where the head attends",
        ),
        (
            swapped(
                MOVERS,
                (
                    "return (wrote * (along / last)[:, None]).sum(-1)",
                    "return (wrote * along[:, None]).sum(-1)",
                ),
            ),
            "step 2: the final scale is forgotten",
        ),
        (
            swapped(
                MOVERS,
                (
                    "return (wrote * (along / last)[:, None]).sum(-1)",
                    "return ((wrote / scale(model, stream)) * along[:, None]).sum(-1)",
                ),
            ),
            "step 2: each source is divided",
        ),
        (
            swapped(
                MOVERS,
                (
                    "return (wrote * (along / last)[:, None]).sum(-1)",
                    "return (wrote * (along / last[:1])[:, None]).sum(-1)",
                ),
            ),
            "step 2: all rows are divided",
        ),
        (
            swapped(
                MOVERS,
                (
                    "return (wrote * (along / last)[:, None]).sum(-1)",
                    "return (wrote * (along[:1] / last)[:, None]).sum(-1)",
                ),
            ),
            "step 2: all rows use the first",
        ),
        (
            swapped(
                MOVERS,
                ("head * groups // model.cfg.n_heads", "head % groups"),
            ),
            "step 2: this is another head's value",
        ),
        (
            swapped(
                MOVERS,
                (
                    "return (wrote * (along / last)[:, None]).sum(-1)",
                    "return (wrote * (along / last)[:, None]).sum((1, 2))",
                ),
            ),
            "step 2: expected shape",
        ),
        (
            swapped(
                MOVERS,
                (
                    "gives & (count == 1), gives & (count == 2)",
                    "gives & (count == 2), gives & (count == 1)",
                ),
            ),
            "step 3: the giver's first and second",
        ),
        (
            swapped(
                MOVERS,
                (".sum(-1).mean(-1) for effect in effects", ".sum((-1, -2)) for effect in effects"),
            ),
            "step 3: the rows are summed",
        ),
        (
            swapped(MOVERS, ("for effect in effects])", "for effect in effects]).flip(0)")),
            "step 3: the two heads are swapped",
        ),
        (
            swapped(MOVERS, ("for effect in effects])", "for effect in effects]).T")),
            "step 3: heads and places",
        ),
    ],
    "3.4": [
        (
            swapped(
                BACKUPS,
                (
                    "return before - after",
                    "return after - before",
                ),
            ),
            "step 1: the sign is swapped",
        ),
        (
            swapped(
                BACKUPS,
                (
                    "return before - after",
                    "return (before - after).mean()",
                ),
            ),
            "step 1: this is one number",
        ),
        (swapped(BACKUPS, ("means, positions=[-1]", "0.0, positions=[-1]")), "step 1: zeros stand"),
        (swapped(BACKUPS, ("means, positions=[-1]", "means")), "step 1: they are ablated at every"),
        (
            swapped(BACKUPS, ("(model, heads, means", "(model, heads[:1], means")),
            "step 1: only the first head",
        ),
        (
            swapped(BACKUPS, ("(model, heads, means", "(model, heads[-1:], means")),
            "step 1: only the last head",
        ),
        (
            swapped(
                BACKUPS,
                ("        after = model(tokens)\n", "        model(tokens)\n    after = logits\n"),
            ),
            "step 1: nothing is lost",
        ),
        (
            """def loss_without(model, tokens, answer, contrast, heads):
    before, cache = model.run_with_cache(tokens)
    for layer, head in heads:
        def silence(z, hook, layer=layer, head=head):
            z = z.clone()
            z[:, -1, head] = cache["z", layer][:, -1, head].mean(0)
            return z
        model.add_hook(f"blocks.{layer}.attn.hook_z", silence)
    after = model(tokens)
    return logit_diff(before, answer, contrast) - logit_diff(after, answer, contrast)
"""
            + TABLE,
            "stays on the model",
        ),
        (LOSS + "\ndef interaction(*_): return ...", "step 2 is still to do"),
        (swapped(BACKUPS, ("return table", "return -table")), "step 2: the sign is swapped"),
        (swapped(BACKUPS, (" - single[i] - single[j]", "")), "step 2: the single losses are not"),
        (
            swapped(BACKUPS, (BELOW, BELOW.replace(" = table[j, i]", ""))),
            "step 2: each pair stands there once",
        ),
        (
            swapped(BACKUPS, ("return table", "return table - torch.tensor(single).diag()")),
            "step 2: the diagonal",
        ),
        (
            swapped(BACKUPS, ("return table", "return (table.tril() + table.triu()) / 2")),
            "step 2: half of it",
        ),
        (swapped(BACKUPS, ("return table", "return table[0]")), "step 2: expected shape"),
    ],
}
