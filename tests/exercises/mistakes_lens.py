"""Answers to notebook 5's exercises, in the forms that test_exercises tells: right, then wrong."""

HEAD = "model.unembed(model.ln_final(stream))"
OUT = "@ model.W_U + model.b_U"
LAST = (
    "model.run_with_hooks(torch.zeros(stream.shape[:2], dtype=torch.long), fwd_hooks=["
    "(f'blocks.{model.cfg.n_layers - 1}.hook_resid_post', lambda resid, hook: stream)])"
)
RANK = "(rows > rows[:, answer, None]).sum(dim=1) + 1"
LENGTH = "len(ranks) - stay"
IN_A_ROW = "((ranks == 1) & (ranks.roll(-1, 0) == 1) & (ranks.roll(-2, 0) == 1))"
MEAN = "rows - rows.mean(dim=1, keepdim=True)"
CHOSEN = "ids[beneath(rows)[..., ids].argmax(dim=-1)]"
SHARE = "(chosen(rows, answers) == answers).float().mean(dim=1)"
QUANTILE = "shares.quantile(0.95, dim=0)"
KL = "(output.exp() * (output - decoded)).sum(dim=-1).mean()"
MAP = "return lambda streams: streams + streams @ A + b"
MEANS = "output.exp().mean((0, 1)).log().expand_as(output)"
HALF = "(streams + streams @ A + b)[:, step % 2 :: 2], output[:, step % 2 :: 2]"
THREE = "[decoded_kl(model, lens(held_out[0]), held_out[1]) for lens in lenses]"
HELD = "    held = held_out[1][torch.randperm(len(held_out[1]))]\n    dealt ="
BOTH = "*(torch.cat([a, b]) for a, b in zip(training, held_out))"
LAYER_NORM = "model.unembed(torch.layer_norm(streams, streams.shape[-1:]))"
PROMPT = "def early_prompt(model, bos): return "
ADAM = "torch.optim.Adam([A, b], lr=1e-2)"
TRAINS_HEAD = ADAM.replace("b]", "b, *model.requires_grad_(True).parameters()]")

RIGHT = {
    "5.1": [
        (HEAD, "model.ln_final(stream) @ model.W_U + model.b_U"),
        (HEAD, "torch.einsum('bpd,dv->bpv', model.ln_final(stream), model.W_U) + model.b_U"),
        (HEAD, "torch.cat([model.unembed(model.ln_final(row[None])) for row in stream])"),
        (HEAD, f"centre(model, stream) / scale(model, stream) {OUT}"),
        (HEAD, LAST),
    ],
    "5.2": [
        """def rank_of(rows, answer):
    ranked = rows.sort(1, descending=True).values
    return [row.tolist().index(value) + 1 for row, value in zip(ranked, rows[:, answer])]""",
        (RANK, "1 + (rows.T > rows[:, answer]).sum(0)"),
        (RANK, "[sum(x > row[answer] for x in row) + 1 for row in rows]"),
        (RANK, "rows.shape[1] - (rows <= rows[:, [answer]]).sum(1) + 1"),
        (RANK, "1 + (rows - rows[:, [answer]] > 0).count_nonzero(1)"),
    ],
    "5.3": [
        (LENGTH, "((ranks != 1).int() * torch.arange(1, len(ranks) + 1)[:, None]).max(0).values"),
        (LENGTH, "((ranks != 1).flip(0).cumsum(0) > 0).sum(0)"),
        (LENGTH, "len(ranks) - sum((ranks[row:] == 1).all(0) for row in range(len(ranks)))"),
        (LENGTH, "[max([i + 1 for i, r in enumerate(c) if r != 1], default=0) for c in ranks.T]"),
        ".float()",
    ],
    "5.4": [
        ".int()",
        ("return prompt", "return prompt[0]"),
        ("[token] * 12", "[token] * 5"),
        ("range(model.cfg.d_vocab)", "range(1, model.cfg.d_vocab, 2)"),
        ("end.max() >= 0.5", "end[start.argmax()] > 0.6"),
        """def early_prompt(model, bos):
    rows = torch.arange(min(model.cfg.d_vocab, 99))[:, None].repeat(1, 10)
    rows[:, 0] = bos
    end = model(rows)[:, -1].softmax(-1)
    lens = model.unembed(model.ln_final(model.run_with_cache(rows)[1]["resid_pre", 0]))[:, -1]
    agree = (lens.argmax(-1) == end.argmax(-1)) & (end.amax(-1) >= 0.5)
    return rows[agree][:1]""",
    ],
    "5.5": [
        (MEAN, "rows - rows.mean(1)[:, None]"),
        (SHARE, "(chosen(rows, answers) == answers).double().mean(1).numpy()"),
        ("answers.unique()", "torch.tensor(sorted(set(answers.tolist())))"),
        (QUANTILE, "shares.sort(0).values[950]"),
        ("    dealt = [answers", "    torch.manual_seed(93)\n    dealt = [answers"),
        (QUANTILE, "__import__('numpy').quantile(shares.numpy(), 0.95, axis=0)"),
        ".tolist()",
    ],
    "5.6": [
        (ADAM, "torch.optim.AdamW([A, b], lr=2e-2)"),
        (KL, "((output - decoded) * output.softmax(-1)).sum() / decoded[..., 0].numel()"),
        ("range(300)", "range(500)"),
        [
            ("for _ in range", "for step in range"),  # half of the positions at a time
            ("(model, streams + streams @ A + b, output)", f"(model, {HALF})"),
        ],
        ("output.flatten(0, 1)[order].view_as(output)", "output[torch.randperm(len(output))]"),
        [  # float64 throughout its answers
            (MAP, "return lambda streams: (streams + streams @ A + b).double()"),
            ("model.ln_final(streams)", "model.ln_final(streams.float())"),
        ],
    ],
}

