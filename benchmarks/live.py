"""How is a running stack asked, scored and read in the live measurements? As by callers who have a verifier.

Questions are the shipped family's. Answers are graded by the verifier of its task, and what is read back is what an
operator reads: `GET /v1/savings`, `laconic quality` and `GET /metrics`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from benchmarks.intervals import with_interval
from benchmarks.stack import engine_of, serving
from training.tasks.question import Question
from training.tasks.verify import is_correct

Vector = NDArray[np.float64]
AT_ONCE = 32
"""Requests in flight at once; the engine batches them."""
MAX_TOKENS = 320
RETRY_SECONDS = 300.0
"""How long a request is repeated while no engine is up, as on a busy machine the engine may miss its probes."""
LEDGER_SECONDS = 60.0
RESAMPLES = 2000


@dataclass(frozen=True)
class Answer:
    """One request, as its caller sees it."""

    number: int
    """The question's place."""
    id: str
    """The header `x-request-id`."""
    decision: str
    """`routed`, `holdout`, `abstained` or `pinned`."""
    correct: bool
    tokens: int
    """Reasoning tokens."""
    seconds: float
    retries: int = 0
    """How often it was sent again, because no engine was up or the connection was closed."""


class Answers:
    """Answers in a file, so that an interrupted pass goes on where it was; without a path, in memory only."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.by_number: dict[int, Answer] = {}
        if path is not None and path.exists():
            for line in path.read_text().splitlines():
                answer = Answer(**json.loads(line))
                self.by_number[answer.number] = answer

    def add(self, answer: Answer) -> None:
        """Keep one more."""
        self.by_number[answer.number] = answer
        if self._path is not None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a") as file:
                file.write(f"{json.dumps(asdict(answer))}\n")


@dataclass(frozen=True)
class Stack:
    """A running gateway, with what a caller has to know of it."""

    url: str
    """Such as http://127.0.0.1:8123."""
    model: str = "abacus"
    """The family's name, or that of one checkpoint."""
    budget: int | None = None
    """Reasoning tokens that each request may use."""
    at_once: int = AT_ONCE
    temperature: float = 1.0

    async def ask(
        self, questions: Sequence[Question], answers: Answers, *, first: int = 0, seen: Callable[[], object] = int
    ) -> list[Answer]:
        """Ask every question that has no answer yet, and return the answers to all, in their order.

        Args:
            questions: whose places are `first`, `first` + 1, ...
            answers: those that are known; new ones are added.
            first: the place of the first question.
            seen: called for each new answer.

        Raises:
            RuntimeError: a request fails for another reason than that no engine is up. Its message is the response.
        """
        limit = asyncio.Semaphore(self.at_once)
        missing = [n for n in range(first, first + len(questions)) if n not in answers.by_number]
        async with connected(self.at_once) as client:

            async def one(number: int) -> None:
                async with limit:
                    answers.add(await self.ask_one(client, number, questions[number - first]))
                seen()

            await asyncio.gather(*map(one, missing))
        return [answers.by_number[number] for number in range(first, first + len(questions))]

    async def ask_one(self, client: httpx.AsyncClient, number: int, question: Question) -> Answer:
        """Ask one question, whose place is `number`. Raises what `ask` does."""
        messages = [{"role": "user", "content": question.prompt}]
        body = {
            "model": self.model,
            "messages": messages,
            "temperature": self.temperature,
            "max_tokens": MAX_TOKENS,
        }
        headers = {} if self.budget is None else {"x-reasoning-budget": str(self.budget)}
        response, seconds, retries = await self._posted(client, "chat/completions", body, headers)
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {response.text}")
        answer = response.json()
        choice = answer["choices"][0]
        finished = choice["finish_reason"] == "stop"
        return Answer(
            number,
            response.headers["x-request-id"],
            response.headers["x-laconic-decision"],
            correct=finished and is_correct(choice["message"]["content"] or "", question.answer),
            tokens=answer["usage"]["completion_tokens_details"]["reasoning_tokens"],
            seconds=seconds,
            retries=retries,
        )

    async def score(self, answers: Iterable[Answer], source: str) -> None:
        """Post the verifier's verdict on these answers, as `source`.

        Raises:
            RuntimeError: a score is refused.
        """
        limit = asyncio.Semaphore(8)
        async with connected(8) as client:

            async def one(answer: Answer) -> None:
                async with limit:
                    await self.score_one(client, answer, source)

            await asyncio.gather(*map(one, answers))

    async def score_one(self, client: httpx.AsyncClient, answer: Answer, source: str) -> None:
        """Post the verdict on one answer. Raises what `score` does."""
        body = {"request_id": answer.id, "score": float(answer.correct), "source": source}
        response, *_ = await self._posted(client, "feedback", body)  # a repeat changes nothing
        if response.status_code != 200:
            raise RuntimeError(f"feedback: {response.status_code}: {response.text}")

    async def _posted(
        self, client: httpx.AsyncClient, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> tuple[httpx.Response, float, int]:
        """The response, how long its try took, and how many were in vain: a 503, or a connection that was closed.

        A client that was starved for long may write to a connection that the gateway closes.
        """
        retries, until = 0, time.monotonic() + RETRY_SECONDS
        while True:
            began, response = time.perf_counter(), None
            with contextlib.suppress(httpx.ReadError, httpx.RemoteProtocolError):
                response = await client.post(f"{self.url}/v1/{path}", json=body, headers=headers)
            seconds = time.perf_counter() - began
            if response is not None and (response.status_code != 503 or time.monotonic() > until):
                return response, seconds, retries
            if time.monotonic() > until:
                raise RuntimeError("the gateway closes every connection")
            retries += 1
            await asyncio.sleep(1.0)

    def savings(self, requests: int) -> dict[str, Any]:
        """`GET /v1/savings` once the ledger has so many requests.

        Raises:
            RuntimeError: it does not get them.
        """
        until = time.monotonic() + LEDGER_SECONDS
        while True:
            report: dict[str, Any] = httpx.get(f"{self.url}/v1/savings", timeout=LEDGER_SECONDS).json()
            if report["total"]["requests"] >= requests:
                return report
            if time.monotonic() > until:
                raise RuntimeError(f"the ledger has {report['total']['requests']} requests, not {requests}")
            time.sleep(0.1)


def connected(connections: int) -> httpx.AsyncClient:
    """A client of stacks on this machine."""
    limits = httpx.Limits(max_connections=connections)
    return httpx.AsyncClient(timeout=600, limits=limits, verify=False)  # loading certificates takes time


@contextmanager
def engine(given: str | None, state_dir: Path) -> Generator[str]:
    """The URL of a vLLM that serves the shipped family: the one that is given, or one that is started for it."""
    if given is not None:
        yield given
        return
    with serving(state_dir) as url:
        yield engine_of(url)


def add_common(parser: argparse.ArgumentParser, seed: int) -> None:
    """The arguments that every live measurement has."""
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument(
        "--engine", metavar="URL", help="a vLLM that serves the shipped family; default: one is started"
    )
    parser.add_argument("--at-once", type=int, default=AT_ONCE, help="requests in flight")
    parser.add_argument("--seed", type=int, default=seed, help="of the questions, and of who gets a score")


def ask_all(stack: Stack, questions: Sequence[Question], label: str, path: Path | None = None) -> list[Answer]:
    """Ask every question, with a progress bar; with a path, what was interrupted goes on."""
    answers = Answers(path)
    with tqdm(total=len(questions), initial=len(answers.by_number), desc=label) as bar:
        return asyncio.run(stack.ask(questions, answers, seen=bar.update))


def laconic(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `laconic`, whatever its exit status."""
    command = [sys.executable, "-m", "gateway.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def quality(state_dir: Path) -> dict[str, Any]:
    """What `laconic quality --json` says of the ledger in this state directory.

    Raises:
        RuntimeError: the command fails; the message is its output.
    """
    done = laconic("quality", "--json", "--state-dir", str(state_dir))
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def drawn(questions: Sequence[Question], shares: Mapping[str, float], seed: int) -> list[int]:
    """The places of the questions that get a score: at random, with the share of their difficulty."""
    rng = random.Random(seed)
    return [number for number, one in enumerate(questions) if rng.random() < shares[one.difficulty]]


def paired(differences: Sequence[float] | Vector, seed: int = 0) -> dict[str, float]:
    """The mean of differences by question, with its 95 % interval from resampling questions."""
    values = np.asarray(differences, dtype=float)
    rows = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    return with_interval(float(values.mean()), values[rows].mean(axis=1))


def rounded(value: Any, digits: int = 5) -> Any:
    """The same JSON with shorter numbers."""
    if isinstance(value, Mapping):
        return {name: rounded(one, digits) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(one, digits) for one in value]
    return round(value, digits) if isinstance(value, float) else value


def write(out: Path, name: str, results: Mapping[str, Any]) -> None:
    """Write the results as JSON, and print them."""
    text = json.dumps(rounded(results), indent=1)
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{name}.json").write_text(f"{text}\n")
    print(text)
