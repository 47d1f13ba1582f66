"""Typical wrong answers to notebook 6's exercises: code, and what the learner must be told."""

HOOK = """def steer_last(model, tokens, vector, layer):
    def add(stream, hook):
        {body}
    name = f"blocks.{{layer}}.hook_resid_{where}"
    return model.run_with_hooks(tokens, fwd_hooks=[(name, add)])"""


def last(body: str, where: str = "post") -> str:
    return HOOK.format(body="\n        ".join(body.split("; ")), where=where)


def directions(returned: str) -> str:
    return f"def random_directions(vector, n):\n    {returned}"


def priced(returned: str) -> str:
    return f"""def price_of_push(plain, steered):
    log_p, log_q = plain.log_softmax(-1), steered.log_softmax(-1)
    return {returned}"""


GRID = "grid = [(layer, c / 20) for layer in range(n_layers) for c in range(1, 161)]"


def searched(key: str, choices: str = "grid") -> str:
    return f"""def best_layer(try_out, n_layers, budget):
    {GRID}
    affordable = [dose for dose in {choices} if try_out(*dose)[1] <= budget]
    return {key}"""


MISTAKES = {
    "6.1": [
        ("def contrast(p, n): return p.mean(0) - n.mean(0)", "BOS is counted"),
        ("def contrast(p, n): return n[1:].mean(0) - p[1:].mean(0)", "leads from the positive"),
        ("def contrast(p, n): return p[1:].sum(0) - n[1:].sum(0)", "a sum, not a mean"),
        (
            "def contrast(p, n): return p[1:].sum(0) / len(p) - n[1:].sum(0) / len(n)",
            "still counted in the mean",
        ),
        ("def contrast(p, n): return p[-1] - n[-1]", "at the last position alone"),
        ("def contrast(p, n): return (p[1 : len(n)] - n[1:]).mean(0)", "cut off"),
        ("def contrast(p, n): return p[1:].mean(1) - n[1:].mean(1)[0]", "expected shape (4,)"),
        ("def contrast(p, n): return p[1:].mean(0)", "should give"),
    ],
    "6.2": [
        (last("stream = stream.clone(); stream[:, -1] += vector"), "Nothing has changed"),
        (last("return stream + vector"), "added at every position"),
        (
            last("stream = stream.clone(); stream[:, 1] += vector; return stream"),
            "before the last position have changed",
        ),
        (
            last("stream = stream.clone(); stream[:, -1] = vector; return stream"),
            "replaced by the vector",
        ),
        (last("stream = stream.clone(); stream[:, -1] -= vector; return stream"), "subtracted"),
        (
            last("stream = stream.clone(); stream[:, -1] += vector; return stream", "pre"),
            "*entering* block",
        ),
        (
            last("stream = stream.clone(); stream[:, -1] += 2 * vector; return stream"),
            "added more than once",
        ),
        (
            "def steer_last(model, tokens, vector, layer): return model(tokens)[:, -1] + 1",
            "expected shape",
        ),
    ],
    "6.3": [
        (directions("return torch.randn(n, len(vector))"), "divide each by its own norm"),
        (
            directions("d = torch.randn(n, len(vector)); return d / d.norm(dim=-1, keepdim=True)"),
            "unit vectors",
        ),
        (
            directions("d = torch.randn(n, len(vector)); return d / d.norm() * vector.norm()"),
            "norm of each row",
        ),
        (
            directions(
                "d = torch.randn(len(vector)); return (d / d.norm() * vector.norm()).repeat(n, 1)"
            ),
            "one and the same direction",
        ),
        (
            directions(
                "d = torch.randn(n, len(vector), generator=torch.Generator().manual_seed(0)); "
                "return d / d.norm(dim=-1, keepdim=True) * vector.norm()"
            ),
            "the same draw again",
        ),
        (
            directions(
                "d = torch.rand(n, len(vector)); "
                "return d / d.norm(dim=-1, keepdim=True) * vector.norm()"
            ),
            "All numbers have one sign",
        ),
        (
            directions(
                "d = vector + torch.randn(n, len(vector)); "
                "return d / d.norm(dim=-1, keepdim=True) * vector.norm()"
            ),
            "lean towards the vector",
        ),
        (
            directions(
                "return torch.stack([vector[torch.randperm(len(vector))] for _ in range(n)])"
            ),
            "the same sum",
        ),
        (
            directions("return vector.norm() * torch.eye(len(vector))[torch.arange(n) % 3 + 5]"),
            "the same draw again",
        ),
        (
            directions(
                "d = torch.randn(n, len(vector)); d[:, ::2] = 0; "
                "return d / d.norm(dim=-1, keepdim=True) * vector.norm()"
            ),
            "likelier than others",
        ),
    ],
    "6.4": [
        (priced("kl_divergence(steered, plain)[1:].mean()"), "arguments are swapped"),
        (priced("(log_q.exp() * (log_q - log_p)).sum(-1)[1:].mean()"), "arguments are swapped"),
        (priced("(log_p.exp() * (log_q - log_p)).sum(-1)[1:].mean()"), "The sign is wrong"),
        (priced("(log_p.exp() * (log_p - log_q)).sum(-1).mean()"), "Position 0 is counted"),
        (
            priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:].sum() / len(plain)"),
            "still counted in the mean",
        ),
        (priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:].sum()"), "sum over positions"),
        (priced("(log_p.exp() * (log_p - log_q))[1:].mean()"), "over the vocabulary, too"),
        (priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:].mean() / 0.693147"), "in bits"),
        (
            priced("(plain.softmax(-1) * (plain - steered)).sum(-1)[1:].mean()"),
            "changes no probability",
        ),
        (priced("(log_p.exp() - log_q.exp()).abs().sum(-1)[1:].mean()"), "you give"),
        (priced("(log_p.exp() * (log_p - log_q)).sum(-1)[1:]"), "expected shape ()"),
    ],
    "6.5": [
        (searched("max(grid, key=lambda dose: try_out(*dose)[0])"), "over the budget"),
        (
            searched(
                "max(affordable, key=lambda dose: try_out(*dose)[0])",
                "[(i, 1.0) for i in range(n_layers)]",
            ),
            "not the same dose in every layer",
        ),
        (
            searched(
                "max(affordable, key=lambda dose: try_out(*dose)[0])",
                "[(i, 0.19) for i in range(n_layers)]",
            ),
            "not the same dose in every layer",
        ),
        (
            searched(
                "max(affordable, key=lambda dose: try_out(*dose)[0] / try_out(*dose)[1])",
            ),
            "the budget is not used",
        ),
        (searched("max(affordable, key=lambda dose: dose[1])"), "the lowest cost"),
        (
            searched("max(affordable, key=lambda dose: try_out(*dose)[0])[::-1]"),
            "swapped layer and coefficient",
        ),
        (searched("max(affordable, key=lambda dose: try_out(*dose)[0])[0]"), "Return two"),
        (
            searched(
                "max(affordable, key=lambda dose: try_out(*dose)[0])",
                "[(i, c) for i, c in grid if i]",
            ),
            "never called for layer 0",
        ),
        (
            searched(
                "max(affordable, key=lambda dose: try_out(*dose)[0])",
                "[(i, c) for i, c in grid if c % 2.75 == 0]",
            ),
            "steps fine enough",
        ),
    ],
}
