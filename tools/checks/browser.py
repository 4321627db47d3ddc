"""The demo and the page without a server, in a real browser.

    python tools/checks/browser.py app [IMAGES]    # the Gradio app; screenshots go to a folder
    python tools/checks/browser.py page [IMAGES]   # the same for `try_it.html` of the site in _docs,
                                                   # which tools/docs/build.py builds; with IMAGES,
                                                   # also results/browser.json
    python tools/checks/browser.py site [IMAGES]   # every page of the site, on a desktop and on a
                                                   # phone: nothing wider than the screen
    python tools/checks/browser.py lab [IMAGES]    # the widget and the app inside JupyterLab

Needs Chromium (Debian: chromium) and playwright. Where one of them is missing, a message names it
and nothing is tested.
"""
import http.server, io, json, os, shutil, subprocess, sys, tempfile, threading, time, urllib.request
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
import av, numpy as np, soundfile as sf
sys.path.insert(0, str(Path(__file__).parents[2]))
from tools.docs.build import ORT_WEB
from spoken_lang.demo import ONLY_THESE
from spoken_lang.prediction import LANGUAGES

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
OPTIONS = '''
    --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --use-fake-ui-for-media-stream
    --use-fake-device-for-media-stream'''.split()
SIZES = dict(desktop=(1280, 900), phone=(390, 844))
LOOKS = [(size, dark) for size in SIZES for dark in (False, True)]
# what the pages say
NO_SPEECH = 'No speech detected'
NO_RECORDING = 'not a recording that can be read'
NO_RECORDING_HERE = 'not a recording that this browser can read'


@contextmanager
def browser(speech):
    "Chromium, with the file `speech`, repeated, as its microphone"
    from playwright.sync_api import sync_playwright
    microphone = f'--use-file-for-fake-audio-capture={speech}'
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=CHROMIUM, args=[*OPTIONS, microphone])
        yield b
        b.close()


@contextmanager
def visit(b, url, size='desktop', dark=False, **options):
    "A page, which must request nothing from another host and leave no error in the console"
    width, height = SIZES[size]
    phone = dict(is_mobile=size == 'phone', has_touch=size == 'phone')
    context = b.new_context(viewport=dict(width=width, height=height), **phone,
                            color_scheme='dark' if dark else 'light', permissions=['microphone'],
                            **options)
    page = context.new_page()
    requests, errors = [], []
    page.on('request', lambda r: requests.append(r.url))
    page.on('pageerror', lambda e: errors.append(str(e)))
    page.goto(url, wait_until='load')
    yield page
    own = url[:url.index('/', 8)], 'data:', 'blob:'
    foreign = [r for r in requests if not r.startswith(own)]
    assert not foreign, f'requests to other hosts: {foreign[:3]}'
    assert not errors, errors
    context.close()


def recordings(folder):
    "Files that visitors upload: {name: path}"
    clips = {code: f'nbs/samples/{code}/high.flac' for code in LANGUAGES}
    speech = {code: sf.read(path, dtype='float32')[0] for code, path in clips.items()}
    waves = dict(spoken=speech['fr'], silent=np.zeros(16_000*3, 'float32'))
    waves['both'] = np.concatenate([speech['de'], speech['fr']])
    waves['meeting'] = np.concatenate([np.resize(speech[code], 40*16_000) for code in ('de', 'fr')])
    waves['hour'] = np.resize(np.concatenate([speech['it'], speech['en']]), 3600*16_000)
    paths = {name: f'{folder}/{name}.flac' for name in waves} | dict(spoken=f'{folder}/spoken.wav')
    for name, wav in waves.items():
        sf.write(paths[name], wav, 16_000, subtype='PCM_16')
    paths |= dict(broken=f'{folder}/broken.wav', big=f'{folder}/big.wav')
    Path(paths['broken']).write_bytes(b'RIFF, but not really sound')
    paths |= unusual(folder, speech['de'])
    with open(paths['big'], 'wb') as f: f.truncate(101*2**20)
    return paths


