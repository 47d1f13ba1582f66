"""Answers to notebook 2's exercises, as code: right ones in many forms, and typical wrong ones with
what the learner must be told."""


def swapped(code: str, old: str, new: str) -> str:
    """`code` with one thing changed, which must be there."""
    assert code.count(old) == 1, (code.count(old), old)
    return code.replace(old, new)


def scale(expression: str) -> str:
    return f"def on_scale(value, clean, corrupted): return {expression}"


PATCH = """
def patch_cell(model, prompt, cache, layer, position):
    name = f"blocks.{layer}.hook_resid_pre"

    def patch(stream, hook):
        stream = stream.clone()
        stream[:, position] = cache["resid_pre", layer][:, position]
        return stream

    return model.run_with_hooks(prompt, fwd_hooks=[(name, patch)])
"""
LINE = 'stream[:, position] = cache["resid_pre", layer][:, position]'
RUN = "return model.run_with_hooks(prompt, fwd_hooks=[(name, patch)])"

GATE = """
def gate_kind(model, clean, corrupted, metric, layer, places):
    one, cache = model.run_with_cache(clean)
    two, other = model.run_with_cache(corrupted)
    top, bottom = metric(one).item(), metric(two).item()
    restored = patching.patch_residual(model, corrupted, cache, metric)[layer, places]
    left = patching.patch_residual(model, clean, other, metric)[layer, places]
    half = (top + bottom) / 2
    suffices, spared = restored > half, left > half
    if suffices.all() and spared.all():
        return "or"
    return "neither" if suffices.any() or spared.any() else "and"
"""
VERDICT = 'return "neither" if suffices.any() or spared.any() else "and"'

NEEDED = """
def needed_head(model, pairs):
    n_layers, n_heads = model.cfg.n_layers, model.cfg.n_heads
    cells = [
        patching.Cell(layer, "attn.hook_z", (-1, head))
        for layer in range(n_layers) for head in range(n_heads)
    ]
    scores = []
    for t in pairs:
        logits, cache = model.run_with_cache(t.corrupted)
        left = patching.sweep(model, t.clean, cache, t.logit_diff, cells)
        ends = t.logit_diff(model(t.clean)).item(), t.logit_diff(logits).item()
        scores.append(normalise(left, *ends))
    mean = torch.stack(scores).mean(0)
    return divmod(mean.argmin().item(), n_heads)
"""
LEAST = "return divmod(mean.argmin().item(), n_heads)"

WRITTEN = """
def written(model, clean_cache, corrupted_cache, sender):
    layer, head = sender
    change = clean_cache["z", layer] - corrupted_cache["z", layer]
    return change[:, :, head] @ model.W_O[layer, head]
"""
NEW_Z = """
def new_z(model, corrupted_cache, change, receiver):
    layer, head = receiver
    stream = corrupted_cache["resid_pre", layer] + change
    q, k, v = query_key_value(model, layer, stream)
    return corrupted_cache["pattern", layer][:, head] @ v[:, head]
"""
RUN_PATH = """
def path_patched(model, corrupted_tokens, clean_cache, corrupted_cache, sender, receiver):
    layer, head = receiver
    change = written(model, clean_cache, corrupted_cache, sender)

    def patch(z, hook):
        z = z.clone()
        z[:, :, head] = new_z(model, corrupted_cache, change, receiver)
        return z

    hooks = [(f"blocks.{layer}.attn.hook_z", patch)]
    return model.run_with_hooks(corrupted_tokens, fwd_hooks=hooks)
"""
PATH = WRITTEN + NEW_Z + RUN_PATH
V = 'return corrupted_cache["pattern", layer][:, head] @ v[:, head]'

GRADIENTS = """
def gradients(model, tokens, metric, layer, points):
    points = points.detach().clone().requires_grad_()
    hooks = [(f"blocks.{layer}.hook_resid_pre", lambda stream, hook: points)]
    with torch.enable_grad():
        logits = model.run_with_hooks(tokens.expand(len(points), -1), fwd_hooks=hooks)
        return torch.autograd.grad(metric(logits).sum(), points)[0]
"""
SUM = """
def integrated(model, tokens, clean_cache, metric, layer, steps):
    logits, cache = model.run_with_cache(tokens)
    corrupted, clean = cache["resid_pre", layer][0], clean_cache["resid_pre", layer][0]
    share = (torch.arange(steps)[:, None] + 0.5) / steps
    estimates = []
    for position, way in enumerate(clean - corrupted):
        points = corrupted.repeat(steps, 1, 1)
        points[:, position] += share * way
        slopes = gradients(model, tokens, metric, layer, points)[:, position]
        estimates.append((slopes @ way).mean())
    return torch.stack(estimates)
"""
INTEGRATED = GRADIENTS + SUM

