"""Test vectors for every implementation of `decide`.

    python tools/checks/vectors.py    # writes nbs/results/decide.json

Logits are random; the predictions are those of spoken_lang. The notebook of `decide` and the page
without a server are tested by them.
"""
from dataclasses import asdict
import numpy as np
from spoken_lang.prediction import LANGUAGES, decide
from spoken_lang.results import about, save_results

OUT = 'nbs/results/decide.json'
FIVE = list(LANGUAGES)
WITH_OTHER, MANY = [*FIVE, 'other', 'none'], [*FIVE, 'es', 'nl', 'pt', 'none']
CASES = [  # (labels, windows, options)
    (WITH_OTHER, 1, {}),
    (WITH_OTHER, 4, dict(seconds=24.)),
    (WITH_OTHER, 0, dict(seconds=.2)),
    (WITH_OTHER, 3, dict(temperature=1.7)),
    (WITH_OTHER, 2, dict(languages=['de', 'gsw'])),
    (WITH_OTHER, 2, dict(priors=dict(de=.7, gsw=.3))),
    (WITH_OTHER, 3, dict(languages=['en', 'fr', 'it'], priors=dict(it=3., fr=1.))),
    (WITH_OTHER, 2, dict(min_known=.99)),
    (WITH_OTHER, 2, dict(min_speech=.9999)),
    (WITH_OTHER, 2, dict(min_evidence=12.)),
    (MANY, 1, dict(default=FIVE)),
    (MANY, 3, dict(default=FIVE, temperature=.8)),
    (MANY, 2, dict(default=FIVE, min_known=.05)),
    (MANY, 2, dict(default=FIVE, languages='all')),
    (MANY[:-1], 2, dict(languages=['es', 'de'])),
    (WITH_OTHER, 9, {})]


def vector(seed, labels, windows, options):
    "Random logits with their prediction"
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (windows, len(labels))).round(2).tolist()
    prediction = asdict(decide(logits, labels, **options))
    return dict(labels=labels, logits=logits, options=options, prediction=prediction)


if __name__ == '__main__':
    vectors = [vector(seed, *case) for seed, case in enumerate(CASES)]
    head = about('python tools/checks/vectors.py', n=len(vectors), seed=0)
    save_results(OUT, head, vectors=vectors)
