#!/usr/bin/env bash
# jaxlib 0.10.2 on CPUs: in the product of a matrix with a vector, what a row gets depends on where it stands, in the last digits; in the
# product with a matrix, and in a sum of products, it does not.
#
# Guess: each row is one sum over the same numbers in the same order, so that rows that change places take their results along, bit by bit.
# Seen: so it is for up to 8 rows and for multiples of 8; of 10, 12, 15, 20, 33 or 65 rows, those that are left over after blocks of eight are
# added up in another order, in 14 or more of 20 draws. The same rows times a matrix of 64 columns, or multiplied and summed: equal in every draw.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet jax==0.10.2 jaxlib==0.10.2
JAX_PLATFORMS=cpu "$folder/env/bin/python" - <<'P'
import jax
import jax.numpy as jnp
import numpy as np

DRAWS, SIZE = 20, 256
draw = np.random.default_rng(0)
products = {
    "times a vector": (jax.jit(jnp.matmul), ()),
    "times a matrix": (jax.jit(jnp.matmul), (64,)),
    "multiplied, summed": (jax.jit(lambda rows, vector: jnp.sum(rows * vector[None, :], axis=-1)), ()),
}
moved = {name: {} for name in products}
for name, (program, columns) in products.items():
    for count in (4, 8, 10, 12, 15, 16, 20, 33, 64, 65):
        moved[name][count] = 0
        for _ in range(DRAWS):
            rows = draw.normal(size=(count, SIZE)).astype(np.float32)
            right = draw.normal(size=(SIZE, *columns)).astype(np.float32)
            order = draw.permutation(count)
            before, after = np.asarray(program(rows, right)), np.asarray(program(rows[order], right))
            moved[name][count] += not np.array_equal(before[order], after)
    print(f"{name:<20}" + " ".join(f"{count}: {many:2}" for count, many in moved[name].items()))
odd = [moved["times a vector"][count] for count in (10, 12, 15, 20, 33, 65)]
assert min(odd) > 0 and moved["times a vector"][64] == moved["times a vector"][16] == 0, "this has changed"
assert not any(moved["times a matrix"].values()) and not any(moved["multiplied, summed"].values()), "this has changed"
P
