"""How does vLLM start in half the time on a CPU?

    python -P -m gateway.process.launch_vllm ARGUMENTS...      ARGUMENTS are those of vLLM's own API server

On a CPU, vLLM starts its engine core and its worker with `spawn`, so three processes import vLLM one after another, at
15 seconds of CPU time each. Here a fork server imports vLLM once, in parallel with the API server, and the other two
processes are forked from it (docs/decisions/0021-engine-start.md). The fork server runs nothing but imports, so it has
no threads and no OpenMP team that a fork would lose. As a consequence, cores cannot be assigned to each worker through
OpenMP, so `gateway.process.embedded` sets OMP_NUM_THREADS and `nobind` for all of them.
"""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import BaseContext

_PRELOAD = [
    "vllm.v1.engine.core",
    "vllm.v1.executor.multiproc_executor",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.qwen3",
]


_original_get_context = multiprocessing.get_context


def _get_context(method: str | None = None) -> BaseContext:
    return _original_get_context("forkserver" if method == "spawn" else method)


def main() -> None:
    """Run vLLM's API server."""
    multiprocessing.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()
    multiprocessing.get_context = _get_context  # pyright: ignore[reportAttributeAccessIssue]

    from vllm.entrypoints.launchers.api_server.entry import main as serve  # noqa: PLC0415  after the fork server has started

    serve()


if __name__ == "__main__":
    main()
