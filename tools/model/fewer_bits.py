"""What fewer bits cost `base`, on validation clips: files in nbs/results/quantization.

    1. python ../shared/tools/whisper_base.py workspace/whisper-base
    2. python tools/model/fewer_bits.py restore            # workspace/bits/float32.onnx
    3. python tools/model/fewer_bits.py methods            # base.json, or base-avx2.json without VNNI
    4. python tools/model/fewer_bits.py parts              # base-parts.json
    5. python tools/model/fewer_bits.py needed             # base-needed.json, which reads the one before
    6. python tools/model/fewer_bits.py tensors            # base-tensors.json
    7. python tools/model/fewer_bits.py saturation         # base-saturation.json
    8. python tools/model/fewer_bits.py levels             # levels.json

The test part of the corpus is not used. Files that are there already are not made again.
"""
import sys, time
from functools import partial
from pathlib import Path
import fire, numpy as np, onnx, onnxruntime as ort, pandas as pd
from onnx import helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static, QuantType
from onnxruntime.quantization.shape_inference import quant_pre_process
from scipy.special import softmax
import base
from spoken_lang.audio import load_audio
from spoken_lang.benchmark import compare_levels, model_memory, time_files, time_in_turns
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.evaluation import Report
from spoken_lang.finetuning import at_most
from spoken_lang.inference import LanguageClassifier, session_options
from spoken_lang.onnx_export import export_onnx, load_run, quiet, verify_onnx
from spoken_lang.outliers import METHODS  # all of them
from spoken_lang.prediction import log_softmax
from spoken_lang.quantization import front_end_nodes, quantize
from spoken_lang.results import about, device, load_results, save_results

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
    return quantize(FLOAT, path, name, wavs[:16] if name in HISTOGRAMS else wavs)


def load_time(path, rounds=3):
    "Milliseconds to open a file, the least of some"
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        LanguageClassifier(path)
        times.append(1000*(time.perf_counter() - start))
    return round(min(times))


def methods(*names, rounds=15):
    "Quantize by every method, or some; accuracy, size, memory and time of each"
    names = names or METHODS
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
        size = dict(mb=round(path.stat().st_size/1e6, 1), memory_mb=model_memory(path))
        found[name] = size | dict(load_ms=load_time(path)) | row
        print(name, found[name], flush=True)
    for name, row in time_files(paths, rounds=rounds).items():
        found[name] |= row
    command = 'python tools/model/fewer_bits.py methods'
    made = about(command, FLOAT, n=len(clips), seed=0, calibration=len(wavs))
    save_results(RESULTS/('base.json' if has_vnni() else 'base-avx2.json'), made, **found)


class Feeds(CalibrationDataReader):
    "Clips as inputs of the network, one at a time"
    def __init__(self, wavs): self.feeds = map(feed, wavs)
    def get_next(self): return next(self.feeds, None)


def feed(wav): return dict(wavs=wav[None], lengths=np.array([len(wav)]))


def prepared():
    "The float32 file as onnxruntime's quantization wants it; made once"
    if not READY.exists():
        quant_pre_process(str(FLOAT), str(READY), skip_symbolic_shape=True)
    return onnx.load(READY)


def node_parts():
    "{part: names of its nodes}: the log-mel, and each operator of the network"
    graph, found = prepared(), {}
    front_end = set(front_end_nodes(graph))
    for node in graph.graph.node:
        part = 'log-mel' if node.name in front_end else node.op_type
        found.setdefault(part, []).append(node.name)
    return found


def static(wavs, in_float):
    "A file with all nodes in int8, and scales from recordings, but for the nodes that stay in float"
    path = FOLDER/'part.onnx'
    types = dict(activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)
    with quiet():
        quantize_static(str(READY), str(path), Feeds(wavs), nodes_to_exclude=in_float, **types)
    return path


def logits_of(path, wavs):
    "(clips, labels)"
    clf = LanguageClassifier(path)
    return np.array([clf.logits(w) for w in wavs])


