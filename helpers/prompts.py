"""Clean/corrupted prompt pairs whose tokens are checked to line up before anything is patched."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from helpers.inputs import expect_fits, expect_text
from helpers.metrics import Metric, logit_diff, reads_last


class PairTokens(NamedTuple):
    """The token ids of one pair: same length, so that position i means the same in both."""

    clean: Int[Tensor, "1 pos"]
    corrupted: Int[Tensor, "1 pos"]
    answer: Int[Tensor, "1"]
    distractor: Int[Tensor, "1"]

    @property
    def logit_diff(self) -> Metric:
        """`metrics.logit_diff` with this pair's answer and distractor for every row: a metric for
        `helpers.patching`. Positive in the clean run, negative in the corrupted one."""

        def metric(logits: Float[Tensor, "rows pos d_vocab"]) -> Float[Tensor, "rows"]:
            rows = logits.shape[0]
            return logit_diff(logits, self.answer.expand(rows), self.distractor.expand(rows))

        return reads_last(metric, tokens=torch.cat([self.answer, self.distractor]))


@dataclass(frozen=True)
class PromptPair:
    """Two prompts that differ in one thing, and the two next tokens that tell them apart.

    Args:
        clean, corrupted: the prompts, without BOS and without a space at the end.
        answer, distractor: right after the clean and after the corrupted prompt; one token each,
            so mostly with a leading space (" Paris").

    Source: symmetric token replacement, Zhang & Nanda 2023 (arXiv 2309.16042).
    """

    clean: str
    corrupted: str
    answer: str
    distractor: str

    def tokens(self, model) -> PairTokens:
        """Tokenize with BOS and check that the pair can be patched position by position.

        Raises:
            TypeError: a field is not a string.
            ValueError: an empty prompt, one longer than the context, a different number of tokens,
                the same tokens twice, or an answer that is not one token; shows both tokenizations.
        """
        for name in ("clean", "corrupted", "answer", "distractor"):
            expect_text(name, getattr(self, name))
        # Said outright: transformer_lens leaves BOS out for some models (Pythia).
        clean, corrupted = (
            model.to_tokens(text, prepend_bos=True, truncate=False)
            for text in (self.clean, self.corrupted)
        )
        expect_fits("clean", clean, model.cfg.n_ctx)
        expect_fits("corrupted", corrupted, model.cfg.n_ctx)
        both = f"\n  clean     {_shown(model, clean)}\n  corrupted {_shown(model, corrupted)}"
        if clean.shape != corrupted.shape:
            raise ValueError(
                f"the prompts have {clean.shape[1]} and {corrupted.shape[1]} tokens, so position i "
                f"would mean two different things; reword one until they line up:{both}"
            )
        if torch.equal(clean, corrupted):
            raise ValueError(f"clean and corrupted are the same tokens; nothing to patch:{both}")
        answer, distractor = (
            _one_token(model, name, getattr(self, name)) for name in ("answer", "distractor")
        )
        if torch.equal(answer, distractor):
            raise ValueError(f"answer and distractor are the same token, {self.answer!r}")
        return PairTokens(clean, corrupted, answer, distractor)


def _one_token(model, name: str, text: str) -> Int[Tensor, "1"]:
    ids = model.to_tokens(text, prepend_bos=False, truncate=False)
    if ids.shape[1] != 1:
        hint = "" if text.startswith(" ") else f"; with a leading space, {' ' + text!r}?"
        raise ValueError(
            f"{name} {text!r} is {ids.shape[1]} tokens, {_shown(model, ids)}, and a logit belongs "
            f"to one{hint}"
        )
    return ids[0]


def _shown(model, ids: Int[Tensor, "1 pos"]) -> str:
    return "|".join(model.tokenizer.batch_decode(ids[0][:, None]))


# Same answer position, same length and the same subject span under the embedded tokenizer and under
# GPT-2's (tests/test_tutorial_model.py); the first pair is the lesson's own.
CITY_PAIRS = tuple(
    PromptPair(f"The {one} is in the city of", f"The {other} is in the city of", a, b)
    for one, a, other, b in [
        ("Eiffel Tower", " Paris", "Colosseum", " Rome"),
        ("Opera House", " Sydney", "Blue Mosque", " Istanbul"),
        ("Tower Bridge", " London", "Charles Bridge", " Prague"),
        ("White House", " Washington", "Forbidden City", " Beijing"),
        ("Willis Tower", " Chicago", "Liberty Bell", " Philadelphia"),
        ("Louvre", " Paris", "Acropolis", " Athens"),
        ("Trevi Fountain", " Rome", "Vasa Museum", " Stockholm"),
        ("Brandenburg Gate", " Berlin", "Prado Museum", " Madrid"),
        ("Hofburg Palace", " Vienna", "Space Needle", " Seattle"),
        ("Grand Palace", " Bangkok", "Chain Bridge", " Budapest"),
        ("Little Mermaid", " Copenhagen", "Spanish Steps", " Rome"),
        ("Pantheon", " Rome", "Atomium", " Brussels"),
    ]
)
CAPITAL_PAIRS = tuple(
    PromptPair(f"The capital of {one} is", f"The capital of {other} is", a, b)
    for one, a, other, b in [
        ("France", " Paris", "Italy", " Rome"),
        ("Germany", " Berlin", "Spain", " Madrid"),
        ("Japan", " Tokyo", "China", " Beijing"),
        ("Egypt", " Cairo", "Greece", " Athens"),
        ("Sweden", " Stockholm", "Norway", " Oslo"),
        ("Poland", " Warsaw", "Austria", " Vienna"),
        ("Russia", " Moscow", "Ireland", " Dublin"),
        ("Canada", " Ottawa", "Cuba", " Havana"),
    ]
)
