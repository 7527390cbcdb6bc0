import copy

import pytest
import torch

from training.base import muon
from training.base.muon import Muon, orthogonalise


def test_orthogonalised_matrices_have_singular_values_near_one():
    torch.manual_seed(0)
    for shape in ((3, 16, 64), (2, 64, 16), (1, 32, 32)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_orthogonalising_keeps_the_singular_directions():
    torch.manual_seed(0)
    matrix = torch.randn(24, 40, dtype=torch.float64)
    u, _, vt = torch.linalg.svd(matrix, full_matrices=False)
    core = u.T @ orthogonalise(matrix[None])[0] @ vt.T
    assert torch.allclose(core, torch.diag(core.diagonal()), atol=1e-6)


def test_other_parameters_move_as_adamw_moves_them():
    torch.manual_seed(0)
    start = torch.randn(8)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    muon = Muon([("norm", ours)], lr=1e-2, weight_decay=0.1)
    adamw = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.1, betas=(0.9, 0.95))
    for step in range(20):
        for parameter, optimizer in ((ours, muon), (theirs, adamw)):
            parameter.grad = torch.sin(torch.arange(8.0) + step)
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("shape", [(16, 32), (48, 16), (24, 24)])
def test_matrices_move_as_torchs_muon_moves_them(monkeypatch, shape):
    monkeypatch.setattr(muon, "autocast_bf16", lambda: False)
    torch.manual_seed(0)
    start = torch.randn(shape)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    mine = Muon([("layer", ours)], lr=0.1, weight_decay=0.1)
    torchs = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for _ in range(5):
        gradient = torch.randn(shape)
        for parameter, optimizer in ((ours, mine), (theirs, torchs)):
            parameter.grad = gradient.clone()
            optimizer.step()
    assert (ours - theirs).norm() < 0.03 * (ours - start).norm(), "but for torch's bfloat16"


def test_a_matrix_step_has_the_root_mean_square_of_an_adamw_step():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(64, 128))
    optimizer = Muon([("layer", weight)], lr=1.0, weight_decay=0.0)
    weight.grad = torch.randn(64, 128)
    optimizer.step()
    assert 0.1 < weight.pow(2).mean().sqrt() < 0.3


@pytest.mark.parametrize("fast", [True, False])
def test_matrices_are_orthogonalised_in_bfloat16_only_where_that_is_fast(monkeypatch, fast):
    dtypes = []
    monkeypatch.setattr(muon, "autocast_bf16", lambda: fast)
    monkeypatch.setattr(
        muon, "orthogonalise", lambda matrices: dtypes.append(matrices.dtype) or orthogonalise(matrices)
    )
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(16, 32))
    weight.grad = torch.randn(16, 32)
    Muon([("layer", weight)], lr=1.0, weight_decay=0.0).step()
    assert dtypes == [torch.bfloat16 if fast else torch.float32]
    assert weight.dtype == torch.float32
    exact = -orthogonalise(weight.grad[None])[0] * 0.2 * 32**0.5
    torch.testing.assert_close(weight.detach(), exact, atol=0.05, rtol=0)


def test_the_optimizer_s_state_survives_a_checkpoint():
    torch.manual_seed(0)
    start = torch.randn(6, 6)
    one, other = (torch.nn.Parameter(start.clone()) for _ in range(2))
    first, second = (Muon([("layer", p)], lr=0.1) for p in (one, other))
    for _ in range(3):
        one.grad = torch.ones(6, 6) + one.detach()
        first.step()
    with torch.no_grad():
        other.copy_(one)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for parameter, optimizer in ((one, first), (other, second)):
        parameter.grad = torch.eye(6)
        optimizer.step()
    assert torch.equal(one, other)
