"""Localized phrases: the embedded corpus, generated from the Unicode CLDR locale data that ship with Babel.

Enters: two locales, how many phrases, a seed and a split. Leaves: `Phrase`s such as
`("May 14 – Jun 13, 2023", "2023年5月14日至6月13日", "date_interval")`: one value, written as either locale writes it.

A phrase is a drawn value in a `_Style`. Three rules hold by construction:

* *One source, one target.* Styles of one meaning (a day, an amount of dollars) may coincide in the source ("May 5, 2023" is the
  medium and the long style); then the first of them decides the target. Styles that coincide although they mean something else
  (`$` of two currencies, years of two digits) are left out, see `_unambiguous`.
* *One source, one split.* A hash of the source text decides the split, so neither seed nor count can move a phrase.
* *Text as people type it.* Every kind of space becomes U+0020 (CLDR has U+202F before AM, U+2009 around dashes, U+00A0 before
  units) and the invisible marks of writing direction are removed, on both sides. Digits are ASCII.
"""

import collections
import dataclasses
import datetime
import functools
import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import babel.core
import babel.dates
import babel.localedata
import babel.numbers
import numpy as np

from flax_s2s.config import UserError
from flax_s2s.data.locales import (
    MakeFn,
    RenderFn,
    Span,
    as_typed,
    make_date,
    make_date_time,
    make_duration,
    make_interval,
    make_measure,
    make_money,
    make_named_money,
    make_skeleton,
    make_time,
    make_time_interval,
    parse_locale,
)

FAMILIES: tuple[str, ...] = ("date", "time", "date_time", "duration", "date_interval", "time_interval", "money", "measure")

_DrawFn = Callable[[np.random.Generator], Any]

# Where phrases are left, even a split of 5% meets none in 2,000 draws only with probability 0.95 ** 2000.
_PATIENCE_DRAWS = 2_000
_WIDTHS = ("long", "short")

_CURRENCIES = ("USD", "EUR", "GBP", "JPY", "CNY", "INR", "KRW", "CHF", "CAD", "AUD", "BRL", "MXN")
_UNITS = {
    "length": ("kilometer", "meter", "centimeter", "millimeter", "mile", "foot", "inch"),
    "mass": ("tonne", "kilogram", "gram", "pound", "ounce"),
    "volume": ("liter", "milliliter", "cubic-meter"),
    "area": ("square-kilometer", "square-meter", "hectare", "acre"),
    "speed": ("kilometer-per-hour", "mile-per-hour", "meter-per-second"),
    "digital": ("megabyte", "gigabyte", "terabyte"),
    "energy": ("kilowatt-hour", "kilojoule", "kilocalorie"),
    "power": ("watt", "kilowatt"),
    "frequency": ("megahertz",),
    "temperature": ("celsius", "fahrenheit"),
}
# Units of time written together, the greater first, and the largest number of the lesser.
_DURATIONS: dict[tuple[str, ...], int] = {(unit,): 0 for unit in ("year", "month", "week", "day", "hour", "minute", "second")}
_DURATIONS |= {("year", "month"): 11, ("week", "day"): 6, ("day", "hour"): 23, ("hour", "minute"): 59, ("minute", "second"): 59}

_FIRST_DAY, _DAYS = datetime.datetime(1900, 1, 1), 73_049  # to the end of 2099
# Probes: two centuries, every month, every hour; amounts with and without decimals, in several plural forms.
_MONTHS = [datetime.datetime(year, month, day, 9, 8, 7) for year in (1924, 2024) for month in range(1, 13) for day in (1, 12)]
_HOURS = [datetime.datetime(2024, 1, 1, hour, 8, 7) for hour in range(24)]
_AMOUNTS = [Decimal(amount) for amount in ("1", "2", "5", "11", "21", "1.5", "1000")]


class Phrase(NamedTuple):
    """One value in two languages, and which of `FAMILIES` it belongs to."""

    source: str
    target: str
    family: str


