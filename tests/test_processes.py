"Training shared by two processes: the gradient of one, the same weights in both, and an end when one of them dies."
import json, os, signal, socket, subprocess, sys, time
import numpy as np
import pytest
import torch
from deepclsmote.core import InputError, load_tensors, toy_images
from deepclsmote.oversamplers import DeepCLSMOTE
from deepclsmote import training

pytestmark = pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason='this PyTorch has no gloo')

head = '''
import json, os, sys, time
from pathlib import Path
import numpy as np, torch, torch.distributed as dist
from deepclsmote.core import toy_images
torch.set_num_threads(1)
out,settings = Path(sys.argv[1]),json.loads(sys.argv[2])
rank = int(os.environ['RANK'])
X,y = toy_images((24,15,9,4))
images,labels = torch.from_numpy(X)[:,None],torch.from_numpy(y)
'''

def start(code, out, settings=None, world=2):
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {**os.environ, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': str(world), 'OMP_NUM_THREADS': '1'}
    return [subprocess.Popen([sys.executable, '-W', 'ignore', '-c', head + code, str(out), json.dumps(settings or {})], env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in range(world)]

def finish(runs, timeout=240):
    try: said = [r.communicate(timeout=timeout)[0] for r in runs]
    finally:
        for r in runs: r.kill()
    return [r.returncode for r in runs],said

loss_and_gradient = '''
dist.init_process_group('gloo')
from torch.nn.parallel import DistributedDataParallel
from deepclsmote.models import Autoencoder, build
from deepclsmote.training import Objective
class Double(torch.nn.Module):
    "What CodesToo returns, in float64"
    def __init__(self): super().__init__(); self.both = build(lambda: Autoencoder(1, (16,16), 3, 'compact', settings['centroid'] == 'head'), 0).double()
    def forward(self, x):
        e = self.both.encoder
        h = e.features(x)
        z = e.code(h)
        return (self.both.decoder(z), z) if e.centroid is None else (self.both.decoder(z), z, e.centroid(h))
model,objective = Double().eval(),Objective(**settings)  # eval: BatchNorm of a part of the batch is another question
objective.kept = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
x = images.double()/127.5-1
mine = [slice(0,19), slice(19,52)][rank]  # parts of different sizes
whole = objective(model(x), x, labels)
expected = torch.autograd.grad(whole, list(model.parameters()), allow_unused=True)
objective.shared = True
ddp = DistributedDataParallel(model, find_unused_parameters=True)
loss = objective(ddp(x[mine]), x[mine], labels[mine])
loss.backward()
most = max(float(e.abs().max()) for e in expected if e is not None)
off = max(float((p.grad - e).abs().max())/most for p,e in zip(model.parameters(), expected) if e is not None)
json.dump(dict(loss=loss.item(), whole=whole.item(), off=off, most=most), open(out/f'{rank}.json', 'w'))
dist.barrier(); dist.destroy_process_group()
'''

@pytest.mark.parametrize('settings', [dict(centroid='batch'), dict(centroid='epoch', reading='algorithm', eps=1e-2), dict(centroid='head', reduction='mean'), dict(centroid='batch', weights=(0.,1.,1.))], ids=str)
def test_loss_and_gradient_of_the_whole_batch(tmp_path, settings):
    codes,said = finish(start(loss_and_gradient, tmp_path, settings))
    assert codes == [0,0], '\n'.join(said)[-3000:]
    for r in range(2):
        got = json.loads((tmp_path/f'{r}.json').read_text())
        assert got['loss'] == pytest.approx(got['whole'], rel=1e-6) and got['off'] < 1e-6 and got['most'] > 1e-3, got

whole_fit = '''
from deepclsmote.oversamplers import DeepCLSMOTE
over = DeepCLSMOTE(distributed=True, random_state=0, progress=False, checkpoint=out/'c.st', **settings)
over.fit(X, y)
torch.save(dict(weights=over.autoencoder_.state_dict(), codes=over.codes_, history=over.history_.to_numpy()), out/f'{rank}.pt')
for number,new,made in over.sample_parts({1: 9, 3: 20}, size=4, rank=rank, world_size=2): np.savez(out/f'part{number}-{rank}.npz', new=new, parents=made.to_numpy(float))
over.save(out/f'{rank}.safetensors')
dist.barrier(); dist.destroy_process_group()
'''
small = dict(epochs=3, batch_size=8, latent_dim=3, decoder='compact', device='cpu', lr=1e-3)

def test_fit_by_two(tmp_path):
    "Both end with the same weights, statistics of BatchNorm included; the parts of both are those of one process"
    codes,said = finish(start(whole_fit, tmp_path, small))
    assert codes == [0,0], '\n'.join(said)[-3000:]
    a,b = (torch.load(tmp_path/f'{r}.pt', weights_only=False) for r in range(2))
    for k in a['weights']: assert a['weights'][k].equal(b['weights'][k]), k
    assert a['codes'].equal(b['codes'])
    np.testing.assert_allclose(a['history'], b['history'], rtol=1e-6)
    assert load_tensors(tmp_path/'c.st', 'Checkpoint', 1)[1]['epoch'] == 2
    parts = sorted(tmp_path.glob('part*.npz'), key=lambda p: int(p.stem[4:].split('-')[0]))
    assert [p.stem for p in parts] == [f'part{i}-{i%2}' for i in range(8)]
    one = DeepCLSMOTE.load(tmp_path/'0.safetensors')
    assert one.distributed is False
    for p,(number,new,made) in zip(parts, one.sample_parts({1: 9, 3: 20}, size=4), strict=True):
        with np.load(p) as z: assert (z['new'] == new).all() and (z['parents'] == made.to_numpy(float)).all()

dies = '''
from fastai.callback.core import Callback
from deepclsmote.training import autoencoder_learner, shared, train
class Die(Callback):
    order = 70
    def after_epoch(self):
        (out/f'epoch{self.epoch}-{rank}').touch()
        if self.epoch == 1 and rank == 1: time.sleep(600)
learn = autoencoder_learner(images, labels, 3, 'compact', batch_size=8, device='cpu', checkpoint=out/'c.st', cbs=[Die()])
with shared(learn): train(learn, 50, progress=False)
'''

def test_one_is_killed(tmp_path):
    "The other ends within a minute, says why, and the checkpoint holds the epochs until then"
    runs = start(dies, tmp_path)
    try:
        end = time.monotonic()+200
        while not (tmp_path/'epoch1-1').exists() and time.monotonic() < end and runs[1].poll() is None: time.sleep(.2)
        assert (tmp_path/'epoch1-1').exists(), runs[1].communicate(timeout=5)[0] if runs[1].poll() is not None else 'too slow'
        while not (tmp_path/'c.st').exists(): time.sleep(.1)
        runs[1].send_signal(signal.SIGKILL)
        said = runs[0].communicate(timeout=60)[0]
    finally:
        for r in runs: r.kill()
    assert runs[0].returncode != 0 and 'process 0 of 2 has lost another one' in said, said[-3000:]
    assert load_tensors(tmp_path/'c.st', 'Checkpoint', 1)[1]['epoch'] >= 0

def test_under_torchrun(tmp_path):
    "As a user would start it; accelerate's own launcher knows several processes on GPUs alone"
    script = tmp_path/'balance.py'
    script.write_text(head + whole_fit)
    env = {**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONWARNINGS': 'ignore'}
    r = subprocess.run([sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2', str(script), str(tmp_path), json.dumps(small)], env=env, capture_output=True, text=True, timeout=300)
    assert r.returncode == 0, (r.stdout + r.stderr)[-3000:]
    a,b = (torch.load(tmp_path/f'{k}.pt', weights_only=False) for k in range(2))
    for k in a['weights']: assert a['weights'][k].equal(b['weights'][k])

def test_alone(monkeypatch):
    "One process, or no accelerate: refused before training"
    X,y = toy_images()
    with pytest.raises(InputError, match='one process'): DeepCLSMOTE(distributed=True, random_state=0, epochs=1, device='cpu').fit(X, y)
    with pytest.raises(InputError, match='random_state'): DeepCLSMOTE(distributed=True, epochs=1, device='cpu').fit(X, y)
    monkeypatch.setenv('WORLD_SIZE', '2'); monkeypatch.setattr(training, 'find_spec', lambda name: None)
    with pytest.raises(InputError, match='pip install accelerate'): DeepCLSMOTE(distributed=True, random_state=0, epochs=1, device='cpu').fit(X, y)

def test_without_accelerate():
    "What `pip install deepclsmote` brings is enough for all but training over several processes"
    import subprocess, sys
    program = "import sys; sys.modules['accelerate'] = None; from deepclsmote.cli import main; sys.exit(main(['methods']))"
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', program], capture_output=True, text=True)
    assert done.returncode == 0 and 'deepclsmote' in done.stdout, done.stderr
