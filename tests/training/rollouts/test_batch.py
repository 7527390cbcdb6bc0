import pytest
import torch

from training.rollouts.batch import sorted_by_length


def test_micro_batches_are_sorted_by_length_and_lose_only_padding():
    torch.manual_seed(0)
    lengths = torch.tensor([3, 9, 1, 7, 5, 2, 8, 4])
    prompt_lengths = torch.tensor([2, 2, 3, 3, 4, 4, 1, 1])
    mask = (torch.arange(9) < lengths[:, None]).long()
    prompt_mask = (torch.arange(4).flip(0) < prompt_lengths[:, None]).long()
    whole = {
        "prompt_ids": torch.randint(1, 9, (8, 4)) * prompt_mask,
        "prompt_mask": prompt_mask,
        "completion_ids": torch.randint(1, 9, (8, 9)) * mask,
        "completion_mask": mask,
        "advantages": torch.randn(8, 1) * mask,
    }
    batches = [
        {k: v[i : i + 2] for k, v in whole.items()} | {"num_items_in_batch": torch.tensor(39)} for i in range(0, 8, 2)
    ]
    result = sorted_by_length(batches)
    assert [batch["completion_mask"].shape for batch in result] == [(2, 9), (2, 7), (2, 4), (2, 2)]
    assert all(batch["num_items_in_batch"] == 39 for batch in result)
    for key in ("completion_ids", "advantages", "prompt_ids"):
        assert sum(float(b[key].sum()) for b in result) == pytest.approx(float(whole[key].sum()))
