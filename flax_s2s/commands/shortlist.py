"""`shortlist RUN_DIR`: learns which target tokens are worth trying for a source."""

import dataclasses

from flax_s2s.commands.wiring import console, make_ready
from flax_s2s.decoding import shortlist
from flax_s2s.runs import rundir


def run(run_dir: str, data_folder: str) -> int:
    """Reads the run's training pairs, and writes `shortlist.npz` into the run directory."""
    folder, out = rundir.make_path(run_dir), console()
    config = rundir.read_config(folder)
    if data_folder:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, folder=data_folder))
    with out.status("reading the training pairs"):
        ready = make_ready(config, folder / rundir.VOCAB)
    with out.status("learning"):
        found = shortlist.learn(ready.tokens.pairs, *ready.vocabularies.sizes)
    shortlist.save(found, folder / rundir.SHORTLIST)
    out.print(f"{folder / rundir.SHORTLIST} is written; decode with --shortlist 256, for example")
    return 0
