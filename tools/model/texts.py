"""Sentences for tools/model/speech.py, from what free software says to its users.

    python tools/model/texts.py reference /usr/share/debian-reference OUT.tsv   # Debian's packages debian-reference-{en,it,fr,de}
    python tools/model/texts.py django FOLDER OUT.tsv                           # an unpacked wheel of Django, its message catalogues

Writes a line for each clip: language code, tab, sentences. Spanish, Dutch and Portuguese are left out, since the
shipped model is tested on languages that it never heard.
"""
import gettext, html, random, re, sys
from pathlib import Path

ODD = re.compile(r'[/_<>={}\[\]|~$\d"@#*()%\\\n]|--')  # what nobody would say aloud
LEFT_OUT = {'es', 'nl', 'pt'}


def reference(root, lines=360, seed=1):
    "(language, sentence) from the chapters of the Debian Reference"
    rng = random.Random(seed)
    for language in ('en', 'it', 'fr', 'de'):
        pages = ' '.join(p.read_text(encoding='utf-8', errors='ignore') for p in sorted(Path(root).glob(f'ch*.{language}.html')))
        paragraphs = (' '.join(html.unescape(re.sub('<[^>]+>', '', p)).split()) for p in re.findall(r'<p>(.*?)</p>', pages, re.S))
        found = sorted({s.strip() for p in paragraphs for s in re.split(r'(?<=[.!?])\s+', p) if 60 < len(s) < 140 and not ODD.search(s)})
        yield from ((language, s) for s in rng.sample(found, min(lines, len(found))))


def django(root, lines=32, each=3, seed=1):
    "(language, some messages) from Django's catalogues"
    rng = random.Random(seed)
    for language in sorted({p.parent.parent.name for p in Path(root).rglob('django.mo')}):
        if language[:2] in LEFT_OUT: continue
        catalogues = [gettext.GNUTranslations(open(p, 'rb'))._catalog for p in Path(root).rglob(f'{language}/LC_MESSAGES/django.mo')]
        found = sorted({m.strip() for c in catalogues for m in c.values() if 15 < len(m) < 140 and not ODD.search(m)})
        rng.shuffle(found)
        for i in range(0, min(lines*each, len(found)), each):
            yield language.split('_')[0].lower(), ' '.join(m.rstrip('.') + '.' for m in found[i:i + each])[:200]


if __name__ == '__main__':
    match sys.argv[1:]:
        case [('reference' | 'django') as kind, root, out]: rows = list({'reference': reference, 'django': django}[kind](root))
        case _: sys.exit(__doc__)
    Path(out).write_text(''.join(f'{language}\t{text}\n' for language, text in rows), encoding='utf-8')
    print(f'{out}: {len(rows)} lines in {len({l for l, _ in rows})} languages')
