"""How the weights of `tiny` are made: a small network, taught by `base` on clips that are augmented once.

    1. python tools/model/base.py revoice ../shared/tools/revoice, and steps 2 and 4 there, where wanted
    2. python tools/model/tiny.py teach [--copies 4] [--states 2]
    3. python tools/model/tiny.py compare
    4. python tools/model/tiny.py train NAME [--states_weight 1] [--steps N ...]
    5. python tools/model/tiny.py train NAME --control [--steps N ...]
    6. python tools/model/tiny.py export RUN
    7. python tools/model/tiny.py ship RUN

2 writes crops of training clips: the features that the small network takes, and the answer of the teacher
to the same samples. It resumes where it was stopped, and more copies can be added. `--states N` also
keeps the states of the teacher's encoder for the first N copies.
3 trains the networks of small_networks.py alike and writes nbs/results/tiny/networks.json; `cost` and
`check` measure a step of each, and whether it can be exported and ignores padding.
4 trains one of them; it prints the folder of the run, and resumes with the same command and `--run RUN`.
5 trains as long on the labels alone. 6 fits offsets, temperature and threshold on validation clips,
and writes RUN/model.onnx. 7 takes the smallest of some file formats that keeps the labels, and writes
spoken_lang/models/tiny.onnx. `throughput` measures the teacher.

All read nbs/results/tiny/taught.yml, of which any key can be set by `--key value`.
"""
import hashlib, json, shutil, sys, time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from functools import partial
from glob import glob
from multiprocessing import get_context
from pathlib import Path
import fire, numpy as np, onnx, pandas as pd, torch
from base import amounts, calibrated, CANDIDATES, compare_files, fit_offsets, held_out
from base import middle, scores, validation_clips
from scipy.special import log_softmax
from small_networks import network, NETWORKS
from spoken_lang import training
from spoken_lang.augmentation import augment
from spoken_lang.batches import append_features, BatchCollator, collate, FeatureDataset
from spoken_lang.callbacks import distillation_loss
from spoken_lang.config import read_config
from spoken_lang.core import MIN_SECONDS, SAMPLE_RATE, trim_silence
from spoken_lang.evaluation import macro_metrics
from spoken_lang.features import front_end
from spoken_lang.finetuning import at_most, cache_waves, draw_weights, first_item, mask_unmatched
from spoken_lang.finetuning import OnTheFlyBatches, WaveMap
from spoken_lang.inference import LanguageClassifier
from spoken_lang.manifest import read_clips
from spoken_lang.model import WaveClassifier
from spoken_lang.onnx_export import export_graph, export_run, load_run, logits_function, verify_onnx
from spoken_lang.quantization import quantize
from spoken_lang.results import about, save_results
from spoken_lang.splits import clip_ids, write_split
from spoken_lang.training_sets import read_split
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

RESULTS = 'nbs/results/tiny'
CONFIG = f'{RESULTS}/taught.yml'
SHIPPED, TEACHER = 'spoken_lang/models/tiny.onnx', 'spoken_lang/models/base.onnx'
CROPS = 200  # in a shard
STATE_DIMENSIONS, STATE_RATE = 128, 25  # of the teacher's states that are kept; a second


def settings(**changes):
    "The config, without files that are not there"
    config = read_config(CONFIG, **changes)
    config.data = [p for p in config.data if glob(p)]
    if not (Path(config.splits)/'train.csv').exists():
        df = read_clips(config.data, config.labels, config.role, complete=False, others=True)
        valid = held_out(df)
        write_split(dict(train=df[~valid], valid=df[valid], test=df[:0]), config.splits)
    return config


# ---- teach ----------------------------------------------------------------------------------------------

