"A grid of cells: killed, shared, spread over processes and a cluster, with methods that fail; nothing lost, nothing twice."
import errno, json, os, signal, subprocess, sys, time
from dataclasses import replace
from pathlib import Path
import pytest
from deepclsmote import grid as module
from deepclsmote.core import InputError
from deepclsmote.evaluation import read_record, read_records, record_path
from deepclsmote.grid import Grid, check_grid, jobs, run_grid

small = Grid(['digits.digits'], ['none', 'smote', 'smote+augment', 'deepclsmote', 'deepclsmote+symmetric'], folds=[0,1], steps=12,
             settings=dict(deepclsmote=dict(epochs=3, decoder='compact', precision='float32')))
cells = 10
def silent(*a): pass

def results(root):
    "What a cell found, without clocks"
    return {(r['method'], r['fold']): json.dumps([r['confusion'], r['metrics'], r['counts_after'], r['cell']]) for r in read_records(root)}

def pictures(root): return {p.relative_to(root).as_posix(): p.read_bytes() for p in Path(root).rglob('*.png')}
def left_over(root): return [p for p in Path(root).rglob('*') if p.is_file() and p.suffix not in ('.json','.lock','.png')]

@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    root = tmp_path_factory.mktemp('grid')
    assert run_grid(small, root, threads=1, device='cpu', say=silent) == 0
    assert len(results(root)) == cells and not left_over(root)
    assert sorted(pictures(root)) == [f'digits.digits/{m}/fold0-seed0.png' for m in ('deepclsmote','smote')]
    return results(root),pictures(root)

def test_images_drawn_afresh(tmp_path):
    "One fit serves the set made once and the one drawn anew for each batch; again, the same"
    grid = Grid(['digits.digits'], ['deepclsmote', 'deepclsmote+alongside(afresh=True)', 'deepclsmote+alongside(afresh=True)+augment'], folds=[0], steps=6, settings=dict(deepclsmote=dict(epochs=2, decoder='compact')))
    for root in (tmp_path/'a', tmp_path/'b'): assert run_grid(grid, root, threads=1, device='cpu', say=silent) == 0
    assert results(tmp_path/'a') == results(tmp_path/'b') and len(results(tmp_path/'a')) == 3 and not left_over(tmp_path/'a')
    fits = {r['method']: r['seconds']['fit'] for r in read_records(tmp_path/'a')}
    assert len(set(fits.values())) == 1

program = '''
import sys, warnings; warnings.simplefilter('ignore')
sys.path.insert(0, {tests!r})
from test_grid import small, run_grid
{first}
run_grid(small, {root!r}, threads=1, device='cpu', wait={wait})
print('ended')
'''
def start(root, first='', wait=1.):
    return subprocess.Popen([sys.executable, '-c', program.format(tests=str(Path(__file__).parent), root=str(root), first=first, wait=wait)], stdout=subprocess.PIPE, text=True, env={**os.environ, 'OMP_NUM_THREADS': '1'})

def wait_for(condition, limit=300):
    end = time.monotonic()+limit
    while not condition():
        assert time.monotonic() < end, 'nothing happened'
        time.sleep(.02)

def test_killed_and_started_again(tmp_path, undisturbed):
    "Killed after a record, after an autoencoder's first epoch, and while a record is being written; then run to the end"
    def records(): return list(tmp_path.rglob('fold*.json'))
    p = start(tmp_path); wait_for(records); p.kill(); p.wait()
    had = {f: f.read_bytes() for f in records()}
    p = start(tmp_path); wait_for(lambda: list(tmp_path.rglob('*.ckpt'))); p.kill(); p.wait()
    assert all(f.read_bytes() == b for f,b in had.items())
    n = len(records())
    writes = "import os, signal, deepclsmote.core as core\nreal = os.replace\ndef replace(a, b):\n    if 'fold' in str(b): os.kill(os.getpid(), signal.SIGKILL)\n    real(a, b)\nos.replace = replace"
    p = start(tmp_path, writes); assert p.wait() == -signal.SIGKILL
    assert len(records()) == n
    p = start(tmp_path); said = p.communicate()[0]
    assert said.endswith('ended\n') and f'{n} of {cells} cells were done before' in said
    assert all(f.read_bytes() == b for f,b in had.items()) and (results(tmp_path), pictures(tmp_path)) == undisturbed

def test_two_processes_share_a_folder(tmp_path, undisturbed):
    both = [start(tmp_path) for _ in range(2)]
    said = [p.communicate()[0] for p in both]
    assert all(s.endswith('ended\n') for s in said)
    ran = [line.split(': ', 1)[1].rsplit(': ', 1)[0] for s in said for line in s.splitlines() if ': done' in line]
    assert len(ran) == len(set(ran)) == cells  # no cell twice
    assert (results(tmp_path), pictures(tmp_path)) == undisturbed and not left_over(tmp_path)

def test_a_process_that_waits_takes_over(tmp_path, undisturbed):
    "The one that has a job dies; the other, which waits for it, does it"
    first = start(tmp_path); wait_for(lambda: list(tmp_path.rglob('*.lock')))
    second = start(tmp_path, wait=.2); time.sleep(1)
    first.kill(); first.wait()
    assert second.communicate()[0].endswith('ended\n') and (results(tmp_path), pictures(tmp_path)) == undisturbed