def alone(groups, wavs, scales):
    "{part: the largest change of a probability} where that part alone is in int8"
    exact, found = softmax(logits_of(FLOAT, wavs), 1), {}
    for part in groups:
        rest = [name for other in groups if other != part for name in groups[other]]
        p = softmax(logits_of(static(scales, rest), wavs), 1)
        found[part] = round(float(np.abs(p - exact).max()), 4)
        print(part, found[part], flush=True)
    return found


def repair(groups, order, wavs, scales):
    "Agreement with float32 when no part stays in float, when the first of `order` does, the first two, ..."
    exact = logits_of(FLOAT, wavs).argmax(1)
    in_float, rows = [], []
    for part in [None, *order]:
        in_float = in_float + groups.get(part, [])
        path = static(scales, in_float)
        same = logits_of(path, wavs).argmax(1) == exact
        size = round(path.stat().st_size/1e6, 1)
        rows.append(dict(in_float=part, agreement=round(float(same.mean()), 4), mb=size))
        print(rows[-1], flush=True)
    return rows


def ranges(wavs):
    "Of each tensor of the network: operator, largest magnitude, and the share that is zero in eight bits"
    graph = prepared()
    front_end, found = set(front_end_nodes(graph)), {}
    nodes = [n for n in graph.graph.node if n.name not in front_end]
    outputs = [helper.make_empty_tensor_value_info(n.output[0]) for n in nodes]
    del graph.graph.output[:]
    graph.graph.output.extend(outputs)
    session = ort.InferenceSession(graph.SerializeToString())
    for wav in wavs:
        for node, x in zip(nodes, session.run(None, feed(wav))):
            if x.dtype != np.float32 or x.size < 2_000: continue
            x = np.abs(x)
            zero = (x < x.max()/254).mean()  # under half a step
            found.setdefault((node.name, node.op_type), []).append((x.max(), zero))
    rows = [(*key, *np.mean(v, 0).round(4).tolist()) for key, v in found.items()]
    return [dict(zip(('node', 'operator', 'largest', 'zero'), row)) for row in rows]


def parts(n=8, n_repair=100, most=6):
    "How far each part alone moves answers, and the smallest repair of `static-all`"
    clips, groups = study_clips(), node_parts()
    scales = calibration_clips(16)
    wavs = list(clips.wav.sample(n, random_state=0))
    moved = alone(groups, wavs, scales[:6])
    order = sorted(moved, key=lambda part: (part != 'log-mel', -moved[part]))[:most]
    steps = repair(groups, order, list(clips.wav.sample(n_repair, random_state=1)), scales)
    made = about('python tools/model/fewer_bits.py parts', FLOAT, n=n_repair, seed=0, n_alone=n)
    save_results(RESULTS/'base-parts.json', made, alone=moved, steps=steps)


def needed(n=100, worst=7):
    "Agreement with float32 with the worst parts in float, and when one of them is in int8 again"
    found = load_results(RESULTS/'base-parts.json')['alone']
    parts = sorted(found, key=lambda part: -found[part])[:worst]
    clips, groups = study_clips(), node_parts()
    wavs, scales = list(clips.wav.sample(n, random_state=1)), calibration_clips(16)
    exact, rows = logits_of(FLOAT, wavs).argmax(1), []
    for back in [None, *parts]:
        in_float = [name for part in parts if part != back for name in groups[part]]
        same = logits_of(static(scales, in_float), wavs).argmax(1) == exact
        rows.append(dict(in_int8=back, agreement=round(float(same.mean()), 4)))
        print(rows[-1], flush=True)
    made = about('python tools/model/fewer_bits.py needed', FLOAT, n=n, seed=0)
    save_results(RESULTS/'base-needed.json', made, in_float=parts, rows=rows)


