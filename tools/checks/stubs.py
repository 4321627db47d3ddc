"""Write type stubs of the modules that users call, or check them with mypy.

    python tools/checks/stubs.py [--check]

`@patch` adds methods to a class after its body, which type checkers do not see. A stub, `NAME.pyi` beside
`NAME.py`, has them in the class. The annotations are those of the source; a parameter or a field whose
default is None may be None. `--check` fails where a stub is not what would be written, or where
`mypy --strict` finds an error in the stubs or in a program that uses them.
"""
import argparse, dataclasses, importlib, inspect, re, subprocess, sys, tempfile, types, typing
from pathlib import Path

PACKAGE = Path('spoken_lang')
MODULES = 'core audio prediction results timeline stream explanation windows inference'.split()
HEAD = '"""Made by tools/checks/stubs.py"""\n'
IMPORTS = {'Any': 'typing', 'Counter': 'collections', 'Iterator': 'collections.abc',
           'Path': 'pathlib', 'ThreadPoolExecutor': 'concurrent.futures',
           'dataclass': 'dataclasses'}
CONTAINERS = {'dict': 'dict[Any, Any]', 'list': 'list[Any]', 'tuple': 'tuple[Any, ...]',
              'ndarray': 'np.ndarray[Any, Any]', 'InferenceSession': 'Any',
              'SessionOptions': 'Any'}
BASES = {'Timeline': 'list[tuple[float, float, Prediction]]'}
ATTRIBUTES = {  # that are set in methods
    'LanguageClassifier': dict(path='Path', labels='list[str]', decision='dict[str, Any]',
                               options='dict[str, Any]', session='Any'),
    'LanguageStream': dict(prediction='Prediction', seconds='float', done='bool', locked='bool',
                           finished='bool', changes='list[tuple[float, str]]', rate='int',
                           interval='float', min_confidence='float', agreeing='int')}
PROGRAM = """
import numpy as np
from spoken_lang import classify, LanguageClassifier, load_audio, Prediction
from spoken_lang.core import AudioError

def name(path: str) -> str | None:
    try: p: Prediction = classify(path, languages=['de', 'gsw'])
    except AudioError: return None
    return p.language if p.confidence > .9 else p.outside

clf = LanguageClassifier.from_pretrained('tiny', threads=2)
wav: np.ndarray = load_audio('clip.m4a')
for start, end, p in clf.timeline(wav, 16_000): print(f'{end - start:.1f}', p.language)
for p in clf.classify_files(['a.wav', 'b.wav'], workers=2): print(p.path, p.top_k(2))
stream = clf.stream(48_000, min_confidence=.95)
stream.feed(wav)
if stream.done and not stream.locked: stream.lock()
for at, code in stream.changes: print(round(at, 1), code.upper())
print(stream.finish().to_dict(), clf.timeline('a.wav').to_text('srt'), clf.languages)
"""
WRONG = 'from spoken_lang import LanguageClassifier\nLanguageClassifier.from_pretrained().clasify(1)\n'


def type_name(hint, default=inspect.Parameter.empty):
    "The text of an annotation; `Any` where there is none"
    if hint is inspect.Parameter.empty: return 'Any'
    if hint in (None, type(None)): return 'None'
    if isinstance(hint, types.UnionType):
        text = ' | '.join(map(type_name, typing.get_args(hint)))
    else:
        text = getattr(hint, '__name__', str(hint))
    text = CONTAINERS.get(text, text)
    may_be_none = default is None and 'None' not in text
    return f'{text} | None' if may_be_none else text


def function(name, f, owner=None):
    "The stub of a function, or of a method, whose first parameter is `owner`"
    signature = inspect.signature(f)
    texts, keywords = [], False
    for i, p in enumerate(signature.parameters.values()):
        star = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        if p.kind is p.KEYWORD_ONLY and not keywords: texts.append('*')
        keywords = keywords or p.kind is p.KEYWORD_ONLY
        default = '' if p.default is p.empty else ' = ...'
        typed = f'{star}{p.name}: {type_name(p.annotation, p.default)}{default}'
        texts.append(owner if owner and not i else typed)
    result = type_name(signature.return_annotation)
    if inspect.isgeneratorfunction(f): result = 'Iterator[Any]'
    if name in ('__init__', '__setstate__'): result = 'None'
    if name == '__repr__': result = 'str'
    indent = '    ' if owner else ''
    return f'{indent}def {name}({", ".join(texts)}) -> {result}: ...\n'