RIGHT = {
    "2.1": [
        scale("(value - corrupted) / (clean - corrupted)"),
        scale("1 - (clean - value) / (clean - corrupted)"),
        scale("(corrupted - value) / (corrupted - clean)"),
        scale("((value.double() - corrupted) / (clean - corrupted))"),
        scale("((value - corrupted) / (clean - corrupted)).numpy()"),
        scale("((value - corrupted) / (clean - corrupted)).tolist()"),
        scale("torch.stack([(row - corrupted) / (clean - corrupted) for row in value])"),
        scale("value.sub(corrupted).div(clean - corrupted)"),
        scale("((value - corrupted) / (clean - corrupted)).T.contiguous().T"),
        scale("torch.lerp(value * 0, value * 0 + 1, (value - corrupted) / (clean - corrupted))"),
    ],
    "2.2": [
        PATCH,
        swapped(PATCH, "        stream = stream.clone()\n", ""),
        swapped(PATCH, RUN, RUN + ".double()"),
        swapped(PATCH, RUN, RUN + ".numpy()"),
        swapped(PATCH, RUN, RUN + ".tolist()"),
        swapped(
            PATCH, RUN, "with model.hooks(fwd_hooks=[(name, patch)]):\n        return model(prompt)"
        ),
        swapped(
            PATCH,
            RUN,
            "model.add_hook(name, patch)\n    logits = model(prompt)\n    model.reset_hooks()\n"
            "    return logits",
        ),
        swapped(PATCH, LINE, "stream[0, position] = cache[name][0, position]"),
        swapped(PATCH, LINE, "stream[:, position].copy_(cache[name][:, position])"),
        swapped(
            PATCH,
            LINE,
            "here = torch.zeros_like(stream[:, :, :1])\n        here[:, position] = 1\n"
            "        stream = stream * (1 - here) + cache[name] * here",
        ),
    ],
    "2.3": [
        GATE,
        swapped(GATE, "half = (top + bottom) / 2", "half = bottom + 0.5 * (top - bottom)"),
        swapped(
            GATE,
            "suffices, spared = restored > half, left > half",
            "suffices = restored > half\n    spared = left > half",
        ),
        swapped(
            GATE,
            VERDICT,
            'return "and" if not suffices.any() and not spared.any() else "neither"',
        ),
        swapped(
            GATE,
            VERDICT,
            'both = torch.cat([suffices, spared])\n    return "neither" if both.any() else "and"',
        ),
        swapped(
            GATE,
            "restored > half, left > half",
            "normalise(restored, top, bottom) > 0.5, normalise(left, top, bottom) > 0.5",
        ),
        swapped(GATE, "[layer, places]\n    left", "[layer][torch.tensor(places)]\n    left"),
        GATE.replace("patching.patch_residual", "patching.patch_blocks").replace(
            "metric)[layer, places]", "metric)[0, layer, places]"
        ),
        """
def gate_kind(model, clean, corrupted, metric, layer, places):
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
    return {4: "or", 0: "and"}.get(sum(answers), "neither")
""",
    ],
    "2.4": [
        NEEDED,
        swapped(NEEDED, LEAST, "return tuple(divmod(int(mean.argmin()), n_heads))"),
        swapped(NEEDED, LEAST, "return list(divmod(int(mean.argmin()), n_heads))"),
        swapped(NEEDED, LEAST, "i = mean.argmin()\n    return i // n_heads, i % n_heads"),
        swapped(
            NEEDED, LEAST, "return np.unravel_index(mean.argmin(), (n_layers, n_heads))"
        ).replace("    n_layers", "    import numpy as np\n\n    n_layers", 1),
        swapped(NEEDED, ".mean(0)", ".double().sum(0)"),
        swapped(NEEDED, ".mean(0)\n", ".mean(0)\n    mean = 1 - mean\n").replace(
            "argmin", "argmax"
        ),
        swapped(
            NEEDED,
            "left = patching.sweep(model, t.clean, cache, t.logit_diff, cells)",
            "left = patching.patch_head_positions(model, t.clean, cache, t.logit_diff)\n"
            "        left = left[..., -1].flatten()",
        ),
        """
def needed_head(model, pairs):
    from helpers.ablation import ablate_each

    total = 0
    for t in pairs:
        logits, cache = model.run_with_cache(t.corrupted)
        left = ablate_each(model, t.clean, t.logit_diff, values=cache, positions=[-1])
        bottom = t.logit_diff(logits)
        total = total + (left - bottom) / (t.logit_diff(model(t.clean)) - bottom)
    return divmod(total.argmin().item(), model.cfg.n_heads)
""",
    ],
    "2.5": [
        PATH,
        swapped(PATH, "model.W_O[layer, head]", "model.W_O[layer, head].double()")
        .replace("change[:, :, head] @", "change[:, :, head].double() @")
        .replace("layer] + change", "layer] + change.float()"),
        swapped(
            PATH,
            "return change[:, :, head] @ model.W_O[layer, head]",
            'return torch.einsum("bpd,dm->bpm", change[:, :, head], model.W_O[layer, head])',
        ),
        swapped(
            PATH,
            "return change[:, :, head] @ model.W_O[layer, head]",
            "each = [cache['z', layer][:, :, head] @ model.W_O[layer, head]\n"
            "            for cache in (clean_cache, corrupted_cache)]\n"
            "    return each[0] - each[1]",
        ),
        swapped(
            PATH,
            V,
            'pattern = corrupted_cache["pattern", layer][:, head]\n'
            '    return torch.einsum("bqk,bkd->bqd", pattern, v[:, head])',
        ),
        swapped(PATH, V, 'return (corrupted_cache["pattern", layer] @ v)[:, head]'),
        swapped(
            PATH,
            "q, k, v = query_key_value(model, layer, stream)",
            "old = query_key_value(model, layer, stream - change)[2]\n"
            "    v = query_key_value(model, layer, stream)[2] - old",
        ).replace(V, V + ' + corrupted_cache["z", layer][:, :, head]'),
        swapped(
            PATH,
            "return model.run_with_hooks(corrupted_tokens, fwd_hooks=hooks)",
            "with model.hooks(fwd_hooks=hooks):\n        return model(corrupted_tokens).double()",
        ),
        swapped(PATH, "        z = z.clone()\n", ""),
        swapped(
            PATH,
            "return change[:, :, head] @ model.W_O[layer, head]",
            "return (change[:, :, head] @ model.W_O[layer, head]).numpy()",
        ).replace("layer] + change", "layer] + torch.as_tensor(change)"),
    ],
    "2.6": [
        INTEGRATED,
        swapped(
            INTEGRATED, "return torch.stack(estimates)", "return [e.item() for e in estimates]"
        ),
        swapped(
            INTEGRATED, "return torch.stack(estimates)", "return torch.stack(estimates).double()"
        ),
        swapped(
            INTEGRATED, "return torch.stack(estimates)", "return torch.stack(estimates).numpy()"
        ),
        swapped(INTEGRATED, "(slopes @ way).mean()", "slopes.mean(0) @ way"),
        swapped(INTEGRATED, "(slopes @ way).mean()", "(slopes * way).sum() / steps"),
        swapped(
            INTEGRATED,
            "share = (torch.arange(steps)[:, None] + 0.5) / steps",
            "share = torch.linspace(0.5 / steps, 1 - 0.5 / steps, steps)[:, None]",
        ),
        swapped(
            INTEGRATED,
            "points[:, position] += share * way",
            "points[:, position] = torch.lerp(corrupted[position], clean[position], share)",
        ),
        swapped(
            INTEGRATED,
            "        slopes = gradients(model, tokens, metric, layer, points)[:, position]",
            "        slopes = torch.stack([\n"
            "            gradients(model, tokens, metric, layer, point[None])[0, position]\n"
            "            for point in points\n        ])",
        ),
        swapped(
            INTEGRATED,
            "        return torch.autograd.grad(metric(logits).sum(), points)[0]",
            "        metric(logits).sum().backward()\n    return points.grad",
        ),
    ],
}

