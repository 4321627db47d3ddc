"""A training shard from the telephone prompts of Debian's Asterisk packages.

    apt-get download asterisk-core-sounds-{en,fr,it,ru}-wav
    apt-get download asterisk-prompt-it-menardi-wav asterisk-prompt-fr-armelle
    for package in *.deb; do dpkg -x $package prompts; done
    python tools/model/prompts.py prompts/usr/share/asterisk/sounds OUT.parquet

Six people speak English, French, Italian and Russian. Prompts are short, so those of one voice are joined
to clips of 3 s or more. Needs soundfile, soxr, numpy and pyarrow.
"""
import io, sys
from pathlib import Path
import numpy as np, pyarrow as pa, pyarrow.parquet as pq, soundfile as sf, soxr

VOICES = {  # folder: language, source, licence
    'en_US_f_Allison': ('en', 'asterisk-core', 'CC BY-SA 3.0, Allison Smith'),
    'fr_CA_f_June': ('fr', 'asterisk-core', 'CC BY-SA 3.0, June Wallack'),
    'it_IT_m_Carlo': ('it', 'asterisk-core', 'CC BY-SA 3.0, Carlo Flora'),
    'ru_RU_f_IvrvoiceRU': ('ru', 'asterisk-core', 'CC BY 3.0, ivrvoice.ru'),
    'it_IT_f_Menardi': ('it', 'asterisk-menardi', 'CC BY-SA 3.0, Marco Menardi and Paola Dal Zot'),
    'fr': ('fr', 'asterisk-armelle', 'GPL-2.0-or-later, Armelle Desjardins')}
NO_LANGUAGE = {'letters', 'phonetic', 'silence', 'ICAO'}  # folders of letters, code words, silence
SECONDS, GAP = 3., .15


def joined(paths):
    "(names, wave) of prompts that together last long enough"
    gap = np.zeros(int(GAP*16_000), 'float32')
    names, waves = [], []
    seconds = 0.
    for path in paths:
        wav, rate = sf.read(path, dtype='float32')
        if len(wav) < .3*rate or not wav.any(): continue
        names.append(path.stem)
        waves += [soxr.resample(wav, rate, 16_000), gap]
        seconds += len(wav)/rate + GAP
        if seconds >= SECONDS:
            yield names, np.concatenate(waves[:-1])
            names, waves = [], []
            seconds = 0.


def prompts(folder):
    "Paths of the prompts that have words"
    for path in sorted(Path(folder).rglob('*')):
        if path.suffix in ('.wav', '.gsm') and not NO_LANGUAGE & set(path.parts):
            yield path


def rows(folder):
    "Clips of all voices in the layout of the corpus"
    for voice, (language, source, license) in VOICES.items():
        paths = list(prompts(Path(folder)/voice))
        assert paths, f'{folder}/{voice} is not there'
        for names, wav in joined(paths):
            sf.write(buffer := io.BytesIO(), wav, 16_000, format='OGG', subtype='OPUS')
            audio = dict(bytes=buffer.getvalue(), path=f'{voice}/{names[0]}')
            yield dict(
                audio=audio, lang=language, kind='human', role='train', source=source,
                speaker=f'{source}/{voice}', recording=f'{voice}/{"+".join(names)}',
                seconds=len(wav)/16_000, license=license, origin='Debian')


if __name__ == '__main__':
    if len(sys.argv) != 3: sys.exit(__doc__)
    pq.write_table(pa.Table.from_pylist(list(rows(sys.argv[1]))), sys.argv[2])
