"""What fewer bits cost `base`, on validation clips: files in nbs/results/quantization.

    1. python ../shared/tools/whisper_base.py workspace/whisper-base
    2. python tools/model/fewer_bits.py restore            # workspace/bits/float32.onnx
    3. python tools/model/fewer_bits.py methods            # base.json, or base-avx2.json without VNNI
    4. python tools/model/fewer_bits.py parts              # base-parts.json
    5. python tools/model/fewer_bits.py saturation         # base-saturation.json

The test part of the corpus is not used. Files that are there already are not made again.
"""
import sys
from functools import partial
from pathlib import Path
import fire, numpy as np, onnx, onnxruntime as ort, pandas as pd
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process
import base
from spoken_lang.audio import load_audio
from spoken_lang.benchmark import model_memory, time_files
from spoken_lang.evaluation import Report
from spoken_lang.finetuning import at_most
from spoken_lang.inference import LanguageClassifier
from spoken_lang.onnx_export import export_onnx, load_run, quiet, verify_onnx
from spoken_lang.outliers import quantize_mixed
from spoken_lang.prediction import log_softmax
from spoken_lang.quantization import front_end_nodes, METHODS, quantize
from spoken_lang.results import about, device, save_results

FOLDER, RESULTS = Path('workspace/bits'), Path('nbs/results/quantization')
FLOAT, READY = FOLDER/'float32.onnx', FOLDER/'ready.onnx'
CORPUS = ['../shared/corpus/train-*.parquet', '../shared/corpus/more-*.parquet']
HISTOGRAMS = 'static-entropy', 'static-percentile'


def restore():
    "The float32 file of the shipped network, with the metadata of the shipped file"
    base.restore(FOLDER/'run')
    meta = {p.key: p.value for p in onnx.load(base.SHIPPED).metadata_props}
    kept = {k: meta[k] for k in ('temperature', 'min_known', 'default', 'license', 'commit') if k in meta}
    model = load_run(FOLDER/'run')
    path = export_onnx(model, FLOAT, **kept)
    return f'{path}: differs from PyTorch by {verify_onnx(model, path):.1g}'


def study_clips(most=8, seconds=6):
    "Held-out clips, at most so many of a source and language, their middle; a column `wav`"
    df = base.clips(CORPUS)
    held = df[base.held_out(df)]
    held = held.iloc[at_most(held, most)]
    return held.assign(wav=[base.middle(load_audio(a), seconds) for a in held.audio])


def calibration_clips(n=48, seconds=6):
    "Training clips, languages in turn"
    df = base.clips(CORPUS)
    df = df[~base.held_out(df)].sample(frac=1, random_state=0)
    turn = df.groupby('language').cumcount()
    chosen = df.iloc[np.argsort(turn.values, kind='stable')[:n]]
    return [base.middle(load_audio(a), seconds) for a in chosen.audio]


def log_probabilities(path, wavs):
    "(clips, labels), calibrated; computed once for each file"
    stored = Path(path).with_suffix('.npy')
    if not stored.exists():
        clf = LanguageClassifier(path)
        rows = log_softmax([clf.logits(w) for w in wavs], clf.decision.get('temperature', 1.))
        np.save(stored, rows)
    return np.load(stored)


def figures(logp, exact, clips, labels):
    "Accuracy among the five languages and no speech; agreement with float32 among all languages"
    answers, p = np.array(labels)[logp.argmax(1)], np.exp(logp)
    table = clips.assign(answer=answers, confidence=p.max(1))
    five = Report(table[table.language.isin(base.CANDIDATES)])
    found = five.figures()
    same = logp.argmax(1) == exact.argmax(1)
    return dict(
        n=found['n'], f1=found['f1'], f1_interval=five.interval(200), iou=found['iou'], ece=five.ece(),
        n_all=len(clips), right_all=round(float((answers == clips.language).mean()), 4),
        agreement=round(float(same.mean()), 4),
        moved=round(float(np.abs(p - np.exp(exact)).max()), 4))


def has_vnni(): return any('vnni' in flag for flag in device()['simd'])


def make(name, wavs):
    "The file of a method; made once"
    path = FOLDER/f'{name}.onnx'
    if path.exists(): return path
    if name == 'mixed': return quantize_mixed(FLOAT, path, wavs)
    return quantize(FLOAT, path, name, wavs[:16] if name in HISTOGRAMS else wavs)


