"""Answers to notebook 4's exercises, as code: right ones in many forms, and typical wrong ones with
what the learner must be told."""


def swapped(code: str, old: str, new: str) -> str:
    """`code` with one thing changed, which must be there."""
    assert code.count(old) == 1, (code.count(old), old)
    return code.replace(old, new)


def _cells(body: str) -> str:
    return f"def induction_cells(pattern, n):\n    return {body}"


def _above(limit: str, order: str = "-scores[place]", test: str = ">") -> str:
    return f"""def above_null(scores, null):
    found = [tuple(place) for place in (scores {test} {limit}).nonzero().tolist()]
    return sorted(found, key=lambda place: {order})"""


COSTS = """def costs(model, tokens, n):
    def loss():
        return -next_token_log_probs(model(tokens), tokens)[:, n + 1 :].mean()

    plain, grid = loss(), torch.zeros(model.cfg.n_layers, model.cfg.n_heads)
    for layer, head in torch.ones_like(grid).nonzero().tolist():
        with ablate(model, [(layer, head)]):
            grid[layer, head] = loss() - plain
    return grid
"""
BY_HOOK = """def costs(model, tokens, n):
    def loss(hooks=()):
        logits = model.run_with_hooks(tokens, fwd_hooks=list(hooks))
        log_probs = logits[:, n + 1 : -1].log_softmax(-1)
        return -log_probs.gather(-1, tokens[:, n + 2 :, None]).mean().item()

    rows = []
    for layer in range(model.cfg.n_layers):
        rows.append([])
        for head in range(model.cfg.n_heads):
            def hook_z(z, hook):
                z = z.clone()
                z[:, :, head] = 0
                return z

            rows[-1].append(loss([(f"blocks.{layer}.attn.hook_z", hook_z)]) - loss())
    return rows
"""
FIRST = """def after_first_block(model, tokens):
    bos = model.to_tokens("a", prepend_bos=True)[0, 0]
    rows = torch.stack([bos.expand(len(tokens)), tokens], dim=1)
    _, cache = model.run_with_cache(rows, names_filter="blocks.0.hook_resid_post")
    return cache["resid_post", 0][:, 1]
"""
WRITTEN = """def written(model, place, stream):
    return stream @ model.OV[place].A @ model.OV[place].B @ model.W_U
"""
SCORE = """def copying_score(model, place, tokens, k):
    logits = written(model, place, after_first_block(model, tokens))
    own = logits.gather(1, tokens[:, None])
    return (1 + (logits > own).sum(dim=1) <= k).float().mean()
"""
COPYING = FIRST + WRITTEN + SCORE

EXPAND = """def expand(shared, n_heads):
    return shared.repeat_interleave(n_heads // len(shared), dim=0)
"""
PAIR = """def k_composition(w_q, w_k, w_v, w_o):
    qk, ov = w_q @ w_k.T, w_v @ w_o
    return (qk @ ov.T).norm() / (qk.norm() * ov.norm())
"""
INTO = """def into(weights, place):
    layer, head = place
    n_heads = weights.W_Q.shape[1]
    w_q, w_k = weights.W_Q[place], expand(weights.W_K[layer], n_heads)[head]
    grid = torch.zeros(layer, n_heads)
    for i in range(layer):
        w_v = expand(weights.W_V[i], n_heads)
        for j in range(n_heads):
            grid[i, j] = k_composition(w_q, w_k, w_v[j], weights.W_O[i, j])
    return grid
"""
COMPOSITION = EXPAND + PAIR + INTO

