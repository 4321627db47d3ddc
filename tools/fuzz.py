"""Throw broken files at everything that reads what others made: nbs/results/fuzz.json.

    python tools/fuzz.py [N [NAME ...]]   # mutated inputs for each of the audio formats (1,200), and a part of it for the rest; all readers, or some

A reader may answer, or object with its own error in one sentence. Anything else is a find, and so are 10 s without an answer and
1 GB of memory; what was found is kept in the folder `fuzz-finds`. Each reader works in a process of its own, so that a crash is one too.
"""
import io, json, multiprocessing, os, resource, shutil, sys, tempfile, time
from pathlib import Path
import numpy as np

SECONDS, MEGABYTES = 10, 1000


def mutated(data, rng):
    "Bytes with some of the damage that files suffer, and some that only malice does"
    data = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        n, kind = len(data), rng.integers(6)
        if not n: break
        at = int(rng.integers(min(n, 200))) if rng.random() < .5 else int(rng.integers(n))  # headers most of all
        if kind == 0: data[at] = rng.integers(256)
        elif kind == 1: data[at] ^= 1 << rng.integers(8)
        elif kind == 2: del data[at:]
        elif kind == 3: data[at:at+4] = bytes([[0]*4, [255]*4, [255, 255, 255, 127], [0, 0, 0, 128]][rng.integers(4)])
        elif kind == 4: data[at:at] = data[at:at + int(rng.integers(1, 300))]
        else: del data[at:at + int(rng.integers(1, 50))]
    return bytes(data)


def sounds():
    "{format: bytes} of two seconds of speech"
    import av, soundfile as sf
    wav, found = sf.read('nbs/samples/fr/high.ogg', dtype='float32', frames=32_000)[0], {}
    for name, args in dict(wav=('WAV', 'PCM_16'), flac=('FLAC', 'PCM_16'), ogg=('OGG', 'OPUS')).items():
        sf.write(b := io.BytesIO(), wav, 16_000, format=args[0], subtype=args[1]); found[name] = b.getvalue()
    for name, codec, container in (('mp3', 'libmp3lame', 'mp3'), ('m4a', 'aac', 'mp4')):
        with av.open(b := io.BytesIO(), 'w', format=container) as out:
            stream = out.add_stream(codec, rate=16_000, layout='mono')
            frame = av.AudioFrame.from_ndarray(wav[None], 'fltp', 'mono'); frame.sample_rate = 16_000
            for f in (frame, None): out.mux(stream.encode(f))
        found[name] = b.getvalue()
    return found


def bombs():
    "Small files that claim or hold far too much: {name: bytes}"
    import av, soundfile as sf
    whole, found = bytearray(sounds()['wav']), {}
    def wav(**fields):
        places = dict(channels=(22, 2), rate=(24, 4), bytes_a_second=(28, 4), data=(40, 4), riff=(4, 4))
        data = bytearray(whole)
        for k, v in fields.items(): at, n = places[k]; data[at:at+n] = v.to_bytes(n, 'little')
        return bytes(data)
    found['claims 2^31 samples.wav'] = wav(data=2**32 - 2, riff=2**32 - 1)
    for rate in (0, 1, 99, 2**31 - 1, 2**32 - 1): found[f'rate {rate}.wav'] = wav(rate=rate)
    for channels in (0, 1024, 65535): found[f'{channels} channels.wav'] = wav(channels=channels)
    sf.write(b := io.BytesIO(), np.zeros((10*3600*8000, 1), 'int16'), 8000, format='FLAC'); found['ten hours of nothing.flac'] = b.getvalue()
    with av.open(b := io.BytesIO(), 'w', format='mp4') as out:
        stream = out.add_stream('aac', rate=8000, layout='mono')
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000*600), 'float32'), 'fltp', 'mono'); frame.sample_rate = 8000
        for i in range(18): frame.pts = i*8000*600; out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    found['three hours of nothing.m4a'] = b.getvalue()
    return found


def _sound(data):
    from spoken_lang import classify, load_audio
    from spoken_lang.core import AudioError
    for f in (classify, load_audio):
        try: f(data)
        except AudioError: pass


def _text(reader):
    def read(data, path):
        path.write_bytes(data)
        reader(path)
    return read


