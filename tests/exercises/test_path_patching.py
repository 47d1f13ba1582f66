"""What notebook 2 says of the library's path patching: by values it is that of Exercise 2.5."""

import re

import pytest
import torch
from books import NAMES, sources
from transformer_lens.patching import get_act_patch_direct_path

from exercises import patching as check
from helpers.architecture import query_key_value
from helpers.models import load_model


@torch.no_grad()
def test_a_path_by_values_is_the_librarys():
    text, space = sources(NAMES[1], "markdown")["ex-5"], {"query_key_value": query_key_value}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], space)  # the notebook's solution
    net, sender = load_model("tutorial-4l", device="cpu"), (1, 2)
    t = check._random_pair(net)
    caches = [net.run_with_cache(tokens)[1] for tokens in (t.clean, t.corrupted)]
    args = net, t.corrupted, *caches, lambda logits: t.logit_diff(logits).sum(), *sender
    theirs = get_act_patch_direct_path(*args, "v", verbose=False)
    assert (theirs[2:] - t.logit_diff(net(t.corrupted))).abs().max() > 0.01  # it does something
    for receiver in ((2, 0), (3, 3)):
        ours = space["path_patched"](net, t.corrupted, *caches, sender, receiver)
        assert t.logit_diff(ours).item() == pytest.approx(theirs[receiver].item(), abs=1e-3)
