"""Made by tools/checks/stubs.py"""
from spoken_lang.audio import load_audio as load_audio
from spoken_lang.inference import classify as classify, LanguageClassifier as LanguageClassifier
from spoken_lang.prediction import Prediction as Prediction

__version__: str
