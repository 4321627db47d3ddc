"""One utterance of six seconds at random places of long files, in five containers: nbs/results/places.json.

    python tools/checks/places.py [MINUTES:PLACES ...]   # by default 2.5:20 10:20 60:3

In silence it must be found everywhere; in hiss, wherever the network answers the hiss alone with `no_speech`.
"""
import datetime, hashlib, importlib.metadata, json, os, platform, subprocess, sys, tempfile, time
from pathlib import Path
import av, numpy as np, soundfile as sf
from spoken_lang import LanguageClassifier, load_audio

RATE, SECONDS, SEED = 16_000, 6, 0
CODECS = dict(wav=None, flac=None, ogg=None, mp3='libmp3lame', m4a='aac')


def write(path, wav):
    "`wav`, 16 kHz, a second at a time, as 64 kbit/s where the codec has a rate"
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


def about(clf, command, n):
    "What made the figures"
    git = lambda *args: subprocess.run(['git', *args], capture_output=True, text=True).stdout.strip()
    packages = 'spoken_lang', 'numpy', 'onnxruntime', 'soundfile', 'av', 'soxr'
    cpu = [l.split(':')[1].strip() for l in Path('/proc/cpuinfo').read_text().splitlines() if l.startswith(('model name', 'flags'))]
    simd = [f for f in cpu[1].split() if f.startswith(('avx', 'sse4', 'amx', 'fma'))]
    return dict(command=command, commit=git('rev-parse', 'HEAD') + ('-dirty' if git('status', '--porcelain', '-uno') else ''),
                versions=dict(python=platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}),
                device=dict(cpu=cpu[0], simd=simd, threads=os.cpu_count()), date=datetime.date.today().isoformat(),
                seed=SEED, n=n, model_sha256=hashlib.sha256(clf.path.read_bytes()).hexdigest())


def measure(clf, minutes, places, rng, folder):
    "Rows of one length: where the utterance was, in what, and what was answered in each container"
    speech = load_audio('nbs/samples/de/high.flac')[:SECONDS*RATE]
    n, rows = int(minutes*60*RATE), []
    hiss = rng.normal(0, .003, n).astype('float32')
    backgrounds = dict(silence=np.zeros(n, 'float32'), hiss=hiss)
    for at in np.sort(rng.uniform(0, minutes*60 - SECONDS, places)).round(2):
        for name, background in backgrounds.items():
            wav = background.copy()
            wav[int(at*RATE):int(at*RATE) + len(speech)] += speech
            for suffix in CODECS:
                write(path := folder/f'a.{suffix}', wav)
                start = time.perf_counter()
                p = clf.classify(path)
                rows.append(dict(minutes=minutes, at=float(at), background=name, container=suffix, status=p.status, language=p.language,
                                 confidence=round(p.confidence, 3), took_s=round(time.perf_counter() - start, 2)))
    alone = {}
    for name, background in backgrounds.items():
        for suffix in CODECS:
            write(path := folder/f'a.{suffix}', background)
            alone[f'{name} {minutes:g} min {suffix}'] = clf.classify(path).status
    return rows, alone


def main(*asked):
    clf, rng, rows, alone = LanguageClassifier.from_pretrained(), np.random.default_rng(SEED), [], {}
    with tempfile.TemporaryDirectory() as folder:
        for minutes, places in (a.split(':') for a in asked or ('2.5:20', '10:20', '60:3')):
            new, without = measure(clf, float(minutes), int(places), rng, Path(folder))
            rows, alone = rows + new, alone | without
            print(f'{minutes} min: found {sum(r["status"] == "ok" for r in new)} of {len(new)}', flush=True)
    table = [dict(zip(('minutes', 'background', 'container'), key), n=len(group), found=sum(r['status'] == 'ok' for r in group),
                  german=sum(r['language'] == 'de' for r in group), slowest_s=max(r['took_s'] for r in group))
             for key in dict.fromkeys((r['minutes'], r['background'], r['container']) for r in rows)
             if (group := [r for r in rows if (r['minutes'], r['background'], r['container']) == key])]
    out = dict(about=about(clf, ' '.join(['python tools/checks/places.py', *asked]), len(rows)), table=table, alone=alone, rows=rows)
    Path('nbs/results/places.json').write_text(json.dumps(out, indent=1) + '\n')


if __name__ == '__main__': main(*sys.argv[1:])
