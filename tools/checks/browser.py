"""The demo and the page without a server, in a real browser.

    python tools/checks/browser.py app [IMAGES]    # visit the Gradio app as people do; write its screenshots into a folder
    python tools/checks/browser.py page [IMAGES]   # the same for `try_it.html` of the site in _docs, which tools/docs/build.py builds; with IMAGES, also results/browser.json
    python tools/checks/browser.py site [IMAGES]   # every page of the site, on a desktop and on a phone: nothing wider than the screen
    python tools/checks/browser.py lab [IMAGES]    # the widget and the app inside JupyterLab

Needs Chromium (Debian: chromium) and playwright; where one of them is missing, that is said and nothing is tested.
"""
import http.server, json, os, shutil, subprocess, sys, tempfile, threading, time, urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path
import numpy as np, soundfile as sf
sys.path.insert(0, str(Path(__file__).parents[2]))
from tools.docs.build import ORT_WEB
from spoken_lang.prediction import LANGUAGES

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
OPTIONS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update',
           '--disable-sync', '--use-fake-ui-for-media-stream', '--use-fake-device-for-media-stream']
SIZES = dict(desktop=(1280, 900), phone=(390, 844))


@contextmanager
def browser(speech):
    "Chromium, into whose microphone the file `speech` is spoken over and over"
    from playwright.sync_api import sync_playwright
    with sync_playwright() as p:
        yield (b := p.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, f'--use-file-for-fake-audio-capture={speech}']))
        b.close()


@contextmanager
def visit(b, url, size='desktop', dark=False):
    "A page, which must ask no host but its own and leave no error in the console"
    width, height = SIZES[size]
    context = b.new_context(viewport=dict(width=width, height=height), color_scheme='dark' if dark else 'light', permissions=['microphone'],
                            is_mobile=size == 'phone', has_touch=size == 'phone')
    page, asked, errors = context.new_page(), [], []
    page.on('request', lambda r: asked.append(r.url))
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(url, wait_until='load')
    yield page
    strangers = [a for a in asked if not a.startswith((url[:url.index('/', 8)], 'data:', 'blob:'))]
    assert not strangers, f'asked other hosts: {strangers[:3]}'
    assert not errors, errors
    context.close()


def recordings(folder):
    "Files that visitors bring: {name: path}"
    speech = {l: sf.read(f'nbs/samples/{l}/high.flac', dtype='float32')[0] for l in LANGUAGES}
    waves = dict(spoken=speech['fr'], silent=np.zeros(16_000*3, 'float32'), both=np.concatenate([speech['de'], speech['fr']]))
    waves['hour'] = np.resize(np.concatenate([speech['it'], speech['en']]), 3600*16_000)
    paths = {n: f'{folder}/{n}.{"wav" if n == "spoken" else "flac"}' for n in waves}
    for n, wav in waves.items(): sf.write(paths[n], wav, 16_000, subtype='PCM_16')
    paths['broken'] = f'{folder}/broken.wav'
    Path(paths['broken']).write_bytes(b'RIFF, but not really sound')
    with open(paths.setdefault('big', f'{folder}/big.wav'), 'wb') as f: f.truncate(101*2**20)
    return paths


def check(name, there):
    assert there, name
    print('ok:', name, flush=True)


class App:
    "The Gradio page, by what is written on it"
    def __init__(self, page): self.page = page
    def words(self): return self.page.get_by_label('In words').input_value()
    def give(self, path):
        self.page.get_by_label('Upload file').click()
        self.page.locator('input[type=file]').first.set_input_files(path)
    def clear(self): self.page.get_by_label('Clear').first.click()

    def wait(self, part, seconds=30):
        "Until the sentence holds `part`; how long that took, s"
        start = time.perf_counter()
        while part not in self.words():
            if time.perf_counter() > start + seconds: raise AssertionError(f'waited {seconds} s for {part!r}; the page says {self.words()!r}')
            self.page.wait_for_timeout(20)
        return time.perf_counter() - start


