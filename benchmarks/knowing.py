"""Does a checkpoint know that its first pass was wrong? The area under the ROC curve of what it shows of it.

    python -m benchmarks.knowing models/abacus alpha-0.2 --out docs/experiments

asks training questions at temperature 1 and judges the first episode of each answer by P(gold answer) after it; a pass
is wrong if that is at most a half. On the last quarter of the questions, this is to tell wrong passes from right ones:

    surprisal   the -log P of the pass
    last        a logistic regression on the hidden states of the last token of the pass, of all layers
    mean        the same on states averaged over the pass

The regressions are fitted on the first three quarters. Intervals are 95 % intervals from resampling questions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import PeftModel
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from benchmarks import machine
from benchmarks.intervals import with_interval
from training.config import DenseReward
from training.job import checkpoints
from training.measure.evaluate import after_first
from training.profile.scores import auc
from training.rewards.dense import EpisodeGrader
from training.rollouts.batch import Rollouts
from training.rollouts.params import SamplingParams
from training.rollouts.sample import encoded, sample
from training.tasks.prompts import prompts
from training.tasks.question import Question

Array = NDArray[np.float64]
MAX_TOKENS, AT_ONCE, RESAMPLES = 864, 250, 1000
STRENGTH = 0.01
"""Inverse strength of the regressions' penalty."""


@dataclass(frozen=True)
class Passes:
    """The first passes of some questions; each array has a row a question."""

    wrong: NDArray[np.bool_]
    hard: NDArray[np.bool_]
    surprisal: Array
    last: Array
    mean: Array


def main() -> None:
    """Measure, and write `knowing.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", type=Path)
    parser.add_argument("checkpoint", help="such as alpha-0.2")
    parser.add_argument("--questions", type=int, default=8000)
    parser.add_argument("--hard-share", type=float, default=0.7, help="share of hard questions")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="directory for the result")
    arguments = parser.parse_args()
    described = machine.describe()
    base = checkpoints.load_model(arguments.family / "base", "float32")
    model = PeftModel.from_pretrained(base, arguments.family / arguments.checkpoint).merge_and_unload()
    tokenizer = checkpoints.load_tokenizer(arguments.family / "base")
    asked = prompts("train", arguments.seed, arguments.questions, hard_share=arguments.hard_share)
    result = {
        "machine": described,
        "checkpoint": arguments.checkpoint,
        "questions": len(asked),
        "hard share": arguments.hard_share,
        "seed": arguments.seed,
        **figures(passes(model, tokenizer, asked, arguments.seed), arguments.seed),
    }
    path = arguments.out / "knowing.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(path.read_text())


def figures(passes: Passes, seed: int) -> dict[str, Any]:
    """The share of wrong passes and the AUC of each sign, of all questions and of hard ones."""
    count = len(passes.wrong)
    first, rest = slice(0, count * 3 // 4), slice(count * 3 // 4, count)
    signs = {"surprisal": passes.surprisal[rest]}
    for name in ("last", "mean"):
        states: Array = getattr(passes, name)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, max_iter=500))
        classifier.fit(states[first], passes.wrong[first])
        signs[name] = classifier.decision_function(states[rest])
    wrong, hard = passes.wrong[rest].astype(float), passes.hard[rest]
    parts = {"all": np.ones_like(hard), "hard": hard}
    return {
        part: {
            "questions": int(rows.sum()),
            "wrong": float(wrong[rows].mean()),
            **{name: _auc(wrong[rows], sign[rows], seed) for name, sign in signs.items()},
        }
        for part, rows in parts.items()
    }


def _auc(wrong: Array, sign: Array, seed: int) -> dict[str, float]:
    rng = np.random.default_rng(seed)
    rows = rng.integers(len(wrong), size=(RESAMPLES, len(wrong)))
    return with_interval(auc(wrong, sign), [auc(wrong[chosen], sign[chosen]) for chosen in rows])


@torch.no_grad()
def passes(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Sequence[Question], seed: int
) -> Passes:
    """Ask the questions, and read the state of the first passes."""
    torch.manual_seed(seed)
    grader = EpisodeGrader(tokenizer, DenseReward())
    parts = [
        _some(model, tokenizer, grader, questions[start : start + AT_ONCE])
        for start in tqdm(range(0, len(questions), AT_ONCE), f"batches of {AT_ONCE}", mininterval=5)
    ]
    return Passes(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _some(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, grader: EpisodeGrader, questions: Sequence[Question]
) -> tuple[NDArray[Any], ...]:
    ids, golds = encoded(tokenizer, questions), [question.answer for question in questions]
    nats: list[list[float]] = []
    params = SamplingParams(MAX_TOKENS, 1.0)
    completions = sample(model, ids, params, eos=tokenizer.eos_token_id, surprisals=nats)
    right = np.array(after_first(model, grader, ids, completions, golds))
    whole = Rollouts.padded(ids, completions)
    ends = grader.split(whole.completion_ids_BT, whole.completion_mask_BT).ends_BK[:, 0].tolist()
    own = [completion[:end] for completion, end in zip(completions, ends, strict=True)]
    batch = Rollouts.padded(ids, own)
    positions_BS = (batch.mask_BS.cumsum(1) - 1).clamp(min=0)
    states = model(batch.ids_BS, batch.mask_BS, position_ids=positions_BS, output_hidden_states=True)
    states_BTD = torch.cat(states.hidden_states[1:], -1)[:, batch.prompt_ids_BP.size(1) :]
    weight_BT1 = batch.completion_mask_BT[..., None].float()
    last_BD = states_BTD[torch.arange(len(ids)), torch.tensor(ends).clamp(min=1) - 1]
    mean_BD = (states_BTD * weight_BT1).sum(1) / weight_BT1.sum(1).clamp(min=1)
    return (
        right <= 0.5,
        np.array([question.difficulty == "hard" for question in questions]),
        np.array([sum(own[:end]) for own, end in zip(nats, ends, strict=True)]),
        last_BD.double().numpy(),
        mean_BD.double().numpy(),
    )


if __name__ == "__main__":
    main()
