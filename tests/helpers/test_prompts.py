"""`helpers.prompts`: pairs that line up are tokenized, all others are refused with a picture."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from helpers.prompts import CAPITAL_PAIRS, CITY_PAIRS, PromptPair, aligned, tokenize

PAIRS = CITY_PAIRS + CAPITAL_PAIRS


def test_the_lessons_pairs_are_accepted(model):
    for one in PAIRS:
        tokens = one.tokens(model)
        assert tokens.clean[0, 0] == tokens.corrupted[0, 0] == model.tokenizer.bos_token_id
        prompts = (tokens.clean[0, 1:], tokens.corrupted[0, 1:], tokens.answer, tokens.distractor)
        assert PromptPair(*map(model.to_string, prompts)) == one


GPT2, LLAMA, OWN = "GPT-2", "Llama", "adds BOS itself"


def of_kind(kind: str) -> SimpleNamespace:
    """No more than a tokenizer: with a "▁" before each word (Llama), "Ġ" in front of all but the
    first (GPT-2), or one that puts BOS there itself."""
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
        bos = {"single": "<s> $A", "special_tokens": [("<s>", 0)]}
        tokenizer.post_processor = processors.TemplateProcessing(**bos)
    special = {"bos_token": "<s>", "eos_token": "<s>", "unk_token": "<unk>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)

    def to_tokens(text, prepend_bos, truncate):
        ids = fast(text, add_special_tokens=False).input_ids
        return torch.tensor([[0] * prepend_bos + ids])

    return SimpleNamespace(tokenizer=fast, to_tokens=to_tokens, cfg=SimpleNamespace(n_ctx=16))


@pytest.mark.parametrize(
    ("kind", "answer", "distractor"),
    [(GPT2, " mat", " rug"), (LLAMA, "mat", "rug"), (OWN, " mat", " rug")],
)
def test_answers_are_the_tokens_that_follow(kind, answer, distractor):
    """FIELD-CASES 11: with "▁" it is the word without its space. The other form is refused with
    this one; under GPT-2's it is one token too, but not the one that follows."""
    model = of_kind(kind)
    pair = PromptPair("The cat sat on the", "The dog sat on the", answer, distractor)
    tokens = pair.tokens(model)
    both = [(pair.clean, "mat", tokens.answer), (pair.corrupted, "rug", tokens.distractor)]
    for prompt, word, ids in both:
        whole = tokenize(model, f"{prompt} {word}")
        assert torch.equal(whole[0, -1:], ids)
        assert torch.equal(whole[:, :-1], tokenize(model, prompt))
    wrong = "mat" if answer == " mat" else " mat"
    with pytest.raises(ValueError, match=rf"answer '{wrong}': .* follows .*; '{answer}' is"):
        dataclasses.replace(pair, answer=wrong).tokens(model)


@pytest.mark.parametrize("kind", [GPT2, LLAMA, OWN])
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: text + " ", "ends in white space"),  # FIELD-CASES 4: no word can follow
        (lambda text: "<s>" + text, "starts with BOS, which is put in front anyway"),  # 5
    ],
)
def test_prompts_that_would_be_read_otherwise_are_refused(kind, spoil, words):
    fields = {"clean": "The cat", "corrupted": "The dog", "answer": " mat", "distractor": " rug"}
    for field in ("clean", "corrupted"):
        with pytest.raises(ValueError, match=f"{field}: .* {words}"):
            PromptPair(**fields | {field: spoil(fields[field])}).tokens(of_kind(kind))
    assert (tokenize(of_kind(kind), "The cat")[0] == 0).tolist() == [True, False, False]


def test_bos_stands_in_front_on_models_that_are_read_without(model, monkeypatch):
    monkeypatch.setattr(model.cfg, "default_prepend_bos", False)  # as the library has it for Pythia
    ids = tokenize(model, " cat")[0]
    assert (ids == model.tokenizer.bos_token_id).tolist() == [True] + [False] * (len(ids) - 1)


def test_aligned_pairs_come_with_their_tokens_and_the_rest_is_counted(model, capsys):
    odd = PromptPair("The Eiffel Tower is in", "The", " Paris", " Rome")
    assert len(aligned(iter(PAIRS), model)) == len(PAIRS) and capsys.readouterr().out == ""
    found = aligned([CITY_PAIRS[0], odd, CAPITAL_PAIRS[0]], model)
    assert [pair for pair, _ in found] == [CITY_PAIRS[0], CAPITAL_PAIRS[0]]
    for pair, tokens in found:
        for one, same in zip(tokens, pair.tokens(model), strict=True):
            assert torch.equal(one, same)
    said = capsys.readouterr().out
    assert said.startswith("1 of 3 pairs do not line up") and "tokens, so position i" in said
    with pytest.raises(ValueError, match="none of 1 pairs can be used; the first: the prompts"):
        aligned([odd], model)


FIRST = CITY_PAIRS[0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"corrupted": "The"}, "tokens, so position i .* reword one"),
        ({"corrupted": FIRST.clean}, "are the same tokens"),
        ({"distractor": FIRST.answer}, "answer and distractor are the same token, ' Paris'"),
        ({"answer": " Paris Rome"}, r"answer ' Paris Rome': its tokens  Paris\| Rome"),
    ],
)
def test_pairs_that_cannot_be_patched_are_refused(model, changes, words):
    with pytest.raises(ValueError, match=words) as raised:
        dataclasses.replace(FIRST, **changes).tokens(model)
    if "corrupted" in changes:
        assert "|".join(model.to_str_tokens(FIRST.clean)) in str(raised.value)
