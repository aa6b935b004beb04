"""Checkpoints: what is saved comes back bitwise, what is damaged is passed over, what does not fit is refused."""

import dataclasses
import functools
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from etils import epath

from flax_s2s.config import Config, ModelConfig, OptimizerConfig, UserError, to_json
from flax_s2s.runs import manifests
from flax_s2s.runs.checkpoint import Checkpoints
from flax_s2s.runs.manifests import Bound
from flax_s2s.runtime.parallel import make_devices
from flax_s2s.training.optimizer import make_optimizer
from flax_s2s.training.state import TrainState, abstract_state, create_state, hash_state

CONFIG = Config(
    model=ModelConfig(embedding_size=4, hidden_size=6, tie="all"),
    optimizer=OptimizerConfig(schedule="constant", average_decay=0.9),
)
VOCAB = (11, 11)
BOUND = Bound("{}", "vocabulary", "corpus")


@functools.cache
def made(config: Config, devices: int) -> TrainState:
    return create_state(config, VOCAB, make_optimizer(config.optimizer), make_devices(devices, {}))


def state_at(step: int, config: Config = CONFIG, devices: int = 1) -> TrainState:
    return made(config, devices)._replace(step=jax.device_put(np.int32(step), make_devices(devices, {}).replicated))


@functools.cache
def abstract(config: Config = CONFIG, devices: int = 1) -> TrainState:
    return abstract_state(config, VOCAB, make_optimizer(config.optimizer), make_devices(devices, {}))


def save(folder: Path, steps: list[int], scores: list[float | None] | None = None, **keep: Any) -> list[Any]:
    checkpoints, manifests = Checkpoints(epath.Path(folder), **{"keep_last": 99, **keep}), []
    for step, score in zip(steps, scores or [None] * len(steps), strict=True):
        checkpoints.save(state_at(step), score, BOUND, manifests.append)
    checkpoints.close()
    return manifests


def silent(_: str) -> None:
    pass


def test_a_state_comes_back_bitwise_with_its_hash(tmp_path: Path) -> None:
    (manifest,) = save(tmp_path, [7])
    restored = Checkpoints(epath.Path(tmp_path)).restore(abstract(), BOUND, silent)
    assert restored is not None
    assert hash_state(restored) == manifest.state_sha256 == hash_state(state_at(7))
    assert int(restored.step) == 7


def test_a_state_saved_on_one_device_comes_back_bitwise_on_eight(tmp_path: Path) -> None:
    (manifest,) = save(tmp_path, [7])
    restored = Checkpoints(epath.Path(tmp_path)).restore(abstract(devices=8), BOUND, silent)
    assert restored is not None and len(restored.step.sharding.device_set) == 8
    assert hash_state(restored) == manifest.state_sha256


def test_the_last_and_the_best_are_kept(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3, 4, 5], [0.1, 0.9, 0.3, None, 0.2], keep_last=2, keep_best=1)
    checkpoints = Checkpoints(epath.Path(tmp_path))
    assert checkpoints.steps() == [2, 4, 5]
    assert [checkpoints.choose(which) for which in ("best", "last", "4")] == [2, 5, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["2", "4", "5"]


def test_a_score_may_come_later(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3], [0.1, None, 0.2])
    checkpoints = Checkpoints(epath.Path(tmp_path))
    checkpoints.rate(2, 0.9)
    checkpoints.rate(7, 9.9)  # there is none
    assert (checkpoints.choose("best"), checkpoints.steps()) == (2, [1, 2, 3])
    assert checkpoints.load_params(2, abstract().params, "vocabulary")


def test_what_is_no_number_is_not_the_best(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3, 4], [-1.0, float("nan"), -0.9, -1.1])
    assert Checkpoints(epath.Path(tmp_path)).best(9) == [3, 1, 4]


def test_scores_of_another_metric_are_not_compared(tmp_path: Path) -> None:
    save(tmp_path, [1, 2], [20.0, 30.0], metric="bleu")
    save(tmp_path, [3, 4], [-1.2, -1.9], metric="loss")
    assert Checkpoints(epath.Path(tmp_path), "loss").best(9) == [3, 4]
    assert Checkpoints(epath.Path(tmp_path), "bleu").best(9) == [2, 1]
    assert Checkpoints(epath.Path(tmp_path), "chrf").choose("best") == 4


