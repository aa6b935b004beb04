"""What makes a checkpoint one: a manifest, written last, with a sha256 of every file and of itself.

Enters: the folder of a checkpoint. Leaves: its `Manifest`, or what is wrong with it. No manifest, no checkpoint.
"""

import hashlib
import importlib.metadata
import json
from typing import Any, NamedTuple

import jax
from etils import epath

from flax_s2s import __version__
from flax_s2s.config import UserError, differences, from_json
from flax_s2s.runtime import processor

FILE = "manifest.json"
PARTIAL = f".{FILE}.partial"  # ends the name of one that is being written, beside the checkpoint
_PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint", "sentencepiece")


class Bound(NamedTuple):
    """What a checkpoint is bound to: it is not restored into anything else."""

    config: str  # JSON
    vocab_sha256: str
    corpus_sha256: str


class Manifest(NamedTuple):
    """What is known of a complete checkpoint."""

    step: int
    score: float | None  # gain of `metric`, if it was measured at this step
    state_sha256: str
    leaves: dict[str, str]  # path -> type and shape
    bound: Bound
    versions: dict[str, str]
    files: dict[str, str]  # path -> sha256
    metric: str = ""  # what score is a gain of
    fence: int = 0  # of the lease that it was written under
    bad_in_a_row: int = 0  # bad updates that end with this step
    regular: bool = True  # saved by every run with these settings: not only because it was stopped here
    cores: int = 0  # that process 0 computed with; 0: it was no CPU that did

    @property
    def good(self) -> bool:
        """Whether training may go back to it: were it to go back to where it was stopped, a stop would change the result."""
        return self.regular and self.bad_in_a_row == 0


def read(checkpoint: epath.Path) -> Manifest:
    """The manifest of a checkpoint.

    Raises:
        UserError: there is none, or it is not as it was written.
    """
    try:
        tree = json.loads((checkpoint / FILE).read_text())
        if not isinstance(tree, dict) or tree.pop("sha256") != _hash_tree(tree):
            raise ValueError("its content is not what was written")
        return Manifest(**{**tree, "bound": Bound(**tree["bound"])})
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"the manifest of {checkpoint} cannot be read: {error}") from None


def write(checkpoint: epath.Path, manifest: Manifest) -> None:
    """Makes a folder a checkpoint: the manifest appears whole or not at all."""
    partial = checkpoint.parent / f"{checkpoint.name}{PARTIAL}"
    tree = {**manifest._asdict(), "bound": manifest.bound._asdict()}
    partial.write_text(json.dumps({**tree, "sha256": _hash_tree(tree)}, indent=1))
    partial.replace(checkpoint / FILE)


def verify(checkpoint: epath.Path, content: bool = True) -> tuple[Manifest | None, str]:
    """The manifest if every file is as it says, else what is wrong; without `content`, if every file is there."""
    try:
        manifest = read(checkpoint)
    except UserError as error:
        return None, str(error)
    try:
        found = hash_files(checkpoint, content)
    except OSError as error:
        return None, f"{error.filename or checkpoint} cannot be read: {error.strerror or error}"
    for name in manifest.files.keys() | found.keys():
        if name not in found or name not in manifest.files or (content and manifest.files[name] != found[name]):
            return None, f"{name} is {'missing' if name not in found else 'not the file that was written'}"
    return manifest, ""


def describe_other_means(manifest: Manifest) -> str:
    """What computes here otherwise than what made a checkpoint, to other bits; empty where nothing is known to."""
    cores, jax_there, jax_here = computing_cores(), manifest.versions.get("jax", ""), versions()["jax"]
    other = [f"cores {manifest.cores} there and {cores} here"] if manifest.cores and cores and manifest.cores != cores else []
    other += [f"jax {jax_there} there and {jax_here} here"] if jax_there and jax_there != jax_here else []
    return ", ".join(other)


def computing_cores() -> int:
    """Cores that this process computes with; 0 where it is not a CPU that does."""
    return processor.cores() if jax.default_backend() == "cpu" else 0


def refuse_others(manifest: Manifest, run: epath.Path, bound: Bound, leaves: dict[str, str]) -> None:
    """Refuses a checkpoint of other training pairs, another vocabulary, another model, or another configuration of what is learned.

    Raises:
        UserError: what differs.
    """
    if manifest.bound.corpus_sha256 != bound.corpus_sha256:
        raise UserError(
            f"the training pairs are not those that {run} was trained on (sha256 {bound.corpus_sha256[:12]} instead of "
            f"{manifest.bound.corpus_sha256[:12]}); give the same data, or another --run-dir"
        )
    refuse_other_vocabulary(manifest, run, bound.vocab_sha256)
    refuse_other_leaves(manifest.leaves, leaves)
    if manifest.bound.config != bound.config:
        different = differences(from_json(manifest.bound.config), from_json(bound.config), "identity")
        if different:
            raise UserError(
                f"checkpoint {manifest.step} of {run} was trained with other values of fields that decide what is learned:\n  "
                + "\n  ".join(different)
                + "\ngive the old values, or another --run-dir"
            )


def refuse_other_vocabulary(manifest: Manifest, run: epath.Path, vocab_sha256: str) -> None:
    """Refuses a checkpoint whose token ids would mean other tokens.

    Raises:
        UserError: they would.
    """
    if manifest.bound.vocab_sha256 != vocab_sha256:
        raise UserError(f"the vocabulary in {run} is not the one it was trained with; restore it from a copy")


def refuse_other_leaves(saved: dict[str, str], wanted: dict[str, str]) -> None:
    """Refuses arrays of other names, types or shapes, as `describe_leaves` gives them.

    Raises:
        UserError: the first that differs.
    """
    for path in sorted(saved.keys() | wanted.keys()):
        if saved.get(path) != wanted.get(path):
            raise UserError(
                f"the checkpoint does not fit the model: {path} is {saved.get(path, 'absent')} there and {wanted.get(path, 'absent')} here"
            )


def describe_leaves(parts: Any) -> dict[str, str]:
    """`{"['params']['encoder']...": "float32 (256, 2048)"}` of arrays or their abstract stand-ins."""
    return {jax.tree_util.keystr(path): f"{leaf.dtype} {leaf.shape}" for path, leaf in jax.tree_util.tree_leaves_with_path(parts)}


def versions() -> dict[str, str]:
    """Versions of the packages that decide results."""
    found = {"flax_s2s": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def hash_files(folder: epath.Path, content: bool = True) -> dict[str, str]:
    """sha256 of every file below a folder but the manifest, by relative path; empty ones without `content`, which reads no file."""
    found: dict[str, str] = {}
    for child in sorted(folder.iterdir()):
        if child.is_dir():
            found |= {f"{child.name}/{name}": digest for name, digest in hash_files(child, content).items()}
        elif child.name != FILE:
            found[child.name] = hashlib.sha256(child.read_bytes()).hexdigest() if content else ""
    return found


def _hash_tree(tree: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()
