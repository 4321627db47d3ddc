"""How the docs show a function: name, docstring and a table of its parameters.

`renderer` in settings.ini names it.
"""
import inspect
from fastcore.docments import docments, DocmentTbl
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import BasicMarkdownRenderer


class ParameterTable(DocmentTbl):
    "fastcore's table, in which the comment of `**kwargs` stands beside it and not under Returns"
    def __init__(self, obj):
        super().__init__(obj)
        self.dm = docments(obj, full=True, args_kwargs=True)
        self.dm.pop('self', None)
        for d in self.dm.values():
            if d['docment'] is None: d['docment'] = inspect.Parameter.empty


class TableRenderer(BasicMarkdownRenderer):
    "nbdev's renderer with a table in place of the signature"
    def _repr_markdown_(self):
        source, table = NbdevLookup().code(self.fn), ParameterTable(self.sym)
        if not table.has_docment: return super()._repr_markdown_()
        style = '{target="_blank" style="float:right; font-size:smaller"}'
        link = f'[source]({source}){style}\n\n' if source else ''
        title = f'{"#"*self.title_level} {self.nm}'
        return f'---\n\n{link}{title}\n\n{self.docs or ""}\n\n{table}'
