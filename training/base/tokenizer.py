"""How does the shipped base read text? A byte-level BPE with single digits, and its chat template.

It is byte-level, so it encodes any text. Each digit is a token, so arithmetic is done digit by digit. A run of newlines
is a piece of its own, so an episode break is one token.
"""

from __future__ import annotations

import json
import random
from itertools import islice

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from training.base import traces
from training.tasks.prompts import stream

PATTERN = r"\p{N}|\n+| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"
"""Splits text into the pieces inside which BPE merges."""
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
ANSWER_PREFIX = "The answer is "
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.content is string %}{{- message.content }}
{%- elif message.content %}{%- for part in message.content %}{{- part.text or '' }}{%- endfor %}{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}
{%- else %}{{- '<think>' }}{%- endif %}
{%- endif %}"""
"""It opens the thinking, because the engine counts a budget from a `<think>` in the prompt."""


def build(vocabulary: int, seed: int, prompts: int = 20_000) -> PreTrainedTokenizerFast:
    """Train the tokenizer on prompts and traces of the training split."""
    rng = random.Random(f"tokenizer/{seed}")

    def corpus() -> list[str]:
        texts: list[str] = ["You are a helpful assistant.", ANSWER_PREFIX]
        for prompt in islice(stream("train", seed, practice=True), prompts):
            trace = traces.write(prompt.chain, rng)
            texts += [prompt.prompt, traces.EPISODE_BREAK.join("".join(p.text for p in e) for e in trace.episodes)]
        return texts

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus(),
        trainers.BpeTrainer(
            vocab_size=vocabulary,
            special_tokens=list(SPECIAL),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=_visible_markers(tokenizer),
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    assert len(fast.encode(traces.EPISODE_BREAK)) == 1, "an episode break must be one token"
    return fast


def _visible_markers(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer with the reasoning markers left in decoded text, where a reasoning parser looks for them."""
    state = json.loads(tokenizer.to_str())
    for token in state["added_tokens"]:
        token["special"] = token["content"] not in ("<think>", "</think>")
    return Tokenizer.from_str(json.dumps(state))
