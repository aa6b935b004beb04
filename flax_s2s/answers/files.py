"""What the verbs that answer lines read and write: stdin, files, pipes or folders of files, whole or a share of it."""

import dataclasses
import os
from typing import Literal, TypeAlias

from etils import epath

from flax_s2s.config import UserError
from flax_s2s.data.files import PACKINGS
from flax_s2s.runs.rundir import is_stream, make_path
from flax_s2s.runtime import cluster

Form: TypeAlias = Literal["text", "tsv", "csv", "jsonl"]
OutputForm: TypeAlias = Literal["text", "jsonl", "nbest"]

_LONGEST_WAIT_SECS = 3600
_ENDINGS: dict[str, Form] = {"tsv": "tsv", "csv": "csv", "jsonl": "jsonl", "ndjson": "jsonl", "jsonlines": "jsonl", "json": "jsonl"}


@dataclasses.dataclass
class Files:
    """Lines in, and one line out for each."""

    input: tuple[str, ...] = ()
    """Files or pipes to read, or folders of files; none: stdin, as its lines come."""
    output: str = ""
    """File or pipe to write, or folder for the answers to several files; empty: stdout."""
    form: Literal["auto", "text", "tsv", "csv", "jsonl"] = "auto"
    """Lines of text, of columns (CSV: a record is one line), or of JSON objects; auto: by the file's ending, text for stdin."""
    source_field: str = ""
    """Where the source stands: a column's number (from 0) or name in the header, or a field of objects; empty: as the run was trained."""
    target_field: str = ""
    """Where the target stands, named like it."""
    features_field: str = ""
    """Where the features stand, named like it; of runs that were trained with data.features."""
    header: Literal["auto", "yes", "no"] = "auto"
    """Whether the first row of columns holds their names; it is not read as a sentence. auto: as the run was trained."""
    overwrite: bool = False
    """Replace an output that was made, or begun, of another input or with other settings."""
    shard: str = ""
    """I/N: this process makes every N-th part of the output, from the I-th, from 0; auto: as its place says, as a Slurm array; empty: all."""
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
    """The files to read; none for stdin. A pipe is not opened: what it holds comes once.

    Raises:
        UserError: one cannot be read, or there is none.
    """
    found: list[epath.Path] = []
    for name in files.input:
        path = make_path(name)
        try:
            if is_stream(name):
                found.append(path)
            elif path.is_dir():
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
    """A file for each input: the output itself, or one of the same name in the output folder; one for all if it is a pipe; none for stdout.

    Raises:
        UserError: one cannot be written, or is an input.
    """
    if not files.output or not inputs or is_stream(files.output):
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


def find_form(files: Files, name: str) -> Form:
    """The form of an input by its name; empty: stdin."""
    return files.form if files.form != "auto" else _ENDINGS.get(ending(name), "text")


def ending(name: str) -> str:
    """What a name ends with, that of what is compressed in it: a/b.CSV.gz -> csv."""
    name = name.rpartition("/")[2].lower()
    name = next((name.removesuffix(packed) for packed in PACKINGS if name.endswith(packed)), name)
    return name.rpartition(".")[2] if "." in name else ""


def find_shard(files: Files) -> tuple[int, int]:
    """Which share of the parts is this process', and of how many.

    Raises:
        UserError: what was given is no share, or the environment says half of one.
    """
    if not files.shard:
        return 0, 1
    if files.shard == "auto":
        return cluster.find_share(os.environ)
    index, slash, count = files.shard.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
        raise UserError(
            f"--shard {files.shard} must be I/N, a number from 0 and how many there are, such as 0/4; or auto, as the place says that started it"
        )
    return int(index), int(count)
