from dataclasses import replace

import pytest
import yaml

from models.family import Checkpoint, Estimate, Family, Measurements, Slice
from training.publish import card
from training.publish.provenance import Provenance

QUANTILES = {"p05": 1.0, "p10": 2.0, "p25": 3.0, "p50": 40.0, "p75": 50.0, "p90": 60.0, "p95": 70.0, "p99": 80.0}


def measured(accuracy: float, tokens: float) -> Slice:
    return Slice(
        prompts=300,
        accuracy=Estimate(mean=accuracy, low=accuracy - 0.01, high=accuracy + 0.01),
        reasoning_tokens=Estimate(mean=tokens, low=tokens - 2, high=tokens + 2),
        quantiles=QUANTILES,
    )


def checkpoint(name: str, alpha: float | None, tokens: float) -> Checkpoint:
    return Checkpoint(
        name=name,
        alpha=alpha,
        kind="base" if alpha is None else "lora",
        path=name,
        files={f"{name}/weights": "0" * 64},
        frontier=Measurements(
            overall=measured(0.9, tokens),
            by_difficulty={d: measured(0.9, tokens) for d in ("easy", "medium", "hard")},
            samples_per_prompt=2,
            temperature=1.0,
            seed=0,
            command="laconic-train measure there",
        ),
    )


@pytest.fixture
def family():
    return Family(
        name="abacus",
        description="A reasoner.",
        base="base",
        reference="base",
        context_tokens=1024,
        tokenizer="base/tokenizer.json",
        profile="profile.json",
        files={"base/tokenizer.json": "0" * 64, "profile.json": "0" * 64},
        checkpoints=(checkpoint("base", None, 90.5), checkpoint("alpha-0.4", 0.4, 20.25)),
    )


@pytest.fixture
def written(family):
    trained_here = Provenance(
        recipe="recipe.yaml",
        pretrained=None,
        parameters=3_345_152,
        reward="l2t",
        dense={"charge": "tokens"},
        minutes={"base": 57, "alpha-0.4": 10},
        curves=None,
    )
    figures = {"accuracy": 0.9, "cut_accuracy": 0.6, "episodes": 3.0, "reasoning_tokens": 80}
    gate = {
        "prompts_per_difficulty": 300,
        "seed": 0,
        **{f"temperature_{t}": dict.fromkeys(("easy", "medium", "hard"), figures) for t in (1, 0)},
    }
    fitted = dict.fromkeys(
        ("brier", "brier_constant", "auc", "calibration_error", "tokens_mean_error", "tokens_mean_error_constant"), 0.5
    )
    measured = {"accuracy": 0.95, "tokens": 43.25}
    both = {"first": "alpha-0.4", "second": "base", "surprisal": 0.3895, "measured": measured}
    answers = {"answers_mean": 12.0, "answers_error": 3.5, "answers_error_constant": 4.0}
    profile = {
        "report": {"base": fitted | answers, "alpha-0.4": fitted | {"surprisal_auc": 0.91}},
        "escalations": {"alpha-0.4>base@10%": both},
    }
    return lambda failures, family=family, provenance=trained_here: card.write(
        family, provenance, gate={**gate, "failures": failures}, profile=profile
    )


def test_the_card_opens_with_hugging_face_front_matter(written):
    _, front, _ = written([]).split("---\n", 2)
    assert yaml.safe_load(front)["license"] == "apache-2.0"


def test_the_card_has_every_checkpoint_with_its_figures_and_intervals(written):
    text = written([])
    assert "| base |  | 90.0 % (89.0 to 91.0) | 90.5 (88.5 to 92.5) | 40 | 70 |" in text
    assert "| alpha-0.4 | 0.4 | 90.0 % (89.0 to 91.0) | 20.2 (18.2 to 22.2) | 40 | 70 |" in text


def test_the_card_says_what_was_rewarded(written):
    text = written([])
    assert "each episode of thinking is rewarded for how much it raises the probability of the right answer" in text
    assert "minus alpha times its length" in text
    assert "length penalty" not in text, "the shipped family is not trained with it"


def test_the_card_says_that_the_checkpoints_learned_to_decide(written):
    made = Provenance("recipe.yaml", None, 3_000_000, "l2t", None, {"alpha-0.4": 10}, None)
    assert "another episode" not in written([], provenance=made)
    text = written([], provenance=replace(made, deciding={"questions": 12_000, "price": 0.01}))
    assert "Then each but the one at alpha 0 was fine-tuned on where another episode" in text
    assert "fine-tuned on where another episode of thinking pays: on 12,000 first passes of its own" in text
    text = written([], provenance=replace(made, deciding={"questions": 12_000, "price": 0.01, "when": "before"}))
    assert "Before that each but the one at alpha 0 was fine-tuned" in text
    assert "first passes of the base, from which the base thought on" in text


def test_the_card_says_that_the_base_was_quantized(written):
    def of(quantized: str | None) -> str:
        made = Provenance("recipe.yaml", "bases/a", None, "alpha", None, {"alpha-0.4": 10}, None, quantized=quantized)
        return written([], provenance=made)

    assert "1 checkpoint made from `bases/a`. It was quantized to 4 bits once.\n" in of(
        "It was quantized to 4 bits once."
    )
    assert "1 checkpoint made from `bases/a`.\n" in of(None)


def test_the_card_says_that_thinking_shortens_with_alpha_only_if_it_does(written, family):
    ordered = "A larger alpha means shorter thinking."
    assert ordered in written([])
    shorter = checkpoint("alpha-0.2", 0.2, 15.0)
    assert ordered not in written([], family.model_copy(update={"checkpoints": (*family.checkpoints, shorter)}))


def test_the_card_recommends_the_shortest_checkpoint_that_matches_the_base(written):
    text = written([])
    assert (
        "use **alpha-0.4**: it is the one with the shortest reasoning that is at least as accurate as the base" in text
    )
    assert "It uses 22 % of the base's tokens" in text


def test_the_card_recommends_none_that_thinks_longer_than_the_base(written, family):
    base, trained = family.checkpoints[0], family.checkpoints[-1]
    longer = trained.model_copy(update={"frontier": base.frontier})
    text = written([], family.model_copy(update={"checkpoints": (base, longer)}))
    assert "No checkpoint is as accurate as the base with shorter reasoning." in text


def test_the_card_has_the_answer_tokens_of_checkpoints_that_have_them(written):
    text = written([])
    assert "| `base` | 12.0 | 3.5 | 4.0 |" in text
    assert "| `alpha-0.4` | " not in text


def test_the_card_says_how_long_training_took(written):
    assert "took 57 minutes for base and 10 minutes for alpha-0.4: 67 minutes in all" in written([])


def test_the_card_says_whether_the_base_passed_the_gate(written):
    assert "The base passes." in written([])
    failed = written(["easy accuracy is 0.5"])
    assert "The base does not pass" in failed
    assert "- easy accuracy is 0.5" in failed


def test_the_card_has_each_checkpoint_s_confidence_and_each_escalation_once(written):
    text = written([])
    assert "| base | 0.5000 | 0.5000 | 0.500 | 0.500 | 0.5 | 0.5 | - |" in text
    assert "| alpha-0.4 | 0.5000 | 0.5000 | 0.500 | 0.500 | 0.5 | 0.5 | 0.910 |" in text
    assert text.count("| `alpha-0.4>base@10%` | alpha-0.4 | base | 0.39 | 95.0 % | 43.2 |") == 1
    assert text.count("**Escalation.**") == 1
