"""Grading: a learner's answer judged on the spot, by properties and by known truths.

A check is a function that raises `Wrong` where an answer fails. Nothing is sent anywhere.
"""

import linecache
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, wraps
from importlib import import_module
from pkgutil import iter_modules
from traceback import walk_tb

import numpy as np
import torch
from IPython.display import display
from transformer_lens import ActivationCache
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM

from exercises.session import FILE, keep, solved, stale
from helpers.architecture import Unsupported
from helpers.claims import BROWN, GREEN, GREY, Verdict, checked

UNSOLVED, SOLVED, WRONG, UNJUDGED = "unsolved", "solved", "wrong", "unjudged"
_LOOK = {
    UNSOLVED: ("○ Not solved yet", GREY),
    SOLVED: ("✔ Solved", GREEN),
    WRONG: ("✘ Not yet", BROWN),
    UNJUDGED: ("○ Not judged", GREY),
}

_titles: dict[str, str] = {}  # every exercise imported so far, by number
_tally: dict[str, str] = {}  # the latest status of each, in this kernel
_tries: Counter[str] = Counter()  # wrong tries in this kernel


class Wrong(Exception):
    """An attempt fails a property; the text says which, and the likely mistake."""


class Unsolved(Exception):
    """The stub is untouched: it is `...`, or a call of it gives `...`."""


def exercise(number: str, title: str) -> Callable:
    """Make a graded exercise of a function that raises `Wrong` where an attempt fails.

    The graded function takes the learner's attempt first. It shows "not solved yet" for an
    untouched stub, which is `...` or a function that returns `...`; the failed property for a wrong
    attempt, from the second on with a word on the first hint, from the fourth on all hints; the
    error and its lines for an attempt that stops; that nothing was judged where the attempt's own
    cell failed, since the attempt is then an older version, or where the model's architecture does
    not allow it. It never stops the run and returns nothing.

    Args:
        number: notebook and place, "4.2".
        title: what is to be done, as the notebook's heading says it.
    """

    def decorate(properties: Callable[..., None]) -> Callable[..., None]:
        @wraps(properties)
        def check(attempt, *given) -> None:
            status, text, notes = SOLVED, f"Exercise {number} ({title})", []
            try:
                if older := stale((attempt, *given)):
                    status, text = UNJUDGED, f"{text}: {older}"
                elif attempt is ...:
                    raise Unsolved
                else:
                    properties(attempt, *given)
            except Unsolved:
                status = UNSOLVED
            except Wrong as wrong:
                status, text = WRONG, f"{text}: {wrong}"
            except Unsupported as why:
                status, text = UNJUDGED, f"{text}: not possible on this model: {why}"
            except Exception as error:  # whatever the learner's code raises is shown, not hidden
                notes = _lines(error, attempt)
                what = "your code stopped with" if notes else "your answer stopped the check with"
                notes += getattr(error, "__notes__", ())
                status, text = WRONG, f"{text}: {what} {type(error).__name__}: {error}"
            _tries[number] += status == WRONG
            if status == WRONG and _tries[number] >= 2:
                hints = "Hint 1" if _tries[number] < 4 else "all hints"
                notes.append(f"Stuck? Open {hints} above.")
            if status != UNJUDGED:
                _tally[number] = status
            if status == SOLVED:
                keep(number)
            display(Verdict(*_LOOK[status], text, notes), metadata={"exercise": status})

        check.number, check.title = number, title
        _titles[number] = title
        return check

    return decorate


