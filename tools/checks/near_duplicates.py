"""Recall and false pairs of `near_duplicates` on the corpus, and the audit of its split.

    python tools/checks/near_duplicates.py ../shared/corpus

Writes nbs/results/near_duplicates.json and nbs/results/audit.json. One core, about 10 minutes.

Recall: 200 clips are drawn. A copy of each is made that begins up to 0.5 s later (never more than a
third of the clip), is up to 26 dB softer, and is coded by one of five codecs; every second copy is
put between parts of two other clips. Each copy is searched for in the whole corpus.
False pairs: all clips of `test` are searched for in `train`. Each pair that is found is compared by
the correlation of its samples; below .5 it is no copy.
"""
import io, sys, time
from pathlib import Path
import numpy as np, soundfile as sf, soxr
from scipy import fft
from scipy.stats import binomtest
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.audio import load_audio
from spoken_lang.results import about, save_results
from spoken_lang.manifest import read_parquet
from spoken_lang.audit import audit_splits, examine_clips, fingerprint, near_duplicates

RESULTS = Path(__file__).resolve().parents[2]/'nbs/results'
SEED, PLANTED = 0, 200
RECALL, FALSE_PAIRS = .95, 5  # with a smaller share, or more pairs that are no copies, the exit code is 1
FORMS = 'alone', 'between others'
COPY = .5  # correlation of the samples above which a pair is a copy
CODECS = dict(
    none=dict(rate=SAMPLE_RATE, format='WAV'), mp3=dict(rate=SAMPLE_RATE, format='MP3'),
    opus=dict(rate=SAMPLE_RATE, format='OGG', subtype='OPUS'),
    alaw=dict(rate=8_000, format='WAV', subtype='ALAW'),
    gsm=dict(rate=8_000, format='WAV', subtype='GSM610'))


def encode(wav, rng, rate, **how):
    "Through a codec and back; mp3 and Opus at a random quality of their lower half"
    if how['format'] in ('MP3', 'OGG'):
        how['compression_level'] = rng.uniform(.5, 1)
    file = io.BytesIO()
    sf.write(file, soxr.resample(wav, SAMPLE_RATE, rate).clip(-1, 1), rate, **how)
    return load_audio(file.getvalue())


