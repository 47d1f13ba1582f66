"""Typical wrong answers to notebook 2's exercises: code, and what the learner must be told."""

PATCH = """def patch_cell(model, prompt, cache, layer, position):
    def patch(stream, hook):
        stream = stream.clone()
        LINE
        return stream

    return model.run_with_hooks(prompt, fwd_hooks=[(f"blocks.{layer}.hook_resid_pre", patch)])"""
RIGHT = 'stream[:, position] = cache["resid_pre", layer][:, position]'

MISTAKES = {
    "2.1": [
        (
            """def on_scale(value, clean, corrupted):
    return (value - clean) / (corrupted - clean)""",
            "are swapped",
        ),
        (
            "def on_scale(value, clean, corrupted): return value / clean",
            "subtract it before you divide",
        ),
        (
            "def on_scale(value, clean, corrupted): return value / (clean - corrupted)",
            "subtract it before you divide",
        ),
        (
            "def on_scale(value, clean, corrupted): return (value - corrupted) / clean",
            "divide by the clean value",
        ),
        (
            """def on_scale(value, clean, corrupted):
    return ((value - corrupted) / (clean - corrupted)).clamp(0, 1)""",
            "overshoot",
        ),
        (
            """def on_scale(value, clean, corrupted):
    return (value - corrupted) / (corrupted - clean)""",
            "The sign is wrong",
        ),
        (
            """def on_scale(value, clean, corrupted):
    return (value - corrupted) / abs(clean - corrupted)""",
            "no absolute value",
        ),
        (
            """def on_scale(value, clean, corrupted):
    return ((value - corrupted) / (clean - corrupted)).mean()""",
            "expected shape (2, 3)",
        ),
    ],
    "2.2": [
        (
            """def preference(logits, one, two):
    probs = logits[:, -1].softmax(-1)
    return probs[:, one] - probs[:, two]""",
            "difference of probabilities",
        ),
        (
            """def preference(logits, one, two):
    return logits[:, 0, one] - logits[:, 0, two]""",
            "you read position 0",
        ),
        (
            """def preference(logits, one, two):
    return logits[:, -2, one] - logits[:, -2, two]""",
            "you read position 3",
        ),
        (
            """def preference(logits, one, two):
    return logits[:, -1, two] - logits[:, -1, one]""",
            "The sign",
        ),
        (
            """def preference(logits, one, two):
    return (logits[:, :, one] - logits[:, :, two]).mean(1)""",
            "mix all positions",
        ),
        (
            "def preference(logits, one, two): return logits.log_softmax(-1)[:, -1, one]",
            "subtract what",
        ),
        (
            "def preference(logits, one, two): return logits[..., one] - logits[..., two]",
            "expected shape (3,)",
        ),
        (
            """def preference(logits, one, two):
    return logits[0, -1, one] - logits[0, -1, two]""",
            "expected shape (3,)",
        ),
        (
            "def preference(logits, one, two): return logits[:, -1, 4] - logits[:, -1, 2]",
            "use the arguments",
        ),
    ],
    "2.3": [
        (PATCH.replace("LINE", 'stream = cache["resid_pre", layer]'), "patched all positions"),
        (
            PATCH.replace("LINE", RIGHT).replace("        return stream\n", ""),
            "Nothing has changed",
        ),
        (
            PATCH.replace("LINE", RIGHT).replace(
                "    def patch", "    _, cache = model.run_with_cache(prompt)\n\n    def patch", 1
            ),
            "are the values from",
        ),
        (PATCH.replace("LINE", RIGHT.replace("position]", "position - 1]")), "and you patched"),
        (PATCH.replace("LINE", RIGHT.replace("position]", "position + 1]")), "and you patched"),
        (
            PATCH.replace("LINE", RIGHT).replace("resid_pre", "resid_post"),
            "This patches `hook_resid_post`",
        ),
        (
            PATCH.replace("LINE", RIGHT).replace("resid_pre", "resid_mid"),
            "what enters the block",
        ),
        (PATCH.replace("LINE", RIGHT).replace("{layer}", "0"), "do you use the argument"),
        (
            PATCH.replace("LINE", RIGHT).replace('"resid_pre", layer', '"resid_pre", 0'),
            "do you use the argument",
        ),
        (
            PATCH.replace("LINE", "old = stream[:, position].clone()")
            .replace("stream.clone()", "stream.clone()", 1)
            .replace(
                "        return stream\n",
                '        stream = cache["resid_pre", layer].clone()\n'
                "        stream[:, position] = old\n        return stream\n",
            ),
            "The wrong way round",
        ),
        (
            PATCH.replace("LINE", RIGHT).replace(
                "return model.run_with_hooks(prompt, fwd_hooks=[("
                'f"blocks.{layer}.hook_resid_pre", patch)])',
                'model.add_hook(f"blocks.{layer}.hook_resid_pre", patch)\n    return model(prompt)',
            ),
            "a hook was left on it",
        ),
        (
            PATCH.replace("LINE", RIGHT).replace("return model.run", "model.run"),
            "does it end in `return`",
        ),
    ],
    "2.4": [
        (
            """def by_role(maps, tail):
    return torch.stack([each[:, [2, 6]] for each in maps]).mean(0)""",
            "counted from the start",
        ),
        (
            """def by_role(maps, tail):
    return torch.stack([each[:, [-tail, -1]] for each in maps]).mean(0)""",
            "already behind the landmark",
        ),
        (
            """def by_role(maps, tail):
    return torch.stack([each[:, [-tail - 2, -1]] for each in maps]).mean(0)""",
            "the token before the landmark",
        ),
        (
            """def by_role(maps, tail):
    return torch.stack([each[:, [-tail - 1, -2]] for each in maps]).mean(0)""",
            "the token before the last.",
        ),
        (
            """def by_role(maps, tail):
    return torch.stack([each[:, [-tail - 1, -1]] for each in maps]).sum(0)""",
            "a sum over pairs",
        ),
        (
            """def by_role(maps, tail):
    return torch.stack([each[:, [-1, -tail - 1]] for each in maps]).mean(0)""",
            "two columns are swapped",
        ),
        ("def by_role(maps, tail): return maps[0][:, [-tail - 1, -1]]", "one pair"),
        (
            """def by_role(maps, tail):
    return torch.stack([each[:, [-tail - 1, -1]] for each in maps])""",
            "expected shape (3, 2)",
        ),
        ("def by_role(maps, tail): return torch.stack(maps).mean(0)", "stack expects each tensor"),
        (
            """def by_role(maps, tail):
    return torch.stack([each[:, [-5, -1]] for each in maps]).mean(0)""",
            "use the argument `tail`",
        ),
    ],
    "2.5": [
        ("needed_head = 2", "Give the pair"),
        ("needed_head = (2, 0)", "need; measure it"),
        ("needed_head = (0, 4)", "There is no head"),
        ("needed_head = (1, 2)", "heads that break more: 1"),
        ("needed_head = (2, 1)", "heads that break more"),
        (
            """scores = []
for pair in CAPITAL_PAIRS:
    t = pair.tokens(model)
    _, cache = model.run_with_cache(t.corrupted)
    grid = patching.patch_head_positions(model, t.clean, cache, t.logit_diff)
    scores.append(grid[..., -1] / t.logit_diff(model(t.clean)))
needed_head = divmod(torch.stack(scores).mean(0).argmax().item(), n_heads)""",
            "leaves the *smallest* one",
        ),
    ],
}
