"""`helpers.prompts`: pairs that line up are tokenized, all others are refused with a picture."""

import dataclasses
import re
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from helpers import metrics
from helpers.prompts import CAPITAL_PAIRS, CITY_PAIRS, PromptPair, aligned, tokenize

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
    expected = metrics.logit_diff(both, tokens.answer.expand(3), tokens.distractor.expand(3))
    assert torch.equal(tokens.logit_diff(both), expected)
    assert tokens.logit_diff.tokens.tolist() == [tokens.answer.item(), tokens.distractor.item()]


# Tiny tokenizers of each kind, and a model that has no more than one


GPT2, LLAMA, OWN = "GPT-2", "Llama", "adds BOS itself"


def of_kind(kind: str) -> SimpleNamespace:
    """A "▁" before each word (Llama), "Ġ" in front of all but the first (GPT-2), or a BOS that is
    put there by the tokenizer itself."""
    words = "The A cat dog sat ran on mat rug the".split()
    mark = "▁" if kind == LLAMA else "Ġ"
    tokens = ["<s>", "<unk>", *(mark + word for word in words), *words, mark]
    tokenizer = Tokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>"))
    if kind == LLAMA:
        spaces = [normalizers.Prepend(mark), normalizers.Replace(" ", mark)]
        tokenizer.normalizer = normalizers.Sequence(spaces)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(mark, "merged_with_next")
        tokenizer.decoder = decoders.Replace(mark, " ")
    else:
        split = pre_tokenizers.Split(" ", "merged_with_next")
        byte = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte])
        tokenizer.decoder = decoders.ByteLevel()
    if kind == OWN:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>", unk_token="<unk>"
    )

    def to_tokens(text, prepend_bos, truncate):
        ids = fast(text, add_special_tokens=False).input_ids
        return torch.tensor([[0] * prepend_bos + ids])

    return SimpleNamespace(tokenizer=fast, to_tokens=to_tokens, cfg=SimpleNamespace(n_ctx=16))


@pytest.mark.parametrize(
    ("kind", "answer", "distractor"),
    [(GPT2, " mat", " rug"), (LLAMA, "mat", "rug"), (OWN, " mat", " rug")],
)
def test_answers_are_the_tokens_that_follow(kind, answer, distractor):
    """FIELD-CASES 11: with "▁" it is the word without its space."""
    model = of_kind(kind)
    pair = PromptPair("The cat sat on the", "The dog sat on the", answer, distractor)
    tokens = pair.tokens(model)
    both = [(pair.clean, "mat", tokens.answer), (pair.corrupted, "rug", tokens.distractor)]
    for prompt, word, ids in both:
        whole = tokenize(model, f"{prompt} {word}")
        assert torch.equal(whole[0, -1:], ids)
        assert torch.equal(whole[:, :-1], tokenize(model, prompt))


@pytest.mark.parametrize(
    ("kind", "wrong", "right"),
    [(GPT2, "mat", " mat"), (OWN, "mat", " mat"), (LLAMA, " mat", "mat")],
)
def test_the_other_form_of_a_word_is_refused_with_the_right_one(kind, wrong, right):
    """Under GPT-2's it is one token too, but not the one that follows."""
    with pytest.raises(ValueError, match=rf"answer '{wrong}': .* follows 'The cat'; '{right}' is"):
        PromptPair("The cat", "The dog", wrong, "rug").tokens(of_kind(kind))


@pytest.mark.parametrize("kind", [GPT2, LLAMA, OWN])
@pytest.mark.parametrize("field", ["clean", "corrupted"])
def test_a_prompt_that_ends_in_white_space_is_refused(kind, field):
    """FIELD-CASES 4: the model would have to go on with a word that has no space."""
    fields = {"clean": "The cat", "corrupted": "The dog", "answer": " mat", "distractor": " rug"}
    with pytest.raises(ValueError, match=f"{field}: .* ends in white space"):
        PromptPair(**fields | {field: fields[field] + " "}).tokens(of_kind(kind))


