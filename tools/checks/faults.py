"""Kill what writes files, at drawn moments, and look at what it leaves: nbs/results/faults.json.

    python tools/checks/faults.py [TIMES]   # kills for each kind of work (12)

What was reported as saved must be there, and no half-written file may be read as whole. Training is killed by a slow test of nbs/25_training.ipynb,
an actor of Ray by one of nbs/42_scale.ipynb.
"""
import csv, http.server, io, json, os, shutil, signal, subprocess, sys, tempfile, threading, time, zipfile
from pathlib import Path
import numpy as np
from spoken_lang import LanguageClassifier, load_audio
from spoken_lang.results import read_predictions
from spoken_lang.results import kept_results

OUT, CLI = Path('nbs/results/faults.json'), 'from spoken_lang.cli import main; main()'
CLIPS = sorted(Path('nbs/samples').resolve().rglob('*.flac'))


def killed_after(seconds, code, *args):
    "Run Python code, kill it after some seconds; what it had printed"
    p = subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try: return p.communicate(timeout=seconds)[0], False
    except subprocess.TimeoutExpired:
        p.send_signal(signal.SIGKILL)
        return p.communicate()[0], True


def prediction(times, rng, tmp):
    "`predict --results`: what was printed must be in the file; at the end, each file once"
    for i in range(150): os.link(CLIPS[i % len(CLIPS)], tmp/f'{i:03}.flac')
    wrong = killed = 0
    for t in range(times):
        results = tmp/f'r{t}.{("jsonl", "csv")[t % 2]}'
        for _ in range(2):
            said, dead = killed_after(rng.uniform(.4, 3), CLI, 'predict', tmp, '--results', results)
            killed += dead
            printed = {l.split('\t')[0] for l in said.split('\n')[:-1]}
            wrong += not printed <= set(kept_results(results) if results.exists() else ())
        subprocess.run([sys.executable, '-c', CLI, 'predict', str(tmp), '--results', str(results)], check=True, stdout=subprocess.DEVNULL)
        wrong += len(read_predictions(results)) != 150 or results.read_text().count('\n') != 150 + (t % 2)
    return dict(killed=killed, wrong=wrong)


def flagging(times, rng, tmp):
    "The demo's `_flag`: every line tells of a whole recording"
    code = "import sys; from spoken_lang.demo import flag_recording\nwhile True: print(flag_recording(sys.argv[1], 'de', 'Italian', sys.argv[2]), flush=True)"
    wrong = killed = 0
    for _ in range(times):
        said, dead = killed_after(rng.uniform(.5, 2), code, CLIPS[0], tmp)
        killed += dead
        rows = list(csv.DictReader((tmp/'flagged.csv').open())) if (tmp/'flagged.csv').exists() else []
        names = {str(tmp/r['audio']) for r in rows if r['audio']}
        wrong += not set(said.split('\n')[:-1]) <= names
        for name in names: wrong += len(load_audio(name)) != len(load_audio(CLIPS[0]))
    return dict(killed=killed, lines=len(rows), wrong=wrong)


def export(times, rng, tmp):
    "`export_onnx` over an older file: what is there loads"
    shutil.copy('spoken_lang/models/tiny.onnx', tmp/'model.onnx')
    code = ("import sys, torch; from spoken_lang.model import *; from spoken_lang.onnx_export import export_onnx\n"
            "print('ready', flush=True); export_onnx(SpokenLanguageClassifier(SpokenLanguageConfig(hidden_size=32)), sys.argv[1])")
    wrong = killed = 0
    for _ in range(times):
        _, dead = killed_after(rng.uniform(3, 14), code, tmp/'model.onnx')
        killed += dead
        try: LanguageClassifier.from_pretrained(tmp/'model.onnx').classify(CLIPS[0])
        except ValueError: wrong += 1
    return dict(killed=killed, wrong=wrong)


class _Slow(http.server.BaseHTTPRequestHandler):
    "A server that sends a zip at about 4 MB a second, and knows ranges"
    def log_message(self, *args): pass
    def do_HEAD(self): self.do_GET(body=False)

    def do_GET(self, body=True):
        rest = self.whole[int(self.headers.get('Range', 'bytes=0-')[6:-1]):]
        self.send_response(206 if 'Range' in self.headers else 200); self.send_header('Content-Length', str(len(rest))); self.end_headers()
        try:
            for i in range(0, len(rest) if body else 0, 40_000): self.wfile.write(rest[i:i + 40_000]); time.sleep(.01)
        except OSError: pass  # who asked is dead


