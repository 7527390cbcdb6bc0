"""How does the training job run a vLLM server of its own? On the CPUs, behind a Unix socket, until it is done.

The server is the program that `laconic serve` starts, `gateway.process.launch_vllm`, under the same watchdog. So it
ends with this process, however this process ends. Both are run as programs and never imported: the layers stay apart.
The socket lies in a private directory, because whoever can write to it can load weights.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from training.errors import StageError

GRACE_SECONDS = 10.0
LAST_LINES = 15
_POLL_SECONDS = 0.2
_LARGEST_SHARE_OF_MEMORY = 0.25
"""Of the free memory, for the KV cache. vLLM makes completions wait that find no room in it."""


@dataclass(frozen=True)
class ServerSettings:
    """What a server is to hold."""

    model: Path
    """A directory with weights and tokenizer."""
    context_tokens: int
    """Longest prompt with its completion."""
    dtype: str
    """float32, or bfloat16 where the hardware multiplies it."""
    sequences: int
    """Completions that are sampled at once."""
    kv_bytes_per_token: int = 0
    """Of one token's keys and values in all layers; 0 gives the cache 1 GiB."""
    at_temperature: bool = True
    """Whether log probabilities are those at the temperature of the draw, or at temperature 1."""


@dataclass(frozen=True)
class Server:
    """A running server."""

    client: httpx.Client
    """Speaks to the server's socket; paths are vLLM's, such as `/v1/completions`."""
    log: Path
    settings: ServerSettings
    pid: int
    """Of the watchdog, whose child is the server."""

    def failure(self, what: str) -> StageError:
        """An error that shows the end of the server's log."""
        return StageError(f"vLLM: {what}. {log_tail(self.log)}")


def require_installed() -> None:
    """Raise unless vLLM is installed.

    Raises:
        StageError: it is not. Says how to install it and what works without it.
    """
    if importlib.util.find_spec("vllm") is None:
        raise StageError(
            "family.engine: vLLM is not installed; install it with `scripts/install.sh all`, or your GPUs' build of it,"
            " or set engine: transformers"
        )


@contextmanager
def running(settings: ServerSettings, log: Path) -> Iterator[Server]:
    """A vLLM server for the time of the block. Its output goes to `log`, which is written anew.

    Raises:
        StageError: vLLM is not installed, or it exits before it is ready.
    """
    require_installed()
    log.parent.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="laconic-vllm-"))
    path = directory / "socket"
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "gateway.process.watchdog", str(GRACE_SECONDS), ""),
                    *command(settings, path),
                ],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env={**os.environ, **environment(settings)},
                start_new_session=True,
            )
        try:
            # No limit on reading: a step of long completions may take an hour. If the server dies, the socket closes.
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
            transport = httpx.HTTPTransport(uds=str(path), limits=limits)
            with httpx.Client(transport=transport, base_url="http://vllm", timeout=httpx.Timeout(None)) as client:
                _wait_until_ready(process, client, path, log)
                yield Server(client, log, settings, process.pid)
        finally:
            assert process.stdin
            process.stdin.close()  # the watchdog then stops the server and its child processes
            process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def command(settings: ServerSettings, path: Path) -> list[str]:
    """vLLM's command line."""
    return [
        *(sys.executable, "-P", "-m", "gateway.process.launch_vllm"),
        *("--model", str(settings.model), "--served-model-name", "base", "--uds", str(path)),
        *("--dtype", settings.dtype, "--max-model-len", str(settings.context_tokens)),
        *("--max-num-seqs", str(settings.sequences)),
        # The model's own generation_config would set top-p, top-k and penalties, and the policy would be another one.
        *("--generation-config", "vllm"),
        *("--logprobs-mode", "processed_logprobs" if settings.at_temperature else "raw_logprobs"),
        # A prompt is computed once for its group only in whole blocks, and the default block is 128 tokens.
        *("--block-size", "32"),
        # On a CPU, a prompt with a seed that is computed in two parts ends the engine: torch's generator has no offset.
        *("--no-enable-chunked-prefill", "--enforce-eager", "--disable-uvicorn-access-log"),
    ]


def environment(settings: ServerSettings) -> Mapping[str, str]:
    """vLLM's environment. Variables that are set already win, but for those that would keep the job out.

    These are a key, which the job does not send over its own socket, and no leave to reload weights.
    """
    defaults = {
        "VLLM_CPU_KVCACHE_SPACE": str(_kv_cache_gib(settings)),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads()),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }
    chosen = {name: os.environ.get(name, value) for name, value in defaults.items()}
    # Without bytecode files, each start would compile vLLM and torch again, which takes seconds.
    return {**chosen, "PYTHONDONTWRITEBYTECODE": "", "VLLM_SERVER_DEV_MODE": "1", "VLLM_API_KEY": ""}


def threads() -> int:
    """One thread for each usable physical core. Trainer and server take turns, so each may have all of them."""
    return max(1, min(len(os.sched_getaffinity(0)), psutil.cpu_count(logical=False) or 1))


def log_tail(log: Path) -> str:
    """The last lines of a log, and where all of it is."""
    lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:] if log.exists() else []
    return "\n".join([f"The end of {log}:", *(f"  {line}" for line in lines)])


def _kv_cache_gib(settings: ServerSettings) -> int:
    """Room for all completions at full length, in whole GiB, but at most a quarter of the free memory."""
    needed = settings.sequences * settings.context_tokens * settings.kv_bytes_per_token
    most = int(psutil.virtual_memory().available * _LARGEST_SHARE_OF_MEMORY)
    return max(1, -(-min(needed, most) // 2**30))


def _wait_until_ready(process: subprocess.Popen[bytes], client: httpx.Client, path: Path, log: Path) -> None:
    while True:
        if (code := process.poll()) is not None:
            raise StageError(f"family.engine: vLLM did not start (exit code {code}). {log_tail(log)}")
        if _listens(path):
            with suppress(httpx.TransportError):
                if client.get("/health", timeout=10).is_success:
                    return
        time.sleep(_POLL_SECONDS)


def _listens(path: Path) -> bool:
    """Whether a server listens at a socket. httpx would leave its own socket open where none does."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
