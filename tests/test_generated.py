"What is made from the notebooks and committed says what they say; what is built and installed is complete; rooms import downwards."
import ast, os, re, shutil, subprocess, sys, tarfile, zipfile
from graphlib import CycleError, TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path
import pytest
from nbdev.doclinks import nbglob

root = Path(__file__).resolve().parents[1]
env = {k:v for k,v in os.environ.items() if k not in ('MAKEFLAGS', 'MFLAGS', 'MAKELEVEL')}
env['PATH'] = os.pathsep.join([str(Path(sys.executable).parent), env['PATH']])
# Only these are copied: a working tree also holds environments, data and results
sources = ('Makefile MANIFEST.in pyproject.toml settings.ini setup.py LICENSE README.md README_files CHANGELOG.md CONTRIBUTING.md '
           'deepclsmote docs nbs').split()
skip = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'data', 'checkpoints')

@pytest.fixture
def copy(tmp_path):
    for name in sources:
        if (root/name).is_dir(): shutil.copytree(root/name, tmp_path/'copy'/name, ignore=skip)
        elif (root/name).exists(): (tmp_path/'copy').mkdir(exist_ok=True); shutil.copy2(root/name, tmp_path/'copy')
    return tmp_path/'copy'

def ran(*cmd, cwd):
    run = subprocess.run(cmd, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)
    if run.returncode: pytest.fail(run.stdout, pytrace=False)
    return run.stdout

def contents(folder, names):
    files = (f for n in names for f in [folder/n, *(folder/n).rglob('*')] if f.is_file() and '__pycache__' not in f.parts)
    return {str(f.relative_to(folder)): f.read_bytes() for f in files if '.ipynb_checkpoints' not in f.parts}

make = ['make', 'USE=', 'DEV=', f'VENV={sys.prefix}']  # with the environment that runs the tests, as it is
made = {'modules': (['deepclsmote'], [*make, 'export']),
        'notebooks': (['nbs'], ['nbdev-clean']),
        'readme': (['README.md', 'README_files'], [*make, 'readme'])}

@pytest.mark.parametrize('what', made)
def test_up_to_date(what, copy):
    "Make it again in a copy: the same files, byte for byte"
    names,cmd = made[what]
    ran(*cmd, cwd=copy)
    old,new = contents(root, names),contents(copy, names)
    if what == 'notebooks': old,new = ({k:v for k,v in d.items() if k.endswith('.ipynb')} for d in (old, new))
    stale = sorted(f for f in old.keys() | new.keys() if old.get(f) != new.get(f))
    assert not stale, f'not what {cmd[-1]} makes: {stale}'

def test_build(copy, tmp_path):
    "A wheel built from the source distribution holds every module, the command and the requirements"
    build = 'import sys, setuptools.build_meta as b; print(getattr(b, sys.argv[1])(sys.argv[2]))'
    name = ran(sys.executable, '-c', build, 'build_sdist', tmp_path, cwd=copy).split()[-1]
    with tarfile.open(tmp_path/name) as tar: tar.extractall(tmp_path/'sdist', **({'filter': 'data'} if hasattr(tarfile, 'data_filter') else {}))  # the earlier 3.10 and 3.11 know no filters
    top, = (tmp_path/'sdist').iterdir()
    name = ran(sys.executable, '-c', build, 'build_wheel', tmp_path, cwd=top).split()[-1]
    with zipfile.ZipFile(tmp_path/name) as wheel:
        inside = set(wheel.namelist())
        read = lambda end: wheel.read(next(n for n in inside if n.endswith(end))).decode()
        points,meta = read('.dist-info/entry_points.txt'),read('.dist-info/METADATA')
    package = set(contents(root, ['deepclsmote']))
    assert package <= inside, f'not in the wheel: {sorted(package - inside)}'
    assert {'deepclsmote/__init__.py', 'deepclsmote/py.typed'} <= inside and any(n.endswith('licenses/LICENSE') for n in inside)
    assert 'deepclsmote = deepclsmote.cli:main' in points
    wanted = {r.strip() for r in re.search(r'(?ms)^requirements =\n(.*?)^\w', (root/'settings.ini').read_text())[1].splitlines()}
    assert wanted <= set(re.findall(r'(?m)^Requires-Dist: ([^;\n]+)$', meta))

def rooms():
    "Module name -> number of its notebook, as text"
    res = {}
    for nb in nbglob(root/'nbs', as_path=True):
        exp = re.search(r'#\|\s*default_exp ([\w.]+)', nb.read_text('utf-8'))
        if exp and nb.name[:2].isdigit(): res[f'deepclsmote.{exp[1]}'] = nb.name.split('_')[0]  # '01' < '01a' < '02'
    return res

def imports():
    "Module -> modules of the package that it imports, anywhere in it; `__init__.py` and nbdev's index aside"
    files = {'.'.join(f.relative_to(root).with_suffix('').parts): f for f in (root/'deepclsmote').rglob('*.py') if f.name[0] != '_'}
    res = {}
    for mod,f in files.items():
        found = set()
        for node in ast.walk(ast.parse(f.read_text('utf-8'))):
            if isinstance(node, ast.Import): found |= {a.name for a in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = resolve_name('.'*node.level + (node.module or ''), mod.rpartition('.')[0])
                found |= {base, *(f'{base}.{a.name}' for a in node.names)}
        res[mod] = found & files.keys() - {mod}
    return res

def wrong_arrows(rooms, imports):
    "(importer, imported) where the number does not fall; `charts` and `plots`, which draw what they are given, may use `core` alone, the one beside it `statistics`, the other `charts`"
    drawing = {'deepclsmote.charts': ['deepclsmote.core','deepclsmote.statistics'], 'deepclsmote.plots': ['deepclsmote.core','deepclsmote.charts']}
    allowed = lambda a, b: rooms[b] < rooms[a] and (a not in drawing or b in drawing[a])
    return [(a, b) for a,bs in imports.items() for b in bs if a in rooms and not (b in rooms and allowed(a, b))]

def test_arrows():
    "A room imports rooms of lower numbers only, and nothing goes in a circle"
    assert len(rooms()) == len(set(rooms().values())), f'two rooms with one number: {rooms()}'
    assert not wrong_arrows(rooms(), imports())
    try: list(TopologicalSorter(imports()).static_order())
    except CycleError as e: pytest.fail(' imports '.join(reversed(e.args[1])), pytrace=False)

def test_arrows_would_fail():
    "The rule itself: upwards, sideways out of `plots`, and to a module without a number"
    d = lambda *names: {f'deepclsmote.{n}' for n in names}
    nums = {f'deepclsmote.{n}': i for n,i in dict(core=0, smote=4, metrics=30, charts=32, plots=33).items()}
    for a,b,ok in [('smote','core',1), ('core','smote',0), ('plots','core',1), ('plots','metrics',0), ('plots','charts',1), ('charts','core',1), ('charts','metrics',0), ('smote','loose',0)]:
        assert bool(wrong_arrows(nums, {f'deepclsmote.{a}': d(b)})) != ok
