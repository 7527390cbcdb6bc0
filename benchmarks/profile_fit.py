"""How long does a profile take to fit? As many prompts and checkpoints as `laconic adopt` may be given.

    python -m benchmarks.profile_fit PATH/gsm8k/train.jsonl --out benchmarks/results

fits 5,000 questions of GSM8K's training set at six checkpoints, without the sentence encoder. Their outcomes are
drawn, because only their number matters: a question with more numbers is harder, and two samples are made of each. The
limit is five minutes on two cores; the result is the share of it that was used, by the clock.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path

import numpy as np

from benchmarks import machine
from training.profile import fit
from training.tasks.outcome import BudgetForced, Graded, Outcome

PROMPTS, CHECKPOINTS, SAMPLES = 5000, 6, 2
LIMIT_SECONDS = 300.0


def outcomes(questions: list[str], seed: int) -> dict[str, list[Graded]]:
    """Drawn outcomes, by checkpoint, the one that thinks longest first."""
    rng = np.random.default_rng(seed)
    numbers = np.array([len(re.findall(r"\d+", question)) for question in questions])
    drawn: dict[str, list[Graded]] = {}
    for checkpoint in range(CHECKPOINTS):
        p = 1 / (1 + np.exp(0.3 * (numbers - 6) + 0.4 * checkpoint - 1))
        length = rng.lognormal(5 - 0.4 * checkpoint + 0.05 * numbers[:, None], 0.3, (len(questions), SAMPLES))
        right = rng.random(length.shape) < p[:, None]
        drawn[f"level-{checkpoint}"] = [
            Graded(question, "math", "", tuple(map(_outcome, right[i].tolist(), length[i].tolist())))
            for i, question in enumerate(questions)
        ]
    return drawn


def _outcome(right: bool, thought: float) -> Outcome:
    return Outcome(correct=right, reasoning_tokens=int(thought), tokens=int(thought) + 20, episodes=1, finished=True)


def main() -> None:
    """Fit, and write `profile-fit.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path, help="JSONL with `question`")
    parser.add_argument("--out", type=Path, required=True, help="directory for the result")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    where = machine.describe()
    rows = [json.loads(line) for line in arguments.questions.read_text().splitlines()[:PROMPTS]]
    drawn = outcomes([row["question"] for row in rows], arguments.seed)
    forced = {
        name: [BudgetForced(row.prompt, 64, row.outcomes[0].correct) for row in graded]
        for name, graded in drawn.items()
    }
    start = time.perf_counter()
    profile = fit.fit(drawn, forced, arguments.seed)
    seconds = time.perf_counter() - start
    result = {
        "machine": where,
        "prompts": len(rows),
        "checkpoints": CHECKPOINTS,
        "samples": SAMPLES,
        "seed": arguments.seed,
        "reader": profile["reader"]["name"],
        "seconds": round(seconds, 1),
        "share of the limit": round(seconds / LIMIT_SECONDS, 3),
    }
    (arguments.out / "profile-fit.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
