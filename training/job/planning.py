"""What will a run need? Memory, tokens and rough cost, estimated from the recipe before anything is spent.

Rules of thumb: with N parameters, a token costs 2 N operations forward and 4 N backward. LoRA saves the half of the
backward pass that computes gradients of the weights. Adam keeps two moments in float32.

Memory is what TRL, vLLM and DeepSpeed allocate. vLLM takes a fixed share of the GPU. TRL's loss never holds all logits:
it projects tiles of tokens and vocabulary. DeepSpeed trains a bfloat16 copy and keeps float32 weights beside it.

Hours are a range. The lower end has rollouts of a quarter of the limit and counts no attention. The upper end has
rollouts at the limit, attention's quadratic part, and sampling at a quarter of the speed, because token by token it is
bound by memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Column, Table

from training.config import FamilyStage, Recipe
from training.recipe_base import Architecture, BaseStage
from training.recipe_deciding import TRIES

GIB = 2**30
PROMPT_TOKENS = 256
"""Of a long prompt, where the questions are not known."""
PROBE_TOKENS = 24
"""Tokens of a probe: the end of thinking and a short answer."""
VLLM_SHARE = 0.3
"""Of a GPU's memory: TRL's default `vllm_gpu_memory_utilization`."""
_BYTES = {"float32": 4, "bfloat16": 2}
_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32768
"""Size of a tile of logits in TRL's fused head (`trl/kernels/chunked_logprob.py`)."""
_BUCKETS = 2 * 500_000_000
"""Elements of DeepSpeed's two default buckets, for reducing gradients and gathering weights."""
_SHORT = 0.25
"""Length of the rollouts at the lower end of the hours, as a share of the limit."""
_SAMPLING_SPEED = 0.25
"""Of a GPU's sustained speed while it samples, at the upper end of the hours."""


@dataclass(frozen=True)
class Plan:
    """What a family's training and evaluation need: bytes per GPU, tokens and operations."""

    parameters: int
    trained: int
    memory: dict[str, float]
    """Bytes on each GPU, by purpose."""
    tokens: dict[str, float]
    """By purpose, over all alphas, if every rollout has the maximum length."""
    operations: float
    """At the upper end: rollouts of the maximum length, and attention."""
    fewest_operations: float
    """At the lower end: short rollouts, no attention."""
    sampling_operations: float
    """The part of `operations` that samples token by token."""
    refused: str = ""
    """Why the run cannot start on such a GPU although its bytes fit; empty if it can."""

    @property
    def bytes(self) -> float:
        """Bytes on each GPU in all."""
        return sum(self.memory.values())

    def hours(self, gpus: int, tflops: float) -> tuple[float, float]:
        """Least and most hours of wall time on `gpus` GPUs that sustain `tflops` TFLOP/s each."""
        per_hour = gpus * tflops * 1e12 * 3600
        most = self.operations + self.sampling_operations * (1 / _SAMPLING_SPEED - 1)
        return self.fewest_operations / per_hour, most / per_hour


def architecture(stage: BaseStage) -> Architecture:
    """The architecture of a base that is trained from scratch."""
    return Architecture(
        model_type="qwen3",
        hidden_size=stage.hidden,
        num_hidden_layers=stage.layers,
        num_attention_heads=stage.heads,
        num_key_value_heads=stage.kv_heads,
        head_dim=stage.head_dim,
        intermediate_size=stage.mlp,
        vocab_size=stage.vocabulary,
        tie_word_embeddings=True,
    )


def parameters(a: Architecture) -> int:
    """The number of weights of the model that transformers builds."""
    queries, keys = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    attention = a.hidden_size * (2 * queries + 2 * keys)
    if a.model_type == "qwen2":
        attention += queries + 2 * keys  # biases
    elif a.model_type in ("qwen3", "gemma3_text"):
        attention += 2 * a.head_dim  # norms of queries and keys
    norms = 4 if a.model_type in ("gemma2", "gemma3_text") else 2
    block = attention + 3 * a.hidden_size * a.intermediate_size + norms * a.hidden_size
    embeddings = a.vocab_size * a.hidden_size * (1 if a.tie_word_embeddings else 2)
    return a.num_hidden_layers * block + embeddings + a.hidden_size


def adapter_parameters(a: Architecture, rank: int, layers: int | None = None) -> int:
    """The number of weights of a LoRA adapter on all linear layers of the blocks, or of `layers` of them."""
    queries, keys = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    pairs = [(a.hidden_size, queries), (a.hidden_size, keys), (a.hidden_size, keys), (queries, a.hidden_size)]
    pairs += [(a.hidden_size, a.intermediate_size)] * 2 + [(a.intermediate_size, a.hidden_size)]
    return (a.num_hidden_layers if layers is None else layers) * rank * sum(i + o for i, o in pairs)


