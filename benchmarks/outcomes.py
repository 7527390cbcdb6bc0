"""What do the published checkpoints of a family do on the prompts that its recipe evaluates and profiles on?

    python -m benchmarks.outcomes models/abacus --out runs/outcomes

samples every published checkpoint as the recipe's `evaluate` and `profile` stages do, without training anything. It
writes `evaluate/NAME.jsonl`, `profile/NAME.jsonl` and `profile/NAME.budget-forced.jsonl` for each of them, which
`benchmarks.difficulty` and `benchmarks.tolerance` read. A file that exists is not measured again: the command
resumes. With 1,200 profile prompts and two samples each it takes about an hour on two busy cores.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from models import family as families
from training import config
from training.job import checkpoints
from training.job.allocator import keep_freed_memory
from training.measure import budget_forced, evaluate, outcomes
from training.precheck import PROFILE_SEED_OFFSET
from training.rollouts.params import SamplingParams
from training.tasks import outcome
from training.tasks.question import Question
from training.tasks.source import questions


@dataclass(frozen=True)
class Plan:
    """What is measured of each checkpoint, and where it goes."""

    evaluated: Sequence[Question]
    profiled: Sequence[Question]
    evaluate: SamplingParams
    profile: SamplingParams
    budget_forced_prompts: int
    out: Path


def main() -> None:
    """Measure every checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path, help="a published family's directory")
    parser.add_argument("--recipe", type=Path, default=Path("training/recipes/abacus.yaml"), help="the family's recipe")
    parser.add_argument("--out", type=Path, required=True, help="directory for the outcomes")
    parser.add_argument("--prompts", type=int, default=1200, help="profile prompts")
    parser.add_argument("--samples", type=int, default=2, help="samples of each profile prompt")
    arguments = parser.parse_args()
    keep_freed_memory()
    recipe, family = config.load(arguments.recipe), families.load(arguments.family)
    params = outcomes.sampling_params(recipe, samples=recipe.evaluate.samples)
    plan = Plan(
        evaluated=questions(recipe.data, "heldout", recipe.seed, recipe.evaluate.prompts),
        profiled=questions(recipe.data, "validation", recipe.seed + PROFILE_SEED_OFFSET, arguments.prompts),
        evaluate=params,
        profile=replace(params, samples=arguments.samples),
        budget_forced_prompts=recipe.profile.budget_forced_prompts,
        out=arguments.out,
    )
    base = family.base_checkpoint.place(arguments.family)
    tokenizer = checkpoints.load_tokenizer(base)
    for checkpoint in family.checkpoints:
        model = checkpoints.load_published(arguments.family, checkpoint, base, checkpoints.dtype(recipe))
        measure(checkpoint.name, model, tokenizer, plan)


def measure(name: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, plan: Plan) -> None:
    """Write what one checkpoint does; files that exist are left as they are."""
    for stage, prompts, params in (
        ("evaluate", plan.evaluated, plan.evaluate),
        ("profile", plan.profiled, plan.profile),
    ):
        path = outcomes.path_in(plan.out / stage, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            with outcomes.bar(len(prompts) * params.samples, f"{stage} {name}") as progress:
                rows = evaluate.sample_and_grade(
                    model, tokenizer, prompts, params, surprisal=stage == "profile", on_batch=progress
                )
            outcome.save(rows, path)
    path = outcomes.path_in(plan.out / "profile", name, budget_forced=True)
    if not path.exists():
        prompts = plan.profiled[: plan.budget_forced_prompts]
        with outcomes.bar(2 * len(prompts), f"budget-forced {name}") as progress:
            answers = budget_forced.measure(
                model, tokenizer, prompts, replace(plan.evaluate, samples=1), on_batch=progress
            )
        outcome.save_budget_forced(answers, path)


if __name__ == "__main__":
    main()
