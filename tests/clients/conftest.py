"""Clients are tried in front of the same gateway and engine as everything else."""

from tests.gateway.conftest import engine, family, family_dir, gateway

__all__ = ["engine", "family", "family_dir", "gateway"]
