"""The programs that people run; each is one command, ``python -m experiments.NAME``."""

import signal
import sys

if sys.argv[:1] == ["-m"]:  # `python -m` has not found the program yet
    # Importing takes seconds in which nothing can be lost: Ctrl-C ends them without a traceback.
    # Once the program runs, `signals.watched` says what a signal does.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
