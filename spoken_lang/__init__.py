"""Says which language is spoken in a recording: English, Italian, French, German or Swiss German."""
import logging
__version__ = "0.1.0"
__all__ = ['classify', 'LanguageClassifier', 'load_audio', 'Prediction']
_MODULES = dict(classify='inference', LanguageClassifier='inference', load_audio='audio', Prediction='prediction')
logging.getLogger('torch.utils._pytree').setLevel(logging.ERROR)  # it warns of torchao, where that is installed


def __getattr__(name):
    "Import the public names only when they are used, so that `import spoken_lang` costs nothing"
    if name not in _MODULES: raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from importlib import import_module
    return getattr(import_module(f'spoken_lang.{_MODULES[name]}'), name)
