"""`claim` and `finding`: an identity stops; a finding is shown, and compared with the record."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers import claims
from helpers.claims import claim, finding


def named(name):
    return SimpleNamespace(cfg=SimpleNamespace(model_name=name))


@pytest.fixture
def on_record(tmp_path, monkeypatch):
    """A function: put findings on record, {model: {name: (holds, text)}}."""
    monkeypatch.setattr(claims, "RECORDS", tmp_path)
    monkeypatch.delenv("TUTORIAL_FINDINGS", raising=False)

    def put(**models):
        for model, found in models.items():
            entries = {k: {"holds": h, "text": t, "notebook": k[:2]} for k, (h, t) in found.items()}
            record = {"model": {"name": model}, "versions": {}, "findings": entries}
            (tmp_path / f"{model}.json").write_text(json.dumps(record), encoding="utf-8")

    return put


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, as [(verdict, metadata)]."""
    outputs = []
    monkeypatch.setattr(claims, "display", lambda v, metadata: outputs.append((v, metadata)))
    return outputs


@pytest.mark.parametrize("form", [bool, torch.tensor, np.bool_, lambda holds: np.array([[holds]])])
def test_a_true_claim_is_shown_and_counted_and_a_false_one_fails(form, shown):
    with pytest.raises(AssertionError, match="two is odd"):
        claim("two is odd", form(False))
    claim("two is even", form(True))
    ((verdict, metadata),) = shown
    assert (repr(verdict), metadata) == ("✔ Checked: two is even", {"claim": "checked"})


@pytest.mark.parametrize("not_bool", ["no", 1, None, torch.ones(2) > 0, np.ones(1)])
def test_what_could_not_fail_or_has_no_name_is_refused(not_bool):
    for say in (claim, lambda text, holds: finding(text, holds, named("a"), "01-always")):
        with pytest.raises(TypeError, match="holds must be one bool"):
            say("always", not_bool)
        with pytest.raises(ValueError, match="empty"):
            say("  ", True)
        with pytest.raises(TypeError, match="sentence"):
            say(True, "text")
    for name in ("moves", "02", "02-Moves", "02-moves/..", None):
        with pytest.raises(ValueError, match="02-moves"):
            finding("it moves", True, named("a"), name)
    with pytest.raises(TypeError, match="model_name"):
        finding("it moves", True, "02-moves", "02-moves")


@pytest.mark.parametrize(("holds", "turned"), [(True, "does not hold"), (False, "holds")])
def test_what_turns_is_told_to_a_reader_and_fails_a_strict_run(
    on_record, shown, holds, turned, monkeypatch
):
    on_record(a={"02-same": (holds, "as it was"), "02-moves": (not holds, "moved at layer 3")})
    finding("moves at layer 4", holds, named("a"), "02-moves")
    ((verdict, metadata),) = shown
    assert repr(verdict).startswith("✔ Holds here" if holds else "✘ Does not hold here")
    assert f"the record says that it {turned} on a: your own prompt" in repr(verdict)
    assert metadata["finding"] == "02-moves"
    assert (metadata["holds"], metadata["recorded"]) == (holds, not holds)
    monkeypatch.setenv("TUTORIAL_FINDINGS", "strict")
    finding("as it was, to the last digit or not", holds, named("a"), "02-same")
    with pytest.raises(AssertionError, match="02-moves") as failure:
        finding("moves at layer 4", holds, named("a"), "02-moves")
    assert "layer 4" in str(failure.value) and "layer 3" in str(failure.value)


def test_what_has_no_record_stops_nothing(on_record, shown, monkeypatch):
    on_record(b={"02-other": (True, "something else")})
    monkeypatch.setenv("TUTORIAL_FINDINGS", "strict")
    for model, note in (("a", "no record for this model yet"), ("b", "not in the record of b yet")):
        finding("it moves", False, named(model), "02-moves")
        verdict, metadata = shown.pop()
        assert note in repr(verdict) and metadata["recorded"] is None


def test_other_models_are_told_below(on_record, capsys):
    for here, note in ((True, "not on b: moved 9 of 9"), (False, "not on b either")):
        on_record(a={"02-moves": (here, "moved 1")}, b={"02-moves": (False, "moved 9 of 9")}, c={})
        finding("moved 1", here, named("a"), "02-moves")
        assert capsys.readouterr().out.splitlines()[1:] == [f"    {note}"]


def test_no_text_can_break_the_page(on_record, shown):
    script = "<script>alert(1)</script>"
    on_record(b={"02-moves": (False, script)}, **{"<i>c": {"02-moves": (True, "")}})
    claim(script, True)
    finding(script, True, named("a"), "02-moves")
    pages = [verdict._repr_html_() for verdict, _ in shown]
    assert len(pages) == 2 and all("alert(1)" in page for page in pages)
    assert not any("<script>" in page or "<i>" in page for page in pages)