class Teacher:
    "A model file whose answers are folded to a few labels: what is none of them is `other`"
    def __init__(self, path, labels):
        self.clf = LanguageClassifier(path)
        row = {l: i for i, l in enumerate(labels)}
        self.rows = np.array([row.get(l, row['other']) for l in self.clf.labels])
        self.n, self.temperature = len(labels), self.clf.decision.get('temperature', 1.)
        with_states = 'states' in [o.name for o in self.clf.session.get_outputs()]
        self.outputs = ['logits', 'states'] if with_states else ['logits']

    def __call__(self, wav):  # (samples,) → log-probabilities (labels,), states (frames, channels) or None
        feed = dict(wavs=wav[None], lengths=np.array([len(wav)]))
        logits, *states = self.clf.session.run(self.outputs, feed)
        logp = log_softmax(logits[0].astype('float64')/self.temperature)
        folded = [np.logaddexp.reduce(logp[self.rows == k]) for k in range(self.n)]
        return np.array(folded, 'float32'), states[0][0] if states else None


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
    "Mean (channels,) and matrix (channels, STATE_DIMENSIONS): principal components, mean square 1 together"
    x = np.concatenate(samples).astype('float64')
    mean = x.mean(0)
    values, vectors = np.linalg.eigh(np.cov((x - mean).T))
    best = vectors[:, ::-1][:, :STATE_DIMENSIONS]
    scale = np.sqrt(values[::-1][:STATE_DIMENSIONS].mean())
    return mean.astype('float32'), (best/scale).astype('float32')


def parts_of(clips):
    "About CROPS clips each"
    return np.array_split(clips, max(1, round(len(clips)/CROPS)))


class Lessons:
    "What workers need to make shards of crops; the waves, the manifests and the settings"
    def __init__(self, config, teacher, folder):
        self.config, self.teacher, self.folder = config, teacher, Path(folder)
        df, self.train, self.valid = read_split(config)
        waves = WaveMap(cache_waves(df.audio, Path(config.workspace)/'cache', config.workers))
        self.mel = front_end(network('tdnn', config.labels).config)
        change = augment if config.augment else None
        self.batches = OnTheFlyBatches(waves, self.train, config.labels, self.mel, None, change=change)
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
        chosen = at_most(self.valid.assign(kind=self.valid.get('kind', 'human')), self.config.valid_clips)
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
        index = dict(offsets=[], frames=[], labels=[], clips=[], bins=0)
        ids, answers, states = [], [], []
        with open(unfinished/'features.f16', 'wb') as f:
            for i in clips:
                for wav in make(i, number):
                    if len(wav) < MIN_SECONDS*SAMPLE_RATE: continue
                    append_features(f, index, self.mel.fbank, [(int(i), dict(wav=wav, label=0))])
                    answer, found = teacher(wav)
                    ids.append(self.ids[part][i])
                    answers.append(answer)
                    states.append(self.reduced(found))
        index |= dict(ids=ids, state_frames=[len(s) for s in states])
        np.save(unfinished/'teacher.npy', np.array(answers, 'float32').reshape(-1, teacher.n))
        if states: np.concatenate(states).tofile(unfinished/'states.f16')
        (unfinished/'index.json').write_text(json.dumps(index))
        unfinished.rename(shard)
        return sum(index['frames'])/100

    def reduced(self, states):
        "(frames/2, STATE_DIMENSIONS) float16; none where states are not kept"
        if states is None: return np.zeros((0, STATE_DIMENSIONS), 'float16')
        mean, matrix = self.projection
        return ((slower(states) - mean) @ matrix).astype('float16')


WORKER = {}  # in a worker process: its lessons and its teachers


def begin(lessons):
    torch.set_num_threads(1)
    WORKER.update(lessons=lessons, teachers={})


def run_job(job, path):
    "Write one shard in a worker"
    lessons, teachers = WORKER['lessons'], WORKER['teachers']
    if path not in teachers: teachers[path] = Teacher(path, lessons.config.labels)
    return lessons.write(teachers[path], *job)


def state_projection(lessons, path, n=150):
    "Fit the projection on crops of some training clips, once"
    kept = lessons.folder/'projection.npz'
    if not kept.exists():
        teacher, samples = Teacher(path, lessons.config.labels), []
        for i in np.random.default_rng(0).permutation(len(lessons.train))[:n]:
            wav = next(lessons.crops(i, 0))
            if len(wav) >= MIN_SECONDS*SAMPLE_RATE: samples.append(slower(teacher(wav)[1]))
        mean, matrix = fit_projection(samples)
        np.savez(kept, mean=mean, matrix=matrix)
    found = np.load(kept)
    return found['mean'], found['matrix']


