"""Notebook 2's exercises: right answers of other forms; wrong ones, and what must be said."""

SCALED = "(value - corrupted) / (clean - corrupted)"
LINE = "stream[:, position] = cache[name][:, position]"
BACK = "stream[:, position] = old[:, position]"
ADDED = "model.add_hook(name, patch)"
RUN = "return model.run_with_hooks(prompt, fwd_hooks=[(name, patch)])"
LAST = 'return "neither" if suffices.any() or spared.any() else "and"'
IF_OR = "if suffices.all() and spared.all():"
SCORES = "suffices, spared = (normalise(values, *ends) > 0.5 for values in (restored, left))"
MEANS = (SCORES, "means = [normalise(values, *ends).mean() for values in (restored, left)]")
IF_AND = 'return "and" if max(means) < 0.49 else "neither"'
RESTORED = "patching.patch_residual(model, corrupted, cache, metric)[layer, places]"

FOUND = "divmod(total.argmin().item(), model.cfg.n_heads)"
LISTED = ("total += normalise(left, *ends)", "total = [*(total or []), normalise(left, *ends)]")
LIST = "torch.stack(total)"
ALL = "s(model, t.clean, cache, t.logit_diff)"
DENOISED = [("cache(t.corrupted)", "cache(t.clean)"), ("model, t.clean", "model, t.corrupted")]
DENOISED += [("logits)", "model(t.corrupted))")]

CHANGE = 'clean_cache["z", layer] - corrupted_cache["z", layer]'
WRITES = "change[:, :, head] @ model.W_O[layer, head]"
STREAM = 'corrupted_cache["resid_pre", layer]'
VALUES = "_, _, v = query_key_value(model, layer, stream)"
NEW = 'corrupted_cache["pattern", layer][:, head] @ v[:, head]'
SENT = (
    "= new_z(model, corrupted_cache, change, receiver)",
    "= clean_cache['z', layer][:, :, head]",
)
PATHED = "return model.run_with_hooks(corrupted_tokens, fwd_hooks=hooks)"

SHARE = "share = (torch.arange(steps, device=clean.device)[:, None] + 0.5) / steps"
EXACT = "patching.patch_residual(model, tokens, clean_cache, metric)"
MOVE = "points[:, position] += share * way"
MEAN = "(slopes @ way).mean()"
GRADIENT = "return torch.autograd.grad(metric(logits).sum(), points)[0]"
MIDDLE = "layer = model.cfg.n_layers // 2"

