"""The exported folder, by NumPy alone and by its graphs, beside the package: tokens, steps, and the search with all its hypotheses."""

import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_s2s.config import UNK, Config, DecodingConfig, ModelConfig, UserError, VocabConfig
from flax_s2s.data import features, vocab_training
from flax_s2s.data.corpus import Pair
from flax_s2s.decoding.requests import Request
from flax_s2s.decoding.translate import Translator
from flax_s2s.export import folder as folders
from flax_s2s.export import graph, runtime
from flax_s2s.model.seq2seq import init_params, make_model
from flax_s2s.runtime import parallel

SMALL = ModelConfig(embedding_size=6, hidden_size=8, compute="float32")
CONFIGS = {
    "fixed vector, reversed, deep, tied": replace(
        SMALL, attention="none", bidirectional_layers=0, encoder_layers=2, decoder_layers=3, reverse_source=True, tie="softmax"
    ),
    "general, feeding, dense bridge": replace(
        SMALL, input_feeding=True, encoder_layers=2, decoder_layers=2, bridge="dense", attend_embeddings=True
    ),
    "additive, residual, deep": replace(SMALL, attention="additive", encoder_layers=3, decoder_layers=3, residual_from=3, attention_size=5),
    "dot, all tied, zero bridge": replace(
        SMALL, attention="dot", embedding_size=8, tie="all", bridge="zero", decoder_layers=2, residual_from=2
    ),
    "gru, zoneout, dense bridge": replace(SMALL, cell="gru", zoneout=0.25, bridge="dense", bidirectional_size=3, input_feeding=True),
    "copying, additive, all tied": replace(SMALL, copy=True, attention="additive", tie="all", feed_features=True, input_feeding=True),
    "copying, general": replace(SMALL, copy=True, reverse_source=True, bidirectional_layers=0),
    "no end mark, deep": replace(SMALL, source_end=False, encoder_layers=2, decoder_layers=2, bidirectional_layers=2, input_feeding=True),
    "no end mark, zoneout": replace(SMALL, source_end=False, zoneout=0.25),
    "layer norm, zoneout, features": replace(SMALL, cell="layer_norm_lstm", zoneout=0.25, feed_features=True, tie="all"),
}
PAIRS = [Pair("bad cab", "dab", "V;PST"), Pair("ace dace", "face", "N"), Pair("fed", "deaf cab", "V;ACC(2,SG)")]
LINES = ["bad", "face  fed", " cab", "zoëz", "d", "", "dead cab ŋace bad fedʃ", "   "]
DECODING = DecodingConfig(beam_size=4, n_best=3, compute="float32", rows=4, max_length_ratio=1.0, max_length_extra=3, max_source_tokens=14)


@cache
def vocabularies(copy=False):
    return vocab_training.train(PAIRS, VocabConfig(kind="char", joint=True), bundles=True, copy=copy)


def draw_params(config, sizes):
    shapes = jax.eval_shape(lambda: init_params(config, *sizes, jax.random.key(0)))
    rng = np.random.default_rng(2)
    return jax.tree.map(lambda leaf: rng.uniform(-1.0, 1.0, leaf.shape).astype(np.float32), shapes)


def export(path, model, decoding=DECODING, words=None, engine="", quantize=False):
    words = words or vocabularies(model.copy)
    params = draw_params(model, words.sizes)
    files = folders.make_files(Config(model=model, decoding=decoding), params, words, {}, quantize)
    folders.write(path / "exported", files)
    return runtime.load(path / "exported", engine), params


@pytest.mark.parametrize("engine", ["numpy", "onnx"])
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("beam", "n_best", "alpha"), [(1, 1, 1.0), (4, 1, 0.6), (4, 3, 1.0), (3, 3, 0.0)])
def test_it_finds_what_the_package_finds(tmp_path, name, beam, n_best, alpha, engine):
    """Texts, tokens, scores, attention; of the n-best list every one, in its order; each line by itself and all together."""
    decoding = replace(DECODING, beam_size=beam, n_best=n_best, length_penalty=alpha)
    exported, params = export(tmp_path, CONFIGS[name], decoding, engine=engine)
    graph.check(tmp_path / "exported")
    words = vocabularies(CONFIGS[name].copy)
    made = Translator([make_model(CONFIGS[name], *words.sizes)], words, decoding, parallel.make_devices(1, {}), attention=True)
    bundles = ["V;PST", "N", "V;ACC(SG)", "", "UNSEEN", "N", "V", "N"]
    found = made(made.lay_out([params]), [Request(line, features=own) for line, own in zip(LINES, bundles, strict=True)])
    alone = [exported.translate(line, bundle) for line, bundle in zip(LINES, bundles, strict=True)]
    for lists in (alone, exported.translate_all(LINES, bundles), exported.translate_all(LINES, bundles, batch=3)):
        for got, want in zip(lists, found, strict=True):
            for one, other in zip(got, (want, *want.others), strict=True):
                assert (one.text, one.finished) == (other.text, other.finished)
                assert one.ids == other.ids
                np.testing.assert_allclose([one.score, one.logp], [other.score, other.logp], rtol=1e-4, atol=1e-5)
                assert (one.attention is None) == (CONFIGS[name].attention == "none" or not one.ids)
                if one.attention is not None:
                    np.testing.assert_allclose(one.attention, other.attention, atol=1e-4)
    assert len(exported.translate("bad", "N", beam_size=2, n_best=1)) == 1


