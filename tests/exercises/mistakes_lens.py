"""Answers to notebook 5's exercises, as code: right ones in many forms, and typical wrong ones with
what the learner must be told."""

BENEATH = "def beneath(rows): return rows - rows.mean(1, keepdim=True)\n"
CHOSEN = """
def chosen(rows, answers):
    ids = answers.unique()
    return ids[beneath(rows)[..., ids].argmax(-1)]
"""
SHARE = (
    "def right_share(rows, answers): return (chosen(rows, answers) == answers).float().mean(1)\n"
)
LUCK = """
def luck(rows, answers):
    picks = chosen(rows, answers)
    dealt = [answers[torch.randperm(len(answers))] for _ in range(1000)]
    return torch.stack([(picks == d).float().mean(1) for d in dealt]).quantile(0.95, dim=0)
"""
HABIT = BENEATH + CHOSEN + SHARE + LUCK

KL = """
def decoded_kl(model, streams, output):
    decoded = model.unembed(model.ln_final(streams)).log_softmax(-1)
    return (output.exp() * (output - decoded)).sum(-1).mean()
"""
TRAIN = """
def train(model, streams, output):
    width = streams.shape[-1]
    with torch.enable_grad():
        A = torch.zeros(width, width, requires_grad=True)
        b = torch.zeros(width, requires_grad=True)
        optimizer = torch.optim.Adam([A, b], lr=1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            decoded_kl(model, streams + streams @ A + b, output).backward(inputs=[A, b])
            optimizer.step()
    A, b = A.detach(), b.detach()
    return lambda x: x + x @ A + b
"""
THREE = """
def three_lenses(model, training, held_out):
    streams, output = training
    dealt = output.flatten(0, 1)[torch.randperm(len(output) * output.shape[1])].view_as(output)
    lenses = [lambda x: x, train(model, streams, output), train(model, streams, dealt)]
    return [decoded_kl(model, lens(held_out[0]), held_out[1]) for lens in lenses]
"""
TUNED = KL + TRAIN + THREE


def swapped(code: str, old: str, new: str) -> str:
    """`code` with one thing changed, which must be there."""
    assert code.count(old) == 1, (code.count(old), old)
    return code.replace(old, new)


