"""Speech padded to six seconds by what is nearly silence: nbs/results/MODEL/padding.json.

    python tools/checks/padding.py MODEL [OUT.json]

Every clip of nbs/samples is cut to 2, 3 and 4 s, and padded in each way of PADDINGS. The answer should be
that of the cut alone. Counted: labels that change, and answers in which a probability moves by more than .05.
"""
import sys
from pathlib import Path
import numpy as np
from spoken_lang import LanguageClassifier, load_audio
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.results import about, save_results

CUTS, LENGTH = (2, 3, 4), 6*SAMPLE_RATE


def zeros(wav): return np.pad(wav, (0, LENGTH - len(wav)))


def click(wav, at):
    "Zeros, with a pulse of 20 samples at one place"
    wav = zeros(wav)
    wav[at:at + 20] += .5
    return wav


def first_click(wav): return click(np.roll(zeros(wav), LENGTH - len(wav)), 0)
def last_click(wav): return click(wav, LENGTH - 20)
def offset_up(wav): return zeros(wav) + .004
def offset_down(wav): return zeros(wav) - .004


def hum(wav):
    "Mains hum at -74 dB of full scale, from the first sample to the last"
    return zeros(wav) + 10**(-74/20)*np.sin(2*np.pi*50*np.arange(LENGTH)/SAMPLE_RATE)


def pause(wav):
    "Zeros in the middle"
    first, second = np.array_split(wav, 2)
    return np.concatenate([first, np.zeros(LENGTH - len(wav)), second])


PADDINGS = zeros, first_click, last_click, offset_up, offset_down, hum, pause


def difference(before, after):
    "The largest difference between two predictions' probabilities"
    codes = {*before.probabilities, *after.probabilities}
    moved = [abs(before.probabilities.get(c, 0.) - after.probabilities.get(c, 0.)) for c in codes]
    return max(moved, default=0.)


def compare(classifier, path, seconds, pad):
    "A row: the answers without and with the padding"
    wav = load_audio(path)[:seconds*SAMPLE_RATE]
    before, after = (classifier.classify(w.astype('float32'), SAMPLE_RATE) for w in (wav, pad(wav)))
    said = [p.language or p.status for p in (before, after)]
    return dict(clip='/'.join(path.parts[-2:]), seconds=seconds, padding=pad.__name__, said=said,
                moved=round(difference(before, after), 4))


def main(model, out=None):
    classifier = LanguageClassifier.from_pretrained(model)
    clips = sorted(Path('nbs/samples').glob('*/*.flac'))
    rows = [compare(classifier, path, s, pad) for path in clips for s in CUTS for pad in PADDINGS]
    changed = [r for r in rows if r['said'][0] != r['said'][1]]
    moved = [r for r in rows if r['moved'] > .05]
    found = dict(changed=len(changed), moved=len(moved), largest=max(r['moved'] for r in rows))
    made = about(f'python tools/checks/padding.py {model}', model=classifier.path, n=len(rows), threads=1)
    save_results(out or f'nbs/results/{model}/padding.json', made, **found, rows=changed + moved)
    return found


if __name__ == '__main__':
    if len(sys.argv) < 2: sys.exit(__doc__)
    print(main(*sys.argv[1:]))
