"""Clean/corrupted prompt pairs whose tokens are checked to line up before anything is patched."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
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
    """Two prompts that differ in one thing, and the two next tokens that tell them apart. The
    prompts stand without BOS and without a space at the end. `answer` is right after the clean one,
    `distractor` after the corrupted; one token each, so mostly with a leading space.
    Source: symmetric token replacement, Zhang & Nanda 2023 (arXiv 2309.16042)."""

    clean: str
    corrupted: str
    answer: str
    distractor: str

    def tokens(self, model) -> PairTokens:
        """Tokenize with BOS and check that the pair can be patched position by position. TypeError
        where a field is no string; ValueError for a prompt that `tokenize` refuses, prompts of
        unequal length or equal tokens, or an answer that is not the one token that follows."""
        clean = tokenize(model, self.clean, "clean", ends=True)
        corrupted = tokenize(model, self.corrupted, "corrupted", ends=True)
        both = f"\n  clean     {_shown(model, clean)}\n  corrupted {_shown(model, corrupted)}"
        if clean.shape != corrupted.shape:
            two = f"{clean.shape[1]} and {corrupted.shape[1]} tokens, so position i means 2 things"
            raise ValueError(f"the prompts have {two}; reword one until they line up:{both}")
        if torch.equal(clean, corrupted):
            raise ValueError(f"clean and corrupted are the same tokens; nothing to patch:{both}")
        answer = _next_token(model, self.clean, "answer", self.answer)
        distractor = _next_token(model, self.corrupted, "distractor", self.distractor)
        if torch.equal(answer, distractor):
            raise ValueError(f"answer and distractor are the same token, {self.answer!r}")
        return PairTokens(clean, corrupted, answer, distractor)


def aligned(pairs: Iterable[PromptPair], model) -> list[tuple[PromptPair, PairTokens]]:
    """The pairs that line up under this model's tokenizer, with their tokens; says how many do not.
    TypeError where one is no PromptPair; ValueError where none lines up."""
    pairs, fit, reason = inputs.expect_list("pairs", pairs, of="PromptPair"), [], ""
    for pair in pairs:
        if not isinstance(pair, PromptPair):
            raise TypeError(f"pairs: expected a list of PromptPair, got one of {pair!r}")
        try:
            fit.append((pair, pair.tokens(model)))
        except ValueError as error:
            reason = reason or str(error).partition("\n")[0]
    if not fit:
        raise ValueError(f"none of {len(pairs)} pairs can be used; the first: {reason}")
    if missing := len(pairs) - len(fit):
        print(f"{missing} of {len(pairs)} pairs do not line up under this tokenizer: {reason}")
    return fit


def tokenize(model, text: str, name: str = "text", ends: bool = False) -> Int[Tensor, "1 pos"]:
    """Token ids with BOS once in front: the one rule for all helpers (transformer_lens leaves it
    out for some models). TypeError for no string; ValueError where `text` is blank, has BOS in it
    or does not fit the context; where a token is to follow (`ends`), for a space at the end."""
    inputs.expect_text(name, text)
    if ends and text != text.rstrip():
        raise ValueError(f"{name}: {text!r} ends in white space; drop it, the answer has its own")
    tokens = model.to_tokens(text, prepend_bos=True, truncate=False)
    twice = tokens.shape[1] > 1 and tokens[0, 0] == tokens[0, 1]
    if twice or text.startswith(model.tokenizer.bos_token or "\0"):
        raise ValueError(f"{name}: {text!r} starts with BOS, which is put in front anyway; drop it")
    if (length := tokens.shape[1]) > (most := model.cfg.n_ctx):  # else it fails deep inside
        raise ValueError(f"{name}: {length} tokens with BOS, and the context is {most}; shorten it")
    return tokens


def tokenize_batch(
    model, texts: Sequence[str]
) -> tuple[Int[Tensor, "batch pos"], Bool[Tensor, "batch pos"]]:
    """Token ids of several texts, padded on the right, where nothing attends to it, and the `mask`
    of the tokens that are no padding, which metrics and attribution take. Raises as `tokenize`."""
    rows = [tokenize(model, each, "texts")[0] for each in inputs.expect_list("texts", texts)]
    mask = pad_sequence([torch.ones_like(row).bool() for row in rows], batch_first=True)
    return pad_sequence(rows, batch_first=True, padding_value=model.tokenizer.pad_token_id), mask


def _next_token(model, prompt: str, name: str, text: str) -> Int[Tensor, "1"]:
    """The id of `text` as the token that follows `prompt`."""
    inputs.expect_text(name, text)

    def follows(word: str) -> bool:
        ids = model.to_tokens(word, prepend_bos=False, truncate=False)
        both = torch.cat([tokenize(model, prompt), ids], dim=1)
        joined = [tokenize(model, prompt + gap + word, name) for gap in ("", " ")]
        return ids.shape[1] == 1 and any(torch.equal(both, each) for each in joined)

    others = [word for word in (" " + text.strip(), text.strip()) if word != text]
    hint = "".join(f"; {word!r} is" for word in others if follows(word))
    glued = prompt[-1].isalnum() and text[0].isalnum() and f"{' ' + text!r}" in hint
    ids = model.to_tokens(text, prepend_bos=False, truncate=False)
    if follows(text) and not glued:
        return ids[0]
    one = f"the one token of a word that follows {prompt!r}{hint}"
    raise ValueError(f"{name} {text!r}: its tokens {_shown(model, ids)} are not {one}")


def _shown(model, ids: Int[Tensor, "1 pos"]) -> str:
    return "|".join(model.tokenizer.batch_decode(ids[0][:, None]))


# They line up under the tokenizers of tutorial-4l, GPT-2 and SmolLM2; the first is the lessons'.
_KNOWN = json.loads((files("helpers") / "pairs.json").read_text("utf-8"))
CITY_PAIRS = tuple(PromptPair(*pair) for pair in _KNOWN["cities"])
CAPITAL_PAIRS = tuple(PromptPair(*pair) for pair in _KNOWN["capitals"])
