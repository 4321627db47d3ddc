"""Run the frame processor of the page on voice agents in an environment that has Pipecat.

    python -m venv PIPECAT && PIPECAT/bin/pip install . pipecat-ai
    python tools/checks/voice_agent.py PIPECAT/bin/python [--model base]

The code is that of nbs/tutorial_voice_agents.ipynb, `processor` and `call`. What the pipeline was told is
written to nbs/results/voice_agent.json, which the page shows.
"""
import argparse, ast, json, subprocess, tempfile
from pathlib import Path
from spoken_lang.inference import find_model
from spoken_lang.results import about, save_results

PAGE, OUT = Path('nbs/tutorial_voice_agents.ipynb'), 'nbs/results/voice_agent.json'
WORDS = [f'nbs/samples/{l}/{v}.flac' for l in ('de', 'fr') for v in ('high', 'low')]


def page_code():
    "{name: text} of the strings of code on the page"
    texts = {}
    for cell in json.loads(PAGE.read_text())['cells']:
        source = ''.join(cell['source'])
        if cell['cell_type'] == 'code' and source.startswith(("processor = '''", "call = '''")):
            name, _, value = source.partition(' = ')
            texts[name] = ast.literal_eval(value)
    return texts


def main():
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument('python')
    parser.add_argument('--model', default='base')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name, text in page_code().items():
            Path(folder, f'{name}.py').write_text(text)
        run = [args.python, f'{folder}/call.py', args.model, *WORDS]
        done = subprocess.run(run, capture_output=True, text=True, timeout=600)
    if done.returncode:
        raise SystemExit(f'{args.python}: {done.stderr[-2000:]}')
    version = 'from importlib.metadata import version; print(version("pipecat-ai"))'
    pipecat = subprocess.run([args.python, '-c', version], capture_output=True, text=True).stdout.strip()
    found = json.loads(done.stdout)
    command = 'python tools/checks/voice_agent.py PYTHON'
    made = about(command, model=find_model(args.model), n=len(WORDS), pipecat=pipecat, name=args.model)
    save_results(OUT, made, **found)
    print(found)


if __name__ == '__main__': main()