def answer(attempt: Callable, *arguments, like=None):
    """What the learner's function gives for `arguments`.

    It gets tensors and caches as copies, so that it may write into them; a model must come back
    `unchanged`.

    Args:
        like: a tensor or number; the answer must have its shape.

    Raises:
        Unsolved: it gives `...`.
        Wrong: it is no function, changes a model, leaves gradients switched, gives nothing, another
            shape, or NaN.
    """
    if not callable(attempt):
        raise Wrong(
            f"expected a function, got {type(attempt).__name__}; pass the function itself, uncalled"
        )
    with ExitStack() as stack:
        for model in arguments:
            if isinstance(model, TransformerBridge):
                stack.enter_context(unchanged(model))
        gradients = torch.is_grad_enabled()
        try:
            given = attempt(*map(_copied, arguments))
        finally:
            left = torch.is_grad_enabled() != gradients
            torch.set_grad_enabled(gradients)
    expect(not left, "gradients stay switched; `with torch.enable_grad():` puts them back.")
    return value(given, like=like)


def value(given, *, like=None):
    """`given`; with `like` as a tensor of the shape, dtype and device of `like`, else `Wrong`."""
    if given is ...:
        raise Unsolved
    if given is None:
        raise Wrong(
            "your code gives None: it does not end in `return`, or found nothing to return."
        )
    if like is None:
        return given
    wanted = torch.as_tensor(like)
    got = numbers(given)
    _same_shape(got, wanted)
    return got.to(wanted) if wanted.is_floating_point() else got


def compare(got, right, mistakes: dict | Callable = dict, tolerance: float = 1e-4) -> None:
    """Pass where `got` is `right` up to rounding; else `Wrong`, with the likely mistake.

    Args:
        got: what the learner gave: a tensor of any dtype and device, an array, a number, or lists.
        right: the right answer, in any of these forms.
        mistakes: the message for each known wrong answer, {message: what that mistake gives}; or a
            function that makes this table, called where the answer is not right.
        tolerance: of each number, relative; a tenth of it, times the largest of `right`, is
            forgiven too, so that sums in float32 pass.

    Raises:
        Unsolved: `got` is `...`.
        Wrong: it differs. The message never tells the right number.
    """
    got, right = numbers(value(got)), numbers(right)
    if _close(got, right, tolerance):
        return
    for message, gives in (mistakes() if callable(mistakes) else mistakes).items():
        if _close(got, numbers(gives), tolerance):
            raise Wrong(message)
    _same_shape(got, right)
    far = (got - right).abs()
    worst = int(torch.where(far.isnan(), torch.inf, far).argmax())
    mine, true = got.flatten()[worst].item(), right.flatten()[worst].item()
    where = ""
    if right.dim():
        wrong = int((~_near(got, right, tolerance)).sum())
        at = [int(i) for i in np.unravel_index(worst, right.shape)]
        where = f"{wrong} of {right.numel()} numbers differ; at index {at} "
    raise Wrong(f"{where}you give {mine:.4g}, which is too {'large' if mine > true else 'small'}.")


def expect(holds: bool, reason: str) -> None:
    """Raise `Wrong` with this reason (the property, and the likely mistake) unless it holds."""
    if not checked(reason, holds):
        raise Wrong(reason)


@contextmanager
def step(number: int, first: bool = True) -> Iterator[None]:
    """A step's faults are told with its number; one that is still to do waits for those before.

    `first` as for `on_model`.
    """
    try:
        with on_model(first):
            yield
    except Unsolved:
        if number == 1:
            raise
        raise Wrong(f"right up to here; step {number} is still to do.") from None
    except Wrong as wrong:
        raise Wrong(f"step {number}: {wrong}") from None


@contextmanager
def on_model(first: bool) -> Iterator[None]:
    """What is wrong on another model than the `first`, or stops there, is told as that."""
    where = "" if first else "right on the model at hand, not on another one: "
    try:
        yield
    except Wrong as wrong:
        raise Wrong(f"{where}{wrong}") from None
    except Exception as error:
        if where and not isinstance(error, Unsolved | Unsupported):
            error.add_note(
                "It ran on the model at hand and stopped on another one. Ask the model "
                "that is given for its own sizes and parts."
            )
        raise


