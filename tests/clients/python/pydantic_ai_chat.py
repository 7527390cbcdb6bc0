"""What does Pydantic AI show of chats?"""

import asyncio

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider
from shown import QUESTION, URL, Total, add, caught, show


def agent(name: str = "abacus", effort: str | None = None, **more) -> Agent:
    provider = OpenAIProvider(base_url=f"{URL}/v1", api_key="none")
    return Agent(
        OpenAIChatModel(name, provider=provider, settings={"openai_reasoning_effort": effort} if effort else {}), **more
    )


def tokens(usage) -> list[int]:
    return [usage.input_tokens, usage.output_tokens, usage.details["reasoning_tokens"]]


async def streamed() -> tuple[str, list[int]]:
    async with agent().run_stream(QUESTION) as run:
        return await run.get_output(), tokens(run.usage)


whole = agent(effort="low").run_sync(QUESTION)
stream, stream_usage = asyncio.run(streamed())
show(
    whole=whole.output,
    thought=whole.response.thinking,
    usage=tokens(whole.usage),
    stream=stream,
    stream_usage=stream_usage,
    tool=agent(tools=[add]).run_sync(QUESTION).output,
    object=agent(output_type=Total).run_sync(QUESTION).output.model_dump(),
    unknown=caught(lambda: agent("nobody").run_sync(QUESTION)),
    refused=caught(lambda: agent(effort="lots").run_sync(QUESTION)),
)
