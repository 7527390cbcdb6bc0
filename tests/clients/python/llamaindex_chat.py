"""What does LlamaIndex show of chats and of a prompt, with its class for any API like OpenAI's?"""

from llama_index.core.llms import ChatMessage
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike
from shown import QUESTION, URL, Total, add, caught, show


def model(name: str = "abacus", effort: str | None = None) -> OpenAILike:
    body = {"reasoning_effort": effort} if effort else {}
    return OpenAILike(
        model=name, api_base=f"{URL}/v1", api_key="none", max_retries=0, is_chat_model=True,
        is_function_calling_model=True, should_use_structured_outputs=True, additional_kwargs=body,
    )  # fmt: skip


def tokens(usage) -> list[int]:
    return [usage.prompt_tokens, usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens]


asked = [ChatMessage(role="user", content=QUESTION)]
whole = model(effort="low").chat(asked)
stream = list(model().stream_chat(asked, stream_options={"include_usage": True}))

adding = FunctionTool.from_defaults(add)
calling = model().chat_with_tools([adding], chat_history=asked)
(call,) = model().get_tool_calls_from_response(calling)
result = ChatMessage(
    role="tool", content=adding(**call.tool_kwargs).content, additional_kwargs={"tool_call_id": call.tool_id}
)

prompted = OpenAILike(model="abacus", api_base=f"{URL}/v1", api_key="none", max_retries=0).complete(QUESTION)

show(
    prompt=prompted.text,
    whole=whole.message.content,
    usage=tokens(whole.raw.usage),
    stream=stream[-1].message.content,
    stream_usage=tokens(stream[-1].raw.usage),
    tool=model().chat_with_tools([adding], chat_history=[*asked, calling.message, result]).message.content,
    object=model().as_structured_llm(Total).complete(QUESTION).raw.model_dump(),
    unknown=caught(lambda: model("nobody").chat(asked)),
    refused=caught(lambda: model(effort="lots").chat(asked)),
)
