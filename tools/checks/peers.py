"""Compare with faster-whisper's language detection, in turns on one thread: nbs/results/base/peers.json.

    python tools/checks/peers.py FOLDER [--corpus ../shared/corpus]

FOLDER: Whisper base as faster-whisper reads it (`model.bin`, `config.json`, `tokenizer.json`); it is
computed in int8. Both get the same decoded clips, the VoxLingua107 ones of the test.
The run is logged as one on the test. Needs `pip install -e '.[dev]' faster-whisper`.
"""
import argparse, sys, time
from pathlib import Path
import numpy as np, pandas as pd
from faster_whisper import WhisperModel
from spoken_lang import LanguageClassifier, load_audio
from spoken_lang.core import SAMPLE_RATE
from spoken_lang.manifest import read_parquet
from spoken_lang.results import about, save_results
sys.path.insert(0, str(Path(__file__).parents[1]/'model'))
from accuracy import log_run

OURS, THEIRS = 'base', 'faster-whisper'


def timed(work, wav):
    "(answer, seconds)"
    start = time.perf_counter()
    answer = work(wav)
    return answer, time.perf_counter() - start


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument('folder')
    parser.add_argument('--corpus', default='../shared/corpus')
    args = parser.parse_args()
    classifier = LanguageClassifier.from_pretrained('base')
    whisper = WhisperModel(args.folder, device='cpu', compute_type='int8', cpu_threads=1)
    works = {OURS: lambda wav: classifier.classify(wav, SAMPLE_RATE, languages='all').language,
             THEIRS: lambda wav: whisper.detect_language(wav)[0]}
    clips = read_parquet(args.corpus, 'test')
    clips = clips[(clips.source == 'voxlingua107-dev') & (clips.kind == 'human')]
    clips = clips[clips.code.isin(['en', 'it', 'fr', 'de'])]
    rows = []
    for clip in clips.itertuples():
        wav = load_audio(clip.audio)
        found = {name: timed(work, wav) for name, work in works.items()}
        row = dict(language=clip.code, seconds=len(wav)/SAMPLE_RATE)
        for name, (answer, took) in found.items():
            row |= {f'{name} answer': answer, name: took}
        rows.append(row)
    rows = pd.DataFrame(rows)
    table = {}
    for name in works:
        wrong = int((rows[f'{name} answer'] != rows.language).sum())
        p50, p95 = rows[name].quantile([.5, .95])
        table[name] = dict(wrong=wrong, p50_ms=round(1000*p50, 1), p95_ms=round(1000*p95, 1))
    times = float(np.median(rows[THEIRS]/rows[OURS]))
    made = about(f'python tools/checks/peers.py {args.folder}', classifier.path, n=len(rows), threads=1)
    save_results('nbs/results/base/peers.json', made, table=table, times_faster=round(times, 1),
                 seconds=round(float(rows.seconds.median()), 1))
    log_run(made, OURS, 'time and errors beside faster-whisper')
    print(table, round(times, 1))


if __name__ == '__main__': main()