MISTAKES = {
    "2.1": [
        (scale("(value - clean) / (corrupted - clean)"), "are swapped"),
        (scale("value / clean"), "subtract it before you divide"),
        (scale("value / (clean - corrupted)"), "subtract it before you divide"),
        (scale("(value - corrupted) / clean"), "divide by the clean value"),
        (scale("((value - corrupted) / (clean - corrupted)).clamp(0, 1)"), "overshoot"),
        (scale("(value - corrupted) / (corrupted - clean)"), "The sign is wrong"),
        (scale("(value - corrupted) / abs(clean - corrupted)"), "no absolute value"),
        (scale("((value - corrupted) / (clean - corrupted)).mean()"), "expected shape (2, 3)"),
        (scale("(value + 2) / 8"), "numbers differ"),
        (scale("value - corrupted"), "numbers differ"),
    ],
    "2.2": [
        (swapped(PATCH, LINE, 'stream = cache["resid_pre", layer]'), "patched all positions"),
        (swapped(PATCH, "        return stream\n", ""), "Nothing has changed"),
        (
            swapped(PATCH, "    name", "    _, cache = model.run_with_cache(prompt)\n    name"),
            "are the values from",
        ),
        (swapped(PATCH, "layer][:, position]", "layer][:, position - 1]"), "numbers differ"),
        (PATCH.replace("[:, position]", "[:, position + 1]"), "and you patched position 5"),
        (PATCH.replace("resid_pre", "resid_post"), "This patches `hook_resid_post`"),
        (PATCH.replace("resid_pre", "mlp_out"), "what enters the block"),
        (swapped(PATCH, "{layer}", "0"), "do you use the arguments"),
        (swapped(PATCH, '"resid_pre", layer', '"resid_pre", 0'), "do you use the arguments"),
        (
            swapped(PATCH, RUN, "model.add_hook(name, patch)\n    return model(prompt)"),
            "a hook was left on the model",
        ),
        (
            swapped(PATCH, LINE, "new = cache[name].clone()").replace(
                "        return stream",
                "        new[:, position] = stream[:, position]\n        return new",
            ),
            "The wrong way round",
        ),
        (swapped(PATCH, "return model.run", "model.run"), "does it end in `return`"),
        (PATCH.replace("[:, position]", "[:, 4]"), "do you use the arguments"),
    ],
    "2.3": [
        ('def gate_kind(*_): return "or"', 'built as "and"'),
        ('def gate_kind(*_): return "and"', 'built as "or"'),
        ('def gate_kind(*_): return "neither"', 'built as "or"'),
        ("def gate_kind(*_): return True", "Give one of the words"),
        ('def gate_kind(*_): return "OR"', "Give one of the words"),
        (
            swapped(GATE, "suffices.all() and spared.all()", "suffices.any()").replace(
                VERDICT, 'return "and"'
            ),
            '"neither"',
        ),
        (
            swapped(GATE, "suffices.all() and spared.all()", "suffices.all()").replace(
                VERDICT, 'return "and"'
            ),
            "Do you ask *both* places",
        ),
        (swapped(GATE, VERDICT, 'return "and"'), "Do you ask *both* places"),
        (GATE.replace("[layer, places]", "[1, places]"), "entering `layer`"),
        (GATE.replace("(model, clean, other", "(model, corrupted, cache"), '"neither"'),
        (swapped(GATE, "half = (top + bottom) / 2", "half = top"), "put it on the scale"),
        (
            swapped(GATE, "if suffices.all()", "return suffices.all()\n    if suffices.all()"),
            "Give one",
        ),
    ],
    "2.4": [
        ("def needed_head(model, pairs): return 2", "Give the pair"),
        ("def needed_head(model, pairs): return (2, 0)", "There is no head"),
        ("def needed_head(model, pairs): return (0, 4)", "There is no head"),
        ("def needed_head(model, pairs): return (1, 2)", "heads that break more"),
        ("def needed_head(model, pairs): return (1, 1)", "circuit is known"),
        (swapped(NEEDED, LEAST, "return divmod(mean.argmax().item(), n_heads)"), "*smallest* one"),
        (
            swapped(NEEDED, LEAST, "return divmod(mean.argmin().item(), n_heads)[::-1]"),
            "There is no head",
        ),
        (swapped(NEEDED, LEAST, "return mean.argmin().item()"), "Give the pair"),
        (swapped(NEEDED, LEAST, "return divmod(mean.argmin().item(), 4)"), "circuit is known"),
        (
            swapped(
                NEEDED,
                "left = patching",
                "model.add_hook('blocks.0.hook_resid_pre', lambda x, hook: x)\n"
                "        left = patching",
            ),
            "a hook was left on the model",
        ),
        (swapped(NEEDED, "(-1, head)", "(0, head)"), "break"),
        (swapped(NEEDED, LEAST, "return (99, 0)"), "There is no head"),
    ],
    "2.5": [
        (
            WRITTEN + NEW_Z.split('"""')[0].split("    layer")[0] + "    return ..." + RUN_PATH,
            "Step 2, `new_z`",
        ),
        (
            WRITTEN + NEW_Z + RUN_PATH.split("    layer")[0] + "    return ...",
            "Step 3, `path_patched`",
        ),
        (
            swapped(
                PATH,
                'clean_cache["z", layer] - corrupted_cache["z", layer]',
                'clean_cache["z", layer]',
            ),
            "Step 1: this is all that the sender writes",
        ),
        (
            swapped(
                PATH,
                'clean_cache["z", layer] - corrupted_cache["z", layer]',
                'corrupted_cache["z", layer] - clean_cache["z", layer]',
            ),
            "Step 1: the sign",
        ),
        (
            swapped(
                PATH,
                "return change[:, :, head] @ model.W_O[layer, head]",
                "return torch.einsum('bphd,hdm->bpm', change, model.W_O[layer])",
            ),
            "all heads of the layer",
        ),
        (
            swapped(
                PATH,
                "return change[:, :, head] @ model.W_O[layer, head]",
                "return change[:, :, head]",
            ),
            "expected shape",
        ),
        (swapped(PATH, "layer] + change", "layer]"), "add `change`"),
        (
            swapped(PATH, 'corrupted_cache["resid_pre", layer] + change', "change"),
            "not from the change",
        ),
        (
            swapped(
                PATH,
                V,
                "scores = q @ k.mT / model.cfg.d_head**0.5\n"
                "    past = torch.ones_like(scores[0, 0]).tril() > 0\n"
                "    pattern = scores.masked_fill(~past, -torch.inf).softmax(-1)\n"
                "    return pattern[:, head] @ v[:, head]",
            ),
            "queries and keys see the change too",
        ),
        (
            PATH.replace(V, V.replace("v[:, head]", "v[:, 0]").replace("[:, head]", "[:, 0]")),
            "another head's",
        ),
        (swapped(PATH, "        return z\n", ""), "nothing has changed"),
        (
            swapped(
                PATH, "run_with_hooks(corrupted_tokens", "run_with_hooks(corrupted_tokens * 0 + 1"
            ),
            "numbers differ",
        ),
        (
            swapped(
                PATH,
                "return model.run_with_hooks(corrupted_tokens, fwd_hooks=hooks)",
                "model.add_hook(*hooks[0])\n    return model(corrupted_tokens)",
            ),
            "a hook was left on the model",
        ),
        (
            PATH.replace(
                "    layer, head = receiver\n    change", "    layer, head = sender\n    change"
            ).replace(
                "= new_z(model, corrupted_cache, change, receiver)",
                '= clean_cache["z", layer][:, :, head]',
            ),
            "the sender's output itself",
        ),
    ],
    "2.6": [
        (GRADIENTS + SUM.split("    logits")[0] + "    return ...", "Step 2, `integrated`"),
        (
            swapped(
                INTEGRATED,
                "lambda stream, hook: points",
                "lambda stream, hook: stream + points - points.detach()",
            ),
            "the hook must put `points`",
        ),
        (swapped(INTEGRATED, "metric(logits).sum()", "metric(logits).mean()"), "halved"),
        (
            swapped(
                INTEGRATED,
                "return torch.autograd.grad(metric(logits).sum(), points)[0]",
                "got = torch.autograd.grad(metric(logits).sum(), points)[0]\n"
                "        return got.mean(0)",
            ),
            "expected shape",
        ),
        (swapped(INTEGRATED, "+ 0.5) / steps", ") / steps"), "left ends"),
        (swapped(INTEGRATED, "+ 0.5) / steps", "+ 1) / steps"), "right ends"),
        (swapped(INTEGRATED, "(slopes @ way).mean()", "(slopes @ way).sum()"), "Sum of the slopes"),
        (swapped(INTEGRATED, "(slopes @ way).mean()", "-(slopes @ way).mean()"), "The sign"),
        (swapped(INTEGRATED, "points[:, position] += share * way", "pass"), "attribution patching"),
        (
            swapped(
                INTEGRATED,
                "points[:, position] += share * way",
                "points += share[:, None] * (clean - corrupted)",
            ),
            "all positions move together",
        ),
        (
            GRADIENTS
            + SUM.split("    share")[0]
            + "    exact = patching.patch_residual(model, tokens, clean_cache, metric)[layer]\n"
            "    return exact - metric(logits).item()\n",
            "not an estimate",
        ),
        (
            swapped(
                INTEGRATED,
                "logits = model.run_with_hooks(tokens.expand(len(points), -1), fwd_hooks=hooks)",
                "model.add_hook(*hooks[0])\n        logits = model(tokens.expand(len(points), -1))",
            ),
            "a hook was left on the model",
        ),
        (
            swapped(
                INTEGRATED, "return torch.stack(estimates)", "return torch.stack(estimates).sum()"
            ),
            "expected shape",
        ),
    ],
}
