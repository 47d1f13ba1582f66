"""The toy name mover: its circuit is the one that its docstring tells, by three routes."""

import pytest
import torch
from torch.testing import assert_close
from transformer_lens.tools.analysis import direct_logit_attribution

from exercises import toy
from helpers.ablation import ablate
from helpers.attribution import attribute_logit_diff
from helpers.metrics import logit_diff

WORTH = {toy.NAME_MOVER: toy.LOGIT, toy.NEGATIVE: -toy.LOGIT / 2}


@pytest.fixture(scope="module")
def run():
    """The network, its prompts, the names that answer them and the givers, logits and cache."""
    network, prompts = toy.name_mover_network(), toy.name_prompts()
    with torch.no_grad():
        return network, *prompts, *network.run_with_cache(prompts[0])


def test_it_answers_with_the_name_that_was_said_once(run):
    _, tokens, answer, giver, logits, _ = run
    for row, name, gives in zip(tokens.tolist(), answer.tolist(), giver.tolist(), strict=True):
        assert (row.count(name), row.count(gives)) == (1, 2)
    assert_close(logit_diff(logits, answer, giver), torch.full((4,), sum(WORTH.values())))


def test_attribution_finds_the_movers_and_nothing_else(run):
    network, tokens, answer, giver, _, cache = run
    split = attribute_logit_diff(network, cache, answer, giver)
    right = torch.zeros(3, 3)
    for head, nats in WORTH.items():
        right[head] = nats
    assert_close(split.heads, right)
    words = {"answer_tokens": answer, "incorrect_tokens": giver}
    theirs = direct_logit_attribution(network, tokens, unit="head", **words).attribution
    assert_close(theirs[:-1].mean(1).view(3, 3), right)


def test_one_word_alone_is_fooled_by_the_decoy(run):
    network, _, answer, _, _, cache = run
    wrote = torch.einsum("bhe,hed->bhd", cache["z", 2][:, -1], network.W_O[2])
    one_word = torch.einsum("bhd,db->bh", wrote, network.W_U[:, answer])
    assert one_word.mean(0).argmax() == toy.FOR_BOTH[1]


@pytest.mark.parametrize("head", [(layer, head) for layer in range(3) for head in range(3)])
def test_ablation_finds_the_two_heads_that_attribution_cannot_see(run, head):
    network, tokens, answer, giver, logits, _ = run
    with torch.no_grad(), ablate(network, [head]):
        lost = (
            logit_diff(logits, answer, giver) - logit_diff(network(tokens), answer, giver)
        ).mean()
    # without the note both movers attend to every mention: the name has one, the giver two
    third = sum(WORTH.values()) * (1 + 1 / 3)
    right = WORTH | {toy.REPEATED: third, toy.INHIBITOR: third}
    assert lost.item() == pytest.approx(right.get(head, 0.0), abs=1e-4)
