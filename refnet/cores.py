"""How many threads a network takes where its caller does not say."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from refnet.errors import OptionError

#: More threads than any machine has cores; tens of thousands would not be made in minutes.
MOST_THREADS = 1024

_SHARING: ContextVar[bool] = ContextVar("_SHARING", default=False)


@contextmanager
def sharing() -> Iterator[None]:
    """In this block networks take one thread by default, since others work beside this one."""
    before = _SHARING.set(True)
    try:
        yield
    finally:
        _SHARING.reset(before)


def thread_count(asked: int | None = None) -> int:
    """`asked`; where that is None, the cores that this process may use: those that it is bound to, no
    more than the container's quota of processor time. One in a process that `multiprocessing` has
    started, and in `sharing`: others of its kind have the other cores.

    Raises:
        OptionError: `asked` is no whole number from 1 to `MOST_THREADS`.
    """
    if asked is None:
        return 1 if _SHARING.get() or _in_a_pool() else cores()
    if isinstance(asked, bool) or not isinstance(asked, int) or not 1 <= asked <= MOST_THREADS:
        raise OptionError(
            f"threads is a whole number from 1 to {MOST_THREADS:,}, or None for the cores at hand, not "
            f"{asked!r}"
        )
    return asked


def cores() -> int:
    """The cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        bound = len(os.sched_getaffinity(0))
    else:
        bound = os.cpu_count() or 1
    quota = container_quota()
    return bound if quota is None else max(1, min(bound, int(quota)))


def container_quota(root: str = "/sys/fs/cgroup") -> float | None:
    """Cores' worth of time that the container may use; None without a limit, or outside of Linux.

    Args:
        root: where control groups are mounted; a container sees its own there.
    """
    try:
        with open(
            f"{root}/cpu.max", encoding="ascii"
        ) as file:  # version 2: "200000 100000" or "max ..."
            quota, period = file.read().split()
    except (OSError, ValueError):
        try:
            with open(f"{root}/cpu/cpu.cfs_quota_us", encoding="ascii") as file:
                quota = file.read().strip()
            with open(f"{root}/cpu/cpu.cfs_period_us", encoding="ascii") as file:
                period = file.read().strip()
        except OSError:
            return None
    try:
        allowed = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return allowed if allowed > 0 else None


def _in_a_pool() -> bool:
    """Whether `multiprocessing` started this process, as pools and `concurrent.futures` do."""
    module = sys.modules.get("multiprocessing.process")
    return module is not None and module.parent_process() is not None
