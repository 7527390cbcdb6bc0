"""How does the model learn its traces? Supervised fine-tuning of an adapter, or of all weights.

With an adapter, the embeddings of the marks are trained beside it: they are new, and an adapter does not reach them.
Therefore transformers' `Trainer` does it: TRL's `SFTTrainer` multiplies with the weight of the output embeddings as it
is, and would leave the trained rows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    set_seed,
)

from training.coldstart.traces import Trace, encode
from training.job.metrics import JsonLines, show_in_bar
from training.job.resume import MarkComplete, last_checkpoint
from training.job.supervised import supervised
from training.recipe_base import ColdStart


def tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    traces: Sequence[Trace],
    stage: ColdStart,
    *,
    marks: Sequence[int],
    seed: int,
    work: Path,
) -> PreTrainedModel | PeftModel:
    """Train the model on the traces, or resume from the last complete checkpoint in `work`. An adapter is not merged.

    Args:
        model: has embeddings of the marks.
        tokenizer: has the marks.
        traces: what to learn.
        stage: how.
        marks: the ids of the marks.
        seed: of the adapter's weights and the order of the traces.
        work: directory for checkpoints; the training's log is beside it.
    """
    set_seed(seed)
    if stage.tune == "lora":
        model = get_peft_model(model, _adapter(model, stage, marks))
    arguments = supervised(stage, epochs=stage.epochs, seed=seed, work=work, logging_steps=1)
    trainer = Trainer(
        model,
        arguments,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        train_dataset=Dataset.from_list([encode(trace, tokenizer) for trace in traces]),
        processing_class=tokenizer,
        callbacks=[MarkComplete(), JsonLines(work.parent / "metrics.jsonl")],
    )
    show_in_bar(trainer)
    trainer.train(resume_from_checkpoint=last_checkpoint(work))
    return trainer.accelerator.unwrap_model(trainer.model)


def _adapter(model: PreTrainedModel, stage: ColdStart, marks: Sequence[int]) -> LoraConfig:
    embeddings = [model.get_input_embeddings()]
    if not model.config.get_text_config().tie_word_embeddings:
        embeddings.append(model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if any(module is one for one in embeddings)]
    return LoraConfig(
        r=stage.lora_rank,
        lora_alpha=2 * stage.lora_rank,
        target_modules="all-linear",
        trainable_token_indices={name.rpartition(".")[2]: list(marks) for name in names},
        task_type="CAUSAL_LM",
    )