def test_joblib_processes(tmp_path, undisturbed):
    assert run_grid(small, tmp_path, n_jobs=2, threads=1, device='cpu', say=silent) == 0
    assert (results(tmp_path), pictures(tmp_path)) == undisturbed

killer = '''
import os, signal
from pathlib import Path
from deepclsmote.registry import oversampler
from deepclsmote.rivals.pixels import StoredImages
@oversampler('killer', paper='this test', cost='a process')
class Killer(StoredImages):
    def _learn(self, seed):
        lives = Path(os.environ['KILLER_LIVES'])
        n = int(lives.read_text())
        lives.write_text(str(n-1))
        if n > 0: os.kill(os.getpid(), signal.SIGKILL)
    def _sample_images(self, label, n, generator): return self._copies(label, n, generator)
'''
@pytest.fixture
def a_killer(tmp_path, monkeypatch):
    "An oversampler that kills its process as often as a file says; it lives in a module that workers import"
    from deepclsmote import registry
    (tmp_path/'killer_of_test_grid.py').write_text(killer)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]))
    monkeypatch.setenv('KILLER_LIVES', str(tmp_path/'lives'))
    yield lambda lives: ((tmp_path/'lives').write_text(str(lives)), Grid(['digits.digits'], ['killer','killer+augment','none'], folds=[0,1], steps=4, imports=['killer_of_test_grid']))[1]
    registry._methods.pop('killer', None)
    sys.modules.pop('killer_of_test_grid', None)

@pytest.fixture
def fresh_workers():
    "Worker processes of joblib see the environment of now"
    from joblib.externals.loky import get_reusable_executor
    get_reusable_executor().shutdown(wait=True)
    yield
    get_reusable_executor().shutdown(wait=True)

def test_a_worker_dies(tmp_path, a_killer, fresh_workers):
    "Once: the rest goes on and the job is done later"
    said = []
    assert run_grid(a_killer(1), tmp_path/'out', n_jobs=2, threads=1, device='cpu', say=said.append) == 0
    assert any('worker process died' in s for s in said) and len(read_records(tmp_path/'out')) == 6

def test_a_job_that_always_kills_its_worker(tmp_path, a_killer, fresh_workers):
    grid = a_killer(10**6)
    assert run_grid(grid, tmp_path/'out', n_jobs=2, threads=1, device='cpu', say=silent) == 4
    status = {(r['method'], r['fold']): r['status'] for r in read_records(tmp_path/'out')}
    assert status == {(m,f): 'done' if m == 'none' else 'failed' for m in grid.methods for f in (0,1)}
    assert all('killed twice' in r['error'] for r in read_records(tmp_path/'out') if r['status'] == 'failed')
    (tmp_path/'lives').write_text('0')
    assert run_grid(grid, tmp_path/'out', threads=1, device='cpu', say=silent) == 4  # failed cells stay as they are
    assert run_grid(grid, tmp_path/'out', threads=1, device='cpu', say=silent, retry=True) == 0

def test_dask_cluster_with_a_worker_killed(tmp_path, undisturbed):
    distributed = pytest.importorskip('distributed')
    import threading
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, distributed.Client(cluster):
        pids = [w.pid for w in cluster.workers.values()]
        def kill():
            wait_for(lambda: len(list(tmp_path.rglob('fold*.json'))) >= 2)
            os.kill(pids[0], signal.SIGKILL)
        thread = threading.Thread(target=kill); thread.start()
        assert run_grid(small, tmp_path, n_jobs=2, backend='dask', threads=1, device='cpu', say=silent, wait=.5) == 0
        thread.join()
    assert (results(tmp_path), pictures(tmp_path)) == undisturbed and not left_over(tmp_path)

def test_ray(tmp_path, undisturbed):
    ray = pytest.importorskip('ray')
    try: assert run_grid(small, tmp_path, n_jobs=2, backend='ray', threads=1, device='cpu', say=silent) == 0
    finally: ray.shutdown()
    assert (results(tmp_path), pictures(tmp_path)) == undisturbed and not left_over(tmp_path)

@pytest.mark.parametrize('backend', ['cluster','dask','ray'])
def test_a_backend_that_cannot_be_had(tmp_path, monkeypatch, backend):
    "An unknown name, a cluster without a client, a package that is missing; nothing has begun"
    if backend == 'ray': monkeypatch.setitem(sys.modules, 'ray.util.joblib', None)
    with pytest.raises(InputError, match=f"backend='{backend}' cannot be had"): run_grid(small, tmp_path, backend=backend, device='cpu', say=silent)
    assert not read_records(tmp_path)

def test_a_backend_without_results_in_turn(tmp_path, undisturbed, monkeypatch):
    "As ray's"
    from joblib.parallel import LokyBackend
    monkeypatch.setattr(LokyBackend, 'supports_return_generator', False)
    assert run_grid(small, tmp_path, n_jobs=2, threads=1, device='cpu', say=silent) == 0
    assert (results(tmp_path), pictures(tmp_path)) == undisturbed and not left_over(tmp_path)

