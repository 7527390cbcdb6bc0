"""What can a recipe say about its base? One that is trained from scratch, or a model that exists, with a cold start."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator


class Section(BaseModel):
    """A part of a recipe. Unknown fields are rejected."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def with_one_place(answer: str) -> str:
    """An answer's pattern, checked: it has one place for the answer."""
    if answer.count("{}") != 1:
        raise ValueError("must contain {} exactly once, in place of the answer")
    return answer


class BaseStage(Section):
    """The overthinking base, trained from scratch."""

    hidden: int = Field(default=256, gt=0)
    layers: int = Field(default=4, gt=0)
    heads: int = Field(default=4, gt=0)
    kv_heads: int = Field(default=2, gt=0)
    head_dim: int = Field(default=64, gt=0)
    mlp: int = Field(default=768, gt=0)
    vocabulary: int = Field(default=768, ge=300)
    context_tokens: int = Field(default=1024, gt=0)
    steps: int = Field(default=1600, ge=2)
    batch_tokens: int = Field(default=6144, ge=512)
    """Tokens per step; at least as many as the longest trace has."""
    lr: float = Field(default=2e-3, gt=0)
    warmup: float = Field(default=0.02, ge=0, lt=1)
    easy_first: float = Field(default=0.2, ge=0, lt=1)
    """Share of the steps, at the start, with mostly easy prompts."""
    few_checks_first: float = Field(default=0.55, ge=0, lt=1)
    """Share of the steps, at the start, whose traces check at most once."""
    truncated: float = Field(default=0.12, ge=0, le=1)
    """Share of the traces without a slip whose thinking is truncated. Only their answer is learned, so that any budget
    gets an answer."""
    temperature: float = Field(default=1.0, gt=0, le=1)
    """Folded into the weights: at temperature 1, the finished base samples as the trained one does at this one."""
    compile: bool = False
    """Compile the model: a fifth faster on a CPU without bfloat16, after a minute. Needs a C++ compiler."""
    save_every: int = Field(default=100, gt=0)
    """Steps between checkpoints; a kill loses at most so many."""
    gate_prompts: int = Field(default=300, ge=1)
    """Validation prompts per difficulty that the gate measures."""
    gate_stops: bool = True
    """False: the gate only records its figures, for experiments with unusual bases."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})")
        if self.head_dim % 2:
            raise ValueError(f"head_dim ({self.head_dim}) must be even, for rotary embeddings")
        return self


class Architecture(Section):
    """The sizes of a Llama-like decoder, under Hugging Face's names."""

    model_type: Literal["gemma", "gemma2", "gemma3_text", "llama", "mistral", "qwen2", "qwen3"]
    hidden_size: int = Field(gt=0)
    num_hidden_layers: int = Field(gt=0)
    num_attention_heads: int = Field(gt=0)
    num_key_value_heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    intermediate_size: int = Field(gt=0)
    vocab_size: int = Field(gt=0)
    tie_word_embeddings: bool


class Example(Section):
    """A solved question, which shows how to think."""

    question: str = Field(min_length=1)
    thinking: str = Field(min_length=1)
    answer: str = Field(min_length=1)
    """The answer alone; `ColdStart.answer` says how it is stated."""


class ColdStart(Section):
    """Supervised fine-tuning on the model's own right answers, for a model that does not mark its thinking."""

    instruction: str = "Reason step by step, and put the final answer inside \\boxed{}."
    """Appended to each question, after a line break, when the untrained model is asked. The trained one needs none."""
    answer: str = "The answer is \\boxed{{}}."
    """How the trained model states its answer; {} stands for the answer."""
    examples: tuple[Example, ...] = ()
    """Solved questions that the untrained model sees before each question, as earlier turns. It thinks as they do:
    short ones make short traces (arXiv 2502.20122). The trained model sees none."""
    questions: int = Field(default=1000, ge=8)
    samples: int = Field(default=4, gt=0)
    """Completions of each question, of which right ones are kept."""
    temperature: float = Field(default=0.8, gt=0)
    keep: int = Field(default=2, gt=0)
    """At most so many right completions of a question are learned."""
    lengths: Literal["spread", "shortest"] = "spread"
    """Which ones: of evenly spread lengths, or the shortest."""
    forced: float = Field(default=0.3, ge=0, le=1)
    """Share of the learned completions that are also learned with thinking that a budget ends: only the answer, and
    only where the model's own answer from there is right."""
    epochs: int = Field(default=2, gt=0)
    batch: int = Field(default=16, gt=0)
    """Completions for one update."""
    micro_batch: int = Field(default=4, gt=0)
    lr: float = Field(default=2e-4, gt=0)
    tune: Literal["lora", "full"] = "lora"
    lora_rank: int = Field(default=16, gt=0)
    save_every: int = Field(default=10, gt=0)
    prompts: int = Field(default=200, ge=8)
    """Validation questions for the report on what has changed."""

    @field_validator("answer")
    @classmethod
    def _one_place(cls, answer: str) -> str:
        return with_one_place(answer)


class PretrainedBase(Section):
    """An existing model; the base stage trains nothing, unless the model needs a cold start."""

    model: str = Field(min_length=1)
    """A directory, or a model on the Hugging Face Hub."""
    revision: str | None = None
    """The commit of a model on the Hub, so that a run can be repeated."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """The dtype of the weights in memory. bfloat16 halves them, but full fine-tuning then loses small updates."""
    context_tokens: int = Field(default=32768, gt=0)
    """The context length that the family is served with."""
    architecture: Architecture | None = None
    """Sizes for `laconic-train plan`. Overrides the model's own config; delete it when you change base.model."""
    cold_start: ColdStart | None = None
    """For a model that does not mark its thinking."""
