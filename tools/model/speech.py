"""Speech from text: the clips of nbs/samples, and shards for training.

    # nbs/samples/<language>/<voice>.flac, by SVOX Pico and espeak-ng
    python tools/model/speech.py samples
    # a line of TEXT.tsv: Swiss German, tab, the same in Standard German
    python tools/model/speech.py pairs TEXT.tsv OUT.parquet
    # pairs by SVOX Pico and MBROLA, which are more natural
    python tools/model/speech.py voices OUT.parquet TEXT.tsv ...
    # a line: language code, tab, sentences
    python tools/model/speech.py sentences TEXT.tsv OUT.parquet
    # the same, by voices made of human speech
    python tools/model/speech.py diphones TEXT.tsv OUT.parquet
    # Irish and Esperanto, FOLDER/train and FOLDER/test/<language>/<voice>/<n>.flac; seconds of a language
    python tools/model/speech.py new_languages FOLDER SECONDS HELD_OUT_SECONDS

Needs the packages espeakng-loader, numpy, soundfile, soxr and, for shards, pyarrow. The espeak-ng library
is GPL-3.0; its output is ours. `samples` calls the program pico2wave (Apache-2.0). `diphones` calls it and
espeak-ng with the MBROLA voices named below (Debian: contrib and non-free; the voices are free for use that
is neither commercial nor military).
"""
import ctypes, io, random, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import espeakng_loader, numpy as np, soundfile as sf, soxr

SENTENCES = dict(  # our own; the same small story in each language
    en='Good morning. This morning I took the train along the lake, '
       'and the mountains were still covered with snow.',
    it='Buongiorno. Questa mattina ho preso il treno lungo il lago, '
       'e le montagne erano ancora coperte di neve.',
    fr="Bonjour. Ce matin, j'ai pris le train le long du lac, "
       'et les montagnes étaient encore couvertes de neige.',
    de='Guten Morgen. Heute früh bin ich mit dem Zug am See entlang gefahren, '
       'und auf den Bergen lag noch Schnee.',
    gsw='Guete Morge mitenand. Hüt am Morge bin i mit em Zug em See naa gfahre, '
        'und uf de Bärge isch no Schnee gläge.')
# there is no Swiss German voice: the German one of espeak-ng reads the spelling of the dialect
PICO = dict(en='en-GB', it='it-IT', fr='fr-FR', de='de-DE')
VOICES = dict(high=(100, 'f2'), low=(70, 'm3'))  # pitch of SVOX Pico in per cent, variant of espeak-ng
SECONDS = 6  # of a training clip


class Espeak:
    "espeak-ng through ctypes; one for each process, since the library keeps its state in globals"
    def __init__(self):
        self.lib = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path()
        self.rate = self.lib.espeak_Initialize(2, 0, data.encode(), 1 << 15)  # 2: synchronous, no playback
        samples = ctypes.POINTER(ctypes.c_short)
        callback = ctypes.CFUNCTYPE(ctypes.c_int, samples, ctypes.c_int, ctypes.c_void_p)
        self.keep = callback(self._collect)  # ctypes does not keep it alive for us
        self.lib.espeak_SetSynthCallback(self.keep)
        self.variants = {p.name for p in (Path(data)/'voices'/'!v').iterdir()}

    def _collect(self, wav, n, events):
        if n and wav:
            self.chunks.append(np.ctypeslib.as_array(wav, (n,)).copy())
        return 0

    def __call__(self, text, voice, variant='', speed=165, pitch=50):
        "Speak `text`; (samples,) float32 at 16 kHz"
        if variant and variant not in self.variants:
            raise ValueError(f'espeak-ng has no variant {variant!r}')
        name = f'{voice}+{variant}'.rstrip('+')
        if self.lib.espeak_SetVoiceByName(name.encode()):
            raise ValueError(f'espeak-ng has no voice {voice!r}')
        self.lib.espeak_SetParameter(1, speed, 0)
        self.lib.espeak_SetParameter(3, pitch, 0)
        self.chunks, data = [], text.encode()
        size = ctypes.c_size_t(len(data) + 1)
        self.lib.espeak_Synth(data, size, 0, 0, 0, 1, None, None)  # 1: the text is UTF-8
        self.lib.espeak_Synchronize()
        return soxr.resample(np.concatenate(self.chunks).astype('float32')/32768, self.rate, 16_000)


