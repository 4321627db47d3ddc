"""Speech from text: the clips of nbs/samples, and shards for training.

    python tools/model/speech.py samples                         # nbs/samples/<language>/<voice>.flac, by SVOX Pico and espeak-ng
    python tools/model/speech.py pairs TEXT.tsv OUT.parquet      # a line: Swiss German, tab, the same in Standard German
    python tools/model/speech.py voices OUT.parquet TEXT.tsv ... # pairs by SVOX Pico and MBROLA, which sound more like people
    python tools/model/speech.py sentences TEXT.tsv OUT.parquet  # a line: language code, tab, sentences
    python tools/model/speech.py diphones TEXT.tsv OUT.parquet   # the same, by voices that were cut from human speech

Needs the packages espeakng-loader, numpy, soundfile, soxr and, for shards, pyarrow. The espeak-ng library is GPL-3.0;
what it speaks is ours. `samples` calls the program pico2wave (Apache-2.0); `diphones` calls it and espeak-ng, with the MBROLA voices named below
(Debian: contrib and non-free; the voices are free for use that is neither commercial nor military).
"""
import ctypes, io, random, subprocess, sys, tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import espeakng_loader, numpy as np, soundfile as sf, soxr

SENTENCES = dict(  # our own; the same small story in each language
    en='Good morning. This morning I took the train along the lake, and the mountains were still covered with snow.',
    it='Buongiorno. Questa mattina ho preso il treno lungo il lago, e le montagne erano ancora coperte di neve.',
    fr="Bonjour. Ce matin, j'ai pris le train le long du lac, et les montagnes étaient encore couvertes de neige.",
    de='Guten Morgen. Heute früh bin ich mit dem Zug am See entlang gefahren, und auf den Bergen lag noch Schnee.',
    gsw='Guete Morge mitenand. Hüt am Morge bin i mit em Zug em See naa gfahre, und uf de Bärge isch no Schnee gläge.')
PICO = dict(en='en-GB', it='it-IT', fr='fr-FR', de='de-DE')  # there is no Swiss German voice: the German one of espeak-ng reads the dialect's spelling
VOICES = dict(high=(100, 'f2'), low=(70, 'm3'))  # pitch of SVOX Pico in per cent, variant of espeak-ng
SECONDS = 6  # of a training clip


class Espeak:
    "espeak-ng through ctypes; one for each process, since the library keeps its state in globals"
    def __init__(self):
        self.lib = ctypes.CDLL(espeakng_loader.get_library_path())
        self.rate = self.lib.espeak_Initialize(2, 0, espeakng_loader.get_data_path().encode(), 1 << 15)  # 2: synchronous, no playback
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self.keep = callback(self._collect)  # ctypes does not keep it alive for us
        self.lib.espeak_SetSynthCallback(self.keep)
        self.variants = {p.name for p in (Path(espeakng_loader.get_data_path())/'voices'/'!v').iterdir()}

    def _collect(self, wav, n, events):
        if n and wav: self.chunks.append(np.ctypeslib.as_array(wav, (n,)).copy())
        return 0

    def __call__(self, text, voice, variant='', speed=165, pitch=50):
        "Speak `text`; (samples,) float32 at 16 kHz"
        if variant and variant not in self.variants: raise ValueError(f'espeak-ng has no variant {variant!r}')
        if self.lib.espeak_SetVoiceByName(f'{voice}+{variant}'.rstrip('+').encode()): raise ValueError(f'espeak-ng has no voice {voice!r}')
        self.lib.espeak_SetParameter(1, speed, 0); self.lib.espeak_SetParameter(3, pitch, 0)
        self.chunks, data = [], text.encode()
        self.lib.espeak_Synth(data, ctypes.c_size_t(len(data)+1), 0, 0, 0, 1, None, None)  # 1: the text is UTF-8
        self.lib.espeak_Synchronize()
        return soxr.resample(np.concatenate(self.chunks).astype('float32')/32768, self.rate, 16_000)


def samples(folder='nbs/samples'):
    "Write a high and a low voice for each language"
    espeak = Espeak()
    for language, text in SENTENCES.items():
        for name, (pitch, variant) in VOICES.items():
            path = Path(folder)/language/f'{name}.flac'
            path.parent.mkdir(parents=True, exist_ok=True)
            if language in PICO: wav = _program(['pico2wave', '-l', PICO[language]], f'<pitch level="{pitch}">{text}</pitch>')
            else: wav = espeak(text, 'de', variant)
            sf.write(path, wav, 16_000, subtype='PCM_16')


def _row(wav, language, source, speaker, recording, origin, license, format='OGG'):
    "A clip in the layout of the corpus"
    wav = wav[:SECONDS*16_000]
    sf.write(buffer := io.BytesIO(), wav, 16_000, format=format, subtype=dict(OGG='OPUS', FLAC='PCM_16')[format])
    return dict(audio=dict(bytes=buffer.getvalue(), path=recording), lang=language, kind='tts', role='train', source=source,
        speaker=speaker, recording=recording, seconds=len(wav)/16_000, license=license, origin=origin)


def _manner(speak, rng):
    "A random speaker: variant, speed and pitch; no whisper or robot, since nobody speaks like them"
    variants = sorted(v for v in speak.variants if not v.lower().startswith(('whisper', 'croak', 'robosoft', 'fast')))
    return dict(variant=rng.choice(variants), speed=rng.randrange(130, 215), pitch=rng.randrange(25, 75))