def teach(copies=None, workers=2, states=0, teacher=TEACHER, **changes):
    "Store features and the teacher's answers of augmented crops; `states`: copies whose states are kept"
    config = settings(**changes)
    folder = Path(config.workspace)/'lessons'
    folder.mkdir(parents=True, exist_ok=True)
    lessons, exposed = Lessons(config, teacher, folder), folder/'teacher.onnx'
    if states:
        expose_states(teacher, exposed)
        lessons.projection = state_projection(lessons, exposed)
    jobs = list(lessons.jobs(copies or config.copies))
    left = [j for j in jobs if not (folder/j[0]).exists()]
    print(f'{len(left)} of {len(jobs)} shards are left', flush=True)
    begun = told = time.time()
    done = seconds = 0
    with ProcessPoolExecutor(workers, get_context('fork'), begin, (lessons,)) as pool:
        paths = [exposed if j[1] == 'train' and j[2] < states else teacher for j in left]
        waiting = {pool.submit(run_job, j, p) for j, p in zip(left, paths)}
        while waiting:
            finished, waiting = wait(waiting, 60, FIRST_COMPLETED)
            done += len(finished)
            seconds += sum(f.result() for f in finished)
            if time.time() - told < 60: continue
            told, passed = time.time(), time.time() - begun
            to_go = passed/max(1, done)*len(waiting)/60
            print(f'{done} of {len(left)} shards, {seconds/3600:.2f} h of sound, '
                  f'{seconds/passed:.1f} s a second, {to_go:.0f} minutes to go', flush=True)
    return f'{len(left)} shards, {seconds/3600:.2f} h of sound in {(time.time() - begun)/60:.1f} minutes'


def throughput(*paths, n=24, batch=8, **changes):
    "Seconds of sound a second on one thread, one crop at a time and in batches; agreement with the first file"
    config, rows = settings(**changes), []
    lessons = Lessons(config, TEACHER, config.workspace)
    chosen = np.random.default_rng(0).permutation(len(lessons.train))[:n]
    begun = time.process_time()
    wavs = [w for i in chosen for w in lessons.crops(i, 0) if len(w) >= MIN_SECONDS*SAMPLE_RATE]
    seconds = sum(map(len, wavs))/SAMPLE_RATE
    made = time.process_time() - begun
    wavs, answers = sorted(wavs, key=len), []
    for path in paths or [TEACHER]:
        teacher = Teacher(path, config.labels)
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


# ---- train ----------------------------------------------------------------------------------------------

class TaughtCrops(Dataset):
    "Stored crops of the clips of a manifest: features, label, the teacher's answer and states"
    def __init__(self, folders, manifest, labels):
        where = {name: i for i, name in enumerate(clip_ids(manifest))}
        self.shards = [FeatureDataset(f) for f in folders]
        self.answers = [np.load(Path(f)/'teacher.npy') for f in folders]
        self.folders, rows, clips, frames = list(folders), [], [], []
        for s, shard in enumerate(self.shards):
            for k, name in enumerate(shard.ids):
                if name not in where: continue
                rows.append((s, k))
                clips.append(where[name])
                frames.append(shard.frames[k])
        self.rows, self.clips, self.frames = rows, np.array(clips), np.array(frames)
        number = {l: i for i, l in enumerate(labels)}
        self.labels = np.array([number.get(l, -100) for l in manifest.language])[self.clips]

    def __len__(self): return len(self.rows)

    def __getitem__(self, i):
        s, k = self.rows[i]
        return dict(features=self.shards[s][k]['features'], label=int(self.labels[i]))

    def states(self, i):
        "(frames, STATE_DIMENSIONS), float16; no frames where none are kept"
        s, k = self.rows[i]
        before = int(self.shards[s].state_frames[:k].sum())
        n, size = int(self.shards[s].state_frames[k]), STATE_DIMENSIONS
        if not n: return np.zeros((0, size), 'float16')
        return np.fromfile(self.folders[s]/'states.f16', 'float16', n*size, offset=2*before*size).reshape(n, size)


