"""Claims: what a notebook says of a model, checked on the model at hand."""

from html import escape

from IPython.display import display

PASSED, SKIPPED = "checked", "skipped"
_LOOK = {PASSED: ("✔ Checked", "#1a9850"), SKIPPED: ("○ Not checked on this model", "#9e9e9e")}


class _Verdict:
    """A line under a cell: rich in a notebook, plain elsewhere."""

    def __init__(self, text: str, status: str):
        self.text, (self.label, self.colour) = text, _LOOK[status]

    def __repr__(self) -> str:
        return f"{self.label}: {self.text}"

    def _repr_html_(self) -> str:
        style = f"border-left: 4px solid {self.colour}; padding: 0.2em 0.8em"
        return f'<div style="{style}"><b>{self.label}:</b> {escape(self.text)}</div>'


def claim(
    text: str,
    holds: bool,
    only_for: str | tuple[str, ...] | None = None,
    *,
    model: object | None = None,
) -> None:
    """Assert `holds` and show `text` as checked.

    An identity (two routes to one answer) must hold on every model: leave `only_for` out. A
    *finding* is tied to the models it was found on: name them in `only_for` and pass the `model` at
    hand. On any other model the claim is shown as "not checked on this model", never as true, and
    `python -m helpers.run` counts it as skipped.

    Args:
        text: the sentence claimed, with its numbers filled in by the caller.
        holds: a bool, or a tensor or array of one bool.
        only_for: model names, compared with `model.cfg.model_name`.
        model: anything with `.cfg.model_name`; needed with `only_for`.

    Raises:
        AssertionError: the claim is false.
        TypeError: `holds` is not a single bool (a non-empty list or a number is always "true", so
            such a claim could not fail), or `text` is not a string.
        ValueError: `only_for` without `model`, or an empty `text`.
    """
    if not isinstance(text, str):
        raise TypeError(f"claim(text, holds): text must be a sentence, got {type(text).__name__}")
    if not text.strip():
        raise ValueError("claim(text, holds): text is empty; say what is claimed")
    if only_for is not None:
        if model is None:
            raise ValueError("claim(..., only_for=...) also needs model=, the model at hand")
        names = (only_for,) if isinstance(only_for, str) else tuple(only_for)
        if model.cfg.model_name not in names:
            display(_Verdict(text, SKIPPED), metadata={"claim": SKIPPED})
            return
    if not _one_bool(holds):
        raise AssertionError(f"This claim is false here: {text}")
    display(_Verdict(text, PASSED), metadata={"claim": PASSED})


def _one_bool(value: object) -> bool:
    """`value` as a bool, where it is one (also torch's and numpy's, of one element)."""
    item = value.item() if getattr(value, "size", None) is not None and _n(value) == 1 else value
    if not isinstance(item, bool):
        raise TypeError(
            f"claim(text, holds): holds must be one bool, got {type(value).__name__} {value!r}; "
            "compare, and join several comparisons with .all()"
        )
    return item


def _n(value: object) -> int:
    return value.numel() if hasattr(value, "numel") else value.size