def long_prompt_tokens(prompts: Sequence[str]) -> int:
    """Roughly the tokens of a prompt that one in a hundred exceeds, chat template included: three characters each."""
    lengths = sorted(map(len, prompts))
    return lengths[int(0.99 * (len(lengths) - 1))] // 3 + 32


def estimate(
    recipe: Recipe,
    a: Architecture,
    *,
    gpus: int = 1,
    prompt_tokens: int = PROMPT_TOKENS,
    shard: bool = False,
    gpu_gib: float = 80,
) -> Plan:
    """The plan of a recipe's family stage, evaluation included.

    Args:
        recipe: the recipe to run.
        a: the architecture of the base.
        gpus: the number of processes, with one GPU each.
        prompt_tokens: the length of a long prompt.
        shard: whether DeepSpeed shards optimizer state and gradients over the GPUs (ZeRO stage 2).
        gpu_gib: memory of one GPU in GiB.
    """
    stage, total, width = recipe.family, parameters(a), prompt_tokens + recipe.family.max_tokens
    trained = total
    if stage.tune == "lora":
        lower = a.num_hidden_layers // 2 if stage.lora_layers == "upper_half" else 0
        trained = adapter_parameters(a, stage.lora_rank, a.num_hidden_layers - lower)
    memory = _memory(recipe, a, trained, width, gpus=gpus, shard=shard, gpu_gib=gpu_gib)
    rollouts = stage.steps * stage.prompts_per_step * stage.rollouts * len(stage.alphas)
    stages = [recipe.evaluate, *([recipe.profile] if recipe.publish_to else [])]
    measured = sum(each.prompts * each.samples for each in stages)
    measured += recipe.profile.budget_forced_count if recipe.publish_to else 0
    measured *= len(stage.alphas) + 1
    tokens: dict[str, float] = {"sampled": rollouts * stage.max_tokens, "trained on": rollouts * width}
    if stage.dense_reward:
        tokens["probed"] = rollouts * (width + _probe_tokens(stage))
    tokens["evaluated"] = measured * stage.max_tokens
    tokens.update(_deciding(stage, width))
    passes = _passes(stage)
    sampled = tokens["sampled"] + tokens["evaluated"] + tokens.get("tried", 0)
    decided = tokens.get("decided on", 0)
    sampling = 2 * total * sampled
    other = total * (passes * tokens["trained on"] + 2 * tokens.get("probed", 0) + 8 * decided)
    # Scores and values of attention: 4 x layers x width of the heads x tokens so far, half of `width` on average.
    heads = a.num_attention_heads * a.head_dim
    attention = 4 * a.num_hidden_layers * heads * (width / 2)
    quadratic = attention * (passes / 2 * tokens["trained on"] + tokens.get("probed", 0) + 4 * decided)
    quadratic_sampling = attention * sampled
    fewest = _SHORT * (sampling + other)
    return Plan(
        total,
        trained,
        memory,
        tokens,
        operations=sampling + other + quadratic + quadratic_sampling,
        fewest_operations=fewest,
        sampling_operations=sampling + quadratic_sampling,
        refused=_refusal(recipe, a, width, gpu_gib),
    )


def _deciding(stage: FamilyStage, width: int) -> dict[str, float]:
    """Tokens of learning to decide (`training.deciding`): if every pass is wrong, and of three lessons each."""
    if stage.deciding is None:
        return {}
    questions, deciding = stage.deciding.questions, sum(alpha > 0 for alpha in stage.alphas)
    tried = min(1, deciding) if stage.deciding.when == "before" else deciding  # of the base only once
    return {
        "tried": tried * questions * (1 + TRIES) * stage.max_tokens,
        "decided on": deciding * questions * stage.deciding.epochs * 3 * width,
    }


def _passes(stage: FamilyStage) -> int:
    """Operations of an update per parameter and token: forward, backward, and what TRL computes beside them."""
    backward = 2 if stage.tune == "lora" else 4
    recomputed = 2 if stage.gradient_checkpointing else 0
    correction = 2 if stage.engine == "vllm" else 0  # probabilities of the sampled tokens, for the ratio to vLLM's
    reference = 2 if stage.kl else 0
    return 2 + backward + recomputed + correction + reference


