"""How the weights of `tiny` are made: distilled from `base` on clips that are
augmented once.

    1. python tools/model/base.py revoice ../shared/tools/revoice, and steps 2 and 4 there, where wanted
    2. python tools/model/tiny.py teach [--copies 4] [--states 2]
    3. python tools/model/tiny.py prune NAME for each part of `base`, and compare
    4. python tools/model/tiny.py states NAME and head NAME for a part of `base`, train NAME for another
    5. the last of these with --control
    6. python tools/model/tiny.py export RUN
    7. python tools/model/tiny.py ship RUN

2 writes crops of training clips, augmented, and the answer of the teacher to the same samples. It resumes
where it was stopped, and more copies can be added. `--states N` also keeps the states of the teacher's
encoder for the first N copies.
3 trains the networks of small_networks.py, and writes nbs/results/tiny/networks.json; `cost` and `check`
measure a step of each, and whether it can be exported and ignores padding. The parts of `base` are made
from the crops by `prune` (see parts.py), after `python tools/model/base.py restore workspace/base/run`.
4 prints the folder of the run. The same command with `--run RUN` resumes it, and `--steps N` sets its length.
`head` trains the head of a part alone, on states that are computed once; `train NAME --begin RUN` would
train the layers under it, too. The checkpoint with the lowest NLL on held-out sources is kept, a mean over
languages and sources. The package has `head lowest-3`.
5 trains as long on the labels alone. 6 fits offsets, temperature and threshold on validation clips,
and writes RUN/model.onnx. 7 takes the smallest of some file formats that keeps the labels, and writes
spoken_lang/models/tiny.onnx. `throughput` measures the teacher.

All read nbs/results/tiny/config.yml, of which any key can be set by `--key value`.
"""
import json, shutil, sys, time
from functools import partial
from pathlib import Path
import fire, numpy as np, onnx, pandas as pd, torch
from base import amounts, calibrated, CANDIDATES, compare_files, fit_offsets, scores, validation_clips
from crops import (
    CONFIG, settings, STATE_DIMENSIONS, STATE_RATE, stored_shards, StoredCrops, teach, throughput
)
from heads import AnswerGuide, join, StatesOfCrops, StateCollator, StoredStates
from parts import prune, states
from small_networks import network, NETWORKS, PARTS_OF_BASE, PRETRAINED_RATES
from spoken_lang import training
from spoken_lang.augmentation import spec_augment, warp_bands
from spoken_lang.callbacks import distillation_loss
from spoken_lang.config import read_config
from spoken_lang.core import MIN_SECONDS, SAMPLE_RATE, trim_silence
from spoken_lang.finetuning import draw_weights, first_item, mask_unmatched, WaveCollator
from spoken_lang.onnx_export import export_graph, export_run, load_run, logits_function, verify_onnx
from spoken_lang.quantization import quantize
from spoken_lang.results import about, save_results
from spoken_lang.tables import compute_tables
from torch.nn import functional as F
from torch.utils.data import Dataset
from transformers import TrainerCallback
from transformers.modeling_outputs import SequenceClassifierOutput

RESULTS, SHIPPED = 'nbs/results/tiny', 'spoken_lang/models/tiny.onnx'


class CropCollator(WaveCollator):
    "Waves to a batch of features; in training, bands are warped, and bands and frames masked"
    def __init__(self, log_mel, change=False):
        super().__init__(log_mel)
        self.change = change

    def __call__(self, clips):
        batch = super().__call__(clips)
        if self.change:
            rng = torch.Generator().manual_seed(clips[0]['seed'])
            x = warp_bands(batch['input_features'], rng)
            batch['input_features'] = spec_augment(x, rng)
        return batch


