"""How the weights of `base` are made: Whisper base, trained further on clips that are augmented on the fly.

    1. python ../shared/tools/whisper_base.py workspace/whisper-base   # or `pretrained_encoder_path: openai/whisper-base`
    2. python tools/speak.py voices workspace/base/pairs.parquet ../shared/text/gsw-*_de.tsv
    3. python tools/base.py revoice ../shared/tools/revoice   # every clip through the vocoder of the Swiss German ones
    4. python tools/base.py train [--steps N ...]             # or `train RUN`, to go on with a run; prints the folder
    5. python tools/base.py choose RUN                        # checkpoint and share of its weights, on validation clips
    6. python tools/base.py export RUN                        # RUN/model.onnx, with thresholds of the validation clips

The recipe is nbs/results/base/config.yml; any key of it can be set by `--key value` in step 4.
"""
import hashlib, io, json, sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
import fire, numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, soundfile as sf, soxr
from tqdm.auto import tqdm
from spoken_lang.core import SAMPLE_RATE, load_audio

CONFIG, FOLDER = 'nbs/results/base/config.yml', Path('workspace/base')
REVOICED = '-revoiced'  # at the end of the name of a source
SPEEDS = (.9, 1., 1.1)  # before the vocoder


def revoiced(audio, speed):
    "The bytes of a clip by way of 30 MFCC and back, and its seconds; None where there is next to nothing to vocode"
    import kaldi_mfcc, resynth
    wav = soxr.resample(load_audio(audio), SAMPLE_RATE*speed, SAMPLE_RATE)
    peak = np.abs(wav).max()
    if len(wav) < SAMPLE_RATE//5 or peak < 1e-3: return None
    mfcc = kaldi_mfcc.mfcc(wav/peak*20_000)[0]
    out = np.nan_to_num(resynth.synth(resynth.kaldi_compress(mfcc)))
    out = (out/max(1e-6, np.abs(out).max())*.5).astype('float32')
    sf.write(buffer := io.BytesIO(), out, SAMPLE_RATE, format='FLAC')
    return buffer.getvalue(), len(out)/SAMPLE_RATE


def shard_row(row, made):
    "A revoiced clip in the layout of the corpus"
    name, (file, seconds) = f'{row.source}{REVOICED}', made
    return dict(audio=dict(bytes=file, path=row.recording), lang=row.code, kind='resynth', role='train', source=name,
        speaker=row.speaker, recording=row.recording, seconds=seconds, license='as the clip', origin=name)


def clips(data=None, config=CONFIG):
    "The manifest of the config, with the clips of languages without a row"
    from spoken_lang.training import read_clips, read_config
    config = read_config(config)
    return read_clips(data or config.data, config.labels, config.role, complete=False, others=True)


UNVOCODED = '../shared/corpus/train-*.parquet', '../shared/corpus/more-*.parquet', 'workspace/base/pairs.parquet'

def revoice(folder, workers=2):
    "Write workspace/base/revoiced.parquet: each clip that is not vocoded yet, by the vocoder in `folder`"
    sys.path.insert(0, str(folder))
    df = clips(list(UNVOCODED))
    df = df[df.kind != 'resynth']
    speeds = np.random.default_rng(0).choice(SPEEDS, len(df))
    with ProcessPoolExecutor(workers, get_context('fork')) as pool:
        made = list(tqdm(pool.map(revoiced, df.audio, speeds, chunksize=8), total=len(df)))
    rows = [shard_row(row, m) for row, m in zip(df.itertuples(), made) if m]
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
    from spoken_lang.training import read_config
    df, folder = clips(config=config), Path(read_config(config).splits)
    names = df.audio.map(lambda a: a if isinstance(a, str) else hashlib.md5(a).hexdigest())
    df, valid = df.assign(clip=names).drop(columns='audio'), held_out(df)
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in dict(train=df[~valid], valid=df[valid], test=df[:0]).items():
        rows.to_csv(folder/f'{part}.csv', index=False)
    return df.assign(valid=valid).groupby(['valid', 'kind']).seconds.agg(['size', 'sum'])


def train(run=None, **changes):
    "Train, or go on with a run; keys of the config can be changed"
    from spoken_lang.training import read_config, train
    config = read_config(f'{run}/config.yml' if run else CONFIG, **changes)
    if not (Path(config.splits)/'train.csv').exists(): print(split())
    return str(train(config, run))


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    fire.Fire(dict(revoice=revoice, split=split, train=train))