class TaughtBatches(Dataset):
    "Batches by step, of crops that are about as long, from (seed, step) alone"
    def __init__(self, crops, weights, matched, collator, config, steps, states, spread=.06):
        self.crops, self.matched, self.collator = crops, torch.from_numpy(matched), collator
        self.answers = np.array([crops.answers[s][k] for s, k in crops.rows])
        self.order = np.argsort(crops.frames, kind='stable')
        self.sums = np.cumsum(weights[self.order])
        self.size, self.seed, self.steps = config.batch_size, config.seed, steps
        self.with_states, self.spread = states, spread  # of all draws, by length, in a batch

    def __len__(self): return self.steps

    def __getitem__(self, step):
        rng = np.random.default_rng((self.seed, step))
        at = rng.uniform(0, 1 - self.spread) + self.spread*rng.random(self.size)
        draws = self.order[np.searchsorted(self.sums, at*self.sums[-1]).clip(max=len(self.order) - 1)]
        clips = [self.crops[i] for i in draws]
        clips[0]['seed'] = int(rng.integers(2**31))
        more = dict(teacher=torch.from_numpy(self.answers[draws]), matched=self.matched[draws])
        if self.with_states:
            found = [torch.from_numpy(self.crops.states(i)).float() for i in draws]
            more |= dict(state_frames=torch.tensor([len(s) for s in found]),
                         states=torch.nn.utils.rnn.pad_sequence(found, batch_first=True))
        return self.collator(clips) | more


def taught_sets(config, df, train, valid, mel, folder, states=False):
    "Data sets, sampler and collators from the crops that `teach` stored"
    shards = {part: sorted(folder.glob(f'{part}-*/')) for part in ('train', 'valid')}
    shards = {part: [f for f in found if f.suffix != '.part'] for part, found in shards.items()}
    if not all(shards.values()):
        raise ValueError(f'{folder}: holds no crops. Make them first: python tools/model/tiny.py teach')
    crops = TaughtCrops(shards['train'], train, config.labels)
    train = train.assign(kind=train.get('kind', 'human'))
    weights = draw_weights(train, config.group_shares, config.vocoded_shares, config.source_shares)
    weights = weights[crops.clips]/np.bincount(crops.clips, minlength=len(train))[crops.clips]
    matched = (train.kind.eq('resynth') | train.source.isin(config.matched_sources)).values[crops.clips]
    steps = config.steps*config.accumulate
    collator = BatchCollator(mel, change=config.augment)
    batches = TaughtBatches(crops, weights, matched, collator, config, steps, states)
    return dict(train_dataset=batches, draws=range(steps), data_collator=first_item,
                eval_dataset=TaughtCrops(shards['valid'], valid, config.labels),
                eval_collator=BatchCollator(mel))


class StateGuide(TrainerCallback):
    "A linear layer from the encoder's frames to the teacher's states, whose loss fades to 0"
    def __init__(self, net, weight, steps):
        self.weight, self.steps, self.step = weight, steps, 0
        net.guide = torch.nn.Linear(net.config.hidden_size, STATE_DIMENSIONS)
        net.encoder.register_forward_hook(self.keep)

    def keep(self, module, inputs, output): self.frames, self.mask = output
    def on_step_begin(self, args, state, control, **kwargs): self.step = state.global_step

    def loss(self, model, batch):
        "Mean square of what is not predicted; 1 for a constant"
        share = self.weight*max(0., 1 - self.step/self.steps)
        if not share: return 0.
        rate = 100*self.frames.shape[2]/batch['input_features'].shape[1]
        x = F.avg_pool1d(self.frames*self.mask, max(1, round(rate/STATE_RATE)))
        guess = model.guide(x.transpose(1, 2))
        n = min(guess.shape[1], batch['states'].shape[1])
        there = torch.arange(n)[None] < batch['state_frames'][:, None]
        error = (guess[:, :n] - batch['states'][:, :n]).square().mean(2)
        return share*(error*there).sum()/there.sum().clamp(min=1)


def taught_loss(config, share, temperature, guide=None):
    "The teacher's answers, the labels, and the teacher's states where there is a guide"
    distil = distillation_loss(share=share, temperature=temperature)
    rows = [config.labels.index(l) for l in config.matched_labels]

    def loss(model, batch, output):
        logits = mask_unmatched(output.logits, batch['matched'], batch['labels'], rows)
        right = F.cross_entropy(logits, batch['labels'])
        both = distil(model, batch, SequenceClassifierOutput(loss=right, logits=output.logits))
        return both + guide.loss(model, batch) if guide else both
    return loss


