"""How are completions sampled by a vLLM server, from the adapter as it is at this step? Token ids in, token ids out.

No text is tokenized or decoded on the way, so the trainer computes the loss on exactly the tokens that were sampled.
Each adapter gets a name and a directory of its own: vLLM's prefix cache is keyed by both, and would otherwise serve
keys and values that an earlier adapter computed.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch

from training.errors import StageError
from training.job import vllm_server
from training.job.precision import autocast_bf16
from training.job.trl_settings import LONGEST_PROMPT
from training.job.vllm_server import Server, ServerSettings
from training.rollouts.params import SamplingParams, cached_values

_SEEDS_APART = 1_000_003
"""Between the seeds of two prompts. vLLM gives a prompt's samples consecutive seeds."""
_LARGEST_SEED = 2**31


class Completion(NamedTuple):
    """A sampled completion."""

    ids: list[int]
    """Token ids, the eos included if it was sampled."""
    logprobs: list[float]
    """log P in nats of each token at the temperature that it was drawn at; NaN where vLLM had none."""


@dataclass
class Engine:
    """Samples from a running server, from the model itself or from the adapter that was loaded last."""

    server: Server
    adapters: Path
    """A directory for adapters, of which only the current one is kept."""
    _name: str | None = None

    def load_adapter(self, name: str, write: Callable[[Path], object]) -> None:
        """Replace the adapter that is sampled from.

        Args:
            name: a name that no earlier adapter of this engine had.
            write: writes the adapter, as PEFT saves it, to the directory that it is given.

        Raises:
            StageError: vLLM refuses it, or has ended.
        """
        previous, directory = self._name, self.adapters / name
        write(directory)
        self._post("/v1/load_lora_adapter", {"lora_name": name, "lora_path": str(directory.absolute())})
        self._name = name
        if previous is not None:
            self._post("/v1/unload_lora_adapter", {"lora_name": previous})
            shutil.rmtree(self.adapters / previous, ignore_errors=True)

    def sample(self, prompts: Sequence[Sequence[int]], params: SamplingParams, *, eos: int) -> list[Completion]:
        """`params.samples` completions of each prompt, grouped by prompt; each ends with `eos` or was truncated.

        Args:
            prompts: token ids.
            params: a seed makes the draw repeatable as far as vLLM's batches are; prompts have different ones.
            eos: the only token id that ends a completion.

        Raises:
            StageError: a prompt leaves no room for its completion, or vLLM has ended.
        """
        room = self.server.context_tokens - params.max_tokens
        if (longest := max(map(len, prompts), default=0)) > room:
            raise StageError(
                f"family.max_tokens: {params.max_tokens} leave room for a prompt of {room} tokens in a context of"
                f" {self.server.context_tokens}, and one has {longest}; vLLM would truncate its completion unasked"
            )
        if not prompts:
            return []
        with ThreadPoolExecutor(len(prompts)) as threads:
            groups = threads.map(lambda job: self._group(job[1], params, eos, job[0]), enumerate(prompts))
            return [completion for group in groups for completion in group]

    def _group(self, prompt: Sequence[int], params: SamplingParams, eos: int, number: int) -> list[Completion]:
        seed = None if params.seed is None else (params.seed + number * _SEEDS_APART) % _LARGEST_SEED
        body = {
            "model": self._name or "base",
            "prompt": list(prompt),
            "n": params.samples,
            "max_tokens": params.max_tokens,
            "temperature": params.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "seed": seed,
            "logprobs": 0,
            "return_token_ids": True,
            # The model's config may name other tokens that end an answer; the grader and our sampler know only this.
            "ignore_eos": True,
            "stop_token_ids": [eos],
        }
        choices = self._post("/v1/completions", body).json()["choices"]
        return [self._completion(choice, prompt) for choice in sorted(choices, key=lambda choice: choice["index"])]

    def _completion(self, choice: dict[str, Any], prompt: Sequence[int]) -> Completion:
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
        if choice["finish_reason"] not in ("stop", "length") or len(ids) != len(logprobs) or not ids:
            raise self.server.failure(f"a completion ended with {choice['finish_reason']!r} after {len(ids)} tokens")
        if (asked := choice.get("prompt_token_ids")) is not None and list(asked) != list(prompt):
            raise StageError("vLLM: the prompt that it sampled from is not the one that was sent")
        return Completion(list(ids), [math.nan if value is None else value for value in logprobs])

    def _post(self, path: str, body: dict[str, Any]) -> httpx.Response:
        try:
            response = self.server.client.post(path, json=body)
        except httpx.TransportError as error:
            raise self.server.failure(
                f"it has ended ({type(error).__name__}); run the same command to resume"
            ) from None
        if not response.is_success:
            raise StageError(f"vLLM: {path} answered {response.status_code}: {_message(response)}")
        return response


def settings_for(
    model: Path, config: Any, *, max_tokens: int, sequences: int, lora_rank: int | None = None
) -> ServerSettings:
    """What a server for a model must hold, in the format that is fast on this machine.

    Args:
        model: the model's directory.
        config: its text config.
        max_tokens: longest completion.
        sequences: completions that are sampled at once.
        lora_rank: largest rank of an adapter; None samples from the model alone.
    """
    dtype = torch.bfloat16 if autocast_bf16() else torch.float32
    return ServerSettings(
        model=model,
        context_tokens=min(config.max_position_embeddings, max_tokens + LONGEST_PROMPT),
        dtype=str(dtype).removeprefix("torch."),
        sequences=sequences,
        kv_bytes_per_token=cached_values(config) * dtype.itemsize,
        lora_rank=lora_rank,
    )


@contextmanager
def started(settings: ServerSettings, work: Path) -> Iterator[Engine]:
    """An engine with a server of its own for the time of the block; `work` gets its log and its adapters.

    Raises:
        StageError: the server does not start.
    """
    adapters = work / "adapters"
    shutil.rmtree(adapters, ignore_errors=True)  # what a killed run has left
    with vllm_server.running(settings, work / "vllm.log") as server:
        try:
            yield Engine(server, adapters)
        finally:
            shutil.rmtree(adapters, ignore_errors=True)


def _message(response: httpx.Response) -> str:
    """The error's text in one line."""
    try:
        body = response.json()
        text = str(body.get("error", body).get("message", body))
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:500]