def _memory(
    recipe: Recipe, a: Architecture, trained: int, width: int, *, gpus: int, shard: bool, gpu_gib: float
) -> dict[str, float]:
    stage, total = recipe.family, parameters(a)
    dtype = "float32" if isinstance(recipe.base, BaseStage) else recipe.base.dtype
    size = 2 if shard else _BYTES[dtype]  # DeepSpeed computes with a bfloat16 copy, whatever was loaded
    share = gpus if shard else 1
    rows = min(stage.micro_batch, stage.prompts_per_step * stage.rollouts // gpus)
    layer = a.hidden_size if stage.gradient_checkpointing else 17 * a.hidden_size + 3 * a.intermediate_size
    activations = rows * width * 2 * a.num_hidden_layers * layer
    if stage.gradient_checkpointing:  # one layer is recomputed at a time
        activations += rows * width * 2 * (17 * a.hidden_size + 3 * a.intermediate_size)
    memory = {
        "weights": total * size + (trained * 4 if stage.tune == "lora" and not shard else 0),
        "gradients": trained * 4 / share,
        "optimizer": trained * 8 / share,
        "activations": activations,
        "head of the loss": _head_bytes(stage, a, rows * width),
        "probes": _probe_bytes(stage, a, width),
        "reference model": total * size if stage.kl and stage.tune == "full" else 0,
    }
    if shard:
        memory["DeepSpeed's float32 weights"] = trained * 4 / share
        memory["DeepSpeed's buckets"] = 2 * min(_BUCKETS, 2 * trained)
    if stage.engine == "vllm":
        memory["vLLM's share of the GPU"] = VLLM_SHARE * gpu_gib * GIB
    else:
        rows = min(256, stage.prompts_per_step * stage.rollouts // gpus)
        memory["rollout cache"] = rows * width * _cache_bytes(a) * _BYTES[dtype]
    return memory


def _head_bytes(stage: FamilyStage, a: Architecture, tokens: int) -> float:
    """A tile of logits, and float32 gradients of the hidden states and of the head if it is trained."""
    tile = min(tokens, _TILE_TOKENS) * min(a.vocab_size, _TILE_VOCABULARY)
    return 4 * (tile + a.hidden_size * (tokens + (a.vocab_size if stage.tune == "full" else 0)))


def _cache_bytes(a: Architecture) -> int:
    """Numbers in the KV cache of one token."""
    return a.num_hidden_layers * 2 * a.num_key_value_heads * a.head_dim


def _probe_tokens(stage: FamilyStage) -> int:
    return (stage.dense_reward.max_episodes + 1) * PROBE_TOKENS if stage.dense_reward else 0


def _probe_bytes(stage: FamilyStage, a: Architecture, width: int) -> float:
    """Masks, scores and logits of a packed pass: its limit, or one rollout with all its probes if that is more."""
    dense = stage.dense_reward
    if dense is None:
        return 0
    queries = width + _probe_tokens(stage)
    scores = 4 * queries**2 * (1 + a.num_attention_heads)
    logits = 4 * 2 * (dense.max_episodes + 1) * (PROBE_TOKENS // 2) * a.vocab_size
    return max((dense.memory_gib or 1.0) * GIB, scores + logits)


def _refusal(recipe: Recipe, a: Architecture, width: int, gpu_gib: float) -> str:
    """Why vLLM does not start in its share: its weights and one completion must fit into it."""
    if recipe.family.engine != "vllm":
        return ""
    needed = 2 * (parameters(a) + width * _cache_bytes(a))
    if needed <= VLLM_SHARE * gpu_gib * GIB:
        return ""
    return (
        f"vLLM needs {needed / GIB:,.1f} GiB for its weights and one completion, and gets {VLLM_SHARE:.0%} of the GPU"
    )


def tables(plan: Plan, *, gpus: int, gpu_gib: float, tflops: float, price: float) -> list[Table]:
    """Two tables to print: memory on each GPU, and tokens and cost of the whole run."""
    memory = Table("memory on each GPU", Column("GiB", justify="right"))
    for name, size in plan.memory.items():
        memory.add_row(name, f"{size / GIB:,.2f}")
    fits = "fits" if plan.bytes < 0.9 * gpu_gib * GIB and not plan.refused else "DOES NOT FIT"
    memory.add_section()
    memory.add_row(f"total: {fits} in {gpu_gib:g} GiB", f"{plan.bytes / GIB:,.2f}")
    if plan.refused:
        memory.caption = plan.refused
    work = Table("the whole family", Column("at most", justify="right"))
    work.add_row("parameters", f"{plan.parameters:,}")
    work.add_row("of which trained", f"{plan.trained:,}")
    for name, count in plan.tokens.items():
        work.add_row(f"tokens {name}", f"{count:,.0f}")
    least, most = plan.hours(gpus, tflops)
    work.add_row("operations", f"{plan.operations:.2e}")
    work.add_row(f"hours on {gpus} at {tflops:g} TFLOP/s", _range(least, most, 0.1))
    work.add_row(f"cost at {price:g} per GPU and hour", _range(least * gpus * price, most * gpus * price, 1))
    return [memory, work]


def _range(least: float, most: float, unit: float) -> str:
    """Two figures to the nearest unit, 0.1 or 1; what would read as nothing is less than a unit."""
    digits = 1 if unit < 1 else 0
    if 0 < most < unit:
        return f"less than {unit:g}"
    return f"{least:,.{digits}f} to {most:,.{digits}f}"
