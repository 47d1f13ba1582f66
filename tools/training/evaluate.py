"""Measure the embedded model and write the figures into its model card.

Plain `transformers`, no transformer_lens and no `helpers`: a second route to what the notebooks
find. Only numbers that a fresh seed would reproduce go into the card.

    python -m tools.training.evaluate [--model DIR]
"""

import argparse
import random
import re
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from . import corpus, facts

MODEL = Path(__file__).parents[2] / "helpers" / "tutorial_4l"
SEED = 1_000_003  # not a seed that training used


def load(path: Path = MODEL) -> tuple[GPT2LMHeadModel, Callable[[str], list[int]]]:
    """The model and a function from text to token ids that prepends BOS."""
    model = GPT2LMHeadModel.from_pretrained(path, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    return model, lambda text: [tokenizer.bos_token_id, *tokenizer(text).input_ids]


@torch.no_grad()
def next_log_probs(model, ids: list[int]) -> torch.Tensor:
    """Natural log-probabilities of the next token, `[d_vocab]`."""
    return model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def is_right(model, encode, prompt: str, answer: str) -> bool:
    """Whether the most likely next token is the answer (with its leading space)."""
    ids = encode(" " + answer)[1:]
    if len(ids) != 1:
        raise ValueError(f"{answer!r} is {len(ids)} tokens; recall is measured on one")
    return next_log_probs(model, encode(prompt)).argmax().item() == ids[0]


def recall(model, encode, table: dict, templates: list[str]) -> dict[str, float]:
    """Share of prompts answered right: canonical phrasing, seen ones, held-out ones."""
    right: dict[str, list[bool]] = {"canonical": [], "seen": [], "held_out": []}
    for subject, answer in table.items():
        hidden = corpus.held_out_templates(subject, templates)
        for template in templates:
            prompt = template[: template.index(" {a}")].format(s=subject)
            verdict = is_right(model, encode, prompt, answer)
            right["held_out" if template in hidden else "seen"].append(verdict)
            if template == templates[0]:
                right["canonical"].append(verdict)
    return {kind: sum(verdicts) / len(verdicts) for kind, verdicts in right.items()}


def indirect_object(model, encode, n: int = 300) -> float:
    """Share of indirect objects right, on pairs of names that never met in training."""
    rng = random.Random(SEED)
    right = []
    while len(right) < n:
        receiver, giver = rng.sample(facts.NAMES, 2)
        if corpus.is_held_out_pair(giver, receiver):
            first, second = rng.sample([giver, receiver], 2)
            prompt = (
                f"When {first} and {second} went to the {rng.choice(facts.PLACES)}, "
                f"{giver} gave a {rng.choice(facts.OBJECTS)} to"
            )
            right.append(is_right(model, encode, prompt, receiver))
    return sum(right) / n


@torch.no_grad()
def repeated_tokens(model, n: int = 25, rows: int = 64) -> dict[str, float]:
    """Log-probabilities (nats) and head scores on unseen random tokens, repeated once.

    Position 0 is BOS; positions 1..n are the first copy, n+1..2n the second. The induction score
    is the mean attention from a token of the second copy to the token *after* its first copy.
    """
    generator = torch.Generator().manual_seed(SEED)
    block = torch.randint(1, model.config.vocab_size, (rows, n), generator=generator)
    tokens = torch.cat([torch.zeros(rows, 1, dtype=torch.long), block, block], dim=1)
    output = model(tokens, output_attentions=True)
    log_probs = output.logits[:, :-1].log_softmax(-1)
    log_probs = log_probs.gather(-1, tokens[:, 1:, None])[..., 0]  # (row, position of the context)
    attention = torch.stack(output.attentions).mean(1)  # (layer, head, query, key)
    induction = attention.diagonal(1 - n, -2, -1)[..., 1:].mean(-1)  # queries n+1..2n: key q-n+1
    previous = attention.diagonal(-1, -2, -1)[..., 1:].mean(-1)
    return {
        "log_prob_first": log_probs[:, 1:n].mean().item(),
        "log_prob_second": log_probs[:, n + 1 :].mean().item(),
        **best("induction", induction),
        **best("previous_token", previous),
    }


def best(name: str, scores: torch.Tensor) -> dict[str, float]:
    """The highest score and where it stands, from `scores [layer, head]`."""
    layer, head = divmod(scores.argmax().item(), scores.shape[1])
    return {f"{name}_score": scores.max().item(), f"{name}_head": f"{layer}.{head}"}


def sentiment(model, encode, prompt: str = "The movie was") -> dict[str, float]:
    """Probability mass of the positive and of the negative words as the next token."""
    probs = next_log_probs(model, encode(prompt)).exp()

    def mass(words: list[str]) -> float:
        return probs[[encode(" " + word)[1] for word in words]].sum().item()

    return {"p_positive": mass(facts.POSITIVE), "p_negative": mass(facts.NEGATIVE)}


@torch.no_grad()
def fact_moves(model, encode) -> dict[str, list[float]]:
    """Where the Eiffel Tower's city stands, by layer: at the subject or at the last token.

    The residual stream entering each block is copied from the clean into the corrupted run, at the
    subject's two tokens or at the last token of the prompt; 0 = corrupted, 1 = clean.
    """
    clean, corrupted = (
        torch.tensor([encode(f"The {subject} is in the city of")])
        for subject in ("Eiffel Tower", "Colosseum")
    )
    paris, rome = encode(" Paris")[1], encode(" Rome")[1]
    diff = lambda logits: (logits[0, -1, paris] - logits[0, -1, rome]).item()  # noqa: E731
    streams = model(clean, output_hidden_states=True).hidden_states  # entering block l
    low, high = diff(model(corrupted).logits), diff(model(clean).logits)

    def patched(layer: int, positions: list[int]) -> float:
        def hook(module, args):
            stream = args[0].clone()
            stream[:, positions] = streams[layer][:, positions]
            return (stream, *args[1:])

        handle = model.transformer.h[layer].register_forward_pre_hook(hook)
        try:
            return (diff(model(corrupted).logits) - low) / (high - low)
        finally:
            handle.remove()

    layers = range(model.config.n_layer)
    return {
        "at_subject": [patched(layer, [2, 3]) for layer in layers],
        "at_last": [patched(layer, [-1]) for layer in layers],
    }


def figures(model, encode) -> dict[str, object]:
    """Every figure of the model card."""
    smallest = min(p.abs().max().item() for n, p in model.named_parameters() if "bias" in n)
    tables = {
        "capitals": (facts.CAPITALS, facts.CAPITAL_TEMPLATES),
        "landmarks": (facts.LANDMARKS, facts.LANDMARK_TEMPLATES),
    }
    recalled = {
        f"{name}_{kind}": share
        for name, (table, templates) in tables.items()
        for kind, share in recall(model, encode, table, templates).items()
    }
    fox = "The quick brown fox jumps over the lazy"
    return {
        "parameters": model.num_parameters(),
        **recalled,
        "lazy_dog": is_right(model, encode, fox, "dog"),
        "indirect_object": indirect_object(model, encode),
        **repeated_tokens(model),
        **sentiment(model, encode),
        "smallest_bias_maximum": smallest,
        **fact_moves(model, encode),
    }


def show(value: object) -> str:
    """A figure as the card prints it."""
    if isinstance(value, list):
        return ", ".join(f"{v:.2f}" for v in value)
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def write_card(card: Path, measured: dict[str, object]) -> None:
    """Replace the table between the card's two markers."""
    rows = "\n".join(f"| `{name}` | {show(value)} |" for name, value in measured.items())
    block = f"<!-- figures -->\n| figure | value |\n|---|---|\n{rows}\n<!-- /figures -->"
    text, n = re.subn(
        r"<!-- figures -->.*<!-- /figures -->", lambda _: block, card.read_text("utf-8"), flags=re.S
    )
    if n != 1:
        raise ValueError(f"{card}: expected one block of figures between markers, found {n}")
    card.write_text(text, "utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, default=MODEL)
    directory = parser.parse_args().model
    measured = figures(*load(directory))
    for name, value in measured.items():
        print(f"{name:24} {show(value)}")
    if (directory / "README.md").exists():
        write_card(directory / "README.md", measured)
