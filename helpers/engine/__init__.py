"""How a sweep of `helpers.patching` is computed. A cell is one patched run; two engines give each:

- `hooks`: all runs side by side as rows of one batch, patched by hooks; right on every model;
- `sparse`: only the states that a patch has changed, by the model's own modules: far less to
  compute; for blocks that `architecture` knows, not replaced and not hooked."""

from typing import NamedTuple

RESIDUAL, HEADS, ATTENTION, MLP = SITES = (  # in the order in which a block comes to them
    "hook_resid_pre",
    "attn.hook_z",
    "hook_attn_out",
    "hook_mlp_out",
)


class Cell(NamedTuple):
    """One entry of a grid: which part of which activation is replaced."""

    layer: int
    site: str  # the hook's name within its block
    index: tuple  # into one row of the activation, [pos, ...]

    @property
    def name(self) -> str:
        return f"blocks.{self.layer}.{self.site}"
