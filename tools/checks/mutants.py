"""Put faults into the code, one at a time, and see whether the tests of the chapter fail.

    python tools/checks/mutants.py                  # all of mutants.toml
    python tools/checks/mutants.py --only NAME ...  # some, by the names of faults or modules
    python tools/checks/mutants.py --ci             # the six quick ones that .ci/run applies
    python tools/checks/mutants.py --texts          # only see that each old text is found once

A fault is applied to the notebook and the module in a copy of the repository, without the corpus.
It counts as caught where the chapter's tests fail, or take longer than --seconds. Results are
stored in nbs/results/mutants.json as they come. A later run takes over those of which neither the
fault nor the code of the chapter has changed; --again applies all faults anew. The exit code is 1
where an old text is not found exactly once, tests fail without a fault, a `named` fault is not
caught, or fewer than 95 % of all are.
"""
import argparse, ast, hashlib, json, os, re, signal, subprocess, sys, tempfile, time, tomllib
from contextlib import suppress
from importlib import import_module
from itertools import groupby
from pathlib import Path
from shutil import copyfile, copytree

ROOT = Path(__file__).resolve().parents[2]
TABLE, RESULTS = Path(__file__).with_suffix('.toml'), ROOT/'nbs'/'results'/'mutants.json'
SHARE = .95  # of the faults are to be caught
LIBRARIES = '''
    pandas scipy.signal sklearn.linear_model sklearn.model_selection sklearn.tree sklearn.metrics
    matplotlib.pyplot soundfile soxr av torch torchaudio.compliance.kaldi torchaudio.functional
    torch.utils.tensorboard torch.ao.quantization transformers.trainer transformers.models.auto
    transformers.models.speech_to_text.modeling_speech_to_text torch.onnx onnxruntime.quantization
    transformers.models.whisper.modeling_whisper onnxscript onnxruntime.quantization.shape_inference
    tensorboard.backend.event_processing.event_accumulator gradio nbdev.test'''.split()


def source(cell): return ''.join(cell['source'])
def read(path): return json.loads(path.read_text(encoding='utf-8'))


def is_code(cell): return cell['cell_type'] == 'code'
def is_exported(cell):
    return is_code(cell) and source(cell).startswith('#| export')


def chapters(root):
    "{module: path of its notebook}"
    found = {}
    for path in sorted((root/'nbs').glob('*.ipynb')):
        text = '\n'.join(map(source, filter(is_code, read(path)['cells'])))
        named = re.search(r'^#\| default_exp (\S+)', text, re.M)
        if named: found[named[1]] = path
    return found


def enclosing(code, at):
    "The names of the functions and classes that a position in some code lies in"
    line = code[:at].count('\n') + 1
    kinds = ast.FunctionDef, ast.ClassDef
    nodes = [node for node in ast.walk(ast.parse(code)) if isinstance(node, kinds)]
    return [node.name for node in nodes if node.lineno <= line <= node.end_lineno]


def places(old, books):
    "[(module, names of the functions and classes around it)] where an old text is exported"
    found = []
    for module, book in books.items():
        for code in map(source, filter(is_exported, book['cells'])):
            starts = [match.start() for match in re.finditer(re.escape(old), code)]
            found += [(module, enclosing(code, at)) for at in starts]
    return found


def mistake(fault, books):
    "What is wrong with a fault of the table, or None"
    found = places(fault['old'], books)
    here = [names for module, names in found if module == fault['module']]
    if len(here) == 1 and (not here[0] or fault['function'] in here[0]):
        return None
    where = '; '.join(f'{module}: {" ".join(names)}' for module, names in found) or 'nowhere'
    return f'{fault["old"]!r} is not once in {fault["function"]} of {fault["module"]}, but in {where}'


def check_table(faults, root):
    "`SystemExit` that lists the faults whose old text is not found exactly once"
    books = {module: read(path) for module, path in chapters(root).items()}
    found = {fault['name']: mistake(fault, books) for fault in faults}
    wrong = [f'{name}: {what}' for name, what in found.items() if what]
    missing = set(books) - {fault['module'] for fault in faults}
    wrong += [f'{module}: no fault for this chapter' for module in sorted(missing)]
    if wrong: sys.exit('\n'.join([*wrong, f'Correct {TABLE.name}.']))


def apply(root, fault):
    "Write a fault into a notebook and its module"
    path = chapters(root)[fault['module']]
    book, module = read(path), root/'spoken_lang'/f'{fault["module"]}.py'
    for cell in filter(is_exported, book['cells']):
        cell['source'] = source(cell).replace(fault['old'], fault['new'])
    path.write_text(json.dumps(book, ensure_ascii=False), encoding='utf-8')
    text = module.read_text(encoding='utf-8')
    if text.count(fault['old']) != 1:
        sys.exit(f'{module.name}: is not what the notebook exports. Run nbdev_export.')
    module.write_text(text.replace(fault['old'], fault['new']), encoding='utf-8')


def snapshot(folder):
    "A copy of the files of the repository, without the corpus beside it"
    command = ['git', 'ls-files', '-co', '--exclude-standard']
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.splitlines():
        if not (ROOT/name).is_file(): continue
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        copyfile(ROOT/name, folder/name)
    return folder


def preload():
    "Import what the chapters import, so that the processes that are forked for tests need not"
    os.environ['OMP_NUM_THREADS'] = '1'
    for name in LIBRARIES:
        with suppress(ImportError): import_module(name)


