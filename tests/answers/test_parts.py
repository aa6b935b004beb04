import errno
import itertools
import json
import random
from collections import Counter

import pytest
from etils import epath
from hypothesis import given
from hypothesis import strategies as st

from flax_s2s.answers import parts
from flax_s2s.config import UserError

MADE_WITH = {"states_sha256": ["a"], "beam_size": 5}
LINES = [b"one", b"", b"three" * 9, b"4", b"five\r", b"6" * 200, b"seven"] * 5


@pytest.fixture
def source(tmp_path):
    path = epath.Path(tmp_path) / "in"
    path.write_bytes(b"\n".join(LINES) + b"\n")
    return path


def decode(job, part):
    with job.source.open("rb") as file:
        file.seek(part.begin)
        body = file.read(part.end - part.begin)
    return body.upper() + (b"" if body.endswith(b"\n") else b"\n"), Counter(lines=part.lines)


def work(source, chosen=lambda part: True, part_bytes=50, overwrite=False, **changed):
    """Makes some of the parts, and puts all together if none is missing."""
    job = parts.open_job(source, source.parent / "out", part_bytes, MADE_WITH | changed, overwrite=overwrite)
    for part in parts.missing(job):
        if chosen(part):
            parts.write_part(job, part, *decode(job, part))
    return job if parts.missing(job) or parts.is_whole(job) else parts.merge(job, 1.0)


@given(
    lines=st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b" ")), max_size=30),
    ends=st.booleans(),
    part_bytes=st.integers(1, 60),
    block=st.integers(1, 7),
)
def test_parts_are_whole_lines_and_all_of_them(tmp_path_factory, lines, ends, part_bytes, block):
    content = b"\n".join(lines) + (b"\n" if ends and lines else b"")
    path = epath.Path(tmp_path_factory.mktemp("plan")) / "in"
    path.write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "_BLOCK", block)
        plan = parts.make_plan(path, part_bytes)
    assert [part.begin for part in plan.parts] == [0, *(part.end for part in plan.parts)][: len(plan.parts)]
    assert (plan.parts[-1].end if plan.parts else 0) == len(content)
    wanted = content.split(b"\n")[: -1 if content.endswith(b"\n") or not content else None]
    assert plan.lines == len(wanted)
    for part in plan.parts:
        text = content[part.begin : part.end]
        assert text.endswith(b"\n") or part == plan.parts[-1]
        assert len(text) >= part_bytes or part == plan.parts[-1]
        assert text.split(b"\n")[: part.lines] == wanted[part.first_line : part.first_line + part.lines]
        assert b"\n" not in text[part_bytes - 1 : -1]  # it ends with the first line end that it may
    assert plan == parts.make_plan(path, part_bytes)


def test_the_output_is_the_parts_in_order(source):
    summary = work(source)
    assert (source.parent / "out").read_bytes() == source.read_bytes().upper()
    assert summary["lines"] == len(LINES)
    assert sorted(path.name for path in source.parent.iterdir()) == ["in", "out", "out.summary.json"]
    assert json.loads((source.parent / "out.summary.json").read_text()) == summary


def test_an_empty_input_gives_an_empty_output(source):
    source.write_bytes(b"")
    assert work(source)["lines"] == 0
    assert (source.parent / "out").read_bytes() == b""


def test_shards_in_any_order_and_number_give_the_same_bytes(source):
    work(source)
    wanted = (source.parent / "out").read_bytes()
    draw = random.Random(1)
    for _ in range(20):
        for path in ("out", "out.summary.json"):
            (source.parent / path).unlink()
        shards = list(itertools.chain(*([(i, n) for i in range(n)] for n in draw.sample([1, 2, 3, 5], 2))))
        draw.shuffle(shards)
        for index, count in shards:
            limit = draw.randint(0, 20)  # it is killed after so many parts
            made = itertools.count()
            work(source, lambda part, index=index, count=count, limit=limit, made=made: part.number % count == index and next(made) < limit)
        work(source)
        assert (source.parent / "out").read_bytes() == wanted


