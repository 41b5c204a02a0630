"""The C library's allocator."""

import ctypes

_M_ARENA_MAX = -8  # malloc.h


def use_one_arena() -> None:
    """Have all threads share one arena (mallopt(3)); to be called before there are threads.

    Where one thread does nearly all the work, an arena for each costs memory (2 MiB in the engine) and saves nothing.
    C libraries without mallopt have no arenas either.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
