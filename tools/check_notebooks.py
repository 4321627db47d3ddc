"""Hold the notebooks against the house style: python tools/check_notebooks.py

A library notebook opens with a title and a subtitle and closes with a recap; its exported cells are short and are used
by a cell near them; its tests are visible; its outputs are small and name no machine.
"""
import ast, json, re, sys
from pathlib import Path
from statistics import median
import nbformat

MEDIAN, P90, LONGEST = 9, 20, 40  # lines of an exported cell
EXERCISED, WITHIN = .9, 3         # share of exported cells that one of the next cells uses
TESTS, OUTPUT_KB, WIDTH = 5, 150, 150


def code(cell): return re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
def lines(cell): return sum(bool(l.strip()) for l in code(cell).splitlines())
def exported(cell): return cell.cell_type == 'code' and re.search(r'^#\|\s*exports?\b', cell.source, re.M)
def only_imports(cell): return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(code(cell)).body)


def names(cell):
    "What a cell defines"
    for node in ast.parse(code(cell)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): yield from {'__repr__': ['print', 'repr'], '_repr_html_': ['p'], 'forward': ['mel', 'net', 'model', 'log_mel', 'LogMel'],
            '__call__': ['SpokenLanguageFeatureExtractor'], '__getitem__': ['clips', 'dataset']}.get(node.name, [node.name])
        if isinstance(node, ast.Assign): yield from (t.id for t in node.targets if isinstance(t, ast.Name))


def used(cells, i):
    "Whether one of the next code cells that are not exported mentions something the cell defines"
    after = [c for c in cells[i+1:] if c.cell_type == 'code'][:WITHIN]
    text = '\n'.join(code(c) for c in after if not exported(c))
    return any(re.search(rf'\b{re.escape(n)}\b', text) for n in names(cells[i]))


def problems(path):
    "What is wrong with a notebook, a sentence each"
    cells = nbformat.read(path, 4).cells
    mine = [c for c in cells if exported(c) and not only_imports(c)]
    text = '\n'.join(c.source for c in cells)
    outputs = json.dumps([c.get('outputs', []) for c in cells if c.cell_type == 'code'])
    if not re.match(r'# \S', cells[0].source) or not re.search(r'^> \S', cells[0].source, re.M): yield 'opens without a title and a subtitle'
    if len(outputs) > OUTPUT_KB*1024: yield f'has {len(outputs)//1024} KB of outputs, more than {OUTPUT_KB}'
    if m := re.search(r'/(home|root|tmp|Users|work)/\w+', outputs): yield f'names a folder of a machine in its outputs: {m[0]}'
    widest = max(len(l) for c in cells if c.cell_type == 'code' for l in code(c).splitlines())
    if widest > WIDTH and mine: yield f'has a line of {widest} characters, more than {WIDTH}'
    if not mine: return
    if '## Recap' not in text: yield 'closes without a recap'
    if (n := len(re.findall(r'^\s*(?:assert\b|test_\w+\()', text, re.M))) < TESTS: yield f'has {n} tests, fewer than {TESTS}'


def main():
    bad, sizes, unused = [], [], []
    for path in sorted(Path('nbs').rglob('*.ipynb')):
        bad += [f'{path} {p}' for p in problems(path)]
        cells = nbformat.read(path, 4).cells
        for i, c in enumerate(cells):
            if not exported(c) or only_imports(c) or not list(names(c)): continue
            sizes.append(lines(c))
            if not used(cells, i): unused.append(f'{path.stem}: {" ".join(names(c))}')
    sizes.sort()
    share, middle, p90 = 1 - len(unused)/len(sizes), median(sizes), sizes[int(.9*(len(sizes)-1))]
    print(f'{len(sizes)} exported cells: {middle:.0f} lines in the middle, 90 % at most {p90}, the longest {sizes[-1]}; '
          f'{100*share:.0f} % used by one of the next {WITHIN} cells')
    if middle > MEDIAN or p90 > P90 or sizes[-1] > LONGEST: bad.append(f'The exported cells should have {MEDIAN}, {P90} and {LONGEST} lines at most.')
    if share < EXERCISED: bad += [f'{100*EXERCISED:.0f} % of the exported cells should be used near by. Not used:', *unused]
    print(*bad, sep='\n')
    sys.exit(bool(bad))


if __name__ == '__main__': main()
