"""vLLM's own parser takes every argument that the manifest gives, as words and as a file."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest
from vllm.entrypoints.cli.serve import cmd_init
from vllm.utils.argparse_utils import FlexibleArgumentParser

from gateway import cli
from models import family as families
from tests.end_to_end.conftest import FAMILY_DIR


def parsed(*words: str) -> argparse.Namespace:
    """The words after `vllm`, as vLLM parses them."""
    parser = FlexibleArgumentParser()
    commands = parser.add_subparsers(dest="subparser")
    for command in cmd_init():
        command.subparser_init(commands)
    read = parser.parse_args([*words])
    assert read is not None
    return read


@pytest.mark.parametrize("as_file", [True, False])
def test_vllm_parses_what_a_family_needs(as_file: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    family = families.load(FAMILY_DIR, verify=False)
    if as_file:
        file = tmp_path / "vllm.yaml"
        cli.main(["engine-args", str(FAMILY_DIR), "--at", "/family", "--output", str(file)])
        read = parsed("serve", "--config", str(file))
    else:
        cli.main(["engine-args", str(FAMILY_DIR), "--at", "/family"])
        read = parsed("serve", *shlex.split(capsys.readouterr().out))
    adapters = {c.name for c in family.checkpoints if c.kind == "lora"}
    assert family.base is not None
    assert (read.model_tag or read.model) == f"/family/{family.base}"
    assert read.served_model_name == [family.served_name(family.base)]
    assert read.max_model_len == family.context_tokens
    assert (read.reasoning_parser, read.enable_lora, read.max_loras) == ("qwen3", True, len(adapters) + 1)
    modules = {module.name: module.path for module in read.lora_modules}
    assert modules == {family.served_name(name): f"/family/{name}" for name in adapters}
