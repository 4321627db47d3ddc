"""Measure a model file on the test clips of the corpus, and log that it was done.

    python tools/model/accuracy.py MODEL OUT.json --reason WHY [--whole] [--corpus ../shared/corpus]

MODEL: a name (`base`, `tiny`), an ONNX file or a run. OUT.json: e.g. nbs/results/base/accuracy.json.
Every clip is classified whole and, without --whole, cut to its first seconds, through five codecs and in
noise. Each run is added
to nbs/results/test_runs.json: ways are chosen on validation clips, so few runs should be needed.
"""
import argparse, io, json
from functools import lru_cache
from pathlib import Path
import numpy as np, pandas as pd, soundfile as sf, soxr
from sklearn.metrics import roc_auc_score
from tqdm import tqdm
from spoken_lang import LanguageClassifier, load_audio
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.evaluation import Report
from spoken_lang.manifest import read_parquet
from spoken_lang.results import about, save_results

FOUR = ['en', 'it', 'fr', 'de']
SECONDS = 1, 2, 3, 5, 10
REAL_SWISS = ['spc-example', 'sds200-sample']
RENAMED = {'nb': 'no', 'pt-BR': 'pt'}  # codes of the corpus that Whisper calls otherwise
NEVER_TRAINED = ['es', 'nl', 'pt']


def through(wav, rate, **how):
    "A wave written by a codec and read back"
    top = max(np.abs(wav).max(), 1e-9)
    buffer = io.BytesIO()
    sf.write(buffer, soxr.resample(wav/top*.9, SAMPLE_RATE, rate), rate, **how)
    buffer.seek(0)
    wav, rate = sf.read(buffer, dtype='float32')
    return soxr.resample(wav, rate, SAMPLE_RATE)


def through_av(wav, codec, container, rate, bits):
    "The same by ffmpeg's encoders, at a bit rate"
    import av
    buffer = io.BytesIO()
    samples = soxr.resample(wav/max(np.abs(wav).max(), 1e-9)*.9, SAMPLE_RATE, rate)
    with av.open(buffer, 'w', format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout='mono')
        stream.bit_rate = bits
        frame = av.AudioFrame.from_ndarray((samples*32767).astype('int16')[None], format='s16', layout='mono')
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            out.mux(packet)
    return load_audio(buffer.getvalue())


def in_noise(wav, decibels):
    "White noise at a signal-to-noise ratio, the same for the same clip"
    noise = np.random.default_rng(len(wav)).standard_normal(len(wav)).astype('float32')
    return wav + noise*np.float32(wav.std()/10**(decibels/20))


CHANNELS = {
    'Opus 8 kb/s': lambda w: through_av(w, 'libopus', 'ogg', 16_000, 8_000),
    'Opus 16 kb/s': lambda w: through_av(w, 'libopus', 'ogg', 16_000, 16_000),
    'MP3 32 kb/s': lambda w: through_av(w, 'libmp3lame', 'mp3', 16_000, 32_000),
    'GSM': lambda w: through(w, 8_000, format='WAV', subtype='GSM610'),
    '8 kHz µ-law': lambda w: through(w, 8_000, format='WAV', subtype='ULAW'),
    'noise, 20 dB': lambda w: in_noise(w, 20),
    'noise, 10 dB': lambda w: in_noise(w, 10)}


def remembering(classifier):
    "The same classifier, which computes the logits of a window once"
    @lru_cache(32)
    def logits(data): return classifier.logits(np.frombuffer(data, 'float32'))
    known = classifier.labels, classifier.path
    again = LanguageClassifier.from_function(lambda wav: logits(wav.tobytes()), *known, **classifier.decision)
    return again


def answers(classifier, wav):
    "What is said of a clip, among the five and among all languages"
    more = 'all' if 'es' in classifier.labels else None
    five, everything = (classifier.classify(wav, SAMPLE_RATE, languages=l) for l in (None, more))
    best = next(iter(five.probabilities), None)
    return dict(answer=five.language or five.status, best=best, confidence=five.probabilities.get(best, 0.),
                speech=five.speech, known=five.known, among_all=everything.language or everything.status)


def classify_all(classifier, clips, whole=False):
    "A row for each clip under each condition, or under none"
    rows = []
    for i, clip in enumerate(tqdm(clips.itertuples(), total=len(clips))):
        wav = load_audio(clip.audio)
        conditions = {'whole': wav}
        if not whole and clip.code in (*FOUR, 'gsw') and clip.kind == 'human':
            conditions |= {f'{s} s': wav[:s*SAMPLE_RATE] for s in SECONDS if len(wav) >= s*SAMPLE_RATE}
            conditions |= {name: change(wav) for name, change in CHANNELS.items()}
        rows += [dict(number=i, condition=c, **answers(classifier, w)) for c, w in conditions.items()]
    return pd.DataFrame(rows).merge(clips.drop(columns='audio'), left_on='number', right_index=True)


def scores(rows, column):
    "n, wrong, macro F1 with its interval, recalls; of the four languages"
    report = Report(rows.assign(language=rows.code, answer=rows[column]))
    found = report.figures()
    recall = {code: [f['recall'], f['n']] for code, f in found['by_language'].items()}
    right = report.clips.answer == report.clips.language
    return dict(n=len(rows), wrong=int((~right).sum()), f1=found['f1'], interval=list(report.interval()),
                recall=recall)


