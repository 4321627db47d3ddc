"""Crops of training clips, augmented once, with the answers of a teacher to the same samples.

`tiny.py` says how they are used. A shard is a folder: waves (`waves.i16` and `offsets.npy`, as of
`cache_waves`), the clips that they are of (`index.json`), log-probabilities of the teacher over its labels
in half floats (`teacher.npy`), and for some copies the states of its encoder (`states.f16`), 25 a second, on
their first principal components.
"""
import hashlib, json, shutil, time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from glob import glob
from multiprocessing import get_context
from pathlib import Path
import numpy as np, onnx, pandas as pd, torch
from base import held_out, middle
from scipy.special import log_softmax
from spoken_lang.augmentation import augment
from spoken_lang.batches import collate
from spoken_lang.config import read_config
from spoken_lang.core import MIN_SECONDS, SAMPLE_RATE, trim_silence
from spoken_lang.finetuning import at_most, cache_waves, OnTheFlyBatches, WaveMap
from spoken_lang.inference import LanguageClassifier
from spoken_lang.manifest import read_clips
from spoken_lang.splits import clip_ids, write_split
from spoken_lang.training_sets import read_split
from torch.utils.data import Dataset

CONFIG, TEACHER = 'nbs/results/tiny/config.yml', 'spoken_lang/models/base.onnx'
CROPS = 200  # in a shard, about
STATE_DIMENSIONS, STATE_RATE = 128, 25  # of the teacher's states that are kept; a second


def settings(**changes):
    "The config, without files that are not there"
    config = read_config(CONFIG, **changes)
    config.data = [p for p in config.data if glob(p)] or config.data
    if not (Path(config.splits)/'train.csv').exists():
        df = read_clips(config.data, config.labels, config.role, complete=False, others=True)
        valid = held_out(df)
        write_split(dict(train=df[~valid], valid=df[valid], test=df[:0]), config.splits)
    return config


class Teacher:
    "A model file, its log-probabilities, and the states of its encoder where the file has them"
    def __init__(self, path):
        self.clf = LanguageClassifier(path)
        self.labels, self.temperature = self.clf.labels, self.clf.decision.get('temperature', 1.)
        with_states = 'states' in [o.name for o in self.clf.session.get_outputs()]
        self.outputs = ['logits', 'states'] if with_states else ['logits']

    def __call__(self, wav):  # (samples,)
        "Log-probabilities (labels,), and states (frames, channels) or None"
        feed = dict(wavs=wav[None], lengths=np.array([len(wav)]))
        logits, *states = self.clf.session.run(self.outputs, feed)
        logp = log_softmax(logits[0].astype('float64')/self.temperature)
        return logp.astype('float32'), states[0][0] if states else None


def folded(logp, theirs, ours):
    "Log-probabilities (..., theirs) over a few labels: what is none of them is `other`"
    groups = [[] for _ in ours]
    for i, label in enumerate(theirs):
        groups[ours.index(label if label in ours else 'other')].append(i)
    return np.stack([np.logaddexp.reduce(logp[..., g], -1) for g in groups], -1)


def expose_states(path, target):
    "Write a Whisper file with one more output, `states`: those of the encoder after its last norm"
    graph = onnx.load(path)
    norms = [n for n in graph.graph.node if n.op_type == 'LayerNormalization']
    last = next(n for n in norms if n.input[1].endswith('encoder.layer_norm.weight'))
    same = onnx.helper.make_node('Identity', [last.output[0]], ['states'])
    graph.graph.node.append(same)
    value = onnx.helper.make_tensor_value_info('states', onnx.TensorProto.FLOAT, [None, None, None])
    graph.graph.output.append(value)
    onnx.save(graph, target)
    return target


def slower(states):
    "50 states a second to 25, the mean of two"
    n = len(states)//2*2
    return states[:n].reshape(-1, 2, states.shape[1]).mean(1)


def fit_projection(samples):
    "Mean (channels,) and principal components (channels, STATE_DIMENSIONS), of mean square 1 together"
    x = np.concatenate(samples).astype('float64')
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov((x - mean).T))
    best = vectors[:, ::-1][:, :STATE_DIMENSIONS]
    scale = np.sqrt(values[::-1][:STATE_DIMENSIONS].mean())
    return mean.astype('float32'), (best/scale).astype('float32')


def parts_of(clips):
    "About CROPS clips each"
    return np.array_split(clips, max(1, round(len(clips)/CROPS)))


