"""What does Simon Willison's `llm` show of chats and of a prompt, told of the gateway as its manual says, in a file?"""

import json

import llm
from shown import QUESTION, URL, Total, add, caught, show

same = {"api_base": f"{URL}/v1", "reasoning": True, "supports_schema": True, "supports_tools": True}
models = [{"model_id": f"laconic-{name}", "model_name": name, **same} for name in ("abacus", "nobody")]
models.append({"model_id": "laconic-prompt", "model_name": "abacus", "completion": True, **same})
(llm.user_dir() / "extra-openai-models.yaml").write_text(json.dumps(models))  # JSON is YAML


def ask(name: str = "abacus", **more):
    return llm.get_model(f"laconic-{name}").prompt(QUESTION, **{"stream": False, **more})


def tokens(response) -> list[int]:
    usage = response.usage()
    return [usage.input, usage.output, usage.details["completion_tokens_details"]["reasoning_tokens"]]


whole, stream = ask(reasoning_effort="low"), ask(stream=True)
show(
    prompt=ask("prompt").text(),
    whole=whole.text(),
    usage=tokens(whole),
    stream="".join(stream),
    stream_usage=tokens(stream),
    tool=llm.get_model("laconic-abacus").chain(QUESTION, tools=[add], stream=False).text(),
    object=json.loads(ask(schema=Total).text()),
    unknown=caught(lambda: ask("nobody").text()),
)
