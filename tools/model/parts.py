"""Parts of `base` as the encoder of a small network: fewer neurons, and the states of training crops.

`tiny.py` says how they are used. `prune NAME` keeps, of each feed-forward part, the neurons that change its
output most, fits the second matrix by least squares to what the whole layers of `base` give for the same
crops, and trains both matrices for it. Weights of layers are rounded to four bits on the way, as in the file
that ships: what follows learns with their errors. `states NAME` stores the output of a part for every crop.
"""
import time
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
import numpy as np, torch
from crops import settings, stored_shards
from small_networks import BASE, lowest_layers, part_folder, PARTS, PARTS_OF_BASE
from spoken_lang.features import front_end
from spoken_lang.finetuning import WaveMap
from spoken_lang.model import SpokenLanguageClassifier
from spoken_lang.onnx_export import load_run
from spoken_lang.whisper import key_bias
from torch import nn
from torch.nn import functional as F

RIDGE = 1e-4  # of the mean square of a neuron
CLIPS = 1200  # that the matrices are fitted on
BITS, BLOCK = 4, 64  # of the weights of layers; weights with one scale


def some_crops(folder, n, seed=0):
    "Waves of n training crops, of all shards"
    rng, found = np.random.default_rng(seed), []
    shards = stored_shards(folder, 'train')
    for i in rng.integers(len(shards), size=n):
        waves = WaveMap(shards[i])
        found.append(waves[int(rng.integers(len(waves.offsets) - 1))])
    return found


def features(log_mel, wav):
    "Log-mel (1, frames, bins) and mask (1, frames) of a wave"
    return log_mel(torch.from_numpy(np.asarray(wav))[None], torch.tensor([len(wav)]))


def first_frames(encoder, log_mel, wav):
    "What the first layer gets for a wave (1, frames, channels)"
    x = features(log_mel, wav)[0].transpose(1, 2)
    x = F.gelu(encoder.conv2(F.gelu(encoder.conv1(x)))).transpose(1, 2)
    return x + encoder.embed_positions.weight[:x.shape[1]]


def attended(layer, x):
    "A layer without its feed-forward part, for one clip without padding"
    bias = key_bias(torch.ones(1, 1, x.shape[1]))
    return x + layer.self_attn(layer.self_attn_layer_norm(x), attention_mask=bias)[0]


def round_weights(module):
    "Round the weights of linear layers as onnxruntime's `MatMulNBits` holds them, a scale for each block"
    low = -2**(BITS - 1)
    for linear in module.modules():
        if not isinstance(linear, nn.Linear): continue
        w = linear.weight.data.unflatten(1, (-1, BLOCK))
        scale = w.gather(2, w.abs().argmax(2, keepdim=True))/low
        codes = (w/scale).nan_to_num().round().clamp(low, -low - 1)
        linear.weight.data = (codes*scale).flatten(1)


def fewer_neurons(layer, x, wanted, n):
    "(first layer, second layer) of n neurons, so that x plus their output comes close to `wanted`"
    inputs = layer.final_layer_norm(x)
    hidden = F.gelu(layer.fc1(inputs))
    adds = hidden.var(0)*layer.fc2.weight.square().sum(0)
    kept = adds.topk(n).indices.sort().values
    hidden = F.pad(hidden[:, kept], (0, 1), value=1.).double()  # a column for the offsets
    gram = hidden.T @ hidden
    gram += RIDGE*gram.diagonal()[:-1].mean()*torch.eye(n + 1)
    fitted = torch.linalg.solve(gram, hidden.T @ (wanted - x).double()).float()
    first, second = nn.Linear(x.shape[1], n), nn.Linear(n, x.shape[1])
    first.weight.data, first.bias.data = layer.fc1.weight[kept], layer.fc1.bias[kept]
    second.weight.data, second.bias.data = fitted[:-1].T.contiguous(), fitted[-1]
    return first, second


