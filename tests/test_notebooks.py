"Every notebook is a test: its cells run from top to bottom, in a process of their own. Then: is it written as all are?"
import base64, json, os, re, signal, subprocess, sys
from pathlib import Path
import pytest
from nbdev.doclinks import nbglob

root = Path(__file__).resolve().parents[1]
tools = Path(sys.executable).parent  # the environment need not be active
env = {**os.environ, 'PATH': os.pathsep.join([str(tools), os.environ['PATH']])}
notebooks = sorted(nbglob(root/'nbs', as_path=True))
each = pytest.mark.parametrize('nb', notebooks, ids=lambda nb: nb.stem)
limit = 600  # seconds a notebook may take, ten times what one should

@each
def test_runs(nb):
    "FLAGS='slow' in the environment also runs the cells that carry `#| slow`"
    cmd = [tools/'nbdev-test', nb, '--flags', os.environ.get('FLAGS', '')]
    run = subprocess.Popen(cmd, cwd=root, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try: out,_ = run.communicate(timeout=limit)
    except BaseException as e:  # too slow, or Ctrl-C: what the notebook started must end too
        os.killpg(run.pid, signal.SIGKILL)
        if not isinstance(e, subprocess.TimeoutExpired): raise
        pytest.fail(f'{nb.name} was stopped after {limit} s', pytrace=False)
    if run.returncode: pytest.fail(out, pytrace=False)

def cells(nb): return [(c['cell_type'], ''.join(c['source']).strip(), c.get('outputs', [])) for c in json.loads(nb.read_text('utf-8'))['cells']]

def outputs(nb):
    "What `nb` shows as text, and its figures as PNG bytes"
    text,figures = [],[]
    for _,_,outs in cells(nb):
        for o in outs:
            text += [''.join(v) for k,v in [('text', o.get('text', '')), *o.get('data', {}).items()] if k.startswith('text')]
            if 'image/png' in o.get('data', {}): figures.append(base64.b64decode(''.join(o['data']['image/png'])))
    return '\n'.join(text),figures

@each
def test_form(nb):
    "It opens with a title and what the reader will be able to do, and exports in a last, hidden cell"
    kind,first,_ = cells(nb)[0]
    assert kind == 'markdown' and re.match(r'# \S.*\n\n> \S', first), f'the first cell must be `# Title`, an empty line, `> what it is good for`; it is {first[:80]!r}'
    sources = [s for k,s,_ in cells(nb) if k == 'code']
    if any(re.search(r'^#\|\s*default_exp', s, re.M) for s in sources):
        kind,last,_ = cells(nb)[-1]
        assert kind == 'code' and last.startswith('#| hide') and 'nbdev_export()' in last, 'the last cell must be `#| hide` and `import nbdev; nbdev.nbdev_export()`'

not_ours = {  # in what a notebook shows or says
    'a path of one machine': r'(?<![\w.:/~<-])/(home|root|tmp|usr|opt|var|mnt|private|Users|work)/\w|\b[A-Z]:\\\w|site-packages',
    'an address in memory': r'<[^<>]*\bat 0x[0-9a-f]{6,}',
    'a progress bar': r'█|\d(it/s|s/it)\b|<progress|% \[\d+/\d+',
    'a column of times': r'<th>time</th>|\btrain_loss\b.*\btime\b',
    'a warning': r'\w+Warning: ',
}

@each
def test_outputs(nb):
    "Outputs are kept, and name no machine and no moment"
    said = '\n'.join([s for _,s,_ in cells(nb)]) + '\n'
    shown,_ = outputs(nb)
    found = {what: m[0] for what,pattern in not_ours.items() if (m := re.search(pattern, shown))}
    if m := re.search(not_ours['a path of one machine'], said): found['a path in a cell'] = m[0]
    assert not found, f'{found}; make run NB={nb.relative_to(root)} makes the outputs again'
    lost = [s[:60] for kind,s,outs in cells(nb) if kind == 'code' and '#| echo: false' in s and 'subplots(' in s and not outs]
    assert not lost, f'drawn and not kept: {lost}; make run NB={nb.relative_to(root)} makes the figures again'

@each
def test_size(nb):
    "Small enough for git and for a browser"
    assert nb.stat().st_size < 500_000
    large = {i: len(f) for i,f in enumerate(outputs(nb)[1]) if len(f) > 150_000}
    assert not large, f'bytes of too large figures, counted from 0: {large}'