RIGHT = {
    "4.1": [
        _cells("pattern.diagonal(1 - n, dim1=-2, dim2=-1)[..., 2:].mean(-1)"),
        _cells("sum(pattern[:, :, n + j, j + 1] for j in range(1, n + 1)) / n"),
        _cells("pattern.double().diagonal(1 - n, -2, -1)[..., -n:].mean(-1)"),
        _cells("pattern.numpy().diagonal(1 - n, -2, -1)[..., -n:].mean(-1)"),
        _cells("pattern.diagonal(1 - n, -2, -1)[..., -n:].mean(-1).tolist()"),
        _cells("pattern[..., range(n + 1, 2 * n + 1), range(2, n + 2)].mean(-1)"),
        _cells("torch.einsum('bhjj->bh', pattern[:, :, n + 1 :, 2 : n + 2]) / n"),
        _cells(
            "[[sum(h[n + j][j + 1] for j in range(1, n + 1)) / n for h in row] for row in pattern]"
        ),
        _cells(
            "(pattern.transpose(-1, -2)[..., 2 : n + 2, n + 1 :] * torch.eye(n)).sum((-1, -2)) / n"
        ),
    ],
    "4.2": [
        """def above_null(scores, null):
    order = scores.flatten().argsort(descending=True).tolist()
    return [divmod(i, scores.shape[1]) for i in order if scores.flatten()[i] > null.max()]""",
        """def above_null(scores, null):
    found = []
    for layer in range(scores.shape[0]):
        for head in range(scores.shape[1]):
            if scores[layer, head] > null.max():
                found.append((scores[layer, head].item(), layer, head))
    return [(layer, head) for _, layer, head in sorted(found, reverse=True)]""",
        """def above_null(scores, null):
    places = (scores > null.max()).nonzero()
    return places[scores[scores > null.max()].argsort(descending=True)]""",
        """def above_null(scores, null):
    places = (scores > null.max()).nonzero()
    return places[scores[scores > null.max()].argsort(descending=True)].tolist()""",
        """def above_null(scores, null):
    places = (scores > null.max()).nonzero()
    return places[scores[scores > null.max()].argsort(descending=True)].numpy()""",
        """def above_null(scores, null):
    values, limit = scores.double().numpy(), null.double().numpy().max()
    found = [(i, j) for i, row in enumerate(values) for j, v in enumerate(row) if v > limit]
    return tuple(sorted(found, key=lambda place: values[place], reverse=True))""",
        """def above_null(scores, null):
    return sorted([[i, j] for i in range(len(scores)) for j in range(len(scores[0]))
                   if scores[i, j] > null.amax((0, 1, 2))], key=lambda p: -scores[p[0], p[1]])""",
        """def above_null(scores, null):
    count = int((scores > null.max()).sum())
    return [divmod(i, scores.shape[1]) for i in scores.flatten().topk(count).indices.tolist()]""",
        swapped(_above("null.max()"), "tuple(place)", "(place[0], place[1])"),
    ],
    "4.3": [
        BY_HOOK,
        swapped(COSTS, "return grid", "return grid.double().numpy()"),
        swapped(COSTS, "return grid", "return grid.tolist()"),
        swapped(COSTS, "[:, n + 1 :].mean()", "[:, n + 1 :].mean(1).mean()"),
        swapped(COSTS, "[:, n + 1 :].mean()", "[:, 1 - n :].double().mean()"),
        swapped(COSTS, "ablate(model, [(layer, head)])", "ablate(model, [(layer, head)], 0.0)"),
        swapped(
            COSTS,
            "return -next_token_log_probs(model(tokens), tokens)[:, n + 1 :].mean()",
            "return torch.nn.functional.cross_entropy("
            "model(tokens)[:, n + 1 : -1].flatten(0, 1), tokens[:, n + 2 :].flatten())",
        ),
        """def costs(model, tokens, n):
    from helpers.ablation import ablate_each
    def loss(row):
        return lambda logits: -next_token_log_probs(logits, row.expand(len(logits), -1))[
            :, n + 1 :].mean(1)
    return sum(ablate_each(model, row[None], loss(row)) - loss(row)(model(row[None]))
               for row in tokens) / len(tokens)""",
        swapped(
            COSTS,
            "torch.ones_like(grid).nonzero().tolist()",
            "__import__('itertools').product(range(model.cfg.n_layers), range(model.cfg.n_heads))",
        ),
    ],
    "4.4": [
        FIRST
        + """def written(model, place, stream):
    layer, head = place
    shared = model.cfg.n_heads // model.W_V.shape[1]
    return stream @ model.W_V[layer, head // shared] @ model.W_O[place] @ model.W_U
"""
        + SCORE,
        FIRST
        + """def written(model, place, stream):
    return torch.einsum('td,de,ev->tv', stream, model.OV[place].AB, model.W_U)
"""
        + SCORE,
        FIRST
        + """def written(model, place, stream):
    ov = model.OV[place]
    return (stream.double() @ ov.A.double() @ ov.B.double() @ model.W_U.double())
"""
        + SCORE,
        swapped(COPYING, "@ model.W_U\n", "@ model.W_U + 0\n"),
        swapped(
            COPYING,
            'return cache["resid_post", 0][:, 1]',
            "return cache['resid_post', 0][:, -1].clone()",
        ),
        swapped(COPYING, ".float().mean()", ".float().mean().item()"),
        swapped(COPYING, ".float().mean()", ".numpy().mean()"),
        FIRST
        + WRITTEN
        + """def copying_score(model, place, tokens, k):
    top = written(model, place, after_first_block(model, tokens)).topk(k).indices
    return sum(int(t in row) for t, row in zip(tokens, top)) / len(tokens)
""",
        FIRST
        + WRITTEN
        + """def copying_score(model, place, tokens, k):
    logits = written(model, place, after_first_block(model, tokens))
    order = logits.argsort(dim=1, descending=True)
    return ((order == tokens[:, None]).int().argmax(1) < k).double().mean()
""",
        """def after_first_block(model, tokens):
    out = []
    for token in tokens.tolist():
        row = torch.tensor([[model.to_tokens('a', prepend_bos=True)[0, 0].item(), token]])
        out.append(model.run_with_cache(row)[1]['blocks.0.hook_resid_post'][0, 1])
    return torch.stack(out)
"""
        + WRITTEN
        + SCORE,
    ],
    "4.5": [
        """def expand(shared, n_heads):
    return torch.stack([shared[head * len(shared) // n_heads] for head in range(n_heads)])
"""
        + PAIR
        + INTO,
        """def expand(shared, n_heads):
    return [shared[head // (n_heads // len(shared))] for head in range(n_heads)]
"""
        + PAIR
        + INTO,
        """def expand(shared, n_heads):
    size = n_heads // shared.shape[0]
    return shared[:, None].expand(-1, size, -1, -1).reshape(n_heads, *shared.shape[1:])
"""
        + PAIR
        + INTO,
        EXPAND
        + """def k_composition(w_q, w_k, w_v, w_o):
    qk, ov = (w_q @ w_k.T).double(), (w_v @ w_o).double()
    return ((qk @ ov.T).square().sum() / qk.square().sum() / ov.square().sum()).sqrt()
"""
        + INTO,
        EXPAND
        + """def k_composition(w_q, w_k, w_v, w_o):
    qk, ov = w_k @ w_q.T, w_v @ w_o
    return torch.linalg.matrix_norm(ov @ qk) / torch.linalg.matrix_norm(qk) / ov.norm()
"""
        + INTO,
        EXPAND
        + """def k_composition(w_q, w_k, w_v, w_o):
    import numpy as np
    qk, ov = (w_q @ w_k.T).numpy(), (w_v @ w_o).numpy()
    return float(np.linalg.norm(qk @ ov.T) / np.linalg.norm(qk) / np.linalg.norm(ov))
"""
        + INTO,
        EXPAND
        + """def k_composition(w_q, w_k, w_v, w_o):
    product = torch.einsum('qh,kh,ek,de->qd', w_q, w_k, w_o, w_v)
    return (product.norm() / (w_q @ w_k.T).norm() / (w_v @ w_o).norm()).item()
"""
        + INTO,
        EXPAND
        + """def k_composition(w_q, w_k, w_v, w_o):
    from transformer_lens import FactoredMatrix
    from transformer_lens.utilities import composition_scores
    return composition_scores(FactoredMatrix(w_v, w_o), FactoredMatrix(w_k, w_q.T))
"""
        + INTO,
        EXPAND
        + PAIR
        + """def into(weights, place):
    layer, head = place
    heads = weights.W_Q.shape[1]
    k = expand(weights.W_K[layer], heads)[head]
    return [[float(k_composition(weights.W_Q[place], k, expand(weights.W_V[i], heads)[j],
             weights.W_O[i, j])) for j in range(heads)] for i in range(layer)]
""",
    ],
}

