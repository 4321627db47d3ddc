"""README.md and the docs site from the notebooks.

    python tools/docs/build.py readme     # README.md from nbs/index.ipynb
    python tools/docs/build.py site       # the site, into _docs

Quarto builds them where it is installed, else nbconvert and MkDocs. Both start from nbdev's processed
notebooks in _proc, where exported cells have become documentation.
"""
import json, os, re, shutil, subprocess, sys, tarfile, tempfile
from pathlib import Path
# for tools.docs.renderer, the `renderer` of settings.ini
sys.path.insert(0, str(Path(__file__).parents[2]))
import nbformat, yaml
from jinja2 import DictLoader
from nbconvert import MarkdownExporter
from traitlets.config import Config
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs

ORT_WEB = 'onnxruntime-web@1.30.0'  # the runtime of the page `try_it`
ORT_FILES = 'ort.wasm.min.mjs', 'ort-wasm-simd-threaded.mjs', 'ort-wasm-simd-threaded.wasm'


def fetch_runtime(folder):
    "onnxruntime-web from npm, into a folder"
    npm = shutil.which('npm')
    if not npm:
        print('npm is not here: the page "Try it" is built without onnxruntime-web, '
              'and will not answer.')
        return
    with tempfile.TemporaryDirectory() as tmp:
        pack = [npm, 'pack', ORT_WEB, '--silent', '--pack-destination', tmp]
        subprocess.run(pack, check=True, stdout=subprocess.DEVNULL)
        with tarfile.open(next(Path(tmp).glob('*.tgz'))) as tar:
            tar.extractall(tmp, filter='data')
        folder.mkdir()
        for name in ORT_FILES: shutil.copy(f'{tmp}/package/dist/{name}', folder)


def page_model(name, folder):
    "Copy a shipped model for the page `try_it`; what the page must know of it"
    from spoken_lang.inference import LanguageClassifier
    from spoken_lang.prediction import language_name
    clf = LanguageClassifier.from_pretrained(name)
    shutil.copy(clf.path, folder/f'{name}.onnx')
    names = {label: language_name(label) for label in clf.labels}
    return dict(labels=clf.labels, decision=clf.decision, languages=clf.languages, names=names,
                megabytes=round(clf.path.stat().st_size/1e6))


def browser_page():
    "What `try_it` loads, into nbs/browser: the shipped models, their metadata, and onnxruntime-web"
    import spoken_lang
    from spoken_lang.prediction import COLOURS
    folder, licences = Path('nbs/browser'), Path(spoken_lang.__file__).parent/'models'
    models = {name: page_model(name, folder) for name in ('tiny', 'base')}  # it begins with the first
    for name in ('LICENSE', 'NOTICE'): shutil.copy(licences/name, folder)
    (folder/'models.json').write_text(json.dumps(dict(models=models, colours=COLOURS)))
    if not (folder/'ort').exists(): fetch_runtime(folder/'ort')


def processed():
    "nbdev's processed notebooks; the folder"
    refresh_quarto_yml()
    shutil.rmtree('_proc', ignore_errors=True)
    return proc_nbs(n_workers=0)


def sections():
    "The sections of the sidebar, each with its pages"
    return yaml.safe_load(Path('nbs/sidebar.yml').read_text())['website']['sidebar']['contents']


def navigation():
    "The sections as MkDocs takes them"
    for section in sections():
        yield {section['section']: [f'{page_name(page)}.md' for page in section['contents']]}


def pages():
    "The pages of the site, in the order of the sidebar"
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


def prepare(cell):
    "Take out directives, and the text of outputs that are pictures"
    if re.search(r'^#\|\s*echo:\s*false', cell.source, re.M):
        cell.metadata['tags'] = ['no-input']
    if cell.cell_type == 'code':
        cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
    for output in cell.get('outputs', []):
        data = output.get('data', {})
        if 'image/png' in data: data.pop('text/plain', None)


def exporter():
    "nbconvert's exporter with the template of this file"
    config = Config(TagRemovePreprocessor=dict(enabled=True, remove_input_tags=['no-input']))
    loaders = [DictLoader({'page.md.j2': TEMPLATE})]
    return MarkdownExporter(extra_loaders=loaders, template_file='page.md.j2', config=config)


def markdown(notebook, images):
    "A processed notebook as Markdown; its pictures are written below `images`"
    nb = nbformat.read(notebook, 4)
    for cell in nb.cells: prepare(cell)
    text, resources = exporter().from_notebook_node(nb)
    for i, (name, data) in enumerate(resources['outputs'].items(), 1):
        images.mkdir(parents=True, exist_ok=True)
        (images/f'figure-{i}.png').write_bytes(data)
        text = text.replace(f'({name})', f'({images.name}/figure-{i}.png)')
    front = re.match(r'\s*---\n(.*?)\n---\n', text, re.S)  # title and subtitle, which nbdev makes YAML
    if front:
        meta = yaml.safe_load(front[1])
        title = f'# {meta["title"]}\n\n> {meta["description"]}\n\n'
        text = title + text[front.end():].lstrip()
    text = re.sub(r'<!-- WARNING: .*? -->\n|<style scoped>.*?</style>', '', text, flags=re.S)
    text = text.replace('<table border="1" class="dataframe">', '<table>')  # the theme has a style
    quarto = r'\{target="_blank" style="float:right; font-size:smaller"\}'  # its attributes of links
    text = re.sub(quarto, '', text)
    return re.sub(r'\n{3,}', '\n\n', text).strip() + '\n'


