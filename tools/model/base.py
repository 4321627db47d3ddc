"""How the weights of `base` are made: Whisper base, trained further on clips that are augmented on the fly.

    1. python ../shared/tools/whisper_base.py workspace/whisper-base
    2. python tools/model/speech.py voices workspace/base/pairs.parquet ../shared/text/gsw-*_de.tsv
    3. python tools/model/base.py revoice ../shared/tools/revoice
    4. python tools/model/sounds.py workspace/base/sounds.parquet
    5. python tools/model/base.py train [--steps N ...]
    6. python tools/model/base.py choose RUN
    7. python tools/model/base.py export RUN
    8. python tools/model/base.py ship RUN

1 is not needed where the hub can be reached: set `--pretrained_encoder_path openai/whisper-base`.
3 sends all clips through the vocoder of the Swiss German ones. 5 prints the folder of the run, and
resumes with `train RUN`; it reads nbs/results/base/config.yml, of which any key can be set by
`--key value`; `--start FILE` begins with the weights of an earlier run, averaged with those of Whisper.
The shipped network had two runs: the config of the first is nbs/results/base/config.yml at commit 442f993;
its file of step 8 was the `--start` of the second.
6 chooses a checkpoint, and a share of its weights, by validation. 7 writes
RUN/model.onnx with thresholds. 8 writes the two files of the repository,
spoken_lang/models/base.onnx and weights/base.safetensors. From the latter,
`python tools/model/base.py restore FOLDER` makes the network of RUN again; it needs step 1 alone.
"""
import copy, hashlib, io, json, sys
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
import fire, numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, soundfile as sf, soxr, torch
from safetensors.torch import load_file
from scipy import signal
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from tqdm.auto import tqdm
from spoken_lang import training
from spoken_lang.audio import load_audio
from spoken_lang.augmentation import vocode
from spoken_lang.batches import collate
from spoken_lang.benchmark import time_in_turns
from spoken_lang.config import read_config
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.evaluation import fit_temperature, macro_metrics
from spoken_lang.finetuning import at_most, average_weights
from spoken_lang.inference import LanguageClassifier
from spoken_lang.manifest import read_clips
from spoken_lang.model import WaveClassifier
from spoken_lang.onnx_export import export_run, load_run
from spoken_lang.outliers import quantize_mixed
from spoken_lang.results import about, save_results
from spoken_lang.splits import fixed_split
from spoken_lang.training import build_model, default_loss
from spoken_lang.training_sets import read_split
from spoken_lang.weights import load_changes, save_changes

RESULTS, FOLDER = 'nbs/results/base', Path('workspace/base')
CONFIG = f'{RESULTS}/config.yml'
SHIPPED, WEIGHTS = 'spoken_lang/models/base.onnx', 'weights/base.safetensors'
CANDIDATES = ['en', 'it', 'fr', 'de', 'gsw']  # the languages that are answered where none are asked for
REVOICED = '-revoiced'  # at the end of the name of a source
SPEEDS = (.9, 1., 1.1)  # before the vocoder


def revoiced(audio, speed):
    "(bytes, seconds) of a clip by way of 30 MFCC and back; None where there is next to nothing to vocode"
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
    return dict(audio=dict(bytes=file, path=row.recording), lang=row.code, kind='resynth', role='train',
        source=name, speaker=row.speaker, recording=row.recording, seconds=seconds, license='as the clip',
        origin=name)


def clips(shards=None, config=CONFIG):
    "The manifest of the config, with the clips of languages without a row"
    config = read_config(config)
    return read_clips(shards or config.data, config.labels, config.role, complete=False, others=True)


UNVOCODED = ['../shared/corpus/train-*.parquet', '../shared/corpus/more-*.parquet',
             'workspace/base/pairs.parquet']


