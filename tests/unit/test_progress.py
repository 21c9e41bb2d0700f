"""The loss curve: few rows that hold every step."""

import pytest

from spunge.core.progress import RECORDS, LossCurve


def curve(steps):
    made = LossCurve(steps)
    for step in range(1, steps + 1):
        made.add(step, forget_loss=float(step), retain_loss=2.0 * step)
    return made.rows


def test_short_runs_have_a_row_for_every_step():
    assert curve(3) == [{"step": step, "forget_loss": step, "retain_loss": 2 * step} for step in (1, 2, 3)]


def test_rows_are_means_over_the_steps_since_the_row_before():
    rows = curve(2 * RECORDS)
    assert [row["step"] for row in rows[:3]] == [2, 4, 6]
    assert [row["forget_loss"] for row in rows[:3]] == [1.5, 3.5, 5.5]


@pytest.mark.parametrize("steps", [1, RECORDS - 1, RECORDS + 1, 7 * RECORDS + 5])
def test_every_step_counts_once_and_the_last_row_is_the_last_step(steps):
    rows = curve(steps)
    assert len(rows) <= RECORDS
    assert rows[-1]["step"] == steps
    before = [0, *(row["step"] for row in rows)]
    total = sum(row["forget_loss"] * (row["step"] - start) for row, start in zip(rows, before, strict=False))
    assert total == pytest.approx(steps * (steps + 1) / 2)