def samples(folder='nbs/samples'):
    "Write a high and a low voice for each language"
    espeak = Espeak()
    for language, text in SENTENCES.items():
        for name, (pitch, variant) in VOICES.items():
            path = Path(folder)/language/f'{name}.flac'
            path.parent.mkdir(parents=True, exist_ok=True)
            if language in PICO:
                marked = f'<pitch level="{pitch}">{text}</pitch>'
                wav = speak_by(['pico2wave', '-l', PICO[language]], marked)
            else:
                wav = espeak(text, 'de', variant)
            sf.write(path, wav, 16_000, subtype='PCM_16')


def clip_row(wav, language, source, speaker, recording, origin, license, format='OGG'):
    "A clip in the layout of the corpus"
    wav = wav[:SECONDS*16_000]
    subtype = dict(OGG='OPUS', FLAC='PCM_16')[format]
    sf.write(buffer := io.BytesIO(), wav, 16_000, format=format, subtype=subtype)
    return dict(
        audio=dict(bytes=buffer.getvalue(), path=recording), lang=language, kind='tts', role='train',
        source=source, speaker=speaker, recording=recording, seconds=len(wav)/16_000,
        license=license, origin=origin)


def random_speaker(speak, rng):
    "Variant, speed and pitch; without whisper and robot variants"
    unnatural = 'whisper', 'croak', 'robosoft', 'fast'
    variants = sorted(v for v in speak.variants if not v.lower().startswith(unnatural))
    return dict(variant=rng.choice(variants), speed=rng.randrange(130, 215), pitch=rng.randrange(25, 75))


def read_lines(text):
    "The fields of each line of a TSV file"
    return [l.split('\t') for l in Path(text).read_text(encoding='utf-8').splitlines()]


def pairs(text, n=250, seed=0):
    "`n` sentences, each in Swiss German and in German by one voice, so that they differ in dialect only"
    speak, rng = Espeak(), random.Random(seed)
    rows, path = [], Path(text)
    lines = [l for l in read_lines(text) if len(l) == 2]
    for i, line in enumerate(rng.sample(lines, n)):
        voice, manner = rng.choice(['de', 'de', 'lb']), random_speaker(speak, rng)
        for language, sentence in zip(('gsw', 'de'), line):
            wav = speak(sentence[:110], voice, **manner)
            rows.append(clip_row(
                wav, language, 'espeak-pairs', f'espeak-pairs/{voice}',
                f'espeak-pairs/{path.stem}-{i}', path.name, 'CC BY-SA 4.0'))
    return rows


ESPEAK = dict(en=['en-us', 'en-us', 'en-gb-scotland', 'en-029'], fr=['fr', 'fr-be', 'fr-ch'])


def sentences(text, seed=0):
    "Each line in its own language, so that every language has synthetic clips"
    speak, rng = Espeak(), random.Random(seed)
    rows = []
    for i, (language, sentence) in enumerate(read_lines(text)):
        voice = rng.choice(ESPEAK.get(language, [language]))
        wav = speak(sentence, voice, **random_speaker(speak, rng))
        rows.append(clip_row(
            wav, language, 'espeak', f'espeak/{voice}', f'espeak/{i}', Path(text).name, 'BSD-3-Clause'))
    return rows


# voices of MBROLA and SVOX Pico; some English ones have the phonemes of another language
DIPHONES = dict(
    en='en1 us1 us2 us3 fr1-en fr4-en de2-en de5-en pico/en-GB pico/en-US', it='it1 it2 it3 it4 pico/it-IT',
    fr='fr1 fr2 fr3 fr4 fr5 fr6 ca1 ca2 pico/fr-FR', de='de1 de2 de3 de4 de5 de6 de7 pico/de-DE',
    pl='pl1', ro='ro1', sv='sw1 sw2', hu='hu1', el='gr1 gr2', lt='lt1', tr='tr1 tr2', id='id1',
    hi='in1', cs='cz2', et='ee1')


def speak_by(command, text):
    "The speech of a program; (samples,) float32 at 16 kHz"
    with tempfile.NamedTemporaryFile(suffix='.wav') as f:
        subprocess.run([*command, '-w', f.name, text], check=True, stderr=subprocess.DEVNULL)
        wav, rate = sf.read(f.name, dtype='float32')
    return soxr.resample(wav, rate, 16_000)


def speak_diphones(text, voice, rng):
    "Speak `text` by a voice of `DIPHONES`"
    manner = ['-s', str(rng.randrange(125, 195)), '-p', str(rng.randrange(30, 70))]
    if voice.startswith('pico/'):
        return speak_by(['pico2wave', '-l', voice[5:]], text)
    return speak_by(['espeak-ng', '-v', f'mb-{voice}', *manner], text)


