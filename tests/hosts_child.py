"""experiments.ablate as one of several processes that draws nothing, and does as it is told.

``TOGETHER=N``: N processes begin to train together, so that each gets something to do.
``STAND_STILL_AFTER=N``: once process 0 has been sent N epochs this one stands still, so that a test
knows what it is busy with when it is killed.
"""

import os
import socket
import sys
import threading
import time

from experiments import ablate, cli, figures, page
from experiments.ablate_settings import Settings
from experiments.hosts import Follower
from experiments.leader import Leader


def free_port():
    """Return the number of a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def main():
    """Change what the programs do, as the environment says, and run one."""
    figures.draw = lambda *args, **kwargs: []
    page.write = lambda *args: None
    together = threading.Barrier(int(os.environ["TOGETHER"]))
    begun: set[int] = set()
    given: list[bytes] = []
    take, give_work, give = Leader.take, Leader._give_work, Follower.give

    def begin(process):
        if process not in begun:
            begun.add(process)
            together.wait(100)

    def take_together(leader, first=False):
        begin(0)
        return take(leader, first)

    def give_together(leader, process, channel, terms):
        begin(process)
        return give_work(leader, process, channel, terms)

    def give_and_stand_still(follower, content):
        give(follower, content)
        given.append(content)
        if len(given) == int(os.environ["STAND_STILL_AFTER"]):
            time.sleep(600)

    Leader.take, Leader._give_work = take_together, give_together
    Follower.give = give_and_stand_still
    return cli.run(ablate.main, Settings, "ablate")


if __name__ == "__main__":
    sys.exit(main())