def train(name=None, run=None, control=False, share=.8, temperature=2., states_weight=0.,
          states_share=.4, folder=None, **changes):
    "Train a network of `NETWORKS`, or resume a run; `control`: on labels alone"
    config = settings(**changes)
    lessons = Path(config.workspace)/'lessons'
    config.workspace = f'{config.workspace}/runs/{folder or name}{"-control" if control else ""}'
    config.model = dict(encoder=name)
    torch.manual_seed(config.seed)
    net, guide = network(name, config.labels), None
    if states_weight and not control: guide = StateGuide(net, states_weight, states_share*config.steps)
    loss = taught_loss(config, 0. if control else share, temperature, guide)
    prepare = partial(taught_sets, folder=lessons, states=guide is not None)
    return str(training.train(config, run, net, [guide] if guide else [], loss, prepare))


# ---- compare --------------------------------------------------------------------------------------------

def run_of(folder):
    "(the newest run in a folder, whether it is finished); (None, False) where there is none"
    runs = sorted(Path(folder).glob('20*/'))
    if not runs: return None, False
    return runs[-1], (runs[-1]/'metrics.json').exists()


def step_times(name, labels, threads, batch=64, seconds=3., steps=3):
    "Seconds a step of training takes, the shortest of some"
    torch.set_num_threads(threads)
    net = network(name, labels).train()
    optimizer, times = torch.optim.AdamW(net.parameters()), []
    features, mask = torch.randn(batch, int(100*seconds), 40), torch.ones(batch, int(100*seconds)).long()
    for _ in range(steps + 1):
        begun = time.perf_counter()
        net(features, mask, labels=torch.zeros(batch, dtype=torch.long)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - begun)
    return round(min(times[1:]), 2)


def cost(*names, threads=(1, 2), **changes):
    "Parameters, and seconds of a training step of 64 crops of 3 s"
    labels, rows = read_config(CONFIG, **changes).labels, []
    for name in names or NETWORKS:
        row = dict(name=name, parameters=sum(p.numel() for p in network(name, labels).parameters()))
        row |= {f'{t} threads': step_times(name, labels, t) for t in threads}
        print(row, flush=True)
        rows.append(row)
    return pd.DataFrame(rows).to_string()


def export_file(net, path):
    "Write a graph and compare it with PyTorch; the largest difference of a probability"
    torch.backends.mha.set_fastpath_enabled(False)  # whose operator has no counterpart in ONNX
    export_graph(net, path)
    return verify_onnx(net, path)


def padding_difference(net):
    "The largest difference of a logit between a clip alone and beside a longer one"
    clip, other = torch.randn(1, 150, 40), torch.randn(1, 333, 40)
    both, mask = torch.cat([F.pad(clip, (0, 0, 0, 183), value=3.), other]), torch.ones(2, 333).long()
    mask[0, 150:] = 0
    with torch.inference_mode(): return (net.eval()(clip).logits - net(both, mask).logits[:1]).abs().max().item()


def check(*names, **changes):
    "Whether each network can be exported, and ignores padding"
    config, rows = read_config(CONFIG, **changes), []
    folder = Path(config.workspace)/'check'
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or NETWORKS:
        torch.manual_seed(0)
        net = network(name, config.labels)
        net.train()(torch.randn(8, 200, 40))  # so that batch norms have statistics
        row = dict(name=name, padding=padding_difference(net), onnx=export_file(net, folder/f'{name}.onnx'))
        print(row, flush=True)
        rows.append(row)
    return pd.DataFrame(rows).to_string()


def compare(*names, steps=1500, **changes):
    "Train networks alike and write the table; what was begun is resumed, what is finished is kept"
    found, config = [], settings(steps=steps, **changes)
    for name in names or NETWORKS:
        folder = f'compare-{name}'
        run, finished = run_of(f'{config.workspace}/runs/{folder}')
        if not finished: run = Path(train(name, run, folder=folder, steps=steps, **changes))
        metrics = json.loads((run/'metrics.json').read_text())
        net = network(name, config.labels)
        row = dict(name=name, parameters=sum(p.numel() for p in net.parameters()))
        row |= {k: round(metrics[f'valid_{k}'], 4) for k in ('nll', 'f1')}
        found.append(row | dict(step_seconds=step_times(name, config.labels, 1)))
        print(found[-1], flush=True)
    made = about('python tools/model/tiny.py compare', seed=config.seed, threads=config.threads)
    save_results(f'{RESULTS}/networks.json', made, steps=steps, networks=found)
    return pd.DataFrame(found).to_string()