def readers(name=None):
    "{name: (seed inputs, reader of (bytes, path), the errors it may raise)}; the bombs are only made when they are named"
    from spoken_lang import LanguageClassifier
    from spoken_lang.data import read_manifest
    from spoken_lang.inference import _answered
    from spoken_lang.training import _is_whole, read_config
    import safetensors.numpy
    tmp = Path(tempfile.mkdtemp())
    clip = Path('nbs/samples/de/high.ogg').resolve()
    manifest = f'audio,language,speaker,seconds\n{clip},de,a,7.2\n{clip},gsw,b,7.2\n'.encode()
    results = b'path,status,language,seconds,probabilities,error\n' + f'{clip},ok,de,7.25,"{{""de"": 0.9, ""it"": 0.1}}",\n'.encode()*3
    lines = (json.dumps(dict(path=str(clip), status='ok', language='de', probabilities=dict(de=.9, it=.1), seconds=7.2, error=None)) + '\n').encode()*3
    weights = safetensors.numpy.save(dict(w=np.ones((8, 8), 'float32')))
    def model(path): LanguageClassifier.from_pretrained(path).classify('nbs/samples/de/high.ogg')
    def kept(suffix):
        def read(data, path):
            (path := path.with_suffix(suffix)).write_bytes(data)
            _answered(path)
        return read
    def checkpoint(data, path):
        (folder := tmp/f'checkpoint-{os.getpid()}').mkdir(exist_ok=True)
        for name in ('trainer_state.json', 'model.safetensors', 'optimizer.pt'): (folder/name).write_bytes(b'{}')
        (folder/'model.safetensors').write_bytes(data)
        _is_whole(folder)
    sound = lambda data, path: _sound(data)
    return {**{name: ([data], sound, ()) for name, data in sounds().items()},
            'bombs': (list(bombs().values()) if name == 'bombs' else [], sound, ()),
            'manifest': ([manifest], _text(read_manifest), ValueError), 'config': ([Path('config.yml').read_bytes(), Path('nbs/results/starter/config.yml').read_bytes()], _text(read_config), ValueError),
            'results.csv': ([results], kept('.csv'), ()), 'results.jsonl': ([lines], kept('.jsonl'), ()),
            'onnx': ([Path('spoken_lang/models/starter.onnx').read_bytes()], _text(model), ValueError), 'checkpoint': ([weights], checkpoint, ())}


def inputs(name, seeds, n):
    "As they are, then mutated"
    yield from seeds
    if name == 'bombs': return
    for i in range(n): yield mutated(seeds[i % len(seeds)], np.random.default_rng([i, *name.encode()]))


def work(name, n, first, at, box):
    "Read one input after the other; `at` tells which, `box` what went wrong"
    sys.stderr = open(os.devnull, 'w'); os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    seeds, read, may = readers(name)[name]
    path, before = Path(tempfile.mkdtemp())/'input', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for i, data in enumerate(inputs(name, seeds, n)):
        if i < first: continue
        at.value, start = i, time.perf_counter()
        try: read(data, path)
        except may as e:
            if '\n' in str(e).strip(): box.put((i, f'error of several lines: {str(e)[:200]!r}'))
        except BaseException as e: box.put((i, f'{type(e).__name__}: {str(e)[:200]}'))
        took, peak = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        box.put((i, took))
        if took > SECONDS: box.put((i, f'took {took:.0f} s'))
        if peak - before > 1000*MEGABYTES: box.put((i, f'took {(peak - before)/1000:.0f} MB'))
        before = max(before, peak) if peak - before > 1000*MEGABYTES else before
    at.value = -1
    box.put((-1, (peak - before)/1000))


def run(name, n):
    "{inputs, finds, slowest s, memory MB} of one reader, whose process is replaced when it dies or hangs"
    context, first, finds, slowest, memory, seen = multiprocessing.get_context('spawn'), 0, {}, 0., 0., 0
    while True:
        at, box = context.Value('i', first - 1), context.Queue()
        (p := context.Process(target=work, args=(name, n, first, at, box), daemon=True)).start()
        last, since = None, time.time()
        while p.is_alive() or not box.empty():
            try: i, found = box.get(timeout=.5)
            except Exception:
                if (at.value, i := at.value)[0] != last: last, since = at.value, time.time()
                elif at.value >= first and time.time() - since > 6*SECONDS: finds[at.value] = 'hangs'; p.kill()
                continue
            if i == -1: memory = max(memory, found)
            elif isinstance(found, float): slowest, seen = max(slowest, found), seen + 1
            else: finds[i] = found
        p.join()
        if at.value == -1: break
        if at.value >= first and p.exitcode: finds.setdefault(at.value, f'died with {p.exitcode}')
        first = max(at.value, first - 1) + 1
    return dict(inputs=seen, finds=len(finds), slowest_s=round(slowest, 2), memory_mb=round(memory)), finds


if __name__ == '__main__':
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1200
    table, out = {}, Path('fuzz-finds')
    counts = dict(manifest=n//4, config=n//2, onnx=n//8, checkpoint=n)
    for name in sys.argv[2:] or readers():
        table[name], finds = run(name, counts.get(name, n))
        print(name, table[name], dict(list(finds.items())[:5]), flush=True)
        for i, data in enumerate(inputs(name, readers(name)[name][0], counts.get(name, n)) if finds else ()):
            if i in finds: out.mkdir(exist_ok=True); (out/f'{name}-{i}').write_bytes(data)
    kept = json.loads(out.read_text()) if (out := Path('nbs/results/fuzz.json')).exists() else {}
    out.write_text(json.dumps(kept | table, indent=1) + '\n')
