"""Sentences for tools/model/speech.py, from texts of free software.

    # Debian's packages debian-reference-{en,it,fr,de}
    python tools/model/texts.py reference /usr/share/debian-reference OUT.tsv
    # the message catalogues of an unpacked wheel of Django
    python tools/model/texts.py django FOLDER OUT.tsv

Writes a line for each clip: language code, tab, sentences. Spanish, Dutch and Portuguese are left out: the
shipped model is tested on them as languages that it was not trained on.
"""
import gettext, html, random, re, sys
from pathlib import Path

ODD = re.compile(r'[/_<>={}\[\]|~$\d"@#*()%\\\n]|--')  # not read aloud
LEFT_OUT = {'es', 'nl', 'pt'}


def speakable(text, shortest):
    "Whether a sentence is of good length and can be read aloud"
    return shortest < len(text) < 140 and not ODD.search(text)


def reference(root, lines=360, seed=1):
    "(language, sentence) from the chapters of the Debian Reference"
    rng = random.Random(seed)
    for language in ('en', 'it', 'fr', 'de'):
        paths = sorted(Path(root).glob(f'ch*.{language}.html'))
        pages = ' '.join(p.read_text(encoding='utf-8', errors='ignore') for p in paths)
        found = set()
        for paragraph in re.findall(r'<p>(.*?)</p>', pages, re.S):
            text = ' '.join(html.unescape(re.sub('<[^>]+>', '', paragraph)).split())
            found |= {s.strip() for s in re.split(r'(?<=[.!?])\s+', text) if speakable(s, 60)}
        found = sorted(found)
        yield from ((language, s) for s in rng.sample(found, min(lines, len(found))))


def django(root, lines=32, each=3, seed=1):
    "(language, some messages) from Django's catalogues"
    rng = random.Random(seed)
    for language in sorted({p.parent.parent.name for p in Path(root).rglob('django.mo')}):
        if language[:2] in LEFT_OUT: continue
        paths = Path(root).rglob(f'{language}/LC_MESSAGES/django.mo')
        catalogues = [gettext.GNUTranslations(open(p, 'rb'))._catalog for p in paths]
        found = sorted({m.strip() for c in catalogues for m in c.values() if speakable(m, 15)})
        rng.shuffle(found)
        for i in range(0, min(lines*each, len(found)), each):
            text = ' '.join(m.rstrip('.') + '.' for m in found[i:i + each])
            yield language.split('_')[0].lower(), text[:200]


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['reference', root, out]: rows = list(reference(root))
        case ['django', root, out]: rows = list(django(root))
        case _: sys.exit(__doc__)
    lines = (f'{language}\t{text}\n' for language, text in rows)
    Path(out).write_text(''.join(lines), encoding='utf-8')
    languages = {l for l, _ in rows}
    print(f'{out}: {len(rows)} lines in {len(languages)} languages')
