"""`helpers.prompts`: pairs that line up are tokenized, all others are refused with a picture."""

import dataclasses
import re

import pytest
import torch

from helpers import metrics, prompts
from helpers.prompts import CAPITAL_PAIRS, CITY_PAIRS

PAIRS = CITY_PAIRS + CAPITAL_PAIRS


@pytest.mark.parametrize("one", PAIRS, ids=[f"{p.answer}-{p.distractor}" for p in PAIRS])
def test_the_lessons_pairs_are_accepted(model, one):
    tokens = one.tokens(model)
    assert tokens.clean.shape == tokens.corrupted.shape
    assert tokens.clean[0, 0] == tokens.corrupted[0, 0] == model.tokenizer.bos_token_id
    assert model.to_string(tokens.clean[0, 1:]) == one.clean
    assert model.to_string(tokens.corrupted[0, 1:]) == one.corrupted
    assert model.to_string(tokens.answer) == one.answer
    assert model.to_string(tokens.distractor) == one.distractor


def test_a_pairs_metric_is_the_logit_difference_of_every_row(pair):
    tokens = pair.tokens
    both = torch.cat([pair.clean_logits, pair.corrupted_logits, pair.clean_logits])
    expected = [
        metrics.logit_diff(logits, tokens.answer, tokens.distractor)
        for logits in (pair.clean_logits, pair.corrupted_logits, pair.clean_logits)
    ]
    assert torch.equal(tokens.logit_diff(both), torch.cat(expected))


def refused(plain, model, error, **changes) -> str:
    """The message of the error that the lesson's pair raises with these fields changed."""
    fields = dataclasses.asdict(CITY_PAIRS[0]) | changes
    with pytest.raises(error) as raised:
        plain.prompts.PromptPair(**fields).tokens(model)
    return str(raised.value)


def split(model, prompt: str) -> str:
    return "|".join(model.to_str_tokens(prompt))


def test_misaligned_prompts_are_shown_side_by_side(plain, model):
    clean, corrupted = CITY_PAIRS[0].clean, "The"
    message = refused(plain, model, ValueError, corrupted=corrupted)
    counts = [model.to_tokens(text).shape[1] for text in (clean, corrupted)]
    assert f"have {counts[0]} and {counts[1]} tokens" in message
    assert split(model, clean) in message and split(model, corrupted) in message
    assert re.search(r"clean .*\n.*corrupted ", message) and "reword one" in message


def test_equal_prompts_are_refused(plain, model):
    message = refused(plain, model, ValueError, corrupted=CITY_PAIRS[0].clean)
    assert "same tokens" in message and split(model, CITY_PAIRS[0].clean) in message


@pytest.mark.parametrize("field", ["answer", "distractor"])
def test_an_answer_of_several_tokens_is_shown(plain, model, field):
    message = refused(plain, model, ValueError, **{field: " Paris Rome"})
    shown = "|".join(model.to_str_tokens(" Paris Rome", prepend_bos=False))
    assert message.startswith(f"{field} ' Paris Rome' is") and shown in message
    assert "leading space" not in message
    assert "with a leading space, ' Paris Rome'" in refused(
        plain, model, ValueError, **{field: "Paris Rome"}
    )


def test_answers_that_are_one_token_are_refused(plain, model):
    message = refused(plain, model, ValueError, distractor=CITY_PAIRS[0].answer)
    assert "answer and distractor are the same token, ' Paris'" in message


@pytest.mark.parametrize("field", ["clean", "corrupted", "answer", "distractor"])
def test_a_field_without_text_is_named(plain, model, field):
    assert f"{field}: expected some text" in refused(plain, model, ValueError, **{field: ""})
    assert f"{field}: expected some text" in refused(plain, model, ValueError, **{field: " \n"})
    assert f"{field}: expected a string, got int" in refused(plain, model, TypeError, **{field: 3})
    assert f"{field}: expected a string, got list" in refused(
        plain, model, TypeError, **{field: ["The"]}
    )


def test_a_pair_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        CITY_PAIRS[0].clean = "other"


def test_a_pair_of_one_token_prompts_is_enough(model):
    """Nothing in the check needs more than one position after BOS."""
    tokens = prompts.PromptPair(" Paris", " Rome", " is", " of").tokens(model)
    assert tokens.clean.shape == (1, 2)