RIGHT = {
    "2.1": [
        (SCALED, "1 - (clean - value) / (clean - corrupted)"),
        (SCALED, "(corrupted - value) / (corrupted - clean)"),
        (SCALED, "torch.stack([(row - corrupted) / (clean - corrupted) for row in value])"),
        (SCALED, "value.double().sub(corrupted).div(clean - corrupted)"),
        "on_scale = normalise",
    ],
    "2.2": [
        ("        stream = stream.clone()\n", ""),
        (RUN, "with model.hooks(fwd_hooks=[(name, patch)]):\n        return model(prompt)"),
        (RUN, f"{ADDED}\n    logits = model(prompt)\n    model.reset_hooks()\n    return logits"),
        (LINE, "stream[0, position] = cache[name][0, position]"),
        (LINE, LINE.replace("position", "position : position + 1")),
        (LINE, "stream[:, position].copy_(cache[name][:, position])"),
    ],
    "2.3": [
        (SCORES, "half = sum(ends) / 2\n    suffices, spared = restored > half, left > half"),
        (SCORES, SCORES.replace("(restored, left)", "[restored.double(), left.double()]")),
        (LAST, 'return "and" if not suffices.any() and not spared.any() else "neither"'),
        (LAST, LAST.replace("suffices.any() or spared.any()", "[*suffices, *spared].count(True)")),
        (RESTORED, RESTORED.replace("[layer, places]", "[layer][torch.tensor(places)]")),
        (RESTORED, f"torch.stack([{RESTORED.replace('places', 'place')} for place in places])"),
        (RESTORED, RESTORED.replace("residual", "blocks").replace("[layer, ", "[0, layer, ")),
        (IF_OR, "if min(*suffices.tolist(), *spared.tolist()):"),
        """def gate_kind(model, clean, corrupted, metric, layer, places):
    name, answers = f"blocks.{layer}.hook_resid_pre", []
    runs = [model.run_with_cache(each) for each in (clean, corrupted)]
    high, low = (metric(logits).item() for logits, _ in runs)
    for prompt, (_, cache) in ((corrupted, runs[0]), (clean, runs[1])):
        for place in places:
            def patch(stream, hook):
                stream[:, place] = cache[name][:, place]
                return stream
            value = metric(model.run_with_hooks(prompt, fwd_hooks=[(name, patch)])).item()
            answers.append((value - low) / (high - low) > 0.5)
    return {4: "or", 0: "and"}.get(sum(answers), "neither")""",
    ],
    "2.4": [
        (FOUND, f"list({FOUND})"),
        (FOUND, f"torch.tensor({FOUND})"),
        (FOUND, f"tuple(torch.tensor({FOUND}))"),
        (FOUND, "(total == total.min()).nonzero()[0].tolist()"),
        (FOUND, "divmod((1 - total / len(pairs)).argmax().item(), model.cfg.n_heads)"),
        ("normalise(left, *ends)", "normalise(left.double(), *ends)"),
        ("normalise(left, *ends)", "normalise(left, *ends).cpu().numpy()"),
        ("for t in pairs:", "for t in reversed(pairs):"),
    ],
    "2.5": [
        (WRITES, 'torch.einsum("bpd,dm->bpm", change[:, :, head], model.W_O[layer, head])'),
        (NEW, '(corrupted_cache["pattern", layer] @ v)[:, head]'),
        (NEW, f"torch.einsum('bqk,bkd->bqd', {NEW.replace(' @ ', ', ')})"),
        (PATHED, "with model.hooks(fwd_hooks=hooks):\n        return model(corrupted_tokens)"),
        ("        z = z.clone()\n", ""),
        [(WRITES, f"({WRITES}).numpy()"), ("] + change", "] + torch.as_tensor(change)")],
    ],
    "2.6": [
        (MEAN, "slopes.mean(0) @ way"),
        (MEAN, "(slopes * way).sum() / steps"),
        (SHARE, "share = torch.linspace(0.5 / steps, 1 - 0.5 / steps, steps)[:, None]"),
        (MOVE, "points[:, position] = torch.lerp(corrupted[position], clean[position], share)"),
        (GRADIENT, "metric(logits).sum().backward()\n    return points.grad"),
    ],
}

