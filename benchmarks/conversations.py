"""What does it save that a conversation keeps its checkpoint? A simulated day on the shipped family and a real vLLM.

    python -m benchmarks.conversations --conversations 10000 --out docs/routing

Each conversation has 1 to 20 turns whose right answers are known, and is held twice, through two gateways in front of
one engine with prefix caching: one keeps checkpoints, the other routes each turn by itself (`--no-conversations`). A
cache salt keeps the two apart in the engine's cache. Every turn has the conversation before it in its messages, with
the answers that the model gave.

Half of the conversations ask about one problem again and again, in other words each time. The other half ask a new
problem in each turn. The shipped family was not trained on conversations, so it hardly answers these: they are there
because their turns differ in difficulty, which is what makes a gateway change the checkpoint.

A conversation ends early when the context is nearly full; only turns that both arms have are compared. Intervals are
95 % intervals from resampling conversations; differences are of the same conversation in both arms. A run that was
ended goes on where it was: finished conversations are in `--records`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from tqdm import tqdm

from benchmarks import machine
from benchmarks.intervals import with_interval
from benchmarks.stack import serving
from gateway.routing.conversation import PROMPT_PRICE
from training.tasks import problems
from training.tasks.phrasing import phrase

ARMS = ("kept", "by turn")
MAX_TURNS = 20
CLIENTS = 16
LONGEST = 760
"""Tokens of a conversation after which it ends: the shipped family's context has 1,024."""
RESAMPLES = 1000
SEED = 4901
ENGINE_ARGS = "--enable-prefix-caching --block-size 32"
"""32 tokens are the smallest block on a CPU. The default, 128, is most of a conversation of this family."""


@dataclass(frozen=True)
class Turn:
    """What a user says, and the right answer."""

    text: str
    answer: str


@dataclass(frozen=True)
class Record:
    """One conversation in one arm; lists have one value a turn."""

    number: int
    arm: str
    again: bool
    prompt: list[int]
    cached: list[int]
    reasoning: list[int]
    right: list[bool]
    checkpoints: list[str]
    moves: list[str]


def conversation(number: int, seed: int = SEED) -> tuple[bool, list[Turn]]:
    """Whether it is about one problem, and its turns; the same arguments give the same conversation."""
    rng = random.Random(f"conversations {seed} {number}")
    again = rng.random() < 0.5
    turns = rng.randint(1, MAX_TURNS)
    drawn = problems.chains("heldout", rng.randrange(2**31))
    for _ in range(rng.randrange(len(problems.DIFFICULTIES))):
        next(drawn)  # difficulties take turns, and first turns are not all to be easy
    first = next(drawn)
    chains = [first] * turns if again else [first, *(next(drawn) for _ in range(turns - 1))]
    return again, [Turn(phrase(chain, rng), str(chain.answer)) for chain in chains]


async def hold(client: httpx.AsyncClient, arm: str, number: int) -> Record:
    """Hold one conversation through an arm's gateway.

    Raises:
        httpx.HTTPStatusError: a turn was not answered.
    """
    again, turns = conversation(number)
    record = Record(number, arm, again, [], [], [], [], [], [])
    messages: list[dict[str, str]] = []
    for turn in turns:
        messages.append({"role": "user", "content": turn.text})
        body = {"model": "abacus", "messages": messages, "cache_salt": f"{arm} {number}"}
        response = await client.post("/v1/chat/completions", json=body)
        response.raise_for_status()
        answer, usage = response.json()["choices"][0]["message"]["content"] or "", response.json()["usage"]
        record.prompt.append(usage["prompt_tokens"])
        record.cached.append((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        record.reasoning.append(usage["completion_tokens_details"]["reasoning_tokens"])
        record.right.append(re.findall(r"-?\d+", answer)[-1:] == [turn.answer])
        record.checkpoints.append(response.headers["x-laconic-checkpoint"])
        record.moves.append(response.headers.get("x-laconic-conversation", "none"))
        messages.append({"role": "assistant", "content": answer.strip()})
        if usage["total_tokens"] > LONGEST:
            break
    return record


def left_of(count: int, records: Path) -> list[tuple[int, str]]:
    """The conversations that are not in the file yet, each with its arm."""
    done = {(record.number, record.arm) for record in read(records)}
    return [(number, arm) for number in range(count) for arm in ARMS if (number, arm) not in done]


async def hold_all(urls: dict[str, str], count: int, records: Path, clients: int) -> None:
    """Hold all conversations that are left, and append each to the file."""
    todo = left_of(count, records)
    left = iter(todo)
    total = count * len(ARMS)
    with records.open("a") as file, tqdm(total=total, initial=total - len(todo), mininterval=10) as progress:

        async def one(http: dict[str, httpx.AsyncClient]) -> None:
            for number, arm in left:
                record = await hold(http[arm], arm, number)
                file.write(json.dumps(asdict(record)) + "\n")
                file.flush()
                progress.update()

        http = {arm: httpx.AsyncClient(base_url=url, timeout=600) for arm, url in urls.items()}
        await asyncio.gather(*(one(http) for _ in range(clients)))
        for client in http.values():
            await client.aclose()


def read(records: Path) -> Iterator[Record]:
    """The conversations in a file; a torn last line is left out."""
    for line in records.read_text().splitlines() if records.exists() else ():
        try:
            yield Record(**json.loads(line))
        except ValueError:
            continue


def results(records: Sequence[Record], seed: int = SEED) -> dict[str, Any]:
    """The figures of both arms and their differences, over the conversations that both have held."""
    by_arm = {arm: {record.number: record for record in records if record.arm == arm} for arm in ARMS}
    numbers = sorted(by_arm[ARMS[0]].keys() & by_arm[ARMS[1]].keys())
    pairs = [_in_common(*(by_arm[arm][number] for arm in ARMS)) for number in numbers]
    arms = dict(zip(ARMS, zip(*pairs, strict=True), strict=True))
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(numbers), len(numbers)) for _ in range(RESAMPLES)]
    sums = {arm: np.array([list(_sums(record).values()) for record in held]) for arm, held in arms.items()}
    shown = {arm: _with_intervals(_figures, [values], draws) for arm, values in sums.items()}
    return {
        "conversations": len(numbers),
        "turns": int(sum(len(record.prompt) for record in arms[ARMS[0]])),
        "seed": seed,
        "prompt price": PROMPT_PRICE,
        "arms": {arm: {**shown[arm], "moves": _moves(arms[arm])} for arm in ARMS},
        "difference": _with_intervals(_difference, [sums[arm] for arm in ARMS], draws),
    }


