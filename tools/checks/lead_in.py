"""See whether what comes before the first word changes the answer.

    python tools/checks/lead_in.py [--model base] [--out nbs/results/base/lead_in.json] [--n 100]

Each file is a clip of speech after 2 to 40 s of music, a ringing telephone, hum or silence. Its status
and language are compared with those of the clip alone. The clips are the samples of the repository and,
where ../shared/corpus is, clips of the training part that `base` was validated on, never test clips.
"""
import argparse, sys
from pathlib import Path
import numpy as np, pandas as pd, pyarrow.parquet as pq
from scipy import signal
from tqdm import tqdm
sys.path.insert(0, str(Path(__file__).parents[1]/'model'))
from spoken_lang.audio import load_audio
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.inference import LanguageClassifier
from spoken_lang.languages import LANGUAGES
from spoken_lang.results import about, save_results

CORPUS = '../shared/corpus'
SECONDS = 2, 40  # of the lead-in
SPEECH = 2, 12  # s, of a clip
LEVELS = -20, 3  # dB, of the lead-in against the speech
GOAL = .98  # of the answers are those of the clip alone


def samples():
    "(name, language, wave) of the clips in the repository"
    for path in sorted(Path('nbs/samples').glob('*/*.flac')):
        yield str(path), path.parent.name, load_audio(path)


def validation_rows():
    "The rows of the validation part of `base`, without sound"
    from base import held_out
    from spoken_lang.manifest import drop_rows
    tables = []
    for path in sorted(Path(CORPUS).glob('*.parquet')):
        columns = [c for c in pq.read_schema(path).names if c != 'audio']
        df = pq.read_table(path, columns=columns).to_pandas()
        tables.append(df.assign(path=str(path), row=range(len(df))))
    df = pd.concat(tables, ignore_index=True).rename(columns=dict(lang='code'))
    df = drop_rows(df[df.role == 'train'], Path(CORPUS)/'dropped.csv')
    return df[held_out(df)]


def sounds(rows):
    "The waves of rows of `validation_rows`"
    shards = {path: pq.ParquetFile(path).read(columns=['audio'])['audio'] for path in set(rows.path)}
    return [load_audio(shards[r.path][r.row].as_py()['bytes']) for r in rows.itertuples()]


def validation_clips(rng, each):
    "So many validation clips of each language, and ringtones of the validation part"
    df, chosen = validation_rows(), []
    speech = df[df.seconds.between(*SPEECH)]
    for language in LANGUAGES:
        rows = speech[speech.code == language]
        chosen.append(rows.iloc[rng.permutation(len(rows))[:each]])
    chosen = pd.concat(chosen)
    names = chosen.source + '/' + chosen.recording
    yield from zip(names, chosen.code, sounds(chosen))
    yield 'ringtones', None, sounds(df[df.source == 'ubports-ringtones'])


