"""What fewer bits cost a time-delay network, on validation clips: files in nbs/results/quantization.

    1. python tools/model/fewer_bits_tdnn.py train          # prints the folder of the run, RUN
    2. python tools/model/fewer_bits_tdnn.py rounding RUN   # RUN/rounded and RUN/control
    3. python tools/model/fewer_bits_tdnn.py methods RUN    # tdnn.json
    4. python tools/model/fewer_bits_tdnn.py parts RUN      # tdnn-parts.json
    5. python tools/model/fewer_bits_tdnn.py published      # s2t-medium.json, of random weights

The test part of the corpus is not used. 2 needs `pip install -e '.[qat]'`.
"""
import sys, tempfile
from dataclasses import replace
from pathlib import Path
import fire, torch
import base
from fewer_bits import RESULTS
from spoken_lang.audio import load_audio
from spoken_lang.benchmark import compare_models
from spoken_lang.config import read_config
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.model import s2t_medium_config, SpokenLanguageClassifier
from spoken_lang.onnx_export import export_onnx, export_run
from spoken_lang.quantization import METHODS, sensitivity, train_qat
from spoken_lang.results import about, save_results
from spoken_lang.training import train as train_network
from spoken_lang.training_sets import read_split

CONFIG = RESULTS/'tdnn.yml'
SLOW = 'dynamic-all', 'static-channels', 'static-7bit', 'static-entropy', 'static-percentile'
COMMAND = 'python tools/model/fewer_bits_tdnn.py'


def samples():
    "The sample clips"
    return [load_audio(path) for path in sorted(Path('nbs/samples').rglob('*.flac'))]


def train(**changes):
    "Train the network on labels, and export it; the split is that of `base`"
    base.split(CONFIG)
    run = train_network(replace(read_config(CONFIG), **changes))
    export_run(run)
    return str(run)


def rounding(run, steps=200):
    "Train it further, with rounding and without"
    for rounded in True, False:
        print(train_qat(run, steps=steps, rounding=rounded), flush=True)


def methods(run):
    "Quantize by every method; size, accuracy and time of each"
    run, config = Path(run), read_config(Path(run)/'config.yml')
    _, learnt, valid = read_split(config)
    learnt = learnt.groupby('language', group_keys=False).sample(12, random_state=0)
    scales = [load_audio(a)[:10*SAMPLE_RATE] for a in learnt.audio]
    trained = dict(rounded=run/'rounded'/'model.onnx', control=run/'control'/'model.onnx')
    compare_models(run/'model.onnx', valid, scales, **trained, steps=config.steps,
                   out=RESULTS/'tdnn.json', command=f'{COMMAND} methods RUN')


def parts(run):
    "How far each part alone moves the answers on the sample clips"
    wavs, path = samples(), Path(run)/'model.onnx'
    made = about(f'{COMMAND} parts RUN', path, n=len(wavs))
    save_results(RESULTS/'tdnn-parts.json', made, alone=sensitivity(path, wavs))


def published():
    "Size and time of the published size"
    torch.manual_seed(0)
    net = SpokenLanguageClassifier(s2t_medium_config()).eval()
    chosen = [m for m in METHODS if m not in SLOW]
    with tempfile.TemporaryDirectory() as folder:
        path = export_onnx(net, Path(folder)/'large.onnx')
        compare_models(path, None, samples()[:4], chosen, out=RESULTS/'s2t-medium.json',
                       command=f'{COMMAND} published', weights='random')


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    fire.Fire(dict(train=train, rounding=rounding, methods=methods, parts=parts, published=published))