def _in_common(one: Record, other: Record) -> tuple[Record, Record]:
    """Both without the turns that only one of them has, because the other one's answers had filled the context."""
    turns = min(len(one.prompt), len(other.prompt))
    cut = [
        {name: value[:turns] if isinstance(value, list) else value for name, value in asdict(record).items()}
        for record in (one, other)
    ]
    return Record(**cut[0]), Record(**cut[1])


def _sums(record: Record) -> dict[str, float]:
    turns, right = len(record.prompt), sum(record.right)
    changes = sum(one != other for one, other in zip(record.checkpoints, record.checkpoints[1:], strict=False))
    return {
        "turns": turns,
        "prompt": sum(record.prompt),
        "cached": sum(record.cached),
        "reasoning": sum(record.reasoning),
        "right": right,
        "again turns": turns * record.again,
        "again right": right * record.again,
        "first right": record.right[0],
        "conversations": 1,
        "changes": changes,
    }


_NAMES = list(_sums(Record(0, "", False, [1], [0], [0], [True], [""], [""])))


def _figures(sums: np.ndarray) -> dict[str, float]:
    """Figures of one arm, from sums of some conversations, (conversations, sums)."""
    of = dict(zip(_NAMES, sums.sum(0), strict=True))
    computed = of["prompt"] - of["cached"]
    return {
        "prompt tokens a turn": of["prompt"] / of["turns"],
        "cached tokens a turn": of["cached"] / of["turns"],
        "computed prompt tokens a turn": computed / of["turns"],
        "cached share": of["cached"] / of["prompt"],
        "reasoning tokens a turn": of["reasoning"] / of["turns"],
        "cost a turn": (of["reasoning"] + PROMPT_PRICE * computed) / of["turns"],
        "accuracy": of["right"] / of["turns"],
        "accuracy, one problem": of["again right"] / max(of["again turns"], 1),
        "accuracy, first turn": of["first right"] / of["conversations"],
        "changes of checkpoint a conversation": of["changes"] / of["conversations"],
    }


def _difference(kept: np.ndarray, by_turn: np.ndarray) -> dict[str, float]:
    """Kept minus by turn; for tokens and cost also as a share of by turn."""
    one, other = _figures(kept), _figures(by_turn)
    differences = {name: one[name] - other[name] for name in one}
    shares = {f"{name}, share": one[name] / max(other[name], 1e-9) - 1 for name in one if name.endswith("a turn")}
    return differences | shares


def _with_intervals(
    figures: Any, sums: Sequence[np.ndarray], draws: Sequence[np.ndarray]
) -> dict[str, dict[str, float]]:
    """Each figure with its 95 % interval from resampled conversations."""
    means = figures(*sums)
    drawn = [figures(*(one[rows] for one in sums)) for rows in draws]
    return {name: with_interval(mean, [one[name] for one in drawn]) for name, mean in means.items()}


def _moves(records: Sequence[Record]) -> dict[str, int]:
    return dict(Counter(move for record in records for move in record.moves).most_common())


def _engine_url() -> str:
    """The URL of the engine that the first gateway has started."""
    for process in psutil.Process().children(recursive=True):
        command = process.cmdline()
        if "gateway.process.launch_vllm" in command:
            return f"http://127.0.0.1:{command[command.index('--port') + 1]}"
    raise RuntimeError("the engine does not run")


def _serve_and_hold(state: Path, count: int, records: Path, clients: int) -> None:
    if records.exists() and not records.read_text().endswith("\n"):  # the last line is torn
        records.write_text(records.read_text() + "\n")
    options = ("--holdout-fraction", "0", "--allow-field", "cache_salt")
    with (
        serving(state / "kept", f"--engine-args={ENGINE_ARGS}", *options) as kept,
        serving(state / "by-turn", "--engine", _engine_url(), "--no-conversations", *options) as by_turn,
    ):
        asyncio.run(hold_all(dict(zip(ARMS, (kept, by_turn), strict=True)), count, records, clients))


def main() -> None:
    """Hold the conversations, and write `conversations.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--conversations", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=CLIENTS, help="conversations at a time")
    parser.add_argument("--records", type=Path, help="file of finished conversations; default: a temporary one")
    arguments = parser.parse_args()
    measured_on = machine.describe()
    with tempfile.TemporaryDirectory() as directory:
        state = Path(directory)
        records: Path = arguments.records or state / "records.jsonl"
        if left_of(arguments.conversations, records):
            _serve_and_hold(state, arguments.conversations, records, arguments.clients)
        held = [record for record in read(records) if record.number < arguments.conversations]
        figures = {"machine": measured_on, **results(held)}
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "conversations.json").write_text(json.dumps(figures, indent=1) + "\n")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
