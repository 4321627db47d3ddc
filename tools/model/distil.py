"""Train a network by distillation from several, and compare the results.

    # teachers: runs or ONNX files of one size; prints the folder of the new run
    python tools/model/distil.py CONFIG TEACHER TEACHER [TEACHER ...]
    # evaluates on the held-out clips and writes nbs/results/tiny/distillation.json
    python tools/model/distil.py compare MODEL [MODEL ...]

The network begins with the weights of the first teacher and is trained on the mean probabilities of all.
How the shipped model was made:

1. Train the first teacher by nbs/results/tiny/config.yml with `steps: 3200`, `learning_rate: 2.0e-3`
   and crops of 1.5 to 3.5 s.
2. Train the second teacher in the same way with crops of 3 to 5 s.
3. Distil by the config as it is.
"""
import json, sys
from copy import deepcopy
from pathlib import Path
import numpy as np, onnx, pandas as pd, torch
from onnx import numpy_helper
from spoken_lang import LanguageClassifier, load_audio
from spoken_lang.core import log_softmax
from spoken_lang.evaluation import macro_nll
from spoken_lang.model import SpokenLanguageClassifier
from spoken_lang.manifest import read_clips
from spoken_lang.splits import fixed_split
from spoken_lang.config import read_config
from spoken_lang.callbacks import distillation_loss
from spoken_lang.training import build_model, train

TINY = 'nbs/results/tiny/config.yml'


def network(path, config):
    "The network of a run, or one of this config with the weights of an ONNX file"
    if Path(path).is_dir():
        return SpokenLanguageClassifier.from_pretrained(Path(path)/'model')
    weights = onnx.load(path).graph.initializer
    found = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in weights}
    net = build_model(config)
    state = net.state_dict()
    net.load_state_dict({k: found.get(k, found.get(f'model.{k}', v)) for k, v in state.items()})
    return net


def distil(config, *paths):
    "Train from a copy of the first teacher; returns the folder of the run"
    config = read_config(config)
    teachers = [network(p, config) for p in paths]
    return train(config, model=deepcopy(teachers[0]), loss=distillation_loss(teachers))


def macro_recall(right, clips):
    "Recall as a mean of languages, each a mean of sources"
    df = pd.DataFrame(dict(right=right, language=clips.language, source=clips.source))
    return df.groupby(['language', 'source']).right.mean().groupby('language').mean().mean()


def figures(clf, clips):
    "NLL (nats) and accuracy on all clips, and on the human clips of four languages"
    temperature = clf.decision.get('temperature', 1.)
    logs = log_softmax([clf.logits(w) for w in clips.wav], temperature)
    truth = np.array([clf.labels.index(l) for l in clips.language])
    nll, right = -logs[np.arange(len(clips)), truth], logs.argmax(1) == truth
    four = clips.language.isin(['en', 'it', 'fr', 'de']).values
    human = (clips.kind == 'human').values & four
    vox = human & (clips.source == 'voxlingua107-dev').values
    rest = human & ~vox
    found = dict(
        nll=nll.mean(), right=right.mean(), nll_voxlingua=nll[vox].mean(), right_voxlingua=right[vox].mean(),
        nll_others=macro_nll(logs[rest], truth[rest], clips.source.values[rest]),
        right_others=macro_recall(right[rest], clips[rest]))
    numbers = dict(n=len(clips), n_voxlingua=int(vox.sum()))
    return numbers | {k: round(float(v), 3) for k, v in found.items()}


def compare(*paths):
    "Evaluate models on the held-out clips of the tiny model's config"
    config = read_config(TINY)
    clips = read_clips(config.data, config.labels, config.role)
    clips = fixed_split(clips, config.splits, config.split_by, config.valid, config.seed)['valid']
    clips = clips.assign(wav=[load_audio(a) for a in clips.audio])
    name = lambda p: Path(p).stem if p.endswith('.onnx') else Path(p).name
    found = {name(p): figures(LanguageClassifier.from_pretrained(p), clips) for p in paths}
    path = Path('nbs/results/tiny/distillation.json')
    path.write_text(json.dumps(found, indent=1) + '\n')
    print(pd.DataFrame(found).T)


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['compare', *models] if models: compare(*models)
        case [config, *teachers] if len(teachers) > 1:
            print(distil(config, *teachers))
        case _: sys.exit(__doc__)
