"""Do the profile's reports come from questions that the forest was not fitted on?"""

import numpy as np

from training.profile import fit
from training.tasks.outcome import BudgetForced, Graded, Outcome
from training.tasks.prompts import prompts


def test_budget_forced_outcomes_of_one_question_never_stand_on_both_sides_of_a_fold():
    """Half of the questions are always answered right, the others never, for no reason that a forest could learn.

    If some of a question's outcomes were in the training folds, the forest would memorise the question. From other
    questions it learns nothing, so its loss is no better than the constant's.
    """
    questions = prompts("validation", 0, 20)
    lucky = np.random.default_rng(0).permutation([True] * 10 + [False] * 10)
    forced = [
        BudgetForced(question.prompt, budget, bool(right))
        for question, right in zip(questions, lucky, strict=True)
        for budget in range(60)
    ]
    rows = [Graded(q.prompt, q.task, q.difficulty, (Outcome(True, 60, 70, 1, True),)) for q in questions]
    report = fit.fit({"base": rows}, {"base": forced}, seed=0)["report"]["base"]
    assert report["budget_forced_log_loss"] > 0.9 * report["budget_forced_log_loss_constant"]
