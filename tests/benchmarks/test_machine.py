from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import machine

CPUINFO = """\
processor\t: 0
model name\t: AMD EPYC 9B14
flags\t\t: fpu sse avx2 avx512f avx512_bf16

processor\t: 1
model name\t: another
"""


def test_the_machine_names_its_cpu_and_the_instruction_sets_that_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "cpuinfo")
    described = machine.describe()
    assert described["cpu"] == "AMD EPYC 9B14"
    assert described["instruction sets"] == ["avx2", "avx512f", "avx512_bf16"]
    assert described["cores"] >= 1
    assert described["load before"] >= 0


def test_a_machine_without_cpuinfo_is_described_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_CPUINFO", tmp_path / "nothing")
    described = machine.describe()
    assert described["instruction sets"] == []
    assert described["cpu"]


def test_the_kind_of_a_machine_is_a_file_s_name_of_its_cpu_newest_instructions_and_cores() -> None:
    intel = {"cpu": "Intel(R) Xeon(R) Platinum 8480+ CPU @ 2.00GHz", "instruction sets": ["avx2", "avx512_bf16"]}
    assert machine.kind({**intel, "cores": 2}) == "intel-xeon-platinum-8480-cpu-2.00ghz-avx512bf16-2cores"
    assert machine.kind({"cpu": "AMD EPYC", "instruction sets": [], "cores": 8}) == "amd-epyc-none-8cores"
