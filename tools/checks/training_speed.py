"""Time what training waits for: nbs/results/s2t-medium/step.json, loader.json and headers.json.

    python tools/checks/training_speed.py [step] [loader] [headers] [--corpus ../shared/corpus]

step: a training step of the published size, in float32 and bfloat16, in alternation in one process;
peak memory of each in a process of its own. loader: four ways to load a batch, in alternation with a
step of a `tdnn`. headers: lengths of 5,000 files. All on one thread, on an idle machine; without
names, one after the other, about 3 minutes where the processor multiplies bfloat16.
"""
import argparse, json, subprocess, sys, tempfile, time
from pathlib import Path
import numpy as np, pandas as pd, torch
from spoken_lang.augmentation import augment
from spoken_lang.batches import (
    AudioDataset, BatchCollator, CachedClips, cache_features, collate, FeatureDataset
)
from spoken_lang.benchmark import time_in_turns
from spoken_lang.config import TrainConfig
from spoken_lang.features import LogMel
from spoken_lang.manifest import read_headers, read_parquet
from spoken_lang.results import about, save_results
from spoken_lang.training import build_model

RESULTS, SEED = Path('nbs/results'), 0
STEP = '''
import json, resource, sys, torch
from spoken_lang.benchmark import time_in_turns
from spoken_lang.model import SpokenLanguageClassifier, s2t_medium_config
torch.set_num_threads(1)
torch.manual_seed(0)
rounds, kinds = int(sys.argv[1]), sys.argv[2:]
net = SpokenLanguageClassifier(s2t_medium_config())
optimizer = torch.optim.AdamW(net.parameters())
batch = dict(input_features=torch.randn(8, 625, 80), labels=torch.arange(8) % 5)
def step(kind):
    with torch.autocast('cpu', torch.bfloat16, enabled=kind == 'bf16'):
        loss = net(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
times = time_in_turns({k: lambda k=k: step(k) for k in kinds}, rounds)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024
print(json.dumps(dict(median_s={k: t['p50_ms']/1000 for k, t in times.items()}, peak_mb=round(peak))))
'''


def measure_step(rounds, *kinds):
    "{'median_s': {kind: s}, 'peak_mb'} of a fresh process"
    command = [sys.executable, '-c', STEP, str(rounds), *kinds]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def step(corpus, rounds=3):
    found = dict(batch=8, seconds=6.25, rounds=rounds)
    found |= dict(median_s=measure_step(rounds, 'fp32', 'bf16')['median_s'])
    return found | dict(peak_mb={k: measure_step(1, k)['peak_mb'] for k in ('fp32', 'bf16')})


def loaders(clips, mel):
    "{name: a function that loads the clips of so many numbers as a batch}"
    labels, folder = list(clips.language.unique()), tempfile.mkdtemp()
    plain, changed = AudioDataset(clips, labels), AudioDataset(clips, labels, augment)
    collator = BatchCollator(mel, (150, 350), True)

    def whole(wavs, lengths): return wavs[..., None], lengths
    waves = FeatureDataset(cache_features(plain, whole, folder, key='waves'))
    cached = FeatureDataset(cache_features(plain, mel.fbank, folder))
    features = CachedClips([cached], [(0, i) for i in range(len(clips))], 350)

    def from_waves(clips):
        batch = collate(clips)
        return mel(batch['wavs'], batch['lengths'])

    def wave(k): return dict(wav=waves[k]['features'][:, 0].numpy(), label=0)
    return {'ogg': lambda i: from_waves([plain[k] for k in i]),
            'ogg, changed': lambda i: from_waves([changed[k] for k in i]),
            'cached waves': lambda i: from_waves([wave(k) for k in i]),
            'cached features': lambda i: collator([features[k, k] for k in i])}


def loader(corpus, batch=64, rounds=8):
    shard = sorted(Path(corpus).glob('train-*'))[0]
    clips = read_parquet(shard, 'train').sample(4*batch, random_state=SEED)
    net = build_model(TrainConfig([]))
    ways = loaders(clips, LogMel(40, 20., 7600.))
    optimizer, turn = torch.optim.AdamW(net.parameters()), dict.fromkeys(ways, 0)

    def load(name):  # another quarter of the clips each time
        start = turn[name]*batch % len(clips)
        turn[name] += 1
        ways[name](range(start, start + batch))

    def train():
        net(torch.randn(batch, 250, 40), labels=torch.arange(batch) % 5).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    works = {name: lambda name=name: load(name) for name in ways} | dict(tdnn=train)
    times = time_in_turns(works, rounds)
    return dict(batch=batch, rounds=rounds, median_s={k: t['p50_ms']/1000 for k, t in times.items()})


def headers(corpus, n=5_000):
    shards = sorted(Path(corpus).glob('train-*'))
    clips = pd.concat([pd.read_parquet(s, columns=['audio']) for s in shards])[:n]
    folder = Path(tempfile.mkdtemp())
    for i, audio in enumerate(clips.audio):
        (folder/f'{i}.ogg').write_bytes(audio['bytes'])
    paths = [str(folder/f'{i}.ogg') for i in range(len(clips))]
    start = time.perf_counter()
    read = read_headers(pd.DataFrame(dict(audio=paths)))
    return dict(files=len(read), seconds=round(time.perf_counter() - start, 2))


# name: (measurement, file, threads)
WORKS = dict(step=(step, 's2t-medium/step.json', 1), loader=(loader, 'loader.json', 1),
             headers=(headers, 'headers.json', None))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument('names', nargs='*', help=', '.join(WORKS))
    parser.add_argument('--corpus', default='../shared/corpus')
    args = parser.parse_args()
    if unknown := set(args.names) - set(WORKS):
        parser.error(f'{unknown.pop()} is none of {", ".join(WORKS)}')
    torch.set_num_threads(1)
    for name in args.names or WORKS:
        work, file, threads = WORKS[name]
        found = work(args.corpus)
        command = f'python tools/checks/training_speed.py {name}'
        n = found.get('files') or found['rounds']
        save_results(RESULTS/file, about(command, None, n, SEED, threads), **found)
        print(name, json.dumps(found), flush=True)


if __name__ == '__main__': main()