def diphones(text, seed=0):
    "Each line by a voice of its language, as FLAC"
    rng, rows = random.Random(seed), []
    for i, (language, sentence) in enumerate(read_lines(text)):
        voice = rng.choice(DIPHONES[language].split())
        wav = speak_diphones(sentence, voice, rng)
        rows.append(clip_row(
            wav, language, 'diphones', f'diphones/{voice}', f'diphones/{i}', Path(text).name,
            'free for non-commercial use', 'FLAC'))
    return rows


def voice_row(text, language, sentence, voice, speed, pitch, i):
    "A row of `voices`; None where synthesis fails or gives less than a second"
    espeak = ['espeak-ng', '-v', voice, '-s', str(int(speed*1.6)), '-p', str(int(pitch*.5))]
    marked = f'<pitch level="{pitch}"><speed level="{speed}">{sentence}</speed></pitch>'
    pico = ['pico2wave', '-l', 'de-DE']
    try:
        wav = speak_by(pico, marked) if voice == 'pico' else speak_by(espeak, sentence)
    except (subprocess.CalledProcessError, sf.LibsndfileError):
        return None
    if len(wav) <= 16_000: return None
    path = Path(text)
    return clip_row(
        wav, language, 'pairs', f'pairs/{voice}', f'pairs/{path.stem}-{i}', path.name,
        'free for non-commercial use')


def voices(*texts, n=700, seed=0):
    "`n` sentences of each text, in Swiss German and in German by one voice at one speed and pitch"
    rng, jobs = random.Random(seed), []
    of_pairs = ['pico', 'pico', 'pico', *(f'mb-de{k}' for k in range(1, 8))]
    for text in texts:
        lines = [l for l in read_lines(text) if len(l) == 2 and 20 < len(l[0]) < 160]
        lines = [l for l in lines if not set('<>&') & set(l[0] + l[1])]
        for i, line in enumerate(rng.sample(lines, n)):
            voice = rng.choice(of_pairs)
            manner = rng.randrange(80, 125), rng.randrange(65, 130)
            for language, sentence in zip(('gsw', 'de'), line):
                jobs.append((text, language, sentence[:110], voice, *manner, i))
    with ThreadPoolExecutor(2) as pool:
        return [r for r in pool.map(lambda job: voice_row(*job), jobs) if r]


NEW_LANGUAGES = Path(__file__).parent/'new_languages.tsv'
HELD_OUT = 6  # the last sentences and voices of a language are for `test`


def distinct_speakers(espeak, rng, n):
    "`n` speakers of different variants"
    found = {}
    while len(found) < n:
        speaker = random_speaker(espeak, rng)
        found.setdefault(speaker['variant'], speaker)
    return list(found.values())


def new_languages(folder, seconds, held_out_seconds, seed=0):
    "Write clips of two sentences, the voices in turn; minutes of `train`"
    espeak, rng = Espeak(), random.Random(seed)
    total = 0
    for language in ('eo', 'ga'):
        own = [t for l, t in read_lines(NEW_LANGUAGES) if l == language]
        voices = distinct_speakers(espeak, rng, 4*HELD_OUT)
        parts = dict(train=(own[:-HELD_OUT], voices[:-HELD_OUT], seconds),
                     test=(own[-HELD_OUT:], voices[-HELD_OUT:], held_out_seconds))
        for part, (sentences, speakers, needed) in parts.items():
            said = i = 0
            while said < needed:
                voice = speakers[i % len(speakers)]
                wav = espeak(' '.join(rng.sample(sentences, 2)), language, **voice)[:SECONDS*16_000]
                path = Path(folder)/part/language/voice['variant']/f'{i}.flac'
                path.parent.mkdir(parents=True, exist_ok=True)
                sf.write(path, wav, 16_000)
                said += len(wav)/16_000
                i += 1
            total += said/60 if part == 'train' else 0
    return round(total, 1)


def write(rows, out):
    import pyarrow as pa, pyarrow.parquet as pq
    pq.write_table(pa.Table.from_pylist(rows), out)


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['samples']: samples()
        case ['pairs', text, out]: write(pairs(text), out)
        case ['voices', out, *texts] if texts: write(voices(*texts), out)
        case ['sentences', text, out]: write(sentences(text), out)
        case ['diphones', text, out]: write(diphones(text), out)
        case ['new_languages', folder, *seconds]:
            print(new_languages(folder, *map(float, seconds)), 'minutes')
        case _: sys.exit(__doc__)
