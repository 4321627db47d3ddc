"""Hold every notebook and tool against the house style: python tools/checks/style.py [--report]

Widths, density, tests, outputs and words of each notebook and tool, and the shares over all exported cells.
With `--report` the breaches are counted and nothing fails.
"""
import ast, json, re, sys, tokenize
from collections import Counter
from io import StringIO
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
from imports import code_of, crossings, exported, notebooks, number, parsed, source

# columns: no line of code is wider; few exported lines are; most are within
WIDEST = 110
WIDE, SHARE_WIDE = 100, .03
NARROW, SHARE_NARROW = 95, .9
ONE_LINER = 80  # of `if x: return y`
# lines of an exported cell
MEDIAN = 12  # of the best projects, 9
P90 = 20
LONGEST = 40
# share of the exported cells that one of so many next code cells uses
USED, NEAR = .9, 3
# of a notebook
CELLS = 70
TESTS = 5
OUTPUT_KB = 150
# in 1,000 words
FIGURES = .5

DENSE = ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, ast.IfExp, ast.NamedExpr
TEST = r'^\s*(?:assert\b|test(?:_(?:eq|ne|close|fail|is|sig|shuffled|warns|stdout))?\w*\()'
BAR = r'\d+%\||\[\d\d:\d\d[<,].*/s|\b(?:HBox|FloatProgress|IntProgress)\(|<progress\b'
MACHINE = r'/(?:home|root|tmp|Users|work)/\w+'
# figures of speech, as patterns; a network takes input and output scores
SPEECH = '''
    hears? heard hearing listen(s|ed|ing|ers?)? ears? brains? throats? deaf newborns? born opinions?
    grow(s|n)?_up grew_up by_heart taught pupils? exam(s|inees?)? doctors? answer_sheets? promises?
    guess(es|ed)? doubt(s|ed)? surprises? press(es)?_it votes? a_say eat(s|en)? talkative whisper_of
    ruin(s|ed)? riddles? suspects? convicted ladders? rungs? museums? roads? doors? strangers? crowds?
    under_fire turned_away let_through found_its_feet go(es)?_on gone_on feel_at_home asks?_why
    gives?_(\\w+_)?away given_away says?_so_itself grown_people'''.split()
SPEECH = re.compile(rf'\b(?:{"|".join(SPEECH)})\b'.replace('_', r'\s+'), re.I)


def code_cells(book):
    return [c for c in book.cells if c.cell_type == 'code' and c.source.strip()]
def lines(cell):
    return [line for line in source(cell).splitlines() if line.strip()]
def evaluated(cell):
    return not re.search(r'^#\|\s*eval:\s*false', cell.source, re.M)
def flagged(cell):
    return re.search(r'^#\|\s*(slow|gpu|net)\b', cell.source, re.M)


def owner(node):
    "The class that a function is patched into"
    if not isinstance(node, ast.FunctionDef): return None
    if not any(ast.unparse(d).startswith('patch') for d in node.decorator_list):
        return None
    first = (node.args.posonlyargs + node.args.args)[:1]
    return ast.unparse(first[0].annotation) if first and first[0].annotation else None


def defined(cell):
    "(name, class that it is patched into or None) of what a cell defines at its top level"
    for node in parsed(source(cell)).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name, owner(node)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in getattr(node, 'targets', None) or [node.target]:
                for name in ast.walk(target):
                    if isinstance(name, ast.Name): yield name.id, None


def instances(cells):
    "{class: names that are bound to one of its objects somewhere in the notebook}"
    found = {}
    for node in (n for c in cells for n in ast.walk(parsed(source(c)))):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        head = ast.unparse(node.value.func).split('.')[0]
        names = (n.id for t in node.targets for n in ast.walk(t) if isinstance(n, ast.Name))
        found.setdefault(head, set()).update(names)
    return found


def signs(cell, objects):
    "The words that show that a cell is used; what Python or PyTorch calls itself is used where an object is"
    for name, cls in defined(cell):
        if not name.startswith('__'): yield name
        if cls and re.match('__|_repr_|forward$', name):
            yield from {cls} | objects.get(cls, set())
        if cls is None: yield from objects.get(name, set())


def unused(book):
    "(first name of each exported cell that none of the next code cells uses, number of cells with names)"
    cells = code_cells(book)
    far, n = [], 0
    objects = instances(cells)
    for i, cell in enumerate(cells):
        names = list(defined(cell)) if exported(cell) else []
        if not names: continue
        n += 1
        near = '\n'.join(source(c) for c in cells[i+1:i+1+NEAR] if not exported(c))
        wanted = '|'.join(map(re.escape, signs(cell, objects)))
        if not re.search(rf'\b(?:{wanted})\b', near): far.append(names[0][0])
    return far, n