def nbdev_tests(root, module, log):
    "Run the tests of a chapter in this process, which ends with 0 where they pass"
    os.setsid()
    for stream in (1, 2): os.dup2(log.fileno(), stream)
    os.chdir(root)
    os.environ['PYTHONPATH'] = str(root)
    sys.path.insert(0, str(root))
    for name in list(sys.modules):
        if name.split('.')[0] == 'spoken_lang': del sys.modules[name]
    status = 1
    try:
        from nbdev.test import nbdev_test
        nbdev_test(path=str(chapters(root)[module]), n_workers=0)
        status = 0
    finally:
        sys.stdout.flush()
        os._exit(status)


def ended(pid, seconds):
    "The exit status of a process; None where it needs longer than so many seconds"
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(.1)


def last_error(log):
    "The last line of a log that names an error, else the last line"
    log.seek(0)
    lines = log.read().decode(errors='replace').splitlines()
    errors = [line for line in lines if re.match(r'\S*(Error|Exit|Interrupt)\b', line)]
    return (errors or lines or [''])[-1]


def run_tests(root, module, seconds):
    "(whether the tests of a chapter pass, seconds they took, the last error that they printed)"
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        pid = os.fork()
        if not pid: nbdev_tests(root, module, log)
        status = ended(pid, seconds)
        with suppress(ProcessLookupError):  # end also what the tests left running
            os.killpg(pid, signal.SIGKILL)
        if status is None: os.waitpid(pid, 0)
        last = f'longer than {seconds} s' if status is None else last_error(log)
    return status == 0, round(time.monotonic() - start, 1), last


def examine(base, module, seconds, fault=None):
    "`run_tests` in a fresh copy, with a fault where one is given"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        root = copytree(base, Path(folder)/'repository')
        if fault: apply(root, fault)
        return run_tests(root, module, seconds)


def key_of(fault, root):
    "A hash of a fault and of the code of its chapter, tests included"
    cells = filter(is_code, read(chapters(root)[fault['module']])['cells'])
    texts = [fault['old'], fault['new'], *map(source, cells)]
    return hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:16]


def stored_rows(faults, root):
    "{name: result} of an earlier run, where it is still about the same fault and the same code"
    rows = read(RESULTS)['faults'] if RESULTS.exists() else {}
    keys = {f['name']: key_of(f, root) for f in faults}
    return {name: row for name, row in rows.items() if row['key'] == keys.get(name)}


def save(faults, rows):
    "Write the result file"
    sys.path.insert(0, str(ROOT))
    from spoken_lang.results import about, save_results
    names = [f['name'] for f in faults if f['name'] in rows]
    found = sum(rows[name]['caught'] for name in names)
    head = about('python tools/checks/mutants.py', n=len(names), threads=1)
    save_results(RESULTS, head, share=round(found/len(names), 3), faults={n: rows[n] for n in names})


def apply_all(faults, base, seconds, done):
    "Yield (fault, result) for each fault; the tests of a chapter have to pass without one first"
    for module, group in groupby(faults, lambda f: f['module']):
        group = [f for f in group if f['name'] not in done]
        if not group: continue
        passed, took, last = examine(base, module, seconds)
        print(f'{module}: {"passes" if passed else "FAILS"} without a fault, {took} s', flush=True)
        if not passed: print(f'    {last}', flush=True)
        for fault in group if passed else []:
            passed, took, last = examine(base, module, seconds, fault)
            row = dict(module=module, function=fault['function'], caught=not passed, seconds=took)
            print('NOT CAUGHT' if passed else 'caught    ', fault['name'], f'({took} s)', flush=True)
            if not passed: print(f'    {last[:120]}', flush=True)
            yield fault, row | dict(key=key_of(fault, base))


def chosen_faults(faults, options):
    "The faults that the options name"
    if options.ci: return [f for f in faults if f.get('ci')]
    only, names = set(options.only), {name for f in faults for name in (f['name'], f['module'])}
    if not only <= names:
        sys.exit(f'{", ".join(sorted(only - names))}: no such fault or module.')
    return [f for f in faults if not only or only & {f['name'], f['module']}]


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument('--only', nargs='+', default=[])
    parser.add_argument('--seconds', type=int, default=600)
    for flag in ('--ci', '--texts', '--again'):
        parser.add_argument(flag, action='store_true')
    options = parser.parse_args()
    faults = tomllib.loads(TABLE.read_text(encoding='utf-8'))['fault']
    check_table(faults, ROOT)
    if options.texts:
        return print(f'{len(faults)} faults, each text is there once')
    chosen, order = chosen_faults(faults, options), list(chapters(ROOT))
    chosen.sort(key=lambda f: order.index(f['module']))
    preload()
    with tempfile.TemporaryDirectory() as folder:
        base = snapshot(Path(folder)/'base')
        stored = {} if options.ci else stored_rows(faults, base)
        again = {f['name'] for f in chosen if options.again}
        rows = {name: row for name, row in stored.items() if name not in again}
        for fault, row in apply_all(chosen, base, options.seconds, rows):
            rows[fault['name']] = row
            if not options.ci: save(faults, rows)
    finish(chosen, rows, options.ci)


def finish(chosen, rows, ci):
    "Print the share, and exit with 1 where too few were caught"
    untested = [f['name'] for f in chosen if f['name'] not in rows]
    missed = [f['name'] for f in chosen if f['name'] not in untested and not rows[f['name']]['caught']]
    caught = len(chosen) - len(missed) - len(untested)
    print(f'{caught} of {len(chosen)} caught')
    if untested:
        sys.exit(f'not tested, since tests fail without a fault: {", ".join(untested)}')
    named = [f['name'] for f in chosen if f.get('named') and f['name'] in missed]
    if named or ci and missed or caught < SHARE*len(chosen):
        sys.exit(f'not caught: {", ".join(missed)}')


if __name__ == '__main__': main()