def refusal(inside, outside):
    "How well `known` tells languages outside the five from those inside"
    limit = np.quantile(inside.known, .01)
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    auroc = roc_auc_score(truth, np.r_[inside.known, outside.known])
    refused, lost = ((t.answer == 'unknown_language').sum() for t in (outside, inside))
    at_limit = float((outside.known < limit).mean())
    return dict(n=[len(inside), len(outside)], auroc=round(float(auroc), 4), refused=int(refused),
                lost=int(lost), refused_at_1_percent=round(at_limit, 4))


def by_condition(rows, whole, names):
    "For each condition: n, macro F1 of the four, and agreement with the label of the whole clip"
    table = {}
    for name in names:
        here = rows[rows.condition == name]
        if here.empty: continue
        same = here.among_all.values == whole.among_all.loc[here.number].values
        four, long = here[here.code.isin(FOUR)], here.seconds.values >= 3
        agreement = dict(agreement=round(float(same[long].mean()), 4), n_agreement=int(long.sum()))
        parts = dict(among_five=scores(four, 'answer'), among_all=scores(four, 'among_all'))
        table[name] = dict(n=len(here)) | agreement | parts
    return table


def count(mask): return [int(mask.sum()), len(mask)]


def counts_by(rows, column):
    "{value: [clips named right among all languages, clips]}"
    right = rows.among_all == rows.code
    return {value: count(right[t.index]) for value, t in rows.groupby(column)}


def summarize(rows):
    "All figures of the accuracy page"
    whole = rows[rows.condition == 'whole'].set_index('number', drop=False)
    first = whole[~whole.part.str.contains('more-')]  # version 1 of the corpus
    human, revoiced = whole[whole.kind == 'human'], whole[whole.kind == 'resynth']
    four, swiss = human[human.code.isin(FOUR)], human[human.source.isin(REAL_SWISS)]
    vox, others = (four[(four.source == 'voxlingua107-dev') == side] for side in (True, False))
    german, dialect = human[human.code == 'de'], revoiced[revoiced.code == 'gsw']
    revoiced_german = revoiced[revoiced.code == 'de']
    speech = first[(first.kind == 'human') & (first.code != 'none')]
    elsewhere = speech[~speech.code.isin([*FOUR, 'gsw']) & speech.named]
    noise, first_noise = whole[whole.code == 'none'], first[first.code == 'none']
    more_noise = noise[~noise.index.isin(first_noise.index)]
    result = dict()
    for name, part in dict(voxlingua107=vox, other_human=others).items():
        result[name] = dict(among_five=scores(part, 'answer'), among_all=scores(part, 'among_all'))
    result['swiss_german'] = dict(
        among_all=count(swiss.among_all == 'gsw'), among_five=count(swiss.answer == 'gsw'),
        by_source=counts_by(swiss, 'source'), german_called_swiss=count(german.among_all == 'gsw'))
    result['revoiced'] = dict(
        dialect=count(dialect.answer == 'gsw'), german=count(revoiced_german.answer == 'de'),
        german_called_swiss=count(revoiced_german.answer == 'gsw'))
    result['refusal'] = refusal(four, human[human.code.isin(NEVER_TRAINED)])
    named = elsewhere.among_all == elsewhere.code
    result['other_languages'] = dict(right=count(named), same_code=count(named[elsewhere.same_code]),
        by_language=counts_by(elsewhere, 'code'))
    result['no_speech'] = dict(first=count(first_noise.answer == 'no_speech'),
        more=count(more_noise.answer == 'no_speech'), speech_lost=count(speech.answer == 'no_speech'))
    calibrated = four.assign(language=four.code, answer=four.best)
    pairs = four.groupby(['code', 'among_all']).size()
    return result | dict(by_source=counts_by(four, 'source'), ece=Report(calibrated).ece(),
        by_seconds=by_condition(rows, whole, [f'{s} s' for s in SECONDS]),
        by_channel=by_condition(rows, whole, list(CHANNELS)),
        confusion={f'{a} {b}': int(n) for (a, b), n in pairs.items()})


def log_run(made, model, reason):
    "Add a run on the test clips to the log"
    log = Path('nbs/results/test_runs.json')
    runs = json.loads(log.read_text()) if log.exists() else []
    run = {k: made[k] for k in ('date', 'commit', 'model_sha256')}
    run |= dict(model=model, reason=reason)
    log.write_text(json.dumps([*runs, run], indent=1) + '\n')


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    for name in ('model', 'out'): parser.add_argument(name)
    parser.add_argument('--reason', required=True)
    parser.add_argument('--whole', action='store_true')
    parser.add_argument('--corpus', default='../shared/corpus')
    args = parser.parse_args()
    classifier = LanguageClassifier.from_pretrained(args.model)
    clips = read_parquet(args.corpus, 'test').reset_index(drop=True)
    clips['same_code'] = ~clips.code.isin(RENAMED)
    clips['code'] = clips.code.replace(RENAMED)
    clips['named'] = clips.code.isin(classifier.labels)
    rows = classify_all(remembering(classifier), clips, args.whole)
    Path('workspace').mkdir(exist_ok=True)
    rows.to_csv(f'workspace/{Path(args.out).parent.name}-{Path(args.out).stem}.csv', index=False)
    command = f'python tools/model/accuracy.py {args.model} {args.out} --reason {args.reason!r}'
    if args.whole: command += ' --whole'
    made = about(command, model=classifier.path, n=len(clips), threads=1)
    save_results(args.out, made, **summarize(rows))
    log_run(made, args.model, args.reason)


if __name__ == '__main__': main()
