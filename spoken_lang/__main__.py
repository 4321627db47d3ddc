"The command line as `python -m spoken_lang`"
from .cli import main

main()
