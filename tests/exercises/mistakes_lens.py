"""Typical wrong answers to notebook 5's exercises: code, and what the learner must be told."""

MISTAKES = {
    "5.1": [
        (
            "def decode_stream(model, stream): return model.unembed(stream)",
            "final LayerNorm is missing",
        ),
        (
            """def decode_stream(model, stream):
    return (stream - stream.mean(-1, keepdim=True)) @ model.W_U + model.b_U""",
            "final LayerNorm is missing",
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
    scale = (stream.square().mean(-1, keepdim=True) + model.cfg.eps).sqrt()
    return stream / scale @ model.W_U + model.b_U""",
            "LayerNorm centres first",
        ),
        (
            """def decode_stream(model, stream):
    centred = stream - stream.mean(-1, keepdim=True)
    return centred / centred.std(correction=0) @ model.W_U + model.b_U""",
            "One spread for the whole prompt",
        ),
        (
            """def decode_stream(model, stream):
    centred = stream - stream.mean(-1, keepdim=True)
    return centred / stream.std(-1, keepdim=True) @ model.W_U + model.b_U""",
            "divides by one less",
        ),
        ("def decode_stream(model, stream): return model.ln_final(stream)", "expected shape"),
    ],
    "5.2": [
        (
            """def undecided(logits):
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs / torch.tensor(2.0).log()).sum(-1)""",
            "in bits",
        ),
        (
            """def undecided(logits):
    log_probs = logits.log_softmax(-1)
    return (log_probs.exp() * log_probs).sum(-1)""",
            "minus sign is missing",
        ),
        (
            """def undecided(logits):
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).mean(-1)""",
            "entropy is their sum",
        ),
        (
            """def undecided(logits):
    log_probs = logits.log_softmax(-1)
    return -(log_probs.exp() * log_probs).sum(1)""",
            "expected shape (2, 3)",
        ),
        (
            """def undecided(logits):
    log_probs = logits.log_softmax(0)
    return -(log_probs.exp() * log_probs).sum(-1)""",
            "changes with its neighbours",
        ),
        (
            "def undecided(logits): return -(logits.exp() * logits).sum(-1)",
            "not yet log-probabilities",
        ),
        (
            """def undecided(logits):
    probs = logits.softmax(-1)
    return torch.distributions.Categorical(logits=probs).entropy()""",
            "a softmax of probabilities",
        ),
        (
            """def undecided(logits):
    probs = logits.softmax(-1)
    return -(probs * probs.log()).sum(-1)""",
            "the log of 0",
        ),
    ],
    "5.3": [
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
    ],
    "5.4": [
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
        (
            "def settled_after(ranks): return (ranks != 1).sum(0)",
            "wherever they stand",
        ),
        (
            "def settled_after(ranks): return (ranks != 1).any(1).sum(0)",
            "expected shape (5,)",
        ),
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
    ],
    "5.5": [
        ("early_prompt = 'The capital of Italy is'", "The two must be"),
        ("early_prompt = ' very very'", "use at least 5"),
        ("early_prompt = ['very'] * 8", "as a string"),
        ("early_prompt = ' dog dog dog dog dog dog'", "not sure itself"),
    ],
}
