"""What does EleutherAI's lm-eval show of a task of one question, put as a chat and as a prompt?"""

import json
import tempfile
from pathlib import Path

import lm_eval
from lm_eval.tasks import TaskManager
from shown import QUESTION, URL, show

TASK = {
    "task": "sums",
    "dataset_path": "json",
    "output_type": "generate_until",
    "test_split": "test",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": []},
    "metric_list": [{"metric": "exact_match"}],
}


def ask(kind: str, path: str, **more) -> str:
    """The answer, if the task is found solved."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "sums.jsonl")
        data.write_text(json.dumps({"question": QUESTION, "answer": "The answer is 3."}))
        task = {**TASK, "dataset_kwargs": {"data_files": {"test": str(data)}}}
        task["generation_kwargs"] = {**TASK["generation_kwargs"], **more}
        found = lm_eval.simple_evaluate(
            kind,
            model_args={
                "model": "abacus", "base_url": f"{URL}/v1/{path}", "max_retries": 1, "tokenizer_backend": None,
                "tokenized_requests": False,
            },
            tasks=[task],
            task_manager=TaskManager(include_defaults=False),
            apply_chat_template=kind == "local-chat-completions",
        )  # fmt: skip
    assert found["results"]["sums"]["exact_match,none"] == 1
    return found["samples"]["sums"][0]["resps"][0][0]


show(
    whole=ask("local-chat-completions", "chat/completions", reasoning_effort="low"),
    prompt=ask("local-completions", "completions", reasoning_effort="low"),
)