class CropMaker:
    "What workers need to make shards of crops; the waves, the manifests and the settings"
    def __init__(self, config, folder):
        self.config, self.folder = config, Path(folder)
        df, self.train, self.valid = read_split(config)
        waves = WaveMap(cache_waves(df.audio, Path(config.workspace)/'cache', config.workers))
        change = augment if config.augment else None
        train = self.train.assign(kind=self.train.get('kind', 'human'))
        self.batches = OnTheFlyBatches(waves, train, config.labels, None, None, change=change)
        self.ids = dict(train=clip_ids(self.train).values, valid=clip_ids(self.valid).values)
        self.projection = None

    def crops(self, i, copy):
        "Augmented crops of a training clip, without silence: one, or up to three where it is long"
        seed = int(hashlib.md5(self.ids['train'][i].encode()).hexdigest()[:12], 16)
        for k in range(int(np.clip(round(self.train.seconds.values[i]/6), 1, 3))):
            rng = np.random.default_rng((self.config.seed, copy, seed, k))
            seconds = np.exp(rng.uniform(*np.log(self.config.crop_seconds)))
            yield trim_silence(self.batches.clip(i, rng, int(seconds*SAMPLE_RATE)))

    def held_out_crops(self, i, seconds):
        "The middle of a held-out clip, as it is"
        yield middle(trim_silence(self.batches.waves[self.valid.index[i]]), seconds)

    def jobs(self, copies):
        "(name of the shard, part of the split, copy or seconds, positions of clips)"
        valid = self.valid.assign(kind=self.valid.get('kind', 'human'))
        chosen = at_most(valid, self.config.valid_clips)
        for seconds in (6, 2):
            for n, some in enumerate(parts_of(chosen)):
                yield f'valid-{seconds}-{n:03}', 'valid', seconds, some
        parts = self.train.reset_index(drop=True).groupby('part').groups
        for copy in range(copies):
            for name, clips in parts.items():
                name = f'train-{copy}-{Path(name).stem}'
                for n, some in enumerate(parts_of(clips.values)):
                    yield f'{name}-{n:03}', 'train', copy, some

    def write(self, teacher, name, part, number, clips):
        "Write a shard; returns seconds of sound"
        make = self.crops if part == 'train' else self.held_out_crops
        shard = self.folder/name
        unfinished = shard.with_suffix('.part')
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        ids, lengths = [], []
        answers, states = [], []
        with open(unfinished/'waves.i16', 'wb') as f:
            for i in clips:
                for wav in make(i, number):
                    if len(wav) < MIN_SECONDS*SAMPLE_RATE: continue
                    samples = (wav*2**15).clip(-2**15, 2**15 - 1).astype('int16')
                    f.write(samples.tobytes())
                    answer, found = teacher(samples.astype('float32')/2**15)
                    ids.append(self.ids[part][i])
                    answers.append(answer)
                    lengths.append(len(wav))
                    states.append(self.reduced(found))
        np.save(unfinished/'offsets.npy', np.cumsum([0, *lengths]))
        index = dict(ids=ids, labels=teacher.labels, state_frames=[len(s) for s in states])
        answers = np.array(answers, 'float16').reshape(-1, len(teacher.labels))
        np.save(unfinished/'teacher.npy', answers)
        if states: np.concatenate(states).tofile(unfinished/'states.f16')
        (unfinished/'index.json').write_text(json.dumps(index))
        unfinished.rename(shard)
        return sum(lengths)/SAMPLE_RATE

    def reduced(self, states):
        "(frames/2, STATE_DIMENSIONS) float16; none where states are not kept"
        if states is None: return np.zeros((0, STATE_DIMENSIONS), 'float16')
        mean, matrix = self.projection
        return ((slower(states) - mean) @ matrix).astype('float16')


WORKER = {}  # in a worker process: its maker of crops and its teachers


def begin(maker):
    torch.set_num_threads(1)
    WORKER.update(maker=maker, teachers={})


def run_job(job, path):
    "Write one shard in a worker"
    maker, teachers = WORKER['maker'], WORKER['teachers']
    if path not in teachers:
        teachers[path] = Teacher(path)
    return maker.write(teachers[path], *job)


def state_projection(maker, path, n=150):
    "Fit the projection on crops of some training clips, once"
    kept = maker.folder/'projection.npz'
    if not kept.exists():
        teacher, samples = Teacher(path), []
        for i in np.random.default_rng(0).permutation(len(maker.train))[:n]:
            wav = next(maker.crops(i, 0))
            if len(wav) < MIN_SECONDS*SAMPLE_RATE: continue
            samples.append(slower(teacher(wav)[1]))
        mean, matrix = fit_projection(samples)
        np.savez(kept, mean=mean, matrix=matrix)
    found = np.load(kept)
    return found['mean'], found['matrix']


