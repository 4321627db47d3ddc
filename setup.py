"""Everything setup.py needs stands in settings.ini: version, requirements, and one extra for each NAME_requirements."""
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup, find_packages

parser = ConfigParser(delimiters=['='], interpolation=None)
parser.read(Path(__file__).parent/'settings.ini', encoding='utf-8')
cfg = {k: v.replace('%(lib_name)s', 'spoken_lang') for k, v in parser['DEFAULT'].items()}

extras = {k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')}
extras['dev'] = sorted({r for reqs in extras.values() for r in reqs})  # dev is everything

setup(
    name=cfg['lib_name'], version=cfg['version'], description=cfg['description'], author='The spoken_lang authors',
    author_email=cfg['author_email'], license='Apache-2.0', keywords=cfg['keywords'],
    url='https://github.com/spoken-lang/spoken_lang',
    long_description=(Path(__file__).parent/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=[*find_packages(include=['spoken_lang', 'spoken_lang.*']), 'spoken_lang.samples'],
    package_dir={'spoken_lang.samples': 'nbs/samples'},  # clips for the demo
    package_data={'spoken_lang': ['models/*', 'languages.csv', 'py.typed', '*.pyi'], 'spoken_lang.samples': ['*/*.flac']},
    python_requires=f">={cfg['min_python']}", install_requires=cfg['requirements'].split(), extras_require=extras,
    entry_points={'console_scripts': cfg['console_scripts'].split('\n'), 'nbdev': ['spoken_lang=spoken_lang._modidx:d']},
    zip_safe=False)
