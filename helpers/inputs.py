"""Clear errors for bad input: each names the value, what was expected and what to do. TypeError
where it is of another kind, ValueError where it is of the right kind and cannot be used."""

import math
import re
from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
IDS = (torch.int32, torch.int64)  # what torch takes as indices


def expect_axes(name: str, value: Tensor, axes: str, **sizes: int) -> None:
    """`value` is a non-empty tensor with these axes, of these sizes where one is given."""
    _expect_numbers(name, value)
    names, shape = axes.split(), tuple(value.shape)
    if len(shape) != len(names):
        raise ValueError(f"{name}: expected axes [{axes}], got shape {shape}; use x[None] or x[0]")
    if 0 in shape:
        raise ValueError(f"{name}: axis {names[shape.index(0)]!r} is empty (shape {shape})")
    for axis, size in sizes.items():
        if shape[names.index(axis)] != size:
            what = f"axis {axis!r} should have {size} entries, got shape {shape}"
            raise ValueError(f"{name}: {what}; nothing is broadcast here, so expand it yourself")


def expect_finite(name: str, value: Tensor, kinds: Sequence[torch.dtype] = FLOATS) -> None:
    """No NaN, no infinity in floating-point numbers (or other `kinds`). The sum tells fastest."""
    _expect_numbers(name, value)
    if value.dtype not in kinds:
        raise TypeError(f"{name}: expected floating-point numbers, got {value.dtype}; use .float()")
    if not math.isfinite(value.sum().item()) and (bad := int((~torch.isfinite(value)).sum())):
        raise ValueError(f"{name}: {bad} of {value.numel()} are NaN or infinite; find the first")


def expect_int(name: str, value: int, least: int, most: int) -> int:
    """`value` as an int, where it is one (numpy's too) from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name}: expected an int, got {type(value).__name__} {value!r}")
    if not least <= value <= most:
        raise ValueError(f"{name} {value} is out of range: here it is {least} to {most}")
    return int(value)


def expect_ids(d_vocab: int, batch: int | None = None, **ids: Tensor) -> None:
    """Token ids of a vocabulary of `d_vocab`, by name; with a `batch`, one for each row of it."""
    for name, value in ids.items():
        if batch is not None:
            expect_axes(name, value, "batch", batch=batch)
        _expect_numbers(name, value)
        if value.dtype not in IDS:
            raise TypeError(f"{name}: expected a tensor of integer token ids, got {value.dtype}")
        if len(bad := value[(value < 0) | (value >= d_vocab)]):
            reason = f"is out of range 0 to {d_vocab - 1}; was it made with another tokenizer?"
            raise ValueError(f"{name}: token id {bad[0].item()} {reason}")


def expect_mask(mask: Tensor, batch: int, pos: int) -> Tensor:
    """`mask` as truth values: which tokens are no padding, in each row at least one."""
    expect_axes("mask", mask, "batch pos", batch=batch, pos=pos)
    if mask.dtype not in (torch.bool, *IDS):
        raise TypeError(f"mask: expected True or 1 where a token is no padding, got {mask.dtype}")
    if not (real := mask.bool()).any(1).all():
        raise ValueError("mask: a row has no token; expected 1 where a token is no padding")
    return real


def expect_prompt(name: str, tokens: Tensor, model) -> None:
    """`tokens` is one prompt of this model's ids, without padding."""
    expect_axes(name, tokens, "batch pos")
    if len(tokens) != 1:
        raise ValueError(f"{name}: expected one prompt, got {len(tokens)}; average them in a loop")
    expect_ids(model.cfg.d_vocab, **{name: tokens})
    tokenizer = getattr(model, "tokenizer", None)
    pad, bos = (getattr(tokenizer, f"{kind}_token_id", None) for kind in ("pad", "bos"))
    padding = [token == pad for token in tokens[0].tolist()]
    ahead = all(padding[:2]) if pad == bos else padding[0]
    if len(padding) > 1 and (padding[-1] or ahead):
        fix = "cut it off: a sweep reads the last position as the last token"
        raise ValueError(f"{name}: the prompt is padded (with token id {pad}); {fix}")


def expect_number(name: str, value: float) -> float:
    """`value` as a float, where it is one finite number."""
    try:
        number = float(None if isinstance(value, str | bytes | bool) else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # RuntimeError: a tensor of many
        raise TypeError(f"{name}: expected one number, got {type(value).__name__}") from None
    if not math.isfinite(number):
        raise ValueError(f"{name}: expected a finite number, got {number}")
    return number


def expect_text(name: str, text: str) -> None:
    """`text` is a string that can be tokenized, with more in it than white space."""
    if not isinstance(text, str):
        raise TypeError(f"{name}: expected a string, got {type(text).__name__}")
    if not text.strip() or re.search("[\ud800-\udfff]", text):  # half of a surrogate pair
        raise ValueError(f"{name}: expected some text in valid Unicode, got {text!r}")


def expect_list(name: str, values: Iterable, of: str = "texts", size: int | None = None) -> list:
    """`values` as a list of `of`: of this size, else of at least one. A string is no list."""
    try:
        each = list(None if isinstance(values, str) else values)
    except TypeError:
        raise TypeError(f"{name}: expected a list of {of}, got {values!r}") from None
    if len(each) != (size or max(1, len(each))):
        raise ValueError(f"{name}: expected {size or 'at least one of'} {of}; got {each or 'none'}")
    return each


def expect_activation(cache, name: str, model, **sizes: int) -> Tensor:
    """`cache[name]`, finite, of this model's shape, and of the `sizes` "batch" and "pos" given."""
    if not hasattr(cache, "keys") or name not in cache:
        there = "" if name in model.hook_dict else f" ({model.cfg.architecture} has no such hook)"
        fix = "run run_with_cache again without names_filter, on the same model"
        raise ValueError(f"cache: {name!r} is not in it{there}; {fix}")
    if getattr(cache, "has_batch_dim", True) is False:
        raise ValueError("cache: made with remove_batch_dim=True; run run_with_cache without that")
    value, c = cache[name], model.cfg
    width = {"hook_z": (c.n_heads, c.d_head), "hook_post": (None,)}  # OPT: not cfg.d_mlp
    width = width.get(name.split(".")[-1], (c.d_model,))
    shape, expected = tuple(value.shape), (sizes.get("batch"), sizes.get("pos"), *width)
    known = all(size in (None, got) for got, size in zip(shape, expected, strict=False))
    if len(shape) != len(expected) or not known:
        shown = ", ".join("any" if size is None else str(size) for size in expected)
        fix = "it must come from the same model, and from a prompt of the same length"
        raise ValueError(f"cache: {name} has shape {shape}, expected ({shown}); {fix}")
    expect_finite(f"cache[{name!r}]", value)
    return value


def _expect_numbers(name: str, value: Tensor) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(value).__name__}")
    if value.is_meta:
        raise ValueError(f"{name}: it is on the device 'meta', where tensors hold no numbers")