KINDS = [
    {},
    {"kind": "word"},
    {"unicode_form": "NFD"},
    {"clusters": True},
    {"symbols": ("<x>", "ab")},
    {"kind": "bpe", "size": 24},
    {"kind": "word", "byte_fallback": True},
    {"byte_fallback": True},
    {"kind": "char", "target_kind": "word", "joint": False},
]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_text_is_split_and_joined_as_there(tmp_path, kind):
    pairs = [Pair("bad cab e\u0301 가각 <x> ab", "dab cab"), Pair("ace dace e\u0301", "face ab ẽ"), Pair("fed", "deaf cab")]
    words = vocab_training.train(pairs, VocabConfig(**{"kind": "char", "joint": True, **kind}))
    exported, _ = export(tmp_path, SMALL, words=words)
    rng = random.Random(1)
    lines = [
        "",
        " ",
        "a",
        " a",
        "a  b ",
        "\u2581a",
        "가",
        "x\ty",
        "é",
        "e\u0301 e",
        "<x>ab<x",
        "日本語 ab 日本",
        "\u00a0a",
        "a\nb",
        "a\r\n\r\nb",
        "a\r",
    ]
    lines += ["".join(rng.choices("abcde f가é\u0301<x>語", k=rng.randint(1, 12))) for _ in range(200)]
    for mine, theirs in ((exported.source, words.source), (exported.target, words.target)):
        assert (mine.kind == "sentencepiece") == (kind.get("kind") == "bpe" or kind.get("byte_fallback", False))
        assert [mine.encode(line) for line in lines] == theirs.encode(lines)
        rows = [[rng.randrange(UNK + 1, len(theirs)) for _ in range(rng.randint(0, 6))] for _ in range(100)]
        assert [mine.decode(row) for row in rows] == theirs.decode(rows)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("engine", ["numpy", "onnx"])
def test_in_int8_a_translation_depends_on_no_neighbor(tmp_path, name, engine):
    """Each row has a scale of its own; and what is said is near what float32 says."""
    exported, _ = export(tmp_path, CONFIGS[name], engine=engine, quantize=True)
    (tmp_path / "float32").mkdir()
    whole, _ = export(tmp_path / "float32", CONFIGS[name], engine=engine)
    rng = random.Random(3)
    lines = [" ".join("".join(rng.choices("abcdef", k=rng.randint(1, 4))) for _ in range(rng.randint(1, 3))) for _ in range(24)]
    bundles = rng.choices(["V;PST", "N", "V;ACC(SG)"], k=24)
    together = exported.translate_all(lines, bundles)
    for line, bundle, many in zip(lines, bundles, together, strict=True):
        for one, other in zip(exported.translate(line, bundle), many, strict=True):
            assert one.ids == other.ids and one.score == pytest.approx(other.score, rel=1e-5, abs=1e-6)
    near = sum(one[0].text == other[0].text for one, other in zip(together, whole.translate_all(lines, bundles), strict=True))
    assert near > 8 and any(
        one[0].score != other[0].score for one, other in zip(together, whole.translate_all(lines, bundles), strict=True)
    )


def test_features_are_taken_apart_as_there():
    rng = random.Random(2)
    bundles = ["V;IMP;ACC(2,SG)", "A(B(1,2),C)", "A(B", "A)B", "(a)", "Case=Nom|Number=Sing", " ; ", "A()", "A(B)C"]
    bundles += ["".join(rng.choices("AB(),;| 1", k=rng.randint(0, 10))) for _ in range(500)]
    assert [runtime.split_features(bundle) for bundle in bundles] == [features.split(bundle) for bundle in bundles]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": replace(SMALL, alignment="monotonic")}, "model.alignment=monotonic cannot be exported yet"),
        ({"model": replace(SMALL, coverage=True)}, "model.coverage=True cannot be exported yet"),
        ({"decoding": replace(DECODING, min_tokens=2)}, "decoding.min_tokens=2 is not held by an exported search"),
        ({"decoding": replace(DECODING, temperature=1.0)}, "decoding.temperature=1.0 is not held by an exported search"),
    ],
)
def test_what_the_folder_cannot_hold_is_refused(fields, message):
    with pytest.raises(UserError, match=message):
        folders.check(replace(Config(), **fields))


