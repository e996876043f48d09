"Training: killed at any moment it ends the same; spoilt checkpoints are refused; fastai's own tools work; the history is true."
import errno, gc, json, os, random, signal, socket, subprocess, sys, time
from multiprocessing import get_context
from pathlib import Path
import numpy as np
import pytest, torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import CSVLogger, ProgressCallback
from fastai.callback.schedule import valley
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.callback.training import GradientAccumulation, ShortEpochCallback
from fastai.torch_core import get_model
from torch import nn
from deepclsmote.classifiers import train_classifier
from deepclsmote.core import InputError, load_tensors, new_generator, save_tensors, toy_images
from deepclsmote.loaders import ImagesInMemory, augment_shift
from deepclsmote.models import Conv, ConvTranspose
from deepclsmote.training import Checkpoint, Objective, autoencoder_learner, encode_all, encoded, history, train

X,Y = toy_images((20,12,5))
images,labels = torch.from_numpy(X)[:,None],torch.from_numpy(Y)
tiny = dict(latent_dim=2, decoder='compact', batch_size=8, lr=1e-3, seed=1, device='cpu', precision='float32')

def tiny_learner(images=images, labels=labels, cbs=None, **settings):
    "A Learner that prints nothing"
    learn = autoencoder_learner(images, labels, cbs=cbs, **{**tiny, **settings})
    learn.remove_cb(ProgressCallback)
    learn.logger = lambda row: None
    return learn

def quick(epochs=2, schedule='constant', **settings):
    learn = tiny_learner(**settings)
    train(learn, epochs, schedule, progress=False)
    return learn

