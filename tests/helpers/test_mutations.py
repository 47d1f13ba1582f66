"""Deliberate bugs: for each, a test of the other files that passes, and fails once it is in.

A bug is a replacement in the source of one helper. It must apply exactly once, so that none of
these can pass by doing nothing.
"""

import inspect
import sys
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import conftest
import pytest
import test_attribution
import test_checks
import test_induction
import test_lens
import test_live
import test_metrics
import test_models
import test_patching
import test_plots
import test_preflight
import test_product
import test_prompts
import test_steering
import torch

# The fixtures of the tests that are run here.
from test_attribution import rows  # noqa: F401
from test_induction import network, run, specimens  # noqa: F401
from test_live import family, small  # noqa: F401
from test_metrics import logits  # noqa: F401
from test_models import copy, directory  # noqa: F401
from test_patching import moved_word  # noqa: F401
from test_preflight import verdict  # noqa: F401
from test_steering import tokens, vector  # noqa: F401

from helpers.prompts import CITY_PAIRS


class Bug(NamedTuple):
    module: str
    right: str
    wrong: str
    test: object  # the test function that must notice it
    arguments: dict = {}  # noqa: RUF012 (of the test's own parametrisation; never changed)


SIDES = 'mean("positive", positive) - mean("negative", negative)'
ADD = "return stream + addition.to(stream)"

