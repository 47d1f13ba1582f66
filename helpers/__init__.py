"""What the notebooks import. A lesson's method has a module of its own:

module         notebook   gives
ablation       1, 3, 4    a run without what some heads say
patching       2          sweeps of activation patching, and their linear estimate
attribution    3          a logit difference, split over all that wrote it
induction      4          scores of attention motifs on repeated tokens
(none)         5          the library's own: transformer_lens.tools.analysis.logit_lens
steering       6          a direction from contrast pairs, added while the model runs

shared         metrics, prompts, models (hub, packaged), architecture, claims, plots, inputs
not lessons    engine/ (how a sweep is computed), tutorial_4l/ (a model), findings/ (records)"""