def teach(copies=None, workers=2, states=0, teacher=TEACHER, **changes):
    "Store crops and the teacher's answers; `states`: copies for which its states are kept"
    config = settings(**changes)
    folder = Path(config.workspace)/'crops'
    folder.mkdir(parents=True, exist_ok=True)
    maker, exposed = CropMaker(config, folder), folder/'teacher.onnx'
    if states:
        expose_states(teacher, exposed)
        maker.projection = state_projection(maker, exposed)
    jobs = list(maker.jobs(copies or config.copies))
    left = [j for j in jobs if not (folder/j[0]).exists()]
    print(f'{len(left)} of {len(jobs)} shards are left', flush=True)
    begun = told = time.time()
    done = seconds = 0
    with ProcessPoolExecutor(workers, get_context('fork'), begin, (maker,)) as pool:
        def path_for(job):
            return exposed if job[1] == 'train' and job[2] < states else teacher
        waiting = {pool.submit(run_job, job, path_for(job)) for job in left}
        while waiting:
            finished, waiting = wait(waiting, 60, FIRST_COMPLETED)
            done += len(finished)
            seconds += sum(f.result() for f in finished)
            if time.time() - told < 60: continue
            told, passed = time.time(), time.time() - begun
            to_go = passed/max(1, done)*len(waiting)/60
            print(f'{done} of {len(left)} shards, {seconds/3600:.2f} h of sound, '
                  f'{seconds/passed:.1f} s a second, {to_go:.0f} minutes to go', flush=True)
    minutes = (time.time() - begun)/60
    return f'{len(left)} shards, {seconds/3600:.2f} h of sound in {minutes:.1f} minutes'


def throughput(*paths, n=24, batch=8, **changes):
    "Seconds of sound a second of one thread, by crop and in batches; agreement with the first file"
    config, rows = settings(**changes), []
    maker = CropMaker(config, config.workspace)
    chosen = np.random.default_rng(0).permutation(len(maker.train))[:n]
    begun = time.process_time()
    wavs = [w for i in chosen for w in maker.crops(i, 0) if len(w) >= MIN_SECONDS*SAMPLE_RATE]
    seconds = sum(map(len, wavs))/SAMPLE_RATE
    made = time.process_time() - begun
    wavs, answers = sorted(wavs, key=len), []
    for path in paths or [TEACHER]:
        teacher = Teacher(path)
        teacher(wavs[0])
        begun = time.process_time()
        answers.append(np.array([teacher(w)[0] for w in wavs]))
        alone = time.process_time() - begun
        begun = time.process_time()
        for some in (wavs[i:i + batch] for i in range(0, len(wavs), batch)):
            padded = collate([dict(wav=w, label=0) for w in some])
            feed = {k: padded[k].numpy() for k in ('wavs', 'lengths')}
            teacher.clf.session.run(['logits'], feed)
        together = time.process_time() - begun
        same = (answers[-1].argmax(1) == answers[0].argmax(1)).mean()
        rows.append(dict(path=str(path), alone=seconds/alone, batches=seconds/together, same=same))
    print(f'{len(wavs)} crops, {seconds:.0f} s; making them: {seconds/made:.1f} s a second')
    return pd.DataFrame(rows).round(2).to_string()


def stored_shards(folder, part='*'):
    "The finished shards of a part of the split; `ValueError` where there is none"
    found = [f for f in sorted(Path(folder).glob(f'{part}-*/')) if f.suffix != '.part']
    if not found:
        raise ValueError(f'{folder}: holds no crops. Make them: python tools/model/tiny.py teach')
    return found


class StoredCrops(Dataset):
    "Stored crops of the clips of a manifest: wave, label, the teacher's answers and states"
    def __init__(self, folders, manifest, labels):
        where = {name: i for i, name in enumerate(clip_ids(manifest))}
        self.folders = [Path(f) for f in folders]
        self.waves = [WaveMap(f) for f in self.folders]
        self.index = [json.loads((f/'index.json').read_text()) for f in self.folders]
        whole = [np.load(f/'teacher.npy') for f in self.folders]
        answers = [folded(logp.astype('float32'), index['labels'], labels)
                   for logp, index in zip(whole, self.index)]
        self.rows = [(s, k) for s, index in enumerate(self.index)
                     for k, name in enumerate(index['ids']) if name in where]
        self.clips = np.array([where[self.index[s]['ids'][k]] for s, k in self.rows])
        self.samples = np.array([np.diff(self.waves[s].offsets[k:k + 2])[0] for s, k in self.rows])
        self.answers = np.stack([answers[s][k] for s, k in self.rows])
        self.all_answers = np.stack([whole[s][k] for s, k in self.rows])
        number = {l: i for i, l in enumerate(labels)}
        self.labels = np.array([number.get(l, -100) for l in manifest.language])[self.clips]

    def __len__(self): return len(self.rows)

    def __getitem__(self, i):
        s, k = self.rows[i]
        return dict(wav=self.waves[s][k], label=int(self.labels[i]))

    def states(self, i):
        "(frames, STATE_DIMENSIONS), float16; no frames where none are kept"
        s, k = self.rows[i]
        frames = self.index[s]['state_frames']
        n, before = frames[k], sum(frames[:k])
        if not n: return np.zeros((0, STATE_DIMENSIONS), 'float16')
        start = 2*before*STATE_DIMENSIONS
        found = np.fromfile(self.folders[s]/'states.f16', 'float16', n*STATE_DIMENSIONS, offset=start)
        return found.reshape(n, STATE_DIMENSIONS)