BUGS = {
    # metrics
    "logit difference at the first position": Bug(
        "metrics",
        "last = logits[:, -1]",
        "last = logits[:, 0]",
        test_metrics.test_logit_diff_reads_the_last_position_of_each_row,
    ),
    "normalised with the ends swapped": Bug(
        "metrics",
        "return (value - low) / (high - low)",
        "return (value - high) / (low - high)",
        test_metrics.test_normalise_is_0_at_the_corrupted_end_and_1_at_the_clean_end,
        {"clean": 4.0, "corrupted": -2.0},
    ),
    "rank from 0": Bug(
        "metrics",
        ".sum(1) + 1",
        ".sum(1)",
        test_metrics.test_answer_rank_is_the_place_in_the_sorted_order,
    ),
    "ties counted before the answer": Bug(
        "metrics",
        "(last > last.gather",
        "(last >= last.gather",
        test_metrics.test_answer_rank_runs_from_1_and_a_tie_is_not_counted_before,
    ),
    "log-probability of the present token": Bug(
        "metrics",
        "tokens[:, 1:, None]",
        "tokens[:, :-1, None]",
        test_metrics.test_next_token_log_probs_are_minus_the_cross_entropy,
    ),
    "divergence the other way round": Bug(
        "metrics",
        "log_p.exp() * (log_p - log_q)",
        "log_q.exp() * (log_q - log_p)",
        test_metrics.test_kl_divergence_by_hand,
    ),
    "divergence of logits in place of log-probabilities": Bug(
        "metrics",
        "log_p, log_q = logits.log_softmax(-1), other.log_softmax(-1)",
        "log_p, log_q = logits, other",
        test_metrics.test_kl_divergence_is_0_only_where_the_distributions_agree,
    ),
    "entropy without its sign": Bug(
        "metrics",
        "return -(log_p.exp()",
        "return (log_p.exp()",
        test_metrics.test_entropy_is_that_of_torch_and_has_the_right_ends,
    ),
    # inputs
    "NaN let through": Bug(
        "inputs",
        "    if math.isfinite(value.sum().item()):",
        "    if True:",
        test_metrics.test_divergence_and_entropy_name_what_is_wrong,
    ),
    "another batch size let through": Bug(
        "inputs",
        "if shape[names.index(axis)] != size:",
        "if False:",
        test_metrics.test_next_token_log_probs_names_what_is_wrong,
        {
            "logits": test_metrics.LOGITS,
            "tokens": torch.zeros(1, 3, dtype=torch.int64),
            "error": ValueError,
            "words": "tokens: axis 'batch' should have 2",
        },
    ),
    # prompts
    "answer and distractor exchanged": Bug(
        "prompts",
        "self.answer.expand(rows), self.distractor.expand(rows)",
        "self.distractor.expand(rows), self.answer.expand(rows)",
        test_prompts.test_a_pairs_metric_is_the_logit_difference_of_every_row,
    ),
    "prompts without BOS": Bug(
        "prompts",
        "model.to_tokens(text, prepend_bos=True",
        "model.to_tokens(text, prepend_bos=False",
        test_prompts.test_the_lessons_pairs_are_accepted,
        {"one": CITY_PAIRS[0]},
    ),
    "misaligned prompts let through": Bug(
        "prompts",
        "if clean.shape != corrupted.shape:",
        "if False:",
        test_prompts.test_misaligned_prompts_are_shown_side_by_side,
    ),
    # patching
    "one position further": Bug(
        "patching",
        "Cell(layer, RESIDUAL, (p,)) for layer",
        "Cell(layer, RESIDUAL, ((p + 1) % positions,)) for layer",
        test_patching.test_the_planted_word_is_followed_through_the_stream,
    ),
    "all heads at once": Bug(
        "patching",
        "Cell(layer, HEADS, (everywhere, h))",
        "Cell(layer, HEADS, (everywhere,))",
        test_patching.test_the_planted_heads_are_found_by_patching,
    ),
    "layers and heads exchanged": Bug(
        "patching",
        "for layer in range(layers) for h in range(heads)]",
        "for h in range(heads) for layer in range(layers)]",
        test_patching.test_the_planted_heads_are_found_by_patching,
    ),
    "the hook returns what it was given": Bug(
        "growing",
        "return patched",
        "return activation",
        test_live.test_the_general_road_is_the_loop_on_other_families,
        {"other": "pythia", "name": "patch_heads"},
    ),
    "new rows grow from a patched one": Bug(
        "growing",
        "stream[:1].expand",
        "stream[-1:].expand",
        test_live.test_the_general_road_is_the_loop_on_other_families,
        {"other": "pythia", "name": "patch_residual"},
    ),
    "the corrupted row taken for a cell": Bug(
        "growing",
        "return logits[1:]",
        "return logits[:-1]",
        test_live.test_the_general_road_is_the_loop_on_other_families,
        {"other": "pythia", "name": "patch_heads"},
    ),
    "cells left in the order of their layers": Bug(
        "patching",
        "torch.empty_like(rows).index_copy(0, torch.tensor(order, device=rows.device), rows)",
        "rows",
        test_patching.test_cells_come_back_in_the_order_asked_for,
    ),
    "the estimate with its sign changed": Bug(
        "patching",
        "(clean_cache[name][0] - stream.detach()[0])",
        "(stream.detach()[0] - clean_cache[name][0])",
        test_patching.test_the_estimate_is_exact_where_the_model_is_linear,
    ),
    "the estimate of the clean stream, not of the change": Bug(
        "patching",
        "(clean_cache[name][0] - stream.detach()[0])",
        "clean_cache[name][0]",
        test_patching.test_the_estimate_of_a_self_patch_is_exactly_0,
    ),
    "the gradient of the clean run": Bug(
        "patching",
        "streams.append(stream)",
        "stream = stream + (clean_cache[hook.name] - stream).detach(); streams.append(stream)",
        test_patching.test_the_estimate_is_the_slope_of_a_small_patch,
    ),
    "a metric's false mark let through": Bug(
        "patching",
        "    row[0, -1, ::2], row[0, -1, 1::2] = 1e4, -1e4  #",
        "    pass  #",
        test_live.test_a_metric_that_reads_more_than_its_mark_says_is_noticed,
        {"more": "the rank", "general": False},
    ),
    "a metric's false mark let through, at other positions": Bug(
        "patching",
        "    row[:, :-1] = torch.nan",
        "    pass",
        test_live.test_a_metric_that_reads_more_than_its_mark_says_is_noticed,
        {"more": "all positions", "general": False},
    ),
    "the mark forgotten on the general road": Bug(
        "growing",
        "    if last_only:",
        "    if False:",
        test_live.test_the_mark_changes_what_is_computed_but_not_the_grid,
        {"other": "llama"},
    ),
    # live
    "the query of one position further back": Bug(
        "live",
        "linear(block.attn.q, take(x, live.table[:, -1]))",
        "linear(block.attn.q, take(x, live.table[:, -2]))",
        test_live.test_the_live_road_is_the_loop,
        {"name": "patch_residual"},
    ),
    "keys and values of the corrupted run alone": Bug(
        "live",
        "take(linear(part, x), live.table)",
        "take(linear(part, x), live.table[:1].repeat(len(live.table), axis=0))",
        test_live.test_the_live_road_is_the_loop,
        {"name": "patch_blocks"},
    ),
    "queries that look ahead": Bug(
        "live",
        "is_causal=True",
        "is_causal=False",
        test_live.test_the_two_roads_give_the_same_logits,
        {"last_only": False},
    ),
    "a change that attention does not carry on": Bug(
        "live",
        "own = np.logical_or.accumulate(self.table != self.table[0], axis=1)",
        "own = self.table != self.table[0]",
        test_live.test_the_live_road_is_the_loop,
        {"name": "patch_residual"},
    ),
    "the last position left out": Bug(
        "live",
        "self.stream = take(self.stream, self.table[:, -1])",
        "self.stream = take(self.stream, self.table[:, -2])",
        test_live.test_the_live_road_is_the_loop,
        {"name": "patch_heads"},
    ),
    "the clean stream put in after the LayerNorm": Bug(
        "live",
        "at = partial(patch_at, clean_cache, at_site, layer)",
        "at = lambda site: (p := patch_at(clean_cache, at_site, layer, site)) and p._replace("
        "clean=plain(block.ln1)(p.clean) if site == RESIDUAL else p.clean)",
        test_live.test_the_live_road_is_the_loop,
        {"name": "patch_residual"},
    ),
    "new runs with the stream of another position": Bug(
        "live",
        "take(self.stream, position)])",
        "take(self.stream, (position - 1) % kept)])",
        test_live.test_the_live_road_is_the_loop,
        {"name": "patch_head_positions"},
    ),
    "hooks in place passed by": Bug(
        "live",
        "if any(point.fwd_hooks or point.bwd_hooks for point in model.hook_points()):",
        "if False:",
        test_live.test_a_hook_in_place_is_called,
    ),
    "hooks of torch passed by": Bug(
        "live",
        "if module._forward_hooks or module._forward_pre_hooks",
        "if module._forward_pre_hooks",
        test_live.test_a_hook_of_torch_is_called_too,
        {"part": "mlp.c_fc", "when": "after"},
    ),
    "a transcoder passed by": Bug(
        "live",
        "        and plain(block).mlp is block.mlp\n",
        "",
        test_live.test_an_mlp_put_in_place_of_the_models_own_is_the_one_that_computes,
        {"where": "in transformers' block"},
    ),
    "the weight within an adapter alone": Bug(
        "live",
        "return layer(x)",
        "return product(x, layer.weight, layer.bias)",
        test_live.test_a_layer_put_in_place_of_the_models_own_is_the_one_that_computes,
        {"layer": 1, "part": "o"},
    ),
    "an adapter of the last layer's keys passed by": Bug(
        "live",
        "if any(type(plain(part)) is not torch.nn.Linear for part in",
        "if False and any(type(plain(part)) is not torch.nn.Linear for part in",
        test_live.test_a_layer_put_in_place_of_the_models_own_is_the_one_that_computes,
        {"layer": 2, "part": "k"},
    ),
    "the last layer's pattern over the corrupted run alone": Bug(
        "live",
        "x = take(x, live.table)  #",
        "x = take(x, live.table[:1].repeat(len(live.table), axis=0))  #",
        test_live.test_the_live_road_is_the_loop,
        {"name": "patch_residual"},
    ),
    "no bias of the last layer's values": Bug(
        "live",
        "z.flatten(1)[:, None] + plain(block.attn.v).bias",
        "z.flatten(1)[:, None]",
        test_live.test_for_one_query_no_key_and_no_value_is_needed,
    ),
    "scores of the last layer not scaled": Bug(
        "live",
        "asked @ x.mT / q.shape[-1] ** 0.5",
        "asked @ x.mT",
        test_live.test_the_live_road_is_the_loop,
        {"name": "patch_blocks"},
    ),
    "as many rows as asked for, but not those": Bug(
        "live",
        "if index.size == len(rows) and np.array_equal(index.ravel(), np.arange(len(rows))):",
        "if index.size == len(rows):",
        test_live.test_taken_rows_are_the_indexed_ones,
        {"index": [3, 2, 1, 0]},
    ),
    "logits under the wrong token": Bug(
        "live",
        "logits[..., only_tokens] =",
        "logits[..., only_tokens - 1] =",
        test_live.test_the_mark_changes_what_is_computed_but_not_the_grid,
        {"other": "gpt2"},
    ),
    # attribution
    "no LayerNorm scale": Bug(
        "attribution",
        "written / scale * direction",
        "written * direction",
        test_attribution.test_the_parts_sum_to_the_embedded_models_logit_difference,
    ),
    "the scale of another position": Bug(
        "attribution",
        "cache[scale_name][:, -1]",
        "cache[scale_name][:, 0]",
        test_attribution.test_the_parts_sum_to_the_embedded_models_logit_difference,
    ),
    "no unembedding bias": Bug(
        "attribution",
        "[None]) + ids_bias",
        "[None])",
        test_attribution.test_the_parts_sum_on_a_batch_with_large_biases,
    ),
    "no attention output bias": Bug(
        "attribution",
        "bias=read(sum(biases)[None]) + ids_bias if biases else ids_bias",
        "bias=ids_bias",
        test_attribution.test_the_parts_sum_on_a_batch_with_large_biases,
    ),
    "not centred": Bug(
        "attribution",
        "        if centred:",
        "        if False:",
        test_attribution.test_known_parts,
        {"norm": "LNPre", "of_embed": 3, "mean_square": 49.85},
    ),
    "centred where the norm does not": Bug(
        "attribution",
        "        if centred:",
        "        if True:",
        test_attribution.test_known_parts,
        {"norm": "RMSPre", "of_embed": 8, "mean_square": 50.85},
    ),
    "heads in reverse": Bug(
        "attribution",
        'torch.einsum("lbhe,lhed->lhbd", z, model.W_O)',
        'torch.einsum("lbhe,lhed->lhbd", z, model.W_O).flip(1)',
        test_attribution.test_the_parts_are_those_of_transformer_lens,
    ),
    "neurons through another layer's weights": Bug(
        "attribution",
        "model.W_out[layer]",
        "model.W_out[layer - 1]",
        test_attribution.test_neurons_and_the_output_bias_sum_to_the_mlps_part,
        {"layer": 1},
    ),
    # induction
    "the duplicate-token cell for the induction cell": Bug(
        "induction",
        "back=n - 1)",
        "back=n)",
        test_induction.test_each_score_is_1_on_its_own_motif_and_0_on_the_others,
    ),
    "the induction cell for the duplicate-token cell": Bug(
        "induction",
        "back=n)",
        "back=n - 1)",
        test_induction.test_the_planted_heads_are_found_where_they_are,
    ),
    "BOS in the previous-token mean": Bug(
        "induction",
        "[..., 1:].mean((0, -1))",
        ".mean((0, -1))",
        test_induction.test_attention_of_query_1_to_bos_is_no_previous_token_attention,
    ),
    "the first copy in the mean": Bug(
        "induction",
        "stripe[..., -n:]",
        "stripe",
        test_induction.test_the_perfect_score_is_1_at_any_length,
        {"n": 12},
    ),
    "BOS among the random tokens": Bug(
        "induction",
        "block += block >= bos",
        "pass",
        test_induction.test_every_token_but_bos_is_drawn_equally_often,
        {"bos": 2},
    ),
    "a second copy in reverse": Bug(
        "induction",
        "block, block], dim=1)",
        "block, block.flip(1)], dim=1)",
        test_induction.test_repeated_tokens_are_bos_and_a_block_twice,
    ),
    "a seed that is not used": Bug(
        "induction",
        "manual_seed(seed)",
        "manual_seed(0)",
        test_induction.test_the_seed_decides_and_disturbs_nothing_else,
    ),
    # lens
    "no final norm": Bug(
        "lens",
        "model.ln_final(cache[name])",
        "cache[name]",
        test_lens.test_each_row_is_what_the_model_says_when_its_last_stream_is_that_one,
    ),
    "no unembedding bias in the lens": Bug(
        "lens",
        "model.unembed(model.ln_final(cache[name]))",
        "model.ln_final(cache[name]) @ model.W_U",
        test_lens.test_the_last_row_is_the_models_own_logits_with_large_biases,
    ),
    "one final scale for all rows": Bug(
        "lens",
        "model.ln_final(cache[name])",
        "(cache[name] - cache[name].mean(-1, keepdim=True)) / cache['ln_final.hook_scale']",
        test_lens.test_each_row_is_normalised_with_its_own_scale,
    ),
    # product
    "no bias, with the rows as the picture": Bug(
        "product",
        "weight.mT[:, :, None, None], bias)[0, :, :, 0].mT",
        "weight.mT[:, :, None, None])[0, :, :, 0].mT",
        test_product.test_both_ways_are_the_definition,
        {"kept": "out, in", "rows": 7, "d_in": 8, "d_out": 4},
    ),
    "no bias": Bug(
        "product",
        "[0, :, :, 0].add_(bias)",
        "[0, :, :, 0]",
        test_product.test_both_ways_are_the_definition,
        {"kept": "in, out", "rows": 7, "d_in": 8, "d_out": 4},
    ),
    "the last row from before the last layer": Bug(
        "lens",
        "blocks.{last}.hook_resid_post",
        "blocks.{last}.hook_resid_pre",
        test_lens.test_the_last_row_is_the_embedded_models_own_logits,
    ),
    # steering
    "BOS in the mean": Bug(
        "steering",
        "cache[name][0, 1:]",
        "cache[name][0]",
        test_steering.test_the_vector_by_hand,
        {"layer": 0},
    ),
    "prompts summed": Bug(
        "steering",
        "torch.stack(means).mean(0)",
        "torch.stack(means).sum(0)",
        test_steering.test_the_vector_by_hand,
        {"layer": 0},
    ),
    "the sides exchanged": Bug(
        "steering",
        SIDES,
        'mean("negative", negative) - mean("positive", positive)',
        test_steering.test_the_vector_by_hand,
        {"layer": 1},
    ),
    "the vector added twice": Bug(
        "steering",
        ADD,
        "return stream + 2 * addition.to(stream)",
        test_steering.test_steering_is_the_hook_by_hand,
        {"layer": 0},
    ),
    "the hook without effect": Bug(
        "steering",
        ADD,
        "stream + addition.to(stream)",
        test_steering.test_generated_text_is_steered,
        {"cached": True},
    ),
    "only the last position": Bug(
        "steering",
        ADD,
        "return torch.cat([stream[:, :-1], stream[:, -1:] + addition.to(stream)], 1)",
        test_steering.test_exactly_the_multiple_is_added_at_every_position,
    ),
    "only the prompt": Bug(
        "steering",
        ADD,
        "return stream + addition.to(stream) if calls == 1 else stream",
        test_steering.test_generated_text_is_steered,
        {"cached": True},
    ),
    "before the layer": Bug(
        "steering",
        '(f"blocks.{layer}.hook_resid_post", add)',
        '(f"blocks.{layer}.hook_resid_pre", add)',
        test_steering.test_steering_is_a_change_of_the_mlps_output_bias,
        {"layer": 0},
    ),
    "a hook that stays": Bug(
        "steering",
        "with model.hooks(fwd_hooks=",
        "with model.hooks(reset_hooks_end=False, fwd_hooks=",
        test_steering.test_the_hook_is_gone_afterwards,
    ),
    # plots
    "a scale that is not centred": Bug(
        "plots",
        "zmax=top,",
        "zmax=float(z.max()),",
        test_plots.test_a_signed_scale_is_centred_on_0_and_names_its_unit,
    ),
    "columns placed by name": Bug(
        "plots",
        "    figure.update_xaxes(**_named(x))",
        "    figure.update_xaxes(**_named(x)); figure.data[0].x = list(x)",
        test_plots.test_repeated_tokens_keep_a_tick_each,
    ),
    "layer 0 at the bottom": Bug(
        "plots",
        ', autorange="reversed"',
        "",
        test_plots.test_the_values_are_where_they_belong,
    ),
    "tokens not escaped": Bug(
        "plots",
        '.replace("<", "\\\\u003c")',
        "",
        test_plots.test_no_token_can_break_out_of_a_view,
    ),
    "the program loaded every time": Bug(
        "plots",
        "if (!window.CircuitsVis) {{",
        "{{",
        test_plots.test_the_program_is_the_installed_one_once_and_whole,
    ),
    "the program ends its own element": Bug(
        "plots",
        'program.replace("</script", "<\\\\/script")',
        "program",
        test_plots.test_the_program_is_the_installed_one_once_and_whole,
    ),
    # checks, run, models, hub
    "a false claim passes": Bug(
        "checks",
        'raise AssertionError(f"This claim is false here: {text}")',
        "pass",
        test_checks.test_a_false_claim_fails,
        {"false": False},
    ),
    "a wrong answer counts as solved": Bug(
        "checks",
        "status, reason = WRONG, str(wrong)",
        "reason = str(wrong)",
        test_checks.test_a_wrong_answer_is_told_its_property,
    ),
    "an untouched stub counts as wrong": Bug(
        "checks",
        "if given is ...:",
        "if False:",
        test_checks.test_an_untouched_stub_stops_nothing,
    ),
    "a preflight that is always ready": Bug(
        "preflight",
        "return int(bool(failed))",
        "return 0",
        test_preflight.test_an_old_python_is_named,
    ),
    "skipped claims counted as checked": Bug(
        "run",
        '.get("claim") == status',
        '.get("claim") is not None',
        test_checks.test_verdicts_are_counted_by_status,
    ),
    "weights not processed": Bug(
        "models",
        "model.enable_compatibility_mode(no_processing=offloaded)",
        "pass",
        test_models.test_weights_are_processed,
    ),
    "the libraries' loggers left changed": Bug(
        "hub",
        "logger.handlers, logger.propagate = handlers, propagate",
        "pass",
        test_models.test_library_settings_are_left_as_they_were,
    ),
}


