"""Measure timelines and streams of a model file on constructed recordings in several languages.

    python tools/model/over_time.py MODEL OUT.json --reason WHY [--role test] [--corpus ../shared/corpus]

MODEL: a name (`base`, `tiny`), an ONNX file or a run. OUT.json: e.g. nbs/results/base/over_time.json.
A recording is two to four stretches of one speaker and 5 to 30 s each, the languages of neighbours
differ. Between clips and stretches are pauses, before the first word of every second recording is music,
a ringing tone or another sound without speech. `--role valid` takes the training clips of the sources
that `tools/model/base.py` holds out: settings are chosen on them. A run on test clips is added to
nbs/results/test_runs.json.

Timelines: `right`, `missed`, `confused` and `false_alarm` are shares of the seconds of speech, the parts of
the identification error rate of pyannote.metrics without a collar. `switches_found` is its segmentation
recall with a tolerance of 1 s; a pause belongs half to each side. Streams: each stretch is one, after the
music where there is some; seconds until `done` are counted from the first word. Changes: the first third of
the recordings, each as one stream that is locked when it is done; whether and when it notices a switch.
"""
import argparse
from dataclasses import dataclass
from pathlib import Path
import numpy as np, pandas as pd
from pyannote.core import Annotation, Segment, Timeline
from pyannote.metrics.identification import IdentificationErrorRate
from pyannote.metrics.segmentation import SegmentationPrecision, SegmentationRecall
from tqdm import tqdm
from spoken_lang import LanguageClassifier, load_audio
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.manifest import read_parquet
from spoken_lang.results import about, save_results
from accuracy import log_run

LANGUAGES = ['en', 'it', 'fr', 'de', 'gsw']
STRETCHES, SECONDS = (2, 4), (5., 30.)  # how many in a recording, and how long each
PAUSES = (.1, .6), (.3, 1.5)  # s, between clips and between stretches
MUSIC = 2., 15.  # s before the first word
TOLERANCE = 1.  # s from a switch to where it was found
LIMIT = 15.  # s of speech until a stream is given up


@dataclass
class Mix:
    "A recording with the seconds of its languages"
    wav: np.ndarray  # (samples,), 16 kHz
    spans: list  # [(start s, end s, code), ...]


def read_pool(corpus, role):
    "The clips of the five languages and of no speech: (speech, sounds)"
    df = read_parquet(corpus, 'train' if role == 'valid' else role)
    if role == 'valid':
        from base import held_out
        df = df[held_out(df)]
    human = (df.kind == 'human') | (df.code == 'gsw')
    speech = df[df.code.isin(LANGUAGES) & human]
    return speech.reset_index(drop=True), df[df.code == 'none'].reset_index(drop=True)


def level(wav, rng):
    "The same sound, its loudest 5 % at -26 to -14 dB of full scale"
    loud = np.sqrt(np.quantile(wav**2, .95))
    return (wav*(10**(rng.uniform(-26, -14)/20)/max(loud, 1e-6))).astype('float32')


def silence(span, noise, rng):
    "A pause: digital silence, or faint noise"
    n = int(rng.uniform(*span)*SAMPLE_RATE)
    return (noise*rng.standard_normal(n)).astype('float32')


def speak(clips, seconds, noise, rng):
    "(samples,): clips of one speaker with pauses, as long as asked where there is enough"
    by_speaker = list(clips.groupby(['source', 'speaker']))
    sources = sorted(clips.source.unique())
    parts, total = [], 0.
    while total < min(seconds, SECONDS[0]):
        source = rng.choice(sources)
        of_source = [rows for (s, _), rows in by_speaker if s == source]
        rows = of_source[rng.integers(len(of_source))]
        for row in rows.sample(frac=1, random_state=int(rng.integers(2**31))).itertuples():
            parts += [level(load_audio(row.audio), rng), silence(PAUSES[0], noise, rng)]
            total += row.seconds
            if total >= seconds: break
    return np.concatenate(parts[:-1])[:int(seconds*SAMPLE_RATE)]


def make_mix(speech, sounds, number):
    "Recording `number` of a pool, the same every time"
    rng = np.random.default_rng(number)
    noise = 10**(-65/20) if number % 4 > 1 else 0.
    parts, spans = [silence(PAUSES[1], noise, rng)], []
    if number % 2:
        music = load_audio(sounds.audio[int(rng.integers(len(sounds)))])
        parts.append(np.resize(level(music, rng), int(rng.uniform(*MUSIC)*SAMPLE_RATE)))
    code = None
    for _ in range(rng.integers(STRETCHES[0], STRETCHES[1] + 1)):
        code = rng.choice([l for l in LANGUAGES if l != code])
        wav = speak(speech[speech.code == code], rng.uniform(*SECONDS), noise, rng)
        start = sum(map(len, parts))/SAMPLE_RATE
        spans.append((start, start + len(wav)/SAMPLE_RATE, str(code)))
        parts += [wav, silence(PAUSES[1], noise, rng)]
    return Mix(np.concatenate(parts), spans)


def annotation(spans):
    "Spans of languages for pyannote.metrics"
    found = Annotation()
    for i, (start, end, code) in enumerate(spans):
        found[Segment(start, end), i] = code
    return found.support()


def switches(spans, total):
    "Contiguous segments of one language each, for the measures of segmentation"
    cuts = [0.]
    for (_, before, old), (after, _, new) in zip(spans, spans[1:]):
        if new != old: cuts.append((before + after)/2)
    return Timeline([Segment(a, b) for a, b in zip(cuts, [*cuts[1:], total])])


