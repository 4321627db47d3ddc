"""The demo, the service and the classifier under load: nbs/results/load.json and service.json.

    python tools/checks/load.py [MINUTES]   # load.json
    python tools/checks/load.py service     # service.json: 32 clients at once, in turns with `classify_files`

One after the other: the start of the demo, one visitor, 32 visitors at once; bulk classification by
one actor of Ray and by two; 64 threads that use the demo and a classifier for so many minutes (31),
with the memory over time. Every answer is compared with the one that Python gives alone.
"""
import json, os, subprocess, sys, tempfile, threading, time, urllib.error, urllib.request, uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
import numpy as np, psutil
from spoken_lang import LanguageClassifier
from spoken_lang.prediction import LANGUAGES, language_name
from spoken_lang.results import about, save_results

OUT = Path('nbs/results/load.json')
CLIPS = {path: path.parent.name for path in sorted(Path('nbs/samples').rglob('*.flac'))}
NAMES = {code: language_name(code) for code in LANGUAGES}
CLI = 'from spoken_lang.cli import main; main()'
FORM = 'Content-Disposition: form-data; name="files"; filename='


class Demo:
    "The app in a process of its own"
    def __enter__(self):
        folder, port = tempfile.mkdtemp(), 7900 + os.getpid() % 90
        self.url, start = f'http://127.0.0.1:{port}/', time.perf_counter()
        env = os.environ | dict(GRADIO_TEMP_DIR=f'{folder}/uploads')
        options = ['--port', str(port), '--flagged', f'{folder}/flagged']
        command = [sys.executable, '-c', CLI, 'demo', *options]
        self.process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        while not self.answers():
            assert self.process.poll() is None, 'the demo did not start'
            time.sleep(.02)
        self.start = time.perf_counter() - start
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def answers(self):
        "Whether the page can be fetched"
        try: return bool(urllib.request.urlopen(self.url).read())
        except OSError: return False

    def memory(self):
        "MB"
        return psutil.Process(self.process.pid).memory_info().rss/1e6

    def request(self, path, data=None, **headers):
        "What the server sends for an address"
        headers = {k.replace('_', '-'): v for k, v in headers.items()}
        request = urllib.request.Request(f'{self.url}gradio_api/{path}', data, headers)
        return urllib.request.urlopen(request).read().decode()

    def upload(self, path):
        "Send a file as a browser does; its path at the server"
        mark = uuid.uuid4().hex
        head = f'--{mark}\r\n{FORM}"{Path(path).name}"\r\n\r\n'
        body = head.encode() + Path(path).read_bytes() + f'\r\n--{mark}--\r\n'.encode()
        kind = f'multipart/form-data; boundary={mark}'
        return json.loads(self.request('upload', body, Content_Type=kind))[0]

    def ask(self, path, api='predict'):
        "(sentence, s) for an uploaded file"
        start = time.perf_counter()
        data = [dict(path=path, meta=dict(_type='gradio.FileData')), [], 'base']
        body = json.dumps(dict(data=data)).encode()
        event = json.loads(self.request(f'call/{api}', body, Content_Type='application/json'))
        answer = self.request(f'call/{api}/{event["event_id"]}')
        assert answer.startswith('event: complete'), answer
        return json.loads(answer.split('data: ', 1)[1])[1], time.perf_counter() - start


def ms(seconds, q): return round(1000*float(np.percentile(seconds, q)), 1)


def own_ms(sentence):
    "The time in the sentence of the demo"
    return float(sentence.rsplit(' ms.', 1)[0].rsplit(' ', 1)[1])


def demo(visitors=32, rounds=5):
    clips = list(CLIPS)
    with Demo() as d:
        paths = {clip: d.upload(clip) for clip in clips}
        alone = [d.ask(paths[clip]) for _ in range(6) for clip in clips][len(clips):]
        theirs = [clips[i % len(clips)] for i in range(visitors)]
        together = []
        with ThreadPoolExecutor(visitors) as pool:
            for _ in range(rounds):
                together += zip(theirs, pool.map(lambda clip: d.ask(paths[clip]), theirs))
    wrong = sum(not sentence.startswith(NAMES[CLIPS[clip]]) for clip, (sentence, _) in together)
    times = [t for _, (_, t) in together]
    own = [own_ms(sentence) for sentence, _ in alone]
    return dict(start_s=round(d.start, 2), asked_alone=len(alone),
                p50_ms=ms([t for _, t in alone], 50), own_p50_ms=float(np.median(own)),
                visitors=visitors, asked=len(times), wrong=wrong,
                crowd_p50_ms=ms(times, 50), crowd_p95_ms=ms(times, 95))