def revoice(folder, workers=2):
    "Write workspace/base/revoiced.parquet: each clip that is not vocoded yet, by the vocoder in `folder`"
    sys.path.insert(0, str(folder))
    df = clips(UNVOCODED)
    df = df[df.kind != 'resynth']
    speeds = np.random.default_rng(0).choice(SPEEDS, len(df))
    with ProcessPoolExecutor(workers, get_context('fork')) as pool:
        made = list(tqdm(pool.map(revoiced, df.audio, speeds, chunksize=8), total=len(df)))
    rows = [shard_row(row, m) for row, m in zip(df.itertuples(), made) if m]
    FOLDER.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), FOLDER/'revoiced.parquet')
    return f'{len(rows)} clips, {sum(r["seconds"] for r in rows)/3600:.2f} hours'


HELD_OUT = {  # sources that are for validation only
    ('de', 'emodb'), ('de', 'unknown-horizons-voice'), ('de', 'larynx'),
    ('en', 'speechbot-gt'), ('en', 'fsdd'),
    ('fr', 'artikulate'), ('fr', 'childsplay'), ('it', 'voxforge-rhasspy'), ('it', 'larynx'),
    ('none', 'snap-sounds'), ('none', 'ubports-ringtones')}
OTHERS_HELD_OUT = 'artikulate', 'cv-rhasspy', 'tuxpaint-stamps'  # of languages besides the five


def held_out(df):
    "(clips,), bool: whole sources, two actors of EMOVO, a voice of SwissDial, a quarter of VoxLingua107"
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
    df, folder = clips(config=config), Path(read_config(config).splits)
    names = df.audio.map(lambda a: a if isinstance(a, str) else hashlib.md5(a).hexdigest())
    df, valid = df.assign(clip=names).drop(columns='audio'), held_out(df)
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in dict(train=df[~valid], valid=df[valid], test=df[:0]).items():
        rows.to_csv(folder/f'{part}.csv', index=False)
    return df.assign(valid=valid).groupby(['valid', 'kind']).seconds.agg(['size', 'sum'])


def train(run=None, start=None, start_share=.75, **changes):
    "Train, or resume a run; `start`: a file of `ship` to begin with; keys of the config can be changed"
    config = read_config(f'{run}/config.yml' if run else CONFIG, **changes)
    if not (Path(config.splits)/'train.csv').exists(): print(split())
    untouched = build_model(config)
    model, clips = copy.deepcopy(untouched), read_split(config)[1]
    if start:
        new = load_changes(start, config.pretrained_encoder_path).state_dict()
        model.load_state_dict(average_weights(untouched.state_dict(), new, start_share))
    return str(training.train(config, run, model, loss=default_loss(config, untouched, clips)))


def in_room(wav, rng, noises):
    "A long room, and held-out noise at 14 dB"
    t = np.arange(int(.9*SAMPLE_RATE))/SAMPLE_RATE
    room = rng.standard_normal(len(t))*np.exp(-6.9*t/.9)*.08
    room[0] = 1
    wav = signal.oaconvolve(wav, room)[:len(wav)]
    noise = np.resize(noises[rng.integers(len(noises))], len(wav))
    return wav + noise*wav.std()/(noise.std() + 1e-6)*.2


def in_vorbis(wav, rng, noises):
    "A second vocoder, and Vorbis at its lowest quality"
    wav, f = vocode(wav, rng), io.BytesIO()
    sf.write(f, wav, SAMPLE_RATE, format='OGG', subtype='VORBIS', compression_level=1.)
    return load_audio(f.getvalue())


def in_mulaw(wav, rng, noises):
    "A telephone line: 8 kHz, µ-law"
    narrow = soxr.resample(wav, SAMPLE_RATE, 8_000)
    sf.write(f := io.BytesIO(), narrow/(np.abs(narrow).max() + 1e-9)*.9, 8_000, format='WAV', subtype='ULAW')
    return load_audio(f.getvalue())


CHANNELS = dict(room=in_room, vorbis=in_vorbis, mulaw=in_mulaw)  # that no training clip went through


def middle(wav, seconds):
    n = int(seconds*SAMPLE_RATE)
    start = max(0, len(wav) - n)//2
    return wav[start:start + n]


