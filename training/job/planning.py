"""What will a run need? Memory, tokens and rough cost, estimated from the recipe before anything is spent.

Rules of thumb: with N parameters, a token costs 2 N operations forward and 4 N backward. LoRA saves the half of the
backward pass that computes gradients of the weights. Adam keeps two moments in float32. The quadratic part of attention
and the framework's overhead are left out, so the hours are a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Column, Table

from training.config import Architecture, BaseStage, FamilyStage, Recipe

GIB = 2**30
PROBE_TOKENS = 24
"""Tokens of a probe: the end of thinking and a short answer."""
_BYTES = {"float32": 4, "bfloat16": 2}


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

    @property
    def bytes(self) -> float:
        """Bytes on each GPU in all."""
        return sum(self.memory.values())

    def hours(self, gpus: int, tflops: float) -> float:
        """Hours of wall time on `gpus` GPUs that sustain `tflops` TFLOP/s each."""
        return self.operations / (gpus * tflops * 1e12) / 3600


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
    attention += queries + 2 * keys if a.model_type == "qwen2" else 2 * a.head_dim  # biases, or norms of q and k
    block = attention + 3 * a.hidden_size * a.intermediate_size + 2 * a.hidden_size
    embeddings = a.vocab_size * a.hidden_size * (1 if a.tie_word_embeddings else 2)
    return a.num_hidden_layers * block + embeddings + a.hidden_size


def adapter_parameters(a: Architecture, rank: int) -> int:
    """The number of weights of a LoRA adapter on all linear layers of the blocks."""
    queries, keys = a.num_attention_heads * a.head_dim, a.num_key_value_heads * a.head_dim
    pairs = [(a.hidden_size, queries), (a.hidden_size, keys), (a.hidden_size, keys), (queries, a.hidden_size)]
    pairs += [(a.hidden_size, a.intermediate_size)] * 2 + [(a.intermediate_size, a.hidden_size)]
    return a.num_hidden_layers * rank * sum(i + o for i, o in pairs)


def estimate(recipe: Recipe, a: Architecture, *, gpus: int = 1, prompt_tokens: int = 256, shard: bool = False) -> Plan:
    """The plan of a recipe's family stage, evaluation included.

    Args:
        recipe: the recipe to run.
        a: the architecture of the base.
        gpus: the number of processes, with one GPU each.
        prompt_tokens: the length of a long prompt.
        shard: whether optimizer state and gradients are sharded over the GPUs (ZeRO stage 2).
    """
    stage, total = recipe.family, parameters(a)
    dtype = "float32" if isinstance(recipe.base, BaseStage) else recipe.base.dtype
    trained = adapter_parameters(a, stage.lora_rank) if stage.tune == "lora" else total
    share = gpus if shard else 1
    master = 4 if stage.tune == "full" and dtype == "bfloat16" else 0  # float32 weights beside the bfloat16 ones
    width = prompt_tokens + stage.max_tokens
    rows = min(stage.micro_batch, stage.prompts_per_step * stage.rollouts // gpus)
    per_token = (
        2
        * a.num_hidden_layers
        * (a.hidden_size if stage.gradient_checkpointing else 17 * a.hidden_size + 3 * a.intermediate_size)
    )
    memory = {
        "weights": total * _BYTES[dtype] + (trained * 4 if stage.tune == "lora" else 0),
        "gradients": trained * 4 / share,
        "optimizer": trained * (8 + master) / share,
        "activations": rows * width * per_token,
        "logits": rows * stage.max_tokens * a.vocab_size * 4 * 2,
        "rollout cache": _cache_bytes(a, stage, width, gpus),
        "reference model": total * _BYTES[dtype] if stage.kl and stage.tune == "full" else 0,
        "vLLM's weights": total * 2 if stage.engine == "vllm" else 0,
    }
    rollouts = stage.steps * stage.prompts_per_step * stage.rollouts * len(stage.alphas)
    sampled = rollouts * stage.max_tokens
    tokens: dict[str, float] = {"sampled": sampled, "trained on": rollouts * width}
    operations = 2 * total * sampled + (4 if stage.tune == "lora" else 6) * total * rollouts * width
    if stage.dense_reward:
        tokens["probed"] = rollouts * (width + (stage.dense_reward.max_episodes + 1) * PROBE_TOKENS)
        operations += 2 * total * tokens["probed"]
    stages = [recipe.evaluate, *([recipe.profile] if recipe.publish_to else [])]
    measured = sum(each.prompts * each.samples for each in stages)
    measured += recipe.profile.budget_forced_count if recipe.publish_to else 0
    tokens["evaluated"] = measured * (len(stage.alphas) + 1) * stage.max_tokens
    operations += 2 * total * tokens["evaluated"]
    return Plan(total, trained, memory, tokens, operations)


def _cache_bytes(a: Architecture, stage: FamilyStage, width: int, gpus: int) -> float:
    """Bytes of the KV cache in bfloat16 for the rollouts that one GPU samples at once. vLLM is given room for 64."""
    rows = min(256, stage.prompts_per_step * stage.rollouts // gpus)
    if stage.engine == "vllm":
        rows = min(rows, 64)
    return rows * width * a.num_hidden_layers * 2 * a.num_key_value_heads * a.head_dim * 2


def tables(plan: Plan, *, gpus: int, gpu_gib: float, tflops: float, price: float) -> list[Table]:
    """Two tables to print: memory on each GPU, and tokens and cost of the whole run."""
    memory = Table("memory on each GPU", Column("GiB", justify="right"))
    for name, size in plan.memory.items():
        memory.add_row(name, f"{size / GIB:,.2f}")
    fits = "fits" if plan.bytes < 0.9 * gpu_gib * GIB else "DOES NOT FIT"
    memory.add_section()
    memory.add_row(f"total: {fits} in {gpu_gib:g} GiB", f"{plan.bytes / GIB:,.2f}")
    work = Table("the whole family", Column("at most", justify="right"))
    work.add_row("parameters", f"{plan.parameters:,}")
    work.add_row("of which trained", f"{plan.trained:,}")
    for name, count in plan.tokens.items():
        work.add_row(f"tokens {name}", f"{count:,.0f}")
    hours = plan.hours(gpus, tflops)
    work.add_row("operations", f"{plan.operations:.2e}")
    work.add_row(f"hours on {gpus} at {tflops:g} TFLOP/s", f"{hours:,.1f}")
    work.add_row(f"cost at {price:g} per GPU and hour", f"{hours * gpus * price:,.0f}")
    return [memory, work]
