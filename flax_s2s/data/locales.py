"""How a locale writes a value: a date, an interval, an amount of money, a measure; by the CLDR data that ship with Babel.

Enters: a locale. Leaves: functions from a value to text. A locale without data for a style has none, which is a `KeyError`.
"""

import datetime
import functools
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import babel.core
import babel.dates
import babel.localedata
import babel.numbers

from flax_s2s.config import UserError, nearest

Span = tuple[datetime.datetime, datetime.datetime]
RenderFn = Callable[[Any], str]
MakeFn = Callable[[babel.Locale], RenderFn]

_DIRECTION_MARKS = str.maketrans("", "", "\u061c\u200e\u200f")
_LETTER_BESIDE_DIGIT = re.compile(r"(?<=[^\W\d_])(?=\d)|(?<=\d)(?=[^\W\d_])")
# How many digits stand before the first group that is set apart, where it is not one (CLDR 48, minimumGroupingDigits: `7227` and `12.345`);
# Babel 2.18 does not know of it. What inherits from one of these locales writes as it does.
_LEAST_GROUPING_DIGITS = dict.fromkeys("be bg es et hu hy ia ie it ka lv pl pt_PT ru_UA sl sq".split(), 2) | {
    "ee": 3,
    "es_419": 1,
    "pt_AO": 1,
}


def parse_locale(name: str) -> babel.Locale:
    """The locale of a name.

    Raises:
        UserError: CLDR has none of it.
    """
    try:
        return babel.Locale.parse(name.replace("-", "_"))
    except (babel.UnknownLocaleError, ValueError):
        near = nearest(name.replace("-", "_"), babel.localedata.locale_identifiers()) or "; use a name such as en, zh_Hans or pt_BR"
        raise UserError(f"locale {name!r} is not in CLDR{near}") from None


@functools.cache
def _least_grouped(locale: babel.Locale) -> int:
    """The least number whose digits the locale sets apart in groups."""
    parents: Any = babel.core.get_global("parent_exceptions")
    name = str(locale)
    while name and name not in _LEAST_GROUPING_DIGITS:
        name = parents.get(name) or name.rpartition("_")[0]
    return int(10 ** (2 + _LEAST_GROUPING_DIGITS.get(name, 1)))


def as_typed(render_fn: RenderFn) -> RenderFn:
    """Text as people type it: every kind of space becomes U+0020, and the invisible marks of writing direction are removed."""
    return lambda value: " ".join(render_fn(value).translate(_DIRECTION_MARKS).split())


def _make_pattern(locale: babel.Locale, pattern: Any) -> RenderFn:
    compiled = babel.dates.parse_pattern(pattern)
    return lambda value: compiled.apply(value, locale)


def make_date(length: str) -> MakeFn:
    """A day: `long`, `medium`, ... of CLDR."""
    return lambda locale: _make_pattern(locale, locale.date_formats[length])


def make_time(length: str) -> MakeFn:
    """A time of day."""
    return lambda locale: _make_pattern(locale, locale.time_formats[length])


def make_skeleton(skeleton: str) -> MakeFn:
    """The fields of a skeleton, such as yMMMEd."""
    return lambda locale: _make_pattern(locale, locale.datetime_skeletons[skeleton])


def make_date_time(date_length: str, time_length: str) -> MakeFn:
    """A day with its time."""

    def make(locale: babel.Locale) -> RenderFn:
        parts = locale.time_formats[time_length].pattern, locale.date_formats[date_length].pattern
        return _make_pattern(locale, str(locale.datetime_formats[date_length]).format(*parts))

    return make


def make_interval(skeleton: str) -> MakeFn:
    """Intervals are written with the pattern of the greatest field in which start and end differ, or as two whole dates."""

    def make(locale: babel.Locale) -> RenderFn:
        whole = _make_pattern(locale, locale.datetime_skeletons[skeleton])
        formats = locale.interval_formats.get(skeleton, {}).items()
        patterns = {field: [_make_pattern(locale, part) for part in parts] for field, parts in formats if len(parts) == 2}

        def render(span: Span) -> str:
            start, end = (dict(zip("yMdahHm", _fields(moment), strict=True)) for moment in span)
            for field in start:
                if start[field] != end[field] and field in patterns:
                    return "".join(part(moment) for part, moment in zip(patterns[field], span, strict=True))
            return str(locale.interval_formats[None]).format(*map(whole, span))

        return render

    return make


def _fields(moment: datetime.datetime) -> tuple[int, ...]:
    """Year, month, day, half of the day, hour of it, hour, minute."""
    return moment.year, moment.month, moment.day, moment.hour // 12, moment.hour % 12, moment.hour, moment.minute


def make_time_interval(locale: babel.Locale) -> RenderFn:
    """Two times of a day, by twelve hours or by twenty-four as the locale has it."""
    halves = set(locale.time_formats["short"].pattern) & set("hK")
    return make_interval("hm" if halves else "Hm")(locale)


def make_measure(unit: str, width: str) -> MakeFn:
    """A unit's patterns are read here, for `format_unit` knows neither CLDR's aliases (long to short) nor the plural form `other`."""

    def make(locale: babel.Locale) -> RenderFn:
        widths = locale._data["unit_patterns"][unit]
        forms = widths[width] if "other" in widths.get(width, {}) else widths["short"]
        other = forms["other"]

        def render(value: Decimal | int) -> str:
            pattern: str = forms.get(locale.plural_form(value), other)
            grouped = abs(Decimal(value)) >= _least_grouped(locale)
            return pattern.format(babel.numbers.format_decimal(value, locale=locale, group_separator=grouped))

        return render

    return make


def make_duration(units: Sequence[str], width: str) -> MakeFn:
    """One or two measures of time; of incomplete list patterns `format_list` knows no CLDR alias either."""
    styles = ("unit", "unit-short", "standard") if width == "long" else ("unit-short", "standard")

    def make(locale: babel.Locale) -> RenderFn:
        measures = [make_measure(f"duration-{unit}", width)(locale) for unit in units]
        pair = next(patterns["2"] for patterns in (locale.list_patterns.get(style, {}) for style in styles) if "2" in patterns)
        return lambda counts: functools.reduce(pair.format, [measure(count) for measure, count in zip(measures, counts, strict=True)])

    return make


def make_money(currency: str) -> MakeFn:
    """Letters are set apart from digits (`CHF 5.00`), the CLDR rule of currency spacing, which Babel leaves out."""
    digits: int = babel.numbers.get_currency_precision(currency)

    def render(locale: babel.Locale, value: Decimal) -> str:
        grouped = abs(round(value, digits)) >= _least_grouped(locale)
        return _LETTER_BESIDE_DIGIT.sub(" ", babel.numbers.format_currency(value, currency, locale=locale, group_separator=grouped))

    return lambda locale: functools.partial(render, locale)


def make_named_money(currency: str) -> MakeFn:
    """Amounts with the currency's name; whole ones without decimals: `12 US dollars`, `12.50 US dollars`."""
    digits = babel.numbers.get_currency_precision(currency)

    def render(locale: babel.Locale, value: Decimal) -> str:
        exact = round(value, digits)
        whole = exact == int(exact)
        amount = Decimal(int(exact)) if whole else exact
        grouped = abs(amount) >= _least_grouped(locale)
        how: dict[str, Any] = {"format_type": "name", "currency_digits": not whole, "group_separator": grouped}
        return babel.numbers.format_currency(amount, currency, locale=locale, **how)

    return lambda locale: functools.partial(render, locale)
