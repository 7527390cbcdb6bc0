"""Does the model's own state, read before it answers, predict whether it will be right, and is that worth the wait?

    python -m benchmarks.model_state models/abacus --prompts 600 --samples 2 --work runs/state-abacus
    python -m benchmarks.model_state QWEN --gsm8k DIR --prompts 250 --temperature 0 --max-tokens 320 \\
        --work runs/state-qwen --name "Qwen2.5-Coder-0.5B"

The first argument is a published family, or the directory of one model (`scripts/real-base.sh QWEN` fetches one). On
two cores the command takes a quarter of an hour for each. Every answer, reading and time is a line in WORK, so the same
command goes on after a kill. `docs/profile/model-state.json` has a section for each name; `make generated` then updates
the page.

Prompts are abacus' validation prompts, or training questions of GSM8K. One vLLM answers them and returns log
probabilities, two more return pooled hidden states (`benchmarks.state_engine`). `benchmarks.state_scores` says how the
figures are made. The times are those of one request at a time on an engine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks import machine, state_engine, state_scores
from benchmarks.predictors import Outcomes
from benchmarks.state_engine import Messages, Subject
from gateway.process.embedded import free_port
from models.files import write_text
from training.config import Data
from training.precheck import PROFILE_SEED_OFFSET
from training.tasks.question import Question
from training.tasks.source import questions

AT_ONCE = 96
POOLED = ("last", "mean")
WARM_UP = 5
"""Requests before times are taken."""
SHOTS, SHOT_PROMPTS = 8, 40
"""Solved questions that come before each question, where a shared prefix is measured, and how many are measured so."""
RESULTS = Path("docs/profile/model-state.json")


@dataclass(frozen=True)
class Plan:
    """What is measured."""

    subject: Subject
    questions: Sequence[Question]
    settings: Mapping[str, Any]
    """Of every answer: temperature and longest answer."""
    samples: int
    timed: int
    shots: Messages
    """Solved questions as messages; none for a family."""
    seed: int
    work: Path
    port: int


def main() -> None:
    """Measure what is missing, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a published family, or a model's directory")
    parser.add_argument("--gsm8k", type=Path, help="GSM8K's directory; without it, abacus' arithmetic")
    parser.add_argument("--prompts", type=int, default=600)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=320)
    parser.add_argument(
        "--timed", type=int, default=100, help="prompts whose times are measured; 0 leaves that to a quieter hour"
    )
    parser.add_argument(
        "--times-only", action="store_true", help="measure no answers and no states; figures of them stay"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=0, help="of the engines, one after the other; 0 for a free one")
    parser.add_argument("--work", type=Path, required=True, help="directory for what was measured")
    parser.add_argument("--name", help="section of the results; by default the directory's name")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    settings = {"temperature": arguments.temperature, "max_tokens": arguments.max_tokens}
    data = Data(task="gsm8k", path=arguments.gsm8k) if arguments.gsm8k else Data()
    seed = arguments.seed + (0 if arguments.gsm8k else PROFILE_SEED_OFFSET)
    drawn = questions(data, "train" if arguments.gsm8k else "validation", seed, arguments.prompts)
    shots = _shots(arguments.gsm8k, {question.prompt for question in drawn}) if arguments.gsm8k else []
    subject, port = Subject(arguments.model), arguments.port or free_port()
    plan = Plan(
        subject, drawn, settings, arguments.samples, arguments.timed, shots, arguments.seed, arguments.work, port
    )
    _same(plan, {**settings, "seed": arguments.seed})  # more prompts or samples only add to what is there
    if not arguments.times_only:
        measure(plan)
    take_times(plan)
    results = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    predicted = {} if arguments.times_only else scored(plan)
    about = {**settings, "samples": plan.samples, "seed": plan.seed}
    name = arguments.name or arguments.model.name
    results[name] = {**results.get(name, {}), **about, **predicted, **timed(plan)}
    write_text(arguments.out, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


def _same(plan: Plan, settings: Mapping[str, Any]) -> None:
    """Refuse to go on with what was measured under other settings."""
    path = plan.work / "plan.json"
    plan.work.mkdir(parents=True, exist_ok=True)
    if path.exists() and (before := json.loads(path.read_text())) != settings:
        raise SystemExit(f"--work: {plan.work} was measured with {before}, not with {settings}; name another directory")
    write_text(path, json.dumps(settings))


def _shots(directory: Path, measured: set[str]) -> list[dict[str, str]]:
    """The first solved questions of the file that are not measured, as turns of a conversation."""
    rows = [json.loads(line) for line in (directory / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    others = [row for row in rows if row["question"] not in measured][:SHOTS]
    turns = [(("user", row["question"]), ("assistant", row["answer"])) for row in others]
    return [{"role": role, "content": text} for turn in turns for role, text in turn]


def measure(plan: Plan) -> None:
    """Ask the engines for everything that WORK does not have yet; one engine runs at a time."""
    subject, every = plan.subject, range(len(plan.questions))
    answers, read = Lines(plan.work / "answers.jsonl"), Lines(plan.work / "read.jsonl")
    asked = [(name, i, k) for name in subject.names for i in every for k in range(plan.samples)]
    if answers.missing(asked):
        with _running(plan, subject.answering(plan.port), "answering") as client:
            answers.fill(asked, lambda key: _answer(client, plan, *key), "answers")
            if not subject.is_family:  # LoRA adapters and these log probabilities do not go together
                read.fill(every, lambda i: _read(client, plan, i), "log probabilities")
    if read.missing(every):
        with _running(plan, subject.reading(plan.port), "reading") as client:
            read.fill(every, lambda i: _read(client, plan, i), "log probabilities")
    for how in POOLED:
        states = Lines(plan.work / f"{how}.jsonl")
        if states.missing(every):
            with _running(plan, subject.pooling(plan.port, how), how) as client:
                states.fill(every, lambda i, c=client: _state(c, plan, i), f"{how} hidden states")


def take_times(plan: Plan) -> None:
    """Measure the times that WORK does not have yet, one request after the other."""
    subject, times, few = plan.subject, Lines(plan.work / "times.jsonl"), min(plan.timed, len(plan.questions))
    behind = range(min(few, SHOT_PROMPTS)) if plan.shots else ()
    asked = [*((kind, i) for kind in ("prompt", "first") for i in range(few)), *(("shots", i) for i in behind)]
    if times.missing(asked):
        described = {**machine.describe(), "engine threads": int(state_engine.threads())}
        write_text(plan.work / "machine.json", json.dumps(described))
        with _running(plan, subject.answering(plan.port), "answering") as client:
            for number in range(WARM_UP):
                time_of(client, plan, "prompt", number)
            times.fill(asked, lambda key: time_of(client, plan, *key), "times", at_once=1)
    for how in POOLED:
        asked = [*((how, i) for i in range(few)), *((f"{how}, shots", i) for i in behind)]
        if times.missing(asked):
            with _running(plan, subject.pooling(plan.port, how), how) as client:
                for number in range(WARM_UP):
                    _state(client, plan, number)
                times.fill(asked, lambda key, c=client: pooled_in(c, plan, *key), f"times, {how}", at_once=1)


def _running(plan: Plan, command: Sequence[str], name: str) -> AbstractContextManager[httpx.Client]:
    return state_engine.running(command, plan.port, plan.work / f"{name}.log")


def _read(client: httpx.Client, plan: Plan, number: int) -> dict[str, Any]:
    return state_engine.log_probabilities(client, plan.subject.reader, _chat(plan, number))


def _state(client: httpx.Client, plan: Plan, number: int) -> list[float]:
    return state_engine.hidden_state(client, plan.subject.reader, _chat(plan, number))


def _chat(plan: Plan, number: int) -> Messages:
    return [{"role": "user", "content": plan.questions[number].prompt}]


def _answer(client: httpx.Client, plan: Plan, name: str, number: int, sample: int) -> dict[str, Any]:
    seed = plan.seed + number + 100_000 * sample
    gold = plan.questions[number].answer
    return state_engine.answer(client, name, _chat(plan, number), gold, {**plan.settings, "seed": seed})


def time_of(client: httpx.Client, plan: Plan, kind: str, number: int) -> dict[str, Any]:
    """Seconds to the first token of one prompt, and the same after its state was read; the last checkpoint answers.

    `kind` says what is read: `prompt` and `first` are log probabilities of the prompt, or of the first token only, with
    an empty prefix cache. `shots` is `prompt` behind solved questions that the cache has.
    """
    answering, messages = plan.subject.names[-1], [*(plan.shots if kind == "shots" else ()), *_chat(plan, number)]
    if kind == "shots":  # reading the prompt's log probabilities never uses the cache, so nothing has to be forgotten
        state_engine.seconds_to_first_token(client, answering, [*plan.shots, {"role": "user", "content": "Hello."}])
    else:
        state_engine.forget(client)
    alone, tokens, had = state_engine.seconds_to_first_token(client, answering, messages)
    if kind != "shots":
        state_engine.forget(client)
    began = time.perf_counter()
    state_engine.log_probabilities(client, plan.subject.reader, messages, prompt=kind != "first")
    spent = time.perf_counter() - began
    after, _, cached = state_engine.seconds_to_first_token(client, answering, messages)
    return {"alone": alone, "state": spent, "after": after, "tokens": tokens, "had": had, "cached": cached}


def pooled_in(client: httpx.Client, plan: Plan, kind: str, number: int) -> dict[str, Any]:
    """Seconds that a hidden state takes, with an empty prefix cache or behind `shots` that it has."""
    messages = _chat(plan, number)
    state_engine.forget(client)
    if kind.endswith("shots"):
        messages = [*plan.shots, *messages]
        state_engine.hidden_state(client, plan.subject.reader, [*plan.shots, {"role": "user", "content": "Hello."}])
    began = time.perf_counter()
    state_engine.hidden_state(client, plan.subject.reader, messages)
    return {"state": time.perf_counter() - began}


class Lines:
    """Measurements by key, one JSON line each, kept as they come."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.by_key: dict[Hashable, Any] = {}
        for key, value in map(json.loads, _whole(path)):
            self.by_key[tuple(key) if isinstance(key, list) else key] = value

    def missing(self, keys: Sequence[Hashable]) -> list[Hashable]:
        """Those of the keys that are not there yet."""
        return [key for key in keys if key not in self.by_key]

    def fill(self, keys: Sequence[Any], ask: Callable[[Any], Any], what: str, *, at_once: int = AT_ONCE) -> None:
        """Measure what is missing, several at once, with a progress bar."""
        if self._path.exists():
            write_text(self._path, "".join(_whole(self._path)))
        with self._path.open("a") as file, ThreadPoolExecutor(at_once) as pool:
            futures = {pool.submit(ask, key): key for key in self.missing(keys)}

            def keep(future: Future[Any]) -> None:
                self.by_key[futures[future]] = future.result()
                file.write(json.dumps([futures[future], future.result()]) + "\n")
                file.flush()

            try:
                for future in tqdm(as_completed(futures), what, len(futures), mininterval=5):
                    keep(future)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                for future, key in futures.items():  # those that were done come in no order
                    if key not in self.by_key and not future.cancelled() and not future.exception():
                        keep(future)
                raise


def _whole(path: Path) -> list[str]:
    """Its lines, but for one that was cut off by a kill, which is measured again."""
    return [line for line in _text(path).splitlines(keepends=True) if line.endswith("\n")]


def _text(path: Path) -> str:
    return path.read_text() if path.exists() else ""


def scored(plan: Plan) -> dict[str, Any]:
    """The figures of the predictions, of what WORK has."""
    names, count = plan.subject.names, len(plan.questions)
    answers = Lines(plan.work / "answers.jsonl").by_key

    def table(field: str) -> NDArray[np.float64]:
        samples = range(plan.samples)
        return np.array(
            [[[float(answers[name, i, k][field]) for k in samples] for name in names] for i in range(count)]
        )

    right, tokens = table("correct"), table("tokens")
    outcomes = Outcomes([question.prompt for question in plan.questions], right.mean(2), tokens)
    read = Lines(plan.work / "read.jsonl").by_key
    states = {how: Lines(plan.work / f"{how}.jsonl").by_key for how in POOLED}
    seen = {
        "log probabilities": np.stack([state_engine.features(read[i]) for i in range(count)]),
        **{f"{how} state": np.array([state[i] for i in range(count)]) for how, state in states.items()},
    }
    return {
        "prompts": count,
        "accuracy": dict(zip(names, outcomes.accuracy.mean(0).tolist(), strict=True)),
        "tokens": dict(zip(names, tokens.mean((0, 2)).tolist(), strict=True)),
        **state_scores.compared(outcomes, seen, plan.seed),
        "AUC of the answer's own surprisal": state_scores.of_surprisal(right, table("surprisal"), plan.seed),
    }


def timed(plan: Plan) -> dict[str, Any]:
    """The figures of the times, and the machine that they are of."""
    times = state_scores.times(Lines(plan.work / "times.jsonl").by_key, plan.seed)
    return {"times": times, "machine": json.loads(_text(plan.work / "machine.json") or "{}")}


if __name__ == "__main__":
    main()