def test_a_damaged_folder_is_named_and_another_is_not_overwritten(tmp_path):
    export(tmp_path, SMALL)
    folder = tmp_path / "exported"
    content = (folder / "weights.npz").read_bytes()
    (folder / "weights.npz").write_bytes(content[:-10] + b"0" * 10)
    with pytest.raises(
        runtime.FolderError, match=r"weights.npz is not the file that was exported \(its sha256 differs\); copy or export it again"
    ):
        runtime.load(folder)
    (folder / "weights.npz").unlink()
    with pytest.raises(runtime.FolderError, match="is no whole exported model"):
        runtime.load(folder)
    with pytest.raises(runtime.FolderError, match="is no whole exported model"):
        runtime.load(tmp_path)
    about = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(about | {"format": 2}))
    with pytest.raises(runtime.FolderError, match="is of format 2, and this program reads 1"):
        runtime.load(folder)
    (folder / "model.json").write_text(json.dumps(about | {"files": {}}))
    with pytest.raises(runtime.FolderError, match=r"does not say what is in encoder\.onnx, joint\.json, step\.onnx, weights\.npz"):
        runtime.load(folder)
    (folder / "model.json").write_text(json.dumps({name: part for name, part in about.items() if name != "decoding"}))
    (folder / "weights.npz").write_bytes(content)
    with pytest.raises(runtime.FolderError, match="is no whole exported model: KeyError 'decoding'"):
        runtime.load(folder)


@pytest.mark.parametrize("engine", ["numpy", "onnx"])
def test_a_source_that_is_far_too_long_is_cut_and_counted(tmp_path, engine):
    exported, _ = export(tmp_path, SMALL, engine=engine)
    most = DECODING.max_source_tokens
    assert exported.translate("abc" * 40_000)[0].ids == exported.translate(("abc" * most)[: most - 2])[0].ids and exported.cut == 1


def test_nothing_that_is_there_is_written_over(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    assert folders.find_place(str(tmp_path / "mine")) == tmp_path / "mine"  # empty: nothing is lost
    (tmp_path / "mine/model.json").write_text("{}")
    (tmp_path / "link").symlink_to(tmp_path / "mine")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for name in (tmp_path / "mine", tmp_path / "link", ".", "..", tmp_path / "mine/"):
        with pytest.raises(UserError, match="is there already; give another --output, or remove it, so that nothing is lost"):
            folders.find_place(str(name))
    with pytest.raises(UserError, match="must be a folder of this machine"):
        folders.find_place("gs://bucket/model")
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["here", "link", "mine"]


def test_a_child_without_the_package_translates_lines_as_they_come(tmp_path):
    """By the folder alone: no jax, no sentencepiece, nothing but NumPy."""
    model, _ = export(tmp_path, CONFIGS["layer norm, zoneout, features"])
    watch = "import sys, runpy; sys.argv[1:] = sys.argv[2:]; sys.path.insert(0, '')\n"
    watch += "try:\n    runpy.run_path('translate.py', run_name='__main__')\nexcept SystemExit as end:\n"
    watch += "    assert not {'jax', 'flax', 'flax_s2s', 'sentencepiece', 'etils'} & set(sys.modules)\n    raise\n"
    command = [sys.executable, "-I", "-c", watch, "-", "--n-best", "2", "--attention"]
    with subprocess.Popen(
        command, cwd=tmp_path / "exported", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin and child.stdout
        for line, bundle in (("bad", "V;PST"), ("face fed", "N")):
            child.stdin.write(f"{bundle}\t{line}\n")
            child.stdin.flush()
            for one in model.translate(line, bundle, n_best=2):
                score, text, looked = child.stdout.readline().rstrip("\n").split("\t")  # before the next line is sent
                assert (score, text) == (f"{one.score:.4f}", one.text)
                assert looked == " ".join(map(str, one.attention.argmax(axis=1)))
        child.stdin.write("without features\n")
        child.stdin.close()
        assert child.wait() == 2
        assert child.stderr and "has no features; this model reads them and a tab before each source" in child.stderr.read()


@pytest.fixture(scope="session")
def node_packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text("{}")
    subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "onnxruntime-node@1.30.0"], cwd=folder, check=True, capture_output=True
    )
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("npm"), reason="needs Node.js with npm")
@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_javascript_host_says_the_same(tmp_path, node_packages, name, beam):
    """translate.mjs, which holds vocabulary and beam in another language, beside `translate.py`."""
    exported, _ = export(tmp_path, CONFIGS[name], replace(DECODING, beam_size=beam, n_best=1))
    bundles = ["V;PST", "N", "V|UNSEEN", "", "N N", "N", "V", "V"]
    given = [*zip(LINES, bundles, strict=True)]
    done = subprocess.run(
        ["node", str(Path(__file__).with_name("translate.mjs")), str(tmp_path / "exported")],
        input="".join(f"{bundle}\t{line}\n" for line, bundle in given),
        cwd=node_packages, capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = [line.split("\t") for line in done.stdout.split("\n")[:-1]]
    wanted = [exported.translate(line, bundle)[0] for line, bundle in given]
    assert [text for _, text in found] == [one.text for one in wanted]
    assert [float(score) for score, _ in found] == pytest.approx([one.score for one in wanted], abs=1e-5)