def pairs(text, n=250, seed=0):
    "`n` sentences, each in Swiss German and in German by one voice: nothing but the dialect tells the two apart"
    speak, rng, rows = Espeak(), random.Random(seed), []
    lines = [l.split('\t') for l in Path(text).read_text(encoding='utf-8').splitlines()]
    for i, line in enumerate(rng.sample([l for l in lines if len(l) == 2], n)):
        voice, manner = rng.choice(['de', 'de', 'lb']), _manner(speak, rng)
        rows += [_row(speak(sentence[:110], voice, **manner), language, 'espeak-pairs', f'espeak-pairs/{voice}', f'espeak-pairs/{Path(text).stem}-{i}', Path(text).name, 'CC BY-SA 4.0')
            for language, sentence in zip(('gsw', 'de'), line)]
    return rows


def sentences(text, seed=0):
    "Each line in its own language, so that no language alone sounds like a machine"
    speak, rng, rows = Espeak(), random.Random(seed), []
    for i, line in enumerate(Path(text).read_text(encoding='utf-8').splitlines()):
        language, sentence = line.split('\t')
        voice = rng.choice(dict(en=['en-us', 'en-us', 'en-gb-scotland', 'en-029'], fr=['fr', 'fr-be', 'fr-ch']).get(language, [language]))
        rows.append(_row(speak(sentence, voice, **_manner(speak, rng)), language, 'espeak', f'espeak/{voice}', f'espeak/{i}', Path(text).name, 'BSD-3-Clause'))
    return rows


DIPHONES = dict(  # MBROLA voices, and those of SVOX Pico; some English ones speak with the sounds of another language
    en='en1 us1 us2 us3 fr1-en fr4-en de2-en de5-en pico/en-GB pico/en-US', it='it1 it2 it3 it4 pico/it-IT',
    fr='fr1 fr2 fr3 fr4 fr5 fr6 ca1 ca2 pico/fr-FR', de='de1 de2 de3 de4 de5 de6 de7 pico/de-DE',
    pl='pl1', ro='ro1', sv='sw1 sw2', hu='hu1', el='gr1 gr2', lt='lt1', tr='tr1 tr2', id='id1', hi='in1', cs='cz2', et='ee1')


def _program(command, text):
    "What a program speaks; (samples,) float32 at 16 kHz"
    with tempfile.NamedTemporaryFile(suffix='.wav') as f:
        subprocess.run([*command, '-w', f.name, text], check=True, stderr=subprocess.DEVNULL)
        wav, rate = sf.read(f.name, dtype='float32')
    return soxr.resample(wav, rate, 16_000)


def _diphones(text, voice, rng):
    "Speak `text` by a voice of `DIPHONES`"
    manner = ['-s', str(rng.randrange(125, 195)), '-p', str(rng.randrange(30, 70))]
    return _program(['pico2wave', '-l', voice[5:]] if voice.startswith('pico/') else ['espeak-ng', '-v', f'mb-{voice}', *manner], text)


def diphones(text, seed=0):
    "Each line by a voice of its language, as FLAC"
    rng, rows = random.Random(seed), []
    for i, line in enumerate(Path(text).read_text(encoding='utf-8').splitlines()):
        language, sentence = line.split('\t')
        voice = rng.choice(DIPHONES[language].split())
        rows.append(_row(_diphones(sentence, voice, rng), language, 'diphones', f'diphones/{voice}', f'diphones/{i}', Path(text).name, 'free for non-commercial use', 'FLAC'))
    return rows


def _voice_job(text, language, sentence, voice, speed, pitch, i):
    "A row of `voices`; None where the synthesiser gives up or says next to nothing"
    espeak = ['espeak-ng', '-v', voice, '-s', str(int(speed*1.6)), '-p', str(int(pitch*.5))]
    marked = f'<pitch level="{pitch}"><speed level="{speed}">{sentence}</speed></pitch>'
    try: wav = _program(['pico2wave', '-l', 'de-DE'], marked) if voice == 'pico' else _program(espeak, sentence)
    except (subprocess.CalledProcessError, sf.LibsndfileError): return None
    about = 'pairs', f'pairs/{voice}', f'pairs/{Path(text).stem}-{i}', Path(text).name, 'free for non-commercial use'
    return _row(wav, language, *about) if len(wav) > 16_000 else None


def voices(*texts, n=700, seed=0):
    "`n` sentences of each text, in Swiss German and in German by one voice at one speed and pitch"
    rng, jobs = random.Random(seed), []
    for text in texts:
        lines = [l.split('\t') for l in Path(text).read_text(encoding='utf-8').splitlines()]
        lines = [l for l in lines if len(l) == 2 and 20 < len(l[0]) < 160 and not set('<>&') & set(l[0] + l[1])]
        for i, line in enumerate(rng.sample(lines, n)):
            voice = rng.choice(['pico', 'pico', 'pico', *(f'mb-de{k}' for k in range(1, 8))])
            manner = rng.randrange(80, 125), rng.randrange(65, 130)
            jobs += [(text, l, sentence[:110], voice, *manner, i) for l, sentence in zip(('gsw', 'de'), line)]
    with ThreadPoolExecutor(2) as pool: return [r for r in pool.map(lambda job: _voice_job(*job), jobs) if r]


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
        case _: sys.exit(__doc__)
