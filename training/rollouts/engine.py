"""How are completions sampled by a vLLM server, from the model as it is at this step? Token ids in, token ids out.

No text is tokenized or decoded on the way, so the trainer computes the loss on exactly the tokens that were sampled.
The server gets the weights of each step, an adapter merged into them. vLLM could load the adapter instead, but on a CPU
it gathers a copy of it for every token, which is slow (docs/decisions/0040).
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from training.config import FamilyStage
from training.errors import StageError
from training.job import vllm_server
from training.job.precision import autocast_bf16
from training.job.trl_settings import LONGEST_PROMPT, samples_from_server
from training.job.vllm_server import Server, ServerSettings
from training.rollouts.params import SamplingParams, cached_values

LARGEST_BATCH = 256
"""Completions that a vLLM server samples at once; more wait for a place. So many prompts are sent at once, too: each
takes a thread and a socket."""
_SEEDS_APART = 1_000_003
"""Between the seeds of two prompts. vLLM gives a prompt's samples consecutive seeds."""
_LARGEST_SEED = 2**31


class Completion(NamedTuple):
    """A sampled completion."""

    ids: list[int]
    """Token ids, the eos included if it was sampled."""
    logprobs: list[float]
    """log P in nats of each token, as the server's `at_temperature` says; NaN where vLLM had none."""
    kv_cache: Tensor | None = None
    """The KV cache of prompt and completion, if it was sampled in this process and is used again."""


@dataclass
class Engine:
    """Samples from a running server, from the model that it started with or the weights that were loaded last."""

    server: Server
    directory: Path
    """Where weights lie while the server reads them."""

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the weights that are sampled from. Nothing that earlier ones computed is used again.

        Args:
            weights: of all layers, under the names that they have in the model's own files.

        Raises:
            StageError: vLLM refuses them, or has ended.
        """
        dtype = getattr(torch, self.server.settings.dtype)
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        shutil.copy(self.server.settings.model / "config.json", self.directory)
        tensors: dict[str, Tensor] = {}
        for name, weight in weights.items():
            tensor = weight.detach().to(dtype).contiguous()
            # On a CPU, vLLM repacks the output embeddings and keeps the old ones unless they are there by their name.
            is_tied = any(tensor.data_ptr() == other.data_ptr() for other in tensors.values())
            tensors[name] = tensor.clone() if is_tied else tensor
        save_file(tensors, self.directory / "model.safetensors", metadata={"format": "pt"})
        arguments = {"method": "reload_weights", "kwargs": {"weights_path": str(self.directory.absolute())}}
        self._post("/collective_rpc", arguments)
        if not self._post("/reset_prefix_cache", {}).json().get("success"):
            raise self.server.failure("it keeps what earlier weights computed")
        shutil.rmtree(self.directory)

    def sample(
        self,
        prompts: Sequence[Sequence[int]],
        params: SamplingParams,
        *,
        eos: int,
        on_group: Callable[[int], None] = lambda _: None,
        may_truncate: bool = False,
    ) -> list[Completion]:
        """`params.samples` completions of each prompt, grouped by prompt; each ends with `eos` or was truncated.

        Args:
            prompts: token ids.
            params: a seed makes the draw repeatable as far as vLLM's batches are; prompts have different ones.
            eos: the only token id that ends a completion.
            on_group: receives the number of prompts so far, in their order.
            may_truncate: whether a completion may end where the context does, before `params.max_tokens`.

        Raises:
            StageError: a prompt leaves no room for its completion, or vLLM has ended.
        """
        room = self.server.settings.context_tokens - (1 if may_truncate else params.max_tokens)
        if (longest := max(map(len, prompts), default=0)) > room:
            raise StageError(
                f"family.max_tokens: {params.max_tokens} leave room for a prompt of {room} tokens in a context of"
                f" {self.server.settings.context_tokens}, and one has {longest}; vLLM would truncate its completion"
                " unasked"
            )
        if not prompts:
            return []
        with ThreadPoolExecutor(min(len(prompts), LARGEST_BATCH)) as threads:
            groups = threads.map(lambda job: self._group(job[1], params, eos, job[0]), enumerate(prompts))
            completions: list[Completion] = []
            for done, group in enumerate(groups, 1):
                completions += group
                on_group(done)
            return completions

    def _group(self, prompt: Sequence[int], params: SamplingParams, eos: int, number: int) -> list[Completion]:
        seed = None if params.seed is None else (params.seed + number * _SEEDS_APART) % _LARGEST_SEED
        body = {
            "model": "base",
            "prompt": list(prompt),
            "n": params.samples,
            "max_tokens": min(params.max_tokens, self.server.settings.context_tokens - len(prompt)),
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
    model: Path,
    config: Any,
    *,
    max_tokens: int,
    sequences: int,
    at_temperature: bool = True,
    prompt_tokens: int = LONGEST_PROMPT,
) -> ServerSettings:
    """What a server for a model must hold, in the format that is fast on this machine.

    Args:
        model: the model's directory.
        config: its text config.
        max_tokens: longest completion.
        sequences: completions that are sampled at once.
        at_temperature: whether log probabilities are those at the temperature of the draw, or at temperature 1.
        prompt_tokens: the longest prompt.
    """
    dtype = torch.bfloat16 if autocast_bf16() else torch.float32
    return ServerSettings(
        model=model,
        context_tokens=min(config.max_position_embeddings, max_tokens + prompt_tokens),
        dtype=str(dtype).removeprefix("torch."),
        sequences=sequences,
        kv_bytes_per_token=cached_values(config) * dtype.itemsize,
        at_temperature=at_temperature,
    )


@contextmanager
def for_stage(stage: FamilyStage, model: PreTrainedModel, work: Path) -> Iterator[Engine | None]:
    """A vLLM server for rollouts on CPUs, which holds the base; None where rollouts are sampled in this process.

    Raises:
        StageError: the server does not start.
    """
    if not samples_from_server(stage):
        yield None
        return
    settings = settings_for(
        Path(model.name_or_path),
        model.config.get_text_config(),
        max_tokens=stage.max_tokens,
        sequences=min(stage.prompts_per_step * stage.rollouts, LARGEST_BATCH),
    )
    with started(settings, work) as engine:
        yield engine


@contextmanager
def started(settings: ServerSettings, work: Path) -> Iterator[Engine]:
    """An engine with a server of its own for the time of the block; `work` gets its log.

    Raises:
        StageError: the server does not start.
    """
    directory = work / "weights-for-vllm"
    shutil.rmtree(directory, ignore_errors=True)  # what a killed run has left
    with vllm_server.running(settings, work / "vllm.log") as server:
        try:
            yield Engine(server, directory)
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _message(response: httpx.Response) -> str:
    """The error's text in one line."""
    try:
        body = response.json()
        text = str(body.get("error", body).get("message", body))
    except (ValueError, AttributeError):
        text = response.text
    return " ".join(text.split())[:500]