@dataclasses.dataclass(frozen=True, eq=False)
class _Style:
    """One way to write the values of one meaning."""

    family: str
    draw_fn: _DrawFn
    probes: Sequence[Any]
    """Values that differ in each field, at which ambiguity shows."""
    source_fn: RenderFn
    target_fn: RenderFn
    elders: tuple["_Style", ...]
    """Earlier styles of the same meaning: one that writes a value alike decides its target."""

    def target(self, source: str, value: Any) -> str:
        """The one target of a value that this style writes as `source`."""
        alike = (elder.target_fn for elder in self.elders if elder.source_fn(value) == source)
        return next(alike, self.target_fn)(value)


def generate(source_locale: str, target_locale: str, count: int, seed: int, split: Literal["train", "valid", "test"]) -> list[Phrase]:
    """Generates phrases with distinct sources, an equal share of each family, in an order that depends on the arguments alone.

    Args:
        source_locale: CLDR name, such as `en`, `zh_Hans` or `pt-BR`.
        target_locale: Named like source_locale.
        count: Phrases in all; what the families cannot share equally goes to the first ones.
        seed: Of the values and the order, at least 0; it does not decide the split of a phrase.
        split: Of all possible phrases train has nine in ten, valid and test one in twenty each.

    Raises:
        UserError: an unknown locale, or more phrases than a family has in the split.
    """
    styles = _styles(parse_locale(source_locale), parse_locale(target_locale))
    rng = np.random.default_rng([seed, ("train", "valid", "test").index(split)])
    phrases: dict[str, Phrase] = {}
    for index, family in enumerate(FAMILIES):
        share = count // len(FAMILIES) + (index < count % len(FAMILIES))
        _add(phrases, family, [style for style in styles if style.family == family], share, split, rng)
    ordered = list(phrases.values())
    return [ordered[position] for position in rng.permutation(len(ordered))]


def _add(phrases: dict[str, Phrase], family: str, styles: list[_Style], share: int, split: str, rng: np.random.Generator) -> None:
    before, barren = len(phrases), 0
    while (found := len(phrases) - before) < share:
        if barren == _PATIENCE_DRAWS or not styles:
            raise UserError(
                f"family {family!r} has only about {found} localized phrases available in {split}, but {share} were asked for "
                f"(one in {len(FAMILIES)} of all); ask for fewer than {found * len(FAMILIES)} in all"
            )
        style = styles[rng.integers(len(styles))]
        value = style.draw_fn(rng)
        source = style.source_fn(value)
        barren += 1
        if source not in phrases and _split(source) == split:
            phrases[source] = Phrase(source, style.target(source, value), family)
            barren = 0


def _split(source: str) -> str:
    percentile = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big") % 100
    return "train" if percentile < 90 else "valid" if percentile < 95 else "test"


@functools.cache
def _styles(source: babel.Locale, target: babel.Locale) -> list[_Style]:
    """Every style that both locales have data for and that is not ambiguous."""
    styles: list[_Style] = []
    for family, draw_fn, probes, make_fns in _meanings():
        elders: tuple[_Style, ...] = ()
        for make_fn in make_fns:
            try:
                source_fn, target_fn = as_typed(make_fn(source)), as_typed(make_fn(target))
            except KeyError:  # no data for it in one of the locales
                continue
            elders += (_Style(family, draw_fn, probes, source_fn, target_fn, elders),)
        styles += elders
    return _unambiguous(styles)


def _unambiguous(styles: list[_Style]) -> list[_Style]:
    """Leaves out each style that writes some probe just as another probe with a different target is written."""
    targets: dict[str, set[str]] = collections.defaultdict(set)
    writers: dict[str, set[_Style]] = collections.defaultdict(set)
    for style in styles:
        for value in style.probes:
            source = style.source_fn(value)
            targets[source].add(style.target(source, value))
            writers[source].add(style)
    ambiguous = {style for source, found in targets.items() if len(found) > 1 for style in writers[source]}
    return [style for style in styles if style not in ambiguous]


