"""How a process that trains keeps the memory of one step for the next."""

from types import MappingProxyType

KEEP_FREED_MEMORY = MappingProxyType(
    {
        # Ray Train trains on a thread of its own. glibc gives a thread blocks of at most 64 MiB from an
        # arena of its own and maps larger ones one by one; the process's one arena has no such limit.
        "MALLOC_ARENA_MAX": "1",
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(2**62),
    }
)
"""Variables for a process that trains, from its start on: the C library keeps what is freed, instead of
handing it to the system and asking again.

Every step allocates the same activations. glibc gives large blocks back as they are freed, and the system
clears each of their pages anew: up to 50,000 page faults a step, a tenth of its time (docs/log.md). The
process stays as large as it ever was. Other C libraries do not look at them.
"""