@pytest.mark.parametrize("kind", [GPT2, LLAMA, OWN])
def test_bos_stands_once_in_front(kind):
    """FIELD-CASES 5: a text that brings its own is refused, not given a second."""
    model = of_kind(kind)
    assert (tokenize(model, "The cat")[0] == 0).tolist() == [True, False, False]
    with pytest.raises(ValueError, match="starts with BOS, which is put in front anyway"):
        tokenize(model, "<s>The cat")
    with pytest.raises(ValueError, match=r"clean: .* starts with BOS"):
        PromptPair("<s>The cat", "The dog", "on", "sat").tokens(model)


def test_bos_stands_once_in_front_on_models_that_are_read_without(random_model, model):
    for each in (random_model, model):
        before = each.cfg.default_prepend_bos
        each.cfg.default_prepend_bos = False  # as transformer_lens has it for Pythia
        try:
            ids = tokenize(each, " cat")[0]
        finally:
            each.cfg.default_prepend_bos = before
        assert (ids == each.tokenizer.bos_token_id).sum() == 1 and ids[0] == ids.new_tensor(
            each.tokenizer.bos_token_id
        )


# Pairs that line up


def test_aligned_pairs_come_with_their_tokens_and_the_rest_is_counted(model, capsys):
    odd = PromptPair("The Eiffel Tower is in", "The", " Paris", " Rome")
    found = aligned([CITY_PAIRS[0], odd, CAPITAL_PAIRS[0]], model)
    assert [pair for pair, _ in found] == [CITY_PAIRS[0], CAPITAL_PAIRS[0]]
    for pair, tokens in found:
        for one, same in zip(tokens, pair.tokens(model), strict=True):
            assert torch.equal(one, same)
    said = capsys.readouterr().out
    assert said.startswith("1 of 3 pairs do not line up") and "tokens, so position i" in said


def test_where_all_line_up_nothing_is_said_and_where_none_does_it_stops(model, capsys):
    assert len(aligned(iter(PAIRS), model)) == len(PAIRS)
    assert capsys.readouterr().out == ""
    with pytest.raises(
        ValueError, match="none of 1 pairs can be used; the first: the prompts have"
    ):
        aligned([PromptPair("The Eiffel Tower is in", "The", " Paris", " Rome")], model)


# Pairs that do not


def refused(model, **changes) -> str:
    """The message of the error that the lesson's pair raises with these fields changed."""
    fields = dataclasses.asdict(CITY_PAIRS[0]) | changes
    with pytest.raises(ValueError) as raised:
        PromptPair(**fields).tokens(model)
    return str(raised.value)


def split(model, prompt: str) -> str:
    return "|".join(model.to_str_tokens(prompt))


def test_misaligned_prompts_are_shown_side_by_side(model):
    clean, corrupted = CITY_PAIRS[0].clean, "The"
    message = refused(model, corrupted=corrupted)
    counts = [model.to_tokens(text).shape[1] for text in (clean, corrupted)]
    assert f"have {counts[0]} and {counts[1]} tokens" in message
    assert split(model, clean) in message and split(model, corrupted) in message
    assert re.search(r"clean .*\n.*corrupted ", message) and "reword one" in message


def test_pairs_without_a_contrast_are_refused(model):
    message = refused(model, corrupted=CITY_PAIRS[0].clean)
    assert "same tokens" in message and split(model, CITY_PAIRS[0].clean) in message
    message = refused(model, distractor=CITY_PAIRS[0].answer)
    assert "answer and distractor are the same token, ' Paris'" in message


@pytest.mark.parametrize("field", ["answer", "distractor"])
def test_an_answer_of_several_tokens_is_shown(model, field):
    message = refused(model, **{field: " Paris Rome"})
    shown = "|".join(model.to_str_tokens(" Paris Rome", prepend_bos=False))
    assert message.startswith(f"{field} ' Paris Rome'") and shown in message


def test_a_pair_cannot_be_changed_and_can_be_short(model):
    with pytest.raises(dataclasses.FrozenInstanceError):
        CITY_PAIRS[0].clean = "other"
    tokens = PromptPair("Paris", "Rome", " is", " of").tokens(model)
    assert tokens.clean.shape == tokens.corrupted.shape
