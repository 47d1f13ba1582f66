"""Typical wrong answers to notebook 4's exercises: code, and what the learner must be told."""


def _rows(first: str, second: str, cat: str = "[start, first, second]") -> str:
    return f"""def repeat_rows(ids, bos, n, batch):
    start = torch.full((batch, 1), bos)
    first = {first}
    second = {second}
    return torch.cat({cat}, dim=1)"""


_DRAWN = "ids[torch.randint(len(ids), (batch, n))]"


def _loss(queries: str, targets: str, result: str = "-picked.mean(dim=1)") -> str:
    return f"""def copy_loss(logits, tokens, n):
    log_probs = logits.log_softmax(dim=-1)
    picked = log_probs[:, {queries}].gather(-1, tokens[:, {targets}, None])[..., 0]
    return {result}"""


def _above(limit: str, order: str = "-scores[place]", test: str = ">") -> str:
    return f"""def above_null(scores, null):
    found = [tuple(place) for place in (scores {test} {limit}).nonzero().tolist()]
    return sorted(found, key=lambda place: {order})"""


def _search(score: str, result: str = "divmod(costs.argmax().item(), model.cfg.n_heads)") -> str:
    return f"""def costliest(model):
    tokens = repeated_tokens(model, 20, 4, seed=1)
    _, cache = model.run_with_cache(tokens)

    def loss(layer, head):
        def silence(z, hook):
            z = z.clone()
            z[:, :, head] = 0.0
            return z

        hooks = [(f"blocks.{{layer}}.attn.hook_z", silence)]
        logits = model.run_with_hooks(tokens, fwd_hooks=hooks)
        return -next_token_log_probs(logits, tokens)[:, 21:].mean()

    layers, heads = range(model.cfg.n_layers), range(model.cfg.n_heads)
    costs = torch.tensor([[{score} for head in heads] for layer in layers])
    return {result}"""


MISTAKES = {
    "4.1": [
        (_rows(_DRAWN, "first", "[first, second]"), "BOS is missing"),
        (_rows(_DRAWN, "first", "[start, first, start, second]"), "One token too many"),
        (_rows(_DRAWN, _DRAWN), "drawn anew"),
        (_rows(_DRAWN, "first.flip(1)"), "in another order"),
        (
            _rows("ids[torch.randint(len(ids), (1, n))].expand(batch, n)", "first"),
            "All rows have the same block",
        ),
        (
            _rows("ids[torch.randint(len(ids), (batch, 1))].expand(batch, n)", "first"),
            "one token again and again",
        ),
        (_rows("torch.randint(len(ids), (batch, n))", "first"), "These are places in `ids`"),
        (_rows("ids[torch.randint(len(ids) - 1, (batch, n))]", "first"), "already left out"),
        (_rows(_DRAWN, "first", "[start, first.repeat_interleave(2, dim=1)]"), "A A B B"),
        (_rows(_DRAWN, "first", "[first[:, :1], first, second]"), "must hold BOS"),
    ],
    "4.2": [
        (
            """def induction_cells(pattern, n):
    return pattern.diagonal(-n, -2, -1)[..., -n:].mean(-1)""",
            "duplicate-token cell",
        ),
        (
            """def induction_cells(pattern, n):
    return pattern.diagonal(2 - n, -2, -1)[..., -n:].mean(-1)""",
            "two positions after",
        ),
        (
            """def induction_cells(pattern, n):
    return pattern.diagonal(-1, -2, -1)[..., -n:].mean(-1)""",
            "previous-token cell",
        ),
        (
            "def induction_cells(pattern, n): return pattern.diagonal(1 - n, -2, -1).mean(-1)",
            "with BOS as a key",
        ),
        (
            """def induction_cells(pattern, n):
    return pattern.diagonal(1 - n, -2, -1)[..., 1:].mean(-1)""",
            "last query of the first copy",
        ),
        (
            """def induction_cells(pattern, n):
    return sum(pattern[:, :, n + j, j + 1] for j in range(1, n)) / (n - 1)""",
            "left out",
        ),
        (
            """def induction_cells(pattern, n):
    return sum(pattern[:, :, n + j, j + 1] for j in range(1, n + 1))""",
            "This is a sum",
        ),
        (
            """def induction_cells(pattern, n):
    return sum(pattern[:, :, j + 1, n + j] for j in range(1, n + 1)) / n""",
            "query and key are swapped",
        ),
        (
            """def induction_cells(pattern, n):
    return pattern.diagonal(1 - n, -2, -1)[..., -n:].mean((0, -1))""",
            "expected shape (2, 4)",
        ),
        (
            """def induction_cells(pattern, n):
    return pattern.diagonal(-4, -2, -1)[..., -5:].mean(-1)""",
            "use the argument `n`",
        ),
    ],
    "4.3": [
        (_loss("n + 2 :", "n + 2 :"), "Off by one: position i predicts"),
        (_loss("n : 2 * n - 1", "n + 2 :"), "the other way"),
        (_loss("n : -1", "n + 1 :"), "first token is counted"),
        (_loss(":-1", "1:"), "over the whole row"),
        (_loss("n + 1 : -1", "n + 2 :", "picked.mean(dim=1)"), "the sign is missing"),
        (_loss("n + 1 : -1", "n + 2 :", "-picked.sum(dim=1)"), "This is a sum"),
        (_loss("n + 1 : -1", "n + 2 :", "-picked.mean(dim=1) / 0.693147"), "in bits"),
        (_loss("n + 1 : -1", "n + 2 :", "-picked.exp().mean(dim=1).log()"), "each probability"),
        (_loss("n + 1 : -1", "n + 2 :", "-picked.mean()"), "expected shape (2,)"),
        (
            """def copy_loss(logits, tokens, n):
    picked = logits[:, n + 1 : -1].gather(-1, tokens[:, n + 2 :, None])[..., 0]
    return -picked.mean(dim=1)""",
            "These are logits",
        ),
    ],
    "4.4": [
        (_above("0.3"), "bare threshold of 0.3"),
        (_above("null.amax(dim=0)"), "its own null only"),
        (_above("null.mean(dim=0).max()"), "averaged before the maximum"),
        (_above("null[0].max()"), "first row"),
        (_above("null.mean()"), "the null's mean"),
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
    ],
    "4.5": [
        (
            _search('induction_scores(cache["pattern", layer], 20)[head]'),
            "has the highest induction score",
        ),
        (_search("-loss(layer, head)"), "does not grow"),
        (_search("loss(layer, head)", "costs.argmax().item()"), "a flat index"),
        (
            _search("loss(layer, head)", "divmod(costs.argmax().item(), model.cfg.n_heads)[::-1]"),
            "are layer and head swapped",
        ),
        ("def costliest(model): return 99, 0", "There is no head"),
        ("def costliest(model): return 1, 1", "another head"),
    ],
}