# ---- export ---------------------------------------------------------------------------------------------

def loud_clips(run):
    "(waves, table) of validation clips, without silence, as the network gets them"
    wavs, table = validation_clips(run/'config.yml')
    wavs = [trim_silence(w) for w in wavs]
    long = np.array([len(w) >= MIN_SECONDS*SAMPLE_RATE for w in wavs])
    return [w for w, kept in zip(wavs, long) if kept], table[long].reset_index(drop=True)


def export(run):
    "Add offsets to the rows, fit temperature and threshold, write RUN/model.onnx and the figures"
    run, net = Path(run), load_run(run)
    config, (wavs, table) = read_config(run/'config.yml'), loud_clips(run)
    rows = logits_function(net)
    logits = np.stack([rows(w) for w in wavs])
    offsets = fit_offsets(logits, table, config.labels)
    net.head.bias.data += torch.from_numpy(offsets)
    net.save_pretrained(run/'model')
    logits, whole = logits + offsets, (table.cut == 'whole').values
    truth = [config.labels.index(l) for l in table.language[whole]]
    np.savez(run/'valid.npz', logits=logits[whole], labels=truth, sources=np.array(table.source[whole], 'U'))
    found = scores(calibrated(logits, table, config.labels), table, config.labels)
    made = about('python tools/model/tiny.py export RUN', n=len(table), seed=config.seed)
    added = {l: round(float(o), 3) for l, o in zip(config.labels, offsets)}
    save_results(f'{RESULTS}/choice.json', made, network=config.model, offsets=added, **found)
    return str(export_run(run, CANDIDATES, license='CC BY-NC 4.0')), found


FORMATS = 'static-conv', 'dynamic', 'float16'  # the smallest first
AGREEMENT, LOSS = .99, .005  # of labels at least, of macro F1 at most


def compare_formats(run, wavs, truth, scales):
    "Write RUN/FORMAT.onnx for each format; {format: agreement, macro F1, bytes, times}"
    def f1(path):
        clf = LanguageClassifier(path)
        return macro_metrics(np.stack([clf.logits(w) for w in wavs]), truth)['f1']
    exact, found = f1(run/'model.onnx'), {}
    for method in FORMATS:
        path = quantize(run/'model.onnx', run/f'{method}.onnx', method, scales)
        found[method] = compare_files(run/'model.onnx', path, wavs, truth)
        found[method]['f1'] = [round(exact, 4), round(f1(path), 4)]
    return found


def ship(run, n=600, looked_at=84):
    "Copy the first format that keeps the labels into the package, and write what each does to validation clips"
    run, config = Path(run), read_config(Path(run)/'config.yml')
    wavs, table = loud_clips(run)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(table.cut != '1 s'))
    truth = np.array([config.labels.index(l) for l in table.language])
    scales = [wavs[i] for i in chosen[n:n + looked_at]]
    found = compare_formats(run, [wavs[i] for i in chosen[:n]], truth[chosen[:n]], scales)
    good = [k for k, v in found.items() if v['agreement'] >= AGREEMENT and v['f1'][0] - v['f1'][1] <= LOSS]
    if not good: return f'no format keeps the labels: {found}'
    shutil.copy(run/f'{good[0]}.onnx', SHIPPED)
    made = about('python tools/model/tiny.py ship RUN', model=SHIPPED, n=n, seed=0, threads=1)
    save_results(f'{RESULTS}/quantization.json', made, chosen=good[0], formats=found)
    save_results(f'{RESULTS}/training.json', made | dict(n=None, seed=config.seed), **amounts(config))
    return found


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    fire.Fire(dict(teach=teach, throughput=throughput, train=train, cost=cost, check=check,
                   compare=compare, export=export, ship=ship))
