"""A process that votes without end and prints the battle of each vote that the store has acknowledged."""

from __future__ import annotations

import argparse
import itertools
import resource
import sys

from tests.component.arena_votes import battle, turn, vote
from webui.records import StoreUnavailable
from webui.store.store import open_store


def main() -> None:
    """`arena_voter PATH LIFE [--file-limit BYTES]`; exit code 3 when the store cannot be used any more."""
    parser = argparse.ArgumentParser()
    parser.add_argument("path")
    parser.add_argument("life")
    parser.add_argument("--file-limit", type=int)
    given = parser.parse_args()
    store = open_store(given.path)
    if given.file_limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (given.file_limit, given.file_limit))
    try:
        for index in itertools.count():
            name = f"{given.life}-{index}"
            store.open_battle(battle(name))
            # Numbers are in no language: the detector, which takes a second to load, is not what is tested.
            store.save_turn(name, turn(prompt=f"{given.life} + {index}"))
            store.vote(vote(name))
            sys.stdout.write(name + "\n")
            sys.stdout.flush()
    except StoreUnavailable as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(3) from None


if __name__ == "__main__":
    main()