def unusual(folder, wav):
    "Recordings that are easily misread, of the samples `wav`: {name: path}"
    paths = dict(inverted=f'{folder}/inverted.flac', chain=f'{folder}/chain.ogg',
                 huge=f'{folder}/huge.wav', video=f'{folder}/video.mkv')
    sf.write(paths['inverted'], np.stack([wav, -wav], 1), 16_000)
    links = [io.BytesIO(), io.BytesIO()]
    for part, f in zip((np.zeros(16_000, 'float32'), wav), links):
        sf.write(f, part, 16_000, format='OGG')
    Path(paths['chain']).write_bytes(b''.join(f.getvalue() for f in links))
    sf.write(paths['huge'], wav*1e38, 16_000, subtype='FLOAT')
    with av.open(paths['video'], 'w') as out:
        picture, sound = out.add_stream('mpeg4', rate=1), out.add_stream('aac', 48_000, layout='mono')
        picture.width = picture.height = 64
        black = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), 'uint8'), format='rgb24')
        frame = av.AudioFrame.from_ndarray((32767*wav[None]).astype('int16'), 's16', 'mono')
        frame.rate = 16_000
        for stream, frames in ((picture, [black, None]), (sound, [frame, None])):
            for f in frames: out.mux(stream.encode(f))
    return paths


def check(name, passed):
    assert passed, name
    print('ok:', name, flush=True)


def button(page, name): return page.get_by_role('button', name=name, exact=True)


class App:
    "The Gradio page, by its labels"
    def __init__(self, page): self.page = page
    def words(self): return self.page.get_by_label('In words').input_value()
    def clear(self): self.page.get_by_label('Clear').first.click()
    def label(self):
        return self.page.get_by_test_id('label-output-value').inner_text().strip()

    def give(self, path):
        self.page.get_by_label('Upload file').click()
        self.page.locator('input[type=file]').first.set_input_files(path)

    def choose(self, name):
        "Add a candidate"
        only = self.page.get_by_label(ONLY_THESE)
        only.click()
        only.fill(name)
        self.page.get_by_role('option', name=name, exact=True).click()
        only.blur()

    def candidates(self): return self.page.locator('.token').all_inner_texts()

    def wait(self, part, seconds=30):
        "Wait until the sentence contains `part`; the time that it took, s"
        start = time.perf_counter()
        while part not in self.words():
            if time.perf_counter() > start + seconds:
                raise AssertionError(f'no {part!r} after {seconds} s; the page says {self.words()!r}')
            self.page.wait_for_timeout(20)
        return time.perf_counter() - start


def upload_and_flag(page, files, flagged):
    "Upload a recording, and flag its answer as wrong"
    a = App(page)
    a.give(files['spoken'])
    a.wait('French, ')
    check('an uploaded file is classified', a.label().startswith('French'))
    page.get_by_role('button', name='Was that wrong?').click()
    page.get_by_label('What is spoken').click()
    page.get_by_role('option', name='Swiss German').click()
    page.get_by_role('button', name='Keep the recording').click()
    thanks = page.get_by_text('Kept as Swiss German')
    thanks.wait_for()
    kept = list((flagged/'gsw').glob('*.flac'))
    renamed = len(kept) == 1 and 'spoken' not in kept[0].name
    check('a flagged recording is stored under a new name', renamed)
    button(page, 'Italian').click()
    a.wait('Italian, ')
    check('the next recording has no thanks yet', not thanks.count())


def upload_others(page, files):
    "Upload silence, a broken file and an hour of speech"
    a = App(page)
    a.clear()
    a.give(files['silent'])
    a.wait(NO_SPEECH)
    check('silence has no language', True)
    a.clear()
    a.give(files['broken'])
    a.wait('The file: ')
    hidden = str(Path(files['broken']).parent) not in a.words()
    check('a broken file gets an error message without its path', NO_RECORDING in a.words() and hidden)
    a.clear()
    a.give(files['hour'])
    took = a.wait(' ms.', 60)
    page.get_by_text('Which language when').first.wait_for()
    check('an hour shows progress', True)
    page.locator('img[alt*="plot" i], .matplotlib img').first.wait_for(timeout=300_000)
    check(f'an hour is classified ({took:.1f} s with its upload), its timeline drawn', True)


def upload_video(page, files):
    "Give a video by the button; its words, and that nothing of the last recording is left"
    a = App(page)
    a.choose('Italian')
    check('a candidate can be chosen', len(a.candidates()) == 1)
    a.give(files['meeting'])
    a.wait('First German, then French.', 60)
    check(f'two languages are named, in their order: {a.words()!r}', '%) and ' in a.words())
    check('candidates of the last recording are gone', not a.candidates())
    page.locator('input[type=file]').last.set_input_files(files['video'])
    a.wait(' ms.')
    check('a video is classified', a.label().startswith('German'))


