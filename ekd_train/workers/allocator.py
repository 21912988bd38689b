"""What the C library does with memory that is freed: a process that trains keeps it for its next step, one
that measures gives it back."""

import ctypes
from contextlib import suppress
from types import MappingProxyType

_M_MMAP_THRESHOLD = -3
"""Of `malloc.h`: from this size on a block is mapped by itself."""

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


def give_back_what_is_freed() -> None:
    """Lets this process's C library hand blocks of a MiB and more back to the system as they are freed.

    glibc moves that bound up to 32 MiB as such blocks come and go, and then what is freed stays between what
    is not: of tables of predictions that come one after the other, the room of two or three was held. Other
    C libraries have no `mallopt`, and are left alone.
    """
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
