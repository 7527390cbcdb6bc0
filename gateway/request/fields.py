"""Which fields may a chat request have? An allow-list; the operator can open more with `--allow-field`.

A field is on the list if it changes only the caller's own answer, and the gateway's counts and caps stay true: OpenAI's
chat fields, vLLM's sampling and structured-output fields, and the budget's fields. Every other one is rejected by name
(docs/decisions/0030-allowed-fields.md). Such a field can jump the queue (`priority`), name other requests or their
cache (`request_id`, `session_id`, `kv_transfer_params`, `cache_salt`), replace the prompt that the family was trained
with (`chat_template`, `continue_final_message`), multiply the work behind one choice (`use_beam_search`), end the
engine (`prompt_logprobs`: several such requests in a batch with adapters end vLLM 0.32 on CPUs), or reach into its
plug-ins (`vllm_xargs`, `mm_processor_kwargs`). A name that nobody knows is most often a typing error.

Variables of the family's own template are not listed: they are the family's business, and the template ignores those
that it does not use. But `chat_template_kwargs` may not name what the engine itself passes to the template, nor
what looks like a budget and is none that `dialects.py` knows: the template would ignore it, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

from gateway.errors import BadRequestError
from gateway.request.dialects import BUDGET_FIELDS, unknown_template_fields

OPENAI = frozenset(
    {
        "audio", "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
        "max_tokens", "messages", "metadata", "modalities", "model", "moderation", "n", "parallel_tool_calls",
        "prediction", "presence_penalty", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
        "reasoning_effort", "response_format", "safety_identifier", "seed", "service_tier", "stop", "store", "stream",
        "stream_options", "temperature", "tool_choice", "tools", "top_logprobs", "top_p", "user", "verbosity",
        "web_search_options",
    }
)  # fmt: skip
VLLM = frozenset(
    {
        "allowed_token_ids", "bad_words", "chat_template_kwargs", "ignore_eos", "include_reasoning",
        "include_stop_str_in_output", "length_penalty", "logprob_token_ids", "min_p", "min_tokens",
        "repetition_detection", "repetition_penalty", "return_token_ids", "return_tokens_as_token_ids",
        "skip_special_tokens", "spaces_between_special_tokens", "stop_token_ids", "structured_outputs", "top_k",
        "truncate_prompt_tokens", "truncation_side",
    }
)  # fmt: skip
ALLOWED = OPENAI | VLLM | frozenset(BUDGET_FIELDS)

TEMPLATE_PARAMETERS = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents", "max_length",
        "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors", "tokenize",
        "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip
"""The parameters of `apply_chat_template` in transformers. vLLM would pass the caller's values on."""


def check(body: Mapping[str, Any], opened: Collection[str]) -> None:
    """Check that the gateway lets callers set every field of a body. `opened` are the fields that the operator allows.

    Raises:
        BadRequestError: it does not; names the first such field.
    """
    for field in _forbidden(body):
        if field not in opened:
            shown = field if len(field) <= 100 else f"{field[:100]}..."
            message = (
                f"{shown}: this gateway does not accept this field. Leave it out, or correct its name; its operator can"
                " allow it with --allow-field."
            )
            raise BadRequestError(message, shown, code="field_not_allowed")


def _forbidden(body: Mapping[str, Any]) -> Iterator[str]:
    yield from (field for field in body if field not in ALLOWED)
    template = body.get("chat_template_kwargs")
    if isinstance(template, dict):
        names = cast("dict[str, Any]", template)
        yield from (f"chat_template_kwargs.{name}" for name in names if name in TEMPLATE_PARAMETERS)
        yield from unknown_template_fields(body)
