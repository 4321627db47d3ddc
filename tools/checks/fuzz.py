"""Give damaged files to everything that reads files: nbs/results/fuzz.json.

    pip install atheris
    python tools/checks/fuzz.py [N [NAME ...]]   # inputs for each audio format (1,200), fewer for
                                                 # the rest; all readers, or some: those are printed
                                                 # and not written

Atheris (libFuzzer for Python) damages the seeds, and keeps what reaches new lines of `spoken_lang`.
A reader may answer, or raise its own error in one sentence. Anything else is a find. So are 10 s of
processor time (60 for a recording of hours), 1 GB of memory, other samples from the same bytes, and
samples that no decoder gave (gaps between time stamps are counted apart). A find ends the round of its
reader and is kept in the folder `fuzz-finds`. Each reader runs in a process of its own, so that a crash
is a find too.
"""
import io, re, resource, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np

SECONDS, MEGABYTES = 10, 1000
LONG = 60  # s, for the bombs: two of them are recordings of hours, which are decoded to their end
SEED = 1
CLIP = Path('nbs/samples/de/high.flac').resolve()


def by_soundfile(wav, rate=16_000, **kwargs):
    "A wave in a format of libsndfile, as bytes"
    import soundfile as sf
    file = io.BytesIO()
    sf.write(file, wav, rate, **kwargs)
    return file.getvalue()


def by_ffmpeg(wav, codec, container, rate=16_000, times=1):
    "A wave in a container of ffmpeg, as bytes, repeated so many times"
    import av
    file = io.BytesIO()
    with av.open(file, 'w', format=container) as out:
        stream = out.add_stream(codec, rate=rate, layout='mono')
        frame = av.AudioFrame.from_ndarray(wav[None], 'fltp', 'mono')
        frame.sample_rate = rate
        for i in range(times):
            frame.pts = i*len(wav)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def sounds():
    "{format: bytes} of two seconds of speech"
    import soundfile as sf
    wav = sf.read('nbs/samples/fr/high.flac', dtype='float32', frames=32_000)[0]
    return dict(wav=by_soundfile(wav, format='WAV', subtype='PCM_16'),
                flac=by_soundfile(wav, format='FLAC', subtype='PCM_16'),
                ogg=by_soundfile(wav, format='OGG', subtype='OPUS'),
                mp3=by_ffmpeg(wav, 'libmp3lame', 'mp3'), m4a=by_ffmpeg(wav, 'aac', 'mp4'))


# of a WAV header: (offset, bytes)
FIELDS = dict(channels=(22, 2), rate=(24, 4), bytes_a_second=(28, 4), data=(40, 4), riff=(4, 4))


def changed_header(wav, **fields):
    "A WAV file with other numbers in its header"
    data = bytearray(wav)
    for name, value in fields.items():
        at, n = FIELDS[name]
        data[at:at+n] = value.to_bytes(n, 'little')
    return bytes(data)


def bombs():
    "Small files that claim or hold far too much: {name: bytes}"
    wav, found = sounds()['wav'], {}
    found['claims 2^31 samples.wav'] = changed_header(wav, data=2**32 - 2, riff=2**32 - 1)
    for rate in (0, 1, 99, 2**31 - 1, 2**32 - 1):
        found[f'rate {rate}.wav'] = changed_header(wav, rate=rate)
    for channels in (0, 1024, 65535):
        found[f'{channels} channels.wav'] = changed_header(wav, channels=channels)
    ten_hours = np.zeros((10*3600*8000, 1), 'int16')
    found['ten hours of nothing.flac'] = by_soundfile(ten_hours, 8000, format='FLAC')
    ten_minutes = np.zeros(8000*600, 'float32')
    found['three hours of nothing.m4a'] = by_ffmpeg(ten_minutes, 'aac', 'mp4', 8000, times=18)
    return found


def read_blocks(f, size):
    "Yield blocks of an open SoundFile, up to damage"
    import soundfile as sf
    try:
        while len(block := f.read(size, dtype='float32', always_2d=True)):
            yield block
    except sf.LibsndfileError: pass


def until_damage(f):
    "What small blocks give of a file whose first large block is damaged"
    import soundfile as sf
    blocks = [np.zeros((0, f.channels), 'float32')]
    try:
        f.seek(0)
        blocks += read_blocks(f, 4096)
    except sf.LibsndfileError: pass
    return np.concatenate(blocks)


