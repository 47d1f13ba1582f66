"""Claims and exercises: what is said of a model, and what a learner wrote, checked on the spot."""

from collections.abc import Callable
from functools import wraps
from html import escape

from IPython.display import display

PASSED, SKIPPED = "checked", "skipped"
UNSOLVED, SOLVED, WRONG = "unsolved", "solved", "wrong"
_LOOK = {
    PASSED: ("✔ Checked", "#1a9850"),
    SKIPPED: ("○ Not checked on this model", "#9e9e9e"),
    UNSOLVED: ("○ Not solved yet", "#9e9e9e"),
    SOLVED: ("✔ Solved", "#1a9850"),
    WRONG: ("✘ Not yet", "#b35806"),
}


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
    hand. On any other model the claim is shown as "not checked on this model", never as true;
    `python -m tools.run` counts it as skipped, and with `--unclaimed` tells whether it holds.

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
    holds = _one_bool(holds)
    if only_for is not None:
        if model is None:
            raise ValueError("claim(..., only_for=...) also needs model=, the model at hand")
        names = (only_for,) if isinstance(only_for, str) else tuple(only_for)
        if model.cfg.model_name not in names:
            display(_Verdict(text, SKIPPED), metadata={"claim": SKIPPED, "holds": holds})
            return
    if not holds:
        raise AssertionError(f"This claim is false here: {text}")
    display(_Verdict(text, PASSED), metadata={"claim": PASSED})


class Wrong(Exception):
    """An attempt fails a property; the text says which, and the likely mistake."""


class Unsolved(Exception):
    """The stub is untouched: it is `...`, or a call of it gives `...`."""


_tally: dict[str, str] = {}  # exercise: its latest status; lives as long as the notebook's kernel


def exercise(number: str, title: str) -> Callable:
    """Make a graded exercise of a function that raises `Wrong` where an attempt fails a property.

    The graded function takes the learner's attempt first. It shows "not solved yet" for an
    untouched stub, which is `...` or a function that returns `...`; the failed property for a wrong
    attempt; the error for an attempt that stops. It never stops the run and returns nothing. The
    latest status is kept for `progress`.

    Args:
        number: notebook and place, "4.2".
        title: what is to be done, as the notebook's heading says it.
    """

    def decorate(properties: Callable[..., None]) -> Callable[..., None]:
        @wraps(properties)
        def check(attempt, *given) -> None:
            name, status, reason = f"Exercise {number} ({title})", SOLVED, ""
            try:
                if attempt is ...:
                    raise Unsolved
                properties(attempt, *given)
            except Unsolved:
                status = UNSOLVED
            except Wrong as wrong:
                status, reason = WRONG, str(wrong)
            except Exception as error:  # whatever the learner's code raises is shown, not hidden
                status, reason = WRONG, f"your code stopped with {type(error).__name__}: {error}"
            _tally[number] = status
            text = f"{name}: {reason}" if reason else name
            display(_Verdict(text, status), metadata={"exercise": status})

        check.number, check.title = number, title
        return check

    return decorate


def answer(attempt: Callable, *arguments, like=None):
    """What the learner's function gives for `arguments`, which it gets as copies.

    Args:
        like: a tensor or number; the answer must have its shape.

    Raises:
        Unsolved: it gives `...`.
        Wrong: it is no function, gives nothing, another shape, or NaN.
    """
    if not callable(attempt):
        raise Wrong(
            f"expected a function, got {type(attempt).__name__}; pass the function itself, uncalled"
        )
    copies = [a.clone() if hasattr(a, "clone") else a for a in arguments]
    given = attempt(*copies)
    if given is ...:
        raise Unsolved
    return value(given, like=like)


def value(given, *, like=None):
    """`given`, checked to be something of the shape of `like` without NaN; else `Wrong`."""
    if given is None:
        raise Wrong("your code gives None; does it end in `return`?")
    if like is not None:
        shape, wanted = (tuple(getattr(v, "shape", ())) for v in (given, like))
        if shape != wanted:
            raise Wrong(
                f"expected shape {wanted}, got {shape}; over which axis do you sum or index?"
            )
        if bool((given != given).any() if shape else given != given):
            raise Wrong("there is a NaN in it; do you divide by 0, or take the log of 0?")
    return given


def expect(holds: bool, reason: str) -> None:
    """Raise `Wrong` with this reason (the property, and the likely mistake) unless it holds."""
    if not _one_bool(holds):
        raise Wrong(reason)


def progress() -> None:
    """Print how the exercises checked in this notebook stand; nothing is sent anywhere."""
    solved = sum(status == SOLVED for status in _tally.values())
    print(f"{solved} of {len(_tally)} exercises solved")
    for number in sorted(_tally):
        print(f"  {number}  {_LOOK[_tally[number]][0]}")


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
