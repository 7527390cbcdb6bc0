"""A stranger's model, a small Llama with a tokenizer of its own and no marks, from its recipe to an answer by HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml

from models import family as families
from tests.end_to_end.conftest import launched
from tests.training.coldstart.conftest import questions, recipe_in, stranger, unmarked

__all__ = ["stranger", "unmarked"]  # fixtures


def laconic_train(command: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "training.launch", command, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_stranger_s_model_becomes_a_family_that_is_served(stranger: Path, tmp_path: Path) -> None:
    recipe = recipe_in(tmp_path, stranger)
    file = tmp_path / "stranger.yaml"
    file.write_text(yaml.safe_dump(recipe.model_dump(mode="json", exclude_defaults=True)))

    assert "memory on each GPU" in laconic_train("plan", file)
    laconic_train("run", file)
    assert recipe.publish_to is not None
    family = families.load(recipe.publish_to)
    assert family.checkpoint("alpha-0.1").kind == "lora"
    assert json.loads((recipe.run_dir / "base" / "cold-start.json").read_text())["closed"] == 1

    weights = recipe.publish_to / "base" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()  # as the family is passed on
    laconic_train("rebuild", recipe.publish_to)
    assert weights.read_bytes() == before

    with launched(tmp_path / "state", "--family", str(recipe.publish_to)) as stack:
        for name in ("base", "alpha-0.1"):
            answer = stack.sdk.chat.completions.create(
                model=f"stranger/{name}",
                messages=[{"role": "user", "content": questions(9)[8]["prompt"]}],
                max_tokens=64,
                temperature=0,
            )
            message = answer.choices[0].message
            assert "2" in (message.content or "")
            assert message.model_dump()["reasoning"].strip() == "There are two of them."