def app(images=None):
    from spoken_lang.demo import build_app
    tmp = Path(tempfile.mkdtemp())
    files = recordings(tmp)
    demo = build_app(flagged=tmp/'flagged')
    url = demo.launch(prevent_thread_lock=True, quiet=True, inline=False)[1]
    with browser(files['spoken']) as b:
        with visit(b, url) as page:
            a = App(page)
            a.give(files['spoken']); a.wait('French, ')
            check('an uploaded file is heard', page.get_by_test_id('label-output-value').inner_text().strip().startswith('French'))
            page.get_by_role('button', name='Was that wrong?').click()
            page.get_by_label('What is spoken').click(); page.get_by_role('option', name='Swiss German').click()
            page.get_by_role('button', name='Keep the recording').click()
            page.get_by_text('Kept as Swiss German').wait_for()
            kept = list((tmp/'flagged/gsw').glob('*.flac'))
            check('a wrong answer is kept, under a name of ours', len(kept) == 1 and 'spoken' not in kept[0].name)
            a.clear(); a.give(files['silent']); a.wait('No speech detected')
            check('silence is called silence', True)
            a.clear(); a.give(files['broken']); a.wait('The file: ')
            check('a broken file is refused in a sentence', 'not a recording that can be read' in a.words() and str(tmp) not in a.words())
            a.clear(); a.give(files['hour']); took = a.wait(' ms.', 60)
            page.locator('img[alt*="plot" i], .matplotlib img').first.wait_for(timeout=90_000)
            check(f'an hour is heard ({took:.1f} s with its upload), and its timeline drawn', True)
        with visit(b, url) as page:
            App(page).give(files['big']); (said := page.get_by_text('maximum').first).wait_for()
            check(f'101 MB are refused: {said.inner_text()!r}', not App(page).words())
        with visit(b, url) as page:
            a = App(page)
            for name in (l.name for l in LANGUAGES.values()):
                page.get_by_role('button', name=name, exact=True).click(); a.wait(f'{name}, ')
            check('each of our examples is heard as what it is', True)
            page.get_by_label('Italian', exact=True).check(); page.get_by_label('French', exact=True).check()
            page.wait_for_function('document.querySelectorAll("[data-testid=label-output-value]").length && !document.body.innerText.includes("Swiss German (gsw)")')
            check('candidates narrow the answer', True)
        with visit(b, url) as page:
            a = App(page)
            page.get_by_role('button', name='Record', exact=True).click()
            page.wait_for_timeout(6000)
            page.get_by_role('button', name='Stop', exact=True).click(); a.wait('French, ')
            check('the microphone is heard', True)
        if images: screenshots(b, url, files['both'], Path(images))
    demo.close()


def screenshots(b, url, recording, folder):
    for size in SIZES:
        for dark in (False, True):
            with visit(b, url + ('?__theme=dark' if dark else ''), size, dark) as page:
                App(page).give(recording); App(page).wait('%')
                page.locator('.matplotlib img').first.wait_for()
                page.wait_for_timeout(500)
                page.screenshot(path=folder/f'demo-{size}{"-dark" if dark else ""}.png', full_page=size == 'phone')


@contextmanager
def served(folder):
    "A web server for the files of a folder; its address"
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args): pass
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f'http://127.0.0.1:{server.server_port}/'
    server.shutdown()


class Page:
    "The page without a server, by what is written on it"
    def __init__(self, page): self.page = page
    def words(self): return self.page.locator('#sl-words').inner_text()
    def give(self, path): self.page.locator('#sl-file').set_input_files(path)
    wait = App.wait

    def ask(self, path):
        "({code: probability}, s until the answer was on the page)"
        self.page.evaluate('delete document.getElementById("spoken-lang").dataset.answer')
        start = time.perf_counter()
        self.give(path)
        self.page.wait_for_function('document.getElementById("spoken-lang").dataset.answer', timeout=60_000)
        took = time.perf_counter() - start
        return dict(json.loads(self.page.locator('#spoken-lang').get_attribute('data-answer'))['probabilities']), took


def page(images=None, site='_docs', out='nbs/results/browser.json'):
    from spoken_lang import classify
    tmp = tempfile.mkdtemp()
    files, gaps, times = recordings(tmp), {}, []
    with browser(files['spoken']) as b, served(site) as url:
        with visit(b, f'{url}try_it.html') as v:
            p = Page(v)
            for clip in sorted(Path('nbs/samples').rglob('*.flac')):
                sf.write(wav := f'{tmp}/clip.wav', *sf.read(clip))
                sf.write(opus := f'{tmp}/clip.ogg', *sf.read(clip), format='OGG', subtype='OPUS')
                for path in (clip, wav, opus):
                    (there, took), here = p.ask(path), classify(path).probabilities
                    gaps.setdefault(Path(path).suffix, []).append(max(abs(there[c] - here[c]) for c in here)); times.append(took)
                    check(f'{clip}, as {Path(path).suffix}', max(there, key=there.get) == next(iter(here)))
            widest = {k: round(max(v), 6) for k, v in gaps.items()}
            check(f'our ten clips are heard as in Python: {widest}', max(widest['.flac'], widest['.wav']) < 1e-3)
            check('and nearly so as Opus, which browsers decode at 48 kHz and soundfile at 16', widest['.ogg'] < .01)
            check(f'the first answer took {times[0]:.2f} s, a later one {np.median(times[1:]):.3f} s', times[0] < 3 and np.median(times[1:]) < .3)
            p.give(files['silent']); p.wait('No speech detected')
            check('silence is called silence', True)
            p.give(files['broken']); p.wait('not a recording that this browser can read')
            check('a broken file is refused in a sentence', True)
            p.give(files['hour']); took = p.wait(' ms.', 60)
            check(f'an hour is heard ({took:.1f} s)', True)
            p.ask(files['both']); v.get_by_label('Italian', exact=True).check(); v.get_by_label('French', exact=True).check(); p.wait('French, ')
            check('candidates narrow the answer', 'German' not in v.locator('#sl-bars').inner_text())
        with visit(b, f'{url}try_it.html') as v:
            p, record = Page(v), v.locator('#sl-record')
            record.click(); v.wait_for_timeout(5000); record.click(); p.wait('French, ')
            check('the microphone is heard', True)
        for size, dark in [(s, d) for s in SIZES for d in (False, True)] if images else []:
            with visit(b, f'{url}try_it.html', size, dark) as v:
                Page(v).ask('nbs/samples/gsw/high.flac')
                v.screenshot(path=f'{images}/try-{size}{"-dark" if dark else ""}.png')
    found = dict(clips=len(gaps['.flac']), widest_gap=widest, first_s=round(times[0], 2), later_s=round(float(np.median(times[1:])), 3), onnxruntime_web=ORT_WEB)
    if images: Path(out).write_text(json.dumps(found, indent=1) + '\n')