def state(learn): return {k: v.detach().clone() for k,v in get_model(learn.model).state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def generators(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def own_shift(x, generator): return augment_shift(x, generator, degrees=5)

class EachEpoch(Callback):
    "Keep the weights at the end of each epoch"
    order = 52
    def before_fit(self): self.kept = []
    def after_epoch(self): self.kept.append(state(self.learn))

# --- killed at any moment ------------------------------------------------------------------------------------------

cases = dict(float32=dict(augment=True), bfloat16=dict(augment=True, precision='bfloat16'), epoch=dict(augment=own_shift, centroid='epoch'),
             head=dict(centroid='head', balanced=.5), penalty=dict(augment=True, penalty='code'), paper=dict(penalty='paper', schedule='one-cycle'),
             one_cycle=dict(augment=True, schedule='one-cycle'))

def child(case, checkpoint, out, fault):
    "Train to the end in a process of its own, which `fault` may kill while it writes a checkpoint"
    torch.set_num_threads(1)
    settings = dict(cases[case])
    settings['objective'] = Objective(centroid=settings.pop('centroid', 'batch'))
    if fault: install(*fault)
    learn = quick(8, settings.pop('schedule', 'constant'), lr=5e-3, checkpoint=checkpoint, **settings)
    torch.save(dict(weights=state(learn), history=history(learn).to_numpy(), columns=list(history(learn))), out)

def install(kind, n):
    "SIGKILL ourselves at the n-th write: half written, before it is safe on disk, before or after it gets its name"
    count = iter(range(1, 1000))
    die = lambda: os.kill(os.getpid(), signal.SIGKILL)
    fsync,replace,fdopen = os.fsync,os.replace,os.fdopen
    class Half:
        def __init__(self, f): self.f = f
        def __enter__(self): return self
        def __exit__(self, *args): self.f.close()
        def __getattr__(self, name): return getattr(self.f, name)
        def write(self, data):
            if next(count) == n: self.f.write(data[:len(data)//2]); self.f.flush(); die()
            return self.f.write(data)
    if kind == 'half': os.fdopen = lambda *args: Half(fdopen(*args))
    if kind == 'fsync': os.fsync = lambda fd: die() if next(count) == n else fsync(fd)
    if kind == 'before': os.replace = lambda *args: die() if next(count) == n else replace(*args)
    if kind == 'after':
        def replaced(*args):
            replace(*args)
            if next(count) == n: die()
        os.replace = replaced

context = get_context('forkserver')
context.set_forkserver_preload(['deepclsmote.training', 'pytest', 'fastai.callback.fp16', 'fastai.callback.tracker', 'fastai.callback.training'])

def run_child(case, checkpoint, out, fault=None, wait=120):
    "The exit code; after `wait` seconds it is killed"
    p = context.Process(target=child, args=(case, checkpoint, out, fault))
    p.start()
    p.join(wait)
    if p.is_alive(): p.kill()
    p.join()
    return p.exitcode

@pytest.mark.parametrize('case', cases)
def test_killed_run_ends_the_same(case, tmp_path):
    "The same weights, history and checkpoint, bit for bit, as the run that nobody disturbed and the run without a checkpoint"
    assert run_child(case, None, tmp_path/'plain.pt') == 0
    start = time.perf_counter()
    assert run_child(case, tmp_path/'whole.st', tmp_path/'whole.pt') == 0
    took,rng,kills = time.perf_counter()-start,random.Random(case),0
    killed = tmp_path/'killed'
    killed.mkdir()
    path,out = killed/'c.st',tmp_path/'killed.pt'
    for fault in (('half',2), ('fsync',1), ('before',1), ('after',1)):
        assert run_child(case, path, out, fault) == -signal.SIGKILL, fault
        kills += 1
        load_tensors(path, 'Checkpoint', 1)  # whole, whatever happened
    epochs = load_tensors(path, 'Checkpoint', 1)[1]['epoch']+1
    assert epochs == 2, "a write that was cut short counted, or a whole one did not"
    wait = took/3
    while (code := run_child(case, path, out, wait=rng.uniform(wait/2, wait))):
        assert code == -signal.SIGKILL
        kills,wait = kills+1,wait*1.3
        now = load_tensors(path, 'Checkpoint', 1)[1]['epoch']+1
        assert now >= epochs, "epochs were lost"
        epochs = now
    assert kills >= 5
    a,b,c = (torch.load(tmp_path/f'{n}.pt', weights_only=False) for n in ('plain','whole','killed'))
    for other in (b, c):
        assert same(a['weights'], other['weights']) and a['columns'] == other['columns'] and (a['history'] == other['history']).all()
    assert path.read_bytes() == (tmp_path/'whole.st').read_bytes(), "last weights, best weights, optimizer, generators or records differ"
    left = [f.name for f in killed.iterdir() if f != path]
    assert left and all(f.startswith('.c.st.') for f in left), "no write was cut short, or a stranger's file"

def test_many_more_kills(tmp_path):
    "The moments between two events of fastai: a run stopped there goes on as if nothing had been"
    class Stop(Callback):
        def __init__(self, event, at): self.event,self.at,self.n = event,at,0
        def __call__(self, name):
            if name == self.event:
                self.n += 1
                if self.n == self.at: raise KeyboardInterrupt
    want = quick(4)
    for i,event in enumerate(('before_epoch','before_batch','after_loss','after_backward','after_step','after_batch','after_train','after_fit')):
        path = tmp_path/f'{event}.st'
        for order in (-20, 100):
            stop = Stop(event, 1 if event == 'after_fit' else 3 + (7 if 'batch' in event else 0))
            stop.order = order
            with pytest.raises(KeyboardInterrupt): quick(4, checkpoint=path, cbs=[stop]) if not path.exists() else quick(4, checkpoint=path, cbs=[_set(stop, 1)])
        assert same(state(quick(4, checkpoint=path)), state(want)), event

def _set(stop, at): stop.at = at; return stop

def test_finished_run_is_not_repeated(tmp_path):
    path = tmp_path/'c.st'
    first = quick(3, checkpoint=path)
    before = path.read_bytes(),path.stat().st_mtime_ns
    again = quick(3, checkpoint=path)
    assert same(state(first), state(again)) and history(first).equals(history(again))
    assert (path.read_bytes(),path.stat().st_mtime_ns) == before

def test_more_epochs_go_on(tmp_path):
    "A constant schedule may be lengthened"
    path = tmp_path/'c.st'
    quick(2, checkpoint=path)
    longer,want = quick(5, checkpoint=path),quick(5)
    assert same(state(longer), state(want)) and history(longer).equals(history(want))

# --- checkpoints that cannot be used -------------------------------------------------------------------------------

class NotRead:
    "A pickle that leaves a trace when something unpickles it"
    def __reduce__(self): return os.mkdir, (str(Path.cwd()/'unpickled'),)

@pytest.mark.parametrize('spoil', ['cut', 'header', 'empty', 'pickle', 'text', 'kind', 'version', 'tensors', 'folder'])
def test_spoilt_checkpoint(spoil, tmp_path, monkeypatch):
    import pickle
    monkeypatch.chdir(tmp_path)
    path = tmp_path/'c.st'
    quick(1, checkpoint=path)
    good = path.read_bytes()
    tensors,meta = load_tensors(path, 'Checkpoint', 1)
    if spoil == 'kind': save_tensors(path, tensors, {**meta, 'kind': 'DeepCLSMOTE'})
    elif spoil == 'version': save_tensors(path, tensors, {**meta, 'version': 2})
    elif spoil == 'folder': path.unlink(); path.mkdir()
    elif spoil == 'tensors': path.write_bytes(__import__('safetensors.torch').torch.save(tensors))
    else: path.write_bytes(dict(cut=good[:-100], header=good[:50], empty=b'', pickle=pickle.dumps(NotRead()), text=b'no checkpoint'*100)[spoil])
    before = None if spoil == 'folder' else path.read_bytes()
    with pytest.raises(InputError, match='c.st'): quick(2, checkpoint=path)
    assert path.is_dir() if spoil == 'folder' else path.read_bytes() == before
    assert sorted(f.name for f in tmp_path.iterdir()) == ['c.st'], "something was left, or unpickled"

others = dict(seed=dict(seed=2), lr=dict(lr=2e-3), batch=dict(batch_size=9), latent=dict(latent_dim=3), precision=dict(precision='bfloat16'), augment=dict(augment=True),
              balanced=dict(balanced=.5), penalty=dict(penalty='code'), weights=dict(objective=Objective((1.,2.,1.))), centroid=dict(objective=Objective(centroid='epoch')),
              reading=dict(objective=Objective(reading='algorithm')), images=dict(images=images.flip(3)), float=dict(images=images.float()/127.5-1),
              labels=dict(labels=labels.flip(0)), fewer=dict(images=images[:-1], labels=labels[:-1]), schedule=dict(schedule='one-cycle'))
@pytest.mark.parametrize('what', others)
def test_checkpoint_of_another_run(what, tmp_path):
    path = tmp_path/'c.st'
    quick(1, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(InputError, match='c.st'): quick(2, checkpoint=path, **others[what])
    assert path.read_bytes() == before

def test_other_epochs(tmp_path):
    "Neither fewer epochs than there are, nor a one-cycle schedule of another length"
    path = tmp_path/'c.st'
    quick(3, checkpoint=path)
    with pytest.raises(InputError, match='c.st'): quick(2, checkpoint=path)
    path = tmp_path/'d.st'
    with pytest.raises(KeyboardInterrupt): quick(3, 'one-cycle', checkpoint=path, cbs=[_stop(2)])
    with pytest.raises(InputError, match='d.st'): quick(4, 'one-cycle', checkpoint=path)
    assert same(state(quick(3, 'one-cycle', checkpoint=path)), state(quick(3, 'one-cycle')))

def _stop(epoch):
    "Interrupt at the beginning of an epoch"
    def before_epoch(self):
        if self.epoch == epoch: raise KeyboardInterrupt
    return Callback(before_epoch=before_epoch)

def test_functions_are_known_again(tmp_path):
    "A function for augmentation is told by its name, not by its address, which is another one in each process"
    from deepclsmote import training
    make = lambda: type(own_shift)(own_shift.__code__, own_shift.__globals__, 'own_shift')
    keys = {tiny_learner(augment=f, checkpoint=tmp_path/'c.st').checkpoint.key for f in (own_shift, make())}
    assert len(keys) == 1
    assert tiny_learner(augment=augment_shift, checkpoint=tmp_path/'c.st').checkpoint.key not in keys

def test_numpy_numbers(tmp_path):
    a = quick(1, batch_size=np.int64(8), lr=np.float32(1e-3), seed=np.int64(1), latent_dim=np.int64(2), balanced=np.float32(.5), checkpoint=tmp_path/'c.st')
    assert np.isfinite(history(a).to_numpy()).all()

def test_folder_of_the_checkpoint_is_asked_for_before_work(tmp_path):
    with pytest.raises(InputError, match='absent'): tiny_learner(checkpoint=tmp_path/'absent'/'c.st')

@pytest.mark.parametrize('where', ['write', 'fsync', 'replace', 'mkstemp'])
def test_full_disk(where, tmp_path, monkeypatch):
    "The error reaches the caller, the former checkpoint is whole and goes on, no temporary file is left"
    import tempfile
    path = tmp_path/'c.st'
    quick(2, checkpoint=path)
    before = path.read_bytes()
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    def fail(*args, **kwargs): raise full
    with monkeypatch.context() as m:
        if where == 'write':
            fdopen = os.fdopen
            def opened(fd, mode):
                f = fdopen(fd, mode, buffering=0)
                class Full:
                    def __enter__(self): return self
                    def __exit__(self, *args): f.close()
                    def write(self, data): f.write(data[:1000]); fail()
                return Full()
            m.setattr(os, 'fdopen', opened)
        else: m.setattr(tempfile if where == 'mkstemp' else os, where, fail)
        with pytest.raises(OSError, match='No space left'): quick(4, checkpoint=path)
    assert path.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ['c.st']
    assert same(state(quick(4, checkpoint=path)), state(quick(4)))

# --- best weights and history --------------------------------------------------------------------------------------

@pytest.mark.parametrize('settings', [dict(), dict(penalty='code'), dict(objective=Objective(centroid='epoch'))], ids=['plain','penalty','epoch'])
def test_keep_best(settings):
    "A rate so high that the last epoch is not the best one"
    for seed in range(20):
        keep = EachEpoch()
        learn = quick(6, lr=.05, seed=seed, cbs=[keep], **settings)
        best = int(history(learn).total.argmin())
        if best < 5: break
    assert best < 5 and len(keep.kept) == 6
    assert [same(state(learn), kept) for kept in keep.kept] == [i == best for i in range(6)]

class Slow(Callback):
    "Each term of the loss again, in NumPy with float64, batch by batch"
    order = -5
    def before_epoch(self): self.rows = []
    def before_fit(self): self.table = []
    def after_pred(self):
        (x_hat,z),x,y = (p.detach().double().numpy() for p in self.pred[:2]),self.yb[0].double().numpy(),self.yb[1].numpy()
        present = np.unique(y)
        c = {k: z[y==k].mean(0) for k in present}
        intra = sum(np.mean([np.sum((v-c[k])**2) for v in z[y==k]]) for k in present)
        apart = sum(np.sum((c[i]-c[j])**2) for i in present for j in present)
        self.rows.append([len(y), sum(np.sum((a-b)**2) for a,b in zip(x_hat, x))/len(y), intra, 1/(apart+1e-8) if len(present) > 1 else 0])
    def after_train(self):
        n,*terms = np.array(self.rows).T
        means = [np.sum(n*t)/np.sum(n) for t in terms]
        self.table.append([means[0]*2 + means[1]*.5 + means[2]*3, *means])
        assert n.sum() == len(self.dls.train_ds)

def test_history_is_the_mean_over_images():
    "37 images in batches of 8: the last one has 5 and counts less"
    slow = Slow()
    learn = quick(3, objective=Objective((2.,.5,3.)), cbs=[slow])
    h = history(learn)
    assert list(h) == ['total','recon','intra','inter'] and h.index.name == 'epoch' and list(h.index) == [0,1,2]
    np.testing.assert_allclose(h.to_numpy(), slow.table, rtol=1e-4)

@pytest.mark.parametrize('kind', ['code','paper'])
def test_history_with_penalty(kind):
    learn = quick(3, penalty=kind, objective=Objective((1.,0.,0.), 'mean'))
    h = history(learn)
    assert list(h) == ['total','recon','intra','inter','penalty'] and (h.penalty > 0).all()
    np.testing.assert_allclose(h.total, h.recon+h.penalty, rtol=1e-5)
    assert len(learn.recorder.losses) == 3*5
    lr = dict(lr=1e-12)  # weights stand still
    with_,without = quick(1, penalty=kind, **lr),quick(1, **lr)
    np.testing.assert_allclose(history(with_).recon, history(without).recon, rtol=1e-4)

def test_lines_where_no_bar_can_be_drawn(capsys, monkeypatch, tmp_path):
    "One for each tenth, one more after the first minute, none of the bar; a resumed run counts what is left"
    def shown(epochs, **settings):
        now = iter(range(0, 10**6, 20))  # a clock that goes on 20 s each time somebody looks
        monkeypatch.setattr('deepclsmote.training.time.monotonic', lambda: next(now))
        train(autoencoder_learner(images, labels, **{**tiny, **settings}), epochs)
        return capsys.readouterr().out
    lines = shown(8, checkpoint=tmp_path/'c.st').splitlines()  # 40 steps of 20 s
    assert [l.split(', ')[1] for l in lines] == ['8%','10%',*(f'{p}%' for p in range(20,101,10))]
    assert lines[0].startswith('Training: epoch 1 of 8, 8%, loss ') and lines[0].endswith(' 12:20 left') and lines[-1].startswith('Training: epoch 8 of 8') and lines[-1].endswith(' 00:00 left')
    assert [l.split(', ')[0] for l in shown(10, checkpoint=tmp_path/'c.st').splitlines()][:1] == ['Training: epoch 9 of 10']
    monkeypatch.setattr('deepclsmote.training.draws_bars', lambda: True)
    assert 'train_loss' in shown(1)

class CountTensors(Callback):
    "How many tensors there are at the end of some steps"
    order = 99
    def before_fit(self): self.found = {}
    def after_batch(self):
        if self.training and self.train_iter in (7,27): self.found[self.train_iter] = sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects())

@pytest.mark.parametrize('kind', ['autoencoder','classifier'])
def test_no_tensor_stays_of_a_step(kind):
    "Small tensors that stay would break memory into pieces; twenty steps more leave none"
    count = CountTensors()
    if kind == 'classifier': learn = train_classifier(images, labels, 3, steps=30, batch_size=8, progress=False, device='cpu', cbs=[count])
    else: learn = quick(6, cbs=[count])
    assert len(count.found) == 2 and count.found[27] == count.found[7]
    assert len(learn.recorder.losses) == 30 and {type(v) for v in learn.recorder.losses} == {float}

def test_penalty_changes_the_gradient():
    a,b = quick(2, penalty='code', objective=Objective((1.,0.,0.), 'mean')),quick(2, objective=Objective((1.,0.,0.), 'mean'))
    assert not same(state(a), state(b))

def test_loss_without_a_number(tmp_path):
    "A rate far too high: no mean is finite, and a checkpoint of it can be written and read"
    for _ in range(2):
        try: learn = quick(2, lr=1e30, checkpoint=tmp_path/'c.st')
        except ValueError as e: assert 'finite' in str(e)  # refused in words is fine too
        else: assert history(learn).total.isna().all()

# --- precision -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('decoder,size', [('compact',16), ('papers',28), ('papers',32)])
def test_bfloat16_agrees(decoder, size):
    X,y = toy_images((10,6), (size,size))
    data = dict(images=torch.from_numpy(X)[:,None], labels=torch.from_numpy(y), decoder=decoder, lr=2e-4)
    a,b = (quick(2, precision=p, **data) for p in ('float32','bfloat16'))
    assert not a.model.bfloat16 and b.model.bfloat16
    assert all(p.dtype == torch.float32 for p in b.model.parameters()), "master weights are float32"
    np.testing.assert_allclose(history(a).recon, history(b).recon, rtol=.03)
    np.testing.assert_allclose(history(a).total, history(b).total, rtol=.1)
    z_a,z_b = (encode_all(l.model, data['images']) for l in (a, b))
    assert z_b.dtype == torch.float32 and not torch.equal(z_a, z_b)

layers = dict(up1=(ConvTranspose, nn.ConvTranspose2d, (4,6,5,7), 3, dict()), up2=(ConvTranspose, nn.ConvTranspose2d, (4,6,5,7), 3, dict(stride=2)),
              up3=(ConvTranspose, nn.ConvTranspose2d, (2,5,9,6), 8, dict(stride=2, padding=1, output_padding=(1,0))), up4=(ConvTranspose, nn.ConvTranspose2d, (1,3,1,1), 2, dict()),
              down1=(Conv, nn.Conv2d, (4,3,16,16), 6, dict(stride=2, padding=1, bias=False)), down2=(Conv, nn.Conv2d, (3,6,15,22), 5, dict(stride=2, padding=1, bias=False)),
              down3=(Conv, nn.Conv2d, (2,4,9,7), 5, dict(bias=False)))

def gradients(cls, layer, autocast, memory_format=torch.contiguous_format):
    "Output and gradients by input, weight and bias"
    shape,c_out,how = layers[layer][2:]
    g = new_generator(0)
    module = cls(shape[1], c_out, 4, **how)
    with torch.no_grad():
        for p in module.parameters(): p.copy_(torch.randn(p.shape, generator=g))
    module.to(memory_format=memory_format)
    x = torch.randn(shape, generator=g).contiguous(memory_format=memory_format).requires_grad_()
    with torch.autocast('cpu', torch.bfloat16, enabled=autocast): y = module(x)
    y.float().backward(torch.randn(y.shape, generator=g))
    return [t.detach().float() for t in (y, x.grad, *(p.grad for p in module.parameters()))]

@pytest.mark.parametrize('memory_format', [torch.contiguous_format, torch.channels_last], ids=['contiguous','channels_last'])
@pytest.mark.parametrize('layer', layers)
def test_own_gradient_under_autocast(layer, memory_format):
    "Against torch's layer in float32: within the rounding of bfloat16, and no worse than torch's own bfloat16; without autocast the same"
    ours,torchs = layers[layer][:2]
    exact = gradients(torchs, layer, False)
    error = lambda a: [float((p-q).norm()/q.norm()) for p,q in zip(a, exact)]
    own,theirs = error(gradients(ours, layer, True, memory_format)),error(gradients(torchs, layer, True, memory_format))
    assert len(own) == 3 + ('up' in layer) and own[0] > 0, "the product was not taken in bfloat16"
    for e,t in zip(own, theirs): assert e < .01 and e < 1.5*t+.004, (own, theirs)
    for a,b in zip(gradients(ours, layer, False, memory_format), exact): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('layer', layers)
def test_own_gradient_of_what_needs_it(layer):
    "A layer that is frozen, and an input that needs no gradient"
    cls,_,shape,c_out,how = layers[layer]
    for frozen in (True, False):
        module,x = cls(shape[1], c_out, 4, **how).requires_grad_(not frozen),torch.ones(shape, requires_grad=frozen)
        with torch.autocast('cpu', torch.bfloat16): module(x).float().sum().backward()
        assert (x.grad is not None) == frozen and all((p.grad is None) == frozen for p in module.parameters())

# --- what fastai's users do ----------------------------------------------------------------------------------------

def test_fit_one_cycle_and_fit_twice():
    learn = tiny_learner()
    learn.fit_one_cycle(2, 1e-3)
    assert len(history(learn)) == 2 and max(learn.recorder.lrs) == pytest.approx(1e-3, rel=.05)
    first = history(learn).total.min()
    learn.fit(3, 1e-3)
    assert len(history(learn)) == 3 and history(learn).total.min() < first

def test_lr_find(tmp_path):
    "It puts everything back, and neither reads nor writes the checkpoint"
    path = tmp_path/'c.st'
    learn = tiny_learner(checkpoint=path)
    learn.path = tmp_path
    before = state(learn)
    assert 0 < learn.lr_find(show_plot=False, num_it=20, suggest_funcs=valley).valley < 10
    assert same(before, state(learn)) and not path.exists()
    learn.fit(2)
    written = path.read_bytes()
    learn = tiny_learner(checkpoint=path)
    learn.path = tmp_path
    learn.lr_find(show_plot=False, num_it=20)
    assert same(before, state(learn)) and path.read_bytes() == written

def test_lr_find_leaves_the_fit_alone(tmp_path):
    learn = tiny_learner()
    learn.path = tmp_path
    learn.lr_find(show_plot=False, num_it=20)
    keep = EachEpoch()
    learn.fit(3, cbs=[keep])
    assert same(state(learn), keep.kept[int(history(learn).total.argmin())])

@pytest.mark.parametrize('centroid', ['batch','epoch','head'])
def test_get_preds_and_validate(centroid, tmp_path):
    "In the order of the images, with the weights there are; no record, checkpoint or weight is touched"
    path = tmp_path/'c.st'
    settings = dict(objective=Objective(centroid=centroid), checkpoint=path)
    learn = quick(2, **settings)
    before,written,best = state(learn),path.read_bytes(),learn.keep_best.least
    preds,targets = learn.get_preds(ds_idx=0)
    assert preds[0].shape == images.shape and torch.equal(targets[1], labels)
    torch.testing.assert_close(preds[1], encode_all(learn.model, images), rtol=1e-4, atol=1e-5)
    learn.validate(ds_idx=0)
    learn.validate()
    assert same(before, state(learn)) and path.read_bytes() == written
    fresh = tiny_learner(**{**settings, 'objective': Objective(centroid=centroid)})  # one that has not been fitted must not take weights from the file
    first = state(fresh)
    fresh.get_preds(ds_idx=0)
    assert same(first, state(fresh)) and path.read_bytes() == written
    assert same(before, state(quick(2, **settings)))

def test_early_stopping(tmp_path):
    learn = tiny_learner(checkpoint=tmp_path/'c.st')
    keep = EachEpoch()
    learn.fit(6, cbs=[keep, EarlyStoppingCallback('total', comp=np.less, min_delta=1e9, patience=2)])
    assert len(history(learn)) == 3
    assert same(state(learn), keep.kept[int(history(learn).total.argmin())])

def test_save_model_and_csv(tmp_path):
    learn = tiny_learner()
    learn.path = tmp_path
    learn.fit(3, cbs=[SaveModelCallback('total', comp=np.less), CSVLogger()])
    rows = (tmp_path/'history.csv').read_text().split('\n')
    assert rows[0] == 'epoch,train_loss,total,recon,intra,inter,time' and len(rows) >= 4
    saved = torch.load(tmp_path/'models'/'model.pth')
    assert same(saved, state(learn))
    learn.save('own')
    other = tiny_learner(seed=5)
    other.path = tmp_path
    other.load('own')
    assert same(state(other), state(learn))

def test_gradient_accumulation():
    learn,plain = tiny_learner(),tiny_learner()
    learn.fit(2, cbs=GradientAccumulation(16))
    plain.fit(2)
    steps = lambda l: {int(s['step']) for s in l.opt.opt.state.values()}
    assert max(steps(learn)) < max(steps(plain)) == 10
    np.testing.assert_allclose(history(learn).total[0], history(learn).eval('recon+intra+inter')[0], rtol=1e-5)

def test_epochs_cut_short_or_skipped():
    learn = tiny_learner()
    learn.fit(2, cbs=ShortEpochCallback(.3))
    learn = tiny_learner()
    learn.fit(3, start_epoch=1)
    h = history(learn)
    assert len(h) == 3 and h.total.isna().tolist() == [True,False,False]

def test_mixed_precision_of_fastai():
    learn = tiny_learner()
    learn.fit(1, cbs=MixedPrecision(amp_mode='bf16'))
    assert np.isfinite(history(learn).to_numpy()).all()

def test_summary_and_export(tmp_path):
    import fastai.callback.hook  # learn.summary
    from fastai.learner import load_learner
    learn = tiny_learner(images, labels)
    assert 'Linear' in str(learn.summary())
    learn.export(tmp_path/'learner.pkl')
    with pytest.warns(UserWarning): loaded = load_learner(tmp_path/'learner.pkl')
    assert same(state(loaded), state(learn))

def test_without_the_checkpoint_a_fit_begins_at_zero(tmp_path):
    path = tmp_path/'c.st'
    quick(3, checkpoint=path)
    learn = quick(4, checkpoint=path)
    learn.remove_cb(Checkpoint)
    learn.fit(5)
    assert len(history(learn)) == 5

@pytest.mark.parametrize('n,batch_size', [(2,100), (9,8), (37,36)])
def test_a_last_batch_of_one(n, batch_size):
    "BatchNorm cannot take one image"
    learn = quick(2, images=images[:n], labels=labels[:n], batch_size=batch_size, penalty='code')
    assert np.isfinite(history(learn).to_numpy()).all()

# --- nothing else moves --------------------------------------------------------------------------------------------

def flags():
    c = torch.backends.cudnn
    return c.enabled, c.benchmark, c.deterministic, c.allow_tf32, c.benchmark_limit, torch.get_float32_matmul_precision(), torch.are_deterministic_algorithms_enabled()

@pytest.mark.parametrize('settings', [dict(augment=True, balanced=.5), dict(penalty='paper', precision='bfloat16'), dict(objective=Objective(centroid='epoch'))])
def test_global_state_rests(settings, tmp_path):
    "Generators, flags of the backends, threads, default dtype"
    seen = []
    look = Callback(after_epoch=lambda self: seen.append(flags()))
    before,now = generators(),flags()
    others = torch.get_num_threads(),torch.get_default_dtype(),torch.is_grad_enabled()
    learn = quick(2, checkpoint=tmp_path/'c.st', cbs=[look], **settings)
    encode_all(learn.model, images)
    assert generators() == before, "a global generator was moved"
    assert flags() == now and (torch.get_num_threads(),torch.get_default_dtype(),torch.is_grad_enabled()) == others
    enabled,benchmark,deterministic,tf32,*_ = seen[0]
    assert (enabled,benchmark,deterministic,tf32) == (now[0],False,True,now[3]), "in training, cuDNN is on and deterministic"

def test_flags_are_restored_after_an_error():
    now = flags()
    with pytest.raises(KeyboardInterrupt): quick(3, cbs=[_stop(1)])
    assert flags() == now

def test_seed_decides():
    "And a global generator does not"
    a = quick(2, augment=True)
    torch.manual_seed(5); random.seed(5)
    b = quick(2, augment=True)
    assert same(state(a), state(b)) and not same(state(a), state(quick(2, augment=True, seed=2)))

def test_encode_all_restores_the_mode():
    learn = tiny_learner()
    for mode in (True, False):
        learn.model.train(mode)
        z = encode_all(learn.model, images)
        assert learn.model.training == mode and z.shape == (37,2) and not z.requires_grad
    torch.testing.assert_close(z, torch.cat([z for z,_ in encoded(learn.model, ImagesInMemory(images, labels), torch.arange(37))]))

def test_inputs_are_not_changed():
    x,y = images.clone(),labels.clone()
    quick(1, images=x, labels=y, augment=True)
    assert torch.equal(x, images) and torch.equal(y, labels)

# --- what is refused -----------------------------------------------------------------------------------------------

@pytest.mark.parametrize('settings', [dict(batch_size=1), dict(batch_size=0), dict(batch_size=2.5), dict(batch_size='8'), dict(lr=0), dict(lr=-1e-3), dict(lr=float('nan')),
    dict(lr=float('inf')), dict(lr='fast'), dict(penalty='both'), dict(penalty=None), dict(precision='float16'), dict(precision=None), dict(balanced=1.5), dict(balanced=-.1),
    dict(decoder='large'), dict(latent_dim=0), dict(latent_dim=2.5), dict(device='gpu7'), dict(seed=-1), dict(seed=.5), dict(images=images[:1], labels=labels[:1]),
    dict(labels=labels[:-1]), dict(labels=labels.float()), dict(images=images.double()), dict(images=images[:,0]), dict(images=images[:,:,:8,:8])], ids=str)
def test_settings_out_of_range(settings):
    settings = {**dict(images=images, labels=labels), **tiny, **settings}
    with pytest.raises(InputError) as e: autoencoder_learner(**settings)
    assert len(str(e.value)) > 20

@pytest.mark.parametrize('epochs,schedule', [(0,'constant'), (-1,'constant'), (1.5,'constant'), ('3','constant'), (None,'constant'), (1,'cosine'), (1,None)])
def test_fits_out_of_range(epochs, schedule):
    learn = tiny_learner()
    before = state(learn)
    with pytest.raises(InputError): train(learn, epochs, schedule, progress=False)
    assert same(before, state(learn))

@pytest.mark.parametrize('centroid', ['mean', None, 'Batch'])
def test_objective_out_of_range(centroid):
    with pytest.raises(InputError): Objective(centroid=centroid)

# --- two processes -------------------------------------------------------------------------------------------------

two = '''
import json, os, sys, types
import torch, torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
try: import accelerate
except ModuleNotFoundError:  # no requirement of ours; fastai asks it for these three things
    class Accelerator:
        def __init__(self, **kwargs): pass
        def prepare(self, model): return DistributedDataParallel(model)
        def backward(self, loss): loss.backward()
    sys.modules['accelerate'] = types.SimpleNamespace(Accelerator=Accelerator, __spec__=None)
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from test_training import *
from fastai.distributed import DistributedDL
def broadcast(self, t, rank):
    t = torch.tensor(t)  # fastai's own wants a GPU
    dist.broadcast(t, rank)
    return t.tolist()
DistributedDL._broadcast = broadcast
dist.init_process_group('gloo')
out = Path(sys.argv[2])
keep = EachEpoch()
settings = json.loads(sys.argv[3])
learn = tiny_learner(lr=.05, checkpoint=out/'c.st', cbs=[keep], objective=Objective(centroid=settings.pop('centroid', 'batch')), **settings)
learn.to_distributed(sync_bn=False, cpu=True)
learn.fit(6)
rank = dist.get_rank()
torch.save(dict(weights={k: v for k,v in learn.model.named_parameters()}, history=history(learn).to_numpy(), trained=type(learn.model).__name__,
    differ=[i for i,k in enumerate(keep.kept) if any(not torch.equal(k[n], p) for n,p in learn.model.named_parameters())]), out/f'{rank}.pt')
dist.barrier()
dist.destroy_process_group()
'''

@pytest.mark.skipif(not torch.distributed.is_available() or not torch.distributed.is_gloo_available(), reason='this PyTorch has no gloo')
def test_two_processes(tmp_path, settings=dict(penalty='code', centroid='epoch')):
    "fastai's distributed training on two CPU processes: both end with the same weights, those of the best epoch of both"
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    env = {**os.environ, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port), 'WORLD_SIZE': '2', 'OMP_NUM_THREADS': '1'}
    cmd = [sys.executable, '-W', 'ignore', '-c', two, str(Path(__file__).parent), str(tmp_path), json.dumps(settings)]
    runs = [subprocess.Popen(cmd, env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for r in range(2)]
    try: said = [r.communicate(timeout=120)[0] for r in runs]
    finally:
        for r in runs: r.kill()
    assert [r.returncode for r in runs] == [0,0], '\n'.join(said)[-3000:]
    a,b = (torch.load(tmp_path/f'{r}.pt', weights_only=False) for r in range(2))
    assert a['trained'] == 'CodesToo', "the model is still wrapped"
    np.testing.assert_allclose(a['history'], b['history'], rtol=1e-5)
    assert same(a['weights'], b['weights']), "the processes ended with different weights"
    assert len(a['history']) == 6 and int(a['history'][:,0].argmin()) not in a['differ']
    load_tensors(tmp_path/'c.st', 'Checkpoint', 1)