class Service:
    "`spoken_lang serve` in a process of its own"
    def __init__(self, threads): self.threads = threads

    def __enter__(self):
        code = f"from spoken_lang.service import serve; serve(port=0, workers={self.threads})"
        self.process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True, cwd=tempfile.mkdtemp())
        self.url = self.process.stdout.readline().split()[0]
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()

    def ask(self, data):
        "(answer, s) for the bytes of a recording; the answer is a status where there is none"
        start = time.perf_counter()
        try:
            with urllib.request.urlopen(f'{self.url}/v1/classify', data) as f:
                answer = json.load(f)
        except urllib.error.HTTPError as e: answer = e.code
        return answer, time.perf_counter() - start


def service(clients=32, rounds=5, threads=2, out='nbs/results/service.json'):
    "All clients ask at once, then `classify_files` gets the same clips, in turns"
    clf = LanguageClassifier.from_pretrained()
    clips = [list(CLIPS)[i % len(CLIPS)] for i in range(clients)]
    data = {clip: clip.read_bytes() for clip in CLIPS}
    alone = {clip: clf.classify(clip).to_dict() for clip in CLIPS}
    times, seconds = [], Counter()
    wrong = errors = 0
    with Service(threads) as s, ThreadPoolExecutor(clients) as pool:
        single = [s.ask(data[clip])[1] for clip in clips]
        for _ in range(rounds):
            start = time.perf_counter()
            found = list(pool.map(lambda clip: s.ask(data[clip]), clips))
            middle = time.perf_counter()
            for _ in clf.classify_files(clips, workers=threads): pass
            seconds.update(service=middle - start, files=time.perf_counter() - middle)
            times += [t for _, t in found]
            errors += sum(not isinstance(answer, dict) for answer, _ in found)
            wrong += sum(answer != alone[clip] for clip, (answer, _) in zip(clips, found))
    n = clients*rounds
    origin = about('python tools/checks/load.py service', clf.path, n, threads=threads,
                   load_average=os.getloadavg()[1], cores=os.cpu_count())
    save_results(out, origin, clients=clients, rounds=rounds, errors=errors, wrong=wrong,
                 alone_p50_ms=ms(single, 50), p50_ms=ms(times, 50), p95_ms=ms(times, 95),
                 clips_a_second=round(n/seconds['service'], 2),
                 classify_files_clips_a_second=round(n/seconds['files'], 2),
                 share=round(seconds['files']/seconds['service'], 3))
    print(Path(out).read_text())


def family_memory():
    "MB of this process and all of Ray's, without what they share"
    me, total = psutil.Process(), 0
    for process in [me, *me.children(recursive=True)]:
        if not process.is_running(): continue
        memory = process.memory_info()
        total += memory.rss - memory.shared
    return total/1e6


class MemoryWatch:
    "Memory every 3 s, with the number of clips that are classified"
    def __init__(self, folder):
        self.folder, self.rows = folder, []
        self.ended = threading.Event()

    def start(self): threading.Thread(target=self.watch).start()

    def watch(self):
        while not self.ended.wait(3):
            n = 100*len(list(self.folder.glob('*.parquet')))
            self.rows.append((n, family_memory()))

    def median(self, low, high):
        "Median memory while between `low` and `high` clips are classified, MB"
        return round(float(np.median([m for n, m in self.rows if low <= n <= high])))


def linked_clips(folder, n):
    "Hard links to the samples, with the language in their name"
    clips = list(CLIPS)
    for i in range(n):
        clip = clips[i % len(clips)]
        os.link(clip, folder/f'{CLIPS[clip]}-{i}.flac')
    return sorted(folder.glob('*.flac'))


