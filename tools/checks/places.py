"""One utterance of six seconds at random places of long files: nbs/results/places.json.

    python tools/checks/places.py [MINUTES:PLACES ...] [--model MODEL] [--out FILE]

By default 2.5:20 10:20 60:3. Each file is written in five containers. In silence the utterance
must be found everywhere; in hiss, wherever hiss alone gives `no_speech`. Else the exit code is 1.
"""
import argparse, sys, tempfile, time
from pathlib import Path
import av, numpy as np, soundfile as sf
from spoken_lang import LanguageClassifier, load_audio
from spoken_lang.results import about, save_results

RATE, SECONDS = 16_000, 6
SEED = 0
CODECS = dict(wav=None, flac=None, ogg=None, mp3='libmp3lame', m4a='aac')
LENGTHS = '2.5:20', '10:20', '60:3'


def write(path, wav):
    "Write `wav`, 16 kHz, a second at a time, at 64 kbit/s where the codec has a bit rate"
    seconds, codec = np.split(wav, range(RATE, len(wav), RATE)), CODECS[path.suffix[1:]]
    if not codec:
        with sf.SoundFile(path, 'w', RATE, 1) as f:
            for part in seconds: f.write(part)
        return
    with av.open(str(path), 'w') as box:
        stream = box.add_stream(codec, rate=RATE, layout='mono')
        stream.bit_rate = 64_000
        for i, part in enumerate(seconds):
            frame = av.AudioFrame.from_ndarray(part[None], 'fltp', 'mono')
            frame.sample_rate, frame.pts = RATE, i*RATE
            box.mux(stream.encode(frame))
        box.mux(stream.encode(None))


def answer_in(clf, wav, path):
    "(prediction, seconds that it took) of a wave in the container that a path names"
    write(path, wav)
    start = time.perf_counter()
    return clf.classify(path), round(time.perf_counter() - start, 2)


def measure(clf, minutes, places, rng, folder):
    "(rows of one length, a row for each place, background and container; statuses without the utterance)"
    speech = load_audio('nbs/samples/de/high.flac')[:SECONDS*RATE]
    rows, alone = [], {}
    n = int(minutes*60*RATE)
    backgrounds = dict(silence=np.zeros(n, 'float32'), hiss=rng.normal(0, .003, n).astype('float32'))
    cases = [(name, suffix) for name in backgrounds for suffix in CODECS]
    for name, suffix in cases:
        p, _ = answer_in(clf, backgrounds[name], folder/f'a.{suffix}')
        alone[f'{name} {minutes:g} min {suffix}'] = p.status
    for at in np.sort(rng.uniform(0, minutes*60 - SECONDS, places)).round(2):
        for name, suffix in cases:
            if alone[f'{name} {minutes:g} min {suffix}'] != 'no_speech':
                continue
            wav = backgrounds[name].copy()
            wav[int(at*RATE):int(at*RATE) + len(speech)] += speech
            p, took = answer_in(clf, wav, folder/f'a.{suffix}')
            row = dict(minutes=minutes, at=float(at), background=name, container=suffix)
            answer = dict(status=p.status, language=p.language)
            rows.append(row | answer | dict(confidence=round(p.confidence, 3), took_s=took))
    return rows, alone


def n_found(rows): return sum(row['status'] == 'ok' for row in rows)


def summary(rows):
    "A row for each length, background and container"
    groups = {}
    for row in rows:
        key = row['minutes'], row['background'], row['container']
        groups.setdefault(key, []).append(row)
    for key, group in groups.items():
        german = sum(row['language'] == 'de' for row in group)
        slowest = max(row['took_s'] for row in group)
        yield dict(zip(('minutes', 'background', 'container'), key), n=len(group),
                   found=n_found(group), german=german, slowest_s=slowest)


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument('lengths', nargs='*', default=LENGTHS)
    parser.add_argument('--model')
    parser.add_argument('--out', default='nbs/results/places.json')
    args = parser.parse_args()
    clf, rng = LanguageClassifier.from_pretrained(args.model), np.random.default_rng(SEED)
    rows, alone = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for minutes, places in (a.split(':') for a in args.lengths):
            new, without = measure(clf, float(minutes), int(places), rng, Path(folder))
            rows, alone = rows + new, alone | without
            print(f'{minutes} min: found {n_found(new)} of {len(new)}', flush=True)
    command = ' '.join(['python', *sys.argv])
    made = about(command, clf.path, n=len(rows), seed=SEED)
    save_results(args.out, made, table=list(summary(rows)), alone=alone, rows=rows)
    silent = {k for k in alone if k.startswith('silence')}
    sys.exit(any(alone[k] != 'no_speech' for k in silent) or n_found(rows) < len(rows))


if __name__ == '__main__': main()
