"""How does vLLM start in half the time on a CPU?

    python -P -m gateway.process.launch_vllm ARGUMENTS...      the arguments of vLLM's own API server

On a CPU vLLM insists on `spawn` for its engine core and its worker, so three processes import vLLM one after the other,
15 seconds of processor time each. Here a fork server imports it once, while the API server does, and the other two are
forked from that (docs/decisions/0021-engine-start.md). Nothing has run in the fork server but imports: no thread and no
OpenMP team that a fork could lose. It also means that OpenMP cannot be told per worker which cores to use, so
`gateway.process.embedded` sets OMP_NUM_THREADS and `nobind` for all.
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


_original = multiprocessing.get_context


def _get_context(method: str | None = None) -> BaseContext:
    return _original("forkserver" if method == "spawn" else method)


def main() -> None:
    """Run vLLM's API server."""
    multiprocessing.set_forkserver_preload(_PRELOAD)
    forkserver.ensure_running()
    multiprocessing.get_context = _get_context  # pyright: ignore[reportAttributeAccessIssue]

    from vllm.entrypoints.launchers.api_server.entry import main as serve  # noqa: PLC0415  after the fork server runs

    serve()


if __name__ == "__main__":
    main()