def site(images=None, folder='_docs'):
    pages = sorted(p.name for p in Path(folder).glob('*.html') if p.stem != '404')
    with browser(next(Path('nbs/samples').rglob('*.flac'))) as b, served(folder) as url:
        wide = []
        for size in SIZES:
            for name in pages:
                with visit(b, url + name, size) as v:
                    if v.evaluate('document.documentElement.scrollWidth > innerWidth + 1'): wide.append(f'{name} ({size})')
                    broken = v.locator('img').evaluate_all('images => images.filter(i => !i.complete || !i.naturalWidth).map(i => i.src)')
                    assert not broken, f'{name}: pictures that are not there: {broken}'
                    if images: v.screenshot(path=f'{images}/site-{size}-{Path(name).stem}.png')
    check(f'{len(pages)} pages fit a desktop and a phone, show their pictures and ask no other host', not wide or print(wide))


def lab(images=None):
    import nbformat
    tmp = tempfile.mkdtemp()
    files, port = recordings(tmp), 8800 + os.getpid() % 90
    cells = ['from spoken_lang.demo import classify_widget\nclassify_widget()',
             'from spoken_lang.demo import build_app\napp = build_app(); app.launch(prevent_thread_lock=True, quiet=True, inline=True); None']
    nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells]), f'{tmp}/widget.ipynb')
    options = [f'--port={port}', f'--ServerApp.root_dir={tmp}', '--no-browser', '--allow-root', '--IdentityProvider.token=']
    with subprocess.Popen(['jupyter', 'lab', *options], stderr=subprocess.DEVNULL) as server, browser(files['spoken']) as b:
        try:
            for _ in range(200):
                try: urllib.request.urlopen(f'http://127.0.0.1:{port}/lab').read(); break
                except OSError: time.sleep(.2)
            context = b.new_context(viewport=dict(width=1280, height=1100), permissions=['microphone'])
            v = context.new_page()
            v.goto(f'http://127.0.0.1:{port}/lab/tree/widget.ipynb')
            v.locator('dialog.jp-Dialog button.jp-mod-accept').click(timeout=60_000)  # the kernel
            v.get_by_text('| Idle').wait_for(timeout=60_000)
            v.get_by_role('menuitem', name='Run', exact=True).click(); v.get_by_text('Run All Cells', exact=True).click()
            v.get_by_text('● Record').click(timeout=60_000); v.wait_for_timeout(5000); v.get_by_text('■ Stop').click()
            v.locator('.widget-html td', has_text='French').first.wait_for()
            first = v.locator('.widget-html td').first.inner_text()
            check('the widget records and answers in JupyterLab', first == 'French')
            v.frame_locator('iframe').get_by_role('button', name='Italian', exact=True).click(timeout=60_000)
            v.frame_locator('iframe').get_by_test_id('label-output-value').get_by_text('Italian').wait_for()
            check('the app answers inside the notebook', True)
            if images: v.screenshot(path=f'{images}/lab.png')
        finally: server.terminate()


if __name__ == '__main__':
    if len(sys.argv) not in (2, 3) or sys.argv[1] not in ('app', 'page', 'site', 'lab'): sys.exit(__doc__)
    if not CHROMIUM: sys.exit(print('skipped: there is no Chromium here (Debian: apt install chromium)'))
    try: import playwright
    except ImportError: sys.exit(print('skipped: playwright is not installed (pip install playwright)'))
    dict(app=app, page=page, site=site, lab=lab)[sys.argv[1]](*sys.argv[2:])