MISTAKES = {
    "4.1": [
        (_cells("pattern.diagonal(-n, -2, -1)[..., -n:].mean(-1)"), "duplicate-token cell"),
        (_cells("pattern.diagonal(2 - n, -2, -1)[..., -n:].mean(-1)"), "two positions after"),
        (_cells("pattern.diagonal(-1, -2, -1)[..., -n:].mean(-1)"), "previous-token cell"),
        (_cells("pattern.diagonal(1 - n, -2, -1).mean(-1)"), "with BOS as a key"),
        (
            _cells("pattern.diagonal(1 - n, -2, -1)[..., 1:].mean(-1)"),
            "last query of the first copy",
        ),
        (
            _cells("sum(pattern[:, :, n + j, j + 1] for j in range(1, n)) / (n - 1)"),
            "The last query is left out",
        ),
        (
            _cells("pattern.diagonal(1 - n, -2, -1)[..., 3:].mean(-1)"),
            "The first query is left out",
        ),
        (_cells("sum(pattern[:, :, n + j, j + 1] for j in range(1, n + 1))"), "This is a sum"),
        (_cells("pattern.diagonal(1 - n, -2, -1)[..., -n:].amax(-1)"), "the best query"),
        (
            _cells("sum(pattern[:, :, j + 1, n + j] for j in range(1, n + 1)) / n"),
            "query and key are swapped",
        ),
        (
            _cells("pattern.diagonal(1 - n, -2, -1)[..., -n:].mean((0, -1))"),
            "expected shape (2, 4)",
        ),
        (_cells("pattern.diagonal(-4, -2, -1)[..., -5:].mean(-1)"), "numbers differ"),
    ],
    "4.2": [
        (_above("0.3"), "bare threshold of 0.3"),
        (_above("null.amax(dim=0)"), "its own null only"),
        (_above("null.mean(dim=0).max()"), "averaged before the maximum"),
        (_above("null[0].max()"), "first row"),
        (_above("null.mean()"), "the null's mean"),
        (_above("null.mean() + 2 * null.std()"), "bell curve"),
        (_above("null.max()", test=">="), "exactly the null's highest"),
        (_above("null.max()", order="scores[place]"), "turned round"),
        (_above("null.max()", order="place"), "wrong order"),
        (_above("0.35"), "not read from `null`"),
        (
            """def above_null(scores, null):
    order = scores.flatten().argsort(descending=True)
    return [i for i in order.tolist() if scores.flatten()[i] > null.max()]""",
            "a flat index",
        ),
        (
            """def above_null(scores, null):
    order = scores.flatten().argsort(descending=True).tolist()
    return [divmod(i, 4)[::-1] for i in order if scores.flatten()[i] > null.max()]""",
            "Layer and head are swapped",
        ),
        ("def above_null(scores, null): return [(2, 1), (1, 3), (2, 0)]", "not read from `null`"),
    ],
    "4.3": [
        (swapped(COSTS, "loss() - plain", "loss()"), "subtract the loss of the plain run"),
        (swapped(COSTS, "loss() - plain", "plain - loss()"), "The sign is turned"),
        (swapped(COSTS, "[:, n + 1 :].mean()", ".mean()"), "over the whole row"),
        (swapped(COSTS, "[:, n + 1 :].mean()", "[:, n:].mean()"), "first token is counted"),
        (
            swapped(COSTS, "[:, n + 1 :].mean()", "[:, n + 2 :].mean()"),
            "second token of the second",
        ),
        (swapped(COSTS, "[:, n + 1 :].mean()", "[:, :n].mean()"), "This is the first copy"),
        (swapped(COSTS, "[:, n + 1 :].mean()", "[:, n + 1 :].sum(1).mean()"), "This is a sum"),
        (swapped(COSTS, "[:, n + 1 :].mean()", "[0, n + 1 :].mean()"), "first row alone"),
        (
            swapped(
                COSTS,
                "ablate(model, [(layer, head)])",
                "ablate(model, [(layer, head)], positions=[-1])",
            ),
            "The last predicts nothing here",
        ),
        (swapped(COSTS, "return grid", "return grid * 0"), "Nothing changes"),
        (swapped(COSTS, "return grid", "return grid[0]"), "expected shape"),
        ("def costs(model, tokens, n): return 0, 2", "expected shape"),
        (
            """def costs(model, tokens, n):
    def hook_z(z, hook):
        z = z.clone()
        z[:, :, 0] = 0
        return z
    model.add_hook("blocks.0.attn.hook_z", hook_z)
    return torch.zeros(model.cfg.n_layers, model.cfg.n_heads)""",
            "a hook stays on the model",
        ),
    ],
    "4.4": [
        (
            swapped(COPYING, "blocks.0.hook_resid_post", "blocks.0.hook_resid_pre").replace(
                '"resid_post", 0]', '"resid_pre", 0]'
            ),
            "step 1: this is the embedding",
        ),
        (swapped(COPYING, "0][:, 1]\n", "0][:, 0]\n"), "step 1: this is position 0"),
        (
            swapped(COPYING, "blocks.0.hook_resid_post", "blocks.1.hook_resid_post").replace(
                '"resid_post", 0]', '"resid_post", 1]'
            ),
            "step 1: this is the stream after block 1",
        ),
        (
            """def after_first_block(model, tokens):
    bos = model.to_tokens("a", prepend_bos=True)[0, :1]
    return model.run_with_cache(torch.cat([bos, tokens])[None])[1]["resid_post", 0][0, 1:]
"""
            + WRITTEN
            + SCORE,
            "step 1: the tokens stand in one text",
        ),
        (
            FIRST
            + """def written(model, place, stream):
    layer, head = place
    group = head % model.W_V.shape[1]
    return stream @ model.W_V[layer, group] @ model.W_O[place] @ model.W_U
"""
            + SCORE,
            "step 2: values are shared",
        ),
        (
            FIRST + "def written(model, place, stream): return stream @ model.W_U\n" + SCORE,
            "step 2: this is the stream through W_U",
        ),
        (swapped(COPYING, " @ model.W_U\n", "\n"), "step 2: this is what the head writes"),
        (
            FIRST
            + """def written(model, place, stream):
    return stream @ model.OV[place[0], 0].A @ model.OV[place[0], 0].B @ model.W_U
"""
            + SCORE,
            "step 2: this is head 0",
        ),
        (
            FIRST + "def written(model, place, stream): return ...\n" + SCORE,
            "step 2 is still to do",
        ),
        (swapped(COPYING, "<= k", "< k"), "step 3: off by one"),
        (swapped(COPYING, "<= k", "<= 5"), "step 3: this is the top 1, or the top 5"),
        (
            swapped(COPYING, ".float().mean()", ".float().sum()"),
            "step 3: this is a number of tokens",
        ),
        (swapped(COPYING, "logits > own", "logits < own"), "step 3: this counts from the lowest"),
        (swapped(COPYING, "<= k", "> k"), "step 3: this is the share outside"),
    ],
    "4.5": [
        (
            "def expand(shared, n_heads): return shared.repeat(n_heads // len(shared), 1, 1)\n"
            + PAIR
            + INTO,
            "step 1: the groups alternate",
        ),
        ("def expand(shared, n_heads): return shared\n" + PAIR + INTO, "step 1: expected shape"),
        (swapped(COMPOSITION, " / (qk.norm() * ov.norm())", ""), "step 2: not divided"),
        (swapped(COMPOSITION, "(qk @ ov.T)", "(ov @ qk)"), "step 2: this is Q-composition"),
        (swapped(COMPOSITION, "(qk @ ov.T)", "(qk @ ov)"), "step 2: W_OV is not transposed"),
        (
            swapped(COMPOSITION, "(qk @ ov.T)", "(qk.T @ ov)"),
            "step 2: this joins the later head's queries",
        ),
        (
            swapped(COMPOSITION, "(qk.norm() * ov.norm())", "(qk.norm() * ov.norm())").replace(
                "return (qk @ ov.T).norm() / (qk.norm() * ov.norm())",
                "return ((qk @ ov.T).norm() / (qk.norm() * ov.norm())) ** 2",
            ),
            "step 2: this is the squared score",
        ),
        (
            swapped(
                COMPOSITION,
                "(qk.norm() * ov.norm())",
                "(w_q.norm() * w_k.norm() * w_v.norm() * w_o.norm())",
            ),
            "step 2: divide by the sizes of W_QK and W_OV",
        ),
        (
            EXPAND + "def k_composition(w_q, w_k, w_v, w_o): return ...\n" + INTO,
            "step 2 is still to do",
        ),
        (
            swapped(
                COMPOSITION,
                "expand(weights.W_K[layer], n_heads)[head]",
                "weights.W_K[layer, head % len(weights.W_K[layer])]",
            ),
            "step 3: the later head's key matrix",
        ),
        (
            swapped(COMPOSITION, "w_v[j]", "weights.W_V[i, j % len(weights.W_V[i])]"),
            "step 3: the earlier heads' value matrices",
        ),
        (
            swapped(
                COMPOSITION, "torch.zeros(layer, n_heads)", "torch.zeros(len(weights.W_Q), n_heads)"
            ),
            "step 3: all layers are there",
        ),
        (swapped(COMPOSITION, "return grid", "return grid.T"), "the first axis is the layer"),
        (
            EXPAND + PAIR + "def into(weights, place): return weights.QK[place]\n",
            "AttributeError",
        ),
    ],
}
