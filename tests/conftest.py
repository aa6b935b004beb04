"""Settings of the test run, made before jax starts: eight CPU devices, no silent rank promotion, shapes checked."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

from jaxtyping import install_import_hook

install_import_hook("flax_s2s", "beartype.beartype")  # every annotated shape is checked

import jax  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