def test_with_another_metric_the_search_for_the_best_begins_anew(tmp_path: Path) -> None:
    score, bad = jax.device_put((np.float32(20), np.int32(3)), make_devices(1, {}).replicated)
    best = state_at(1)._replace(best_score=score, bad_evaluations=bad)
    checkpoints = Checkpoints(epath.Path(tmp_path), "bleu")
    checkpoints.save(best, 20.0, BOUND, lambda _: None)
    checkpoints.close()
    found = {metric: Checkpoints(epath.Path(tmp_path), metric).restore(abstract(), BOUND, silent) for metric in ("bleu", "loss")}
    seen = {metric: (float(state.best_score), int(state.bad_evaluations)) for metric, state in found.items() if state}
    assert seen == {"bleu": (20.0, 3), "loss": (-np.inf, 0)}


def test_what_is_saved_after_a_damaged_one_is_kept(tmp_path: Path) -> None:
    save(tmp_path, [20, 40], keep_last=1, keep_best=1)
    save(tmp_path, [20, 40])
    victim = next(path for path in (tmp_path / "40").glob("**/*") if path.is_file() and path.name != manifests.FILE)
    victim.write_bytes(b"")
    checkpoints = Checkpoints(epath.Path(tmp_path), keep_last=1)
    restored = checkpoints.restore(abstract(), BOUND, silent)
    assert restored is not None and int(restored.step) == 20
    for step in (25, 30):
        checkpoints.save(state_at(step), None, BOUND, lambda _: None)
    checkpoints.close()
    assert checkpoints.steps() == [30]
    assert (tmp_path / "40.damaged").is_dir()  # for whoever wants to know why