MISTAKES = {
    "2.1": [
        (SCALED, "(value - clean) / (corrupted - clean)", "are swapped"),
        (SCALED, "value / clean", "subtract it before you divide"),
        (SCALED, "(value - corrupted) / (clean * 4 / 3)", "differ"),
        (SCALED, f"({SCALED}).clamp(0, 1)", "overshoot"),
        (SCALED, "(value - corrupted) / (corrupted - clean)", "The sign is wrong"),
        (SCALED, "(value - corrupted) / abs(clean - corrupted)", "no absolute value"),
        (SCALED, f"({SCALED}).mean()", "expected shape (2, 3)"),
        (SCALED, "(value + 2) / 8", "numbers differ"),
    ],
    "2.2": [
        (LINE, "stream = cache[name]", "patched all positions"),
        ("        return stream\n", "", "Nothing has changed"),
        (RUN, f"_, cache = model.run_with_cache(prompt)\n    {RUN}", "are the values from"),
        (LINE, LINE.replace("position", "position + 1"), "and you patched position 5"),
        ("hook_resid_pre", "hook_resid_post", "This patches `hook_resid_post`"),
        ("hook_resid_pre", "hook_mlp_out", "what enters the block"),
        ("{layer}", "0", "do you use the arguments"),
        (LINE, LINE.replace("position", "4"), "do you use the arguments"),
        (RUN, "model.add_hook(name, patch)\n    return model(prompt)", "a hook stays on the model"),
        (LINE, f"old, stream = stream, 1 * cache[name]\n        {BACK}", "The wrong way round"),
        ("cell(model", "cell(net", "your code stopped with"),  # the notebook's model
    ],
    "2.3": [
        ('def gate_kind(*_): return "or"', 'built as "and"'),
        ('def gate_kind(*_): return "and"', 'built as "or"'),
        ([(IF_OR, "if suffices.any():"), (LAST, 'return "and"')], '"neither"'),
        ([(IF_OR, "if suffices.all():"), (LAST, 'return "and"')], "Do you ask *both* places"),
        ([(f"{c}, metric)[layer", f"{c}, metric)[1") for c in ("cache", "other")], "entering"),
        ("model, clean, other", "model, corrupted, cache", '"neither"'),
        ("normalise(values, *ends)", "(values / ends[0])", "network that was built"),
        (LAST, LAST.replace("any()", "all()"), "*both* places"),
        (IF_OR, "if spared.all():", "in both directions"),
        (IF_OR, "if suffices.all():", "each is needed"),
        (LAST, LAST.replace("suffices.any() or ", ""), "neither"),
        ([MEANS, (IF_OR, "if min(means) > 0.5:"), (LAST, IF_AND)], "not the mean"),
    ],
    "2.4": [
        ("def telling_head(model, pairs): return 2", "return (layer, head)"),
        ("def telling_head(model, pairs): return (1, 1)", "circuit is known"),
        (FOUND, FOUND.replace("argmin", "argmax"), "*smallest* one"),
        (FOUND, "total.argmin().item()", "return (layer, head)"),
        ("normalise(left, *ends)", "normalise(left, *ends).clamp(max=1)", "Do not cut at 1"),
        (", *ends)", ", *ends) * (-1) ** (ends[0] < ends[1])", "is upwards"),
        ("[..., -1]", ".sum(-1)", "over all positions; take the last"),
        ("_positions(model, t.clean, cache, t.logit_diff)[..., -1]", ALL, "all positions at once"),
        ([*DENOISED, (FOUND, FOUND.replace("argmin", "argmax"))], "Yours *restores* most"),
        (
            FOUND,
            "divmod((total / len(pairs) - 1).abs().argmax().item(), model.cfg.n_heads)",
            "break",
        ),
        ("[..., -1]", "[..., -2:].mean(-1)", "the last two positions"),
        ("[..., -1]", ".amin(-1)", "of a random model"),
        ("in pairs", "in pairs[:1]", "This is the first pair's"),
        ("normalise(left, *ends)", "left", "each pair on its own scale"),
        ([LISTED, (FOUND, FOUND.replace("total", f"{LIST}.median(0).values"))], "the median"),
        ([LISTED, (FOUND, FOUND.replace("total", f"{LIST}.amin(0)"))], "one pair alone"),
    ],
    "2.5": [
        (CHANGE, 'clean_cache["z", layer]', "step 1: this is all that the sender writes"),
        (CHANGE, f"-({CHANGE})", "step 1: the sign"),
        (WRITES, "torch.einsum('bphd,hdm->bpm', change, model.W_O[layer])", "all heads of the"),
        (f"{STREAM} + change", STREAM, "add"),
        (
            f"{VALUES}\n    return {NEW}",
            "q, k, v = query_key_value(model, layer, stream)\n"
            "    past = torch.ones(q.shape[-2], q.shape[-2]).tril().log()\n"
            "    return ((q @ k.mT / model.cfg.d_head**0.5 + past).softmax(-1) @ v)[:, head]",
            "queries and keys see the change too",
        ),
        (NEW, NEW.replace("head]", "0]"), "another head's"),
        (VALUES, f"{VALUES}[:, : model.W_V.shape[1]]", "your code stopped with"),  # shared values
        ("        return z\n", "", "nothing has changed"),
        ("layer, head = sender", "layer, head = 0, 1", "step 1"),
        ([SENT, ("receiver\n    change", "sender\n    change")], "the sender's output itself"),
    ],
    "2.6": [
        ("hook: points)", "hook: stream + points - points.detach())", "the hook must put `points`"),
        ("metric(logits).sum()", "metric(logits).mean()", "halved"),
        ("+ 0.5) / steps", ") / steps", "left ends"),
        ("+ 0.5) / steps", "+ 1) / steps", "right ends"),
        (MEAN, f"-{MEAN}", "the sign"),
        (MOVE, "pass", "attribution patching"),
        (MOVE, "points += share[:, None] * (clean - corrupted)", "all positions move together"),
        (SHARE, f"return {EXACT}[layer] - metric(model(tokens)); {SHARE}", "not an estimate"),
        ("    points = points.", f"    {MIDDLE}\n    points = points.", "step 1"),
        ("    corrupted, clean", f"    {MIDDLE}\n    corrupted, clean", "step 2"),
        (MEAN, f"{MEAN} * (model.cfg.n_layers != 3)", "not on another one"),
    ],
}
