"""Recall and false pairs of `near_duplicates` on the corpus, and the audit of its split.

    python tools/checks/near_duplicates.py ../shared/corpus

Writes nbs/results/near_duplicates.json and nbs/results/audit.json. One core, about 15 minutes.

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
from tqdm.auto import tqdm
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.audio import load_audio
from spoken_lang.results import about, save_results
from spoken_lang.manifest import read_parquet
from spoken_lang.audit import audit_splits, fingerprint, near_duplicates

RESULTS = Path(__file__).resolve().parents[2]/'nbs/results'
SEED, PLANTED = 0, 200
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
    hits = [(n, i) in pairs for n, i in enumerate(chosen)]
    low, high = binomtest(sum(hits), PLANTED).proportion_ci(method='wilson')
    codecs = np.array([codec for _, codec in copies])
    by_codec = {codec: float(np.mean(np.array(hits)[codecs == codec])) for codec in CODECS}
    clips = wavs.table
    missed = [dict(recording=clips.recording[i], seconds=round(clips.seconds[i], 2), codec=codec)
              for i, hit, codec in zip(chosen, hits, codecs.tolist()) if not hit]
    return dict(planted=PLANTED, found=sum(hits), recall=sum(hits)/PLANTED,
                interval=[round(low, 4), round(high, 4)], by_codec=by_codec, missed=missed)


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
    first, table = read_parquet(corpus, dropped=None), read_parquet(corpus)
    roles = {r: set(read_parquet(corpus, role=r, dropped=None).audio) for r in ('train', 'test')}
    wavs, start = Sounds(first), time.perf_counter()
    prints = [fingerprint(wavs(i)) for i in tqdm(range(wavs.n), desc='fingerprints')]
    seconds = dict(fingerprints=round(time.perf_counter() - start))
    train, test = (np.flatnonzero(first.audio.isin(roles[r])) for r in ('train', 'test'))
    kept = np.flatnonzero(first.audio.isin(set(table.audio)))
    start = time.perf_counter()
    pairs = false_pairs(wavs, prints, test, np.intersect1d(train, kept))
    seconds['search'] = round(time.perf_counter() - start)
    dropped = false_pairs(wavs, prints, test, np.setdiff1d(train, kept))
    command = f'python tools/checks/near_duplicates.py {corpus}'
    belongs = about(command, n=PLANTED, seed=SEED, threads=1)
    results = dict(clips=wavs.n, hours=round(first.seconds.sum()/3600, 2), min_similarity=.75)
    results |= dict(computed_in_seconds=seconds, recall=recall(wavs, prints))
    save_results(RESULTS/'near_duplicates.json', belongs, **results, version_2=pairs, dropped_rows=dropped)
    sides = [table[table.audio.isin(roles[r])].reset_index(drop=True) for r in ('train', 'test')]
    checks = audit_splits(*sides)
    checks = checks.astype(object).where(checks.notna(), None).to_dict('records')
    belongs = about(command, n=len(table), threads=1)
    save_results(RESULTS/'audit.json', belongs, clips=list(map(len, sides)), checks=checks)


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit(__doc__)
    main(sys.argv[1])
