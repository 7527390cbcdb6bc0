import hashlib
import random
import re
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.tasks import problems
from training.tasks.phrasing import expression, phrase
from training.tasks.problems import DIFFICULTIES, KINDS, SPLITS, Chain, Term
from training.tasks.prompts import prompts

kinds = st.sampled_from(KINDS)
difficulties = st.sampled_from(DIFFICULTIES)


def canonical(chain: Chain) -> list[tuple[int, ...]]:
    return sorted((term.sign, *sorted(term.factors)) for term in chain.terms)


@given(kinds, difficulties, st.integers())
def test_the_answer_is_the_value_of_the_expression_in_python(kind, difficulty, seed):
    rng = random.Random(seed)
    chain = problems.draw(rng, kind, difficulty)
    written = expression(chain.terms, random.Random(seed)).replace("x", "*").replace("×", "*")  # noqa: RUF001
    for word, symbol in (("plus", "+"), ("minus", "-"), ("times", "*")):
        written = written.replace(word, symbol)
    assert chain.answer == eval(written)


def test_splits_share_no_problem_in_any_order_of_terms():
    by_split = {
        split: {repr(canonical(c)) for seed in range(3) for c in islice(problems.chains(split, seed), 400)}
        for split in SPLITS
    }
    assert not by_split["train"] & by_split["validation"]
    assert not by_split["train"] & by_split["heldout"]
    assert not by_split["validation"] & by_split["heldout"]


@given(st.permutations([Term(1, (12,)), Term(-1, (7,)), Term(1, (3, 41)), Term(1, (88,))]))
def test_the_split_ignores_the_order_of_terms(terms):
    reordered = Chain("mixed", "hard", tuple(terms))
    assert reordered.split == Chain("mixed", "hard", tuple(sorted(terms, key=repr))).split


def test_the_split_ignores_the_order_of_factors():
    for a in range(2, 40):
        one, other = (Chain("product", "easy", (Term(1, factors),)) for factors in ((a, 41), (41, a)))
        assert one.split == other.split


@pytest.mark.parametrize("practice", [True, False])
@pytest.mark.parametrize("split", SPLITS)
def test_kinds_are_weighted_for_practice_and_equally_likely_otherwise(split, practice):
    drawn = [chain.kind for chain in islice(problems.chains(split, 0, practice=practice), 1500)]
    weights = dict(zip(KINDS, problems._PRACTICE, strict=True)) if practice else dict.fromkeys(KINDS, 1)
    for kind, weight in weights.items():
        assert drawn.count(kind) / 1500 == pytest.approx(weight / sum(weights.values()), abs=0.04)


@given(st.integers())
def test_an_easy_sum_is_shorter_or_smaller_than_a_medium_one(seed):
    easy = problems.draw(random.Random(seed), "sum", "easy")
    assert len(easy.terms) == 2 or max(term.size for term in easy.terms) < 10


@given(difficulties, st.integers())
def test_a_story_never_runs_below_zero(difficulty, seed):
    chain = problems.draw(random.Random(seed), "story", difficulty)
    totals = [sum(t.value for t in chain.terms[: i + 1]) for i in range(len(chain.terms))]
    assert min(totals) >= 0


@given(kinds, difficulties, st.integers())
def test_the_wording_contains_every_number_of_the_problem(kind, difficulty, seed):
    rng = random.Random(seed)
    chain = problems.draw(rng, kind, difficulty)
    numbers = sorted(int(n) for n in re.findall(r"\d+", phrase(chain, rng)))
    assert numbers == sorted(f for term in chain.terms for f in term.factors)


def test_prompts_depend_on_the_seed_alone():
    assert prompts("heldout", 5, 60) == prompts("heldout", 5, 60)
    assert prompts("heldout", 5, 60) != prompts("heldout", 6, 60)


def test_prompts_are_different_and_of_all_difficulties_in_equal_parts():
    drawn = prompts("heldout", 0, 300)
    assert len({p.prompt for p in drawn}) == 300
    for difficulty in DIFFICULTIES:
        assert 80 <= sum(p.difficulty == difficulty for p in drawn) <= 120


@pytest.mark.parametrize("share", [0.0, 0.25, 0.6, 1.0])
def test_a_share_of_the_prompts_can_be_hard_spread_evenly_and_the_rest_in_equal_parts(share):
    drawn = prompts("train", 0, 80, hard_share=share)
    assert len({p.prompt for p in drawn}) == 80
    assert drawn == prompts("train", 0, 80, hard_share=share)
    assert drawn != prompts("train", 1, 80, hard_share=share)
    for stretch in range(0, 80, 20):
        assert sum(p.difficulty == "hard" for p in drawn[stretch : stretch + 20]) == 20 * share
    easy, medium = (sum(p.difficulty == d for p in drawn) for d in ("easy", "medium"))
    assert abs(easy - medium) <= 10


def test_too_many_prompts_are_rejected():
    with pytest.raises(ValueError, match=r"count: heldout has only about \d+ different prompts"):
        prompts("heldout", 0, 20_000, task="product", difficulty="easy")


@pytest.mark.parametrize(
    ("split", "digest"),
    [("train", "f05f91bb95b7d0d4"), ("validation", "8a0ed04c6be1afb8"), ("heldout", "15896bbbce2d7459")],
)
def test_a_seed_draws_the_same_questions_as_it_did_for_the_published_figures(split, digest):
    drawn = "\n".join(prompt.prompt for prompt in prompts(split, 0, 30))
    assert hashlib.sha256(drawn.encode()).hexdigest()[:16] == digest
