"""README.md and the docs site from the notebooks: by Quarto where it is installed, else by nbconvert and MkDocs.

    python tools/docs/build.py readme     # README.md from nbs/index.ipynb
    python tools/docs/build.py site       # the site, into _docs

Both ways start from nbdev's processed notebooks in _proc, where exported cells have become documentation.
"""
import json, os, re, shutil, subprocess, sys, tarfile, tempfile
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parents[2]))  # for tools.docs.renderer, the `renderer` of settings.ini
import nbformat, yaml
from jinja2 import DictLoader
from nbconvert import MarkdownExporter
from traitlets.config import Config
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs


ORT_WEB = 'onnxruntime-web@1.30.0'  # what `try_it` listens with


def browser_page():
    "What the page without a server loads, into nbs/browser: the shipped model, what it says of itself, and onnxruntime-web from npm"
    from spoken_lang.prediction import COLOURS, language_name
    from spoken_lang.inference import LanguageClassifier
    folder, clf = Path('nbs/browser'), LanguageClassifier.from_pretrained('tiny')  # a page should load in seconds
    shutil.copy(clf.path, folder/'model.onnx')
    names = {l: language_name(l) for l in clf.labels}
    about = dict(labels=clf.labels, decision=clf.decision, languages=clf.languages, names=names, colours=COLOURS)
    (folder/'model.json').write_text(json.dumps(about))
    if (folder/'ort').exists(): return
    if not (npm := shutil.which('npm')): return print('npm is not here: the page "Try it" is built without onnxruntime-web, and will not answer.')
    with tempfile.TemporaryDirectory() as tmp:
        subprocess.run([npm, 'pack', ORT_WEB, '--silent', '--pack-destination', tmp], check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(tmp).glob('*.tgz'))) as tar: tar.extractall(tmp, filter='data')
        (folder/'ort').mkdir()
        for name in ('ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm'): shutil.copy(f'{tmp}/package/dist/{name}', folder/'ort')


def processed():
    "nbdev's processed notebooks; the folder"
    refresh_quarto_yml()
    shutil.rmtree('_proc', ignore_errors=True)
    return proc_nbs(n_workers=0)


def sections():
    "The sections of the sidebar, each with its pages"
    return yaml.safe_load(Path('nbs/sidebar.yml').read_text())['website']['sidebar']['contents']


def navigation():
    "The sections as MkDocs wants them"
    return [{s['section']: [f'{page_name(p)}.md' for p in s['contents']]} for s in sections()]


def pages():
    "The pages of the site, in the order of the story"
    return [Path(p) for section in sections() for p in section['contents']]


TEMPLATE = """{% extends 'markdown/index.md.j2' %}
{% block input %}
```python
{{ cell.source }}
```
{% endblock input %}
{% block stream %}
```
{{ output.text | strip_ansi | trim }}
```
{% endblock stream %}
{% block data_text %}
```
{{ output.data['text/plain'] | trim }}
```
{% endblock data_text %}"""


def markdown(notebook, images):
    "A processed notebook as Markdown; its pictures are written below `images`"
    nb = nbformat.read(notebook, 4)
    for cell in nb.cells:
        if re.search(r'^#\|\s*echo:\s*false', cell.source, re.M): cell.metadata['tags'] = ['no-input']
        if cell.cell_type == 'code': cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
        for output in cell.get('outputs', []):
            if 'image/png' in output.get('data', {}): output.data.pop('text/plain', None)
    config = Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags=['no-input']))
    exporter = MarkdownExporter(extra_loaders=[DictLoader({'page.md.j2': TEMPLATE})], template_file='page.md.j2', config=config)
    text, resources = exporter.from_notebook_node(nb)
    for i, (name, data) in enumerate(resources['outputs'].items(), 1):
        images.mkdir(parents=True, exist_ok=True)
        (images/f'figure-{i}.png').write_bytes(data)
        text = text.replace(f'({name})', f'({images.name}/figure-{i}.png)')
    front = re.match(r'\s*---\n(.*?)\n---\n', text, re.S)  # the title and subtitle, which nbdev makes YAML
    if front:
        meta = yaml.safe_load(front[1])
        text = f'# {meta["title"]}\n\n> {meta["description"]}\n\n' + text[front.end():].lstrip()
    text = re.sub(r'<!-- WARNING: .*? -->\n|<style scoped>.*?</style>', '', text, flags=re.S)
    text = text.replace('<table border="1" class="dataframe">', '<table>')  # let the theme style it
    text = re.sub(r'\{target="_blank" style="float:right; font-size:smaller"\}', '', text)  # Quarto's attributes
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def readme():
    "README.md, which lies a folder higher than the notebook: links and paths begin with nbs/"
    text = markdown(processed()/'index.ipynb', Path('nbs/images'))
    text = re.sub(r'\]\((?!https?:|#)', '](nbs/', text)
    text = text.replace("'samples/", "'nbs/samples/")
    Path('README.md').write_text(text, encoding='utf-8')