def tensors(n=8):
    "Write `ranges`"
    wavs = list(study_clips().wav.sample(n, random_state=0))
    made = about('python tools/model/fewer_bits.py tensors', FLOAT, n=n, seed=0)
    save_results(RESULTS/'base-tensors.json', made, tensors=ranges(wavs))


def integer_products(graph):
    "[(name of the node, its input in bytes, weights)] of a file of `quantize_mixed`"
    held = {w.name: w for w in graph.graph.initializer}
    nodes = [n for n in graph.graph.node if n.op_type == 'MatMulIntegerToFloat']
    return [(n.name, n.input[0], numpy_helper.to_array(held[n.input[1]])) for n in nodes]


def overflows(x, w):
    "(share of pairs of products, share of sums with such a pair) that 16 bits cannot hold"
    shares = []
    for row in x.astype('int32'):
        pairs = row[0::2, None]*w[0::2] + row[1::2, None]*w[1::2]  # (pairs, outputs)
        over = (pairs > 32767) | (pairs < -32768)
        shares.append((over.mean(), over.any(0).mean()))
    return np.mean(shares, 0)


def product_overflows(wavs, rows=4):
    "{product: (pairs, sums)}, see `overflows`, on some rows of the inputs of each clip"
    rng, found = np.random.default_rng(0), {}
    graph = onnx.load(base.SHIPPED)
    products = integer_products(graph)
    inputs = list(dict.fromkeys(x for _, x, _ in products))
    graph.graph.output.extend(helper.make_empty_tensor_value_info(x) for x in inputs)
    session = ort.InferenceSession(graph.SerializeToString())
    for wav in wavs:
        values = dict(zip(inputs, session.run(inputs, feed(wav))))
        for name, x, w in products:
            some = rng.permutation(values[x].reshape(-1, len(w)))[:rows]
            found.setdefault(name, []).append(overflows(some, w.astype('int32')))
    return {name: np.mean(shares, 0).round(6).tolist() for name, shares in found.items()}


def answers_by_precision(clips):
    "Agreement with float32 and right answers, where sums are cut off at 16 bits and where they are not"
    exact, found = logits_of(FLOAT, clips.wav).argmax(1), {}
    labels = np.array(LanguageClassifier(base.SHIPPED).labels)
    for name, precise in {'32 bits': True, '16 bits': False}.items():
        session = ort.InferenceSession(base.SHIPPED, session_options(1, precise))
        best = np.array([session.run(['logits'], feed(w))[0][0].argmax() for w in clips.wav])
        same, right = (best == exact).mean(), (labels[best] == clips.language).sum()
        found[name] = dict(agreement=round(float(same), 4), right=int(right))
    return found


def time_by_precision(wav, rounds=20):
    "Times of both in alternation, on one thread"
    names = {'16 bits': False, '32 bits': True}
    sessions = {k: ort.InferenceSession(base.SHIPPED, session_options(1, v)) for k, v in names.items()}
    works = {k: partial(s.run, ['logits'], feed(wav)) for k, s in sessions.items()}
    return time_in_turns(works, rounds)


def saturation(n=10):
    "Pairs of products that 16 bits cannot hold; without VNNI also what they change"
    clips, more = study_clips(), {}
    products = product_overflows(clips.wav.sample(n, random_state=0))
    if not has_vnni():
        long = next(w for w in clips.wav if len(w) >= 6*SAMPLE_RATE)
        more = dict(answers=answers_by_precision(clips), times=time_by_precision(long))
    made = about('python tools/model/fewer_bits.py saturation', base.SHIPPED, n=len(clips), seed=0)
    save_results(RESULTS/'base-saturation.json', made, products=products, **more)
    return more


def levels():
    "Time, loading and logits of the float32 file at each level of optimization"
    compare_levels(FLOAT, out=RESULTS/'levels.json', command='python tools/model/fewer_bits.py levels')


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    fire.Fire(dict(restore=restore, methods=methods, parts=parts, needed=needed, tensors=tensors,
                   saturation=saturation, levels=levels))
