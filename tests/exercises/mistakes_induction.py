"""Notebook 4's exercises: right answers of other forms; wrong ones, and what must be said."""

DIAGONAL = "pattern.diagonal(1 - n, dim1=-2, dim2=-1)[..., -n:].mean(dim=-1)"
EACH = "pattern[:, :, n + j, j + 1] for j in range(1, n + 1)"

ABOVE = "scores > null.max()"
BY_ORDER = """def above_null(scores, null):
    order = scores.flatten().argsort(descending=True).tolist()
    return [divmod(i, scores.shape[1]) for i in order if scores.flatten()[i] > null.max()]"""
BY_MASK = """def above_null(scores, null):
    places = (scores > null.max()).nonzero()
    return places[scores[scores > null.max()].argsort(descending=True)]"""

SECOND = "[:, n + 1 :].mean()"
HOOK = "(f'blocks.{layer}.attn.hook_z', lambda z, hook: z.index_fill(2, torch.tensor(head), 0))"
WITHOUT = "ablate(model, [(layer, head)])"

STREAM = 'cache["resid_post", 0][:, 1]'
WRITES = "stream @ ov.A @ ov.B @ model.W_U"
SHARE = "((logits > own).sum(dim=1) < k).float().mean()"
TEXT = "torch.cat([bos[None], tokens])[None]"
TILED = "model.W_V[place[0], place[1] % model.W_V.shape[1]]"
VALUE = "model.W_V[place[0], place[1] * model.W_V.shape[1] // model.cfg.n_heads]"

GROUPS = "shared.repeat_interleave(n_heads // len(shared), dim=0)"
FORMULA = "(qk @ ov.T).norm() / (qk.norm() * ov.norm())"
KEY = "expand(weights.W_K[layer], n_heads)[head]"

RIGHT = {
    "4.1": [
        ("[..., -n:]", "[..., 2:]"),
        (DIAGONAL, f"sum({EACH}) / n"),
        (DIAGONAL, "pattern.numpy().diagonal(1 - n, -2, -1)[..., -n:].mean(-1)"),
        (DIAGONAL, "pattern[..., range(n + 1, 2 * n + 1), range(2, n + 2)].mean(-1)"),
        (DIAGONAL, "torch.einsum('bhjj->bh', pattern[:, :, n + 1 :, 2 : n + 2]) / n"),
    ],
    "4.2": [
        BY_ORDER,
        BY_MASK,
        f"{BY_MASK}.tolist()",
        f"{BY_MASK}.numpy()",
        ("tuple(place)", "(place[0], place[1])"),
        ("null.max()", "null.amax((0, 1, 2))"),
        (ABOVE, "scores.double() > null.double().max()"),
        (ABOVE, "scores > max(null.flatten().tolist())"),
    ],
    "4.3": [
        (WITHOUT, f"model.hooks(fwd_hooks=[{HOOK}])"),
        (SECOND, "[:, n + 1 :].mean(1).mean()"),
        (SECOND, "[:, 1 - n :].double().mean()"),
        (WITHOUT, "ablate(model, [(layer, head)], 0.0)"),
        """def costs(model, tokens, n):
    from helpers.ablation import ablate_each
    def loss(row):
        return lambda logits: -next_token_log_probs(logits, row.expand(len(logits), -1))[
            :, n + 1 :].mean(1)
    return sum(ablate_each(model, row[None], loss(row)) - loss(row)(model(row[None]))
               for row in tokens) / len(tokens)""",
    ],
    "4.4": [
        ".item()",
        (STREAM, "cache['resid_post', 0][:, -1].clone()"),
        (WRITES, "stream.double() @ ov.A.double() @ ov.B.double() @ model.W_U.double()"),
        (WRITES, f"stream @ {VALUE} @ model.W_O[place] @ model.W_U"),
        (WRITES, "(stream @ model.OV[place] @ model.W_U).AB"),
        ("(logits > own).sum(dim=1)", "(-logits).argsort(1).argsort(1).gather(1, tokens[:, None])"),
    ],
    "4.5": [
        (GROUPS, "torch.stack([shared[i * len(shared) // n_heads] for i in range(n_heads)])"),
        (GROUPS, "shared[:, None].expand(-1, n_heads // len(shared), -1, -1).flatten(0, 1)"),
        (FORMULA, "((qk @ ov.T).square().sum() / qk.square().sum() / ov.square().sum()).sqrt()"),
        (FORMULA, "torch.linalg.matrix_norm(ov @ qk.T) / qk.norm() / ov.norm()"),
        (FORMULA, "float((qk.double() @ ov.double().T).norm() / qk.norm() / ov.norm())"),
        (FORMULA, "torch.einsum('qh,kh,ek,de', w_q, w_k, w_o, w_v).norm() / qk.norm() / ov.norm()"),
    ],
}