def readme():
    "README.md, a folder above the notebook: links and paths begin with nbs/"
    text = markdown(processed()/'index.ipynb', Path('nbs/images'))
    text = re.sub(r'\]\((?!https?:|#)', '](nbs/', text)
    text = text.replace("'samples/", "'nbs/samples/")
    Path('README.md').write_text(text, encoding='utf-8')


def page_name(notebook):
    "The name of a page, as nbdev gives it: 00_core.ipynb is core.html"
    return re.sub(r'^\d+[a-z]?_', '', Path(notebook).stem)


def relative_links(text, site):
    "Links to notebooks and to the published site as links between the pages here"
    text = re.sub(r'\]\((\w+)\.ipynb', lambda m: f']({page_name(m[1])}.md', text)
    published = rf'\]\({re.escape(site)}/(\w+)\.html(#[\w.]+)?'
    return re.sub(published, lambda m: f']({m[1]}.md' + (m[2] or '').replace('.', ''), text)


PALETTE = [dict(media='(prefers-color-scheme: light)', scheme='default'),
           dict(media='(prefers-color-scheme: dark)', scheme='slate')]
FEATURES = ['navigation.footer', 'toc.follow', 'content.code.copy']
EXTENSIONS = ['toc', 'tables', 'md_in_html', 'pymdownx.highlight', 'pymdownx.superfences']


# The theme's own link to the repository would ask GitHub for its stars
REPOSITORY = """<a href="{{ config.repo_url }}" title="Repository" class="md-source">
  <div class="md-source__icon md-icon">{% include ".icons/fontawesome/brands/github.svg" %}</div>
  <div class="md-source__repository">Repository</div></a>"""


def mkdocs_config(cfg, source):
    "The settings of MkDocs, from those of nbdev"
    theme = dict(name='material', font=False, palette=PALETTE, features=FEATURES,
                 custom_dir=str(Path('_proc/_theme').resolve()))
    return dict(site_name=cfg.title, site_description=cfg.description, repo_url=cfg.git_url,
                edit_uri='',
                docs_dir=str(source.resolve()), site_dir=str(Path('_docs').resolve()),
                copyright=f'<a href="{cfg.git_url}">Source</a>', use_directory_urls=False,
                nav=list(navigation()), extra_css=['extra.css'], plugins=['search'], theme=theme,
                markdown_extensions=EXTENSIONS, validation=dict(links=dict(anchors='warn')))


def site():
    "The site by MkDocs, with every page of sidebar.yml"
    source, cfg = Path('_proc/_mkdocs'), get_config()
    proc, url = processed(), f'{cfg.doc_host}{cfg.doc_baseurl}'
    for folder in ('browser', 'images'):
        shutil.copytree(proc/folder, source/folder)
    shutil.copy(proc/'offline.js', source)  # a service worker must stand above what it serves
    for page in pages():
        name = page_name(page)
        text = relative_links(markdown(proc/page, source/name), url)
        (source/f'{name}.md').write_text(text, encoding='utf-8')
    styles = Path('nbs/styles.css').read_text(encoding='utf-8')
    (source/'extra.css').write_text('.md-grid { max-width: 80rem; }\n' + styles, encoding='utf-8')
    partials = Path('_proc/_theme/partials')
    partials.mkdir(parents=True, exist_ok=True)
    (partials/'source.html').write_text(REPOSITORY)
    Path('_proc/mkdocs.yml').write_text(yaml.safe_dump(mkdocs_config(cfg, source)))
    build = [sys.executable, '-m', 'mkdocs', 'build', '--strict', '--quiet', '-f', '_proc/mkdocs.yml']
    subprocess.run(build, check=True)


def check_site():
    "Every page of sidebar.yml was built, and none shows source that should have been rendered"
    built = {p.stem for p in Path('_docs').glob('*.html')} - {'404'}
    wanted = set(map(page_name, pages()))
    if built != wanted:
        sys.exit(f'pages missing: {wanted - built}, not in sidebar.yml: {built - wanted}')
    for path in map(Path, sorted(f'_docs/{p}.html' for p in wanted)):
        text, code = path.read_text(encoding='utf-8'), r'<(pre|code|script|style)\b.*?</\1>'
        text = re.sub('<[^>]+>', '', re.sub(code, '', text, flags=re.S))
        raw = re.search(r'\]\([\w./:#-]+\)|^:::|^#\| |\{target=', text, re.M)
        if raw:
            sys.exit(f'{path}: shows {raw[0]!r}, which should have been rendered')


def main(what=''):
    if what not in ('readme', 'site'): sys.exit(__doc__)
    if what == 'site': browser_page()
    if shutil.which('quarto'):
        command = dict(readme='nbdev_readme', site='nbdev_docs')[what]
        env = os.environ | dict(PYTHONPATH=sys.path[0])
        subprocess.run([command], check=True, env=env)
    else: dict(readme=readme, site=site)[what]()
    if what == 'site': check_site()


if __name__ == '__main__': main(*sys.argv[1:2])