def is_true(node):
    "Whether an expression is True, or a list of nothing but True"
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        node = node.left
    if isinstance(node, (ast.List, ast.Tuple)):
        return bool(node.elts) and all(map(is_true, node.elts))
    return isinstance(node, ast.Constant) and node.value is True


def equals_true(tree):
    "The lines of `test_eq(..., True)`, which print no values where they fail"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) != 'test_eq':
            continue
        if any(map(is_true, node.args)): yield node.lineno


def dense(tree):
    "Lines with more than one comprehension, conditional expression or walrus"
    starts = Counter(node.lineno for node in ast.walk(tree) if isinstance(node, DENSE))
    return [line for line, n in starts.items() if n > 1]


def crowded(code):
    "Lines with several statements, but for a short `if x: return y`, or with three assignments"
    text = code.splitlines()
    for node in ast.walk(parsed(code)):
        for name in ('body', 'orelse', 'finalbody'):
            block = getattr(node, name, None)
            if not isinstance(block, list) or not block: continue
            for a, b in zip(block, block[1:]):
                if a.end_lineno == b.lineno: yield b.lineno
            line, start = block[0].lineno, block[0].col_offset
            before = text[line - 1][:start].strip()
            if before.endswith(':') and len(text[line - 1]) > ONE_LINER:
                yield line
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Tuple):
            continue
        if isinstance(node.value, ast.Tuple) and len(node.value.elts) > 2:
            yield node.lineno


def prose(code):
    "The docstrings and comments of code"
    for node in ast.walk(parsed(code)):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)):
            yield ast.get_docstring(node) or ''
    try:
        for token in tokenize.generate_tokens(StringIO(code).readline):
            if token.type == tokenize.COMMENT: yield token.string.lstrip('# ')
    except (tokenize.TokenError, SyntaxError): return


def words(texts):
    "(figures of speech, number of words) of texts, without code and addresses"
    text = re.sub(r'```.*?```|`[^`]*`|\]\([^)]*\)|<[^>]*>', ' ', '\n'.join(texts), flags=re.S)
    found = (' '.join(m[0].lower().split()) for m in SPEECH.finditer(text))
    return list(found), len(text.split())


def texts(cell):
    "What the outputs of a cell say"
    for out in cell.get('outputs', []):
        yield ''.join(out.get('text', ''))
        data = out.get('data', {})
        yield str(data.get('text/plain', '')) + str(data.get('text/html', ''))


def breaches_of_code(name, code):
    "Breaches of a cell's or a tool's code, for its lines and statements"
    tree = parsed(code)
    for line in code.splitlines():
        if len(line) > WIDEST:
            yield 'wide', f'{name}: {len(line)} columns: {line.strip()[:60]}'
    for n in dense(tree):
        yield 'dense', f'{name}: {code.splitlines()[n-1].strip()[:90]}'
    for n in equals_true(tree):
        yield 'test_eq True', f'{name}: {code.splitlines()[n-1].strip()[:90]}'


def breaches_of_exports(name, code):
    "Breaches that only exported cells and tools can have"
    for n in sorted(set(crowded(code))):
        yield 'crowded', f'{name}: {code.splitlines()[n-1].strip()[:90]}'


def breaches_of_outputs(book):
    "What should not be stored"
    cells = code_cells(book)
    for cell in cells:
        for text in texts(cell):
            if re.search(BAR, text): yield 'progress bar', cell.id
        if not evaluated(cell) and cell.get('outputs'):
            yield 'output of eval: false', cell.id
        if '../shared' in cell.source and evaluated(cell) and not flagged(cell):
            if 'not here' not in ' '.join(texts(cell)):
                yield 'outputs', f'{cell.id}: not of a machine without ../shared'
    stored = json.dumps([c.get('outputs', []) for c in cells])
    if len(stored) > OUTPUT_KB*1024:
        yield 'outputs', f'{len(stored)//1024} KB, more than {OUTPUT_KB}'
    if found := re.search(MACHINE, stored):
        yield 'outputs', f'name a folder of a machine: {found[0]}'


