"""A training's log has every step once, however often the training was interrupted."""

import json

from transformers import TrainerControl, TrainerState, TrainingArguments

from training.job.metrics import JsonLines


def test_a_resumed_training_drops_truncated_lines_and_steps_that_it_repeats(tmp_path):
    log, notes = tmp_path / "metrics.jsonl", tmp_path / "episodes.jsonl"
    for path in (log, notes):
        path.write_text(
            "".join(json.dumps({"step": step, "of": path.name}) + "\n" for step in (1, 2, 3)) + '{"step": 4, "o'
        )
    lines = JsonLines(log, notes)
    arguments, control = TrainingArguments(output_dir=str(tmp_path)), TrainerControl()
    lines.on_train_begin(arguments, TrainerState(global_step=2, is_world_process_zero=True), control)
    for path in (log, notes):
        assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    lines.on_log(arguments, TrainerState(global_step=3, is_world_process_zero=True), control, {"loss": 0.5})
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3]


def test_only_the_main_process_writes(tmp_path):
    log = tmp_path / "metrics.jsonl"
    lines = JsonLines(log)
    state = TrainerState(global_step=1, is_world_process_zero=False)
    lines.on_train_begin(TrainingArguments(output_dir=str(tmp_path)), state, TrainerControl())
    lines.on_log(TrainingArguments(output_dir=str(tmp_path)), state, TrainerControl(), {"loss": 0.5})
    assert not log.exists()
