#!/usr/bin/env bash
# Babel 2.18 groups numbers of four digits in locales where CLDR says that five are the least.
#
# Guess: `format_decimal` follows all of a locale's number data, its minimumGroupingDigits (2 in Spanish, Polish, ...) included:
# 7227 without and 12.345 with a separator.
# Seen: the number is not looked at; 7.227 comes out. Whoever makes training pairs with it teaches a form that the
# language's own rules do not have. In English and Chinese (1 digit) nothing is different.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet babel==2.18.0
"$folder/env/bin/python" - <<'P'
import babel
from babel.numbers import format_decimal

print("babel", babel.__version__)
for locale in ("es", "pl", "pt_PT", "bg", "en"):
    made = [format_decimal(number, locale=locale) for number in (7227, 12345)]
    print(locale, *made)
    assert all(len(text) == len(str(number)) + 1 for text, number in zip(made, (7227, 12345))), "this has changed"
P