def packets_of(box, stream):
    "Yield the packets of a stream, up to damage"
    import av
    packets = box.demux(stream)
    while True:
        try: yield next(packets)
        except (StopIteration, av.FFmpegError): return


def frames_of(box):
    "Yield the decoded frames of a container"
    import av
    stream = box.streams.audio[0]
    if (box.format.name, stream.codec_context.name) == ('wav', 'aac'):  # its packets are no frames
        data = b''.join(map(bytes, box.demux(stream)))
        yield from stream.codec_context.decode(av.Packet(data))
        return
    for packet in packets_of(box, stream):
        try: yield from packet.decode()
        except av.FFmpegError: pass


def decoded(data):
    "[(array, rate), ...] of all samples, by libsndfile and by ffmpeg, without `spoken_lang`"
    import av, soundfile as sf
    found = []
    try:
        with sf.SoundFile(io.BytesIO(data)) as f:
            f.seekable = lambda: False
            blocks = list(read_blocks(f, 2**16)) or [until_damage(f)]
            found.append([(block, f.samplerate) for block in blocks])
    except (sf.LibsndfileError, ValueError): pass
    options = dict(options={'protocol_whitelist': 'none'}, metadata_errors='ignore')
    try:
        with av.open(io.BytesIO(data), **options) as box:
            found.append([(f.to_ndarray(), f.sample_rate) for f in frames_of(box)])
    except (av.FFmpegError, ValueError, IndexError): pass
    return found


def seconds_of(blocks):
    "Seconds of decoded blocks; their longer axis is time"
    return sum(max(block.shape)/max(1, rate) for block, rate in blocks)


def links_of(data):
    "Where the links of a chained Ogg begin; 0 for all else"
    pages = re.finditer(rb'OggS\0[\x02\x03\x06\x07]', data) if data[:4] == b'OggS' else []
    return [page.start() for page in pages] or [0]


def invented(data):
    "Seconds of `stream_channels`, gaps apart, that no decoder gave; 0 is right"
    from spoken_lang.audio import stream_channels
    blocks = (block for block, _ in stream_channels(data) if block is not None)
    given = sum(map(len, blocks))/16_000
    cuts = links_of(data)
    links = [data[a:b] for a, b in zip(cuts, [*cuts[1:], len(data)])]
    most = sum(max(map(seconds_of, decoded(link)), default=0) for link in links)
    most = max(most, *map(seconds_of, decoded(data)), 0)
    return max(0., given - most - .2)


def read_sound(data, path=None):
    "Classify and load; the samples must be the same twice, and come from a decoder"
    from spoken_lang import classify, load_audio
    from spoken_lang.core import AudioError
    try: classify(data)
    except AudioError: pass
    try: wav = load_audio(data)
    except AudioError: return
    if wav.tobytes() != load_audio(data).tobytes():
        raise AssertionError('the same bytes gave other samples')
    if len(data) >= 10**6 or len(wav) >= 600*16_000: return
    seconds = invented(data)
    if seconds: raise AssertionError(f'{seconds:.2f} s that no decoder gave')


def from_file(reader, suffix=None):
    "A reader of (bytes, path) from a reader of files"
    def read(data, path):
        if suffix: path = path.with_suffix(suffix)
        path.write_bytes(data)
        reader(path)
    return read


def read_checkpoint(data, path):
    "Check a checkpoint with these weights"
    from spoken_lang.callbacks import whole_checkpoint
    folder = path.parent/'checkpoint-1'
    folder.mkdir(exist_ok=True)
    for name in ('trainer_state.json', 'optimizer.pt'):
        (folder/name).write_bytes(b'{}')
    (folder/'model.safetensors').write_bytes(data)
    whole_checkpoint(folder)


def read_model(path):
    from spoken_lang import LanguageClassifier
    LanguageClassifier.from_pretrained(path).classify(CLIP)


def result_files():
    "(CSV, JSON lines) of a prediction, three times"
    from spoken_lang.prediction import Prediction
    from spoken_lang.results import header_line, to_line
    answer = Prediction(dict(de=.9, it=.1), seconds=7.2, path=str(CLIP))
    table = '\n'.join([header_line(), *[to_line(answer, 'csv')]*3, ''])
    return table.encode(), (to_line(answer) + '\n').encode()*3


