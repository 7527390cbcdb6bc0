"""What does Instructor show of chats, from which it makes objects?"""

import instructor
import openai
from shown import QUESTION, URL, Total, caught, show

client = instructor.from_openai(openai.OpenAI(base_url=f"{URL}/v1", api_key="none", max_retries=0))


def ask(model: str = "abacus", **more):
    asked = [{"role": "user", "content": QUESTION}]
    return client.create_with_completion(model=model, messages=asked, response_model=Total, max_retries=0, **more)


total, completion = ask(reasoning_effort="low")
usage = completion.usage
show(
    object=total.model_dump(),
    usage=[usage.prompt_tokens, usage.completion_tokens, usage.completion_tokens_details.reasoning_tokens],
    unknown=caught(lambda: ask("nobody")),
    refused=caught(lambda: ask(reasoning_effort="lots")),
)
