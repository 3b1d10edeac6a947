"""Which samples make a step."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from pllava.core.errors import PllavaError
from pllava.stages.train.steps import StepSampler, epoch_batches, validation_batches

LENGTHS = random.Random(0).choices(range(20, 300), k=1000)  # tokens


def padding(batches: list[list[int]]) -> float:
    longest = sum(max(LENGTHS[row] for row in batch) * len(batch) for batch in batches)
    return 1 - sum(LENGTHS[row] for batch in batches for row in batch) / longest


def test_an_epoch_has_each_row_at_most_once_and_full_batches() -> None:
    batches = epoch_batches(LENGTHS, 32, seed=1, epoch=0)
    rows = [row for batch in batches for row in batch]
    assert len(batches) == 1000 // 32
    assert len(set(rows)) == len(rows)
    assert {len(batch) for batch in batches} == {32}


def test_order_is_a_function_of_seed_and_epoch() -> None:
    assert epoch_batches(LENGTHS, 32, 1, 0) == epoch_batches(LENGTHS, 32, 1, 0)
    assert epoch_batches(LENGTHS, 32, 1, 0) != epoch_batches(LENGTHS, 32, 1, 1)
    assert epoch_batches(LENGTHS, 32, 1, 0) != epoch_batches(LENGTHS, 32, 2, 0)


def test_like_lengths_together_leave_little_padding() -> None:
    assert padding(epoch_batches(LENGTHS, 32, 1, 0)) < 0.08
    assert padding([list(range(start, start + 32)) for start in range(0, 960, 32)]) > 0.4


@pytest.mark.parametrize(("accumulation", "processes"), [(1, 1), (4, 1), (1, 2), (2, 2)])
def test_a_step_has_the_same_samples_however_it_is_shared(accumulation: int, processes: int) -> None:
    whole = [set(batch) for batch in StepSampler(LENGTHS, 70, 8, 1, seed=3)]
    shared: list[set[tuple[int, int]]] = [set() for _ in whole]
    for process in range(processes):
        batches = iter(StepSampler(LENGTHS, 70, 8, accumulation, 3, process, processes))
        for step in shared:
            step.update(key for batch in islice(batches, accumulation) for key in batch)
    assert shared == whole


def test_epochs_follow_each_other() -> None:
    keys = [key for batch in StepSampler([5] * 10, steps=6, batch_size=5, accumulation=1, seed=0) for key in batch]
    assert [epoch for _, epoch in keys] == [0] * 10 + [1] * 10 + [2] * 10
    assert sorted(row for row, _ in keys[:10]) == list(range(10))


def test_too_few_rows_and_uneven_shares_are_refused() -> None:
    with pytest.raises(PllavaError, match="do not fill a batch of 8"):
        StepSampler([5] * 7, 1, 8, 1, 0)
    with pytest.raises(PllavaError, match="not a multiple of 3"):
        StepSampler([5] * 9, 1, 8, 1, 0, processes=3)


def test_validation_sees_every_row_once() -> None:
    rows = [row for batch in validation_batches(LENGTHS, 32) for row, _ in batch]
    assert sorted(rows) == list(range(1000))