def plant(wavs, i, n, rng):
    "(a copy of clip `i`, see the head of this file; the name of the codec)"
    wav = wavs(i)
    wav = wav[rng.integers(min(SAMPLE_RATE//2, len(wav)//3)):]
    if n % 2:
        before, after = (wavs(rng.integers(wavs.n)) for _ in range(2))
        wav = np.concatenate([before[:rng.integers(800, 3*SAMPLE_RATE)], wav, after[:3*SAMPLE_RATE]])
    codec = list(CODECS)[n % len(CODECS)]
    return encode(wav*10**rng.uniform(-1.3, 0), rng, **CODECS[codec]), codec


def correlation(a, b, shift):
    "The largest correlation of the samples of two clips that overlap at a shift in seconds, ± 0.1 s"
    shift, slack = round(shift*SAMPLE_RATE), SAMPLE_RATE//10
    a, b = a[max(0, -shift):], b[max(0, shift):]
    n = min(len(a), len(b))
    a, b = a[:n] - a[:n].mean(), b[:n] - b[:n].mean()
    size = fft.next_fast_len(2*n)
    lags = fft.irfft(fft.rfft(a, size)*np.conj(fft.rfft(b, size)), size)
    best = np.abs(np.concatenate([lags[:slack], lags[-slack:]])).max()
    return float(best/np.sqrt(np.square(a).sum()*np.square(b).sum() + 1e-12))


def recall(wavs, prints):
    "How many planted copies are found"
    rng = np.random.default_rng(SEED)
    chosen = rng.choice(wavs.n, PLANTED, replace=False)
    copies = [plant(wavs, i, n, rng) for n, i in enumerate(chosen)]
    found = near_duplicates([fingerprint(wav) for wav, _ in copies], prints)
    pairs = set(zip(found.a, found.b))
    hits = np.array([(n, i) in pairs for n, i in enumerate(chosen)])
    low, high = binomtest(int(hits.sum()), PLANTED).proportion_ci(method='wilson')
    codecs = np.array([codec for _, codec in copies])
    by_codec = {codec: float(hits[codecs == codec].mean()) for codec in CODECS}
    by_form = {form: float(hits[k::2].mean()) for k, form in enumerate(FORMS)}
    clips = wavs.table.iloc[chosen]
    columns = clips.recording, clips.seconds.round(2), codecs.tolist(), hits
    missed = [dict(recording=recording, seconds=seconds, codec=codec, form=FORMS[n % 2])
              for n, (recording, seconds, codec, hit) in enumerate(zip(*columns)) if not hit]
    return dict(planted=PLANTED, found=int(hits.sum()), recall=float(hits.mean()), missed=missed,
                interval=[round(low, 4), round(high, 4)], by_codec=by_codec, by_form=by_form)


def false_pairs(wavs, prints, test, train):
    "Every pair over `test` and `train`, with the correlation of its samples"
    in_test = [prints[i] for i in test]
    in_train = [prints[j] for j in train]
    found = near_duplicates(in_test, in_train)
    rows = []
    for p in found.itertuples():
        i, j = test[p.a], train[p.b]
        same = correlation(wavs(i), wavs(j), p.shift)
        row = dict(similarity=p.similarity, shift=p.shift, seconds=p.seconds, correlation=same)
        names = dict(test=wavs.table.recording[i], train=wavs.table.recording[j])
        rows.append(names | {k: round(v, 3) for k, v in row.items()} | dict(copy=same > COPY))
    false = sum(not r['copy'] for r in rows)
    return dict(compared=len(test)*len(train), found=len(rows), false=false, pairs=rows)


class Sounds:
    "The clips of a table by number, decoded when they are asked for"
    def __init__(self, table): self.table, self.n = table, len(table)
    def __call__(self, i): return load_audio(self.table.audio[i])


def main(corpus):
    clips, table = read_parquet(corpus, dropped=None), read_parquet(corpus)
    roles = {r: set(read_parquet(corpus, role=r, dropped=None).audio) for r in ('train', 'test')}
    start = time.perf_counter()
    seen = examine_clips(clips.audio.tolist())
    seconds = dict(clips=round(time.perf_counter() - start))
    whole = [s is not None for s in seen]  # not shorter than 0.25 s
    wavs, seen = Sounds(clips[whole].reset_index(drop=True)), [s for s in seen if s]
    clips, prints = wavs.table, [s[0] for s in seen]
    train, test = (np.flatnonzero(clips.audio.isin(roles[r])) for r in ('train', 'test'))
    kept = np.flatnonzero(clips.audio.isin(set(table.audio)))
    used, dropped = np.intersect1d(train, kept), np.setdiff1d(train, kept)
    start = time.perf_counter()
    found = dict(version_2=false_pairs(wavs, prints, test, used))
    seconds['search'] = round(time.perf_counter() - start)
    found |= dict(dropped_rows=false_pairs(wavs, prints, test, dropped), recall=recall(wavs, prints))
    found |= dict(hours=round(clips.seconds.sum()/3600, 2), computed_in_seconds=seconds)
    command = f'python tools/checks/near_duplicates.py {corpus}'
    belongs = about(command, n=PLANTED, seed=SEED, threads=1)
    save_results(RESULTS/'near_duplicates.json', belongs, clips=wavs.n, **found)
    sides = [clips.iloc[side].reset_index(drop=True) for side in (used, test)]
    checks = audit_splits(*sides, seen=[seen[i] for i in (*used, *test)])
    checks = checks.astype(object).where(checks.notna(), None).to_dict('records')
    belongs = about(command, n=len(used) + len(test), threads=1)
    save_results(RESULTS/'audit.json', belongs, clips=list(map(len, sides)), checks=checks)
    share, false = found['recall']['recall'], found['version_2']['false']
    if share < RECALL or false > FALSE_PAIRS:
        sys.exit(f'{share:.0%} of the planted copies were found, and {false} pairs that are no copies.')


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit(__doc__)
    main(sys.argv[1])
