"""Is choosing better than any one checkpoint? `auto` beside every checkpoint, on the running stack.

    make routing-report

starts `laconic serve` on the shipped family and sends held-out questions that neither training nor the profile has
seen: `--samples` times each without a budget, and once each under budgets of 8 to 128 tokens. Then a gateway with a
holdout of a tenth answers `--live` other questions, and so does the reference checkpoint. This compares what was
really saved with what `GET /v1/savings` reports. Responses are stored under `--work`, so the command resumes. It takes
an hour or more on two cores. `make generated` then updates the page. Intervals are from resampling questions.

Two oracles bound what a choice can reach. One knows the outcomes of the very samples it is measured on, luck included.
The other learns from one half of the samples how often each checkpoint is right, and is measured on the other half.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import plots
from benchmarks.frontiers import Point, gap_closed, hull, oracle, share_closed, singles, swept
from benchmarks.intervals import with_interval
from benchmarks.stack import engine_of, serving
from gateway.config import Settings, shipped_family
from models import family as families
from models import profile as profiles
from models.family import Family
from models.files import sha256, write_text
from models.prediction import forecasts_of
from training.job.record import is_up_to_date
from training.measure import outcomes, served
from training.rollouts.params import SamplingParams
from training.tasks import outcome
from training.tasks.outcome import Graded
from training.tasks.prompts import prompts
from training.tasks.question import Question

Array = NDArray[np.float64]
BUDGETS = (8, 16, 32, 64, 128)
AUTO = "auto"
MAX_TOKENS = 320
RESAMPLES = 2000


def main() -> None:
    """Measure, and write `routing.json` and the plots."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/routing"), help="directory for the results")
    parser.add_argument("--work", type=Path, default=Path("runs/routing"), help="directory for the responses")
    parser.add_argument("--prompts", type=int, default=1200)
    parser.add_argument("--samples", type=int, default=4, help="of each without a budget; an even number")
    parser.add_argument("--live", type=int, default=2000, help="questions for the live savings")
    parser.add_argument("--seed", type=int, default=4001, help="of the held-out questions")
    arguments = parser.parse_args()
    family = families.load(shipped_family())
    questions = prompts("heldout", arguments.seed, arguments.prompts)
    live = prompts("heldout", arguments.seed + 1, arguments.live)
    with serving(arguments.work / "stack", "--holdout-fraction", "0") as url:
        client = Client(arguments.work, url, family)
        free = {name: client.ask(name, questions, samples=arguments.samples) for name in names(family)}
        capped = {
            budget: {name: client.ask(name, questions, samples=1, budget=budget) for name in names(family)}
            for budget in BUDGETS
        }
        truth = client.ask(family.reference, live, samples=1, label="live")
        saved = client.live(live, truth)

    results = {
        "prompts": arguments.prompts,
        "samples": arguments.samples,
        "seed": arguments.seed,
        "unlimited": unlimited(free, family),
        "curves": curves(free, family),
        "budgets": {str(budget): under_budget(rows) for budget, rows in capped.items()},
        "live": saved,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "routing.json").write_text(json.dumps(results, indent=1) + "\n")
    plots.routing_cost(results, arguments.out / "cost.png")
    plots.routing_budgets(results, arguments.out / "budgets.png")
    print(json.dumps(results, indent=1))


def names(family: Family) -> list[str]:
    """Every checkpoint, then `auto`."""
    return [*(checkpoint.name for checkpoint in family.checkpoints), AUTO]