def test_a_cell_fails(tmp_path):
    bad = Grid(['digits.digits'], ['smote', 'smote(k_neighbors=0)', 'smote(k_neighbors=0)+augment'], folds=[0], steps=4)
    assert run_grid(bad, tmp_path, device='cpu', say=silent) == 2
    kept = {r['method']: r for r in read_records(tmp_path)}
    assert kept['smote']['status'] == 'done' and all('k_neighbors' in r['error'] and 'Traceback' in r['error'] for m,r in kept.items() if m != 'smote')
    assert run_grid(bad, tmp_path, device='cpu', say=silent, retry=True) == 2

def test_a_full_disk_stops_the_grid(tmp_path, monkeypatch):
    "It is no property of a cell; what was written stays, and the next start goes on"
    real,left = module.save_record,[3]
    def full(record, root):
        left[0] -= 1
        if left[0] < 0: raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(record, root)
    monkeypatch.setattr(module, 'save_record', full)
    with pytest.raises(OSError, match='No space left'): run_grid(small, tmp_path, device='cpu', threads=1, say=silent)
    assert [r['status'] for r in read_records(tmp_path)] == ['done']*3
    monkeypatch.undo()
    said = []
    run_grid(small, tmp_path, device='cpu', threads=1, say=said.append)
    assert said[0] == f'3 of {cells} cells were done before.' and len(results(tmp_path)) == cells

def test_records_that_do_not_belong(tmp_path):
    quick = Grid(['digits.digits'], ['none'], folds=[0], steps=3)
    run_grid(quick, tmp_path, device='cpu', say=silent)
    with pytest.raises(InputError, match='another folder'): run_grid(replace(quick, steps=4), tmp_path)
    path, = tmp_path.rglob('fold*.json')
    path.write_text(path.read_text()[:100])
    with pytest.raises(InputError, match='no JSON'): run_grid(quick, tmp_path)

@pytest.mark.parametrize('change,says', [(dict(tasks=['mnst.peerj']), 'mnst'), (dict(tasks=['digits.peerj']), 'images'), (dict(tasks=['digits.digits/by track']), 'no groups'), (dict(classifiers=['resnet']), 'resnet')])
def test_refused_before_any_work(tmp_path, change, says):
    with pytest.raises(InputError, match=says): run_grid(replace(small, **change), tmp_path/'new', device='cpu')
    assert not list((tmp_path/'new').rglob('fold*.json'))

def test_grid_file(tmp_path):
    path = tmp_path/'grid.json'
    path.write_text(json.dumps(dict(about='a trial', tasks=['digits.digits'], methods=['none', 'ros + augment'], folds=[2], steps=7, settings=dict(ros={}))))
    grid = Grid.read(path)
    assert grid == Grid(['digits.digits'], ['none','ros+augment'], folds=[2], steps=7, settings=dict(ros={}))
    assert [(j.sampler, j.fold) for j in jobs(grid)] == [('none',2),('ros',2)] and len(check_grid(grid, tmp_path)) == 2
    for text,says in (('{', 'no JSON'), ('[]', 'list'), ('{"tasks": ["digits.digits"], "method": []}', 'method')):
        path.write_text(text)
        with pytest.raises(InputError, match=says): Grid.read(path)

def test_paths_of_records(tmp_path):
    record = dict(dataset='gtsrb10', protocol='peerj-gtsrb/by track', method='none', classifier='plain_cnn', fold=0, seed=1)
    assert record_path(record, tmp_path).relative_to(tmp_path).as_posix() == 'gtsrb10.peerj-gtsrb, by track/none/plain_cnn/fold0-seed1.json'

@pytest.mark.parametrize('method', ['deepclsmote(sampling_strategy={5: 50})', 'deepclsmote(device="cpu")', "none+augment(name='a/b')", f"deepclsmote({', '.join(f'k{i}=1' for i in range(40))})"])
def test_folders_of_methods_on_every_system(tmp_path, method):
    "A name that Windows refuses or a slash that makes two folders of one would lose the record"
    record = dict(dataset='mnist', protocol='peerj', method=method, classifier='plain_cnn', fold=0, seed=0)
    folder = record_path(record, tmp_path).relative_to(tmp_path).parts[1]
    assert not set(folder) & set('<>:"/\\|?*') and len(folder) <= 100 and folder.startswith(method[:10])
    others = {record_path({**record, 'method': m}, tmp_path) for m in (method, method.replace(':', '_'), method+' ', method.replace('/', '_'), method.replace('=1)', '=2)'))}
    assert len(others) == len({method, method.replace(':', '_'), method+' ', method.replace('/', '_'), method.replace('=1)', '=2)')})

def test_records_of_this_project_lie_where_they_belong():
    root = Path(__file__).parent.parent/'results'
    for folder in (p for p in root.iterdir() if [*p.rglob('fold*-seed*.json')]):
        for path in folder.rglob('fold*-seed*.json'):
            assert path.as_posix().endswith('/'.join(record_path(read_record(path), root).parts[-4:])), path