def methods(*names, rounds=15):
    "Quantize by every method, or some; accuracy, size, memory and time of each"
    names = names or [*METHODS, 'mixed']
    clips, wavs = study_clips(), calibration_clips()
    labels = LanguageClassifier(FLOAT).labels
    exact = log_probabilities(FLOAT, clips.wav)
    paths, found = dict(float32=FLOAT), {}
    for name in names:
        try: paths[name] = make(name, wavs)
        except Exception as e:  # the tools of onnxruntime raise many kinds
            found[name] = dict(error=f'{type(e).__name__}: {str(e)[:100]}')
            print(name, found[name], flush=True)
    for name, path in paths.items():
        row = figures(log_probabilities(path, clips.wav), exact, clips, labels)
        found[name] = dict(mb=round(path.stat().st_size/1e6, 1), memory_mb=model_memory(path)) | row
        print(name, found[name], flush=True)
    for name, row in time_files(paths, rounds=rounds).items():
        found[name] |= row
    command = 'python tools/model/fewer_bits.py methods'
    made = about(command, FLOAT, n=len(clips), seed=0, calibration=len(wavs))
    save_results(RESULTS/('base.json' if has_vnni() else 'base-avx2.json'), made, **found)


def static(target, wavs, in_float=()):
    "All nodes in int8 with scales from recordings, but those that stay in float"
    if not READY.exists(): quant_pre_process(str(FLOAT), str(READY), skip_symbolic_shape=True)
    feeds = [dict(wavs=w[None], lengths=np.array([len(w)])) for w in wavs]
    int8 = dict(activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)
    with quiet():
        quantize_static(str(READY), str(target), Feeds(feeds), nodes_to_exclude=list(in_float), **int8)
    return target


class Feeds(CalibrationDataReader):
    "Inputs of the network, one at a time"
    def __init__(self, feeds): self.feeds = iter(feeds)
    def get_next(self): return next(self.feeds, None)


def node_parts():
    "{part: names of its nodes}: the log-mel, and each operator of the network"
    graph, found = onnx.load(READY), {}
    front_end = set(front_end_nodes(graph))
    for node in graph.graph.node:
        part = 'log-mel' if node.name in front_end else node.op_type
        found.setdefault(part, []).append(node.name)
    return found


def ranges(wavs):
    "Of each tensor of the network: operator, largest magnitude, and its ratio to the 99 % quantile"
    graph = onnx.load(READY)
    front_end = set(front_end_nodes(graph))
    nodes = [n for n in graph.graph.node if n.name not in front_end]
    del graph.graph.output[:]
    graph.graph.output.extend(helper.make_empty_tensor_value_info(n.output[0]) for n in nodes)
    session, found = ort.InferenceSession(graph.SerializeToString()), {}
    for wav in wavs:
        values = session.run(None, dict(wavs=wav[None], lengths=np.array([len(wav)])))
        for node, x in zip(nodes, values):
            if x.dtype != np.float32 or x.size < 2_000: continue
            most, usual = np.abs(x).max(), np.quantile(np.abs(x), .99)
            found.setdefault(node.name, []).append((node.op_type, most, most/(usual + 1e-9)))
    rows = [(name, t[0][0], max(r[1] for r in t), max(r[2] for r in t)) for name, t in found.items()]
    return [dict(node=n, operator=op, largest=float(f'{m:.4g}'), ratio=float(f'{r:.4g}')) for n, op, m, r in rows]