def second_model(model: TransformerBridge) -> TransformerBridge:
    """Another model with the tokenizer and vocabulary of this one, the same at every call.

    A Llama of 3 layers, width 48, with weights N(0, 0.3): its 6 heads share 2 keys and values, it
    has no bias, and positions rotate. What is right on this model only fails on it.
    """
    return _random(model.tokenizer, model.cfg.d_vocab, str(model.cfg.device))


@cache
def _random(tokenizer, d_vocab: int, device: str) -> TransformerBridge:
    sizes = {"vocab_size": d_vocab, "hidden_size": 48, "intermediate_size": 64}
    heads = {"num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2}
    network = LlamaForCausalLM(LlamaConfig(**sizes, **heads, max_position_embeddings=128))
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    model = TransformerBridge.boot_transformers(
        "random", hf_model=network.to(device), tokenizer=tokenizer, device=device
    )
    model.enable_compatibility_mode()
    return model.eval().requires_grad_(False)


def some_layers(model: TransformerBridge) -> list[int]:
    """The first, the last, and one between: what is right at the ends only fails there."""
    layers = model.cfg.n_layers
    return list(dict.fromkeys((0, layers - 1, layers // 2)))


@contextmanager
def firm(model: TransformerBridge, hooks: list[tuple[str, Callable]]) -> Iterator[None]:
    """Within the `with` these hooks are on the model, also after the learner's `reset_hooks`."""
    before = _hooks(model)
    for name, hook in hooks:
        model.add_hook(name, hook, is_permanent=True)
    try:
        yield
    finally:
        _take_off(model, before)


@contextmanager
def unchanged(model: TransformerBridge) -> Iterator[None]:
    """Within the `with` no hook and no changed weight is left on the model.

    Raises:
        Wrong: one is left; a hook is taken off first.
    """
    probe = torch.arange(3, device=model.cfg.device)[None]
    hooks, before = _hooks(model), model(probe)
    try:
        yield
    finally:
        stays = _take_off(model, hooks)
    expect(
        not stays,
        "a hook stays on the model and changes every later run; `run_with_hooks`, or `with "
        "model.hooks(...)`, takes it off again.",
    )
    expect(
        torch.allclose(model(probe), before, rtol=0, atol=1e-5 * before.abs().max().item()),
        "the model computes something else after your function: a weight or a hook of torch's "
        "stays changed. Load the model again.",
    )


def place(given, model: TransformerBridge) -> tuple[int, int]:
    """The learner's (layer, head) of this model, whatever holds the two whole numbers.

    Raises:
        Unsolved: `given` is `...`.
        Wrong: it is no such pair, or the model has no such head.
    """
    pair = numbers(value(given)) if not isinstance(given, str | dict) else torch.empty(0)
    if pair.shape != (2,) or not torch.equal(pair, pair.round()):
        raise Wrong(
            f"return (layer, head), two whole numbers, not {given!r}; `divmod(index, n_heads)` "
            "makes them of an index."
        )
    layer, head = (int(number) for number in pair)
    layers, heads = model.cfg.n_layers, model.cfg.n_heads
    expect(
        0 <= layer < layers and 0 <= head < heads,
        f"there is no head {layer}.{head}: layers run to {layers - 1}, heads to {heads - 1}. Are "
        "the two swapped, is `n_heads` the model's own, is a remainder counted as a head?",
    )
    return layer, head


def progress(all: bool = False) -> None:
    """Print how the exercises of this notebook, or of all six, stand.

    What was solved in a notebook survives a restart of the kernel, by the file `.progress.json` in
    the notebook's folder, where one can be written.
    """
    all = all or not _titles
    notebooks = {number.split(".")[0] for number in (_tally or list(_titles)[:1])}
    for module in iter_modules(import_module("exercises").__path__) if all else ():
        import_module(f"exercises.{module.name}")
    shown = [number for number in _titles if all or number.split(".")[0] in notebooks]
    done = solved()  # once solved it stays so, also when tried again
    print(f"{len(done.intersection(shown))} of {len(shown)} exercises solved")
    for number in sorted(shown, key=lambda n: [int(part) for part in n.split(".")]):
        wrong = WRONG if _tally.get(number) == WRONG else UNSOLVED
        status = SOLVED if number in done else wrong
        print(f"  {number}  {_LOOK[status][0]}: {_titles[number]}")
    if not all:
        print(f"All six notebooks: progress(all=True). To start again, delete {FILE}.")


def _copied(given):
    """Tensors are copied, also those in lists and caches; anything else is handed on."""
    if type(given) in (list, tuple):
        return type(given)(map(_copied, given))
    if isinstance(given, dict):
        return type(given)({name: _copied(each) for name, each in given.items()})
    if isinstance(given, ActivationCache):
        return ActivationCache(_copied(given.cache_dict), given.model)
    return given.clone() if isinstance(given, torch.Tensor) else given


def _hooks(model: TransformerBridge) -> list:
    points = model.hook_dict.values()
    return [handle for point in points for handle in point.fwd_hooks + point.bwd_hooks]


def _take_off(model: TransformerBridge, kept: list) -> bool:
    """Take every hook off that is not among `kept`, permanent ones too; whether there was one."""
    known = set(map(id, kept))
    new = [handle for handle in _hooks(model) if id(handle) not in known]
    for handle in new:
        handle.hook.remove()
    for point in model.hook_dict.values():
        point.fwd_hooks = [handle for handle in point.fwd_hooks if id(handle) in known]
        point.bwd_hooks = [handle for handle in point.bwd_hooks if id(handle) in known]
    return bool(new)


def numbers(given) -> torch.Tensor:
    """`given` as float64 on the CPU, whatever holds it."""
    given = getattr(given, "AB", given)  # of a FactoredMatrix
    try:
        if isinstance(given, list | tuple):
            rows = [numbers(row) for row in given]
            return torch.stack(rows) if rows else torch.empty(0, dtype=torch.float64)
        if not isinstance(given, torch.Tensor):
            given = torch.from_numpy(np.asarray(given, dtype=np.float64, order="C"))
        return given.detach().cpu().double()  # in this order: not every device has float64
    except (TypeError, ValueError, RuntimeError) as error:
        kind = type(given).__name__
        raise Wrong(f"expected numbers, got a {kind} that is no table of them ({error})") from None


def _near(got: torch.Tensor, right: torch.Tensor, tolerance: float) -> torch.Tensor:
    finite = right[right.isfinite()].abs()
    largest = finite.max().item() if finite.numel() else 0.0
    return torch.isclose(got, right, rtol=tolerance, atol=tolerance / 10 * (largest or 1.0))


def _close(got: torch.Tensor, right: torch.Tensor, tolerance: float) -> bool:
    return got.shape == right.shape and bool(_near(got, right, tolerance).all())


def _same_shape(got: torch.Tensor, wanted: torch.Tensor) -> None:
    shape, right = tuple(got.shape), tuple(wanted.shape)
    if shape != right:
        raise Wrong(f"expected shape {right}, got {shape}; over which axis do you sum or index?")
    if got.isnan().any() and not wanted.isnan().any():
        raise Wrong(
            "there is a NaN in it, or a None; do you divide by 0, take the log of 0 or less, the "
            "mean of nothing, or leave one unset?"
        )


def _lines(error: Exception, attempt) -> list[str]:
    """The learner's own lines in the error's traceback, the outermost first."""
    space, lines = getattr(attempt, "__globals__", None), []
    for frame, number in walk_tb(error.__traceback__):
        if frame.f_globals is space or frame.f_globals.get("__name__") == "__main__":
            code = frame.f_code
            source = linecache.getline(code.co_filename, number).strip()
            lines.append(f"your cell, line {number}, in {code.co_name}: {source or '(not kept)'}")
    return lines[-5:]