@torch.enable_grad()
def train_neurons(layer, x, wanted, steps, rate=2e-3, batch=2048):
    "Train both matrices, so that x plus their output comes close to `wanted`, each channel by its variance"
    inputs, target = layer.final_layer_norm(x).detach(), wanted - x
    scale = wanted.var(0).rsqrt()
    net = nn.Sequential(layer.fc1, nn.GELU(), layer.fc2)
    optimizer = torch.optim.AdamW(net.parameters(), rate, weight_decay=0.)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1., .01, steps)
    for _ in range(steps):
        rows = torch.randint(len(x), (batch,))
        loss = ((net(inputs[rows]) - target[rows])*scale).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def lost(x, wanted):
    "The share of the variance that is not met, a mean over channels"
    return ((x - wanted).square().mean(0)/wanted.var(0)).mean().item()


@torch.no_grad()
def prune(name, clips=CLIPS, steps=800, threads=2, **changes):
    "Write the part NAME of `base`, and print the share of variance that each layer loses"
    torch.set_num_threads(threads)
    config, base = settings(**changes), load_run(BASE).eval()
    net = lowest_layers(config.labels, whole=base, **PARTS_OF_BASE[name]).eval()
    n, log_mel = net.encoder.config.encoder_ffn_dim, front_end(net.config)
    waves = some_crops(Path(config.workspace)/'crops', clips)
    theirs = [first_frames(net.encoder, log_mel, wav) for wav in waves]
    ours, rows = theirs, []
    bias = [key_bias(torch.ones(1, 1, x.shape[1])) for x in theirs]
    for layer, mine in zip(base.encoder.layers, net.encoder.layers):
        theirs = [layer(x, b) for x, b in zip(theirs, bias)]
        round_weights(mine)
        x = torch.cat([attended(mine, x)[0] for x in ours])
        wanted = torch.cat([x[0] for x in theirs])
        mine.fc1, mine.fc2 = fewer_neurons(layer, x, wanted, n)
        fitted = lost(x + mine.fc2(F.gelu(mine.fc1(mine.final_layer_norm(x)))), wanted)
        train_neurons(mine, x, wanted, steps)
        round_weights(mine)
        ours = [mine(x, b) for x, b in zip(ours, bias)]
        rows.append([fitted, lost(torch.cat([x[0] for x in ours]), wanted)])
        print(f'layer {len(rows)}: {rows[-1][0]:.3f} fitted, {rows[-1][1]:.3f} trained', flush=True)
    for old in (Path(config.workspace)/'crops').glob(f'*/{name}.*'):
        old.unlink()  # states of another pruning
    net.save_pretrained(PARTS/name)
    return rows


@cache
def load_part(name):
    "A pruned part, read once a process"
    return SpokenLanguageClassifier.from_pretrained(PARTS/name).eval()


def store(name, shard):
    "Write the output of the encoder for the crops of a shard, in half floats, and the frames of each"
    done = shard/f'{name}.npy'
    if done.exists(): return 0
    torch.set_num_threads(1)
    net, waves = load_part(name), WaveMap(shard)
    log_mel, frames = front_end(net.config), []
    with open(shard/f'{name}.f16', 'wb') as f, torch.inference_mode():
        for i in range(len(waves.offsets) - 1):
            x, _ = net.encoder(*features(log_mel, waves[i]))
            f.write(x[0].T.half().numpy().tobytes())
            frames.append(x.shape[2])
    np.save(done, frames)
    return len(frames)


def states(name, workers=2, **changes):
    "Store the states of all crops; resumes where it was stopped"
    found = stored_shards(Path(settings(**changes).workspace)/'crops')
    part_folder(name)
    begun = time.time()
    with ProcessPoolExecutor(workers, get_context('spawn')) as pool:
        for i, n in enumerate(pool.map(partial(store, name), found)):
            print(f'{i + 1} of {len(found)} shards, {n} crops, {time.time() - begun:.0f} s', flush=True)
