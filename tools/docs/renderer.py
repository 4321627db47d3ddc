"""How the docs show a function: name, docstring and a table of its parameters.

`renderer` in settings.ini names it.
"""
from fastcore.docments import DocmentTbl
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import BasicMarkdownRenderer


class TableRenderer(BasicMarkdownRenderer):
    "nbdev's renderer with a table in place of the signature"
    def _repr_markdown_(self):
        source, table = NbdevLookup().code(self.fn), DocmentTbl(self.sym)
        if not table.has_docment: return super()._repr_markdown_()
        style = '{target="_blank" style="float:right; font-size:smaller"}'
        link = f'[source]({source}){style}\n\n' if source else ''
        title = f'{"#"*self.title_level} {self.nm}'
        return f'---\n\n{link}{title}\n\n{self.docs or ""}\n\n{table}'
