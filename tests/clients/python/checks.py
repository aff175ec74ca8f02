"""Checks that are counted: a script that ends early has made fewer of them than the test that runs it wants."""

import argparse
import faulthandler
import json

# A script that hangs says so itself, in time for the test that waits for it.
PATIENCE_SECONDS = 60


class Checks:
    """What was found to be as it should, and an end with words at the first thing that was not."""

    def __init__(self):
        self.count = 0

    def equal(self, found, wanted, what):
        """Both are the same."""
        if found != wanted:
            raise AssertionError(f"{what}: {found!r}, and not {wanted!r}")
        self.count += 1

    def true(self, found, what):
        """It holds."""
        self.equal(bool(found), True, what)

    def refused(self, kind, words, call):
        """The call ends with this exception and these words."""
        try:
            answer = call()
        except kind as error:
            self.true(words in str(error), f"{words!r} in {error!r}")
        else:
            raise AssertionError(f"answered with {answer!r} where {kind.__name__} ({words}) is due")

    def done(self):
        """Told to the test."""
        print(json.dumps({"checks": self.count}))


def arguments():
    """Where the member is, and what it asks of its clients."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--ca")
    parser.add_argument("--cert")
    parser.add_argument("--key")
    return parser.parse_args()


def in_time():
    """Ends the program, and says where it is, when it takes too long."""
    faulthandler.dump_traceback_later(PATIENCE_SECONDS, exit=True)
