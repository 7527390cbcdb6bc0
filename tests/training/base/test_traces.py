import random
import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from training.base import traces
from training.tasks import problems
from training.tasks.problems import DIFFICULTIES, KINDS

chains = st.builds(
    lambda kind, difficulty, seed: problems.draw(random.Random(seed), kind, difficulty),
    st.sampled_from(KINDS),
    st.sampled_from(DIFFICULTIES),
    st.integers(),
)
seeds = st.integers()


def lines(episode: tuple[traces.Piece, ...]) -> list[str]:
    return "".join(piece.text for piece in episode).split("\n")


def lines_of(steps: list[traces._Step]) -> tuple[str, ...]:
    return tuple(f"{step.left}={step.result}" for step in steps)


@given(chains, seeds)
def test_a_trace_ends_in_the_answer_that_the_verifier_expects(chain, seed):
    assert traces.write(chain, random.Random(seed)).answer == chain.answer


@given(chains)
def test_every_method_arrives_at_the_answer(chain):
    for method in ("fast", *traces.CHECKS):
        assert traces.solve(chain, method)[-1].result == chain.answer


@given(chains, seeds)
def test_every_step_is_correct_except_slips_which_stay_out_of_the_loss(chain, seed):
    trace = traces.write(chain, random.Random(seed))
    for episode in trace.episodes:
        for left, result in pairwise(episode):
            if left.text.endswith("="):
                right = int(result.text) == eval(left.text.removesuffix("="))
                assert right == result.learned


@given(chains, seeds)
def test_each_check_says_whether_it_agrees_with_the_majority_so_far(chain, seed):
    trace = traces.write(chain, random.Random(seed))
    for k, episode in enumerate(trace.episodes[1:], 1):
        believed = traces.Trace(trace.episodes[:k], trace.results[:k]).answer
        verdict, _, value = lines(episode)[-1].partition(" ")
        assert int(value) == trace.results[k]
        assert verdict == ("matches" if trace.results[k] == believed else "differs")


def test_some_first_passes_are_careful_and_are_not_checked_the_same_way_at_once():
    rng = random.Random(0)
    chain = problems.draw(rng, "sum", "hard")
    careful, fast = (lines_of(traces.solve(chain, method)) for method in ("step", "fast"))
    kinds = {careful: "careful", fast: "fast"}
    written = [traces.write(chain, rng) for _ in range(2000)]
    firsts = [kinds.get(tuple(lines(trace.episodes[0])[:-1])) for trace in written]  # None: one that slipped
    known = [kind for kind in firsts if kind]
    assert abs(known.count("careful") / len(known) - traces.CAREFUL) < 0.04
    for kind, trace in zip(firsts, written, strict=True):
        if kind == "careful" and len(trace.episodes) > 1:
            assert lines(trace.episodes[1])[0] != "check step"


@given(chains, seeds)
def test_an_episode_contains_no_episode_break(chain, seed):
    for episode in traces.write(chain, random.Random(seed)).episodes:
        assert traces.EPISODE_BREAK not in "".join(piece.text for piece in episode)


def test_the_number_of_checks_hardly_depends_on_the_difficulty():
    rng = random.Random(0)
    means = []
    for difficulty in DIFFICULTIES:
        drawn = [problems.draw(rng, "sum", difficulty) for _ in range(600)]
        means.append(sum(len(traces.write(c, rng).results) for c in drawn) / len(drawn))
    assert max(means) - min(means) < 0.5
    assert all(2.7 < mean < 4 for mean in means)


def test_first_passes_take_three_or_four_operands_at_once_and_checks_two():
    chain = problems.Chain("sum", "medium", tuple(problems.Term(1, (n,)) for n in (31, 42, 53)))
    assert [step.left for step in traces.solve(chain, "fast")] == ["31+42+53"]
    assert [step.left for step in traces.solve(chain, "step")] == ["31+42", "73+53"]
    longer = problems.Chain("sum", "hard", tuple(problems.Term(1, (n,)) for n in (31, 42, 53, 64, 75)))
    assert [step.left for step in traces.solve(longer, "fast")] == ["31+42+53+64", "190+75"]
    assert all(len(re.findall(r"\d+", step.left)) == 2 for step in traces.solve(chain, "reverse"))
