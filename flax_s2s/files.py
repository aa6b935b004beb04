"""What the verbs that answer lines read and write: stdin, files or folders of files, in one of three forms, whole or a share of it."""

import dataclasses
import os
from typing import Literal

from etils import epath

from flax_s2s import cluster
from flax_s2s.config import UserError
from flax_s2s.rundir import make_path

Form = Literal["text", "tsv", "jsonl"]

_LONGEST_WAIT_SECS = 3600


@dataclasses.dataclass
class Files:
    """Lines in, and one line out for each."""

    input: tuple[str, ...] = ()
    """Files to read, or folders of them; none: stdin, as its lines come."""
    output: str = ""
    """File to write, or folder for the answers to several files; empty: stdout."""
    form: Literal["auto", "text", "tsv", "jsonl"] = "auto"
    """Lines of text, of columns, or of JSON objects; auto: by the file's ending, text for stdin."""
    shard: str = ""
    """I/N: this process makes every N-th part of the output, from the I-th, from 0; empty: as the place says, or all."""
    part_bytes: int = 1 << 17
    """Bytes of input after which a part ends; what is killed begins again at a part."""
    batch_wait: float = 0.05
    """Seconds in which lines of stdin are waited for, once one has come, to answer them together."""

    def __post_init__(self) -> None:
        if self.part_bytes < 1:
            raise UserError(f"--part-bytes {self.part_bytes} must be at least 1")
        if not 0 <= self.batch_wait <= _LONGEST_WAIT_SECS:
            raise UserError(f"--batch-wait {self.batch_wait} must be 0 to {_LONGEST_WAIT_SECS} seconds")


def find_inputs(files: Files) -> list[epath.Path]:
    """The files to read; none for stdin.

    Raises:
        UserError: one cannot be read, or there is none.
    """
    found: list[epath.Path] = []
    for name in files.input:
        path = make_path(name)
        try:
            if path.is_dir():
                found += sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
            else:
                path.open("rb").close()
                found.append(path)
        except OSError as error:
            raise UserError(f"{name} cannot be read: {error.strerror or error}") from None
    if files.input and not found:
        raise UserError(f"--input {' '.join(files.input)} has no file; give at least one")
    return found


def find_outputs(files: Files, inputs: list[epath.Path]) -> list[epath.Path]:
    """A file for each input: the output itself, or one of the same name in the output folder; none for stdout.

    Raises:
        UserError: one cannot be written, or is an input.
    """
    if not files.output or not inputs:
        return [make_path(files.output)] if files.output else []
    output = make_path(files.output)
    into_folder = len(inputs) > 1 or make_path(files.input[0]).is_dir()
    if into_folder:
        if len({path.name for path in inputs}) < len(inputs):
            raise UserError("two of the input files have one name; give them different output folders")
        try:
            output.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{files.output} cannot be made a folder: {error.strerror or error}") from None
    elif output.is_dir():
        raise UserError(f"{files.output} cannot be written: Is a directory")
    outputs = [output / path.name if into_folder else output for path in inputs]
    for path, target in zip(inputs, outputs, strict=True):
        if path.resolve() == target.resolve():
            raise UserError(f"--input and --output are both {target}; give another --output")
        if not target.parent.is_dir():
            raise UserError(f"{target} cannot be written: No such file or directory")
    return outputs


def find_form(files: Files, path: epath.Path | None) -> Form:
    """The form of an input; None: stdin."""
    if files.form != "auto":
        return files.form
    name = path.name.removesuffix(".gz") if path else ""
    return "jsonl" if name.endswith(".jsonl") else "tsv" if name.endswith(".tsv") else "text"


def find_shard(files: Files) -> tuple[int, int]:
    """Which share of the parts is this process', and of how many.

    Raises:
        UserError: what was given is no share, or the environment says half of one.
    """
    if not files.shard:
        return cluster.find_share(os.environ)
    index, slash, count = files.shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(f"--shard {files.shard} must be I/N, a number from 0 and how many there are, such as 0/4")
    return int(index), int(count)
