"""Read the import rule from the code: python tools/checks/imports.py

1. A chapter imports only chapters of a smaller number, at its head or inside functions.
2. No name with a leading underscore crosses a module, in tests and `tools/` too; nothing is mocked.
3. The heads of the chapters that people import to classify load none of the large libraries.
4. `spoken_lang` hands on four names, and loads no module before one of them is used.
5. Every notebook is in the sidebar, and none has more than 70 cells.
"""
import ast, re, subprocess, sys
from functools import lru_cache
from pathlib import Path
import nbformat, yaml

PACKAGE, CELLS = 'spoken_lang', 70
LIGHT = '00 00b 00c 00d 01 01b 02 03 23 40 41 42 43b 44'.split()  # numbers of chapters
HEAVY = 'torch transformers pandas sklearn matplotlib gradio ray'.split()
HANDED_ON = 'classify LanguageClassifier load_audio Prediction'.split()


def source(cell):
    "The code of a cell without directives and magics"
    return re.sub(r'^\s*(?:#\s*\||[%!]).*$', '', cell.source, flags=re.M)


def parsed(code):
    "The syntax tree; an empty one where it is not Python"
    try: return ast.parse(code)
    except SyntaxError: return ast.parse('')


def exported(cell):
    "Whether a cell goes into a module"
    return cell.cell_type == 'code' and bool(re.search(r'^#\s*\|\s*exports?\b', cell.source, re.M))


def notebooks():
    "{path: notebook}, by name"
    return {path: nbformat.read(path, 4) for path in sorted(Path('nbs').glob('*.ipynb'))}


def number(path):
    "The number of a chapter, such as `03` or `21b`; None for a page without one"
    found = re.match(r'\d\d[a-z]?(?=_)', path.stem)
    return found and found[0]


def module(path):
    "The name of the module of a chapter"
    return re.sub(r'^\d\d[a-z]?_', '', path.stem)


def code_of(book, only_exported=False):
    "All the code of a notebook"
    cells = [c for c in book.cells if c.cell_type == 'code']
    return '\n'.join(source(c) for c in cells if exported(c) or not only_exported)


def imported(tree):
    "(module of the package, line) for each import in a tree"
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif not isinstance(node, ast.ImportFrom): continue
        elif node.module == PACKAGE:
            names = [handed_on(alias.name) for alias in node.names]
        else: names = [node.module or '']
        for name in names:
            if name.startswith(f'{PACKAGE}.'):
                yield name.split('.')[1], node.lineno


@lru_cache
def handed_on(name):
    "The module behind a name of the package itself, such as `spoken_lang.core`"
    if name not in HANDED_ON: return f'{PACKAGE}.{name}'
    found, = in_a_fresh_process(f'import {PACKAGE}; print({PACKAGE}.{name}.__module__)')
    return found


def climbing(books):
    "Point 1: imports of a chapter that is not below"
    numbers = {module(path): number(path) for path in books if number(path)}
    for path, book in books.items():
        for name, _ in imported(parsed(code_of(book, only_exported=True))):
            if number(path) and name not in numbers:
                yield f'{path}: imports {name}, which is no chapter.'
            elif number(path) and numbers[name] >= number(path):
                yield f'{path}: imports {name}, which is not below it.'


def private_attributes(tree):
    "Private names that a tree defines or sets, at any depth"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)): name = node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            name = node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            name = node.id
        else: continue
        if re.match(r'_(?!_|repr_)', name): yield name


def mocks(node):
    "Whether a node imports what replaces the insides of others"
    names = [alias.name for alias in getattr(node, 'names', []) if isinstance(alias, ast.alias)]
    return 'unittest.mock' in names or getattr(node, 'module', None) == 'unittest' and 'mock' in names


def crossings(books, tools):
    "Point 2: (place, sentence) for private names of another module, and for mocks"
    own = {path: set(private_attributes(parsed(code_of(book)))) for path, book in books.items()}
    ours = set().union(*own.values())
    texts = {path: code_of(book) for path, book in books.items()}
    texts |= {path: path.read_text() for path in tools}
    for path, text in texts.items():
        tree = parsed(text)
        mine = own.get(path) or set(private_attributes(tree))
        for names in re.findall(rf'from {PACKAGE}[.\w]* import (\([^)]*\)|[^;\n(]*)', text):
            for name in re.findall(r'(?<!\w)_[a-zA-Z]\w*', names):
                yield path, f'imports {name}'
        read = {n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
        for name in sorted((read & ours) - mine):
            yield path, f'reads {name} of another module'
        if any(map(mocks, ast.walk(tree))): yield path, 'mocks'


def in_a_fresh_process(code):
    "What a fresh Python prints"
    command = [sys.executable, '-c', code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def heavy_heads(books):
    "Point 3: heads that load a large library"
    for path in books:
        if number(path) not in LIGHT: continue
        loaded = in_a_fresh_process(f'import sys, {PACKAGE}.{module(path)}; print(*sys.modules)')
        if found := sorted(set(HEAVY) & set(loaded)):
            yield f'{path}: its head loads {", ".join(found)}.'


def handing_on():
    "Point 4: the names of the package"
    names = in_a_fresh_process(f'import {PACKAGE}; print(*{PACKAGE}.__all__)')
    if set(names) != set(HANDED_ON):
        yield f'{PACKAGE}: hands on {", ".join(names)}.'
    loaded = in_a_fresh_process(f'import sys, {PACKAGE}; print(*sys.modules)')
    early = [m for m in loaded if m.startswith(f'{PACKAGE}.')]
    if early: yield f'{PACKAGE}: loads {", ".join(early)}.'
    for name in HANDED_ON:
        if not handed_on(name).startswith(f'{PACKAGE}.'):
            yield f'{PACKAGE}.{name} is not one of ours.'


def pages(contents):
    "The notebooks of a sidebar, sections opened"
    for entry in contents:
        if isinstance(entry, str): yield entry
        else: yield from pages(entry['contents'])


def sidebar(books):
    "Point 5: notebooks that are not in the sidebar, pages that are not there, notebooks that are too long"
    listed = yaml.safe_load(Path('nbs/sidebar.yml').read_text())['website']['sidebar']['contents']
    listed, present = list(pages(listed)), {path.name for path in books}
    for name in sorted(present ^ set(listed)):
        yield f'{name}: is in the sidebar or in the folder, but not in both.'
    for path, book in books.items():
        if len(book.cells) > CELLS:
            yield f'{path}: has {len(book.cells)} cells, more than {CELLS}.'


def main():
    books, tools = notebooks(), sorted(Path('tools').rglob('*.py'))
    bad = [*climbing(books), *(f'{path}: {what}.' for path, what in crossings(books, tools))]
    bad += [*heavy_heads(books), *handing_on(), *sidebar(books)]
    print(*bad, sep='\n')
    print(f'{len(books)} notebooks, {len(tools)} tools: {len(bad)} breaches of the import rule')
    sys.exit(bool(bad))


if __name__ == '__main__': main()