def _meanings() -> Iterator[tuple[str, _DrawFn, Sequence[Any], Iterable[MakeFn]]]:
    """Family, values, probes and styles of each meaning, the preferred style first."""
    moments = _MONTHS + _HOURS
    yield "date", _draw_moment, moments, [make_date("medium"), make_date("long"), make_date("full"), make_skeleton("yMMMEd")]
    for skeletons in (("yMMMM", "yMMM"), ("yQQQQ", "yQQQ"), ("MMMMd",)):
        yield "date", _draw_moment, moments, map(make_skeleton, skeletons)
    yield "time", _draw_moment, moments, map(make_time, ("short", "medium"))
    lengths = (("medium", "short"), ("long", "short"), ("full", "short"), ("medium", "medium"))
    yield "date_time", _draw_moment, moments, itertools.starmap(make_date_time, lengths)
    for shortest, digits, intervals in ((1, 3, ("yMMMd", "yMMMEd")), (1, 2, ("MMMd",)), (31, 3, ("yMMMM", "yMMM"))):
        spans = [(start, start + datetime.timedelta(days=days)) for start in _MONTHS for days in (shortest + 1, shortest + 10**digits - 1)]
        yield "date_interval", _draw_days(shortest, digits), spans, map(make_interval, intervals)
    yield "time_interval", _draw_hours, list(itertools.combinations(_HOURS, 2)), [make_time_interval]
    for units, largest in _DURATIONS.items():
        counts = [count[: len(units)] for count in ((1, 1), (2, 1), (5, 5), (21, 2))]
        yield "duration", _draw_counts(largest), counts, [make_duration(units, width) for width in _WIDTHS]
    for currency in _CURRENCIES:
        yield "money", _draw_amount(6), _AMOUNTS, [make_money(currency), make_named_money(currency)]
    for quantity, units in _UNITS.items():
        draw_fn = _draw_temperature if quantity == "temperature" else _draw_amount(4)
        for unit in units:
            yield "measure", draw_fn, _AMOUNTS, [make_measure(f"{quantity}-{unit}", width) for width in _WIDTHS]


def _number(rng: np.random.Generator, digits: int) -> int:
    """From 1 to as many digits, each number of digits equally often."""
    low = 10 ** int(rng.integers(digits))
    return int(rng.integers(low, 10 * low))


def _draw_moment(rng: np.random.Generator) -> datetime.datetime:
    return _FIRST_DAY + datetime.timedelta(days=int(rng.integers(_DAYS)), seconds=int(rng.integers(86_400)))


def _draw_days(shortest: int, digits: int) -> _DrawFn:
    def draw(rng: np.random.Generator) -> Span:
        start = _draw_moment(rng)
        return start, start + datetime.timedelta(days=shortest - 1 + _number(rng, digits))

    return draw


def _draw_hours(rng: np.random.Generator) -> Span:
    first = int(rng.integers(1440))
    start, end = sorted((first, (first + int(rng.integers(1, 1440))) % 1440))
    return _FIRST_DAY + datetime.timedelta(minutes=start), _FIRST_DAY + datetime.timedelta(minutes=end)


def _draw_counts(largest: int) -> _DrawFn:
    """Draws the number of one unit of time and, if `largest`, that of a lesser unit."""
    return lambda rng: (_number(rng, 3), int(rng.integers(1, largest + 1))) if largest else (_number(rng, 3),)


def _draw_amount(digits: int) -> _DrawFn:
    """Draws whole numbers and, as often, numbers with one or two decimals."""

    def draw(rng: np.random.Generator) -> Decimal:
        decimals = (0, 0, 1, 2)[rng.integers(4)]
        fraction = int(rng.integers(1, 10**decimals)) if decimals else 0
        return _decimal(_number(rng, digits) * 10**decimals + fraction, decimals)

    return draw


def _draw_temperature(rng: np.random.Generator) -> Decimal:
    """Draws -60 to 199 degrees, whole or with one decimal."""
    decimals = int(rng.integers(2))
    return _decimal(int(rng.integers(-60 * 10**decimals, 200 * 10**decimals)), decimals)


def _decimal(number: int, decimals: int) -> Decimal:
    """The number with its last digits as decimals, none of them a trailing zero: plural forms depend on the digits shown."""
    while decimals and number % 10 == 0:
        number, decimals = number // 10, decimals - 1
    return Decimal(number).scaleb(-decimals)
