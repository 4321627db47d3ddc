"""How the docs show a function: its name, what it does, and a table of its parameters; `renderer` in settings.ini."""
from fastcore.docments import DocmentTbl
from nbdev.doclinks import NbdevLookup
from nbdev.showdoc import BasicMarkdownRenderer


class TableRenderer(BasicMarkdownRenderer):
    "nbdev's renderer with a table in place of the signature, which the source below repeats"
    def _repr_markdown_(self):
        source, table = NbdevLookup().code(self.fn), DocmentTbl(self.sym)
        if not table.has_docment: return super()._repr_markdown_()
        link = f'[source]({source}){{target="_blank" style="float:right; font-size:smaller"}}\n\n' if source else ''
        return f'---\n\n{link}{"#"*self.title_level} {self.nm}\n\n{self.docs or ""}\n\n{table}'
