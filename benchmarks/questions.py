"""Which arithmetic questions does the adoption benchmark ask? Questions of the shipped family's task, as JSONL.

    python -m benchmarks.questions validation --count 200 > train.jsonl
    python -m benchmarks.questions heldout --count 400 > test.jsonl

The splits have no question in common. The same arguments give the same questions.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TextIO

from training.tasks.problems import SPLITS, Split
from training.tasks.prompts import prompts

SEED = 4101


def main() -> None:
    """Print the questions."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("split", choices=SPLITS)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=SEED)
    arguments = parser.parse_args()
    write(sys.stdout, arguments.split, arguments.seed, arguments.count)


def write(file: TextIO, split: Split, seed: int, count: int) -> None:
    """Write different questions of a split, each with its answer, a line each."""
    rows = ({"prompt": question.prompt, "answer": question.answer} for question in prompts(split, seed, count))
    file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


if __name__ == "__main__":
    main()
