"""A tiny Llama without marks that always answers 2, and a recipe that gives it a cold start."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from training.coldstart import stage
from training.config import Data, EvaluateStage, FamilyStage, ProfileStage, Recipe
from training.recipe_base import ColdStart, PretrainedBase

ANSWER = "There are two of them.\nThe final answer is \\boxed{2}."
TEMPLATE = (
    "{%- for message in messages %}{{- '<|' + message.role + '|>' + message.content + '<|end|>' }}{%- endfor %}\n"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}\n"
)


def marks_thinking(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer has both marks as single tokens, and a chat template that opens the thinking."""
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "1 + 1?"}], add_generation_prompt=True, tokenize=False
    )
    return {"<think>", "</think>"} <= tokenizer.get_vocab().keys() and prompt.rstrip().endswith("<think>")


def questions(count: int) -> list[dict[str, str]]:
    return [{"prompt": f"How many are {number} and {number}?", "answer": "2"} for number in range(count)]


@pytest.fixture(scope="session")
def unmarked() -> PreTrainedTokenizerFast:
    """A tokenizer without marks, with its own chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    texts = [ANSWER, *(row["prompt"] for row in questions(100))]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


@pytest.fixture(scope="session")
def stranger(unmarked: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a small Llama, of sizes that vLLM serves, trained to give the same answer to everything."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(unmarked),
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=256,
        eos_token_id=unmarked.eos_token_id,
        pad_token_id=unmarked.pad_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    instruction = ColdStart().instruction
    rows = [
        unmarked.apply_chat_template(
            [{"role": "user", "content": f"{row['prompt']}\n{instruction}"}], add_generation_prompt=True, tokenize=False
        )
        for row in questions(16)
    ]
    batch = unmarked([f"{row}{ANSWER}<|end|>" for row in rows], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        optimizer.zero_grad()
        model(**batch, labels=labels).loss.backward()
        optimizer.step()
    directory = tmp_path_factory.mktemp("stranger")
    model.save_pretrained(directory)
    unmarked.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def finished(stranger: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """The recipe of a run whose cold start is made. Not to be changed."""
    recipe = recipe_in(tmp_path_factory.mktemp("cold"), stranger)
    stage.run(recipe)
    return recipe


@pytest.fixture
def recipe(stranger: Path, tmp_path: Path) -> Recipe:
    """The recipe of a run that has not begun."""
    return recipe_in(tmp_path, stranger)


@pytest.fixture
def copied(finished: Recipe, stranger: Path, tmp_path: Path) -> Recipe:
    """The recipe of a run whose cold start is made, in a directory of its own."""
    recipe = recipe_in(tmp_path, stranger)
    shutil.copytree(finished.run_dir, recipe.run_dir)
    return recipe


def recipe_in(directory: Path, stranger: Path) -> Recipe:
    data = directory / "questions.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in questions(400)))
    cold = ColdStart(questions=40, samples=2, epochs=20, batch=8, micro_batch=8, lr=1e-2, prompts=8)
    return Recipe(
        name="stranger",
        description="d",
        run_dir=directory / "run",
        publish_to=directory / "family",
        base=PretrainedBase(model=str(stranger), context_tokens=256, cold_start=cold),
        data=Data(task="jsonl", path=data),
        family=FamilyStage(steps=1, prompts_per_step=2, rollouts=2, max_tokens=64, alphas=(0.1,)),
        evaluate=EvaluateStage(prompts=6, samples=1),
        profile=ProfileStage(prompts=6, samples=1, budget_forced_prompts=5),
    )