def fetching(times, rng, tmp):
    "`data download`: a folder that is there is whole, and the next call goes on"
    with zipfile.ZipFile(buffer := io.BytesIO(), 'w') as z:
        for i in range(80): z.writestr(f'it/{i}.wav', rng.bytes(100_000))
    _Slow.whole = buffer.getvalue()
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = "import sys; from spoken_lang.corpora import download; print('ready', flush=True); download('voxlingua107', 'it', sys.argv[1], sys.argv[2])"
    wrong = killed = gone_on = 0
    for t in range(times):
        folder, ended = tmp/str(t), False
        while not ended:
            _, dead = killed_after(rng.uniform(1.5, 6), code, folder, f'http://127.0.0.1:{server.server_port}')
            killed, ended = killed + dead, not dead
            there = folder/'voxlingua107'/'it'
            wrong += there.exists() and len(list(there.iterdir())) != 80
            gone_on += dead and (folder/'voxlingua107'/'it.zip.part').exists()
        wrong += sorted(p.read_bytes() for p in there.iterdir()) != sorted(zipfile.ZipFile(buffer).read(n) for n in zipfile.ZipFile(buffer).namelist())
    server.shutdown()
    return dict(killed=killed, went_on_from_a_part=gone_on, wrong=wrong)


def read_only(tmp):
    "What writes, in a folder that may not be written to: a sentence and an exit code"
    shutil.copy('spoken_lang/models/tiny.onnx', tmp/'model.onnx')
    (tmp/'old.csv').write_text('path,status,language,seconds,probabilities,error\n')
    tmp.chmod(0o500); (tmp/'old.csv').chmod(0o400)
    as_others = ['setpriv', '--bounding-set=-dac_override,-dac_read_search'] if os.geteuid() == 0 else []  # root, but bound by permissions
    asked = dict(predict=['predict', CLIPS[0], '--results', tmp/'new.csv'], resume=['predict', CLIPS[0], '--results', tmp/'old.csv'],
                 ray=['predict', CLIPS[0], '--ray', '--results', tmp/'folder'], train=['train', '--data', CLIPS[0].parents[1], '--labels', 'de,it', '--workspace', tmp],
                 quantize=['quantize', tmp, '--method', 'float16'])
    found = {}
    for name, args in asked.items():
        p = subprocess.run([*as_others, sys.executable, '-c', CLI, *map(str, args)], capture_output=True, text=True)
        sentence = p.stderr.strip().split('\n')[-1].replace(str(tmp), 'FOLDER')
        found[name] = dict(exit_code=p.returncode, sentence=sentence)
    return dict(wrong=sum(f['exit_code'] not in (1, 2) or not f['sentence'].startswith('spoken_lang: ') for f in found.values()), said=found)


def full_disk(tmp):
    "Results on a disk of 64 kB: a sentence and an exit code; and what was reported is there"
    if os.geteuid(): return dict(skipped='needs root to mount a small disk')
    subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', str(tmp)], check=True)
    try:
        results = tmp/'r.csv'
        (tmp/'filler').write_bytes(b'x'*61_000)
        p = subprocess.run([sys.executable, '-c', CLI, 'predict', *map(str, CLIPS*8), '--results', str(results)], capture_output=True, text=True)
        sentence = p.stderr.strip().split('\n')[-1]
        return dict(exit_code=p.returncode, one_sentence='\n' not in p.stderr.strip() and 'Traceback' not in p.stderr, sentence=sentence.replace(str(tmp), 'DISK'))
    finally: subprocess.run(['umount', str(tmp)], check=True)


if __name__ == '__main__':
    times, rng, found = int(sys.argv[1]) if len(sys.argv) > 1 else 12, np.random.default_rng(0), {}
    for work in (prediction, flagging, export, fetching): found[work.__name__] = work(times, rng, Path(tempfile.mkdtemp())); print(work.__name__, found[work.__name__], flush=True)
    for work in (read_only, full_disk): found[work.__name__] = work(Path(tempfile.mkdtemp())); print(work.__name__, found[work.__name__], flush=True)
    OUT.write_text(json.dumps(found, indent=1) + '\n')