def validation_clips(config, n=40):
    "(waves, table): whole clips, their middle 3 s and 1 s, and vocoded ones through CHANNELS"
    df = clips(config=config)
    valid = fixed_split(df, read_config(config).splits)['valid']
    noises = [middle(load_audio(a), 10) for a in valid.audio[valid.language == 'none']]
    wavs, rows = [], []

    def add(wav, row, cut):
        wavs.append(np.asarray(wav, 'float32'))
        rows.append((row.language, row.source, row.kind, cut))
    for i, row in enumerate(valid.iloc[at_most(valid, n)].itertuples()):
        wav = load_audio(row.audio)
        add(middle(wav, 10), row, 'whole')
        if row.source == 'voxlingua107-dev':
            for seconds in (3, 1):
                add(middle(wav, seconds), row, f'{seconds} s')
        if row.kind == 'resynth' and row.language in ('de', 'gsw'):
            rng = np.random.default_rng(i)
            channel = list(CHANNELS)[i % 3]
            add(CHANNELS[channel](middle(wav, 10), rng, noises), row, channel)
    return wavs, pd.DataFrame(rows, columns='language source kind cut'.split())


def logits_of(model, wavs, batch=8):
    "(clips, labels), in bfloat16, clips of like length together"
    out, net = np.zeros((len(wavs), model.config.num_labels), 'float32'), WaveClassifier(model.eval())
    order = np.argsort([len(w) for w in wavs])
    with torch.inference_mode(), torch.autocast('cpu', torch.bfloat16):
        for some in np.split(order, range(batch, len(order), batch)):
            padded = collate([dict(wav=wavs[i], label=0) for i in some])
            out[some] = net(padded['wavs'], padded['lengths'])[0].float().numpy()
    return out


def scores(logits, table, labels):
    "Accuracy, false alarms and negative log-likelihood (NLL) on validation clips; `nll` chooses"
    logp = log_softmax(logits.astype('float64'), 1)
    number = {l: i for i, l in enumerate(labels)}
    truth = np.array([number.get(l, -1) for l in table.language])
    table = table.assign(guess=[labels[i] for i in logp.argmax(1)], nll=-logp[np.arange(len(truth)), truth])
    table = table.assign(right=table.guess == table.language,
                         margin=logp[:, number['gsw']] - logp[:, number['de']])
    language, human = table.language, table.kind == 'human'
    whole = table.cut == 'whole'
    vox, cross = table.source == 'voxlingua107-dev', table.cut.isin(list(CHANNELS))
    four, gsw = language.isin(['en', 'it', 'fr', 'de']), language == 'gsw'
    german, none = language == 'de', language == 'none'
    other = (truth >= 0) & ~four & ~gsw & ~none
    macro = lambda rows, column: float(rows.groupby(['language', 'source'])[column].mean().mean())
    found = {}
    for cut in ('whole', '3 s', '1 s'):
        found[f'voxlingua {cut}'] = table.right[vox & four & human & (table.cut == cut)].mean()
    found |= dict(human=macro(table[four & whole & human & ~vox], 'right'),
        others=macro(table[other & whole & human], 'right'),
        others_voxlingua=table.right[other & whole & vox & human].mean(),
        none=table.right[none & whole].mean(),
        speech_lost=int((table.guess[~none & whole & human] == 'none').sum()))
    for name, rows in dict(gsw=whole, **{c: table.cut == c for c in CHANNELS}).items():
        found[name] = table.right[gsw & rows].mean()
        found[f'{name}: de as gsw'] = (table.guess[german & rows & (table.kind == 'resynth')] == 'gsw').mean()
    people = german & whole & human
    found |= {'human de as gsw': (table.guess[people] == 'gsw').mean(),
              'gsw at 1 %': (table.margin[gsw & cross] > table.margin[people].quantile(.99)).mean()}
    nll = dict(four=macro(table[four & whole & human], 'nll'),
               others=macro(table[other & whole & human], 'nll'),
               dialect=macro(table[cross], 'nll'), none=macro(table[none & whole], 'nll'))
    found |= {f'nll {k}': v for k, v in nll.items()}
    return {k: round(float(v), 4) for k, v in (found | dict(nll=np.mean(list(nll.values())))).items()}


