"""Notebooks as nbdev shows them, in a form that any site builder reads. No Quarto needed.

`python docs/pages.py site DIR` stages every page in DIR, `check DIR` reads the finished site, `readme` writes README.md."""
import os, re, shutil, sys, textwrap
from copy import deepcopy
from inspect import Parameter, formatannotation
from itertools import groupby
from pathlib import Path
import nbdev.showdoc
from fastcore.docments import MarkdownRenderer
from fastcore.nbio import mk_cell, nb2str, read_nb, write_nb
from nbconvert import MarkdownExporter
from nbformat import reads
from traitlets.config import Config
from nbdev.config import get_config, nbpath2html
from nbdev.doclinks import nbglob
from nbdev.frontmatter import FrontmatterProc
from nbdev.processors import FilterDefaults, insert_warning, mv_exports

os.environ['IN_TEST'] = '1'  # a cell that exports must not do so here
cfg = get_config(Path(__file__).parent)
sys.path.insert(0, str(cfg.config_path))  # the package of this tree, whichever is installed
books = sorted(p.relative_to(cfg.nbs_path) for p in nbglob(cfg.nbs_path, as_path=True))
pages = {p: nbpath2html(p) for p in books}
sections = dict(zip('01234567', ['The method', 'Rivals', *['Judging']*3, 'Command line', 'Tutorials', 'Results']))  # by first digit
others = ['CHANGELOG.md', 'CONTRIBUTING.md']
tags = {('echo','false'): 'remove-input', ('output','false'): 'remove-output', ('include','false'): 'remove-cell',
        ('code-fold',''): 'hide-input'}  # fastcore reads `true` as ''

class Api(MarkdownRenderer):
    "A symbol as heading, call, docstring and a table of its parameters"
    def _repr_markdown_(self):
        # a class with the constructor of another library is called by its name alone
        ours = not isinstance(self.sym, type) or getattr(self.sym.__init__, '__module__', '').split('.')[0] in ('__main__', cfg.lib_path.name)
        skip = lambda k: k in ('self', 'cls') or not ours
        dm = {k:v for k,v in getattr(self.dm, 'dm', {}).items() if not skip(k)}
        tick = lambda o: f'`{o}`'.replace('|', r'\|')
        rows = []
        for name,d in dm.items():
            anno,default,meaning = (d.get(k, Parameter.empty) for k in ('anno', 'default', 'docment'))
            rows.append(['*returns*' if name == 'return' else f'<code>{name}</code>',
                         '' if anno in (Parameter.empty, type(None)) else tick(re.sub(r'([A-Za-z_]\w*[.])+(?=[A-Za-z_])', '', formatannotation(anno))),
                         '' if default is Parameter.empty else tick(getattr(default, '__name__', repr(default))),
                         '' if meaning in (Parameter.empty, None) else ' '.join(meaning.split()).replace('|', r'\|')])
        rows = [r for r in rows if r[0] != '*returns*' or any(r[1:])]
        keep = [i for i in range(4) if i == 0 or any(r[i] for r in rows)]
        table = [['parameter', 'type', 'default', 'meaning'], ['---']*4, *rows] if any(r[1] or r[3] for r in rows) else []
        table = '\n'.join('| ' + ' | '.join(r[i] for i in keep) + ' |' for r in table)
        own = [p.replace(annotation=Parameter.empty) for p in self.sig.parameters.values() if not skip(p.name)] if self.sig else []
        call = str(self.sig.replace(parameters=own, return_annotation=Parameter.empty)) if self.sig else ''
        call = '\n'.join(textwrap.wrap(self.nm + call, 80, subsequent_indent='    ', break_long_words=False, break_on_hyphens=False))
        return f'{"#"*self.title_level} {self.nm}\n\n```python\n{call}\n```\n\n{self.docs or ""}\n\n{table}'

class Filter(FilterDefaults):
    "nbdev's processors without two that write for Quarto alone, and one whose work `page` does"
    def base_procs(self): return [p for p in super().base_procs() if p not in (FrontmatterProc, insert_warning, mv_exports)]

def page(path):
    "The notebook at `path` with directives obeyed and removed; exported source folded, below what `show_doc` says of it"
    nb,cells,folded = read_nb(cfg.nbs_path/path),[],set()
    for c in nb.cells:
        if c.cell_type == 'code' and re.search(r'(?m)^(def|class|@)', c.source):
            c.source,n = re.subn(r'(?m)^#\|\s*export\b', '#| exports', c.source)
            if n: folded.add(c.id)
    nbdev.showdoc.BasicMarkdownRenderer = Api
    Filter()(nb)
    for c in nb.cells:
        d,at = c.directives,len(cells)
        c.remove_directives()
        if c.cell_type == 'code':
            c.exported = 'exports' in d
            c.metadata = {'tags': [t for (k,v),t in tags.items() if d.get(k) == v] + ['hide-input']*(c.id in folded)}
            if d.get('output') == 'asis':
                md = '\n\n'.join(''.join(o.data['text/markdown']) for o in c.outputs if 'text/markdown' in o.get('data', ()))
                c,at = mk_cell(md, 'markdown', id=c.id),at - bool(cells and cells[-1].get('exported'))
        cells.insert(at, c)
    for c in cells: c.pop('exported', None)
    nb.cells,nb.metadata['language_info'] = cells,{'name': 'python'}
    return nb