def order_on_phone(b, url):
    "On a phone, the answer stands above the examples"
    with visit(b, url, 'phone') as page:
        answer = page.get_by_label('In words').bounding_box()['y']
        examples = button(page, 'Italian').bounding_box()['y']
        check('on a phone the answer stands above the examples', answer < examples)
        head = page.locator('meta[property="og:title"]').evaluate_all('all => all.map(m => m.content)')
        check(f'the preview has one title: {head}', head == ['Which language is this?'])


def choose_examples(page):
    "Classify the examples of the page, then choose candidates"
    for name in (language.name for language in LANGUAGES.values()):
        button(page, name).click()
        App(page).wait(f'{name}, ')
    check('each example is classified correctly', True)
    button(page, 'Italian').click()
    App(page).wait('Italian, ')
    for name in ('Italian', 'French'): App(page).choose(name)
    page.wait_for_function('document.querySelectorAll("[data-testid=label-output-value]").length '
                           '&& !document.body.innerText.includes("Swiss German (gsw)")')
    check('only candidates are answered', True)


def record(page):
    "Record from the microphone"
    button(page, 'Record').click()
    page.wait_for_timeout(6000)
    button(page, 'Stop').click()
    App(page).wait('French, ')
    check('a recording from the microphone is classified', True)


def app(images=None):
    from spoken_lang.demo import build_app
    tmp = Path(tempfile.mkdtemp())
    files = recordings(tmp)
    demo = build_app('tiny', flagged=tmp/'flagged')  # the page is checked here, and not the model
    url = demo.launch(prevent_thread_lock=True, quiet=True, inline=False)[1]
    with browser(files['spoken']) as b:
        with visit(b, url) as page:
            upload_and_flag(page, files, tmp/'flagged')
            upload_others(page, files)
        with visit(b, url) as page:
            App(page).give(files['big'])
            limit = page.get_by_text('maximum').first
            limit.wait_for()
            check(f'101 MB are refused: {limit.inner_text()!r}', not App(page).words())
        with visit(b, url) as page: choose_examples(page)
        with visit(b, url) as page: record(page)
        with visit(b, url) as page: upload_video(page, files)
        order_on_phone(b, url)
        served_demo(b, files, tmp)
        if images: screenshots(b, url, files['both'], Path(images))
    demo.close()


SERVE = """from spoken_lang.service import serve
serve(port=0, model='tiny', auth='anna:geheim', flagged='flagged')"""


def served_demo(b, files, folder):
    "The demo behind the password of `spoken_lang serve`, and the documentation of its API"
    command = [sys.executable, '-c', SERVE]
    env = os.environ | dict(PYTHONPATH=str(Path.cwd()))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                          cwd=folder, env=env) as server:
        try:
            url = server.stdout.readline().split()[0]
            login = dict(http_credentials=dict(username='anna', password='geheim'))
            with visit(b, url + '/', **login) as page:
                App(page).give(files['spoken'])
                App(page).wait('French, ')
                check('the demo answers behind a password', True)
            with visit(b, url + '/docs', **login) as page:
                page.get_by_text('/v1/timeline').first.wait_for()
                check('the API is documented, from one host', True)
        finally: server.terminate()


def screenshots(b, url, recording, folder):
    for size, dark in LOOKS:
        with visit(b, url + ('?__theme=dark' if dark else ''), size, dark) as page:
            App(page).give(recording)
            App(page).wait('%')
            page.locator('.matplotlib img').first.wait_for()
            page.wait_for_timeout(500)
            path = folder/f'demo-{size}{"-dark" if dark else ""}.png'
            page.screenshot(path=path, full_page=size == 'phone')


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
    "The page without a server, by its elements"
    def __init__(self, page): self.page = page
    def words(self): return self.page.locator('#sl-words').inner_text()
    def give(self, path): self.page.locator('#sl-file').set_input_files(path)
    wait = App.wait

    def ask(self, path):
        "({code: probability}, s until the answer was shown)"
        answer = 'document.getElementById("spoken-lang").dataset.answer'
        self.page.evaluate(f'delete {answer}')
        start = time.perf_counter()
        self.give(path)
        self.page.wait_for_function(answer, timeout=60_000)
        took = time.perf_counter() - start
        text = self.page.locator('#spoken-lang').get_attribute('data-answer')
        return dict(json.loads(text)['probabilities']), took


