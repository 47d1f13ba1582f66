"""Train the embedded model `tutorial-4l` from nothing: `make train`.

A GPT-2 of 4 layers learns the text of `corpus.py` in about ten minutes on two CPU cores. Every
batch is a function of its step alone, so a run that was stopped and resumed from its checkpoint
sees the same text as one that was not.

    python -m tools.training.train [--out DIR] [--steps N]
"""

import argparse
import itertools
import random
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from . import corpus, facts

SEED = 0
BOS = "<|endoftext|>"
N_VOCAB = 2304  # an upper bound: the corpus has fewer words to merge
CONTEXT = 128
ROWS = 32  # a batch is 32 rows of 128 tokens
NOISE = 0.3  # share of rows that are repeated random tokens
STEPS = 2000
LEARNING_RATE, WARM_UP = 2e-3, 200
LOCAL_SHARE, WINDOW = 0.5, 2  # see `local_attention`
CHECKPOINT_EVERY = 250
OUT = Path(__file__).parents[2] / "helpers" / "tutorial_4l"
CUT = "\u2060"  # marks where a word is cut while the tokenizer learns; never in the shipped text


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE learnt on the corpus, as GPT-2's, with `<|endoftext|>` as token 0.

    One-word landmarks are shown to the learner in two parts (`facts.SPLIT_WORDS`), so that no merge
    ever joins them and every landmark is two tokens long.
    """

    def marked(text: str) -> str:
        for left, right in facts.SPLIT_WORDS:
            text = text.replace(left + right, left + CUT + right)
        return text

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(CUT, "removed"), byte_level]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=[BOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = itertools.islice(corpus.documents(SEED), 60_000)
    tokenizer.train_from_iterator(map(marked, text), trainer)
    tokenizer.pre_tokenizer = byte_level
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=BOS,
        unk_token=BOS,
        model_max_length=CONTEXT,
    )


def english_row(documents, tokenizer) -> list[int]:
    """Whole documents, each behind a BOS, until the row is full."""
    row: list[int] = []
    while len(row) < CONTEXT:
        row += [0, *tokenizer(next(documents)).input_ids]
    return row[:CONTEXT]


def batch(step: int, tokenizer) -> torch.Tensor:
    """The tokens `[row, position]` of one training step, a function of the step alone."""
    rng = random.Random(f"{SEED} {step}")
    documents = corpus.documents(rng.getrandbits(64))
    n_noise = round(NOISE * ROWS)
    rows = [corpus.repeated_noise(rng, len(tokenizer), CONTEXT) for _ in range(n_noise)]
    rows += [english_row(documents, tokenizer) for _ in range(ROWS - n_noise)]
    return torch.tensor(rows)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to zero; a factor of `LEARNING_RATE`."""
    return min((step + 1) / WARM_UP, (steps - step) / (steps - WARM_UP))


@contextmanager
def local_attention(block):
    """The block's attention sees only the last `WINDOW` tokens, its own included.

    Used on the first block in the first half of the training. Without it, so small a model sends a
    landmark's city to the end of the sentence in its very first layer, and there is no fact to be
    watched on its way. With it, the first layer learns to look at its neighbours (a previous-token
    head among them), the fact is put together at the subject and moves later; it stays so when the
    window is lifted. The architecture is GPT-2's throughout.
    """
    distance = torch.arange(CONTEXT)[:, None] - torch.arange(CONTEXT)  # (query, key)
    mask = torch.zeros(CONTEXT, CONTEXT).masked_fill((distance < 0) | (distance >= WINDOW), -1e9)

    def use_mask(module, args, kwargs):
        return args, kwargs | {"attention_mask": mask[None, None]}

    handle = block.attn.register_forward_pre_hook(use_mask, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def train(out: Path, steps: int) -> None:
    """Train and save; resumes from `out/checkpoint.pt` where there is one."""
    torch.manual_seed(SEED)
    tokenizer = build_tokenizer()
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_positions=CONTEXT,
            n_embd=128,
            n_layer=4,
            n_head=4,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=0,
            eos_token_id=0,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: learning_rate(s, steps))
    parts = {"model": model, "optimizer": optimizer, "schedule": schedule}

    out.mkdir(parents=True, exist_ok=True)
    checkpoint, first = out / "checkpoint.pt", 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["steps"] != steps:
            raise ValueError(f"{checkpoint} is of a run of {saved['steps']} steps; delete it first")
        first = saved["step"]
        for name, part in parts.items():
            part.load_state_dict(saved[name])

    bar = tqdm(
        range(first, steps), initial=first, total=steps, unit_scale=ROWS * CONTEXT, unit=" tokens"
    )
    for step in bar:
        tokens = batch(step, tokenizer)
        local = step < LOCAL_SHARE * steps
        with local_attention(model.transformer.h[0]) if local else nullcontext():
            loss = model(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % CHECKPOINT_EVERY == 0 and step + 1 < steps:
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save(state | {"step": step + 1, "steps": steps}, checkpoint)

    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)  # saved as 0600, which a wheel would keep
    checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    train(arguments.out, arguments.steps)
