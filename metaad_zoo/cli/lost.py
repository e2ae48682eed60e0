"""Messages for errors of a training that mean that one of its other processes ended."""

from __future__ import annotations

import re


def lost_process(error: RuntimeError) -> str | None:
    """Message that says which process ended and what to do; None for other errors.

    Example:
        >>> lost_process(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "))[:55]
        'a loader process died (DataLoader worker (pid 7) is kil'
    """
    text = str(error).strip()
    if text.startswith("DataLoader worker (pid"):
        return (
            f"a loader process died ({text.rstrip('. ')}), for instance for lack of memory (set data.num_workers=0 to "
            "do without); --ckpt_path last continues from the last whole checkpoint, if there is one"
        )
    if re.search("Connection (closed|reset) by (remote )?peer|Connection reset", text):
        return (
            "another process of this training ended: see its own message; --ckpt_path last continues from the last "
            "whole checkpoint, if there is one"
        )
    return None
