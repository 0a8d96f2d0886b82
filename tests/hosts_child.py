"""experiments.ablate as one of several processes that draws nothing, and does as it is told.

``TOGETHER=N``: N processes begin to train together, so that each gets something to do.
``STAND_STILL_AFTER=N``: once process 0 has been sent N epochs this one stands still, so that a test
knows what it is busy with when it is killed.
"""

import os
import sys
import threading
import time

from experiments import ablate, cli, figures, page
from experiments.ablate_settings import Settings
from experiments.hosts import Follower
from experiments.leader import Leader

figures.draw = lambda *args, **kwargs: []
page.write = lambda *args: None

_together = threading.Barrier(int(os.environ["TOGETHER"]))
_begun: set[int] = set()
_left = int(os.environ["STAND_STILL_AFTER"])
_take, _give_work, _give = Leader.take, Leader._give_work, Follower.give


def _begin(process):
    if process not in _begun:
        _begun.add(process)
        _together.wait(100)


def take(leader, first=False):
    _begin(0)
    return _take(leader, first)


def give_work(leader, process, channel, terms):
    _begin(process)
    return _give_work(leader, process, channel, terms)


def give(follower, content):
    global _left
    _give(follower, content)
    _left -= 1
    if _left == 0:
        time.sleep(600)


Leader.take, Leader._give_work, Follower.give = take, give_work, give

if __name__ == "__main__":
    sys.exit(cli.run(ablate.main, Settings, "ablate"))