def breaches_of_form(path, book):
    "The frame of a notebook: title, subtitle, length, recap, tests"
    text = '\n'.join(c.source for c in book.cells)
    first = book.cells[0].source
    if not re.match(r'# [^>]+^> \S', first, re.M):
        yield 'form', 'no title and subtitle'
    if len(book.cells) > CELLS:
        yield 'form', f'{len(book.cells)} cells, more than {CELLS}'
    if not number(path): return
    if '## Recap' not in text: yield 'form', 'no recap'
    tests = len(re.findall(TEST, code_of(book), re.M))
    if tests < TESTS: yield 'form', f'{tests} tests, fewer than {TESTS}'


def breaches(path, book):
    "(kind, sentence) for all breaches of a notebook"
    yield from breaches_of_form(path, book)
    yield from breaches_of_outputs(book)
    for cell in code_cells(book):
        yield from breaches_of_code(cell.id, source(cell))
        if exported(cell): yield from breaches_of_exports(cell.id, source(cell))


def speech_of(book):
    "Figures of speech and words of a notebook: prose, docstrings and comments"
    written = [c.source for c in book.cells if c.cell_type == 'markdown']
    return words(written + [text for c in code_cells(book) for text in prose(source(c))])


def quantile(values, q):
    return sorted(values)[min(len(values) - 1, int(len(values)*q))]


def overall(books):
    "(what, measured, whether it keeps to the goal) over all exported cells"
    cells = [c for book in books.values() for c in code_cells(book) if exported(c)]
    sizes = [len(lines(c)) for c in cells if list(defined(c))]
    widths = [len(line) for c in cells for line in lines(c)]
    over = sum(w > WIDE for w in widths)/len(widths)
    within = sum(w <= NARROW for w in widths)/len(widths)
    size = quantile(sizes, .5), quantile(sizes, .9), max(sizes)
    near = [unused(book) for book in books.values()]
    far = sum(len(names) for names, _ in near)
    used = 1 - far/sum(n for _, n in near)
    names = {(path, cls, n) for path, book in books.items() for c in code_cells(book) if exported(c)
             for n, cls in defined(c) if not re.match('__|_repr_', n)}
    hidden = sum(n.startswith('_') for *_, n in names)
    yield f'exported lines over {WIDE} columns', f'{over:.1%}', over <= SHARE_WIDE
    yield f'exported lines within {NARROW} columns', f'{within:.1%}', within >= SHARE_NARROW
    short = all(n <= goal for n, goal in zip(size, (MEDIAN, P90, LONGEST)))
    yield 'lines of an exported cell: median, p90, longest', size, short
    yield f'exported cells used by one of the next {NEAR}', f'{used:.1%}', used >= USED
    yield 'private, public names', (hidden, len(names) - hidden), hidden <= len(names) - hidden


def main(report=False):
    books, tools = notebooks(), sorted(Path('tools').rglob('*.py'))
    found = {path: list(breaches(path, book)) for path, book in books.items()}
    speech = {path: speech_of(book) for path, book in books.items()}
    for path in tools:
        code = path.read_text()
        found[path] = [*breaches_of_code('line', code), *breaches_of_exports('line', code)]
        speech[path] = words(prose(code))
    for path, what in crossings(books, tools):
        found[path].append(('private', what))
    kinds = list(dict.fromkeys(kind for rows in found.values() for kind, _ in rows))
    print(f'{"":34}', *(f'{kind:>{max(6, len(kind))}}' for kind in [*kinds, 'speech']))
    for path, rows in found.items():
        counts = Counter(kind for kind, _ in rows)
        said = len(speech[path][0])
        print(f'{str(path):34}', *(f'{counts[k] or "":>{max(6, len(k))}}' for k in kinds), f'{said or "":>6}')
    figures = [word for said, _ in speech.values() for word in said]
    share = 1000*len(figures)/sum(n for _, n in speech.values())
    goals = [*overall(books), ('figures of speech in 1,000 words', f'{share:.1f}', share < FIGURES)]
    print()
    for what, measured, good in goals:
        print(f'{"" if good else "NOT "}reached: {what}: {measured}')
    print('figures of speech:', ', '.join(f'{w} {k}' for w, k in Counter(figures).most_common()))
    bad = sum(map(len, found.values())) + sum(not good for *_, good in goals)
    print(f'{bad} breaches in {len(books)} notebooks and {len(tools)} tools')
    if report: return
    for path, rows in found.items():
        print(*(f'{path}: {kind}: {what}' for kind, what in rows), sep='\n')
    for path, book in books.items():
        if far := unused(book)[0]:
            print(f'{path}: used by none of the next {NEAR} cells: {", ".join(far)}')
    sys.exit(bool(bad))


if __name__ == '__main__': main(report='--report' in sys.argv[1:])
