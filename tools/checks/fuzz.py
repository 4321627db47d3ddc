"""Throw broken files at everything that reads what others made: nbs/results/fuzz.json.

    pip install atheris
    python tools/checks/fuzz.py [N [NAME ...]]   # inputs for each of the audio formats (1,200), and a part of it for the rest; all readers, or some

Atheris (libFuzzer for Python) damages the seeds, and keeps what reaches new lines of `spoken_lang`. A reader may answer, or object with
its own error in one sentence. Anything else is a find, and so are 10 s without an answer, 1 GB of memory, other samples from the same
bytes, and samples that no decoder gave (gaps that time stamps ask for are counted apart); a find ends the round of its reader and is kept in the folder `fuzz-finds`. Each reader works in a process of its own, so that a crash is a find too.
"""
import io, json, os, re, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np

SECONDS, MEGABYTES = 10, 1000


def sounds():
    "{format: bytes} of two seconds of speech"
    import av, soundfile as sf
    wav, found = sf.read('nbs/samples/fr/high.flac', dtype='float32', frames=32_000)[0], {}
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


def decoded(data):
    "[(samples, channels) float32 arrays with their rate, ...] by libsndfile and by ffmpeg, each without a line of ours"
    import av, soundfile as sf
    found = []
    try:
        with sf.SoundFile(io.BytesIO(data)) as f:
            f.seekable = lambda: False
            blocks = []
            try:
                while len(block := f.read(2**16, dtype='float32', always_2d=True)): blocks.append(block)
            except sf.LibsndfileError:  # what lies before the damage
                blocks = blocks or [_until_damage(f)]
            found.append([(block, f.samplerate) for block in blocks])
    except (sf.LibsndfileError, ValueError): pass
    try:
        with av.open(io.BytesIO(data), options={'protocol_whitelist': 'none'}, metadata_errors='ignore') as box:
            found.append([(f.to_ndarray(), f.sample_rate) for f in _frames(box)])
    except (av.FFmpegError, ValueError, IndexError): pass
    return found


def _until_damage(f):
    import soundfile as sf
    blocks = [np.zeros((0, f.channels), 'float32')]
    try:
        f.seek(0)
        while len(block := f.read(4096, dtype='float32', always_2d=True)): blocks.append(block)
    except sf.LibsndfileError: pass
    return np.concatenate(blocks)


def _frames(box):
    import av
    stream = box.streams.audio[0]
    packets = box.demux(stream)
    if (box.format.name, stream.codec_context.name) == ('wav', 'aac'):  # whose packets are no frames
        yield from stream.codec_context.decode(av.Packet(b''.join(map(bytes, packets))))
        return
    while True:
        try: packet = next(packets)
        except (StopIteration, av.FFmpegError): return
        try: yield from packet.decode()
        except av.FFmpegError: pass


def _seconds(blocks):
    "What decoded blocks last: libsndfile's are (samples, channels), ffmpeg's (planes, samples) or (1, samples*channels)"
    return sum(max(block.shape)/max(1, rate) for block, rate in blocks)


def invented(data):
    "Seconds, of those that `load_audio` gives beside the gaps that time stamps ask for, that no decoder gave; 0 is right"
    from spoken_lang.audio import stream_channels
    given = sum(len(block) for block, _ in stream_channels(data) if block is not None)/16_000
    cuts = _links(data)
    links = [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)])]
    most = sum(max(map(_seconds, decoded(link)), default=0) for link in links)
    most = max(most, *map(_seconds, decoded(data)), 0)
    return max(0., given - most - .2)


def _links(data):
    "Where the links of a chained Ogg begin; 0 for all else"
    starts = [m.start() for m in re.finditer(rb'OggS\0[\x02\x03\x06\x07]', data)] if data[:4] == b'OggS' else []
    return starts or [0]


def _sound(data):
    from spoken_lang import classify, load_audio
    from spoken_lang.core import AudioError
    try: classify(data)
    except AudioError: pass
    try: wav = load_audio(data)
    except AudioError: return
    if wav.tobytes() != load_audio(data).tobytes(): raise AssertionError('the same bytes gave other samples')
    if len(data) < 10**6 and len(wav) < 600*16_000 and (s := invented(data)): raise AssertionError(f'{s:.2f} s that no decoder gave')


def _text(reader):
    def read(data, path):
        path.write_bytes(data)
        reader(path)
    return read


