"""Kill what writes files, at random moments, and check what is left: nbs/results/faults.json.

    python tools/checks/faults.py [TIMES]   # kills for each kind of work (12)

On an idle machine, about 10 minutes; on a busy one a kill comes before there is anything to lose.

What was reported as saved must be in the file, and no half-written file may be read as whole.
Training is killed by a slow test of nbs/25_training.ipynb, an actor of Ray by one of
nbs/42_scale.ipynb.
"""
import csv, http.server, io, os, shutil, signal, subprocess, sys, tempfile, threading, time, zipfile
from pathlib import Path
import numpy as np
from spoken_lang import LanguageClassifier, load_audio
from spoken_lang.results import about, read_predictions, save_results

OUT, SEED = Path('nbs/results/faults.json'), 0
CLI = 'from spoken_lang.cli import main; main()'
CLIPS = sorted(Path('nbs/samples').resolve().rglob('*.flac'))
MODEL = 'spoken_lang/models/tiny.onnx'

FLAG = '''import sys
from spoken_lang.uploads import flag_recording
while True: print(flag_recording(sys.argv[1], 'de', 'Italian', sys.argv[2]), flush=True)'''
EXPORT = '''import sys, torch
from spoken_lang.model import *
from spoken_lang.onnx_export import export_onnx
print('ready', flush=True)
export_onnx(SpokenLanguageClassifier(SpokenLanguageConfig(hidden_size=32)), sys.argv[1])'''
DOWNLOAD = '''import sys
from spoken_lang.corpora import download
print('ready', flush=True)
download('voxlingua107', 'it', sys.argv[1], sys.argv[2])'''


def killed_after(seconds, code, *args):
    "Run Python code, kill it after some seconds; (what it had printed, whether it was killed)"
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    process = subprocess.Popen([sys.executable, '-c', code, *map(str, args)], **pipes)
    try: return process.communicate(timeout=seconds)[0], False
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        return process.communicate()[0], True


def run_cli(*args, before=(), **kwargs):
    "Run the command line; its finished process"
    command = [*before, sys.executable, '-c', CLI, *map(str, args)]
    return subprocess.run(command, **kwargs)


def last_line(process): return process.stderr.strip().split('\n')[-1]


def prediction(times, rng, tmp):
    "`predict --results`: what was printed must be in the file; at the end, each file once"
    for i in range(150):
        os.link(CLIPS[i % len(CLIPS)], tmp/f'{i:03}.flac')
    wrong = killed = 0
    for t in range(times):
        results = tmp/f'r{t}.{("jsonl", "csv")[t % 2]}'
        for _ in range(2):
            args = 'predict', tmp, '--results', results
            out, dead = killed_after(rng.uniform(.4, 3), CLI, *args)
            killed += dead
            printed = {line.split('\t')[0] for line in out.split('\n')[:-1]}
            kept = read_predictions(results, skip=True) if results.exists() else ()
            wrong += not printed <= {p.path for p in kept}
        run_cli('predict', tmp, '--results', results, check=True, stdout=subprocess.DEVNULL)
        lines = results.read_text().count('\n')
        wrong += len(read_predictions(results)) != 150 or lines != 150 + (t % 2)
    return dict(killed=killed, wrong=wrong)


def flagging(times, rng, tmp):
    "`flag_recording` of the demo: every line names a whole recording"
    wrong = killed = 0
    table, whole = tmp/'flagged.csv', len(load_audio(CLIPS[0]))
    for _ in range(times):
        out, dead = killed_after(rng.uniform(.5, 2), FLAG, CLIPS[0], tmp)
        killed += dead
        rows = list(csv.DictReader(table.open())) if table.exists() else []
        names = {str(tmp/row['audio']) for row in rows if row['audio']}
        wrong += not set(out.split('\n')[:-1]) <= names
        wrong += sum(len(load_audio(name)) != whole for name in names)
    return dict(killed=killed, lines=len(rows), wrong=wrong)


def export(times, rng, tmp):
    "`export_onnx` over an older file: the file can be loaded"
    shutil.copy(MODEL, tmp/'model.onnx')
    wrong = killed = 0
    for _ in range(times):
        _, dead = killed_after(rng.uniform(3, 14), EXPORT, tmp/'model.onnx')
        killed += dead
        try:
            clf = LanguageClassifier.from_pretrained(tmp/'model.onnx')
            clf.classify(CLIPS[0])
        except ValueError: wrong += 1
    return dict(killed=killed, wrong=wrong)


