"""How the demo and the classifier bear a crowd: nbs/results/load.json.

    python tools/checks/load.py demo             # start, one visitor, 32 visitors at once
    python tools/checks/load.py ray              # bulk classification, one and two actors
    python tools/checks/load.py soak MINUTES     # the demo and a LanguageClassifier, asked by 64 threads for so long; memory as it goes

Every answer is compared with the one that Python gives alone.
"""
import json, os, platform, subprocess, sys, tempfile, threading, time, urllib.request, uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, psutil
from spoken_lang import LanguageClassifier
from spoken_lang.prediction import LANGUAGES, language_name
from spoken_lang.results import device

OUT = Path('nbs/results/load.json')
CLIPS = {p: p.parent.name for p in sorted(Path('nbs/samples').rglob('*.flac'))}
NAMES = {code: language_name(code) for code in LANGUAGES}


class Demo:
    "The app in a process of its own"
    def __enter__(self):
        self.folder, start = tempfile.mkdtemp(), time.perf_counter()
        port = 7900 + os.getpid() % 90
        self.url = f'http://127.0.0.1:{port}/'
        environment = os.environ | dict(GRADIO_TEMP_DIR=f'{self.folder}/uploads')
        command = [sys.executable, '-c', 'from spoken_lang.cli import main; main()', 'demo', '--port', str(port), '--flagged', f'{self.folder}/flagged']
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        while True:
            try: urllib.request.urlopen(self.url).read(); break
            except OSError: time.sleep(.02)
            assert self.process.poll() is None, 'the demo did not start'
        self.start = time.perf_counter() - start
        return self

    def __exit__(self, *_): self.process.terminate(); self.process.wait()

    def memory(self): return psutil.Process(self.process.pid).memory_info().rss/1e6  # MB

    def upload(self, path):
        "Send a file as a browser does; its path at the server"
        mark = uuid.uuid4().hex
        body = f'--{mark}\r\nContent-Disposition: form-data; name="files"; filename="{Path(path).name}"\r\n\r\n'.encode() + Path(path).read_bytes() + f'\r\n--{mark}--\r\n'.encode()
        request = urllib.request.Request(f'{self.url}gradio_api/upload', body, {'Content-Type': f'multipart/form-data; boundary={mark}'})
        return json.load(urllib.request.urlopen(request))[0]

    def ask(self, path, api='predict'):
        "(sentence, s) for an uploaded file"
        start = time.perf_counter()
        data = [dict(path=path, meta=dict(_type='gradio.FileData')), [], 'shipped']
        request = urllib.request.Request(f'{self.url}gradio_api/call/{api}', json.dumps(dict(data=data)).encode(), {'Content-Type': 'application/json'})
        event = json.load(urllib.request.urlopen(request))['event_id']
        said = urllib.request.urlopen(f'{self.url}gradio_api/call/{api}/{event}').read().decode()
        assert said.startswith('event: complete'), said
        return json.loads(said.split('data: ', 1)[1])[1], time.perf_counter() - start


def keep(**found):
    "Add to the results"
    here = json.loads(OUT.read_text()) if OUT.exists() else {}
    OUT.write_text(json.dumps(here | dict(cpu=device()['cpu'], cores=os.cpu_count(), python=platform.python_version()) | found, indent=1) + '\n')
    print(json.dumps(found, indent=1))


def ms(seconds, q): return round(1000*float(np.percentile(seconds, q)), 1)


def own_ms(sentence): return float(sentence.rsplit(' ms.', 1)[0].rsplit(' ', 1)[1])  # what the sentence says that the answer took


def demo(visitors=32, rounds=5):
    with Demo() as d:
        paths = {p: d.upload(p) for p in CLIPS}
        alone = [d.ask(paths[p]) for _ in range(6) for p in CLIPS][len(CLIPS):]
        mine = [list(CLIPS)[i % len(CLIPS)] for i in range(visitors)]
        with ThreadPoolExecutor(visitors) as pool:
            crowd = [list(pool.map(lambda p: d.ask(paths[p]), mine)) for _ in range(rounds)]
        wrong = sum(not said.startswith(NAMES[CLIPS[p]]) for r in crowd for p, (said, _) in zip(mine, r))
        times = [t for r in crowd for _, t in r]
        keep(demo=dict(start_s=round(d.start, 2), asked_alone=len(alone), p50_ms=ms([t for _, t in alone], 50), own_p50_ms=float(np.median([own_ms(s) for s, _ in alone])),
                       visitors=visitors, asked=len(times), wrong=wrong, crowd_p50_ms=ms(times, 50), crowd_p95_ms=ms(times, 95)))