def parts(n=8, most=6):
    "How far each part moves answers when it alone is rounded, and the smallest repair of `static-all`"
    clips = study_clips()
    wavs, scales = list(clips.wav.sample(n, random_state=0)), calibration_clips(16)
    some = list(clips.wav.sample(100, random_state=1))
    few = np.exp(log_softmax(np.array([LanguageClassifier(FLOAT).logits(w) for w in wavs])))
    everything = static(FOLDER/'part.onnx', scales) and node_parts()
    path, alone = FOLDER/'part.onnx', {}
    for part, names in everything.items():
        static(path, scales[:6], set(sum(everything.values(), [])) - set(names))
        p = np.exp(log_softmax(np.array([LanguageClassifier(path).logits(w) for w in wavs])))
        alone[part] = round(float(np.abs(p - few).max()), 4)
        print(part, alone[part], flush=True)
    order = sorted(alone, key=lambda part: (part != 'log-mel', -alone[part]))
    exact, kept, steps = best_labels(FLOAT, some), [], []
    for part in [None, *order[:most]]:  # the log-mel stays in float, then the worst of the rest, too
        if part: kept += everything[part]
        static(path, scales, kept)
        same = (best_labels(path, some) == exact).mean()
        size = round(path.stat().st_size/1e6, 1)
        steps.append(dict(in_float=part, agreement=round(float(same), 4), mb=size))
        print(steps[-1], flush=True)
    made = about('python tools/model/fewer_bits.py parts', FLOAT, n=len(some), seed=0)
    save_results(RESULTS/'base-parts.json', made, alone=alone, steps=steps, ranges=ranges(wavs[:3]))


def best_labels(path, wavs):
    "(clips,), numbers of the best labels"
    clf = LanguageClassifier(path)
    return np.array([clf.logits(w).argmax() for w in wavs])


def integer_products(graph):
    "[(name of the node, its input in bytes, weights)] of a file of `quantize_mixed`"
    held = {w.name: w for w in graph.graph.initializer}
    nodes = [n for n in graph.graph.node if n.op_type == 'MatMulIntegerToFloat']
    return [(n.name, n.input[0], numpy_helper.to_array(held[n.input[1]])) for n in nodes]


def overflows(x, w):
    "(share of pairs of products, share of sums with such a pair) that 16 bits cannot hold"
    pairs = sums = 0
    for row in x.astype('int32'):
        both = row[0::2, None]*w[0::2] + row[1::2, None]*w[1::2]  # (pairs, outputs)
        over = (both > 32767) | (both < -32768)
        pairs, sums = pairs + over.mean(), sums + over.any(0).mean()
    return pairs/len(x), sums/len(x)


def saturation(n=10, rows=40):
    "Pairs of products that 16 bits cannot hold, over real inputs and weights; answers with and without"
    clips = study_clips()
    graph = onnx.load(base.SHIPPED)
    products = integer_products(graph)
    whole = [o.name for o in graph.graph.output]
    graph.graph.output.extend(helper.make_empty_tensor_value_info(x) for _, x, _ in products)
    session = ort.InferenceSession(graph.SerializeToString())
    rng, found = np.random.default_rng(0), {}
    for wav in clips.wav.sample(n, random_state=0):
        feed = dict(wavs=wav[None], lengths=np.array([len(wav)]))
        values = session.run([x for _, x, _ in products], feed)
        for (name, _, w), x in zip(products, values):
            x = x.reshape(-1, x.shape[-1])
            x = x[rng.permutation(len(x))[:rows//n + 1]]
            found.setdefault(name, []).append(overflows(x, w.astype('int32')))
    shares = {name: dict(zip(('pairs', 'sums'), np.mean(v, 0).tolist())) for name, v in found.items()}
    answers = {} if has_vnni() else answers_without_precision(clips)
    made = about('python tools/model/fewer_bits.py saturation', base.SHIPPED, n=len(clips), seed=0)
    save_results(RESULTS/'base-saturation.json', made, products=shares, answers=answers)
    return answers


def answers_without_precision(clips):
    "Agreement with float32 when sums may be cut off at 16 bits, and when they may not"
    exact, found = best_labels(FLOAT, clips.wav), {}
    for precise in '01':
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry('session.x64quantprecision', precise)
        session = ort.InferenceSession(str(base.SHIPPED), options)
        rows = [session.run(['logits'], dict(wavs=w[None], lengths=np.array([len(w)])))[0][0] for w in clips.wav]
        labels = np.array(LanguageClassifier(base.SHIPPED).labels)[np.argmax(rows, 1)]
        same = np.argmax(rows, 1) == exact
        right = int((labels == clips.language).sum())
        found['precise' if precise == '1' else 'cut off'] = dict(agreement=round(float(same.mean()), 4), right=right)
    return found


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    fire.Fire(dict(restore=restore, methods=methods, parts=parts, saturation=saturation))