def test_without_space_a_save_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the newest one took counts, where it is more than the arrays."""
    save(tmp_path, [1])
    (tmp_path / "1" / "more").write_bytes(b"." * 2**21)
    monkeypatch.setattr("shutil.disk_usage", lambda _: (2**30, 2**30 - 2**21, 2**21))
    with pytest.raises(UserError, match=r"no space left for a checkpoint in .*: it needs 2\.\d MiB, 2\.0 MiB are free; earlier"):
        save(tmp_path, [2])
    assert not (tmp_path / "2").exists() and not list(tmp_path.glob("*tmp*"))


def test_an_unreadable_manifest_of_an_old_checkpoint_stops_nothing(tmp_path: Path) -> None:
    save(tmp_path, [20, 40], [0.1, 0.2])
    (tmp_path / "20" / manifests.FILE).write_text("{")
    assert Checkpoints(epath.Path(tmp_path)).choose("best") == 40
    save(tmp_path, [60], [0.15])
    assert Checkpoints(epath.Path(tmp_path)).best(9) == [40, 60]


def test_names_that_look_like_numbers_are_no_steps(tmp_path: Path) -> None:
    save(tmp_path, [2])
    (tmp_path / "²").mkdir()
    (tmp_path / "²" / manifests.FILE).write_text("{}")
    checkpoints = Checkpoints(epath.Path(tmp_path))
    assert checkpoints.steps() == [2]
    with pytest.raises(UserError, match="there is no checkpoint '²'"):
        checkpoints.choose("²")


def test_parameters_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    save(tmp_path, [1])
    with pytest.raises(UserError, match=r"the vocabulary in .* is not the one it was trained with"):
        Checkpoints(epath.Path(tmp_path)).load_params(1, abstract().params, "another")


def test_without_scores_the_best_is_the_last(tmp_path: Path) -> None:
    save(tmp_path, [1, 2])
    assert Checkpoints(epath.Path(tmp_path)).choose("best") == 2


def test_an_unknown_step_is_an_error_that_lists_the_others(tmp_path: Path) -> None:
    save(tmp_path, [1, 2])
    with pytest.raises(UserError, match=r"no checkpoint '3'; use best, last, or one of 1, 2"):
        Checkpoints(epath.Path(tmp_path)).choose("3")


def test_an_empty_folder_has_nothing_to_restore_or_choose(tmp_path: Path) -> None:
    checkpoints = Checkpoints(epath.Path(tmp_path / "none"))
    assert checkpoints.restore(abstract(), BOUND, silent) is None
    with pytest.raises(UserError, match="no complete checkpoint"):
        checkpoints.choose("best")


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "add", "manifest", "null", "unreadable"])
def test_damage_is_said_and_the_checkpoint_before_is_used(tmp_path: Path, damage: str) -> None:
    save(tmp_path, [1, 2])
    step = tmp_path / "2"
    victim = max(
        (path for path in step.glob("**/*") if path.is_file() and path.name != manifests.FILE), key=lambda path: path.stat().st_size
    )
    content = victim.read_bytes()
    if damage == "flip":
        victim.write_bytes(content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :])
    elif damage == "truncate":
        victim.write_bytes(content[:-1])
    elif damage == "delete":
        victim.unlink()
    elif damage == "add":
        (step / "params" / "stray").write_bytes(b"")
    elif damage == "unreadable":
        victim.unlink()
        victim.symlink_to(tmp_path / "nowhere")
    else:
        (step / manifests.FILE).write_text("{" if damage == "manifest" else "null")
    said: list[str] = []
    restored = Checkpoints(epath.Path(tmp_path)).restore(abstract(), BOUND, said.append)
    assert restored is not None and int(restored.step) == 1
    assert len(said) == 2 and "2 is damaged and passed over" in said[0]


def test_a_file_in_the_place_of_the_folder_is_refused_at_once(tmp_path: Path) -> None:
    """And so is a name that orbax 0.12 cannot write: it knows UTF-8 alone, Python makes surrogates of bytes that are none."""
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(UserError, match=r"checkpoints is a file, where a run has the folder of its checkpoints; move it away"):
        Checkpoints(epath.Path(tmp_path / "checkpoints"))
    with pytest.raises(UserError, match=r"cannot be a run directory: its name is no text in .*; use a name of ASCII characters"):
        Checkpoints(epath.Path(tmp_path / "caf\udce9" / "checkpoints"))


def test_without_a_manifest_there_is_no_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, [1, 2])
    (tmp_path / "2" / manifests.FILE).unlink()
    assert Checkpoints(epath.Path(tmp_path)).steps() == [1]


def test_what_a_kill_left_is_removed_and_what_somebody_keeps_is_not(tmp_path: Path) -> None:
    save(tmp_path, [1, 2, 3])
    for step in ("1", "3"):
        (tmp_path / step / manifests.FILE).unlink()
    (tmp_path / "1.mine").mkdir()
    (tmp_path / "4.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    (tmp_path / "4.manifest.json.partial").write_text("{")
    said: list[str] = []
    restored = Checkpoints(epath.Path(tmp_path)).restore(abstract(), BOUND, said.append)
    assert restored is not None and int(restored.step) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.mine", "2", "3"]
    assert sorted(line.split()[1] for line in said if "has no manifest" in line) == [str(tmp_path / "1"), str(tmp_path / "3")]


def test_only_damaged_checkpoints_are_an_error(tmp_path: Path) -> None:
    save(tmp_path, [1])
    (tmp_path / "1" / "_CHECKPOINT_METADATA").unlink()
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged"):
        Checkpoints(epath.Path(tmp_path)).restore(abstract(), BOUND, silent)
    with pytest.raises(UserError, match=r"is damaged .*_CHECKPOINT_METADATA is missing"):
        Checkpoints(epath.Path(tmp_path)).load_params(1, abstract().params, "vocabulary")


@pytest.mark.parametrize(
    ("bound", "message"),
    [
        (BOUND._replace(corpus_sha256="another"), "the training pairs are not those"),
        (BOUND._replace(vocab_sha256="x"), "the vocabulary in"),
    ],
)
def test_another_corpus_or_vocabulary_is_refused(tmp_path: Path, bound: Bound, message: str) -> None:
    save(tmp_path, [1])
    with pytest.raises(UserError, match=message):
        Checkpoints(epath.Path(tmp_path)).restore(abstract(), bound, silent)


@pytest.mark.parametrize(
    ("then", "now", "said"),
    [
        ((2, "0.10.2"), (1, "0.10.2"), ["cores 2 there and 1 here"]),
        ((2, "0.10.2"), (2, "0.11.0"), ["jax 0.10.2 there and 0.11.0 here"]),
        ((2, "0.10.2"), (8, "0.11.0"), ["cores 2 there and 8 here, jax 0.10.2 there and 0.11.0 here"]),
        ((2, "0.10.2"), (2, "0.10.2"), []),
        ((0, "0.10.2"), (2, "0.10.2"), []),  # of an accelerator, or of before this was kept
    ],
)
def test_what_computes_to_other_bits_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: tuple[int, str], now: tuple[int, str], said: list[str]
) -> None:
    """jax 0.10.2 sums gradients on a CPU in as many parts as there are cores."""
    lines: list[str] = []
    for means in (then, now):
        monkeypatch.setattr("flax_s2s.runs.manifests.computing_cores", lambda cores=means[0]: cores)
        monkeypatch.setattr("flax_s2s.runs.manifests.versions", lambda jax=means[1]: {"jax": jax})
        if means is then:
            save(tmp_path, [7])
    assert Checkpoints(epath.Path(tmp_path)).restore(abstract(), BOUND, lines.append) is not None
    warned = [
        re.sub(r".*by other means \((.*)\); training goes on, but not to the same bits", r"\1", line) for line in lines if "WARNING" in line
    ]
    assert warned == said


def test_another_configuration_of_what_is_learned_is_refused_with_the_differing_key(tmp_path: Path) -> None:
    """Also where config.json is gone, or the checkpoint is of another run."""
    ours = BOUND._replace(config=to_json(CONFIG))
    checkpoints = Checkpoints(epath.Path(tmp_path))
    checkpoints.save(state_at(1), None, ours, lambda manifest: None)
    checkpoints.close()
    slower = dataclasses.replace(CONFIG, optimizer=dataclasses.replace(CONFIG.optimizer, learning_rate=0.125))
    with pytest.raises(UserError, match=r"(?s)decide what is learned:.*optimizer.learning_rate: .* -> 0.125"):
        Checkpoints(epath.Path(tmp_path)).restore(abstract(), BOUND._replace(config=to_json(slower)), silent)
    longer = dataclasses.replace(CONFIG, training=dataclasses.replace(CONFIG.training, steps=99))
    assert Checkpoints(epath.Path(tmp_path)).restore(abstract(), BOUND._replace(config=to_json(longer)), silent) is not None


def test_another_shape_or_type_is_refused_with_the_differing_key(tmp_path: Path) -> None:
    save(tmp_path, [1])
    wider = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, hidden_size=8))
    with pytest.raises(UserError, match=r"does not fit the model: .*\['average'\].* is float32 .* there and float32 .* here"):
        Checkpoints(epath.Path(tmp_path)).restore(abstract(wider), BOUND, silent)
    narrow = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float16, sharding=leaf.sharding), abstract().params)
    with pytest.raises(UserError, match=r"float32 .* there and float16"):
        Checkpoints(epath.Path(tmp_path)).load_params(1, narrow, "vocabulary")


def test_decoding_gets_the_moving_average_and_reads_nothing_else(tmp_path: Path) -> None:
    state = state_at(1)
    assert state.average is not None
    state = state._replace(average=jax.tree.map(lambda leaf: leaf + 1, state.average))
    checkpoints = Checkpoints(epath.Path(tmp_path))
    checkpoints.save(state, None, BOUND, lambda manifest: None)
    checkpoints.close()
    loaded = Checkpoints(epath.Path(tmp_path)).load_params(1, abstract().params, "vocabulary")
    assert hash_state(loaded) == hash_state(state.average) != hash_state(state.params)


def test_the_manifest_describes_every_file_and_leaf(tmp_path: Path) -> None:
    (manifest,) = save(tmp_path, [3], [0.5])
    written = json.loads((tmp_path / "3" / manifests.FILE).read_text())
    assert written["files"] == manifests.hash_files(epath.Path(tmp_path / "3")) == manifest.files
    assert written["score"] == 0.5 and written["step"] == 3
    assert written["leaves"]["['params']['target_table']"] == "float32 (11, 4)"
    assert {"jax", "flax", "optax", "orbax-checkpoint", "flax_s2s"} <= written["versions"].keys()


def test_a_checkpoint_bears_the_fence_it_was_written_under(tmp_path: Path) -> None:
    (manifest,) = save(tmp_path, [3], confirm=lambda: 7)
    assert manifest.fence == Checkpoints(epath.Path(tmp_path)).manifest(3).fence == 7


def test_who_has_lost_the_lease_completes_and_deletes_nothing(tmp_path: Path) -> None:
    save(tmp_path, [1, 2])

    def lost() -> int:
        raise UserError("no longer held")

    with pytest.raises(UserError, match="no longer held"):
        save(tmp_path, [3], confirm=lost, keep_last=1)
    assert Checkpoints(epath.Path(tmp_path)).steps() == [1, 2]
    with pytest.raises(UserError, match="no longer held"):
        save(tmp_path, [2], confirm=lost)  # which the new holder has made
    late = Checkpoints(epath.Path(tmp_path), confirm=lost)
    for change in (lambda: late.rate(2, 0.5), lambda: late.restore(abstract(), BOUND, silent)):
        with pytest.raises(UserError, match="no longer held"):
            change()
    assert manifests.verify(epath.Path(tmp_path) / "2")[1] == ""


@pytest.mark.parametrize("part", ["params", "optimizer", "average"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_never_saved(tmp_path: Path, part: str, value: float) -> None:
    state = state_at(5)
    leaves, tree = jax.tree.flatten(getattr(state, part))
    spoilt = next(index for index, leaf in enumerate(leaves) if leaf.ndim == 2)
    leaves[spoilt] = leaves[spoilt].at[0, 0].set(value)
    checkpoints = Checkpoints(epath.Path(tmp_path))
    assert checkpoints.save(state_at(4), None, BOUND, lambda manifest: None) == ""
    named = checkpoints.save(state._replace(**{part: jax.tree.unflatten(tree, leaves)}), None, BOUND, lambda manifest: None)
    assert named.startswith(f"['{part}']")
    assert checkpoints.save(state_at(6), None, BOUND, lambda manifest: None) == ""
    checkpoints.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["6"]


def with_bad(step: int, bad_in_a_row: int) -> TrainState:
    return state_at(step)._replace(bad_in_a_row=jax.device_put(np.int32(bad_in_a_row), made(CONFIG, 1).step.sharding))


def save_kinds(folder: Path, kinds: dict[int, tuple[int, bool]], **keep: Any) -> Checkpoints:
    """Steps -> (bad updates in a row, regular)."""
    checkpoints = Checkpoints(epath.Path(folder), **{"keep_last": 99, **keep})
    for step, (bad_in_a_row, regular) in kinds.items():
        checkpoints.save(with_bad(step, bad_in_a_row), None, BOUND, lambda _: None, regular)
    checkpoints.wait()
    return checkpoints


def test_training_goes_back_to_the_last_good_checkpoint_and_no_later_one_is_left(tmp_path: Path) -> None:
    """Not to one within a row of bad updates, nor to one that is there only because training was stopped."""
    checkpoints = save_kinds(tmp_path, {10: (0, True), 20: (0, True), 23: (0, False), 30: (2, True), 40: (12, True)})
    back = checkpoints.roll_back(abstract(), silent)
    assert back is not None and int(back.step) == 20
    assert checkpoints.steps() == [10, 20]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20"]
    checkpoints.close()


def test_without_a_good_checkpoint_there_is_nothing_to_go_back_to(tmp_path: Path) -> None:
    checkpoints = save_kinds(tmp_path, {3: (0, False), 10: (4, True)})
    assert checkpoints.roll_back(abstract(), silent) is None
    assert (checkpoints.steps(), list(tmp_path.iterdir())) == ([], [])
    checkpoints.close()


def test_a_damaged_good_checkpoint_is_passed_over_and_set_aside(tmp_path: Path) -> None:
    checkpoints = save_kinds(tmp_path, {10: (0, True), 20: (0, True), 30: (1, True)})
    next(path for path in (tmp_path / "20").glob("**/*") if path.is_file() and path.name != manifests.FILE).write_bytes(b"")
    said: list[str] = []
    back = checkpoints.roll_back(abstract(), said.append)
    assert back is not None and int(back.step) == 10
    assert len(said) == 2 and "20 is damaged and passed over" in said[0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "20.damaged"]
    checkpoints.close()


def test_the_last_good_checkpoint_is_kept_whatever_comes_after_it(tmp_path: Path) -> None:
    kinds = {10: (0, True), 20: (0, True), 30: (1, True), 33: (0, False), 40: (3, True), 50: (13, True)}
    checkpoints = save_kinds(tmp_path, kinds, keep_last=1, keep_best=0)
    assert checkpoints.steps() == [20, 50]
    checkpoints.close()


def test_an_evaluation_made_up_may_make_a_checkpoint_regular(tmp_path: Path) -> None:
    """Where training was stopped before an evaluation that would have had the step saved."""
    checkpoints = save_kinds(tmp_path, {10: (0, True), 15: (0, False)})
    checkpoints.rate(15, 0.5, False)
    assert not checkpoints.manifest(15).good
    checkpoints.rate(15, 0.5, True)
    assert checkpoints.manifest(15).good
    checkpoints.close()


def test_without_verification_only_missing_files_are_noticed(tmp_path: Path) -> None:
    save(tmp_path, [1, 2])
    some = sorted(path for path in (tmp_path / "2").rglob("*") if path.is_file() and path.name != manifests.FILE)
    intact = some[0].read_bytes()
    some[0].write_bytes(intact + b"x")
    checkpoint, name = epath.Path(tmp_path / "2"), some[0].relative_to(tmp_path / "2")
    assert manifests.verify(checkpoint, content=False)[0] is not None
    assert manifests.verify(checkpoint) == (None, f"{name} is not the file that was written")
    some[0].unlink()
    assert manifests.verify(checkpoint, content=False)[1] == f"{name} is missing"