def compare_samples(p, folder):
    "Classify the samples in browser and Python; ({suffix: largest difference}, times in s)"
    from spoken_lang import LanguageClassifier
    classify = LanguageClassifier.from_pretrained('tiny').classify  # the model of the page
    gaps, times = {}, []
    for clip in sorted(Path('nbs/samples').rglob('*.flac')):
        wav, opus = f'{folder}/clip.wav', f'{folder}/clip.ogg'
        sf.write(wav, *sf.read(clip))
        sf.write(opus, *sf.read(clip), format='OGG', subtype='OPUS')
        for path in (clip, wav, opus):
            (there, took), here = p.ask(path), classify(path).probabilities
            suffix, gap = Path(path).suffix, max(abs(there[c] - here[c]) for c in here)
            gaps.setdefault(suffix, []).append(gap)
            times.append(took)
            check(f'{clip}, as {suffix}', max(there, key=there.get) == next(iter(here)))
    return gaps, times


def choose_base(v):
    "Choose `base` in the page; the largest difference from Python for a sample"
    from spoken_lang import LanguageClassifier
    clip = 'nbs/samples/gsw/high.flac'
    v.locator('#sl-model').select_option('base')
    there, took = Page(v).ask(clip)
    here = LanguageClassifier.from_pretrained('base').classify(clip).probabilities
    gap = max(abs(there[c] - here[c]) for c in here)
    check(f'base, fetched on request, answers as in Python ({gap:.4f}, {took:.1f} s)', gap < .05)
    return gap


def page(images=None, site='_docs', out='nbs/results/browser.json'):
    from spoken_lang.results import about, save_results
    tmp = tempfile.mkdtemp()
    files = recordings(tmp)
    with browser(files['spoken']) as b, served(site) as url:
        with visit(b, f'{url}try_it.html') as v:
            p = Page(v)
            gaps, times = compare_samples(p, tmp)
            widest = {k: round(max(values), 6) for k, values in gaps.items()}
            lossless, later = max(widest['.flac'], widest['.wav']), np.median(times[1:])
            check(f'the samples are classified as in Python: {widest}', lossless < 1e-3)
            check('so is Opus, decoded at 48 kHz by browsers, at 16 by soundfile', widest['.ogg'] < .01)
            use_page(v, files)
            use_unusual(v, files)
            go_offline(v, files)
            check(f'the first answer took {times[0]:.2f} s, a later one {later:.3f} s',
                  times[0] < 8 and later < 1)
        with visit(b, f'{url}try_it.html') as v:
            for seconds in (5, 0):
                v.locator('#sl-record').click()
                v.wait_for_timeout(1000*seconds)
            Page(v).wait('French, ')
            check('a recording from the microphone is classified', True)
        with visit(b, f'{url}try_it.html') as v: gap = choose_base(v)
        for size, dark in LOOKS if images else []:
            with visit(b, f'{url}try_it.html', size, dark) as v:
                Page(v).ask('nbs/samples/gsw/high.flac')
                v.screenshot(path=f'{images}/try-{size}{"-dark" if dark else ""}.png')
    found = dict(widest_gap=widest, base_gap=round(gap, 6), first_s=round(times[0], 2),
                 later_s=round(float(later), 3), onnxruntime_web=ORT_WEB)
    made = about('python tools/checks/browser.py page IMAGES', model='spoken_lang/models/tiny.onnx',
                 n=len(gaps['.flac']), threads=1)
    if images: save_results(out, made, **found)


def use_page(v, files):
    "Give silence, a broken file, an hour and candidates"
    p = Page(v)
    p.give(files['silent'])
    p.wait(NO_SPEECH)
    check('silence has no language', True)
    p.give(files['broken'])
    p.wait(NO_RECORDING_HERE)
    check('a broken file gets an error message', True)
    p.give(files['hour'])
    took = p.wait(' ms.', 60)
    check(f'an hour is classified ({took:.1f} s)', True)
    p.give(files['meeting'])
    p.wait('First German, then French.')
    check(f'two languages are named, in their order: {p.words()!r}', '%) and ' in p.words())
    check('their segments are listed', v.locator('#sl-segments li').count() > 1)
    p.ask(files['spoken'])
    for name in ('Italian', 'French'):
        v.get_by_label(name, exact=True).check()
    p.wait('French, ')
    check('only candidates are answered', 'German' not in v.locator('#sl-bars').inner_text())


def use_unusual(v, files):
    "Give channels that cancel, a chained file, samples beyond all sound, and a video"
    p = Page(v)
    for name in ('inverted', 'chain', 'video'):
        found, _ = p.ask(files[name])
        check(f'{name}: German', max(found, key=found.get) == 'de')
    check('the ticks of the last recording are gone', not v.locator('fieldset input:checked').count())
    p.give(files['huge'])
    p.wait('The recording ')
    check(f'samples beyond all sound: {p.words()!r}', 'NaN' not in v.locator('#spoken-lang').inner_text())


