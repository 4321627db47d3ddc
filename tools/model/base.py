"""How the weights of `base` are made: Whisper base, trained further on clips that are augmented on the fly.

    1. python ../shared/tools/whisper_base.py workspace/whisper-base   # or `pretrained_encoder_path: openai/whisper-base`
    2. python tools/model/speech.py voices workspace/base/pairs.parquet ../shared/text/gsw-*_de.tsv
    3. python tools/model/base.py vocode ../shared/tools/revoice   # every clip through the vocoder of the Swiss German ones
    4. python tools/model/base.py train [--steps N ...]             # or `train RUN`, to go on with a run; prints the folder
    5. python tools/model/base.py choose RUN                        # checkpoint and share of its weights, on validation clips
    6. python tools/model/base.py export RUN                        # RUN/model.onnx, with thresholds of the validation clips

The recipe is nbs/results/base/config.yml; any key of it can be set by `--key value` in step 4.
"""
import hashlib, io, json, sys
from pathlib import Path
import fire, numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, soundfile as sf, soxr
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.audio import load_audio

CONFIG, FOLDER = 'nbs/results/base/config.yml', Path('workspace/base')
REVOICED = '-revoiced'  # at the end of the name of a source
SPEEDS = (.9, 1., 1.1)  # before the vocoder


def revoiced(wav, resynth, mfcc):
    "A clip by way of 30 MFCC and back; None where there is next to nothing to vocode"
    peak = np.abs(wav).max()
    if len(wav) < SAMPLE_RATE//5 or peak < 1e-3: return None
    out = np.nan_to_num(resynth.synth(resynth.kaldi_compress(mfcc(wav/peak*20_000)[0])))
    return (out/max(1e-6, np.abs(out).max())*.5).astype('float32')


def shard_row(wav, row):
    "A revoiced clip in the layout of the corpus"
    sf.write(buffer := io.BytesIO(), wav, SAMPLE_RATE, format='OGG', subtype='OPUS')
    name = f'{row.source}{REVOICED}'
    return dict(audio=dict(bytes=buffer.getvalue(), path=row.recording), lang=row.code, kind='resynth', role='train',
        source=name, speaker=row.speaker, recording=row.recording, seconds=len(wav)/SAMPLE_RATE,
        license='as the clip', origin=name)


def clips(data=None, config=CONFIG):
    "The manifest of the config, with the clips of languages without a row"
    from spoken_lang.manifest import read_clips
    from spoken_lang.config import read_config
    config = read_config(config)
    return read_clips(data or config.data, config.labels, config.role, complete=False, others=True)


def vocode(folder, data='../shared/corpus/train-*.parquet,../shared/corpus/more-*.parquet,workspace/base/pairs.parquet'):
    "Write workspace/base/revoiced.parquet: each clip that is not vocoded yet, by a vocoder in `folder`"
    sys.path.insert(0, str(folder))
    import kaldi_mfcc, resynth
    df, rows = clips(data.split(',') if isinstance(data, str) else list(data)), []
    df = df[df.kind != 'resynth']
    for n, row in enumerate(df.itertuples()):
        speed = SPEEDS[np.random.default_rng(n).integers(len(SPEEDS))]
        wav = soxr.resample(load_audio(row.audio), SAMPLE_RATE*speed, SAMPLE_RATE)
        wav = revoiced(wav, resynth, kaldi_mfcc.mfcc)
        if wav is not None: rows.append(shard_row(wav, row))
        if n % 500 == 499: print(f'{n + 1} of {len(df)} clips', flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), FOLDER/'revoiced.parquet')
    return f'{len(rows)} clips, {sum(r["seconds"] for r in rows)/3600:.2f} hours'


HELD_OUT = {  # sources that are for validation only
    ('de', 'emodb'), ('de', 'unknown-horizons-voice'), ('de', 'larynx'), ('en', 'speechbot-gt'), ('en', 'fsdd'),
    ('fr', 'artikulate'), ('fr', 'childsplay'), ('it', 'voxforge-rhasspy'), ('it', 'larynx'),
    ('none', 'snap-sounds'), ('none', 'ubports-ringtones')}
OTHERS_HELD_OUT = 'artikulate', 'cv-rhasspy', 'tuxpaint-stamps'  # of languages besides the five


def held_out(df):
    "(clips,), bool: whole sources; of EMOVO two actors, of SwissDial a voice, of VoxLingua107 a quarter of the videos"
    source = df.source.str.removesuffix(REVOICED)
    sources = pd.Series([pair in HELD_OUT for pair in zip(df.code, source)], df.index)
    sources |= source.isin(OTHERS_HELD_OUT) & ~df.code.isin(['en', 'it', 'fr', 'de'])
    actors = sorted(df.speaker[source == 'emovo'].unique())[-2:]
    dialects = sorted(df.speaker[(df.code == 'gsw') & (df.kind == 'resynth') & (source != 'pairs')].unique())
    share = df.recording.map(lambda r: int(hashlib.md5(r.encode()).hexdigest(), 16) % 100)
    videos = (source == 'voxlingua107-dev') & (share < 25)
    return sources | df.speaker.isin([*actors, dialects[1]]) | videos


def split(config=CONFIG):
    "Write the split into the folder that the config names: train.csv and valid.csv; test.csv is empty"
    from spoken_lang.config import read_config
    df, folder = clips(config=config), Path(read_config(config).splits)
    names = df.audio.map(lambda a: a if isinstance(a, str) else hashlib.md5(a).hexdigest())
    df, valid = df.assign(clip=names).drop(columns='audio'), held_out(df)
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in dict(train=df[~valid], valid=df[valid], test=df[:0]).items():
        rows.to_csv(folder/f'{part}.csv', index=False)
    return df.assign(valid=valid).groupby(['valid', 'kind']).seconds.agg(['size', 'sum'])


def train(run=None, **changes):
    "Train, or go on with a run; keys of the config can be changed"
    from spoken_lang.config import read_config
    from spoken_lang.training import train
    config = read_config(f'{run}/config.yml' if run else CONFIG, **changes)
    if not (Path(config.splits)/'train.csv').exists(): print(split())
    return str(train(config, run))


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    fire.Fire(dict(vocode=vocode, split=split, train=train))