class StoredBatches(Dataset):
    "Batches by step, of crops that are about as long, from (seed, step) alone"
    def __init__(self, crops, weights, matched, collator, config, steps, states, spread=.06):
        self.crops, self.collator = crops, collator
        self.matched = torch.from_numpy(matched)
        self.order = np.argsort(crops.samples, kind='stable')
        self.sums = np.cumsum(weights[self.order])
        self.size, self.seed = config.batch_size, config.seed
        self.steps = steps
        self.with_states, self.spread = states, spread  # of all draws, by length, in a batch

    def __len__(self): return self.steps

    def __getitem__(self, step):
        rng = np.random.default_rng((self.seed, step))
        at = rng.uniform(0, 1 - self.spread) + self.spread*rng.random(self.size)
        places = np.searchsorted(self.sums, at*self.sums[-1])
        draws = self.order[places.clip(max=len(self.order) - 1)]
        clips = [self.crops[i] for i in draws]
        clips[0]['seed'] = int(rng.integers(2**31))
        answers = dict(teacher=self.crops.answers[draws], all_answers=self.crops.all_answers[draws])
        more = {k: torch.from_numpy(v).float() for k, v in answers.items()}
        more['matched'] = self.matched[draws]
        if self.with_states:
            found = [torch.from_numpy(self.crops.states(i)).float() for i in draws]
            more |= dict(state_frames=torch.tensor([len(s) for s in found]),
                         states=torch.nn.utils.rnn.pad_sequence(found, batch_first=True))
        return self.collator(clips) | more


def stored_sets(config, df, train, valid, mel, folder, states=False, part=None):
    "Data sets, sampler and collators from the crops that `teach` stored; of a part, from its states"
    read = partial(StatesOfCrops, part=part) if part else StoredCrops
    collate = StateCollator if part else partial(CropCollator, mel)
    collators = [collate(change) for change in (config.augment, False)]
    crops = read(stored_shards(folder, 'train'), train, config.labels)
    train = train.assign(kind=train.get('kind', 'human'))
    weights = draw_weights(train, config.group_shares, config.vocoded_shares, config.source_shares)
    weights = weights[crops.clips]/np.bincount(crops.clips, minlength=len(train))[crops.clips]
    matched = train.kind.eq('resynth') | train.source.isin(config.matched_sources)
    steps = config.steps*config.accumulate
    matched = matched.values[crops.clips]
    batches = StoredBatches(crops, weights, matched, collators[0], config, steps, states)
    return dict(train_dataset=batches, draws=range(steps), data_collator=first_item,
                eval_dataset=read(stored_shards(folder, 'valid'), valid, config.labels),
                eval_collator=collators[1])


class StateGuide(TrainerCallback):
    "A linear layer from the encoder's frames to the teacher's states, whose loss fades to 0"
    def __init__(self, net, weight, steps):
        self.weight, self.steps = weight, steps
        self.step = 0
        net.guide = torch.nn.Linear(net.conv.in_channels, STATE_DIMENSIONS)
        net.encoder.register_forward_hook(self.keep)

    def keep(self, module, inputs, output): self.frames, self.mask = output

    def on_step_begin(self, args, state, control, **kwargs):
        self.step = state.global_step

    def on_train_end(self, args, state, control, model=None, **kwargs):
        del model.guide

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


def student_loss(config, share, temperature, guide=None):
    "The teacher's answers, the labels, and what a guide adds where there is one"
    distil = distillation_loss(share=share, temperature=temperature)
    rows = [config.labels.index(l) for l in config.matched_labels]

    def loss(model, batch, output):
        logits = mask_unmatched(output.logits, batch['matched'], batch['labels'], rows)
        right = F.cross_entropy(logits, batch['labels'])
        both = distil(model, batch, SequenceClassifierOutput(loss=right, logits=output.logits))
        return both + guide.loss(model, batch) if guide else both
    return loss


def run_config(name, run, folder, **changes):
    "The config of a run to resume, or of a new one in a folder"
    if run: return read_config(f'{run}/config.yml', **changes)
    rates = PRETRAINED_RATES if name in PARTS_OF_BASE else {}
    config = settings(**rates | changes)
    config.workspace = f'{config.workspace}/runs/{folder}'
    config.model = dict(encoder=name)
    return config


def begun(config, begin=None):
    "The network that training begins with: that of a run of `head`, or a new one"
    torch.manual_seed(config.seed)
    net = network(config.model['encoder'], config.labels)
    if begin: net.load_state_dict(load_run(begin).state_dict())
    return net


def crops_of(config):
    "The folder of the crops that a run is trained on"
    return Path(config.workspace).parents[1]/'crops'


def train(name=None, run=None, control=False, share=.8, temperature=2., states_weight=0.,
          states_share=.4, folder=None, begin=None, **changes):
    "Train a network of `NETWORKS`, or resume a run; `control`: on labels alone"
    folder = (folder or name or '') + ('-control' if control else '')
    config = run_config(name, run, folder, **changes)
    net, guide = begun(config, begin), None
    if states_weight and not control:
        guide = StateGuide(net, states_weight, states_share*config.steps)
    loss = student_loss(config, 0. if control else share, temperature, guide)
    prepare = partial(stored_sets, folder=crops_of(config), states=guide is not None)
    return str(training.train(config, run, net, [guide] if guide else [], loss, prepare))


