"""What adaptation needs and costs: the vectors of other languages, and two stored measures.

    python tools/model/adaptation.py reference            # spoken_lang/models/base.npz
    python tools/model/adaptation.py languages            # nbs/results/base/new_languages.json
    python tools/model/adaptation.py dialects             # nbs/results/base/new_dialects.json

`reference` comes first wherever the weights of `base` change. It embeds training clips of the corpus, none
of those that `base.py` holds out. `languages` adds Irish and Esperanto, from twenty minutes that espeak-ng
speaks, and measures both on other voices and sentences; `dialects` adds two dialects of SwissDial. Both say
how many of the held-out clips in all other languages keep their answer.
"""
import shutil, sys, tempfile, time
from glob import glob
from pathlib import Path
import numpy as np, pandas as pd
from base import clips, held_out, middle, UNVOCODED
from spoken_lang.adaptation import adapt
from spoken_lang.audio import load_audio
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.embeddings import embed_clips, Embeddings, head_logits
from spoken_lang.inference import find_model, LanguageClassifier
from spoken_lang.results import about, save_results
from speech import ESPEAK, Espeak, new_languages, SENTENCES

RESULTS, FOLDER = 'nbs/results/base', Path('workspace/adaptation')
RENAMED = {'nb': 'no', 'pt-BR': 'pt'}  # codes of the corpus that Whisper calls otherwise
MOST = dict(en=48, it=48, fr=48, de=48, gsw=48, none=48)  # clips of a label, and
OTHERS = 16  # of each other one
SECONDS = 4  # the middle of a clip
MINUTES = 10  # of each new language
DIALECTS = {'gsw-zh': 'swissdial-zh', 'gsw-bs': 'swissdial-bs'}  # none of `test`, such as Bern


def spread(df, labels):
    "The middle of some clips of each label, source by source in turn"
    df = df.assign(language=df.code.replace(RENAMED))
    df = df[df.language.isin(labels) & (df.seconds > .6)].sample(frac=1, random_state=0)
    turn = df.groupby(['language', 'source']).cumcount()
    df = df.assign(turn=turn).sort_values('turn', kind='stable')
    rank = df.groupby('language').cumcount()
    df = df[rank < df.language.map(lambda l: MOST.get(l, OTHERS))].reset_index(drop=True)
    return df.assign(audio=[(middle(load_audio(a), SECONDS), SAMPLE_RATE) for a in df.audio])


def reference():
    "Write the vectors that travel in the package, and those of the clips that are held out"
    clf, df = LanguageClassifier.from_pretrained('base'), clips(UNVOCODED[:2])
    out, valid = find_model('base').with_suffix('.npz'), held_out(df)
    for path, part in ((out, df[~valid]), (FOLDER/'held_out.npz', df[valid])):
        found = embed_clips(clf, spread(part, clf.labels), copies=1)
        found.groups = np.array([f'{i}' for i in pd.factorize(found.groups)[0]])  # without names
        found.save(path)
        print(path, len(found), 'windows,', len(set(found.labels)), 'labels')


def right(path, examples):
    "(windows,), bool: whether the best of all labels is the right one"
    labels = np.array(LanguageClassifier(path).labels)
    return labels[head_logits(path, examples.vectors).argmax(1)] == examples.labels


def others_kept(before, after, examples=None):
    "Accuracy on other languages before and after, with and without vectors in the reference"
    clf = LanguageClassifier(before)
    if examples is None: examples = Embeddings.load(FOLDER/'held_out.npz', clf)
    examples = examples.select(np.isin(examples.labels, LanguageClassifier(after).labels))
    seen = set(Embeddings.load(find_model('base').with_suffix('.npz'), clf).labels)
    a, b = right(before, examples), right(after, examples)
    parts = {'five and none': np.isin(examples.labels, list(MOST)), 'all': np.full(len(a), True)}
    parts['in the reference'] = np.isin(examples.labels, list(seen)) & ~parts['five and none']
    parts['not in it'] = ~np.isin(examples.labels, list(seen))
    found = {}
    for name, rows in parts.items():
        found[name] = dict(n=int(rows.sum()), before=int(a[rows].sum()), after=int(b[rows].sum()))
    return found


