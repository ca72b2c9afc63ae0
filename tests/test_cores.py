"""How many threads networks take by default."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

import refnet
from refnet.cores import container_quota, cores, sharing, thread_count
from refnet.random_weights import random_weights


def test_threads_are_the_cores_that_this_process_is_bound_to() -> None:
    if hasattr(os, "sched_getaffinity"):
        assert 1 <= cores() <= len(os.sched_getaffinity(0))
    assert thread_count() == cores() and thread_count(7) == 7
    with sharing():
        assert thread_count() == 1 and thread_count(3) == 3
    assert thread_count() == cores()


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "?\n"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_read_in_both_versions(
    tmp_path: Path, files: dict[str, str], quota: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert container_quota(str(tmp_path)) == quota


def threads_of(model: refnet.Model) -> int:
    return model.threads


def test_workers_of_a_pool_take_one_thread_unless_told_otherwise() -> None:
    weights = random_weights(refnet.build("tinynet"))
    default = refnet.load("tinynet", weights, backend="numpy")
    three = refnet.load("tinynet", weights, backend="numpy", threads=3)
    assert default.threads == cores()
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert list(pool.map(threads_of, [default, three])) == [1, 3]


def test_results_are_the_same_bits_for_any_number_of_threads() -> None:
    x = np.random.default_rng(0).uniform(0, 255, (1, 3, 320, 320)).astype(np.float32)
    one, many = (refnet.load("lffd-face-v2", threads=count) for count in (1, 3))
    for a, b in zip(one(x), many(x), strict=True):
        np.testing.assert_array_equal(a, b)
