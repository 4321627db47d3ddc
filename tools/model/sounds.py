"""Sounds without speech, computed: a shard for the label `none`.

    python tools/model/sounds.py OUT.parquet [N]

A clip is one of KINDS, with values that are drawn: melodies and chords of plucked and sustained
tones, sweeps, signals of telephones, hum, clicks, and noise whose level changes. N: 240 clips of
2 to 10 s.
"""
import io, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, soundfile as sf
from spoken_lang.augmentation import coloured_noise
from spoken_lang.core import SAMPLE_RATE

NAME = 'computed-sounds'


def seconds_of(n): return np.arange(n)/SAMPLE_RATE


def tone(n, hertz, rng, decay):
    "A tone with up to eight harmonics, that rises in 10 ms and decays"
    t, out = seconds_of(n), np.zeros(n)
    for k in range(1, rng.integers(2, 9)):
        if k*hertz < SAMPLE_RATE/2:
            out += np.sin(2*np.pi*k*hertz*t + rng.uniform(0, 6))*rng.uniform(.2, 1)/k
    return out*np.minimum(1, t/.01)*np.exp(-decay*t)


def melody(n, rng):
    "Notes of a scale, at times several together"
    out, at = np.zeros(n), 0
    low, beat = rng.uniform(100, 500), rng.uniform(.1, .6)
    decay = rng.choice([0., 3., 8.])
    while at < n:
        length = min(n - at, int(beat*rng.integers(1, 4)*SAMPLE_RATE))
        for _ in range(rng.integers(1, 4)):
            note = low*2**(rng.choice([0, 2, 4, 5, 7, 9, 11, 12, 16])/12)
            out[at:at + length] += tone(length, note, rng, decay)
        at += length
    return out


def sweep(n, rng):
    "A tone whose pitch rises and falls, as a siren"
    t = seconds_of(n)
    pitch = rng.uniform(300, 1500)*2**(rng.uniform(.2, 1)*np.sin(2*np.pi*rng.uniform(.2, 4)*t))
    return np.sin(2*np.pi*np.cumsum(pitch)/SAMPLE_RATE)


def telephone(n, rng):
    "Two tones, on and off"
    t = seconds_of(n)
    low, high = rng.choice([350, 425, 697, 770, 852, 941]), rng.choice([440, 480, 620, 1209, 1336, 1477])
    on = (t % rng.uniform(.2, 3.)) < rng.uniform(.1, 1.5)
    return (np.sin(2*np.pi*low*t) + np.sin(2*np.pi*high*t))*on


def hum(n, rng):
    "Mains hum, or an engine: a low tone with noise of the same rhythm"
    low = rng.choice([25., 50., 60., 100., rng.uniform(20, 120)])
    rhythm = 1 + rng.uniform(0, 1)*np.sin(2*np.pi*low/4*seconds_of(n))
    return tone(n, low, rng, 0.) + rng.uniform(0, 2)*coloured_noise(n, rng)*rhythm


def clicks(n, rng):
    "Short decaying noises at random times, as of keys, drops or steps"
    out, length = np.zeros(n), int(rng.uniform(.005, .15)*SAMPLE_RATE)
    for at in rng.integers(0, max(1, n - length), rng.integers(2, 6*n//SAMPLE_RATE + 3)):
        decay = np.exp(-5*np.arange(length)/length)
        out[at:at + length] += rng.standard_normal(length)*decay*rng.uniform(.2, 1)
    return out


def noise(n, rng):
    "Coloured noise whose level rises and falls, as wind, waves or a crowd"
    level = 1 + rng.uniform(0, 1)*np.sin(2*np.pi*rng.uniform(.05, 6)*seconds_of(n) + rng.uniform(0, 6))
    return coloured_noise(n, rng)*level


KINDS = [melody, melody, sweep, telephone, hum, clicks, noise]


def row(number):
    "A clip in the layout of the corpus"
    rng = np.random.default_rng(number)
    n = int(rng.uniform(2, 10)*SAMPLE_RATE)
    kind = KINDS[number % len(KINDS)]
    wav = kind(n, rng)
    if rng.random() < .5:
        wav = wav + noise(n, rng)*wav.std()*10**rng.uniform(-2, -.3)
    wav = wav/max(np.abs(wav).max(), 1e-9)*10**rng.uniform(-1.5, 0)
    sf.write(buffer := io.BytesIO(), wav.astype('float32'), SAMPLE_RATE, format='FLAC')
    name = f'{NAME}-{number}'
    return dict(audio=dict(bytes=buffer.getvalue(), path=name), lang='none', kind='nonspeech', role='train',
        source=NAME, speaker=kind.__name__, recording=name, seconds=n/SAMPLE_RATE, license='CC0', origin=NAME)


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 240
    pq.write_table(pa.Table.from_pylist([row(i) for i in range(count)]), sys.argv[1])