def confusions(path, recordings):
    "{label: {answer among all: how often}}, the most frequent first"
    clf, found = LanguageClassifier(path), {}
    for label, clips in recordings.items():
        answers = [clf.classify(c, languages='all') for c in clips]
        counts = pd.Series([p.language or p.status for p in answers]).value_counts()
        found[label] = {str(k): int(v) for k, v in counts.items()}
    return found


def adapt_timed(data, out, **kwargs):
    "(result, its times in seconds); `cpu` is the time of all threads, which other work does not change"
    cache = FOLDER/'cache'/out.stem
    shutil.rmtree(cache, ignore_errors=True)  # so that the time is that of a first run
    wall, cpu = time.perf_counter(), time.process_time()
    found = adapt(data, out, cache=cache, **kwargs)
    print(found)
    return found, dict(wall=round(time.perf_counter() - wall, 1), cpu=round(time.process_time() - cpu, 1))


def other_voices(variants=('m3', 'f2', 'm7', 'f5')):
    "A manifest of other languages, by espeak-ng too"
    espeak, rows = Espeak(), []
    for language, text in SENTENCES.items():
        if language == 'gsw': continue
        for variant in variants:
            wav = espeak(text, ESPEAK.get(language, [language])[0], variant)
            rows.append(((wav, SAMPLE_RATE), language, variant, variant, variant, len(wav)/SAMPLE_RATE))
    return pd.DataFrame(rows, columns='audio language source speaker recording seconds'.split())


def languages():
    "Irish and Esperanto, by espeak-ng"
    base, out = find_model('base'), FOLDER/'new_languages.onnx'
    with tempfile.TemporaryDirectory() as folder:
        minutes = new_languages(folder, 60*MINUTES, 120)
        made, times = adapt_timed(f'{folder}/train', out, names=dict(ga='Irish', eo='Esperanto'))
        test = {l: sorted(map(str, Path(folder, 'test', l).rglob('*.flac'))) for l in made.windows}
        asked = dict(before=confusions(base, test), after=confusions(out, test))
    clf = LanguageClassifier(base)
    spoken = others_kept(base, out, embed_clips(clf, other_voices(), copies=1, progress=False))['all']
    n = sum(made.windows.values())
    origin = about('python tools/model/adaptation.py languages', model=base, n=n, seed=0)
    save_results(f'{RESULTS}/new_languages.json', origin, minutes=minutes, windows=made.windows, times=times,
                 recall=made.recall, kept=made.kept, clips={l: len(t) for l, t in test.items()}, **asked,
                 others=others_kept(base, out), others_by_espeak=spoken)


def dialects():
    "Two dialects of SwissDial, one voice each, in the place of Swiss German"
    voices = {f'swissdial-mfcc-resynth/{v}': label for label, v in DIALECTS.items()}
    wanted = [('role', '==', 'train'), ('speaker', 'in', list(voices))]
    shards = (pd.read_parquet(p, filters=wanted) for p in sorted(glob(UNVOCODED[0])))
    df = pd.concat(shards).sort_values('recording', kind='stable')
    df = df.assign(audio=[a['bytes'] for a in df.audio], language=df.speaker.map(voices))
    turn = df.groupby('language').cumcount()
    train, test = df[turn < 50], df[turn.between(130, 159)]  # other sentences
    base, out = find_model('base'), FOLDER/'new_dialects.onnx'
    made = adapt(train, out, drop='gsw', cache=FOLDER/'cache'/out.stem)
    test = {l: list(part.audio) for l, part in test.groupby('language')}
    asked = dict(before=confusions(base, test), after=confusions(out, test))
    n = sum(made.windows.values())
    origin = about('python tools/model/adaptation.py dialects', model=base, n=n, seed=0)
    save_results(f'{RESULTS}/new_dialects.json', origin, minutes=round(float(train.seconds.sum())/60, 1),
                 windows=made.windows, recall=made.recall, kept=made.kept,
                 clips={l: len(t) for l, t in test.items()}, **asked, others=others_kept(base, out))


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['reference']: reference()
        case ['languages']: languages()
        case ['dialects']: dialects()
        case _: sys.exit(__doc__)
