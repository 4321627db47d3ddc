"""One utterance of six seconds at random places of long files: nbs/results/places.json.

    python tools/checks/places.py [MINUTES:PLACES ...]   # by default 2.5:20 10:20 60:3

Each file is written in five containers. In silence the utterance must be found everywhere; in noise,
wherever noise without the utterance gives `no_speech`.
"""
import datetime, hashlib, importlib.metadata, json, os, platform, subprocess, sys, tempfile, time
from pathlib import Path
import av, numpy as np, soundfile as sf
from spoken_lang import LanguageClassifier, load_audio

RATE, SECONDS = 16_000, 6
SEED = 0
CODECS = dict(wav=None, flac=None, ogg=None, mp3='libmp3lame', m4a='aac')
PACKAGES = 'spoken_lang', 'numpy', 'onnxruntime', 'soundfile', 'av', 'soxr'
SIMD = 'avx', 'sse4', 'amx', 'fma'
OUT = Path('nbs/results/places.json')


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


def git(*args):
    return subprocess.run(['git', *args], capture_output=True, text=True).stdout.strip()


def about(clf, command, n):
    "The code, the machine and the model of the figures"
    dirty = '-dirty' if git('status', '--porcelain', '-uno') else ''
    lines = Path('/proc/cpuinfo').read_text().splitlines()
    first = dict(line.split(':', 1) for line in reversed(lines) if ':' in line)  # processor
    cpu, flags = (first[key].strip() for key in ('model name\t', 'flags\t\t'))
    simd = [flag for flag in flags.split() if flag.startswith(SIMD)]
    versions = {package: importlib.metadata.version(package) for package in PACKAGES}
    return dict(command=command, commit=git('rev-parse', 'HEAD') + dirty,
                versions=dict(python=platform.python_version(), **versions),
                device=dict(cpu=cpu, simd=simd, threads=os.cpu_count()),
                date=datetime.date.today().isoformat(), seed=SEED, n=n,
                model_sha256=hashlib.sha256(clf.path.read_bytes()).hexdigest())


def answer_in(clf, wav, path):
    "(prediction, seconds that it took) of a wave in the container that a path names"
    write(path, wav)
    start = time.perf_counter()
    return clf.classify(path), round(time.perf_counter() - start, 2)


def measure(clf, minutes, places, rng, folder):
    "(rows of one length, a row for each place, background and container; statuses without speech)"
    speech = load_audio('nbs/samples/de/high.flac')[:SECONDS*RATE]
    rows, alone = [], {}
    n = int(minutes*60*RATE)
    noise = rng.normal(0, .003, n).astype('float32')
    backgrounds = dict(silence=np.zeros(n, 'float32'), hiss=noise)
    for at in np.sort(rng.uniform(0, minutes*60 - SECONDS, places)).round(2):
        for name, background in backgrounds.items():
            wav = background.copy()
            wav[int(at*RATE):int(at*RATE) + len(speech)] += speech
            for suffix in CODECS:
                p, took = answer_in(clf, wav, folder/f'a.{suffix}')
                row = dict(minutes=minutes, at=float(at), background=name, container=suffix)
                answer = dict(status=p.status, language=p.language)
                rows.append(row | answer | dict(confidence=round(p.confidence, 3), took_s=took))
    for name, background in backgrounds.items():
        for suffix in CODECS:
            p, _ = answer_in(clf, background, folder/f'a.{suffix}')
            alone[f'{name} {minutes:g} min {suffix}'] = p.status
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


def main(*lengths):
    clf, rng = LanguageClassifier.from_pretrained(), np.random.default_rng(SEED)
    rows, alone = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for minutes, places in (a.split(':') for a in lengths or ('2.5:20', '10:20', '60:3')):
            new, without = measure(clf, float(minutes), int(places), rng, Path(folder))
            rows, alone = rows + new, alone | without
            print(f'{minutes} min: found {n_found(new)} of {len(new)}', flush=True)
    head = about(clf, ' '.join(['python tools/checks/places.py', *lengths]), len(rows))
    found = dict(about=head, table=list(summary(rows)), alone=alone, rows=rows)
    OUT.write_text(json.dumps(found, indent=1) + '\n')


if __name__ == '__main__': main(*sys.argv[1:])
