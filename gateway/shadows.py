"""What would the reference have answered? Shadow comparisons of a random share of the routed requests.

The reference answers after the caller has got its answer, in a task of its own. Nothing waits for it, and none begins
while the gateway is more than half full or `shadow_concurrency` of them run: it is then skipped, not queued, so no text
is kept for later. Texts are in memory only, and only until they are compared.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field, replace

from redis.exceptions import RedisError

from gateway import dispatch
from gateway.answer.agreement import Verdict, agree, judge_prompt, verdict
from gateway.answer.completion import completion
from gateway.answer.cost import Cost
from gateway.answer.transcript import Transcript
from gateway.answer.usage import TokenUsage
from gateway.context import RequestContext
from gateway.engines.failing import NoEngineError
from gateway.errors import ApiError
from gateway.events import Json
from gateway.ledger import shadows
from gateway.ledger.shadows import Shadow, Usage
from gateway.request import engine_body as bodies
from gateway.request.question import encode, text_of
from gateway.services import Services
from models.family import Reasoning

log = logging.getLogger("laconic")

SECONDS = 600.0
"""How long the reference or the judge may take."""
JUDGE_TOKENS = 4096
"""Most tokens of a judge's reply, with its thinking."""
_FAILURES = (ApiError, NoEngineError, OSError, TimeoutError)


@dataclass(frozen=True)
class _Answer:
    text: str
    usage: TokenUsage = field(default_factory=TokenUsage)
    failed: bool = False
    """The engine gave up. An answer that was cut off while thinking is empty, but none that failed."""

    @property
    def is_empty(self) -> bool:
        return not self.text.strip()

    @property
    def tokens(self) -> int:
        return self.usage.reasoning + self.usage.answer

    @property
    def spent(self) -> Usage:
        used = self.usage
        return used.prompt, used.cached or 0, used.reasoning, used.answer


class Shadows:
    """Draws requests, and compares their answers with the reference's."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._tasks: set[asyncio.Task[None]] = set()

    def consider(self, context: RequestContext, said: Transcript | Json, cost: Cost) -> None:
        """Compare this answer with the reference's, if the draw says so. Returns at once.

        Args:
            context: of a request whose caller has the whole answer.
            said: the answer, as a stream's transcript or as the response.
            cost: of the answer.
        """
        settings, decision = self._services.settings, context.decision
        if decision is None or decision.kind != "routed" or random.random() >= settings.shadow_fraction:
            return
        reference = self._services.family.reference
        one_text = context.question.choices == 1 and not bodies.offers_tools(context.question)
        if decision.choice == reference or not one_text:
            return
        routed = self._answer(said, context, cost)
        if routed.failed:
            return
        busy = len(self._tasks) >= settings.shadow_concurrency or self._services.admission.pressure > 0
        if busy or reference not in self._services.engines.available:
            self._services.metrics.record_shadow("skipped")
            return
        task = asyncio.create_task(self._compare(self._shadow_of(context), decision.choice, routed), name="shadow")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def aclose(self) -> None:
        """Give up what is being compared."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _compare(self, context: RequestContext, choice: str, routed: _Answer) -> None:
        reference, judged, agrees, preferred = _Answer(""), _Answer(""), None, None
        outcome = "failed"
        try:
            async with asyncio.timeout(SECONDS):
                reference = await self._reference(context)
            if not (reference.failed or (reference.is_empty and routed.is_empty)):
                agrees = not (reference.is_empty or routed.is_empty) and agree(routed.text, reference.text)
                outcome = "agreed" if agrees else "differed"
                if self._services.settings.judge is None:
                    pass
                elif agrees:
                    preferred = 0
                elif reference.is_empty or routed.is_empty:  # one was cut off while thinking
                    preferred = 1 if reference.is_empty else -1
                else:
                    async with asyncio.timeout(SECONDS):
                        preferred, judged = await self._judge(context, routed.text, reference.text)
        except _FAILURES as error:
            log.info("a shadow comparison failed: %s", type(error).__name__)
        except Exception as error:  # noqa: BLE001  a bug must not surface in the loop with the texts in its traceback
            log.error("a shadow comparison failed: %s", type(error).__name__)
        finally:
            context.trace.end(200, context.id, None)
        self._services.metrics.record_shadow(outcome, reference.tokens, judged.tokens)
        shadow = Shadow(
            context.arrived_at,
            context.key.name,
            choice,
            agrees,
            preferred,
            routed.tokens,
            reference.tokens,
            judged.tokens,
            reference.spent,
            judged.spent,
        )
        try:
            await shadows.add(self._services.ledger.redis, shadow)
        except (RedisError, OSError) as error:
            log.warning("a shadow comparison is lost, because Redis is down (%s)", type(error).__name__)

    async def _reference(self, context: RequestContext) -> _Answer:
        """What the reference answers, under the same budget."""
        source = await dispatch.ask_reference(self._services, context)
        try:
            done = completion(source.first_bytes, dispatch.cost_terms(self._services, context), hides_reasoning=False)
        finally:
            source.close()
        return self._answer(done.said, context, done.cost)

    async def _judge(self, context: RequestContext, routed: str, reference: str) -> tuple[Verdict | None, _Answer]:
        """Whether the judge prefers the routed answer, and its own. It sees the two in random order."""
        swapped = random.random() < 0.5
        pair = (reference, routed) if swapped else (routed, reference)
        prompt = judge_prompt(text_of(context.question.body), *pair)
        body: Json = {
            "model": self._services.settings.judge,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": JUDGE_TOKENS,
        }
        raw = await self._services.engines.ask(encode(body))
        terms = replace(
            dispatch.cost_terms(self._services, context),
            prompt=lambda: prompt,
            max_tokens=JUDGE_TOKENS,
            cap=lambda: None,
        )
        done = completion(raw, terms, hides_reasoning=False)
        judged = _Answer(self._text(_transcript(done.said), context), done.cost.tokens)
        preferred = verdict(judged.text)
        return (-preferred if swapped and preferred is not None else preferred), judged

    def _answer(self, said: Transcript | Json, context: RequestContext, cost: Cost) -> _Answer:
        transcript = _transcript(said)
        text = self._text(transcript, context) if cost.answered else ""
        return _Answer(text, cost.tokens, transcript.gave_up)

    def _text(self, transcript: Transcript, context: RequestContext) -> str:
        """The answer's text, without its thinking."""
        return transcript.answer(self._services.family.reasoning or Reasoning(), thinks=context.cap != 0)

    def _shadow_of(self, context: RequestContext) -> RequestContext:
        """The context of the same question to the reference, without a stream and with a trace of its own."""
        question = context.question
        body = {name: value for name, value in question.body.items() if name not in ("stream", "stream_options")}
        shadow = RequestContext(f"{context.id}-shadow", arrived_at=context.arrived_at)
        shadow.key, shadow.budget, shadow.trace = context.key, context.budget, self._services.tracing.start_trace({})
        shadow.question = replace(question, body=body, asked={}, stream=False, wants_usage=False, hides_reasoning=False)
        return shadow


def _transcript(said: Transcript | Json) -> Transcript:
    if isinstance(said, Transcript):
        return said
    transcript = Transcript()
    transcript.add_response(said)
    return transcript
