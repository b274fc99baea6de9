"""Reports on records from several machines: what may not compare is said, and seconds that mean nothing are left out."""

import math

import pandas as pd
import pytest
from bayesprune.reports.records.frame import prepare
from bayesprune.reports.summary import doubts


def rows(**columns):
    base = {"key": "k", "status": "done", "method": "opd", "dataset": "digits", "architecture": "mlp", "units": "weights",
            "seed": 0, "sparsity_target": 0.5, "accuracy": 0.9, "seconds_train": 1.0, "seconds_score": 1.0,
            "seconds_finetune": 1.0, "host_cpu": "A", "device": "cpu", "fit_host_cpu": "A", "fit_device": "cpu",
            "host_cores": 4, "host_workers": 4}  # fmt: skip
    return pd.DataFrame([base | {"key": "1"}, base | {"key": "2", "seed": 1} | columns])


def text(frame):
    return " ".join(doubts(prepare(frame), []))


def test_cells_beside_their_network_are_no_doubt():
    assert "another kind of machine" not in text(rows())
    assert "several" not in text(rows())
    assert "more workers than cores" not in text(rows())


@pytest.mark.parametrize("column", [{"fit_host_cpu": "B"}, {"fit_device": "NVIDIA H200"}, {"host_cpu": "B"}])
def test_cells_that_left_the_machine_of_their_network_are_counted(column):
    assert "1 of 2 done cells was computed on another kind of machine" in text(rows(**column))
    assert ("several processors" in text(rows(**column))) == ("host_cpu" in column)


def test_records_of_before_that_name_no_machine_of_the_fit_are_no_doubt():
    assert "another kind" not in text(rows(fit_host_cpu=None, fit_device=None))
    assert "another kind" not in text(rows().drop(columns=["fit_host_cpu", "fit_device", "host_cores", "host_workers"]))


def test_seconds_of_more_workers_than_cores_are_left_out():
    records = prepare(rows(host_workers=5))
    assert records["seconds"].tolist()[0] == 3.0
    assert math.isnan(records["seconds"].tolist()[1])
    assert "1 cell ran on machines with more workers than cores" in text(rows(host_workers=5))