RIGHT = {
    "5.1": [
        "def decode_stream(model, stream): return model.ln_final(stream) @ model.W_U + model.b_U",
        """def decode_stream(model, stream):
    x = model.ln_final(stream)
    return torch.einsum('bpd,dv->bpv', x, model.W_U) + model.b_U""",
        """def decode_stream(model, stream):
    rows = [model.unembed(model.ln_final(stream[:, p : p + 1])) for p in range(stream.shape[1])]
    return torch.cat(rows, 1)""",
        """def decode_stream(model, stream):
    from helpers.architecture import centre, scale
    return centre(model, stream) / scale(model, stream) @ model.W_U + model.b_U""",
        """def decode_stream(model, stream):
    from helpers.architecture import centre, scale
    x, c = stream.double(), centre(model, stream).double()
    return c / scale(model, x) @ model.W_U.double() + model.b_U.double()""",
        "def decode_stream(model, stream): return model.unembed(model.ln_final(stream)).numpy()",
        "def decode_stream(model, stream): return model.unembed(model.ln_final(stream)).tolist()",
        """def decode_stream(model, stream):
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    tokens = torch.zeros(stream.shape[:2], dtype=torch.long)
    return model.run_with_hooks(tokens, fwd_hooks=[(last, lambda resid, hook: stream)])""",
        """def decode_stream(model, stream):
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    tokens = torch.zeros(stream.shape[:2], dtype=torch.long)
    with model.hooks(fwd_hooks=[(last, lambda resid, hook: stream)]):
        return model(tokens)""",
        """def decode_stream(model, stream):
    from transformer_lens.tools.analysis import logit_readout
    return logit_readout(model, stream).values""",
    ],
    "5.2": [
        """def rank_of(rows, answer):
    ranked = rows.sort(1, descending=True).values
    return [row.tolist().index(value) + 1 for row, value in zip(ranked, rows[:, answer])]""",
        "def rank_of(rows, answer): return (rows > rows[:, [answer]]).sum(1) + 1",
        "def rank_of(rows, answer): return 1 + (rows.T > rows[:, answer]).sum(0)",
        "def rank_of(rows, answer): return ((rows > rows[:, answer, None]).sum(1) + 1).double()",
        "def rank_of(rows, answer): return ((rows > rows[:, answer, None]).sum(1) + 1).numpy()",
        "def rank_of(rows, answer): return ((rows > rows[:, answer, None]).sum(1) + 1).tolist()",
        "def rank_of(rows, answer): return [sum(x > row[answer] for x in row) + 1 for row in rows]",
        """def rank_of(rows, answer):
    out = torch.empty(len(rows))
    for i, row in enumerate(rows):
        out[i] = 1 + (row - row[answer] > 0).sum()
    return out""",
        "def rank_of(rows, answer): return rows.shape[1] - (rows <= rows[:, [answer]]).sum(1) + 1",
    ],
    "5.3": [
        """def settled_after(ranks):
    out = []
    for column in ranks.T:
        row = len(column)
        while row and column[row - 1] == 1:
            row -= 1
        out.append(row)
    return out""",
        """def settled_after(ranks):
    missed = (ranks != 1).int()
    steps = torch.arange(1, len(ranks) + 1)[:, None]
    return (missed * steps).max(0).values""",
        """def settled_after(ranks):
    return ((ranks != 1).flip(0).cumsum(0) > 0).sum(0)""",
        """def settled_after(ranks):
    stay = (ranks == 1).flip(0).long().cumprod(0).sum(0)
    return (len(ranks) - stay).float()""",
        """def settled_after(ranks):
    stay = (ranks == 1).flip(0).cumprod(0).sum(0)
    return (len(ranks) - stay).numpy()""",
        """def settled_after(ranks):
    columns = ranks.T.tolist()
    return [max([i + 1 for i, r in enumerate(c) if r != 1], default=0) for c in columns]""",
        """def settled_after(ranks):
    import numpy as np
    missed = np.asarray(ranks) != 1
    return np.where(missed.any(0), len(missed) - missed[::-1].argmax(0), 0)""",
        """def settled_after(ranks):
    stays = torch.stack([(ranks[row:] == 1).all(0) for row in range(len(ranks))])
    return len(ranks) - stays.sum(0)""",
    ],
    "5.4": [f"early_prompt = {word!r} * {n}" for word in (" very", " no") for n in (8, 10, 12, 14)],
    "5.5": [
        HABIT,
        swapped(HABIT, "rows.mean(1, keepdim=True)", "rows.mean(1)[:, None]"),
        swapped(HABIT, "rows - rows.mean(1, keepdim=True)", "(rows - rows.mean(1, True)).double()"),
        swapped(
            HABIT,
            "return rows - rows.mean(1, keepdim=True)",
            "return torch.stack([r - r.mean(0) for r in rows])",
        ),
        swapped(HABIT, ".float().mean(1)\n\ndef luck", ".double().mean(1).numpy()\n\ndef luck"),
        swapped(HABIT, ".float().mean(1)\n\ndef luck", ".float().mean(1).tolist()\n\ndef luck"),
        swapped(HABIT, "answers.unique()", "torch.tensor(sorted(set(answers.tolist())))"),
        BENEATH
        + """
def chosen(rows, answers):
    ids = set(answers.tolist())
    rows = beneath(rows)
    return torch.stack([
        torch.tensor([max(ids, key=lambda i: float(p[i])) for p in row]) for row in rows
    ])
"""
        + SHARE
        + """
def luck(rows, answers):
    import numpy as np
    rng, picks, a = np.random.default_rng(0), chosen(rows, answers).numpy(), answers.numpy()
    shares = [(picks == rng.permutation(a)).mean(1) for _ in range(1000)]
    return np.quantile(shares, 0.95, axis=0)
""",
        swapped(
            HABIT,
            ".quantile(0.95, dim=0)",
            ".sort(0).values[950]",
        ),
    ],
    "5.6": [
        TUNED,
        swapped(TUNED, "range(200)", "range(400)"),
        swapped(TUNED, "torch.optim.Adam([A, b], lr=1e-2)", "torch.optim.AdamW([A, b], lr=2e-2)"),
        swapped(
            TUNED,
            "return (output.exp() * (output - decoded)).sum(-1).mean()",
            (
                "return torch.nn.functional.kl_div("
                "decoded, output, reduction='none', log_target=True).sum(-1).mean()"
            ),
        ),
        swapped(TUNED, "    return [decoded_kl", "    return torch.stack([decoded_kl").replace(
            "for lens in lenses]", "for lens in lenses])"
        ),
        swapped(TUNED, "for lens in lenses]", "for lens in lenses]").replace(
            "return [decoded_kl(model, lens(held_out[0]), held_out[1])",
            "return [float(decoded_kl(model, lens(held_out[0]), held_out[1]))",
        ),
        swapped(TUNED, "for _ in range(200):", "for step in range(300):").replace(
            "decoded_kl(model, streams + streams @ A + b, output)",
            "decoded_kl(model, (streams + streams @ A + b)[step % 2 :: 2], output[step % 2 :: 2])",
        ),
        swapped(
            TUNED, "return lambda x: x + x @ A + b", "return lambda x: (x + x @ A + b).double()"
        ).replace("model.ln_final(streams)", "model.ln_final(streams.float())"),
        swapped(
            TUNED,
            "dealt = output.flatten(0, 1)[torch.randperm(len(output) * output.shape[1])]"
            ".view_as(output)",
            "dealt = output.flip(0, 1)",
        ),
        KL
        + """
def train(model, streams, output):
    # least squares onto the head's own inverse: another way to the same map
    with torch.enable_grad():
        M = torch.nn.Linear(streams.shape[-1], streams.shape[-1])
        with torch.no_grad():
            M.weight.copy_(torch.eye(streams.shape[-1]))
            M.bias.zero_()
        optimizer = torch.optim.Adam(M.parameters(), lr=1e-2)
        for _ in range(200):
            optimizer.zero_grad()
            decoded_kl(model, M(streams), output).backward(inputs=list(M.parameters()))
            optimizer.step()
    return lambda x: M(x).detach()
"""
        + THREE,
    ],
}

