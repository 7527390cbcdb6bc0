"""What does another API cost beside chat completions? The same questions through each, in front of one upstream.

    python -m benchmarks.surfaces --out benchmarks/results

The upstream does no work and answers chats (`benchmarks/upstream.py`). Laconic runs one worker with everything on. Each
turn measures each API once; ratios are of requests a second, beside chat completions in the same turn. The median is
reported with the lowest and the highest. Five turns take about two minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import uvloop
from rich.progress import Progress

from benchmarks import load, machine
from benchmarks.figures import spread
from benchmarks.peers import laconic, upstream_server
from training.tasks.prompts import prompts

CLIENTS, QUESTIONS, SEED = 16, 200, 0
CHAT = "chat completions"
Asked = Callable[[str], dict[str, Any]]
APIS: dict[str, tuple[str, Asked, bytes]] = {
    CHAT: (
        "chat/completions",
        lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 400},
        b"[DONE]",
    ),
    "Messages": (
        "messages",
        lambda text: {"messages": [{"role": "user", "content": text}], "max_tokens": 400},
        b"message_stop",
    ),
    "Responses": ("responses", lambda text: {"input": text, "max_output_tokens": 400}, b"response.completed"),
    "completions": ("completions", lambda text: {"prompt": text, "max_tokens": 400}, b"[DONE]"),
}
"""By name: the path, what asks a question, and what is in a stream's last event."""


def main() -> None:
    """Measure, and write `surfaces.json`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory for the results")
    parser.add_argument("--turns", type=int, default=5, help="how often everything is measured")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    arguments = parser.parse_args()
    questions = [prompt.prompt for prompt in prompts("heldout", SEED, QUESTIONS)]
    ratios: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, upstream_server(Path(name)) as upstream:
        engine, directory = upstream.url.removesuffix("/v1"), Path(name)
        with laconic(engine, directory, "--max-concurrency", "2048") as target, Progress() as progress:
            for _ in progress.track(range(arguments.turns), description="measuring"):
                for stream in (True, False):
                    kind = "streamed" if stream else "whole"
                    rates = {
                        api: _rate(target.url, target.key, api, questions, arguments.seconds, stream=stream)
                        for api in APIS
                    }
                    for api, rate in rates.items():
                        if api != CHAT:
                            ratios.setdefault(f"requests/s, {kind}, {api} / {CHAT}", []).append(rate / rates[CHAT])
    results = {
        "machine": machine.describe(),
        "seed": SEED,
        "turns": arguments.turns,
        "seconds": arguments.seconds,
        "clients": CLIENTS,
        "ratios": {what: spread(values) for what, values in ratios.items()},
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "surfaces.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results["ratios"], indent=1))


def _rate(url: str, key: str, api: str, questions: list[str], seconds: float, *, stream: bool) -> float:
    """Requests a second.

    Raises:
        RuntimeError: one failed.
    """
    path, asked, end = APIS[api]
    messages = [load.post(f"{url}/{path}", asked(text), stream=stream, key=key) for text in questions]
    times = uvloop.run(load.load(url, messages, CLIENTS, seconds, stream=stream, end=end))
    if times.failed:
        raise RuntimeError(f"{api}: {times.failed} requests failed")
    return len(times.total) / times.seconds


if __name__ == "__main__":
    main()
