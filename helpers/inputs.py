"""Clear errors for bad input: each names the value, what was expected and what to do."""

from collections.abc import Sequence

import torch
from torch import Tensor


def expect_axes(name: str, value: Tensor, axes: str, **sizes: int) -> None:
    """`value` is a non-empty tensor with these axes, of these sizes where one is given.

    Raises:
        TypeError: not a tensor.
        ValueError: another number of axes, another size, or an axis of size 0.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor [{axes}], got {type(value).__name__}")
    names = axes.split()
    shape = tuple(value.shape)
    if len(shape) != len(names):
        raise ValueError(
            f"{name}: expected the {len(names)} axes [{axes}], got shape {shape}; "
            "add or drop an axis (x[None], x[0]) so that they match"
        )
    if 0 in shape:
        raise ValueError(f"{name}: axis {names[shape.index(0)]!r} is empty (shape {shape})")
    for axis, size in sizes.items():
        if shape[names.index(axis)] != size:
            raise ValueError(
                f"{name}: axis {axis!r} should have {size} entries, got shape {shape}; "
                "nothing is broadcast here, so expand it yourself if that is what you mean"
            )


def expect_finite(name: str, value: Tensor) -> None:
    """No NaN and no infinity in `value`, else ValueError; TypeError where it is no tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise ValueError(
            f"{name}: {bad} of {value.numel()} entries are NaN or infinite; find where they first "
            "appear (a division by zero, half precision, a masked score) before measuring"
        )


def expect_index(name: str, value: int, size: int, what: str) -> None:
    """`value` is an int in 0 .. size - 1; negative indices are not taken.

    Raises:
        TypeError: not an int.
        ValueError: out of range.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__} {value!r}")
    if not 0 <= value < size:
        raise ValueError(f"{name} {value} is out of range: this model has {what} 0 to {size - 1}")


def expect_tokens(name: str, value: Tensor, d_vocab: int) -> None:
    """`value` holds integer token ids of a vocabulary of `d_vocab`.

    Raises:
        TypeError: not a tensor of integers.
        ValueError: an id out of range.
    """
    if not isinstance(value, Tensor) or value.is_floating_point() or value.dtype == torch.bool:
        kind = getattr(value, "dtype", type(value).__name__)
        raise TypeError(f"{name}: expected a tensor of integer token ids, got {kind}")
    bad = value[(value < 0) | (value >= d_vocab)]
    if len(bad):
        raise ValueError(
            f"{name}: token id {bad[0].item()} is out of range 0 to {d_vocab - 1}; was it made "
            "with another model's tokenizer?"
        )


def expect_cached(name: str, cache, names: Sequence[str]) -> None:
    """`cache` holds every one of these activations, else ValueError."""
    missing = [key for key in names if key not in cache]
    if missing:
        raise ValueError(
            f"{name}: {missing[0]!r} is not in it ({len(missing)} of {len(names)} needed are "
            "missing); run run_with_cache again without names_filter, on the same model"
        )
