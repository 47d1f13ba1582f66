"""The shipped model `tutorial-4l` knows what its card says, measured on the shipped files.

`tools.training.evaluate` measures with plain transformers; the notebooks and helpers find the same
by another route.
"""

import itertools
import json
import re
from pathlib import Path

import pytest

from helpers.prompts import CAPITAL_PAIRS, CITY_PAIRS
from tools.training import corpus, evaluate, facts

GPT2_TOKENS = json.loads((Path(__file__).parent / "gpt2_tokens.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def loaded():
    return evaluate.load()


@pytest.fixture(scope="module")
def measured(loaded):
    return evaluate.figures(*loaded)


LEAST = {
    "capitals_canonical": 0.98,
    "capitals_held_out": 0.80,
    "landmarks_canonical": 0.95,
    "landmarks_held_out": 0.80,
    "indirect_object": 0.90,
    "log_prob_second": -0.5,
    "induction_score": 0.8,
    "previous_token_score": 0.6,
    "smallest_bias_maximum": 1e-3,
}


def test_it_can_do_what_the_lessons_need(measured):
    """A fact is at the subject alone entering the first blocks, at the end alone entering the
    last."""
    assert [name for name, least in LEAST.items() if measured[name] < least] == []
    assert measured["lazy_dog"]
    assert measured["log_prob_second"] - measured["log_prob_first"] > 5
    for side in ("p_positive", "p_negative"):  # steering has room both ways
        assert 0.35 <= measured[side] <= 0.65
    at_subject, at_last = measured["at_subject"], measured["at_last"]
    assert at_subject[0] + at_subject[1] > 1.0 and max(at_last[:2]) < 0.5
    assert at_last[-1] > 0.8 and at_subject[-1] < 0.2


def test_the_card_prints_the_figures_of_the_shipped_weights(measured):
    card = (evaluate.MODEL / "README.md").read_text("utf-8")
    printed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", card, re.M))
    assert set(printed) == set(measured)
    for name in ("parameters", "capitals_canonical", "landmarks_canonical", "induction_head"):
        assert printed[name] == evaluate.show(measured[name])


def test_pairs_line_up_subject_included_under_both_tokenizers_and_are_known(loaded):
    """Same length, and what differs is one span that starts and ends at the same places."""
    model, encode = loaded
    for pair in CITY_PAIRS + CAPITAL_PAIRS:
        for tokens in (encode, GPT2_TOKENS.__getitem__):
            clean, corrupted = tokens(pair.clean), tokens(pair.corrupted)
            assert len(clean) == len(corrupted), pair
            same = [a == b for a, b in zip(clean, corrupted, strict=True)]
            assert len(list(itertools.groupby(same))) == 3, pair
        assert len(GPT2_TOKENS[pair.answer]) == len(GPT2_TOKENS[pair.distractor]) == 1
        assert evaluate.is_right(model, encode, pair.clean, pair.answer.strip()), pair
        assert evaluate.is_right(model, encode, pair.corrupted, pair.distractor.strip()), pair


@pytest.mark.slow
def test_held_out_phrasings_are_not_in_the_corpus():
    """A sample long enough to hold each seen phrasing some 30 times holds no held-out one."""
    sample = set(itertools.islice(corpus.documents(0), 60_000))
    capitals, landmarks = facts.CAPITAL_TEMPLATES, facts.LANDMARK_TEMPLATES
    for table, templates in ((facts.CAPITALS, capitals), (facts.LANDMARKS, landmarks)):
        for subject, answer in table.items():
            hidden = corpus.held_out_templates(subject, templates)
            assert len(hidden) == 2
            for template in templates:
                assert (template.format(s=subject, a=answer) in sample) == (template not in hidden)
