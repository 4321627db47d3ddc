"""How the shipped model came about: a network goes on from the first of several, and learns from what they make of each clip together.

    python tools/teach.py CONFIG TEACHER TEACHER [TEACHER ...]   # runs or ONNX files of one size; prints the new run
    python tools/teach.py compare MODEL [MODEL ...]              # on the held-out clips: nbs/results/starter/teaching.json

The first teacher was trained by nbs/results/starter/config.yml with `steps: 3200`, `learning_rate: 2.0e-3` and crops of 1.5 to 3.5 s, the second
likewise with crops of 3 to 5 s; the pupil's config is the file as it is.
"""
import json, sys
from pathlib import Path
from unittest import mock
import numpy as np, onnx, pandas as pd, torch, torch.nn.functional as F
from onnx import numpy_helper
from spoken_lang import LanguageClassifier, load_audio, training
from spoken_lang.model import SpokenLanguageClassifier
from spoken_lang.training import read_config, read_data, split_data, train

SHARE, TEMPERATURE, STARTER = .7, 2., 'nbs/results/starter/config.yml'


def network(path, like):
    "The network of a run, or with the weights of an ONNX file"
    if Path(path).is_dir(): return SpokenLanguageClassifier.from_pretrained(Path(path)/'model').eval()
    found = {w.name: torch.from_numpy(numpy_helper.to_array(w).copy()) for w in onnx.load(path).graph.initializer}
    net = SpokenLanguageClassifier(like.config)
    net.load_state_dict({k: found.get(k, found.get(f'model.{k}', v)) for k, v in net.state_dict().items()})
    return net.eval()


def taught(trainer, teachers):
    "Distillation (Hinton et al., 2015) from the mean of the teachers, beginning as the first of them"
    trainer.model.load_state_dict(teachers[0].state_dict())

    def loss(model, inputs, return_outputs=False, **kwargs):
        out = model(**inputs)
        if not model.training: return (out.loss, out) if return_outputs else out.loss
        with torch.no_grad():
            heard = {k: v for k, v in inputs.items() if k != 'labels'}
            wanted = torch.stack([(t(**heard).logits/TEMPERATURE).softmax(1) for t in teachers]).mean(0)
        learnt = F.kl_div((out.logits/TEMPERATURE).log_softmax(1), wanted, reduction='batchmean')*TEMPERATURE**2
        return (1 - SHARE)*out.loss + SHARE*learnt
    trainer.compute_loss = loss


def teach(config, *paths):
    prepare = training._prepare

    def altered(*args):
        trainer, guard = prepare(*args)
        taught(trainer, [network(p, trainer.model) for p in paths])
        return trainer, guard
    with mock.patch.object(training, '_prepare', altered): return train(read_config(config))


def figures(clf, clips):
    "Surprise at the truth (nats) and share of right answers over all labels, and over the four languages' human clips: means of languages and of their sources"
    logs = np.array([clf.log_probabilities(w) for w in clips.wav])
    labels = np.array([clf.labels.index(l) for l in clips.language])
    rows = clips[['language', 'source']].assign(nll=-logs[np.arange(len(clips)), labels], right=logs.argmax(1) == labels)
    human = rows[(clips.kind == 'human') & clips.language.isin(['en', 'it', 'fr', 'de'])]
    vox = human.source == 'voxlingua107-dev'
    mean = human[~vox].groupby(['language', 'source'])[['nll', 'right']].mean().groupby('language').mean().mean()
    return {k: round(float(v), 3) for k, v in dict(n=len(rows), nll=rows.nll.mean(), right=rows.right.mean(), n_voxlingua=vox.sum(),
        nll_voxlingua=human.nll[vox].mean(), right_voxlingua=human.right[vox].mean(), nll_others=mean.nll, right_others=mean.right).items()}


def compare(*paths):
    clips = split_data(config := read_config(STARTER), read_data(config))['valid']
    clips = clips.assign(wav=[load_audio(a) for a in clips.audio])
    found = {Path(p).stem if p.endswith('.onnx') else Path(p).name: figures(LanguageClassifier.from_pretrained(p), clips) for p in paths}
    Path('nbs/results/starter/teaching.json').write_text(json.dumps(found, indent=1) + '\n')
    print(pd.DataFrame(found).T)


if __name__ == '__main__':
    match sys.argv[1:]:
        case ['compare', *models] if models: compare(*models)
        case [config, *teachers] if len(teachers) > 1: print(teach(config, *teachers))
        case _: sys.exit(__doc__)
