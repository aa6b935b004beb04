"""The block at the start of a training: what is trained on what, with what."""

from collections.abc import Mapping

from flax_s2s.commands.wiring import Ready
from flax_s2s.config import Config
from flax_s2s.data import account
from flax_s2s.data.batching import TokenPairs
from flax_s2s.data.corpus import Corpus
from flax_s2s.data.pipeline import Pipeline
from flax_s2s.model.lstm import choose_means
from flax_s2s.runs.manifests import versions
from flax_s2s.runtime import parallel
from flax_s2s.runtime.parallel import Devices


def describe(facts: Mapping[str, str]) -> str:
    """The block at the start, of what `find_facts` found."""
    return "\n".join(f"{name:<11}{text}" for name, text in facts.items())


def find_facts(
    config: Config, ready: Ready, valid: Corpus, fitting: TokenPairs, pipeline: Pipeline, devices: Devices, parameters: int
) -> dict[str, str]:
    """What is trained on what, with what; the run keeps it, since corpus and machine may be gone when it is looked at."""
    train, sides = ready.train, ready.vocabularies
    vocabulary = f"{config.vocab.kind}, joint {len(sides.source):,}"
    if not sides.joint:
        kinds = config.vocab.kind + ("" if config.vocab.target_kind == "same" else f" and {config.vocab.target_kind}")
        vocabulary = f"{kinds}, {config.data.source} {len(sides.source):,}, {config.data.target} {len(sides.target):,}"
    if sides.features:
        vocabulary += f", features {len(sides.features):,}"
    kind = devices.mesh.devices.flat[0].device_kind
    plan = pipeline.plan(0)
    sizes = (len(ready.tokens.pairs.source.flat), len(ready.tokens.pairs.target.flat))
    drawn = sum(pipeline.count(0)) / sum(sizes)
    unknown = [
        f"{side} {count / size:.2%}"
        for side, count, size in zip((config.data.source, config.data.target), ready.tokens.unknown, sizes, strict=True)
    ]
    return {
        "train": account.describe_train(ready.tokens, train.name, config.data)
        + (f"; in each epoch up to {config.data.hallucination:.0%} are made up from themselves" if config.data.hallucination else ""),
        "first": account.show(ready.tokens.counts.first),
        "valid": account.describe_valid(valid, fitting),
        "vocabulary": f"{vocabulary}; unknown tokens {' '.join(unknown)}"
        + (f"; split at random, {drawn:.2f} times the tokens" if config.vocab.sampling else ""),
        "parameters": f"{parameters:,}",
        "devices": f"{devices.count} x {kind} in {parallel.process()[1]} process(es)",
        "kernel": str(choose_means(config.model)),
        "shapes": " ".join(map(str, ready.shapes)),
        "batches": f"{len(plan):,} an epoch, {len(ready.tokens.pairs) / len(plan):.1f} pairs each, padding {pipeline.waste(plan):.1%}",
        "versions": " ".join(f"{name} {version}" for name, version in versions().items()),
    }


def find_faults(config: Config, ready: Ready, valid: Corpus, fitting: TokenPairs) -> list[str]:
    """What of the corpus is probably not meant, a line each."""
    trained = account.warn_train(ready.tokens, ready.train.name, config.data)
    return [*trained, *account.warn_valid(valid, fitting, ready.shapes[-1], ready.vocabularies, config.data)]