def unlimited(free: dict[str, list[Graded]], family: Family) -> dict[str, Any]:
    """Accuracy and tokens of every checkpoint and of `auto`, and `auto` beside the most accurate one."""
    accuracy = {name: np.array([row.accuracy for row in rows]) for name, rows in free.items()}
    tokens = {name: np.array([row.reasoning_tokens for row in rows]) for name, rows in free.items()}
    best = max((name for name in free if name != AUTO), key=lambda name: float(accuracy[name].mean()))
    draws = _draws(len(accuracy[AUTO]))
    table = _stacked(free, family)
    point = (float(tokens[AUTO].mean()), float(accuracy[AUTO].mean()))
    fair, lucky = _fair_oracle(free, family), oracle(*table)
    rule = _rule(free, family)
    return {
        "checkpoints": {
            name: {
                "accuracy": _interval(lambda rows, a=accuracy[name]: float(a[rows].mean()), draws),
                "tokens": _interval(lambda rows, t=tokens[name]: float(t[rows].mean()), draws),
            }
            for name in free
        },
        "best": best,
        "accuracy beyond the best": _interval(
            lambda rows: float((accuracy[AUTO] - accuracy[best])[rows].mean()), draws
        ),
        "share of the best's tokens": _interval(
            lambda rows: float(tokens[AUTO][rows].mean() / tokens[best][rows].mean()), draws
        ),
        "closed by auto, of the fair oracle's gap": gap_closed(point, fair, singles(*table)),
        "closed by auto, of the lucky oracle's gap": gap_closed(point, lucky, singles(*table)),
        "closed without escalation, of the fair oracle's gap": share_closed(rule, fair, singles(*table)),
    }


def curves(free: dict[str, list[Graded]], family: Family) -> dict[str, list[Point]]:
    """(tokens, accuracy) along the frontier of each oracle and of the rule, for the plot."""
    return {
        "oracle, luck included": hull(oracle(*_stacked(free, family))),
        "oracle of half the samples": hull(_fair_oracle(free, family)),
        "the rule without escalation": hull(_rule(free, family)),
    }


def under_budget(rows: dict[str, list[Graded]]) -> dict[str, Any]:
    """Accuracy of every checkpoint and of `auto` under one budget, and `auto` beside the best of them."""
    accuracy = {name: np.array([row.accuracy for row in graded]) for name, graded in rows.items()}
    best = max((name for name in rows if name != AUTO), key=lambda name: float(accuracy[name].mean()))
    draws = _draws(len(accuracy[AUTO]))
    return {
        "accuracy": {
            name: _interval(lambda chosen, a=a: float(a[chosen].mean()), draws) for name, a in accuracy.items()
        },
        "best": best,
        "auto beyond the best": _interval(
            lambda chosen: float((accuracy[AUTO] - accuracy[best])[chosen].mean()), draws
        ),
    }


@dataclass(frozen=True)
class Client:
    """Sends questions to the running stack, and stores the outcomes."""

    work: Path
    url: str
    family: Family

    def ask(
        self,
        name: str,
        questions: Sequence[Question],
        *,
        samples: int,
        budget: int | None = None,
        label: str = "questions",
    ) -> list[Graded]:
        """The outcomes of one checkpoint, or of `auto`, on these questions."""
        what = f"{name}.{budget or 'unlimited'}"
        path = self.work / label / f"{what}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not is_up_to_date(path, self._made_from(name, questions, samples)):
            model = self.family.name if name == AUTO else self.family.served_name(name)
            with outcomes.bar(len(questions) * samples, f"{label} {what}") as progress:
                params = SamplingParams(MAX_TOKENS, 1.0, samples, seed=0)
                url = f"{self.url}/v1"
                rows = asyncio.run(
                    served.sample_and_grade(url, model, questions, params, budget=budget, on_batch=progress)
                )
            outcome.save(rows, path)
        return outcome.load(path)

    def live(self, questions: Sequence[Question], truth: Sequence[Graded]) -> dict[str, Any]:
        """What a gateway with a holdout reports as saved, and what it saved; `truth` is what the reference spent."""
        path = self.work / "live.json"
        if not is_up_to_date(path, self._made_from(AUTO, questions, 1)):
            # A ledger of its own, so that it does not count an attempt that was interrupted.
            with (
                tempfile.TemporaryDirectory() as state_dir,
                serving(Path(state_dir), "--holdout-fraction", "0.1", "--engine", engine_of(self.url)) as url,
            ):
                spent = asyncio.run(_spend(url, self.family, questions))
                while (savings := httpx.get(f"{url}/v1/savings", timeout=60).json()["total"])["requests"] < len(
                    questions
                ):
                    time.sleep(0.1)
            write_text(path, json.dumps({"spent": spent, "savings": savings}))
        stored = json.loads(path.read_text())
        routed = [
            graded.reasoning_tokens - tokens
            for graded, (decision, tokens) in zip(truth, stored["spent"], strict=True)
            if decision == "routed"
        ]
        savings = {
            name: stored["savings"][name] for name in ("requests", "holdout", "estimated", "saved_tokens", "measured")
        }
        return {"questions": len(questions), "routed": len(routed), "truly saved": sum(routed), "savings": savings}

    def _made_from(self, name: str, questions: Sequence[Question], samples: int) -> dict[str, Any]:
        made_from: dict[str, Any] = {
            "questions": hashlib.sha256("\n".join(question.prompt for question in questions).encode()).hexdigest(),
            "samples": samples,
            "max_tokens": MAX_TOKENS,
        }
        if name == AUTO:
            made_from["family"] = sha256(shipped_family() / families.MANIFEST)
            made_from["tolerance"] = Settings.model_fields["quality_tolerance"].default
        else:
            both = (self.family.base_checkpoint, self.family.checkpoint(name))
            made_from["files"] = [dict(checkpoint.files) for checkpoint in both]
        return made_from