def readers(name=None):
    "{name: (seed inputs, reader of (bytes, path), the errors it may raise)}; the bombs are only made when they are named"
    from spoken_lang import LanguageClassifier
    from spoken_lang.manifest import read_manifest
    from spoken_lang.prediction import Prediction
    from spoken_lang.results import header_line, to_line
    from spoken_lang.results import kept_results
    from spoken_lang.config import read_config
    from spoken_lang.callbacks import whole_checkpoint
    import safetensors.numpy
    tmp = Path(tempfile.mkdtemp())
    clip = Path('nbs/samples/de/high.flac').resolve()
    manifest = f'audio,language,speaker,seconds\n{clip},de,a,7.2\n{clip},gsw,b,7.2\n'.encode()
    answer = Prediction(dict(de=.9, it=.1), seconds=7.2, path=str(clip))
    results = '\n'.join([header_line(), *[to_line(answer, 'csv')]*3, '']).encode()
    lines = (to_line(answer) + '\n').encode()*3
    weights = safetensors.numpy.save(dict(w=np.ones((8, 8), 'float32')))
    def model(path): LanguageClassifier.from_pretrained(path).classify('nbs/samples/de/high.flac')
    def kept(suffix):
        def read(data, path):
            (path := path.with_suffix(suffix)).write_bytes(data)
            kept_results(path)
        return read
    def checkpoint(data, path):
        (folder := tmp/f'checkpoint-{os.getpid()}').mkdir(exist_ok=True)
        for name in ('trainer_state.json', 'model.safetensors', 'optimizer.pt'): (folder/name).write_bytes(b'{}')
        (folder/'model.safetensors').write_bytes(data)
        whole_checkpoint(folder)
    sound = lambda data, path: _sound(data)
    return {**{name: ([data], sound, ()) for name, data in sounds().items()},
            'bombs': (list(bombs().values()) if name == 'bombs' else [], sound, ()),
            'manifest': ([manifest], _text(read_manifest), ValueError), 'config': ([Path('config.yml').read_bytes(), Path('nbs/results/tiny/config.yml').read_bytes()], _text(read_config), ValueError),
            'results.csv': ([results], kept('.csv'), ValueError), 'results.jsonl': ([lines], kept('.jsonl'), ()),
            'onnx': ([Path('spoken_lang/models/tiny.onnx').read_bytes()], _text(model), ValueError), 'checkpoint': ([weights], checkpoint, ())}


def fuzz(name, n):
    "Run one reader under libFuzzer, which ends this process: with 0 after `n` inputs without a find"
    import atheris
    with atheris.instrument_imports(include=['spoken_lang'], enable_loader_override=False): seeds, read, may = readers(name)[name]
    folder, path, finds = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())/'input', Path('fuzz-finds')
    for i, seed in enumerate(seeds): (folder/str(i)).write_bytes(seed)
    finds.mkdir(exist_ok=True)

    slowest = 0.

    def one(data):
        nonlocal slowest
        start = time.perf_counter()
        try: read(data, path)
        except may as e:
            if '\n' in str(e).strip(): raise
        if (took := time.perf_counter() - start) > slowest: slowest = took; print(f'slowest: {took:.2f}', file=sys.stderr)

    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1000
    print(f'rss before: {rss}', file=sys.stderr, flush=True)
    atheris.Setup([name, str(folder), f'-runs={0 if name == "bombs" else n}', '-seed=1', f'-timeout={SECONDS}', f'-rss_limit_mb={rss + MEGABYTES}',
                   f'-max_len={2*max(map(len, seeds))}', '-len_control=0', '-print_final_stats=1', f'-artifact_prefix={finds}/{name}-'], one)
    atheris.Fuzz()


def run(name, n):
    "{inputs, finds, memory MB} of one reader, and what libFuzzer said of a find"
    p = subprocess.run([sys.executable, __file__, '--one', name, str(n)], capture_output=True, text=True, errors='replace')
    def stat(what): return float(re.findall(rf'{what}:\s+([\d.]+)', p.stderr)[-1])
    if p.returncode: return dict(finds=1), p.stderr[-1500:]
    rss = stat('peak_rss_mb') - stat('rss before')
    return dict(inputs=int(stat('number_of_executed_units')), finds=0, slowest_s=stat('slowest'), memory_mb=max(0, int(rss))), ''


def main(n=1200, *names):
    table, counts = {}, dict(manifest=n//4, config=n//2, onnx=n//8, checkpoint=n)
    for name in names or readers():
        table[name], said = run(name, counts.get(name, n))
        print(name, table[name], said, flush=True)
    kept = json.loads(out.read_text()) if (out := Path('nbs/results/fuzz.json')).exists() else {}
    out.write_text(json.dumps(kept | table, indent=1) + '\n')


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['--one', name, n]: fuzz(name, int(n))
        case [n, *names]: main(int(n), *names)
        case _: main()
