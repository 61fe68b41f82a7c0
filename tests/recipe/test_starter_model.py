"""Which model the first recipe names, with a hub and without."""

from __future__ import annotations

import pytest

from bigbatch.errors import UsageError
from bigbatch.recipe.model_facts import ModelFacts
from bigbatch.recipe.starter_model import asked_model, check_trainable, chosen_model


def near(name, **changes):
    return ModelFacts(
        **({"name": name, "kind": "masked", "vocabulary": 30000, "origin": "a package"} | changes)
    )


def choose(*nearby, language="en", task="other", answers=False):
    return chosen_model(
        language, task=task, nearby=nearby, answers=lambda: answers, why_not=lambda: "no answer"
    )


def test_the_usual_one_where_it_can_be_had():
    assert choose(near("x"), answers=True).name == "distilbert-base-uncased"
    here = choose(near("x"), near("distilbert-base-uncased", origin="the hub's cache"))
    assert here.name == "distilbert-base-uncased" and "the hub's cache" in here.why and not here.said
    assert choose(answers=True, language=None).name == "distilbert-base-multilingual-cased"
    assert choose(answers=True, task="match").name.startswith("sentence-transformers/all-MiniLM")


def test_without_a_hub_the_fitting_one_on_this_machine():
    many = near("many", vocabulary=250_000)
    labelled = near("labelled", labels=("a", "b"), labels_of="texts")
    unfit = [near("gpt", kind="causal"), near("t5", kind="encoder-decoder"), near("raw", weights="random")]
    assert choose(*unfit, labelled, many, near("plain")).name == "plain"
    assert choose(*unfit, labelled, near("plain"), many, language="zh").name == "many"
    picked = choose(*unfit, labelled)
    assert picked.name == "labelled" and "no answer" in picked.why
    assert picked.said == (
        "model: labelled (a package), since no answer; also here: gpt (a package), t5 (a package), raw (a package); "
        "another one: --model NAME",
    )


def test_without_any_the_remedy_is_a_folder():
    picked = choose(near("gpt", kind="causal"))
    assert picked.name == "distilbert-base-uncased"
    assert (
        "no answer" in picked.said[0]
        and "found here: gpt" in picked.said[0]
        and "--model FOLDER" in picked.said[0]
    )
    assert "no model was found in its cache or in installed packages" in choose().said[0]


def test_an_encoder_decoder_is_refused_with_what_is_trained():
    with pytest.raises(UsageError, match="writes one text from another"):
        check_trainable(near("t5", kind="encoder-decoder"), "classify")
    check_trainable(near("t5", kind="encoder-decoder"), "seq2seq")
    check_trainable(near("gpt", kind="causal"), "clm")
    with pytest.raises(UsageError, match=r"bert: conversations \(task chat\) take a causal model"):
        check_trainable(near("bert"), "chat")
    with pytest.raises(UsageError, match=r"t5: chosen and rejected answers \(task prefer\) take a causal"):
        check_trainable(near("t5", kind="encoder-decoder"), "prefer")
    check_trainable(near("bert"), "prefer")  # which becomes `task: reward`
    check_trainable(near("gpt", kind="causal"), "prefer")


def test_preferences_are_learnt_by_the_causal_model_that_is_here():
    nearby = [near("bert"), near("gpt", kind="causal")]
    found = chosen_model(
        "en", task="prefer", nearby=nearby, answers=lambda: False, why_not=lambda: "no answer"
    )
    assert found.name == "gpt"
    alone = chosen_model(
        "en", task="prefer", nearby=nearby[:1], answers=lambda: False, why_not=lambda: "no answer"
    )
    assert alone.name == "HuggingFaceTB/SmolLM2-135M-Instruct" and "hf download" in alone.said[0]


def test_the_hub_is_not_asked_for_what_is_here():
    def asked():
        raise AssertionError

    found = chosen_model(
        "en", task="other", nearby=[near("distilbert-base-uncased")], answers=asked, why_not=asked
    )
    assert found.name == "distilbert-base-uncased"


def test_a_model_that_cannot_be_seen_is_said():
    assert asked_model("m", near("m"), "").said == ()
    assert (
        "which kind of model m is could not be seen (no answer)"
        in asked_model("m", None, "no answer").said[0]
    )
    assert asked_model("t5", near("t5", kind="encoder-decoder"), "").known is not None