def music(seconds, rng, _):
    "Chords of plucked tones, two a second, over a soft drum"
    n = int(seconds*SAMPLE_RATE)
    wav, root = np.zeros(n + SAMPLE_RATE), rng.uniform(110, 220)
    t = np.arange(SAMPLE_RATE)/SAMPLE_RATE
    for beat, start in enumerate(range(0, n, SAMPLE_RATE//2)):
        chord = rng.choice([0, 5, 7, 9]) + np.array([0, 4, 7, 12])
        for note in chord:
            pitch = root*2**(note/12)
            tone = sum(np.sin(2*np.pi*k*pitch*t)/k**1.5 for k in range(1, 7))
            wav[start:start + len(t)] += tone*np.exp(-3*t)
        wav[start:start + len(t)] += rng.standard_normal(len(t))*np.exp(-40*t)*(1 + beat % 2)
    return wav[:n]


def ringing(seconds, rng, tones):
    "A ringtone, or the tone of a telephone network: 1 s of 425 Hz in 5 s, or 2 s of two tones in 6 s"
    n = int(seconds*SAMPLE_RATE)
    if tones and rng.random() < .5:
        return np.resize(tones[rng.integers(len(tones))], n)
    t = np.arange(n)/SAMPLE_RATE
    if rng.random() < .5: return np.sin(2*np.pi*425*t)*(t % 5 < 1)
    return (np.sin(2*np.pi*440*t) + np.sin(2*np.pi*480*t))*(t % 6 < 2)


def hum(seconds, rng, _):
    "Mains hum of 50 or 60 Hz with its overtones, and a little noise"
    n = int(seconds*SAMPLE_RATE)
    t, mains = np.arange(n)/SAMPLE_RATE, rng.choice([50, 60])
    tones = sum(np.sin(2*np.pi*k*mains*t + rng.uniform(0, 6))/k for k in range(1, 9))
    return tones + .05*rng.standard_normal(n)


def silence(seconds, rng, _):
    "Nothing, or the faint noise of a microphone"
    n = int(seconds*SAMPLE_RATE)
    if rng.random() < .5: return np.zeros(n)
    return signal.lfilter([1], [1, -.9], rng.standard_normal(n))


def with_lead_in(wav, kind, seconds, rng, tones):
    "The speech after a lead-in, and the level of the lead-in in dB"
    lead, level = kind(seconds, rng, tones), rng.uniform(*LEVELS)
    if kind is silence: level = -60
    lead = lead/max(lead.std(), 1e-9)*wav.std()*10**(level/20)
    whole = np.concatenate([lead, wav])
    return (whole/max(1, np.abs(whole).max())).astype('float32'), level


def gather(rng, n):
    "(n clips of speech, ringtones)"
    clips = list(samples())
    if Path(CORPUS).exists():
        clips += validation_clips(rng, -(-(n - len(clips))//len(LANGUAGES)))
    tones = [tone for _, language, wavs in clips if language is None for tone in wavs]
    clips = [c for c in clips if c[1]]
    return [clips[i % len(clips)] for i in range(n)], tones


def measure(clf, n):
    "A row for each file: what it was made of, and both answers"
    rng, rows = np.random.default_rng(0), []
    clips, tones = gather(rng, n)
    kinds = [music, ringing, hum, silence]
    for i, (name, language, wav) in enumerate(tqdm(clips)):
        kind, seconds = kinds[i % 4], float(np.exp(rng.uniform(*np.log(SECONDS))))
        whole, level = with_lead_in(wav, kind, seconds, rng, tones)
        alone = clf.classify((wav, SAMPLE_RATE))
        after = clf.classify((whole, SAMPLE_RATE))
        rows.append(dict(
            clip=name, language=language, lead_in=kind.__name__, seconds=round(seconds, 1),
            level=round(level, 1), speech_seconds=round(len(wav)/SAMPLE_RATE, 1),
            alone=alone.language or alone.status, after=after.language or after.status,
            p_alone=round(alone.confidence, 3), p_after=round(after.confidence, 3)))
    return rows


def summary(rows):
    "Shares of equal and of right answers, of all and by kind of lead-in"
    same = [row['alone'] == row['after'] for row in rows]
    shares = {}
    for kind in dict.fromkeys(row['lead_in'] for row in rows):
        shares[kind] = float(np.mean([s for s, row in zip(same, rows) if row['lead_in'] == kind]))
    right = {}
    for which in ('alone', 'after'):
        right[which] = float(np.mean([row[which] == row['language'] for row in rows]))
    return dict(same=float(np.mean(same)), goal=GOAL, by_kind=shares, right=right)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', default='base')
    parser.add_argument('--out', default='nbs/results/base/lead_in.json')
    parser.add_argument('--n', type=int, default=100)
    args = parser.parse_args()
    clf = LanguageClassifier.from_pretrained(args.model)
    rows = measure(clf, args.n)
    found = summary(rows)
    head = about(f'python tools/checks/lead_in.py --model {args.model}', n=len(rows), seed=0, model=clf.path)
    save_results(args.out, head, **found, rows=rows)
    for row in rows:
        if row['alone'] != row['after']: print(row)
    print(found)


if __name__ == '__main__': main()
