"""Which engine gets this request, and what if it fails? vLLM replicas over pooled connections.

A conversation's turns go to one of the replicas that serve the checkpoint, unless it is too busy
(`gateway.engines.affinity`). A request without a conversation goes to the least busy one; equally busy ones take turns
at random. If that replica fails before an answer begins, or responds with an error that another replica might not (a
429 or 500, say), the next one is tried. A replica that refuses connections is skipped until it answers a probe again
(`gateway.engines.probes`). A checkpoint that keeps failing on a replica is skipped there for a pause
(`gateway.engines.breaker`). Because of this skipping, requests fail at once, without a timeout, while every engine is
down.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway import errors
from gateway.engines import affinity, failing, problem, verdict, wire
from gateway.engines.connection import BrokenError, StaleError
from gateway.engines.credentials import Credentials
from gateway.engines.probes import Probes
from gateway.engines.replica import EngineState, Replica, Upstream
from gateway.engines.verdict import FirstEvent
from gateway.errors import ApiError
from models import endpoint
from models.family import Family

log = logging.getLogger("laconic")

REQUEST_ERRORS = frozenset({400, 413, 415, 422})
"""Statuses that mean the request itself is wrong: every replica would reject it."""
UNAVAILABLE = frozenset({502, 503, 504})
"""Statuses sent by a proxy or a starting engine. 500 is not one: one request may cause it, and others must go on."""
ASKS_TO_WAIT = frozenset({429, 503})
"""Statuses whose `Retry-After` the caller gets."""
MAX_ERROR_BYTES = 65_536


@dataclass(frozen=True)
class Timeouts:
    """How long to wait for an engine, in seconds."""

    connect: float
    first_token: float
    """For the first byte of a stream, and for anything else that has to arrive in one go."""
    idle: float
    """For each further byte of a stream."""


class Engines:
    """All replicas that serve a family."""

    def __init__(
        self,
        urls: Sequence[str],
        family: Family,
        engine_directory: Path,
        timeouts: Timeouts,
        credentials: Credentials | None = None,
    ) -> None:
        """`engine_directory` is the family's directory as the engines see it, for loading missing adapters."""
        self._replicas = [Replica(url, timeouts.connect, credentials) for url in urls]
        self._names = {c.name: family.engine_name(c.name) for c in family.checkpoints}
        self._timeouts = timeouts
        self.opens_thinking: dict[tuple[str, str], bool] = {}
        """By engine URL and checkpoint, as far as it has been seen: whether the template opens the thinking, so that
        content without marks is thinking."""
        self._probes = Probes(
            self._replicas,
            family,
            engine_directory,
            connect_seconds=timeouts.connect,
            grace_seconds=timeouts.first_token,
        )

    async def start(self) -> None:
        """Probe every engine once, then keep probing. The engines need not be up yet."""
        await self._probes.start()

    async def aclose(self) -> None:
        """Stop probing and close every connection."""
        await self._probes.aclose()
        for replica in self._replicas:
            replica.client.close()

    def reload_tls(self) -> None:
        """Read the certificate authorities again, for new connections."""
        for replica in self._replicas:
            replica.client.reload_tls()

    @property
    def available(self) -> frozenset[str]:
        """The checkpoints that at least one engine can serve now."""
        return frozenset[str]().union(*(replica.available for replica in self._replicas))

    @property
    def checkpoints(self) -> list[str]:
        """All checkpoints of the family, available or not."""
        return sorted(self._names)

    @property
    def missing(self) -> list[str]:
        """The checkpoints that no engine can serve now."""
        return sorted(self._names.keys() - self.available)

    def context_of(self, checkpoint: str) -> int | None:
        """The context in tokens that its engines list, the smallest if they differ; None if none tells it."""
        model = self._names[checkpoint]
        told = [r.contexts[model] for r in self._replicas if checkpoint in r.serving and model in r.contexts]
        return min(told, default=None)

    def keeps_caps(self, checkpoint: str) -> bool:
        """Whether an engine that serves it is trusted to keep caps on thinking."""
        return any(checkpoint in replica.serving and not replica.caps.lost for replica in self._replicas)

    @property
    def in_flight(self) -> dict[str, int]:
        """Requests in flight, by engine URL."""
        return {replica.url: replica.in_flight for replica in self._replicas}

    @property
    def up(self) -> dict[str, bool]:
        """Whether an engine serves any checkpoint, by engine URL."""
        return {replica.url: bool(replica.serving) for replica in self._replicas}

    @property
    def states(self) -> list[EngineState]:
        """What each engine serves, or what is wrong with it, in the order in which they are configured."""
        return [replica.state for replica in self._replicas]

    @property
    def report(self) -> list[str]:
        """What keeps checkpoints from being served, with what to do: a line for each engine that is at fault."""
        lines = [f"{one.url}: {one.details}" for one in self.states if one.details]
        lines += [one.lacks for one in self.states if one.lacks and self.missing]
        assumed = [one.url for one in self.states if one.assumed]
        return lines + [f"{url}: it has no list of models, so its models are not known to be there" for url in assumed]

    async def probe(self) -> None:
        """Ask every engine once more what it serves."""
        await self._probes.probe_all()

    @property
    def refused_caps(self) -> dict[str, int]:
        """How many requests each engine refused because it cannot cap the thinking, by URL; without those of none."""
        return {replica.url: replica.refused_caps for replica in self._replicas if replica.refused_caps}

    @property
    def not_continued(self) -> dict[str, int]:
        """How many messages each engine did not continue, by URL; without those of none."""
        return {replica.url: replica.not_continued for replica in self._replicas if replica.not_continued}

    def model_of(self, checkpoint: str) -> str:
        """The model name that engines have for a checkpoint."""
        return self._names[checkpoint]

    def owes_trial(self, checkpoint: str) -> bool:
        """Whether an engine that did not keep a cap may be tried again."""
        lost = [replica for replica in self._replicas if replica.caps.lost]
        return any(checkpoint in replica.available and replica.may_cap(trial=True) for replica in lost)

    def continues(self, url: str) -> bool:
        """Whether an engine may be asked to continue a message."""
        return all(replica.continues for replica in self._at(url))

    def record_cap(self, url: str, *, kept: bool | None) -> None:
        """Note whether an engine kept its cap; None if a trial did not show that."""
        for replica in self._at(url):
            replica.record_cap(kept=kept)

    def record_not_continued(self, url: str) -> None:
        """Note that an engine cannot continue a message."""
        for replica in self._at(url):
            replica.record_not_continued()

    def _at(self, url: str) -> list[Replica]:
        return [replica for replica in self._replicas if replica.url == url]

    async def open(
        self,
        checkpoint: str,
        body: bytes,
        headers: Mapping[str, str],
        *,
        stream: bool,
        cap: str | None = None,
        trial: bool = False,
        prefer: str | None = None,
        conversation: str | None = None,
    ) -> Upstream:
        """Send a request and return the first response that begins. The engine gets `headers`.

        Args:
            cap: the body's field that caps the thinking. Engines whose caps do not hold are left out.
            trial: but one of them may be tried again.
            prefer: the URL of the engine that is asked first, because it has the beginning in its cache.
            conversation: what tells it from other conversations; its turns go to the same replica.

        Raises:
            ApiError: an engine rejected the request or its answer is too large, or every replica that was tried is
                busy (429).
            NoEngineError: no replica served it, and at least one failed for another reason than being busy. It is a
                `RefusedCapError` if that reason was the cap on the thinking.
        """
        replicas = self._in_order(checkpoint, prefer, conversation)
        failures: list[failing.Failure] = []
        for replica in replicas if cap is None else _capping(replicas, failures, trial=trial):
            if not replica.allows(checkpoint):  # half-open: another request is the trial
                continue
            is_trial = cap is not None and replica.begin_capped()
            replica.begin(checkpoint)
            upstream: Upstream | None = None
            try:
                upstream = await self._send(replica, body, headers, stream)
            except ApiError as refusal:
                failures.append(self._refused(replica, checkpoint, refusal, body, cap))
            except OSError as error:  # a timeout included
                self._note(replica, checkpoint, error)
                failures.append(error)
            except BaseException:  # the caller left
                replica.cancel(checkpoint)
                raise
            finally:
                if is_trial and upstream is None:
                    replica.caps.cancel()
            if upstream is not None:
                replica.record_response(checkpoint)
                upstream.is_trial = is_trial
                return upstream
            log.warning("engine %s did not serve a request: %s", replica.url, failing.describe(failures[-1]))
        try:
            raise failing.unserved(failures)
        finally:  # each of them has this frame in its traceback: a cycle would keep the body
            failures.clear()

    async def ask(self, body: bytes) -> bytes:
        """The complete answer of the first engine that gives one to a request for any model, of the family or not.

        Raises:
            NoEngineError: none gives one.
        """
        said: object = "no engine"
        for replica in self._replicas:
            try:
                upstream = await self._send(replica, body, {}, stream=False)
            except (ApiError, OSError) as error:
                said = type(error).__name__
                continue
            try:
                return upstream.first_bytes
            finally:
                upstream.close()
        raise failing.NoEngineError(str(said))

    def _refused(
        self, replica: Replica, checkpoint: str, refusal: ApiError, body: bytes, cap: str | None
    ) -> failing.Failure:
        """Note that an engine refused a request. Returns why, or raises the refusal if every engine would refuse it."""
        source = replica.credentials.source(replica.url)
        if denied := problem.of_refusal(refusal, self._names[checkpoint], source):
            replica.record_refusal(checkpoint, denied)
        else:
            replica.record_response(checkpoint)
        if verdict.refuses_cap(refusal, body, cap):
            replica.record_refused_cap()
            return failing.CapError("it cannot cap the thinking")
        if (refusal.status in REQUEST_ERRORS and not denied) or isinstance(refusal, failing.TooLargeError):
            raise refusal
        return refusal

    def _note(self, replica: Replica, checkpoint: str, error: OSError) -> None:
        """Note that no answer began. If the engine did respond, the request may be at fault, as with a 500."""
        if isinstance(error, verdict.NoAnswerError):
            replica.record_response(checkpoint)
            return
        replica.record_failure(checkpoint, repr(error))
        if isinstance(error, ConnectionRefusedError):
            replica.mark_unreachable(problem.REFUSED, self._timeouts.first_token)

    def _in_order(self, checkpoint: str, prefer: str | None, conversation: str | None) -> list[Replica]:
        """The replicas to try, the best first."""
        available = [replica for replica in self._replicas if checkpoint in replica.available]
        if len(available) < 2:
            return available
        random.shuffle(available)  # or all that are equally busy would leave their work to the first
        available.sort(key=lambda replica: replica.in_flight)
        if conversation is not None:
            available = affinity.in_order(available, conversation)
        if prefer is not None:
            available.sort(key=lambda replica: replica.url != prefer)
        return available

    async def _send(self, replica: Replica, body: bytes, headers: Mapping[str, str], stream: bool) -> Upstream:
        try:
            return await self._post(replica, body, headers, stream)
        except StaleError:
            return await self._post(replica, body, headers, stream, fresh=True)

    async def _post(
        self, replica: Replica, body: bytes, headers: Mapping[str, str], stream: bool, *, fresh: bool = False
    ) -> Upstream:
        patience = self._timeouts.first_token
        headers = {"content-type": "application/json", **headers}
        response: wire.Response | None = None
        replica.in_flight += 1
        try:
            # A non-streaming response arrives when it is finished. How long to wait for it is up to the caller.
            response = await replica.client.post(
                endpoint.CHAT, body, headers, patience if stream else None, head_seconds=patience, fresh=fresh
            )
            if response.status != 200:
                raise await self._refusal(response)
            first_bytes = await (_begun(response) if stream else self._whole(response))
        except BaseException:  # including cancellation: the caller left, so the engine must stop, too
            replica.in_flight -= 1
            if response is not None:
                response.close()
            raise
        if stream:  # otherwise the response is complete
            response.set_read_timeout(self._timeouts.idle)
        return Upstream(replica, response, first_bytes)

    async def _whole(self, response: wire.Response) -> bytes:
        """A non-streaming answer."""
        try:
            body = await response.read(failing.MAX_ANSWER_BYTES, self._timeouts.first_token)
        except wire.TooLargeError:
            raise failing.TooLargeError from None
        if not body:
            raise BrokenError("an empty response")
        if (failure := verdict.failure_in_body(body)) is not None:
            raise failing.NoAnswerError(failure)
        return body

    async def _refusal(self, response: wire.Response) -> ApiError | OSError:
        """The error that a response is whose status is not 200."""
        retry_after = response.retry_after if response.status in ASKS_TO_WAIT else None
        if response.status in UNAVAILABLE:
            return failing.UnavailableError(response.status, retry_after)
        response.set_deadline(self._timeouts.first_token)
        try:
            payload = verdict.parsed(await response.read(MAX_ERROR_BYTES, self._timeouts.first_token))
        except wire.TooLargeError:
            payload = None
        refusal = errors.from_engine(response.status, payload)
        refusal.retry_after = retry_after
        return refusal


def _capping(replicas: list[Replica], failures: list[failing.Failure], *, trial: bool) -> list[Replica]:
    """The replicas that may be asked for a cap, one that is due for a trial first. The others have failed."""
    capping = [replica for replica in replicas if replica.may_cap(trial=trial)]
    failures += [failing.CapError("its caps do not hold")] * (len(replicas) - len(capping))
    return sorted(capping, key=lambda replica: not replica.caps.lost)


async def _begun(response: wire.Response) -> bytes:
    """The first bytes of a stream, with at least one event of an answer."""
    first = FirstEvent()
    try:
        while piece := await response.read_some():
            if (begun := first.feed(piece)) is not None:
                return begun
        return first.end()
    except ApiError as failure:
        raise failing.NoAnswerError(failure) from None
