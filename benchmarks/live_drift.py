"""Does `laconic refit` help when traffic changes, and refuse when it did not? On a running stack, asked twice.

    python -m benchmarks.live_drift --out benchmarks/results

Traffic changes to a wording that the profile was not fitted on, and that the models read less well (--way). A gateway
with the shipped profile answers 1,500 such questions, and the task's verifier scores them. `laconic refit --replace`
then fits a copy of the family anew. The next 1,000 questions are asked twice: a gateway with the old profile, and one
with the new one. It reports the Brier score of what each predicts of its choices, reasoning tokens and quality,
question by question with 95 % intervals.

Three refits should change nothing, with status 1: on the answers that the new profile chose, on questions as the
shipped profile was fitted on, and on the first few of those. It takes about 15 minutes on two quiet cores. Answers and
stores are in --work, so that it resumes; remove them to measure anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.live import Answer, Stack, Vector, add_common, ask_all, engine, laconic, paired, write
from benchmarks.stack import serving
from gateway.config import Settings, shipped_family
from models import family as families
from models import profile as profiles
from models.files import write_text
from models.profile import Profile
from training.tasks.prompts import prompts
from training.tasks.question import Question

SOURCE = "verifier"
STAYS = "The profile stays as it is"
"""What `laconic refit --replace` prints if it replaces nothing."""
Wording = Callable[[str], str]
WAYS: Mapping[str, Wording] = {
    "polite": lambda text: (
        f"Hello! Can you help me with my homework? {text} Please give only the final answer. Thanks!"
    ),
    "numbered": lambda text: f"1. {text}",
    "in lines": lambda text: f"Solve the following problem:\n{text}\nGive me the answer.",
    "as fitted": lambda text: text,
}
"""How a question is worded."""
NEXT, SAME = 1, 2
"""Added to the seed for the questions that are asked twice, and for those that have not changed."""


def main() -> None:
    """Measure, and write `live_drift.json`, with what it has of other ways."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser, seed=4501)
    parser.add_argument("--work", type=Path, default=Path("runs/live"), help="directory for stores and answers")
    parser.add_argument("--way", choices=[name for name in WAYS if name != "as fitted"], default="polite")
    parser.add_argument("--difficulty", choices=["easy", "medium", "hard"], help="only these; default: all in turns")
    parser.add_argument("--scored", type=int, default=1500, help="requests of the changed traffic to fit on")
    parser.add_argument("--next", type=int, default=1000, help="requests that are asked twice")
    parser.add_argument("--same", type=int, default=700, help="requests of the traffic that has not changed")
    parser.add_argument("--few", type=int, default=250, help="of those, for the refit on few")
    parser.add_argument("--quality-tolerance", type=float, default=tolerance(), help="of the gateways asked twice")
    arguments = parser.parse_args()
    path: Path = arguments.out / "live_drift.json"
    before: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    name = arguments.way if arguments.difficulty is None else f"{arguments.way}, {arguments.difficulty}"
    if arguments.quality_tolerance != tolerance():
        name += f", tolerance {arguments.quality_tolerance:g}"
    write(arguments.out, "live_drift", {**before, name: measure(arguments)})


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """One way of changing, from the first request to the last refit."""
    described = machine.describe()
    place = f"drift-{arguments.way}-{arguments.difficulty}-{arguments.seed}-{arguments.scored}"
    work: Path = arguments.work / place
    old, new = copied(work / "old"), copied(work / "new")
    with engine(arguments.engine, work / "stack") as url:
        lab = Lab(work, url, arguments.at_once)
        first = worded(arguments, arguments.way, 0, arguments.scored)
        answers = lab.served("scored", old, first, ("--holdout-fraction", "0.02"))
        refit = refitted(new, work / "scored")
        result = {
            "machine": described,
            "seed": arguments.seed,
            "wording": WAYS[arguments.way]("..."),
            "difficulty": arguments.difficulty,
            "scored": len(answers),
            "correct": paired([float(one.correct) for one in answers]),
            "refit": refit,
        }
        if refit["status"] == 0:
            result["next"] = asked_twice(arguments, lab, old, new)
            store = _next(arguments, "new")
            result["again"] = refitted(copied(work / f"again-{store}", new), work / store)
        same = worded(arguments, "as fitted", SAME, arguments.same)
        for count, name in ((arguments.few, "few that have not changed"), (arguments.same, "what has not changed")):
            store = f"unchanged-{count}"
            lab.served(store, old, same[:count], ("--holdout-fraction", "0.02"))
            result[name] = {"scored": count, **refitted(copied(work / f"same-{count}"), work / store)}
    return result