@pytest.mark.parametrize("spoil", ["cut", "flip", "header", "empty"])
def test_a_part_that_is_not_as_it_was_written_is_made_again(source, spoil):
    job = work(source, lambda part: part.number != 3)
    place = job.folder / "000001"
    content = place.read_bytes()
    head, _, body = content.partition(b"\n")
    spoilt = {"cut": content[:-3], "flip": head + b"\n" + body.replace(b"6", b"7", 1), "header": b"{}\n" + body, "empty": b""}[spoil]
    assert spoilt != content
    place.write_bytes(spoilt)
    assert [part.number for part in parts.missing(job)] == [1, 3]
    work(source)
    assert (source.parent / "out").read_bytes() == source.read_bytes().upper()


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"beam_size": 4}, "beam_size (5, now 4)"),
        ({"states_sha256": ["b"]}, "states_sha256"),
        ({"part_bytes": 60}, "part_bytes"),
        ({}, "input"),
    ],
)
def test_another_job_in_the_same_place_is_refused(source, finished, change, names):
    work(source, lambda part: finished)
    before = {path.name: path.read_bytes() for path in source.parent.iterdir() if path.is_file()}
    if not change:
        source.write_bytes(source.read_bytes() + b"more\n")
        before["in"] = source.read_bytes()
    with pytest.raises(UserError) as error:
        work(source, **change)
    assert names in str(error.value)
    assert "or another --output, or remove" in str(error.value) and "as --overwrite does" in str(error.value)
    assert {path.name: path.read_bytes() for path in source.parent.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("change", [{"beam_size": 4}, {"part_bytes": 60}, {}])
def test_another_job_in_the_same_place_is_overwritten_where_that_is_asked_for(source, finished, change):
    work(source, lambda part: finished or part.number == 0)
    if not change:
        source.write_bytes(source.read_bytes() + b"more\n")
    job = work(source, lambda part: False, overwrite=True, **change)
    assert [part.number for part in parts.missing(job)] == list(range(len(job.plan.parts)))  # nothing that is there is of the other
    assert not (source.parent / "out").exists() and not (source.parent / "out.summary.json").exists()
    work(source, overwrite=True, **change)
    assert (source.parent / "out").read_bytes() == source.read_bytes().upper()
    assert parts.is_whole(work(source, lambda part: pytest.fail("nothing is missing"), overwrite=True, **change))  # the same job stays


def test_an_output_with_several_lines_for_one_is_put_together(source):
    def write(one_for_one):
        job = parts.open_job(source, source.parent / "out", 50, MADE_WITH, one_for_one=one_for_one)
        for part in parts.missing(job):
            body, counts = decode(job, part)
            parts.write_part(job, part, body + b"and another\n", counts)
        return parts.merge(job, 1.0)

    with pytest.raises(RuntimeError, match="came out"):
        write(one_for_one=True)
    assert write(one_for_one=False)["lines"] == len(LINES)
    many = len(parts.make_plan(source, 50).parts)
    assert (source.parent / "out").read_bytes().count(b"\n") == len(LINES) + many


def test_the_first_error_of_all_parts_is_said(source):
    job = parts.open_job(source, source.parent / "out", 50, MADE_WITH)
    for part in reversed(parts.missing(job)):
        parts.write_part(job, part, *decode(job, part), first_error=f"line {part.first_line + 1}: no" if part.number in (1, 3) else "")
    assert parts.merge(job, 1.0)["first_error"] == f"line {job.plan.parts[1].first_line + 1}: no"


def test_a_finished_job_is_not_done_again(source):
    work(source)
    assert parts.is_whole(work(source, lambda part: pytest.fail("nothing is missing")))


def test_a_result_with_another_number_of_lines_is_a_bug_that_is_named(source):
    job = work(source, lambda part: False)
    with pytest.raises(RuntimeError, match=r"part 0 has \d+ lines, and 1 came out"):
        parts.write_part(job, parts.missing(job)[0], b"x\n", Counter())


def test_two_processes_that_put_the_parts_together_do_not_disturb_each_other(source, monkeypatch):
    """One is overtaken while it reads the parts: they are gone, and the output is whole."""
    job = work(source, lambda part: False)
    for part in parts.missing(job):
        parts.write_part(job, part, *decode(job, part))
    read, overtaken = parts._read_part, []

    def slow(one, part):
        if part.number == 2 and not overtaken:
            overtaken.append(True)
            parts.merge(job, 2.0)
        return read(one, part)

    monkeypatch.setattr(parts, "_read_part", slow)
    assert parts.merge(job, 1.0)["seconds"] == 2.0
    assert (source.parent / "out").read_bytes() == source.read_bytes().upper()
    assert sorted(path.name for path in source.parent.iterdir()) == ["in", "out", "out.summary.json"]


def test_a_process_that_is_overtaken_while_it_makes_a_part_goes_on(source):
    """Of two that each make all parts, the slower one ended with an error: its part had no folder any more."""
    slow = parts.open_job(source, source.parent / "out", 50, MADE_WITH)
    work(source)
    last = slow.plan.parts[-1]
    parts.write_part(slow, last, *decode(slow, last))
    assert parts.is_whole(slow) and parts.missing(slow) == []
    assert sorted(path.name for path in source.parent.iterdir()) == ["in", "out", "out.summary.json"]


def test_a_part_that_comes_while_the_parts_are_removed_is_removed_too(source, monkeypatch):
    job = work(source, lambda part: False)
    remove, seen = type(job.folder).rmtree, []

    def overtaken(folder, *args):
        if not seen:
            seen.append(folder)
            raise OSError(errno.ENOTEMPTY, "Directory not empty")
        return remove(folder, *args)

    monkeypatch.setattr(type(job.folder), "rmtree", overtaken)
    work(source)
    assert seen == [job.folder] and not job.folder.exists()


def test_progress_counts_the_lines_of_all(source):
    job = work(source, lambda part: part.number % 2 == 0)
    assert parts.done_lines(job) == sum(part.lines for part in job.plan.parts if part.number % 2 == 0)
    work(source)
    assert parts.done_lines(job) == len(LINES)
