"""Which conversations about GSM8K problems have known answers in every turn? Follow-ups that compute with the last one.

    python -m benchmarks.followups ../shared/data/gsm8k/test.jsonl --count 100 > conversations.jsonl

The first turn is a problem. Each further one refers to the answer before it, as in "Now double that", so that it cannot
be answered, nor its difficulty told, without the conversation. For families of real models; the shipped one holds no
conversations. A line is `{"turns": [{"text", "answer"}, ...]}`. MATH's files (*.json) work too; problems whose answer
is no whole number are left out. The same arguments give the same conversations.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MAX_TURNS = 20
LARGEST = 10**6
"""Of an answer; a follow-up that would make it larger is not drawn."""
SEED = 4902

_FOLLOW_UPS: tuple[tuple[str, Callable[[int, int], int]], ...] = (
    ("Now add {n} to that.", lambda last, n: last + n),
    ("Take {n} away from that. What is left?", lambda last, n: last - n),
    ("And {n} times as much?", lambda last, n: last * n),
    ("How far is that from {n}?", lambda last, n: abs(last - n)),
    ("Yes, do that again: add {n} twice to your last answer.", lambda last, n: last + 2 * n),
)


def answer_of(row: dict[str, Any]) -> int | None:
    """A row's whole-number answer: behind GSM8K's `####`, or all of it; None if it is no such number."""
    text = str(row.get("answer")).rpartition("####")[2].strip().replace(",", "")
    return int(text) if re.fullmatch(r"-?[0-9]{1,7}", text) else None


def turns_of(problem: str, answer: int, rng: random.Random, count: int) -> list[dict[str, str]]:
    """A problem and `count` - 1 follow-ups, each with its answer."""
    turns = [{"text": problem, "answer": str(answer)}]
    while len(turns) < count:
        text, compute = rng.choice(_FOLLOW_UPS)
        number = rng.randint(2, 9)
        if abs(after := compute(answer, number)) <= LARGEST:
            answer = after
            turns.append({"text": text.format(n=number), "answer": str(answer)})
    return turns


def conversations(rows: list[dict[str, Any]], count: int, seed: int = SEED) -> Iterator[list[dict[str, str]]]:
    """`count` conversations of 1 to 20 turns about different problems, as far as there are so many."""
    rng = random.Random(f"followups {seed}")
    usable = [(row, answer) for row in rows if (answer := answer_of(row)) is not None]
    for row, answer in rng.sample(usable, min(count, len(usable))):
        problem = row.get("question") or row["problem"]
        yield turns_of(problem, answer, rng, rng.randint(1, MAX_TURNS))


def main() -> None:
    """Print the conversations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSONL with `question` or `problem`, and `answer`")
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    text = arguments.file.read_text(encoding="utf-8")
    rows = json.loads(text) if arguments.file.suffix == ".json" else [*map(json.loads, text.splitlines())]
    for turns in conversations(rows, arguments.count, arguments.seed):
        sys.stdout.write(json.dumps({"turns": turns}, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
