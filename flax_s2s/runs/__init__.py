"""What is kept: enters the state of a training; leaves a run directory with its checkpoints, each proven by a manifest, held by one lease."""
