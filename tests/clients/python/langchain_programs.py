"""What do LangChain's chats and responses have in common? Each one's program says only how it takes an effort."""

from collections.abc import Callable
from typing import Any

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from shown import QUESTION, URL, Total, add, caught, show


def try_all(options: Callable[[str | None], dict[str, Any]], **seen: Any) -> None:
    """Do everything with models of these options, and show it with what was seen already."""

    def model(name: str = "abacus", effort: str | None = None) -> ChatOpenAI:
        more = {"include_response_headers": True, "max_retries": 0, **options(effort)}
        return ChatOpenAI(model=name, base_url=f"{URL}/v1", api_key="none", **more)

    whole = model(effort="low").invoke(QUESTION)
    first, *more = model().stream(QUESTION)
    stream = sum(more, first)
    adding = tool(add)
    with_tool = model().bind_tools([adding])
    calling = with_tool.invoke(QUESTION)
    results = [ToolMessage(adding.invoke(call["args"]), tool_call_id=call["id"]) for call in calling.tool_calls]

    show(
        **seen,
        whole=whole.text,
        usage=tokens(whole),
        budget=whole.response_metadata["headers"]["x-laconic-budget"],
        stream=stream.text,
        stream_usage=tokens(stream),
        tool=with_tool.invoke([HumanMessage(QUESTION), calling, *results]).text,
        object=model().with_structured_output(Total).invoke(QUESTION).model_dump(),
        unknown=caught(lambda: model("nobody").invoke(QUESTION)),
        refused=caught(lambda: model(effort="lots").invoke(QUESTION)),
    )


def tokens(message) -> list[int]:
    usage = message.usage_metadata
    return [usage["input_tokens"], usage["output_tokens"], usage["output_token_details"]["reasoning"]]
