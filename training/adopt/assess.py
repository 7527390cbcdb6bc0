"""Was each reply right? Replies become outcomes, by the chosen way of labelling."""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from models.family import Reasoning
from training.adopt import labels
from training.adopt.cost import Split, split
from training.adopt.engine import Engine, Reply
from training.adopt.prompts import Request
from training.errors import StageError
from training.tasks.outcome import Graded, Outcome

Replies = Mapping[str, Mapping[str, Sequence[Reply | None]]]
"""By level and request key, the samples."""
Decide = Callable[[Request, str, int, str], Awaitable[bool]]
"""(request, level, sample, answer) -> right."""
JUDGE_PROMPT = """You grade answers. Below are a conversation and an answer to its last message.
Say whether the answer is correct and does what was asked. Do not reward length or style.

<conversation>
{conversation}
</conversation>
<answer>
{answer}
</answer>

Reply with one word: RIGHT or WRONG."""


async def graded(
    requests: Sequence[Request], replies: Replies, marks: Reasoning | None, decide: Decide
) -> dict[str, list[Graded]]:
    """Return the outcomes by level. An answer that is empty or cut off is wrong; a refused request counts as wrong."""
    result: dict[str, list[Graded]] = {}
    for level, by_key in replies.items():
        result[level] = []
        for request in requests:
            pairs = enumerate(by_key[request.key])
            outcomes = await asyncio.gather(
                *(_outcome(r, marks, _decision(decide, request, level, n)) for n, r in pairs)
            )
            result[level].append(Graded(request.prompt, "adopted", "all", tuple(outcomes)))
    return result


def _decision(decide: Decide, request: Request, level: str, sample: int) -> Callable[[str], Awaitable[bool]]:
    return lambda answer: decide(request, level, sample, answer)


async def _outcome(reply: Reply | None, marks: Reasoning | None, is_right: Callable[[str], Awaitable[bool]]) -> Outcome:
    if reply is None:
        return Outcome(correct=False, reasoning_tokens=0, tokens=0, episodes=0, finished=False)
    parts = split(reply, marks)
    finished = reply.finished and bool(parts.answer.strip())
    return Outcome(
        correct=finished and await is_right(parts.answer),
        reasoning_tokens=parts.reasoning_tokens,
        tokens=reply.completion_tokens,
        episodes=1,
        finished=finished,
    )


def require_gold(requests: Sequence[Request]) -> None:
    """Raise StageError, which names the row, if a request has no gold answer, or one that no reply can equal."""
    for request in requests:
        if request.gold is None:
            raise StageError(f"{request.where}: has no answer; add one, or label with --label agreement")
        if not labels.is_comparable(request.gold):
            raise StageError(
                f"{request.where}: the answer {request.gold.strip()[:40]!r}... is too long to compare replies with;"
                " give the final answer alone, or label with --label judge or --label agreement"
            )


def by_gold(requests: Sequence[Request]) -> Decide:
    """Label by the gold answers. Raises StageError as `require_gold` does."""
    require_gold(requests)

    async def decide(request: Request, _: str, __: int, answer: str) -> bool:
        assert request.gold is not None
        return labels.is_right(answer, request.gold)

    return decide


def by_agreement(reference: str, replies: Replies, marks: Reasoning | None) -> Decide:
    """Label by what the reference level answers most often, in all samples but the one of the same number.

    The reference's sample must not be compared with itself. Nor must another level's sample of that number: it has the
    same seed, so it may be the very same reply. And with one sample more to agree with, a level would look better than
    the reference that it is as good as.

    Raises:
        StageError: there is only one sample, so the reference cannot be compared with itself.
    """
    answers: dict[str, list[str]] = {
        key: [_answer(reply, marks) for reply in samples] for key, samples in replies[reference].items()
    }
    if any(len(samples) < 2 for samples in answers.values()):
        raise StageError("--label agreement needs --samples 2 or more: the reference is compared with itself, too")

    async def decide(request: Request, _: str, sample: int, answer: str) -> bool:
        others = [one for number, one in enumerate(answers[request.key]) if number != sample]
        agreed = labels.majority(others)
        return agreed is not None and labels.same(labels.stated_answer(answer), agreed)

    return decide


def by_judge(engine: Engine, model: str) -> Decide:
    """Label by another model's verdict. It sees neither the level nor the gold answer's absence."""

    async def decide(request: Request, _: str, __: int, answer: str) -> bool:
        conversation = "\n\n".join(f"{m['role']}: {m.get('content') or ''}" for m in request.messages)
        prompt = JUDGE_PROMPT.format(conversation=conversation, answer=answer)
        body = {"model": model, "messages": [{"role": "user", "content": prompt}], "temperature": 0}
        verdict = (await engine.chat(body)).content.strip().upper()
        words = [word for word in ("RIGHT", "WRONG") if word in verdict.split()[-3:] or verdict.endswith(f"{word}.")]
        if len(words) != 1:
            raise StageError(f"--judge: {model} answered {verdict[:80]!r} instead of RIGHT or WRONG")
        return words == ["RIGHT"]

    return decide


def by_command(command: str, at_once: int = 2) -> Decide:
    """Label by a program: it gets `{"messages", "gold", "answer"}` as JSON on its input; status 0 is right, 1 wrong."""
    arguments, slots = shlex.split(command), asyncio.Semaphore(at_once)

    async def decide(request: Request, level: str, sample: int, answer: str) -> bool:
        del level, sample  # the program judges answers, not who gave them
        given: dict[str, Any] = {"messages": list(request.messages), "gold": request.gold, "answer": answer}
        async with slots:
            try:
                process = await asyncio.create_subprocess_exec(
                    *arguments, stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
                )
            except OSError as error:
                raise StageError(f"--label-command: cannot run {arguments[0]} ({error.strerror})") from None
            _, errors = await process.communicate(json.dumps(given).encode())
        if process.returncode not in (0, 1):
            last = errors.decode(errors="replace").strip().splitlines()[-1:]
            raise StageError(f"--label-command: exit status {process.returncode}, not 0 or 1: {' '.join(last)[:200]}")
        return process.returncode == 0

    return decide


def _answer(reply: Reply | None, marks: Reasoning | None) -> str:
    parts = Split("", 0, 0) if reply is None or not reply.finished else split(reply, marks)
    return parts.answer
