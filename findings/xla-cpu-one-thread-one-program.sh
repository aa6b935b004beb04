#!/usr/bin/env bash
# jax 0.10.2 (CPU): two programs that have nothing to do with each other run one after the other if one thread asks for both, at once if two threads do.
#
# Guess: calls return before they are computed, and no array of the one is in the other; so the second begins while the first runs, on a core that is free.
# Seen: called by one thread, the short one is ready only when the long one before it is. Called by another thread it is ready long before. A beam search whose steps leave
# half of two cores idle gained nothing from a second search that the same thread had started, and 1.4 times the sentences a second from one of a second thread.
# And where arrays are small (100 numbers, not 1,000) the call itself returns only when all is computed, be it a loop of three seconds.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'P'
import threading
import time

import jax
import jax.numpy as jnp
from jax import lax


def make(turns):
    return jax.jit(lambda start: lax.fori_loop(0, turns, lambda _, x: jnp.sin(x) + 0.5, start))


def ask(values, of_another_thread):
    """Whether the long program is done when the short one, asked for after it, is; and how long the call of the long one took."""
    begin, done = jnp.zeros(values), []
    measured = make(count := 20_000_000 // values)
    jax.block_until_ready(measured(begin))
    started = time.perf_counter()
    jax.block_until_ready(measured(begin))
    secs = (time.perf_counter() - started) / count
    long, short = make(int(3 / secs)), make(int(0.1 / secs))  # about 3 s and 0.1 s
    for program in (long, short):
        jax.block_until_ready(program(begin))

    def ask_short():
        jax.block_until_ready(short(begin))
        done.append(running.is_ready())

    started = time.perf_counter()
    running = long(begin)
    asked = time.perf_counter() - started
    if of_another_thread:
        thread = threading.Thread(target=ask_short)
        thread.start()
        thread.join()
    else:
        ask_short()
    jax.block_until_ready(running)
    return done[0], asked


(same, returned), (other, _), (_, held) = ask(1000, False), ask(1000, True), ask(100, False)
print("jax", jax.__version__, f"| the call of a program of 3 s took {returned:.3f} s with arrays of 1,000, {held:.3f} s with arrays of 100")
print("the long program is done when the short one is: asked for by the same thread", same, "| by another", other)
assert returned < 0.5 and same and not other and held > 1, "this has changed"
P
