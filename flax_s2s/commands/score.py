"""`score RUN_DIR --source FILE --target FILE`: how probable the model finds given pairs."""

import contextlib
import math
import sys

from flax_s2s.commands.wiring import console, open_runs
from flax_s2s.config import UserError
from flax_s2s.data.files import read_lines
from flax_s2s.decoding.forced import Scorer
from flax_s2s.rundir import writing


def run(run_dir: str, checkpoint: str, source: str, target: str, output: str) -> int:
    """Writes a log-probability a line; the perplexity per token goes to stderr."""
    sources, targets = read_lines(source), read_lines(target)
    if len(sources) != len(targets):
        raise UserError(f"{source} has {len(sources)} lines and {target} {len(targets)}; they must have equally many")
    if not sources:
        raise UserError(f"{source} is empty; give at least one pair")
    with writing(output) if output else contextlib.nullcontext(sys.stdout.buffer) as file:
        opened, out = open_runs([run_dir], checkpoint), console()
        scorer = Scorer(opened.models[0], opened.vocabularies, opened.config.decoding.rows, opened.devices)
        with out.status("scoring"):
            found = scorer(opened.params[0], sources, targets)
        file.write("".join(f"{pair.logp:.6f}\n" for pair in found).encode())
        file.flush()
    logp, tokens = sum(pair.logp for pair in found), sum(pair.tokens for pair in found)
    out.print(
        f"{len(found):,} pairs, {tokens:,} target tokens, log-probability {logp:.2f}, perplexity {math.exp(min(-logp / tokens, 700.0)):.3f}"
    )
    return 0