class SlowServer(http.server.BaseHTTPRequestHandler):
    "Sends a zip at about 4 MB a second, with support for ranges"
    def log_message(self, *args): pass
    def do_HEAD(self): self.do_GET(body=False)

    def do_GET(self, body=True):
        rest = self.whole[int(self.headers.get('Range', 'bytes=0-')[6:-1]):]
        self.send_response(206 if 'Range' in self.headers else 200)
        self.send_header('Content-Length', str(len(rest)))
        self.end_headers()
        try:
            for i in range(0, len(rest) if body else 0, 40_000):
                self.wfile.write(rest[i:i + 40_000])
                time.sleep(.01)
        except OSError: pass  # the client was killed


def contents(folder):
    return sorted(path.read_bytes() for path in folder.iterdir())


def fetching(times, rng, tmp):
    "`data download`: a folder with the final name is whole, and the next call resumes"
    files = [rng.bytes(100_000) for _ in range(80)]
    with zipfile.ZipFile(buffer := io.BytesIO(), 'w') as z:
        for i, data in enumerate(files): z.writestr(f'it/{i}.wav', data)
    SlowServer.whole = buffer.getvalue()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), SlowServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f'http://127.0.0.1:{server.server_port}'
    wrong = killed = resumed = 0
    for t in range(times):
        folder, ended = tmp/str(t), False
        while not ended:
            _, dead = killed_after(rng.uniform(1.5, 6), DOWNLOAD, folder, address)
            killed, ended = killed + dead, not dead
            there = folder/'voxlingua107'/'it'
            wrong += there.exists() and len(list(there.iterdir())) != len(files)
            resumed += dead and (folder/'voxlingua107'/'it.zip.part').exists()
        wrong += contents(there) != sorted(files)
    server.shutdown()
    return dict(killed=killed, went_on_from_a_part=resumed, wrong=wrong)


def read_only(tmp):
    "Commands that write, in a folder without write permission: one sentence and an exit code"
    shutil.copy(MODEL, tmp/'model.onnx')
    (tmp/'old.csv').write_text('path,status,language,seconds,probabilities,error\n')
    tmp.chmod(0o500)
    (tmp/'old.csv').chmod(0o400)
    commands = dict(
        predict=['predict', CLIPS[0], '--results', tmp/'new.csv'],
        resume=['predict', CLIPS[0], '--results', tmp/'old.csv'],
        ray=['predict', CLIPS[0], '--ray', '--results', tmp/'folder'],
        train=['train', '--data', CLIPS[0].parents[1], '--labels', 'de,it', '--workspace', tmp],
        quantize=['quantize', tmp, '--method', 'float16'])
    # root, but bound by permissions
    bound = ['setpriv', '--bounding-set=-dac_override,-dac_read_search']
    found = {}
    for name, args in commands.items():
        before = bound if os.geteuid() == 0 else []
        done = run_cli(*args, before=before, capture_output=True, text=True)
        sentence = last_line(done).replace(str(tmp), 'FOLDER')
        found[name] = dict(exit_code=done.returncode, sentence=sentence)
    def is_wrong(f):
        return f['exit_code'] not in (1, 2) or not f['sentence'].startswith('spoken_lang: ')
    return dict(wrong=sum(map(is_wrong, found.values())), said=found)


def full_disk(tmp):
    "Results on a disk of 64 kB: one sentence and an exit code"
    if os.geteuid(): return dict(skipped='needs root to mount a small disk')
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(tmp)]
    subprocess.run(mount, check=True)
    try:
        (tmp/'filler').write_bytes(b'x'*61_000)
        with tempfile.TemporaryDirectory() as clips:
            for i in range(80):
                os.link(CLIPS[i % len(CLIPS)], f'{clips}/{i:03}.flac')
            args = 'predict', clips, '--results', tmp/'r.csv'
            done = run_cli(*args, capture_output=True, text=True)
        one = '\n' not in done.stderr.strip() and 'Traceback' not in done.stderr
        sentence = last_line(done).replace(str(tmp), 'DISK')
        return dict(exit_code=done.returncode, one_sentence=one, sentence=sentence)
    finally: subprocess.run(['umount', str(tmp)], check=True)


def main(times=12):
    rng, found = np.random.default_rng(SEED), {}
    for work in (prediction, flagging, export, fetching, read_only, full_disk):
        args = () if work in (read_only, full_disk) else (int(times), rng)
        found[work.__name__] = work(*args, Path(tempfile.mkdtemp()))
        print(work.__name__, found[work.__name__], flush=True)
    n = sum(row.get('killed', 0) for row in found.values())
    command = f'python tools/checks/faults.py {times}'
    save_results(OUT, about(command, LanguageClassifier.from_pretrained().path, n, SEED), **found)


if __name__ == '__main__': main(*sys.argv[1:])