def readers(name=None):
    "{name: (seed inputs, reader of (bytes, path), its errors)}; bombs are made where they are named"
    from spoken_lang.manifest import read_manifest
    from spoken_lang.results import kept_records
    from spoken_lang.config import read_config
    import safetensors.numpy
    manifest = f'audio,language,speaker,seconds\n{CLIP},de,a,7.2\n{CLIP},gsw,b,7.2\n'.encode()
    configs = [Path(p).read_bytes() for p in ('config.yml', 'nbs/results/tiny/config.yml')]
    table, lines = result_files()
    weights = safetensors.numpy.save(dict(w=np.ones((8, 8), 'float32')))
    model = Path('spoken_lang/models/tiny.onnx').read_bytes()
    found = {format: ([data], read_sound, ()) for format, data in sounds().items()}
    return found | {
        'bombs': (list(bombs().values()) if name == 'bombs' else [], read_sound, ()),
        'manifest': ([manifest], from_file(read_manifest), ValueError),
        'config': (configs, from_file(read_config), ValueError),
        'results.csv': ([table], from_file(kept_records, '.csv'), ValueError),
        'results.jsonl': ([lines], from_file(kept_records, '.jsonl'), ValueError),
        'onnx': ([model], from_file(read_model), ValueError),
        'checkpoint': ([weights], read_checkpoint, ())}


def fuzz(name, n):
    "Run one reader under libFuzzer, which ends this process: with 0 after `n` inputs without a find"
    import atheris
    with atheris.instrument_imports(include=['spoken_lang'], enable_loader_override=False):
        seeds, read, errors = readers(name)[name]
    folder, path = Path(tempfile.mkdtemp()), Path(tempfile.mkdtemp())/'input'
    for i, seed in enumerate(seeds): (folder/str(i)).write_bytes(seed)
    Path('fuzz-finds').mkdir(exist_ok=True)
    slowest, limit = 0., LONG if name == 'bombs' else SECONDS

    def one(data):
        nonlocal slowest
        start = time.process_time()
        try: read(data, path)
        except errors as e:
            if '\n' in str(e).strip(): raise
        took = time.process_time() - start
        if took > limit: raise TimeoutError(f'{took:.1f} s')
        if took > slowest: print(f'slowest: {took:.2f}', file=sys.stderr)
        slowest = max(took, slowest)

    if name != 'bombs': one(seeds[0])  # what it imports is not timed
    slowest = 0.
    rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss//1000
    print(f'rss before: {rss}', file=sys.stderr, flush=True)
    options = dict(runs=0 if name == 'bombs' else n, seed=SEED, timeout=6*limit)
    options |= dict(rss_limit_mb=rss + MEGABYTES, max_len=2*max(map(len, seeds)), len_control=0)
    options |= dict(print_final_stats=1, artifact_prefix=f'fuzz-finds/{name}-')
    atheris.Setup([name, str(folder), *(f'-{k}={v}' for k, v in options.items())], one)
    atheris.Fuzz()


def run(name, n):
    "{inputs, finds, memory MB} of one reader, and what libFuzzer printed of a find"
    command = [sys.executable, __file__, '--one', name, str(n)]
    p = subprocess.run(command, capture_output=True, text=True, errors='replace')
    def stat(what):
        return float(re.findall(rf'{what}:\s+([\d.]+)', p.stderr)[-1])
    if p.returncode: return dict(finds=1), p.stderr[-1500:]
    inputs, rss = int(stat('number_of_executed_units')), stat('peak_rss_mb') - stat('rss before')
    return dict(inputs=inputs, finds=0, slowest_s=stat('slowest'), memory_mb=max(0, int(rss))), ''


def main(n=1200, *names):
    from spoken_lang import LanguageClassifier
    from spoken_lang.results import about, save_results
    table, counts = {}, dict(manifest=n//4, config=n//2, onnx=n//8, checkpoint=n)
    for name in names or readers():
        table[name], printed = run(name, counts.get(name, n))
        print(name, table[name], printed, flush=True)
    if names: return
    total = sum(row.get('inputs', 0) for row in table.values())
    command = f'python tools/checks/fuzz.py {n}'
    belongs = about(command, LanguageClassifier.from_pretrained().path, total, SEED)
    save_results('nbs/results/fuzz.json', belongs, **table)


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['--one', name, n]: fuzz(name, int(n))
        case [n, *names]: main(int(n), *names)
        case _: main()