def put_in(bug: Bug, module, monkeypatch) -> None:
    """Execute the module's source with the bug; put its functions wherever the right ones are."""
    source = Path(module.__file__).read_text(encoding="utf-8")
    assert source.count(bug.right) == 1, f"{bug.right!r} stands {source.count(bug.right)} times"
    mutated = {"__name__": module.__name__, "__file__": module.__file__}
    exec(compile(source.replace(bug.right, bug.wrong), module.__file__, "exec"), mutated)
    if "_agree" in mutated:  # attribution's own check of its sums is off: the tests must notice
        mutated["_agree"] = lambda *given: True
    places = [*vars(conftest.PLAIN).values()]
    places += [m for name, m in sys.modules.items() if name.startswith(("helpers.", "test_"))]
    for name, new in mutated.items():
        old = vars(module).get(name)
        if inspect.isclass(new) and new.__module__ == module.__name__:
            of_instances = lambda part: inspect.isfunction(part) or isinstance(part, property)  # noqa: E731
            for method, function in inspect.getmembers(new, of_instances):
                if method in vars(old) and not method.startswith("__"):
                    monkeypatch.setattr(old, method, function)
        elif inspect.isfunction(new) and new.__module__ == module.__name__:
            for place in places:
                if vars(place).get(name) is old:
                    monkeypatch.setattr(place, name, new)


@pytest.mark.parametrize("bug", BUGS.values(), ids=BUGS)
def test_the_bug_is_noticed(bug, request, monkeypatch):
    asked = [name for name in inspect.signature(bug.test).parameters if name not in bug.arguments]
    fixtures = {name: request.getfixturevalue(name) for name in asked}
    bug.test(**fixtures, **bug.arguments)

    put_in(bug, import_module(f"helpers.{bug.module}"), monkeypatch)
    if plain := getattr(conftest.PLAIN, bug.module, None):
        put_in(bug, plain, monkeypatch)
    try:
        with pytest.raises((AssertionError, pytest.fail.Exception)):
            bug.test(**fixtures, **bug.arguments)
    finally:  # what a bug leaves behind is no concern of the next test
        for value in fixtures.values():
            if hasattr(value, "reset_hooks"):
                value.reset_hooks()


def test_every_helper_has_a_bug_here():
    helpers = {path.stem for path in Path(import_module("helpers").__file__).parent.glob("*.py")}
    assert {bug.module for bug in BUGS.values()} == helpers - {"__init__"}