def calibrated(logits, table, labels):
    "Logits divided by the temperature that is fitted on whole clips, as `export` does"
    whole = ((table.cut == 'whole') & table.language.isin(labels)).values
    truth = [labels.index(l) for l in table.language[whole]]
    return logits/fit_temperature(logits[whole], truth)


def fit_offsets(logits, table, labels, mistaken=.02):
    """What is added to the rows of the network: to those of the five languages, what minimises the NLL of
    the four and of the others; to Swiss German, so much that few of people's German clips are called so"""
    out, five = np.zeros(len(labels)), [labels.index(l) for l in CANDIDATES]
    row = labels.index('gsw')

    def cost(offset):
        moved = logits.copy()
        moved[:, five] += offset
        found = scores(calibrated(moved, table, labels), table, labels)
        return found['nll four'] + found['nll others']
    out[five] = minimize_scalar(cost, bounds=(-1, 4), method='bounded', options=dict(maxiter=12)).x
    people = ((table.language == 'de') & (table.kind == 'human') & (table.cut != '1 s')).values
    moved = logits[people] + out
    ahead = moved[:, row] - np.delete(moved, row, 1).max(1)
    out[row] -= np.quantile(ahead, 1 - mistaken)
    return out.astype('float32')


def logits_at(run, step, share, model, old, wavs):
    "Logits of the validation clips at a checkpoint and a share of its weights; computed once"
    path = run/f'valid-{step}-{share}.npy'
    if not path.exists():
        new = load_file(run/'checkpoints'/f'checkpoint-{step}'/'model.safetensors') if share else old
        model.load_state_dict(average_weights(old, new, share))
        np.save(path, logits_of(model, wavs))
    return np.load(path)


def choose(run, shares=(.4, .55, .7, .85, 1.), first_share=.7):
    "Keep the checkpoint and the share of its weights with the lowest NLL; the rest are untouched ones"
    run, config = Path(run), read_config(Path(run)/'config.yml')
    untouched, (wavs, table) = build_model(config), validation_clips(run/'config.yml')
    model, old = copy.deepcopy(untouched), untouched.state_dict()
    found, offsets = {}, {}

    def evaluate(step, share):
        logits = logits_at(run, step, share, model, old, wavs)
        offsets[step, share] = fit_offsets(logits, table, config.labels)
        moved = calibrated(logits + offsets[step, share], table, config.labels)
        found[step, share] = scores(moved, table, config.labels)
        print(step, share, found[step, share], flush=True)
    steps = sorted(int(p.name.split('-')[1]) for p in (run/'checkpoints').glob('checkpoint-*'))
    for step in steps: evaluate(step, first_share)
    best = min(steps, key=lambda s: found[s, first_share]['nll'])
    for share in sorted({0., *shares} - {first_share}, reverse=True):
        evaluate(best, share)
    return keep(run, config, untouched, table, offsets, found)


def keep(run, config, untouched, table, offsets, found):
    "Write the best network into the run, its logits for thresholds, and the table"
    step, share = best = min(found, key=lambda k: found[k]['nll'])
    new = load_file(run/'checkpoints'/f'checkpoint-{step}'/'model.safetensors')
    untouched.load_state_dict(average_weights(untouched.state_dict(), new, share))
    untouched.head.bias.data += torch.from_numpy(offsets[best])
    untouched.save_pretrained(run/'model')
    whole = ((table.cut == 'whole') & table.language.isin(config.labels)).values
    labels = [config.labels.index(l) for l in table.language[whole]]
    logits = np.load(run/f'valid-{step}-{share}.npy') + offsets[best]
    np.savez(run/'valid.npz', logits=logits[whole], labels=labels, sources=np.array(table.source[whole], 'U'))
    rows = [dict(step=step, share=share, **s) for (step, share), s in found.items()]
    made = about(' '.join(['python', *sys.argv]), n=len(table), seed=config.seed)
    added = {l: round(float(offsets[best][config.labels.index(l)]), 3) for l in CANDIDATES}
    save_results(f'{RESULTS}/choice.json', made, step=step, share=share, offsets=added, tried=rows)
    return dict(step=step, share=share, offsets=added, **found[best])