def n_wrong(out, n):
    "Clips with another language than that in their name, and missing ones"
    import pandas as pd
    found = pd.concat(map(pd.read_parquet, sorted(Path(out).glob('answers_*.parquet'))))
    languages = [Path(path).name.split('-')[0] for path in found.path]
    return int((found.language != languages).sum()) + abs(n - len(found))


def ray(n=1500):
    "Hard links to the samples, classified by one actor and by two"
    import spoken_lang.scale as scale
    rates, wrong = [], 0
    tmp = Path(tempfile.mkdtemp())
    paths, watch = linked_clips(tmp, n), MemoryWatch(tmp/'2')
    scale.start_ray()
    for actors in (1, 2):
        scale.classify_dataset(paths[:200], tmp/f'warm{actors}', actors=actors)
        if actors == 2: watch.start()
        start = time.perf_counter()
        out = scale.classify_dataset(paths, tmp/str(actors), actors=actors)
        rates.append(round(n/(time.perf_counter() - start), 1))
        wrong += n_wrong(out, n)
    watch.ended.set()
    clf, start = LanguageClassifier.from_pretrained(), time.perf_counter()
    for _ in clf.classify_files(paths, workers=2): pass
    without = n/(time.perf_counter() - start)
    seconds = float(np.mean([clf.classify(clip).seconds for clip in CLIPS]))
    return dict(clips=n, clip_seconds=round(seconds, 2), actors=[1, 2], clips_a_second=rates,
                classify_files_two_threads=round(without, 1), wrong=wrong,
                memory_first_mb=watch.median(300, 700), memory_last_mb=watch.median(1100, n))


def is_right(clf, demo, path, clip):
    "Whether the demo, or where it is None the classifier, answers with the language of a clip"
    if demo: return demo.ask(path)[0].startswith(NAMES[CLIPS[clip]])
    return clf.classify(clip).language == CLIPS[clip]


def slope(rows, column):
    "MB a minute of a column of (minute, MB, MB); None of fewer than three rows"
    if len(rows) < 3: return None
    minutes, *memory = zip(*rows)
    return round(float(np.polyfit(minutes, memory[column - 1], 1)[0]), 3)


def soak(minutes, threads=64, pause=10.):
    "Half of the threads use the demo, half a classifier in this process, with pauses"
    clf, start = LanguageClassifier.from_pretrained(), time.time()
    counts = Counter(demo=0, classifier=0, wrong=0)
    end, lock = start + 60*minutes, threading.Lock()

    def visitor(i, d, paths):
        clips, rng = list(CLIPS), np.random.default_rng(i)
        while time.time() < end:
            clip = clips[rng.integers(len(clips))]
            right = is_right(clf, d if i % 2 else None, paths[clip], clip)
            kind = ('classifier', 'demo')[i % 2]
            with lock: counts.update({kind: 1, 'wrong': not right})
            time.sleep(rng.uniform(0, 2*pause))

    memory = []
    with Demo() as d, ThreadPoolExecutor(threads) as pool:
        paths = {clip: d.upload(clip) for clip in CLIPS}
        visitors = [pool.submit(visitor, i, d, paths) for i in range(threads)]
        while time.time() < end:
            time.sleep(min(30, max(1, end - time.time())))
            own = psutil.Process().memory_info().rss/1e6
            minute = round((time.time() - start)/60, 1)
            memory.append((minute, round(d.memory(), 1), round(own, 1)))
        for v in visitors: v.result()
    settled = [row for row in memory if row[0] >= minutes/3]
    return dict(minutes=minutes, threads=threads, **counts, demo_mb_a_minute=slope(settled, 1),
                classifier_mb_a_minute=slope(settled, 2), memory=memory)


def main(minutes=31):
    found = {}
    for work in (demo, ray, partial(soak, float(minutes))):
        name = getattr(work, 'func', work).__name__
        found[name] = work()
        print(name, json.dumps(found[name]), flush=True)
    n = found['demo']['asked'] + found['ray']['clips'] + found['soak']['demo'] + found['soak']['classifier']
    command, path = f'python tools/checks/load.py {minutes}', LanguageClassifier.from_pretrained().path
    save_results(OUT, about(command, path, n, seed=0), **found)


if __name__ == '__main__':
    if sys.argv[1:] == ['service']: service()
    else: main(*sys.argv[1:])