MISTAKES = {
    "4.1": [
        ("1 - n, dim1", "-n, dim1", "duplicate-token cell"),
        ("1 - n, dim1", "2 - n, dim1", "two positions after"),
        ("1 - n, dim1", "-1, dim1", "previous-token cell"),
        ("[..., -n:]", "", "with BOS as a key"),
        ("[..., -n:]", "[..., 1:]", "last query of the first copy"),
        ("[..., -n:]", "[..., -n:-1]", "The last query is left out"),
        (DIAGONAL, f"sum({EACH})", "This is a sum"),
        (DIAGONAL, f"sum({EACH}) / n".replace("n + j, j + 1", "j + 1, n + j"), "are swapped"),
        (DIAGONAL, DIAGONAL.replace("1 - n", "-4").replace("-n:", "-5:"), "numbers differ"),
    ],
    "4.2": [
        ("null.max()", "0.3", "bare threshold of 0.3"),
        ("null.max()", "null.max() + 0.005", "what is above it is not"),
        ("null.max()", "null.amax(dim=0)", "its own null only"),
        ("null.max()", "null.mean(dim=0).max()", "averaged before the maximum"),
        ("null.max()", "null.quantile(0.99)", "a mean, a quantile"),
        ("null.max()", "null[:, 0].max()", "whichever row, layer"),
        ("scores >", "scores >=", "exactly the null's highest"),
        ("-scores[place]", "scores[place]", "turned round"),
        ("-scores[place]", "place", "wrong order"),
        (BY_ORDER.replace("divmod(i, scores.shape[1])", "i"), "a flat index"),
        ("def above_null(scores, null): return [(2, 1), (1, 3), (2, 0)]", "read from `null`"),
    ],
    "4.3": [
        ("loss() - plain", "loss()", "subtract the loss of the plain run"),
        ("loss() - plain", "plain - loss()", "The sign is turned"),
        (SECOND, ".mean()", "over the whole row"),
        (SECOND, "[:, n:].mean()", "first token is counted"),
        (SECOND, "[:, :n].mean()", "This is the first copy"),
        (SECOND, "[:, n + 1 :].sum(1).mean()", "This is a sum"),
        (SECOND, "[:, 10:].mean()", "not on another one"),
        (WITHOUT, "ablate(model, [(layer, head)], positions=[-1])", "The last predicts nothing"),
        ("return grid", "return grid * 0", "Nothing changes"),
        ("model.cfg.n_layers", "4", "stopped on another one|expected shape"),
    ],
    "4.4": [
        ([("_resid_post", "_resid_pre"), ('"resid_post', '"resid_pre')], "the embedding"),
        (STREAM, STREAM[:-2] + "0]", "step 1: this is position 0"),
        ([("(rows,", "(tokens[:, None],"), (STREAM, STREAM[:-2] + "0]")], "BOS is missing"),
        ([("blocks.0.", "blocks.1."), ('post", 0]', 'post", 1]')], "the stream after block 1"),
        (STREAM, f"model.run_with_cache({TEXT})[1]['resid_post', 0][0, 1:]", "in one text"),
        (WRITES, f"stream @ {TILED} @ model.W_O[place] @ model.W_U", "values are shared"),
        (WRITES, "stream @ model.W_U", "step 2: this is the stream through W_U"),
        (WRITES, "stream @ ov.A @ ov.B", "step 2: this is what the head writes"),
        ("< k", "< k - 1", "off by one"),
        (".float().mean()", ".float().sum()", "step 3: this is a number of tokens"),
    ],
    "4.5": [
        (GROUPS, "shared.repeat(n_heads // len(shared), 1, 1)", "step 1: the groups alternate"),
        (" / (qk.norm() * ov.norm())", "", "step 2: not divided"),
        ("qk @ ov.T", "ov @ qk", "step 2: this is Q-composition"),
        ("qk @ ov.T", "qk @ ov", "step 2: W_OV is not transposed"),
        ("qk @ ov.T", "qk.T @ ov", "step 2: this joins the later head's queries"),
        ("(qk.norm() * ov.norm())", "(w_q.norm() * w_k.norm() * w_v.norm() * w_o.norm())", "W_QK"),
        (KEY, "weights.W_K[layer, head % len(weights.W_K[layer])]", "the later head's key"),
        (KEY, KEY.replace("[head]", "[1]"), "step 3"),
        ("torch.zeros(layer,", "torch.zeros(len(weights.W_Q),", "step 3: all layers are there"),
    ],
}