class Lab:
    """Serves copies of the family from one engine, and keeps what they answered."""

    def __init__(self, work: Path, engine_url: str, at_once: int) -> None:
        self.work, self.engine_url, self.at_once = work, engine_url, at_once

    def served(self, name: str, family: Path, questions: Sequence[Question], options: Sequence[str]) -> list[Answer]:
        """The scored answers to these questions. The store is in the directory `name`."""
        settings = ("--family", str(family), "--engine", self.engine_url, *options)
        with serving(self.work / name, *settings) as url:
            stack = Stack(url, at_once=self.at_once)
            path = self.work / f"{name}.jsonl"
            before = len(path.read_text().splitlines()) if path.exists() else 0
            answers = ask_all(stack, questions, name, path)
            if before < len(questions):
                asyncio.run(stack.score(answers, SOURCE))
            stack.savings(len(questions))
        return answers

    def entries(self, name: str) -> dict[str, dict[str, Any]]:
        """The ledger's entries in the store `name`, by the id of their request.

        Raises:
            RuntimeError: they cannot be exported.
        """
        with tempfile.TemporaryDirectory() as directory, serving(self.work / name, "--engine", self.engine_url):
            file = Path(directory) / "entries.jsonl"
            done = laconic("export", str(file), "--state-dir", str(self.work / name))
            if done.returncode:
                raise RuntimeError(done.stderr)
            return {one["id"]: one for one in map(json.loads, file.read_text().splitlines())}


def worded(arguments: argparse.Namespace, way: str, offset: int, count: int) -> list[Question]:
    """Held-out questions in this wording."""
    found = prompts(
        "heldout", arguments.seed + offset, count, difficulty=arguments.difficulty if offset != SAME else None
    )
    return [Question(WAYS[way](one.prompt), one.answer, one.task, one.difficulty) for one in found]


def copied(directory: Path, of: Path | None = None) -> Path:
    """A copy of a family, by default of the shipped one; not again if it is there."""
    if not directory.exists():
        shutil.copytree(of or shipped_family(), directory)
    return directory


def refitted(family: Path, store: Path) -> dict[str, Any]:
    """What `laconic refit --replace` does: its exit status and what it prints. It is done once, and then read.

    Raises:
        RuntimeError: it fails. To leave the profile as it is, or to have too little to fit on, is no failure.
    """
    path = store.with_name(f"{store.name}-{family.name}.refit.json")
    if not path.exists():
        with serving(store, "--engine", "http://127.0.0.1:9"):
            done = laconic("refit", str(family), "--replace", "--state-dir", str(store))
        if (done.returncode == 1 and STAYS not in done.stdout) or done.returncode not in (0, 1, 2):
            raise RuntimeError(done.stderr)
        printed = [line for line in done.stdout.splitlines() if str(family) not in line]
        write_text(path, json.dumps({"status": done.returncode, "printed": printed, "refused": done.stderr.strip()}))
    return json.loads(path.read_text())


