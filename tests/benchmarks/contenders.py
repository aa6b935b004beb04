"""What is measured side by side: processes that wait while another works; and how their figures are summed up."""

import json
import statistics
import subprocess
import sys


class Contender:
    """A process of its own that works when it is asked to; each line it prints is JSON, the first says what it is."""

    def __init__(self, command):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"{' '.join(map(str, command))} does not start")
        self.described = json.loads(line)

    def ask(self, what):
        self.process.stdin.write(what + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def quartiles(values):
    """The median, and the distance of the quartiles as a part of it."""
    low, middle, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return middle, (high - low) / middle