def slugs(nb): return {h.strip().lower().replace(' ', '-') for c in nb.cells if c.cell_type == 'markdown' for h in re.findall(r'(?m)^#+ (.+)$', ''.join(c.source))}

def relink(nb, to, known=None):
    """A copy of `nb` whose links to notebooks, and to our own published pages, go to `to(notebook)`

    With `known`, page -> its headings, nbdev's link to a symbol without a heading goes to its class, or is none at all."""
    def symbol(m):
        at = next((a for a in (m[3], m[3].split('.')[0]) if a in known.get(m[2], ())), None)
        return f'[{m[1]}]({cfg.doc_url}{m[2]}#{at})' if at else m[1]
    def f(s):
        if known: s = re.sub(rf'\[(`[^`]+`)\]\({re.escape(cfg.doc_url)}([^)#]+)#([^)]+)\)', symbol, s)
        for book,html in pages.items():
            for old in (book.as_posix(), cfg.doc_url + html.as_posix()): s = s.replace(f']({old}', f']({to(book)}')
        return s
    nb = deepcopy(nb)
    for c in nb.cells:
        if c.cell_type == 'markdown': c.source = f(''.join(c.source))
    return nb

def markdown(nb, folder, name):
    "`nb` as Markdown, its figures written to `folder/name_files`"
    rm = {'remove_input_tags': ['remove-input'], 'remove_all_outputs_tags': ['remove-output'], 'remove_cell_tags': ['remove-cell']}
    conf = Config(TagRemovePreprocessor={'enabled': True, **rm})
    body,res = MarkdownExporter(config=conf).from_notebook_node(reads(nb2str(nb), 4), {'output_files_dir': f'{name}_files'})
    shutil.rmtree(folder/f'{name}_files', ignore_errors=True)
    for f,data in res['outputs'].items():
        (folder/f).parent.mkdir(parents=True, exist_ok=True)
        (folder/f).write_bytes(data)
    body = re.sub(r'(?s)<style scoped>.*?</style>\s*', '', body)
    return re.sub(r'\n{3,}', '\n\n', re.sub(r'(?m)[ \t]+$', '', body)).strip() + '\n'

def contents():
    "The sidebar: notebooks in their order under the name of their section, then what else there is to read"
    toc = lambda caption, names: f'```{{toctree}}\n:hidden:\n:caption: {caption}\n\n' + '\n'.join(names) + '\n```'
    parts = groupby((b for b in books if b.name != cfg.readme_nb), lambda b: sections.get(b.name[0], 'More'))
    return '\n\n'.join([toc('Start', ['Overview <self>']), *(toc(s, [pages[b].with_suffix('').as_posix() for b in bs]) for s,bs in parts),
                        toc('Project', [Path(o).stem for o in others])])

def site(dest):
    "Stage all pages in `dest`; each also as `PAGE.html.md`, which is where the docstrings of the modules point"
    staged = {p: page(p) for p in books}
    known = {pages[p].as_posix(): slugs(nb) for p,nb in staged.items()}
    for p,html in pages.items():
        nb,up = staged[p],'../'*len(html.parts[1:])
        out,extra = Path(dest)/html.with_suffix('.ipynb'), Path(dest)/'_extra'/html
        for o in out,extra: o.parent.mkdir(parents=True, exist_ok=True)
        extra.with_suffix('.html.md').write_text(markdown(relink(nb, lambda q: up+pages[q].as_posix(), known), extra.parent, html.stem), encoding='utf-8')
        nb = relink(nb, lambda q: up+pages[q].with_suffix('.ipynb').as_posix(), known)
        if p.name == cfg.readme_nb: nb.cells.append(mk_cell(contents(), 'markdown', id='toctree'))
        write_nb(nb, out)
    for o in others: shutil.copy(cfg.config_path/o, dest)

def check(dest):
    "Stop if a page of the site loads anything from another host"
    loads = re.compile(r'<(?:script|img|iframe|source|video|link(?=[^>]*(?:stylesheet|icon|preload)))[^>]*(?:src|href)="(?:https?:)?//[^"]*"[^>]*>')
    found = [f'{f.name}: {m}' for f in Path(dest).rglob('*.html') for m in loads.findall(f.read_text(encoding='utf-8'))]
    if found: sys.exit('Pages must not load from another host:\n' + '\n'.join(found))

def readme():
    "Write README.md from the index notebook"
    nb = relink(page(Path(cfg.readme_nb)), lambda q: f'{cfg.nbs_path.name}/{q.as_posix()}')
    (cfg.config_path/'README.md').write_text(markdown(nb, cfg.config_path, 'README'), encoding='utf-8')

if __name__ == '__main__': globals()[sys.argv[1]](*sys.argv[2:])
