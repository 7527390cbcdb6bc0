"""Does everything that `laconic adopt` needs of the training job run without torch?"""

import json
import subprocess
import sys

PROGRAM = """
import json
import sys
from importlib.abc import MetaPathFinder
from pathlib import Path

TRAINING_STACK = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "vllm", "safetensors"}


class NotInstalled(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in TRAINING_STACK:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, NotInstalled())

import training.measure.figures
import training.measure.served
import training.profile.cascade
import training.profile.fit
import training.tasks.verify
from models import profile
from training.config import Data
from training.tasks.outcome import BudgetForced, Graded, Outcome
from training.tasks.source import questions

prompts = questions(Data(), "validation", 0, 60)
outcomes = {
    name: [
        Graded(q.prompt, q.task, q.difficulty, (Outcome(i % every > 0, 10 + i % 7, 20, 1, True, surprisal=i % every),))
        for i, q in enumerate(prompts)
    ]
    for name, every in (("base", 9), ("alpha-0.4", 3))
}
forced = {name: [BudgetForced(q.prompt, i % 9, i % 2 > 0) for i, q in enumerate(prompts)] for name in outcomes}
path = Path(sys.argv[1]) / "profile.json"
training.profile.fit.save(training.profile.fit.fit(outcomes, forced, seed=0), path)
predicted = profile.load(path).predict(prompts[0].prompt)
accuracy = training.measure.figures.summarise(outcomes["base"], 0).accuracy.mean
correct = training.tasks.verify.is_correct("The answer is " + prompts[0].answer, prompts[0].answer)
print(json.dumps([sorted(predicted.choices), accuracy, correct, sorted(TRAINING_STACK & set(sys.modules))]))
"""


def test_a_profile_is_measured_fitted_and_read_without_torch(tmp_path):
    command = [sys.executable, "-W", "ignore::SyntaxWarning", "-c", PROGRAM, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    choices, accuracy, correct, imported = json.loads(done.stdout)
    assert {"base", "alpha-0.4"} <= set(choices)
    assert 0.8 < accuracy < 0.95
    assert correct
    assert imported == []