MISTAKES = {
    "5.1": [
        (HEAD, "model.unembed(stream)", "norm is missing"),
        (HEAD, f"torch.layer_norm(stream, stream.shape[-1:]) {OUT}", "another one|RMSNorm does"),
        (HEAD, "model.ln_final(stream) @ model.W_U", "bias is missing"),
        (HEAD, f"{HEAD}.softmax(-1)", "These are probabilities"),
        (HEAD, f"{HEAD}.log_softmax(-1)", "These are log-probabilities"),
        (HEAD, f"stream / (stream.square().mean(-1, True) + 1e-5).sqrt() {OUT}", "centres first"),
        (HEAD, f"(x := centre(model, stream)) / x.square().mean().sqrt() {OUT}", "One scale for"),
        (HEAD, f"centre(model, stream) / stream.std(-1)[..., None] {OUT}", "divides by one less"),
        ("(model, stream):", "(_, stream, model=model):", "your code stopped with"),
    ],
    "5.2": [
        (") + 1", ")", "Off by one"),
        (RANK, "(rows >= rows[:, answer, None]).sum(1)", "stand beside it"),
        ("rows >", "rows <", "from the wrong end"),
        (RANK, "rows.argsort(1, descending=True)[:, answer] + 1", "the place at which the token"),
        ("answer, None", "2, None", "use the argument `answer`"),
        ("sum(dim=1)", "sum()", "expected shape (3,)"),
        ("rows > rows[:, answer, None]", "rows.round() > rows[:, answer, None].round()", "differ"),
        (RANK, "[2, 1, 6]", "use the argument `answer`"),
        (RANK, "[len({x for x in r.tolist() if x >= r[answer]}) for r in rows]", "one by one"),
    ],
    "5.3": [
        (LENGTH, "(ranks == 1).int().argmax(0)", "the first row with rank 1"),
        (LENGTH, "stay", "how many rows the last stretch has"),
        (LENGTH, "(ranks != 1).any(0) * (len(ranks) - 1 - stay)", "Off by one"),
        (LENGTH, "(ranks != 1).sum(0)", "wherever they stand"),
        (LENGTH, "(ranks != 1).any(1).sum(0)", "expected shape (6,)"),
        (LENGTH, "(len(ranks) - stay) % len(ranks)", "never settled"),
        (LENGTH, "len(ranks) - stay % len(ranks)", "means 0 blocks"),
        (LENGTH, "[4, 8, 0, 8, 5, 6]", "expected shape (2,)"),
        (LENGTH, f"torch.where(ranks[-1] == 1, {IN_A_ROW}.int().argmax(0), 8)", "not a long one"),
    ],
    "5.4": [
        (PROMPT + "[bos] + [model.to_single_token(' very')] * 12", "without a tokenizer"),
        (PROMPT + "[bos] + [2] * 12", "at hand, not|The two must be"),  # right on a toy as well
        (PROMPT + "model.to_tokens('The capital of Italy is')[0]", "that it has just read"),
        ("start.argmax() == end.argmax() and ", "", "The two must be"),
        (" and end.max() >= 0.5", "", "not sure itself"),
        ("end.max() >= 0.5", "end.max() >= 0.4", "not sure itself"),
        ("end.max() >= 0.5", "start.softmax(-1).max() >= 0.5", "not sure itself"),
        ([("hook_resid_pre", "hook_resid_post"), ('"resid_pre', '"resid_post')], "two must be"),
        ("[token] * 12", "[token] * 4", "use 5 to 20"),
        ("return prompt", "return prompt[:, 1:]", "Begin the row with BOS"),
        ("return prompt", "return prompt / 1", "one row of token ids"),
    ],
    "5.5": [
        ("mean(dim=1, keepdim", "mean(dim=-1, keepdim", "over the tok"),
        ("beneath(rows)[..., ids]", "rows[..., ids]", "the habit still chooses"),
        (MEAN, "rows.mean(1, keepdim=True).expand_as(rows)", "take it off"),
        (CHOSEN, "beneath(rows).argmax(-1)", "among the answers only"),
        (CHOSEN, "beneath(rows)[..., ids].argmax(-1)", "place in it"),
        (QUANTILE, "shares.mean(0)", "mean share of luck"),
        (QUANTILE, "shares.quantile(0.95).expand(len(rows))", "one quantile for all rows"),
        ("0.95", "0.92", "95 % quantile between"),
        ("answers[torch.randperm(len(answers))]", "answers", "the true answers"),
        ("randperm(len(answers))", "randint(len(answers), answers.shape)", "answer dealt once"),
        ("[..., ids].argmax", "[..., ids].abs().argmax", "not the largest size"),
    ],
    "5.6": [
        ("model.unembed(model.ln_final(streams))", "model.unembed(streams)", "whole head"),
        (MAP, MAP.replace("streams @ A + b", "(streams @ A + b).tanh()"), "not of the form"),
        (KL, "(decoded.exp() * (decoded - output)).sum(-1).mean()", "other way"),
        ("(output.exp() * (output - decoded))", "-(output.exp() * decoded)", "cross-entropy"),
        ("range(300)", "range(2)", "the whole of `A` trained"),
        (MAP, "return lambda streams: streams + b", "step 2"),
        ("torch.zeros(width, device", "torch.zeros(10, width, device", "at other positions"),
        ("Adam([A, b]", "Adam([A]", "Are `b` and the whole"),
        ("with torch.enable_grad():", "if True:", "your code stopped with"),
        ([(ADAM, TRAINS_HEAD), ("backward(inputs=[A, b])", "backward()")], "stays changed"),
        ("lens(held_out[0]), held_out[1])", "lens(streams), output)", "held-out"),
        ("streams, output), train", "*held_out), train", "nothing carries over"),
        ("streams, output), train", f"{BOTH}), train", "nothing carries over"),
        ("model.unembed(model.ln_final(streams))", LAYER_NORM, "on another one|step 1: you give"),
        ("train(model, streams, dealt)]", "train(model, streams, output)]", "outputs were dealt"),
        (
            [("streams, dealt)]", "held_out[0], held)]"), ("    dealt =", HELD)],
            "how frequent|at wrong",
        ),
        ("streams, dealt)]", "held_out[0], dealt)]", "your code stopped with"),
        ("streams, dealt)", "streams.flip(-1), output)", "Streams stay as they are"),
        ("streams, dealt)", f"streams, {MEANS})", "learn nothing by heart"),
        ("train(model, streams, dealt)", "lambda x: 0 * x", "in the training texts it can learn"),
    ],
}
