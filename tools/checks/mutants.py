"""Put faults into the code, one at a time, and see whether the tests of the chapter notice.

    python tools/checks/mutants.py             # all faults of mutants.toml; writes nbs/results/mutants.json
    python tools/checks/mutants.py --always    # the few that .ci/run applies each time
    python tools/checks/mutants.py NAME ...    # some, by their names
    python tools/checks/mutants.py --texts     # only see that each old text is found exactly once

Works on a copy of the repository, without the corpus; the tests run there are those of a newcomer. A fault counts as
caught where the chapter's tests fail or run longer than a quarter of an hour. The exit code is 1 where a text is not found
exactly once, a `named` fault is not caught, or fewer than 95 % of all are.
"""
import json, os, re, subprocess, sys, tempfile, time, tomllib
from pathlib import Path
from shutil import copyfile

TABLE, OUT, SECONDS = Path(__file__).with_suffix('.toml'), 'nbs/results/mutants.json', 900


def source(cell): return ''.join(cell['source'])


def chapters(root):
    "{module: path of its notebook}, whatever the number of the chapter"
    found = {}
    for path in sorted((root/'nbs').glob('*.ipynb')):
        for cell in json.loads(path.read_text(encoding='utf-8'))['cells']:
            if m := re.search(r'^#\| default_exp (\S+)', source(cell), re.M): found[m[1]] = path
    return found


def exported(book):
    "The cells of a notebook that go into the module"
    return [c for c in book['cells'] if c['cell_type'] == 'code' and source(c).startswith('#| export')]


def find(root, fault):
    "(module, its notebook, the id of the cell) of the one place that a fault is for; `SystemExit` where there is not one"
    defines, found = re.compile(rf'^ *(def|class) {fault["function"]}\b', re.M), []
    for module, notebook in chapters(root).items():
        for cell in exported(json.loads(notebook.read_text(encoding='utf-8'))):
            text = source(cell)
            if defines.search(text): found += [(module, notebook, cell['id'])]*text.count(fault['old'])
    if len(found) == 1: return found[0]
    sys.exit(f'{fault["name"]}: {fault["old"]!r} is {len(found)} times in {fault["function"]}, not once. '
             f'Mend {TABLE.name}.')


def mutated(root, fault):
    "{path: text} of the notebook and the module with the fault"
    module, notebook, cell_id = find(root, fault)
    book, python = json.loads(notebook.read_text(encoding='utf-8')), root/'spoken_lang'/f'{module}.py'
    cell = next(c for c in book['cells'] if c['id'] == cell_id)
    code = lambda text: '\n'.join(l for l in text.splitlines() if not l.startswith('#|')).strip('\n')
    before, after = source(cell), source(cell).replace(fault['old'], fault['new'])
    cell['source'], text = after.splitlines(True), python.read_text(encoding='utf-8')
    if text.count(code(before)) != 1: sys.exit(f'{python}: is not what the notebook exports. Run nbdev_export.')
    return {notebook: json.dumps(book, ensure_ascii=False), python: text.replace(code(before), code(after))}


def copy_of(root):
    "A copy of all files of the repository, without the corpus beside it"
    there = Path(tempfile.mkdtemp())/'repository'
    files = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=root, capture_output=True, text=True).stdout
    for name in files.splitlines():
        if not (root/name).is_file(): continue
        (there/name).parent.mkdir(parents=True, exist_ok=True)
        copyfile(root/name, there/name)
    return there


def tests(root, notebook):
    "(whether the tests of a chapter pass, seconds)"
    start = time.monotonic()
    command = ['nbdev_test', '--path', str(notebook), '--n_workers', '0']
    env = os.environ | dict(PYTHONPATH=str(root), OMP_NUM_THREADS='1')
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try: passed = subprocess.run(command, cwd=root, env=env, timeout=SECONDS, **quiet).returncode == 0
    except subprocess.TimeoutExpired: passed = False
    return passed, round(time.monotonic() - start, 1)


def examine(root, fault):
    "Apply a fault, run the chapter's tests (and `also` those of others), take the fault out again"
    texts, books = mutated(root, fault), [find(root, fault)[1]]
    books += [chapters(root)[m] for m in fault.get('also', [])]
    before = {path: path.read_text(encoding='utf-8') for path in texts}
    try:
        for path, text in texts.items(): path.write_text(text, encoding='utf-8')
        return not all(tests(root, book)[0] for book in books)
    finally:
        for path, text in before.items(): path.write_text(text, encoding='utf-8')


def report(faults, caught):
    "Write the result file, after a run over all faults"
    from spoken_lang.results import about, save_results
    root = Path(__file__).resolve().parents[2]
    rows = {f['name']: dict(module=find(root, f)[0], function=f['function'], caught=caught[f['name']]) for f in faults}
    share = round(sum(caught.values())/len(caught), 3)
    save_results(OUT, about('python tools/checks/mutants.py', n=len(faults)), caught=share, faults=rows)


def main(*names):
    faults = tomllib.loads(TABLE.read_text(encoding='utf-8'))['fault']
    repository = Path(__file__).resolve().parents[2]
    for fault in faults: mutated(repository, fault)
    if names == ('--texts',): return print(f'{len(faults)} faults, each text is there once')
    always = names == ('--always',)
    chosen = [f for f in faults if f.get('always') if always] or [f for f in faults if not names or f['name'] in names]
    root, caught = copy_of(repository), {}
    for module in sorted({m for f in chosen for m in (find(root, f)[0], *f.get('also', []))}):
        if not tests(root, chapters(root)[module])[0]: sys.exit(f'{module}: its tests fail without any fault.')
    for fault in chosen:
        caught[fault['name']] = examine(root, fault)
        print('caught' if caught[fault['name']] else 'NOT CAUGHT', fault['name'], flush=True)
    if not names: report(faults, caught)
    missed = [f['name'] for f in chosen if not caught[f['name']]]
    print(f'{len(chosen) - len(missed)} of {len(chosen)} caught')
    named = [f['name'] for f in chosen if f.get('named') and f['name'] in missed]
    if named or always and missed or len(missed) > .05*len(chosen): sys.exit(f'not caught: {", ".join(missed)}')


if __name__ == '__main__': main(*sys.argv[1:])
