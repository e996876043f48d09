from importlib.util import find_spec
from pathlib import Path
from nbdev.config import get_config

cfg = get_config(Path(__file__).parent)
project, release, copyright = cfg.title, cfg.version, '2026 The deepclsmote authors'
html_title = f'{cfg.title} {cfg.version}'
extensions = ['myst_nb', 'sphinx.ext.mathjax', 'sphinx_copybutton']
nb_execution_mode = 'off'  # the pages show the outputs that the notebooks hold
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = 'Source', 'Source'
myst_enable_extensions = ['dollarmath', 'amsmath']
myst_heading_anchors = 4
myst_heading_slug_func = 'conf.slug'
suppress_warnings = ['myst.header', 'config.cache']
exclude_patterns = ['_extra']
html_theme, html_extra_path = 'furo', ['../_site/pages/_extra']
html_show_sourcelink = html_show_sphinx = html_copy_source = html_use_index = False
# one file, served by the site itself: formulas need no network
mathjax_path = 'tex-svg-full.js'
html_static_path = ['style.css', str(Path(find_spec('sphinx-mathjax-offline').origin).parent/'static/mathjax'/mathjax_path)]
html_css_files = ['style.css']

def slug(title): return title.strip().lower().replace(' ', '-')