def head(name=None, run=None, control=False, share=.8, temperature=2., answers_weight=.5, folder=None,
         **changes):
    "Train the head of a part of `base` on its states, or resume a run; write the whole network"
    folder = (folder or f'{name}-head') + ('-control' if control else '')
    config = run_config(name, run, folder, **changes)
    net, part = begun(config), config.model['encoder']
    net.encoder = StoredStates()
    guide = None if control else AnswerGuide(net, answers_weight, temperature)
    loss = student_loss(config, 0. if control else share, temperature, guide)
    prepare = partial(stored_sets, folder=crops_of(config), part=part)
    run = training.train(config, run, net, [guide] if guide else [], loss, prepare)
    join(begun(config), run)
    return str(run)


def run_of(folder):
    "(the newest run in a folder, whether it is finished); (None, False) where there is none"
    runs = sorted(Path(folder).glob('20*/'))
    if not runs: return None, False
    return runs[-1], (runs[-1]/'metrics.json').exists()


def step_times(name, labels, threads, batch=64, seconds=3., steps=3):
    "(seconds, seconds of processor) that a step of training takes, the shortest of some"
    torch.set_num_threads(threads)
    net = network(name, labels).train()
    optimizer, times = torch.optim.AdamW(net.parameters()), []
    features = torch.randn(batch, int(100*seconds), net.config.num_mel_bins)
    mask = torch.ones_like(features[..., 0]).long()
    for _ in range(steps + 1):
        begun = time.perf_counter(), time.process_time()
        loss = net(features, mask, labels=torch.zeros(batch, dtype=torch.long)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
    return [round(min(t), 2) for t in zip(*times[1:])]


def cost(*names, threads=(1, 2), **changes):
    "Parameters, and seconds of a training step of 64 crops of 3 s: on the clock, and of processor"
    labels, rows = read_config(CONFIG, **changes).labels, []
    for name in names or [*NETWORKS, *PARTS_OF_BASE]:
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
    bins = net.config.num_mel_bins
    clip, other = torch.randn(1, 150, bins), torch.randn(1, 333, bins)
    both = torch.cat([F.pad(clip, (0, 0, 0, 183), value=3.), other])
    mask = torch.ones_like(both[..., 0]).long()
    mask[0, 150:] = 0
    with torch.inference_mode():
        alone, beside = net.eval()(clip).logits, net(both, mask).logits[:1]
    return (alone - beside).abs().max().item()


def check(*names, **changes):
    "Whether each network can be exported, and ignores padding"
    config, rows = read_config(CONFIG, **changes), []
    folder = Path(config.workspace)/'check'
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or [*NETWORKS, *PARTS_OF_BASE]:
        torch.manual_seed(0)
        net = network(name, config.labels)
        net.train()(torch.randn(8, 200, net.config.num_mel_bins))  # so that batch norms have statistics
        row = dict(name=name, padding=padding_difference(net))
        row['onnx'] = export_file(net, folder/f'{name}.onnx')
        print(row, flush=True)
        rows.append(row)
    return pd.DataFrame(rows).to_string()


def compare(*names, steps=1500, **changes):
    """Train networks on the same crops, and of parts of `base` the head alone; write the table.

    What was begun is resumed, what is finished is kept.
    """
    found, config = [], settings(steps=steps, **changes)
    for name in names or [*NETWORKS, *PARTS_OF_BASE]:
        folder = f'compare-{name}'
        run, finished = run_of(f'{config.workspace}/runs/{folder}')
        if not finished:
            teach_it = head if name in PARTS_OF_BASE else train
            run = Path(teach_it(name, run, folder=folder, steps=steps, **changes))
        metrics = json.loads((run/'metrics.json').read_text())
        net = network(name, config.labels)
        row = dict(name=name, parameters=sum(p.numel() for p in net.parameters()))
        row |= {k: round(metrics[f'valid_{k}'], 4) for k in ('nll', 'f1')}
        found.append(row)
        print(found[-1], flush=True)
    made = about('python tools/model/tiny.py compare', seed=config.seed, threads=config.threads)
    save_results(f'{RESULTS}/networks.json', made, steps=steps, networks=found)
    return pd.DataFrame(found).to_string()


def loud_clips(run):
    "(waves, table) of validation clips, without silence, as the network gets them"
    wavs, table = validation_clips(run/'config.yml')
    wavs = [trim_silence(w) for w in wavs]
    long = np.array([len(w) >= MIN_SECONDS*SAMPLE_RATE for w in wavs])
    return [w for w, kept in zip(wavs, long) if kept], table[long].reset_index(drop=True)


def none_offset(logits, table, labels, lost=.002):
    "What is added to the row of no speech: so much that few clips of speech are called so"
    row, speech = labels.index('none'), logits[(table.language != 'none').values]
    ahead = speech[:, row] - np.logaddexp.reduce(np.delete(speech, row, 1), axis=1)
    return max(0., -np.quantile(ahead, 1 - lost))


def export(run):
    "Add offsets to the rows, fit temperature and threshold, write RUN/model.onnx and the figures"
    run, net = Path(run), load_run(run)
    config, (wavs, table) = read_config(run/'config.yml'), loud_clips(run)
    rows = logits_function(net)
    logits = np.stack([rows(w) for w in wavs])
    offsets = fit_offsets(logits, table, config.labels)
    offsets[config.labels.index('none')] = none_offset(logits + offsets, table, config.labels)
    net.head.bias.data += torch.from_numpy(offsets)  # of the file alone: the run keeps its own
    logits, whole = logits + offsets, (table.cut == 'whole').values
    truth = [config.labels.index(l) for l in table.language[whole]]
    sources = np.array(table.source[whole], 'U')
    np.savez(run/'valid.npz', logits=logits[whole], labels=truth, sources=sources)
    found = scores(calibrated(logits, table, config.labels), table, config.labels)
    made = about('python tools/model/tiny.py export RUN', n=len(table), seed=config.seed)
    added = {l: round(float(o), 3) for l, o in zip(config.labels, offsets)}
    save_results(f'{RESULTS}/choice.json', made, network=config.model, offsets=added, **found)
    return str(export_run(run, CANDIDATES, net, license='CC BY-NC 4.0')), found


FORMATS = 'static-conv', 'weights4-conv', 'float16'  # tried in this order
AGREEMENT, LOSS = .99, .005  # of labels at least, of macro F1 at most
MOST_BYTES = 6e6


def without_tables(path):
    "The file, with tables as formulas"
    graph = onnx.load(path)
    compute_tables(graph)
    onnx.save(graph, path)
    return path


def compare_formats(run, wavs, truth, scales):
    "Write RUN/FORMAT.onnx for each format; {format: agreement, macro F1, bytes, times}"
    found = {}
    for method in FORMATS:
        path = without_tables(quantize(run/'model.onnx', run/f'{method}.onnx', method, scales))
        found[method] = compare_files(run/'model.onnx', path, wavs, truth)
    return found


def ship(run, n=600, looked_at=84):
    "Copy the first format that keeps the labels into the package, and write what each one changes"
    run, config = Path(run), read_config(Path(run)/'config.yml')
    wavs, table = loud_clips(run)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(table.cut != '1 s'))
    truth = np.array([config.labels.index(l) for l in table.language])
    scales = [wavs[i] for i in chosen[n:n + looked_at]]
    found = compare_formats(run, [wavs[i] for i in chosen[:n]], truth[chosen[:n]], scales)
    def keeps(v):
        small = v['bytes'][1] <= MOST_BYTES
        return small and v['agreement'] >= AGREEMENT and v['f1'][0] - v['f1'][1] <= LOSS
    good = [name for name, v in found.items() if keeps(v)]
    if not good: return f'no format keeps the labels: {found}'
    shutil.copy(run/f'{good[0]}.onnx', SHIPPED)
    made = about('python tools/model/tiny.py ship RUN', model=SHIPPED, n=n, seed=0, threads=1)
    save_results(f'{RESULTS}/quantization.json', made, chosen=good[0], formats=found)
    made |= dict(n=None, seed=config.seed)
    save_results(f'{RESULTS}/training.json', made, **amounts(config))
    return found


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    fire.Fire(dict(teach=teach, throughput=throughput, prune=prune, states=states, head=head, train=train,
                   cost=cost, check=check, compare=compare, export=export, ship=ship))