def go_offline(v, files):
    "Load the page again without a network, and classify"
    v.locator('#spoken-lang[data-offline=ready]').wait_for(timeout=120_000)
    v.context.set_offline(True)
    v.reload(wait_until='load')
    found, _ = Page(v).ask(files['spoken'])
    check('the page answers without a network', max(found, key=found.get) == 'fr')
    v.context.set_offline(False)


BROKEN = 'images => images.filter(i => !i.complete || !i.naturalWidth).map(i => i.src)'


def site(images=None, folder='_docs'):
    pages = sorted(p.name for p in Path(folder).glob('*.html') if p.stem != '404')
    microphone, wide = next(Path('nbs/samples').rglob('*.flac')), []
    with browser(microphone) as b, served(folder) as url:
        for size, name in ((s, n) for s in SIZES for n in pages):
            with visit(b, url + name, size) as v:
                if v.evaluate('document.documentElement.scrollWidth > innerWidth + 1'):
                    wide.append(f'{name} ({size})')
                broken = v.locator('img').evaluate_all(BROKEN)
                assert not broken, f'{name}: missing pictures: {broken}'
                if not images: continue
                v.screenshot(path=f'{images}/site-{size}-{Path(name).stem}.png')
    if wide: print('wider than the screen:', *wide)
    check(f'{len(pages)} pages fit a desktop and a phone, with pictures, from one host', not wide)


CELLS = ['from spoken_lang.widget import classify_widget\nclassify_widget()',
         'from spoken_lang.demo import build_app\napp = build_app()\n'
         'app.launch(prevent_thread_lock=True, quiet=True, inline=True); None']


@contextmanager
def jupyter(folder):
    "JupyterLab in a folder; its address"
    port = 8800 + os.getpid() % 90
    options = [f'--port={port}', f'--ServerApp.root_dir={folder}', '--no-browser', '--allow-root',
               '--IdentityProvider.token=']
    url = f'http://127.0.0.1:{port}/lab'
    with subprocess.Popen(['jupyter', 'lab', *options], stderr=subprocess.DEVNULL) as server:
        try:
            for _ in range(200):
                try:
                    urllib.request.urlopen(url).read()
                    break
                except OSError: time.sleep(.2)
            yield url
        finally: server.terminate()


def run_cells(v, url):
    "Open the notebook and run all its cells"
    v.goto(f'{url}/tree/widget.ipynb')
    v.locator('dialog.jp-Dialog button.jp-mod-accept').click(timeout=60_000)  # the kernel
    v.get_by_text('| Idle').wait_for(timeout=60_000)
    v.get_by_role('menuitem', name='Run', exact=True).click()
    v.get_by_text('Run All Cells', exact=True).click()


def lab(images=None):
    import nbformat
    tmp = tempfile.mkdtemp()
    files = recordings(tmp)
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    nbformat.write(book, f'{tmp}/widget.ipynb')
    with jupyter(tmp) as url, browser(files['spoken']) as b:
        context = b.new_context(viewport=dict(width=1280, height=1100), permissions=['microphone'])
        v = context.new_page()
        run_cells(v, url)
        v.get_by_text('● Record').click(timeout=60_000)
        v.wait_for_timeout(5000)
        v.get_by_text('■ Stop').click()
        v.locator('.widget-html td', has_text='French').first.wait_for()
        first = v.locator('.widget-html td').first.inner_text()
        check('the widget records and answers in JupyterLab', first == 'French')
        frame = v.frame_locator('iframe')
        button(frame, 'Italian').click(timeout=60_000)
        frame.get_by_test_id('label-output-value').get_by_text('Italian').wait_for()
        check('the app answers inside the notebook', True)
        if images: v.screenshot(path=f'{images}/lab.png')


def main(name=None, *images):
    checks = dict(app=app, page=page, site=site, lab=lab)
    if name not in checks or len(images) > 1: sys.exit(__doc__)
    missing = None if CHROMIUM else 'there is no Chromium here (Debian: apt install chromium)'
    if not find_spec('playwright'):
        missing = 'playwright is not installed (pip install playwright)'
    if missing: return print('skipped:', missing)
    checks[name](*images)


if __name__ == '__main__': main(*sys.argv[1:])