def export(run):
    "Write RUN/model.onnx with temperature and thresholds of the validation clips"
    return str(export_run(run, CANDIDATES, license='CC BY-NC 4.0'))


def log_probabilities(session, wav):
    "(labels,), of one clip by an ONNX file"
    feed = dict(wavs=wav[None], lengths=np.array([len(wav)]))
    return log_softmax(session.run(['logits'], feed)[0][0])


def compare_files(exact, shipped, wavs, labels, rounds=20):
    "Agreement and loss of two ONNX files on clips, and their times in turns on one thread"
    sessions = [LanguageClassifier(path).session for path in (exact, shipped)]
    def rows(session):
        return np.array([log_probabilities(session, wav) for wav in wavs])

    p, q = map(rows, sessions)
    clip = next(w for w in wavs if len(w) >= 6*SAMPLE_RATE)[:6*SAMPLE_RATE]
    works = {k: partial(log_probabilities, s, clip) for k, s in zip(('float32', 'int8'), sessions)}
    times = time_in_turns(works, rounds)
    answers = p.argmax(1), q.argmax(1)
    return dict(agreement=round(float((answers[0] == answers[1]).mean()), 4),
                right=[int((a == labels).sum()) for a in answers],
                f1=[round(macro_metrics(x, labels)['f1'], 4) for x in (p, q)],
                moved=round(float(np.abs(np.exp(p) - np.exp(q)).max()), 4), times=times,
                ratio=round(1/times['int8']['speedup'], 3),
                bytes=[Path(path).stat().st_size for path in (exact, shipped)])


def amounts(config, before=()):
    "Hours of the training clips by group of languages; `before`: steps of earlier runs"
    df = pd.read_csv(Path(config.splits)/'train.csv', low_memory=False)
    human = df.kind.eq('human') & df.language.ne('none')
    name = df.language.where(df.language.isin([*CANDIDATES, 'none']), 'other')
    table = {}
    for language, part in df.groupby(name):
        people = part[part.kind.eq('human')]
        table[language] = dict(clips=len(part), hours=round(part.seconds.sum()/3600, 1),
            human_hours=round(people.seconds.sum()/3600, 1), sources=int(part.source.nunique()))
    hours = df.seconds.sum()/3600, df.seconds[human].sum()/3600
    steps = {k: getattr(config, k) for k in ('batch_seconds', 'learning_rate')}
    steps['steps'] = [*before, config.steps]
    return dict(hours=round(hours[0], 1), human_hours=round(hours[1], 1), by_language=table, **steps)


def ship(run, n=300, looked_at=64, before=()):
    "Quantize RUN/model.onnx into the package, keep the float weights, and compare both on validation clips"
    run, config = Path(run), read_config(Path(run)/'config.yml')
    wavs, table = validation_clips(run/'config.yml')
    whole = np.flatnonzero((table.cut == 'whole') & table.language.isin(config.labels))
    chosen = np.random.default_rng(0).permutation(whole)
    quantize_mixed(run/'model.onnx', SHIPPED, [wavs[i] for i in chosen[n:n + looked_at]])
    save_changes(load_run(run), config.pretrained_encoder_path, WEIGHTS)
    truth = np.array([config.labels.index(table.language[i]) for i in chosen[:n]])
    found = compare_files(run/'model.onnx', SHIPPED, [wavs[i] for i in chosen[:n]], truth)
    made = about(' '.join(['python', *sys.argv]), model=SHIPPED, n=n, seed=0, threads=1)
    save_results(f'{RESULTS}/quantization.json', made, **found)
    save_results(f'{RESULTS}/training.json', made | dict(n=None, seed=config.seed), **amounts(config, before))
    return found


def restore(folder, whisper='workspace/whisper-base'):
    "The network of the run again, from the weights that are kept; FOLDER/model"
    load_changes(WEIGHTS, whisper).save_pretrained(Path(folder)/'model')
    return f'{folder}/model'


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    fire.Fire(dict(revoice=revoice, split=split, train=train, choose=choose, export=export,
                   ship=ship, restore=restore))