def page_name(notebook): return re.sub(r'^\d+[a-z]?_', '', Path(notebook).stem)  # as nbdev names pages: 00_core.ipynb is core.html


def relative_links(text, site):
    "Links to notebooks and to the published site as links between the pages here"
    text = re.sub(r'\]\((\w+)\.ipynb', lambda m: f']({page_name(m[1])}.md', text)
    return re.sub(rf'\]\({re.escape(site)}/(\w+)\.html(#[\w.]+)?', lambda m: f']({m[1]}.md' + (m[2] or '').replace('.', ''), text)


def site():
    "The site by MkDocs, with every page of sidebar.yml"
    source, cfg = Path('_proc/_mkdocs'), get_config()
    proc = processed()
    for folder in ('browser', 'images'): shutil.copytree(proc/folder, source/folder)
    for page in pages():
        name = page_name(page)
        text = markdown(proc/page, source/name)
        (source/f'{name}.md').write_text(relative_links(text, f'{cfg.doc_host}{cfg.doc_baseurl}'), encoding='utf-8')
    (source/'extra.css').write_text('.md-grid { max-width: 80rem; }\n' + Path('nbs/styles.css').read_text(encoding='utf-8'), encoding='utf-8')
    config = dict(site_name=cfg.title, site_description=cfg.description, docs_dir=str(source.resolve()), site_dir=str(Path('_docs').resolve()),
        copyright=f'<a href="{cfg.git_url}">Source</a>', use_directory_urls=False, nav=navigation(), extra_css=['extra.css'], plugins=['search'],
        theme=dict(name='material', font=False, palette=[dict(media='(prefers-color-scheme: light)', scheme='default'), dict(media='(prefers-color-scheme: dark)', scheme='slate')], features=['navigation.footer', 'toc.follow', 'content.code.copy']), markdown_extensions=['toc', 'tables', 'md_in_html', 'pymdownx.highlight', 'pymdownx.superfences'],
        validation=dict(links=dict(anchors='warn')))
    Path('_proc/mkdocs.yml').write_text(yaml.safe_dump(config))
    subprocess.run([sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '-f', '_proc/mkdocs.yml'], check=True)


def check_site():
    "Every page of sidebar.yml is there, by either way, and none shows what should have been rendered"
    built, wanted = {p.stem for p in Path('_docs').glob('*.html')} - {'404'}, {page_name(p) for p in pages()}
    if built != wanted: sys.exit(f'pages missing: {wanted - built}, not in sidebar.yml: {built - wanted}')
    for path in map(Path, sorted(f'_docs/{p}.html' for p in wanted)):
        text = re.sub(r'<(pre|code|script|style)\b.*?</\1>', '', path.read_text(encoding='utf-8'), flags=re.S)
        raw = re.search(r'\]\([\w./:#-]+\)|^:::|^#\| |\{target=', re.sub('<[^>]+>', '', text), re.M)
        if raw: sys.exit(f'{path}: shows {raw[0]!r} instead of what it means')


if __name__ == '__main__':
    what = sys.argv[1] if len(sys.argv) > 1 else ''
    if what not in ('readme', 'site'): sys.exit(__doc__)
    if what == 'site': browser_page()
    if shutil.which('quarto'):
        subprocess.run(['nbdev_readme' if what == 'readme' else 'nbdev_docs'], check=True, env=os.environ | dict(PYTHONPATH=sys.path[0]))
    else: dict(readme=readme, site=site)[what]()
    if what == 'site': check_site()
