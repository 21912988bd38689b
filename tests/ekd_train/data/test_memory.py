"""How much memory there is, as the container sees it."""

import os

import pytest

from ekd_train.data.memory import memory_limit

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def limit_in(folder, groups, own):
    """`groups`: file below the control groups' mount -> what it says; `own`: as /proc/self/cgroup."""
    for name, text in groups.items():
        file = folder / "mount" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "own").write_text(own)
    return memory_limit(folder / "mount", folder / "own")


@pytest.mark.parametrize(
    ("groups", "own", "expected"),
    [
        ({}, "", MACHINE),
        ({"memory.max": "max\n"}, "0::/\n", MACHINE),
        ({"memory.max": "5000000\n"}, "0::/\n", 5_000_000),
        ({"pod/memory.max": "7000000\n", "pod/box/memory.max": "max\n"}, "0::/pod/box\n", 7_000_000),
        ({"pod/memory.max": "7000000\n", "pod/box/memory.max": "6000000"}, "0::/pod/box\n", 6_000_000),
        ({"memory/box/memory.limit_in_bytes": "8000000"}, "3:cpu:/\n9:memory:/box\n", 8_000_000),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096)}, "9:memory:/\n", MACHINE),
        ({"memory.max": "no number"}, "what is this", MACHINE),
    ],
)
def test_the_smallest_limit_around_this_process_counts(tmp_path, groups, own, expected):
    assert limit_in(tmp_path, groups, own) == expected


def test_without_control_groups_it_is_the_machines(tmp_path):
    assert memory_limit(tmp_path / "none", tmp_path / "neither") == MACHINE