def ray(n=3000):
    "Hard links to our clips, heard by one actor and by two"
    import pandas as pd, spoken_lang.scale as scale
    tmp, rates, memory, wrong = Path(tempfile.mkdtemp()), [], [], 0
    clips = list(CLIPS)
    for i in range(n): os.link(clips[i % len(clips)], tmp/f'{CLIPS[clips[i % len(clips)]]}-{i}.flac')
    paths, ended = sorted(tmp.glob('*.flac')), threading.Event()
    scale._ray()

    def watch():
        "Memory of this process and all of Ray's, without what they share"
        while not ended.wait(3):
            me = psutil.Process()
            total = sum(m.rss - m.shared for p in [me, *me.children(recursive=True)] if p.is_running() for m in [p.memory_info()])
            memory.append((len(list(tmp.glob('2/*.parquet')))*100, total/1e6))
    for actors in (1, 2):
        scale.classify_dataset(paths[:200], tmp/f'warm{actors}', actors=actors)
        if actors == 2: threading.Thread(target=watch).start()
        start = time.perf_counter()
        out = scale.classify_dataset(paths, tmp/str(actors), actors=actors)
        rates.append(round(n/(time.perf_counter() - start), 1))
        found = pd.read_parquet(out)
        wrong += sum(Path(p).name.split('-')[0] != l for p, l in zip(found.path, found.language)) + abs(n - len(found))
    ended.set()
    start = time.perf_counter()
    for _ in LanguageClassifier.from_pretrained().classify_files(paths, workers=2): pass
    without = n/(time.perf_counter() - start)
    first, last = [[m for done, m in memory if a <= done <= b] for a, b in ((300, 1000), (2000, n))]
    seconds = float(np.mean([LanguageClassifier.from_pretrained().classify(c).seconds for c in clips]))
    keep(ray=dict(clips=n, clip_seconds=round(seconds, 2), actors=[1, 2], clips_a_second=rates, classify_files_two_threads=round(without, 1), wrong=wrong,
                  memory_first_mb=round(float(np.median(first))), memory_last_mb=round(float(np.median(last)))))


def soak(minutes, threads=64, pause=10.):
    "Half of the threads ask the demo, half a classifier in this process; each rests between its questions"
    clf, end, start = LanguageClassifier.from_pretrained(), time.time() + 60*minutes, time.time()
    here, memory, counts = psutil.Process(), [], dict(demo=0, classifier=0, wrong=0)
    lock = threading.Lock()

    def visitor(i, d, paths):
        clips, rng = list(CLIPS), np.random.default_rng(i)
        while time.time() < end:
            clip = clips[rng.integers(len(clips))]
            if i % 2: kind, right = 'demo', d.ask(paths[clip])[0].startswith(NAMES[CLIPS[clip]])
            else: kind, right = 'classifier', clf.classify(clip).language == CLIPS[clip]
            with lock: counts[kind] += 1; counts['wrong'] += not right
            time.sleep(rng.uniform(0, 2*pause))

    with Demo() as d, ThreadPoolExecutor(threads) as pool:
        paths = {p: d.upload(p) for p in CLIPS}
        asked = [pool.submit(visitor, i, d, paths) for i in range(threads)]
        while time.time() < end:
            time.sleep(min(30, max(1, end - time.time())))
            memory.append((round((time.time() - start)/60, 1), round(d.memory(), 1), round(here.memory_info().rss/1e6, 1)))
        for a in asked: a.result()
    settled = [m for m in memory if m[0] >= minutes/3]
    slope = lambda column: round(float(np.polyfit([m[0] for m in settled], [m[column] for m in settled], 1)[0]), 3) if len(settled) > 2 else None
    keep(soak=dict(minutes=minutes, threads=threads, **counts, demo_mb_a_minute=slope(1), classifier_mb_a_minute=slope(2), memory=memory))


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['demo']: demo()
        case ['ray']: ray()
        case ['soak', minutes]: soak(float(minutes))
        case _: sys.exit(__doc__)