def measure_timelines(timeline, mixes):
    "Figures of a function of (samples, rate) over recordings"
    identify = IdentificationErrorRate()
    found, false = SegmentationRecall(tolerance=TOLERANCE), SegmentationPrecision(tolerance=TOLERANCE)
    seconds = 0.
    for mix in mixes:
        total = len(mix.wav)/SAMPLE_RATE
        spans = [(a, b, p.language) for a, b, p in timeline(mix.wav, SAMPLE_RATE) if p.language]
        whole = Timeline([Segment(0, total)])
        identify(annotation(mix.spans), annotation(spans), uem=whole)
        sides = switches(mix.spans, total), switches(spans, total)
        found(*sides)
        false(*sides)
        seconds += total
    parts = ('right', 'correct'), ('missed', 'missed detection'), ('confused', 'confusion')
    shares = {name: round(identify[key]/identify['total'], 4) for name, key in parts}
    shares['false_alarm'] = round(identify['false alarm']/identify['total'], 4)
    wrong = false['number of boundaries'] - false['number of matches']
    return dict(recordings=len(mixes), minutes=round(seconds/60, 1), **shares,
                switches=int(found['number of boundaries']), switches_found=round(abs(found), 4),
                false_switches=int(wrong), false_switches_in_10_minutes=round(600*wrong/seconds, 2))


def feed_until_done(stream, wav, start):
    "(seconds after `start`, language) when a stream is done; (None, None) where it never is"
    for i in range(0, len(wav), SAMPLE_RATE//10):
        stream.feed(wav[i:i + SAMPLE_RATE//10])
        if stream.done:
            return stream.seconds - start, stream.prediction.language
    return None, None


def stretches(mixes):
    "Each stretch as (samples, start of speech s, code); the first one of a recording with what is before it"
    for mix in mixes:
        for i, (start, end, code) in enumerate(mix.spans):
            first = start if i else 0.
            end = min(end, start + LIMIT)
            yield mix.wav[int(first*SAMPLE_RATE):int(end*SAMPLE_RATE)], start - first, code


def measure_streams(stream, mixes):
    "Figures of a function that makes streams"
    rows = []
    for wav, start, code in stretches(mixes):
        seconds, language = feed_until_done(stream(), wav, start)
        rows.append(dict(code=code, seconds=seconds, language=language))
    rows = pd.DataFrame(rows)
    done = rows[rows.language.notna()]
    wrong = done[done.language != done.code]
    early = done[done.seconds <= 0]
    median = rows.seconds.astype(float).fillna(np.inf).median()  # infinite where one is never done
    pairs = wrong.groupby(['code', 'language']).size()
    return dict(streams=len(rows), done=len(done), wrong=len(wrong), before_the_first_word=len(early),
                wrong_share=round(len(wrong)/max(len(done), 1), 4),
                median_seconds=round(float(median), 2),
                confused={f'{a} {b}': int(n) for (a, b), n in pairs.items()})


def change_rows(stream, mix):
    "[(s of the change by the stream, s when it was noticed, code), ...] of a stream that is locked"
    rows = []
    for i in range(0, len(mix.wav), SAMPLE_RATE//10):
        stream.feed(mix.wav[i:i + SAMPLE_RATE//10])
        if stream.done and not stream.locked: stream.lock()
        if len(stream.changes) > len(rows):
            began, code = stream.changes[-1]
            rows.append((began, stream.seconds, code))
    return rows


def measure_changes(stream, mixes):
    "Figures of a function that makes streams, locked when they are done, over whole recordings"
    delays, errors = [], []
    switches = false = 0
    for mix in mixes:
        rows = change_rows(stream(), mix)
        for start, end, code in mix.spans[1:]:
            right = [r for r in rows if r[2] == code and start - 3 <= r[0] <= end]
            switches += 1
            if not right: continue
            delays.append(right[0][1] - start)
            errors.append(abs(right[0][0] - start))
            rows.remove(right[0])
        false += len(rows)
    median = lambda values: round(float(np.median(values)), 2)
    return dict(recordings=len(mixes), switches=switches, noticed=len(delays), false=false,
                median_delay_seconds=median(delays), median_error_seconds=median(errors))


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    for name in ('model', 'out'): parser.add_argument(name)
    parser.add_argument('--reason', required=True)
    parser.add_argument('--role', choices=('test', 'valid'), default='test')
    parser.add_argument('--corpus', default='../shared/corpus')
    parser.add_argument('--recordings', type=int, default=100)
    args = parser.parse_args()
    classifier = LanguageClassifier.from_pretrained(args.model)
    pool = read_pool(args.corpus, args.role)
    mixes = [make_mix(*pool, i) for i in tqdm(range(args.recordings))]
    timelines = measure_timelines(classifier.timeline, tqdm(mixes))
    streams = measure_streams(classifier.stream, tqdm(mixes))
    changes = measure_changes(classifier.stream, tqdm(mixes[:args.recordings//3]))
    command = (f'python tools/model/over_time.py {args.model} {args.out} --reason {args.reason!r} '
               f'--role {args.role} --recordings {args.recordings}')
    made = about(command, model=classifier.path, n=len(mixes), threads=1, role=args.role)
    save_results(args.out, made, timelines=timelines, streams=streams, changes=changes)
    if args.role == 'test': log_run(made, args.model, args.reason)


if __name__ == '__main__': main()