def member(name, value):
    "The stub of what a class has under a name; nothing for what is no method"
    if isinstance(value, property):
        return '    @property\n' + function(name, value.fget, 'self')
    if inspect.isfunction(value): return function(name, value, 'self')
    if hasattr(value, '__func__') or type(value).__name__ == '_clsmethod':
        f = getattr(value, '__func__', None) or value.f
        return '    @classmethod\n' + function(name, f, 'cls')
    return ''


def class_stub(name, cls):
    "The stub of a class with its patched methods"
    base = BASES.get(name) or cls.__mro__[1].__name__
    lines = [f'class {name}({base}):\n'.replace('(object)', '')]
    lines += [f'    {a}: {hint}\n' for a, hint in ATTRIBUTES.get(name, {}).items()]
    skip = ()
    if dataclasses.is_dataclass(cls):
        lines.insert(0, '@dataclass(frozen=True)\n')
        for f in dataclasses.fields(cls):
            given = f.default is not dataclasses.MISSING or f.default_factory is not dataclasses.MISSING
            lines.append(f'    {f.name}: {type_name(f.type, f.default)}' + (' = ...\n' if given else '\n'))
        skip = '__init__ __eq__ __hash__ __setattr__ __delattr__ __repr__ __replace__'.split()
    methods = [member(n, v) for n, v in vars(cls).items() if n not in skip]
    return ''.join([*lines, *methods]) + ('' if any(methods) or len(lines) > 1 else '    ...\n')


def stub(module):
    "The text of a stub"
    m = importlib.import_module(f'spoken_lang.{module}')
    parts = []
    for name in dict.fromkeys(m.__all__):
        value = getattr(m, name)
        if inspect.isclass(value): parts.append(class_stub(name, value))
        elif callable(value): parts.append(function(name, value))
        else: parts.append(f'{name}: {type_name(type(value))}\n')
    body = '\n'.join(parts)
    words = set(re.findall(r'\w+', body))
    found = [f'from {at} import {name}\n' for name, at in IMPORTS.items() if name in words]
    if 'np' in words: found.append('import numpy as np\n')
    for other in MODULES:
        names = importlib.import_module(f'spoken_lang.{other}').__all__
        used = sorted(n for n in names if n in words and n[:1].isupper() and n not in m.__all__)
        used = [n for n in used if not n.isupper()]
        if used:
            found.append(f'from spoken_lang.{other} import {", ".join(used)}\n')
    return HEAD + ''.join(found) + '\n' + body


def stubs():
    "{file name: text}"
    texts = {f'{module}.pyi': stub(module) for module in MODULES}
    texts['__init__.pyi'] = HEAD + '''from spoken_lang.audio import load_audio as load_audio
from spoken_lang.inference import classify as classify, LanguageClassifier as LanguageClassifier
from spoken_lang.prediction import Prediction as Prediction

__version__: str
'''
    return texts


def mypy(program):
    "Errors of mypy in a program that uses the package"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)/'program.py'
        path.write_text(program)
        options = ['--strict', '--allow-any-generics', '--no-error-summary', '--cache-dir', '.mypy_cache']
        files = [str(path), *(str(PACKAGE/name) for name in stubs())]
        run = subprocess.run([sys.executable, '-m', 'mypy', *options, *files], capture_output=True, text=True)
    return run.stdout + run.stderr


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument('--check', action='store_true')
    args = parser.parse_args()
    old = [n for n, text in stubs().items() if not (PACKAGE/n).exists() or (PACKAGE/n).read_text() != text]
    if not args.check:
        for name in old: (PACKAGE/name).write_text(stubs()[name])
        return print(f'{len(old)} stubs written')
    errors = mypy(PROGRAM)
    if 'has no attribute "clasify"' not in mypy(WRONG):
        errors += 'a misspelt method is not noticed\n'
    for name in old:
        errors += f'{name}: not up to date. Run python tools/checks/stubs.py.\n'
    print(errors or f'{len(stubs())} stubs: no errors')
    raise SystemExit(bool(errors))


if __name__ == '__main__': main()