async def _spend(url: str, family: Family, questions: Sequence[Question]) -> list[tuple[str, int]]:
    """How each question was decided, and the reasoning tokens it took."""
    limit = asyncio.Semaphore(served.AT_ONCE)
    done = tqdm(total=len(questions), desc="live auto")

    async def ask(client: openai.AsyncOpenAI, number: int, question: Question) -> tuple[str, int]:
        async with limit:
            raw = await client.chat.completions.with_raw_response.create(
                model=family.name,
                messages=[{"role": "user", "content": question.prompt}],
                temperature=1.0,
                max_tokens=MAX_TOKENS,
                seed=1_000_000 + number,
            )
        done.update()
        graded = served.outcome(raw.parse(), question.answer)
        return raw.headers["x-laconic-decision"], graded.reasoning_tokens

    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as client:
        return list(await asyncio.gather(*(ask(client, number, question) for number, question in enumerate(questions))))


def _stacked(free: dict[str, list[Graded]], family: Family) -> tuple[Array, Array]:
    """Accuracy and tokens, (prompts, checkpoints)."""
    rows = [free[checkpoint.name] for checkpoint in family.checkpoints]
    accuracy = np.array([[row.accuracy for row in graded] for graded in rows]).T
    return accuracy, np.array([[row.reasoning_tokens for row in graded] for graded in rows]).T


def _rule(free: dict[str, list[Graded]], family: Family) -> list[Point]:
    """The gateway's rule over checkpoints alone at every tolerance, on the shipped profile's predictions.

    Escalation cannot be simulated from these responses; only `auto` escalates.
    """
    profile = profiles.load(shipped_family() / family.profile)
    order = [checkpoint.name for checkpoint in family.checkpoints]
    forecasts = [forecasts_of(profile.predict(row.prompt).choices, None) for row in free[AUTO]]
    success = np.array([[forecast[name].success for name in order] for forecast in forecasts])
    cost = np.array([[forecast[name].tokens for name in order] for forecast in forecasts])
    return swept(success, cost, *_stacked(free, family))


def _fair_oracle(free: dict[str, list[Graded]], family: Family) -> list[Point]:
    """Chosen by one half of each question's samples, measured on the other, both ways round."""
    halves = [
        _stacked({name: [_half(row, which) for row in rows] for name, rows in free.items()}, family) for which in (0, 1)
    ]
    there, back = (swept(*known, *measured) for known, measured in (halves, halves[::-1]))
    return [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in zip(there, back, strict=True)]


def _half(row: Graded, which: int) -> Graded:
    return Graded(row.prompt, row.task, row.difficulty, row.outcomes[which::2])


def _draws(size: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, size, (RESAMPLES, size))


def _interval(figure: Callable[[Any], float], draws: NDArray[np.int64]) -> dict[str, float]:
    return with_interval(figure(slice(None)), [figure(rows) for rows in draws])


if __name__ == "__main__":
    main()