MISTAKES = {
    "5.1": [
        ("def decode_stream(model, stream): return model.unembed(stream)", "norm is missing"),
        (
            """def decode_stream(model, stream):
    return (stream - stream.mean(-1, keepdim=True)) @ model.W_U + model.b_U""",
            "norm is missing",
        ),
        (
            "def decode_stream(model, stream): return model.ln_final(stream) @ model.W_U",
            "bias is missing",
        ),
        (
            """def decode_stream(model, stream):
    return model.unembed(model.ln_final(stream)).softmax(-1)""",
            "These are probabilities",
        ),
        (
            """def decode_stream(model, stream):
    return model.unembed(model.ln_final(stream)).log_softmax(-1)""",
            "These are log-probabilities",
        ),
        (
            """def decode_stream(model, stream):
    scale = (stream.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    return stream / scale @ model.W_U + model.b_U""",
            "LayerNorm centres first",
        ),
        (  # right on one model only
            """def decode_stream(model, stream):
    centred = stream - stream.mean(-1, keepdim=True)
    scale = (centred.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    return centred / scale @ model.W_U + model.b_U""",
            "RMSNorm does not centre",
        ),
        (
            """def decode_stream(model, stream):
    from helpers.architecture import centre
    own = centre(model, stream)
    return own / own.square().mean().sqrt() @ model.W_U + model.b_U""",
            "One scale for the whole prompt",
        ),
        (
            """def decode_stream(model, stream):
    from helpers.architecture import centre
    own = centre(model, stream)
    return own / stream.std(-1, keepdim=True) @ model.W_U + model.b_U""",
            "divides by one less",
        ),
        ("def decode_stream(model, stream): return model.ln_final(stream)", "expected shape"),
        (
            """def decode_stream(model, stream):
    model.add_hook("ln_final.hook_in", lambda x, hook: x)
    return model.unembed(model.ln_final(stream))""",
            "leaves a hook on the model",
        ),
        (
            """W, c = model.W_U, model.b_U
def decode_stream(model, stream): return model.ln_final(stream) @ W + c""",
            "your code stopped with",
        ),
    ],
    "5.2": [
        (
            "def rank_of(rows, answer): return (rows > rows[:, answer, None]).sum(1)",
            "Off by one",
        ),
        (
            "def rank_of(rows, answer): return (rows < rows[:, answer, None]).sum(1) + 1",
            "from the wrong end",
        ),
        (
            "def rank_of(rows, answer): return rows.argsort(1, descending=True)[:, answer] + 1",
            "the place at which the token",
        ),
        (
            "def rank_of(rows, answer): return rows.argsort(1, descending=True)[:, answer]",
            "the place at which the token",
        ),
        (
            "def rank_of(rows, answer): return (rows > rows[:, 2, None]).sum(1) + 1",
            "use the argument `answer`",
        ),
        (
            "def rank_of(rows, answer): return (rows >= rows[:, answer, None]).sum(1)",
            "stand beside it",
        ),
        (
            "def rank_of(rows, answer): return (rows > rows[:, answer, None]).sum() + 1",
            "expected shape (3,)",
        ),
        ("def rank_of(rows, answer): return [2, 1, 6]", "use the argument `answer`"),
        ("def rank_of(rows, answer): (rows > rows[:, answer, None]).sum(1) + 1", "`return`"),
    ],
    "5.3": [
        (
            "def settled_after(ranks): return (ranks == 1).int().argmax(0)",
            "the first row with rank 1",
        ),
        (
            """def settled_after(ranks):
    missed = (ranks != 1).int()
    last = len(ranks) - 1 - missed.flip(0).argmax(0)
    return last * missed.any(0)""",
            "Off by one",
        ),
        (
            "def settled_after(ranks): return (ranks == 1).flip(0).cumprod(0).sum(0)",
            "how many rows the last stretch has",
        ),
        ("def settled_after(ranks): return (ranks != 1).sum(0)", "wherever they stand"),
        ("def settled_after(ranks): return (ranks != 1).any(1).sum(0)", "expected shape (5,)"),
        (
            """def settled_after(ranks):
    missed = (ranks != 1).int()
    last = len(ranks) - 1 - missed.flip(0).argmax(0)
    return (last + 1) % len(ranks) * missed.any(0)""",
            "never settled",
        ),
        (
            """def settled_after(ranks):
    return len(ranks) - (ranks != 1).int().flip(0).argmax(0)""",
            "means 0 blocks",
        ),
        ("def settled_after(ranks): return [4, 8, 0, 8, 5]", "expected shape (2,)"),
    ],
    "5.4": [
        ("early_prompt = 'The capital of Italy is'", "The two must be"),
        ("early_prompt = 'The Eiffel Tower is in the city of'", "The two must be"),
        ("early_prompt = ' very very'", "use at least 5"),
        ("early_prompt = ' very'", "use at least 5"),
        ("early_prompt = ['very'] * 8", "as a string"),
        ("early_prompt = model.to_tokens(' very' * 8)", "as a string"),
        ("early_prompt = None", "gives None"),
        ("early_prompt = ' dog dog dog dog dog dog'", "not sure itself"),
    ],
    "5.5": [
        (
            swapped(HABIT, "rows.mean(1, keepdim=True)", "rows.mean(-1, keepdim=True)"),
            "over the tok",
        ),
        (swapped(HABIT, "rows.mean(1, keepdim=True)", "rows.mean(0)"), "each row has its own"),
        (swapped(HABIT, "rows - rows.mean(1, keepdim=True)", "rows"), "as they were"),
        (
            swapped(
                HABIT,
                "return rows - rows.mean(1, True)".replace("True", "keepdim=True"),
                "return rows.mean(1, keepdim=True).expand_as(rows)",
            ),
            "take it off",
        ),
        (swapped(HABIT, "beneath(rows)[..., ids]", "rows[..., ids]"), "the habit still chooses"),
        (
            swapped(HABIT, "ids[beneath(rows)[..., ids].argmax(-1)]", "beneath(rows).argmax(-1)"),
            "among the answers only",
        ),
        (
            swapped(
                HABIT,
                "ids[beneath(rows)[..., ids].argmax(-1)]",
                "beneath(rows)[..., ids].argmax(-1)",
            ),
            "place in it",
        ),
        (
            swapped(HABIT, "== answers).float().mean(1)", "== answers).float().mean()"),
            "one number for each row",
        ),
        (swapped(HABIT, "quantile(0.95, dim=0)", "mean(0)"), "mean share of luck"),
        (swapped(HABIT, "quantile(0.95, dim=0)", "max(0).values"), "95 % quantile between"),
        (swapped(HABIT, "answers[torch.randperm(len(answers))]", "answers"), "the true answers"),
        (BENEATH + CHOSEN + SHARE + "def luck(rows, answers): return [0.25, 0.25, 0.25]", "step 3"),
    ],
    "5.6": [
        (
            swapped(TUNED, "model.unembed(model.ln_final(streams))", "model.unembed(streams)"),
            "whole head",
        ),
        (
            swapped(
                TUNED, "(output.exp() * (output - decoded))", "(decoded.exp() * (decoded - output))"
            ),
            "the other way round",
        ),
        (
            swapped(TUNED, "(output.exp() * (output - decoded))", "-(output.exp() * decoded)"),
            "cross-entropy",
        ),
        (swapped(TUNED, ".sum(-1).mean()", ".sum()"), "not the sum"),
        (swapped(TUNED, ".sum(-1).mean()", ".mean()"), "over the tokens of the vocabulary"),
        (swapped(TUNED, "range(200)", "range(2)"), "Is the whole of `A` trained"),
        (swapped(TUNED, "return lambda x: x + x @ A + b", "return lambda x: x + b"), "step 2"),
        (swapped(TUNED, "with torch.enable_grad():", "if True:"), "your code stopped with"),
        (  # trains the model's head as well
            swapped(
                TUNED,
                "torch.optim.Adam([A, b], lr=1e-2)",
                "torch.optim.Adam([A, b, *model.requires_grad_(True).parameters()], lr=1e-2)",
            ).replace(".backward(inputs=[A, b])", ".backward()"),
            "changed the model's own head",
        ),
        (swapped(TUNED, "lens(held_out[0]), held_out[1])", "lens(streams), output)"), "held-out"),
        (  # measures the tuned lens on what it was trained on
            swapped(
                TUNED,
                "    return [decoded_kl(model, lens(held_out[0]), held_out[1]) for",
                """
    plain = decoded_kl(model, held_out[0], held_out[1])
    seen = decoded_kl(model, lenses[1](streams), output)
    return plain, seen, decoded_kl(model, lenses[2](held_out[0]), held_out[1])
    return [decoded_kl(model, lens(held_out[0]), held_out[1]) for""",
            ),
            "nothing carries over",
        ),
        (  # trains on the held-out texts
            swapped(
                TUNED, "train(model, streams, output), train", "train(model, *held_out), train"
            ),
            "nothing carries over",
        ),
        (
            swapped(TUNED, "train(model, streams, dealt)]", "train(model, streams, output)]"),
            "outputs were dealt",
        ),
        (
            KL + TRAIN + "def three_lenses(model, training, held_out): return [3.0, 0.1, 2.0]",
            "the first is the logit lens",
        ),
    ],
}