def asked_twice(arguments: argparse.Namespace, lab: Lab, old: Path, new: Path) -> dict[str, Any]:
    """The next questions, to a gateway with the old profile and to one with the new."""
    questions = worded(arguments, arguments.way, NEXT, arguments.next)
    options = ("--holdout-fraction", "0", "--quality-tolerance", str(arguments.quality_tolerance))
    answers = {
        name: lab.served(_next(arguments, name), family, questions, options)
        for name, family in (("old", old), ("new", new))
    }
    entries = {name: lab.entries(_next(arguments, name)) for name in answers}
    read = {name: profile_of(family) for name, family in (("old", old), ("new", new))}
    return {"questions": len(questions), **compared(questions, answers, entries, read, arguments.quality_tolerance)}


def _next(arguments: argparse.Namespace, name: str) -> str:
    """The store of the questions that are asked twice, to the gateway with the old profile or with the new."""
    other = arguments.quality_tolerance != tolerance()
    return f"next-{name}-{arguments.quality_tolerance:g}" if other else f"next-{name}"


def profile_of(family: Path) -> Profile:
    """A family's profile."""
    return profiles.load(family / families.load(family, verify=False).profile)


def compared(
    questions: Sequence[Question],
    answers: Mapping[str, Sequence[Answer]],
    entries: Mapping[str, Mapping[str, Mapping[str, Any]]],
    read: Mapping[str, Profile],
    quality_tolerance: float,
) -> dict[str, Any]:
    """The two gateways, `old` and `new`, question by question; what one of them abstained from is left out."""
    choices: dict[str, list[str]] = {
        name: [entries[name][one.id]["choice"] if one.decision == "routed" else "" for one in answers[name]]
        for name in answers
    }
    both = [i for i in range(len(questions)) if choices["old"][i] and choices["new"][i]]
    predictions = {name: [profile.predict(questions[i].prompt).choices for i in both] for name, profile in read.items()}
    correct = {name: np.array([float(answers[name][i].correct) for i in both]) for name in answers}
    tokens = {name: np.array([float(answers[name][i].tokens) for i in both]) for name in answers}

    def errors(predicting: str, served: str) -> Vector:
        chosen = [choices[served][i] for i in both]
        success = [one[name].p_correct for one, name in zip(predictions[predicting], chosen, strict=True)]
        return (np.array(success) - correct[served]) ** 2

    quality, saved = paired(correct["new"] - correct["old"]), paired(tokens["old"] - tokens["new"])
    return {
        "routed by both": len(both),
        "Brier": {name: paired(errors(name, name)) for name in ("old", "new")},
        "Brier improvement": paired(errors("old", "old") - errors("new", "new")),
        "Brier improvement on the answers of the old choices": paired(errors("old", "old") - errors("new", "old")),
        "reasoning tokens": {name: paired(tokens[name]) for name in ("old", "new")},
        "tokens saved by the new profile": saved,
        "correct": {name: paired(correct[name]) for name in ("old", "new")},
        "quality gained by the new profile": quality,
        "choices": {name: counted([choices[name][i] for i in both]) for name in answers},
        "verdict": verdict(quality, saved, quality_tolerance),
    }


def verdict(quality: Mapping[str, float], saved: Mapping[str, float], tolerance: float) -> str:
    """What the new profile changed, in the order of the routing rule: quality beyond the tolerance, then tokens."""
    if quality["low"] > 0:
        return "better answers" if saved["high"] < 0 else "better answers for no more tokens"
    if quality["high"] < -tolerance:
        return "worse answers"
    kept = "no worse answers" if quality["low"] > -tolerance else "answers not shown to be worse"
    tokens = "fewer tokens" if saved["low"] > 0 else "more tokens" if saved["high"] < 0 else "as many tokens"
    return f"{kept}, {tokens}"


def counted(choices: Sequence[str]) -> dict[str, int]:
    """How often each was chosen, the most frequent first."""
    names = sorted(set(choices), key=lambda name: -choices.count(name))
    return {name: choices.count(name) for name in names}


def tolerance() -> float:
    """The default quality tolerance."""
    return float(Settings.model_fields["quality_tolerance"].default)


if __name__ == "__main__":
    main()
