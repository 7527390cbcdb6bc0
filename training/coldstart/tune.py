"""How does the model learn its traces? Supervised fine-tuning of an adapter, or of all weights.

With an adapter, the embeddings of the marks are trained beside it: they are new, and an adapter does not reach them.
Therefore transformers' `Trainer` does it: TRL's `SFTTrainer` multiplies with the weight of the output embeddings as it
is, and would leave the trained rows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
    set_seed,
)

from training.coldstart.traces import Trace, encode
from training.job.metrics import JsonLines, show_in_bar
from training.job.precision import autocast_bf16
from training.job.resume import MarkComplete, last_checkpoint
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
    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=stage.epochs,
        per_device_train_batch_size=min(stage.micro_batch, stage.batch),
        gradient_accumulation_steps=max(1, stage.batch // stage.micro_batch),
        learning_rate=stage.lr,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        bf16=autocast_bf16(),
        use_cpu=not torch.cuda.is_available(),
        logging_steps=1,
        save_steps=stage.save_every,
        save_total_limit=2,
        report_to=[],
        seed=seed,
        data_seed=seed,
        dataloader_pin_memory=False,
    )
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
