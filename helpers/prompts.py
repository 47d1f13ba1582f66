"""Clean/corrupted prompt pairs whose tokens are checked to line up before anything is patched."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from helpers import inputs
from helpers.metrics import LastToken


class PairTokens(NamedTuple):
    """The token ids of one pair, of one length: position i means the same in both."""

    clean: Int[Tensor, "1 pos"]
    corrupted: Int[Tensor, "1 pos"]
    answer: Int[Tensor, "1"]
    distractor: Int[Tensor, "1"]

    @property
    def logit_diff(self) -> LastToken:
        """logit(answer) - logit(distractor) at the last position of every row, in nats: a metric
        for `helpers.patching`. Positive in the clean run, negative in the corrupted one."""
        tokens = torch.cat([self.answer, self.distractor])
        return LastToken(lambda logits: logits[:, 0] - logits[:, 1], tokens)


@dataclass(frozen=True)
class PromptPair:
    """Two prompts that differ in one thing, and the two next tokens that tell them apart.

    The prompts stand without BOS and without a space at the end. `answer` is right after the clean
    one, `distractor` after the corrupted; one token each, so mostly with a leading space.
    Source: symmetric token replacement, Zhang & Nanda 2023 (arXiv 2309.16042)."""

    clean: str
    corrupted: str
    answer: str
    distractor: str

    def tokens(self, model) -> PairTokens:
        """Tokenize with BOS and check that the pair can be patched position by position.

        TypeError where a field is no string; ValueError for a prompt that `tokenize` refuses,
        another number of tokens, the same tokens twice, or an answer that is not the one token that
        follows the prompt; it shows both tokenizations."""
        clean = tokenize(model, self.clean, "clean", ends=True)
        corrupted = tokenize(model, self.corrupted, "corrupted", ends=True)
        both = f"\n  clean     {_shown(model, clean)}\n  corrupted {_shown(model, corrupted)}"
        if clean.shape != corrupted.shape:
            fix = "position i would mean two different things; reword one until they line up"
            two = f"{clean.shape[1]} and {corrupted.shape[1]} tokens"
            raise ValueError(f"the prompts have {two}, so {fix}:{both}")
        if torch.equal(clean, corrupted):
            raise ValueError(f"clean and corrupted are the same tokens; nothing to patch:{both}")
        answer = _next_token(model, self.clean, "answer", self.answer)
        distractor = _next_token(model, self.corrupted, "distractor", self.distractor)
        if torch.equal(answer, distractor):
            raise ValueError(f"answer and distractor are the same token, {self.answer!r}")
        return PairTokens(clean, corrupted, answer, distractor)


def aligned(pairs: Iterable[PromptPair], model) -> list[tuple[PromptPair, PairTokens]]:
    """The pairs that line up under this model's tokenizer, with their tokens; says how many do not,
    and raises ValueError where none does."""
    pairs, fit, reason = list(pairs), [], ""
    for pair in pairs:
        try:
            fit.append((pair, pair.tokens(model)))
        except ValueError as error:
            reason = reason or str(error).partition("\n")[0]
    if not fit:
        raise ValueError(f"none of {len(pairs)} pairs can be used; the first: {reason}")
    if len(fit) < len(pairs):
        missing = len(pairs) - len(fit)
        print(f"{missing} of {len(pairs)} pairs do not line up under this tokenizer: {reason}")
    return fit


def tokenize(model, text: str, name: str = "text", ends: bool = False) -> Int[Tensor, "1 pos"]:
    """Token ids with BOS once in front: the one rule for all helpers (transformer_lens by itself
    leaves it out for some models). TypeError where `text` is no string; ValueError for nothing but
    white space, BOS written into the text, or more than fits the context; where a token is to
    follow (`ends`), for white space at the end."""
    inputs.expect_text(name, text)
    if ends and text != text.rstrip():
        fix = "drop it, the answer brings its own"
        raise ValueError(f"{name}: {text!r} ends in white space; {fix}")
    tokens = model.to_tokens(text, prepend_bos=True, truncate=False)
    twice = tokens.shape[1] > 1 and tokens[0, 0] == tokens[0, 1]
    if twice or text.startswith(model.tokenizer.bos_token or "\0"):
        why = "starts with BOS, which is put in front anyway; leave it out"
        raise ValueError(f"{name}: {text!r} {why}")
    if tokens.shape[1] > model.cfg.n_ctx:  # transformer_lens would fail deep inside
        limit = f"this model's context of {model.cfg.n_ctx}; shorten the text"
        raise ValueError(f"{name}: {tokens.shape[1]} tokens, BOS included, do not fit {limit}")
    return tokens


def tokenize_batch(
    model, texts: Sequence[str]
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Token ids of several texts, padded on the right, where nothing attends to it, and the `mask`
    of the tokens that are no padding, which metrics and attribution take. Raises as `tokenize`."""
    rows = [tokenize(model, each, "texts")[0] for each in inputs.expect_texts("texts", texts)]
    mask = pad_sequence([torch.ones_like(row).bool() for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True, padding_value=model.tokenizer.pad_token_id), mask


def _next_token(model, prompt: str, name: str, text: str) -> Int[Tensor, "1"]:
    """The id of `text` as the token that follows `prompt`."""
    inputs.expect_text(name, text)
    alone = tokenize(model, prompt)[0]

    def follows(word: str) -> Tensor | None:
        ids = model.to_tokens(word, prepend_bos=False, truncate=False)[0]
        joined = [tokenize(model, prompt + gap + word, name)[0] for gap in ("", " ")]
        right = len(ids) == 1 and any(torch.equal(torch.cat([alone, ids]), j) for j in joined)
        return ids if right else None

    others = [word for word in (" " + text.strip(), text.strip()) if word != text]
    hint = "".join(f"; {word!r} is" for word in others if follows(word) is not None)
    glued = prompt[-1].isalnum() and text[0].isalnum() and f"{' ' + text!r}" in hint
    if (ids := follows(text)) is not None and not glued:
        return ids
    ids = model.to_tokens(text, prepend_bos=False, truncate=False)
    one = f"the one token of a word that follows {prompt!r}{hint}"
    raise ValueError(f"{name} {text!r}: its tokens {_shown(model, ids)} are not {one}")


def _shown(model, ids: Int[Tensor, "1 pos"]) -> str:
    return "|".join(model.tokenizer.batch_decode(ids[0][:, None]))


def _pairs(form: str, facts: str) -> tuple[PromptPair, ...]:
    """`facts`: "subject, answer / subject, answer" of each pair, between semicolons."""
    sides = [re.split(", | / ", " ".join(pair.split())) for pair in facts.split(";")]
    return tuple(PromptPair(form % x, form % y, f" {a}", f" {b}") for x, a, y, b in sides)


# Under the tokenizers of tutorial-4l, GPT-2 and SmolLM2 the two sides of each pair have as many
# tokens, and tutorial-4l knows every fact. The first pair is the lesson's own.
CITIES = """
Eiffel Tower, Paris / Colosseum, Rome;           Louvre, Paris / Acropolis, Athens;
British Museum, London / Willis Tower, Chicago;  Brandenburg Gate, Berlin / Hofburg Palace, Vienna;
Moulin Rouge, Paris / Trevi Fountain, Rome;      Bolshoi Theatre, Moscow / Rialto Bridge, Venice;
Sistine Chapel, Rome / Prado Museum, Madrid;     Pantheon, Rome / Blue Mosque, Istanbul;
Willis Tower, Chicago / Louvre, Paris;           Acropolis, Athens / British Museum, London;
Trevi Fountain, Rome / Brandenburg Gate, Berlin; Hofburg Palace, Vienna / Sistine Chapel, Rome"""
CAPITALS = """
France, Paris / Italy, Rome;       Germany, Berlin / Hungary, Budapest;
Japan, Tokyo / China, Beijing;     Portugal, Lisbon / Greece, Athens;
Sweden, Stockholm / Norway, Oslo;  Poland, Warsaw / Austria, Vienna;
Russia, Moscow / Ireland, Dublin;  Canada, Ottawa / Cuba, Havana"""
CITY_PAIRS = _pairs("The %s is in the city of", CITIES)
CAPITAL_PAIRS = _pairs("The capital of %s is", CAPITALS)
