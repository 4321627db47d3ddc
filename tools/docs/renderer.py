"""How the docs show a function: name, docstring and a table of its parameters.

`renderer` in settings.ini names it.
"""
import inspect
import click
from fastcore.docments import DocmentTbl
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import BasicMarkdownRenderer


def link_to(name):
    "A link to the source of `module.name`, or nothing"
    source = NbdevLookup().code(name)
    style = '{target="_blank" style="float:right; font-size:smaller"}'
    return f'[source]({source}){style}\n\n' if source else ''


def command_text(command, level):
    "A command of Click: its help, and a table of its arguments and options"
    function = command.callback
    rows = []
    for param in command.params:
        names = ', '.join(f'`{name}`' for name in param.opts)
        if isinstance(param, click.Argument):
            names = f'`{param.make_metavar(click.Context(command))}`'
        rows.append(f'| {names} | {getattr(param, "help", None) or ""} |')
    table = '\n'.join(['| | |', '|---|---|', *rows]) if rows else ''
    title = f'{"#"*level} {function.__name__}'
    link = link_to(f'{function.__module__}.{function.__name__}')
    return f'---\n\n{link}{title}\n\n{inspect.cleandoc(command.help or "")}\n\n{table}'


class TableRenderer(BasicMarkdownRenderer):
    "nbdev's renderer with a table in place of the signature"
    def _repr_markdown_(self):
        if isinstance(self.sym, click.Command):
            return command_text(self.sym, self.title_level)
        table = DocmentTbl(self.sym)
        if not table.has_docment: return super()._repr_markdown_()
        title = f'{"#"*self.title_level} {self.nm}'
        return f'---\n\n{link_to(self.fn)}{title}\n\n{self.docs or ""}\n\n{table}'
