"""The parts of `tests/soak/` in short, so that none of them can rot: what is cheap in every run of the tests, the others with `-m slow`."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from processes import environment
from soak import soak
from tiny import REPOSITORY

COUNTS = {"kills": 4, "pairs": 2, "failures": 4, "sigterm": 2, "topology": 1, "damage": 7, "nan": 2}
STEPS = {"kills": 600, "pairs": 600}  # enough for so many kills


def test_each_part_is_here_in_short(capsys: pytest.CaptureFixture[str]) -> None:
    assert soak.PARTS.keys() == COUNTS.keys() == soak.COUNTS.keys()
    for wrong, message in ((["--help"], "usage: "), (["damages"], "there is no part damages; parts: kills, ")):
        with pytest.raises(SystemExit):
            soak.main(wrong)
        assert message in "".join(capsys.readouterr())


def test_damage_is_noticed(trained_run: Path, tmp_path: Path) -> None:
    """Each kind of it: with fields that have come since, a checkpoint is restored as a continued run does."""
    here = soak.Soak(tmp_path, random.Random(3), 7, 0)
    assert soak.damage_and_restore(here, trained_run, 4, 2) == 7


def test_states_are_read_and_compared(trained_run: Path) -> None:
    """What `topology` and `nan` stand on."""
    assert soak.distance(trained_run, trained_run, 4) == 0 < soak.apart(soak.load(trained_run, 2), soak.load(trained_run, 4))
    assert soak.same_batches(trained_run, trained_run)
    assert not soak.not_finite(soak.load(trained_run, 4))
    assert soak.repeated(trained_run) == 0 and soak.steps_made(trained_run) == 4


@pytest.mark.slow
@pytest.mark.parametrize("part", COUNTS)
def test_a_part(part: str) -> None:
    command = [sys.executable, str(REPOSITORY / "tests/soak/soak.py"), part, f"--count={COUNTS[part]}", f"--steps={STEPS.get(part, 0)}"]
    done = subprocess.run(command, env=environment(8), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_decoding_is_killed(trained_run: Path, tmp_path: Path) -> None:
    """`tests/commands/test_decode.py` has what it does; here as it is typed."""
    (tmp_path / "in").write_text("".join(f"{hours} hours\n" for hours in range(1, 200)))
    command = [sys.executable, str(REPOSITORY / "tests/soak/decode.py"), str(trained_run), str(tmp_path / "in"), "--kills=2"]
    done = subprocess.run(
        [*command, "--", "--part-bytes", "60", "--beam-size", "2"], env=environment(1), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "the same bytes: True; left over: []" in done.stdout, done.stdout + done.stderr
