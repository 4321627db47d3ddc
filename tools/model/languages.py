"""Write the table of languages, spoken_lang/languages.csv, from the data of langcodes.

    python tools/model/languages.py    # needs langcodes and language_data

A row is a language: its code, its three letters in ISO 639-3, its English name, its name in itself, other
codes of BCP 47 that mean it, and other names (English, German, French, Italian). There is a row for each
language of `base`, for each with a name of its own in CLDR, and for each with two letters in ISO 639-1.
"""
import csv, itertools, re, string, unicodedata
from collections import defaultdict
from pathlib import Path
import langcodes
from language_data.name_data import CODE_TO_NAMES
from language_data.names import load_trie
from language_data.util import data_filename

OUT = 'spoken_lang/languages.csv'
COLUMNS = 'code iso639_3 name native codes names'.split()
FIVE = 'en it fr de gsw'.split()
NAMED_IN = 'en de fr it'.split()  # languages of the other names
CORPORA = 'nan sco umb war'.split()  # of FLEURS, VoxLingua107 and Common Voice, without a name in CLDR
NEITHER = 'sh', 'zsm', 'tw', 'mo', 'bh'  # read as sr, ms, ak, ro and bho
# Whisper has one label for both; the second has a row of its own, for a model that has it as a label
SAME = dict(no='nb', tl='fil')
NATIVE = dict(tl='Tagalog', jv='Basa Jawa')  # CLDR has none, or not the name of the language
NO_NAME = re.compile(r"proto |private use|macrolanguage|individual language|creole english|\d{4}|hawai.*ian")
# spellings that CLDR lacks
MORE_NAMES = dict(de=['Hochdeutsch', 'Standard German'], zh=['Mandarin'], gsw=[
    'Schwiizerdütsch', 'Schwyzerdütsch', 'Schwizerdütsch', 'Schwiizerdütsch', 'Züritüütsch', 'Bärndütsch'])


def base_labels(config='nbs/results/base/config.yml'):
    "The languages of `base`, in the order of its outputs"
    import yaml
    labels = yaml.safe_load(Path(config).read_text())['labels']
    return [l for l in labels if l != 'none']


def normal_code(tag):
    "The code of the language of a tag, by CLDR's table of replacements; None where it is no tag"
    try: return langcodes.standardize_tag(tag, macro=True).split('-')[0]
    except langcodes.LanguageTagError: return None


def letters(*lengths):
    "All codes of so many letters"
    for n in lengths:
        yield from map(''.join, itertools.product(string.ascii_lowercase, repeat=n))


def codes_by_language():
    "{code: other codes that mean it}"
    found = defaultdict(list)
    for code in letters(2, 3):
        normal = normal_code(code)
        if normal and normal != code: found[normal].append(code)
    return found


def three_letters(code):
    "The code in ISO 639-3; the code itself where it has three letters"
    return langcodes.Language.get(code, normalize=False).to_alpha3(variant='T')


def names_by_language():
    "{code: English names}, without those in another script"
    found = defaultdict(list)
    trie = load_trie(data_filename('trie/en/name_to_language.marisa'))
    for name, tag in trie.items():
        odd = NO_NAME.search(name) or 'DESERET' in unicodedata.name(name[0])
        code = normal_code(tag.decode())
        if code and not odd: found[code].append(name)
    return found


def plain(name):
    "How a name is compared: without case and marks"
    parts = unicodedata.normalize('NFKD', name.casefold())
    return ''.join(c for c in parts if not unicodedata.combining(c))


def capital(name):
    "With a capital first letter, in scripts that have them in titles"
    return name[:1].title() + name[1:]


def row(code, codes, names):
    "The row of a language"
    known = CODE_TO_NAMES.get(code, {})
    name = known.get('en') or langcodes.Language.get(code, normalize=False).display_name()
    native = NATIVE.get(code) or known.get(code) or name
    others = [known[l] for l in NAMED_IN if l in known] + MORE_NAMES.get(code, [])
    others += names.get(code, []) + names.get(SAME.get(code, ''), [])
    seen, kept = {plain(name), plain(native)}, []
    for other in others:
        if plain(other) not in seen: kept.append(other)
        seen.add(plain(other))
    more = [*codes.get(code, []), *filter(None, [SAME.get(code)])]
    more += [three_letters(c) for c in more if len(c) == 2]
    own = {code, three_letters(code)} | {'tl', 'tgl'}
    more = sorted(set(more) - own)
    return [code, three_letters(code), capital(name), capital(native), ';'.join(more), ';'.join(kept)]


def rows():
    "The table: the five languages, the others of `base`, and all others by code"
    base = base_labels()
    named = [c for c, names in CODE_TO_NAMES.items() if c in names and c.isalpha() and len(c) < 4]
    two = [c for c in letters(2) if normal_code(c) == c and c in CODE_TO_NAMES]
    rest = {*named, *two, *CORPORA} - {*base, *NEITHER}
    first = FIVE + sorted(set(base) - set(FIVE))
    codes, names = codes_by_language(), names_by_language()
    return [row(c, codes, names) for c in [*first, *sorted(rest)]]


if __name__ == '__main__':
    table = rows()
    with open(OUT, 'w', encoding='utf-8', newline='') as f:
        csv.writer(f, lineterminator='\n').writerows([COLUMNS, *table])
    print(f'{OUT}: {len(table)} languages')
