"""Errors of a training whose helper process ended, in words."""

from __future__ import annotations

import re


def lost_process(error: RuntimeError) -> str | None:
    """Which process ended and what to do; None for other errors.

    Example:
        >>> lost_process(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))[:55]
        'a loader process died (DataLoader worker (pid 7) is kil'
    """
    text = str(error).strip()
    if text.startswith("DataLoader worker (pid"):
        return (
            f"a loader process died ({text.rstrip('. ')}), for instance for lack of memory (set data.num_workers=0 to "
            "do without); --ckpt_path last goes on from the last whole checkpoint, if there is one yet"
        )
    if re.search("Connection (closed|reset) by (remote )?peer|Connection reset", text):
        return (
            "another process of this training ended, whose own message says why; --ckpt_path last goes on from the "
            "last whole checkpoint, if there is one yet"
        )
    return None
