"""How much memory this process has had in use."""

import sys
from pathlib import Path


def peak_rss_bytes() -> int:
    """Return the most memory that this process has had in use at a time, all that it shares too.

    From ``VmHWM`` where there is one: what `resource.getrusage` calls the maximum is, in a new
    process on Linux, at least that of the process which started it.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024
