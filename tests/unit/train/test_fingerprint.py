"""Two jobs are the same if data, settings, code and libraries are."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from train import fingerprint
from train.data import load
from train.settings import TrainSettings

MakeSettings = Callable[..., TrainSettings]


def test_same_job_has_the_same_fingerprint(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Deadlines don't change a model, so they don't count."""
    one = make_settings(table)
    other = make_settings(table, deadlines={"compute_s": 5})
    assert fingerprint.compute(one, load(one)) == fingerprint.compute(other, load(other))


def test_settings_and_data_change_the_fingerprint(
    table: pd.DataFrame, make_settings: MakeSettings
) -> None:
    """Another seed, another policy or another cell is another job."""
    jobs = [
        make_settings(table),
        make_settings(table, seed=1),
        make_settings(table, gate={"margin": 0.2}),
    ]
    marks = {fingerprint.compute(job, load(job)) for job in jobs}
    changed = make_settings(table.assign(a=table["a"] + 1e-12 * (table.index == 2)))
    marks.add(fingerprint.compute(changed, load(changed)))
    assert len(marks) == 4


def test_commit_is_never_empty() -> None:
    """Where git can't tell, the environment or `unknown` stands in."""
    assert fingerprint.commit({})
