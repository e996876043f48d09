"Balanced training on several processes: two and four on the CPU, joined by gloo."
import pickle, sys, types
import pytest, torch
import torch.multiprocessing as mp
from fastai.basics import Callback, DataLoaders
from torch.utils.data import DataLoader as TorchLoader, TensorDataset
from deepclsmote.callbacks import BalanceCallback, BalancedSamplerCallback, SyntheticDataset
from deepclsmote.core import InputError
from deepclsmote.loaders import BalancedSampler, ImagesInMemory
from marked import Marked, Spy, fit, learner, marked_images, memory_dls, read_marks

pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::DeprecationWarning')
counts = (1000,500,250,125,125)
bs = 50

def distributed_dl():
    "fastai's loader for several processes; it wants a name from accelerate, and broadcasts on a GPU alone"
    sys.modules.setdefault('accelerate', types.SimpleNamespace(Accelerator=type('Accelerator', (), {})))
    from fastai.distributed import DistributedDL
    class OnCPU(DistributedDL):
        def _broadcast(self, t, rank):
            t = torch.LongTensor(t)
            torch.distributed.broadcast(t, rank)
            return t.tolist()
    return OnCPU

class Distributed(Callback):
    "What fastai's DistributedTrainer does to loaders"
    order = 11
    def __init__(self, wrap): self.wrap = wrap
    def _wrap_dl(self, dl): return dl if isinstance(dl, self.wrap) else self.wrap(dl, torch.distributed.get_rank(), torch.distributed.get_world_size())
    def before_fit(self): self.old,self.learn.dls.loaders = list(self.dls),[self._wrap_dl(dl) for dl in self.dls]
    def before_train(self): self.learn.dl = self._wrap_dl(self.learn.dl)
    before_validate = before_train
    def after_fit(self): self.learn.dls.loaders = self.old

def trained_on(cb, wrap, n):
    "(synthetic, class, row, draw) of everything a process was trained on, an epoch an entry, and the sizes of batches"
    spy = Spy()
    learn = fit(learner(memory_dls(counts, bs, n=n), cb, Distributed(wrap), spy, c=5), 2)
    assert type(learn.dls.train).__name__ == 'MemoryLoader'
    return [[torch.cat(t) for t in zip(*[read_marks(x) for x,_ in e])] + [[len(y) for _,y in e]] for e in spy.epochs]

def one_process(rank, folder):
    "First all four meet, then the first two alone"
    torch.set_num_threads(1)
    for world in (4, 2):
        if rank < world: watch(rank, world, folder)

def watch(rank, world, folder):
    "All that is asked of a process; what it saw goes to a file"
    torch.distributed.init_process_group('gloo', init_method=f'file://{folder}/meet{world}', rank=rank, world_size=world)
    wrap,labels,seen = distributed_dl(),torch.arange(5).repeat_interleave(torch.tensor(counts)),{}
    sampler = BalancedSampler(labels, n=8000, seed=0)
    seen['sampler'] = [list(sampler), list(sampler)]
    seen['loader'] = [i for b, in TorchLoader(TensorDataset(torch.arange(2000)), 50, sampler=BalancedSampler(labels, 'sqrt', n=8000, seed=0)) for i in b.tolist()]
    try: list(BalancedSampler(labels))
    except InputError as e: seen['no seed'] = str(e)
    for name,cb,n in (('symmetric', BalanceCallback(Marked(random_state=0), seed=0), 2050), ('top_up', BalanceCallback(Marked(random_state=0), mode='top_up', seed=0), 2050),
        ('fresh', BalanceCallback(Marked(random_state=0)), 200), ('rows', BalancedSamplerCallback(seed=rank), 2000)): seen[name] = trained_on(cb, wrap, n)
    images = marked_images(counts)
    ds = SyntheticDataset(ImagesInMemory(*images), Marked(random_state=0), bs, seed=0)
    seen['data set'] = [[torch.cat(t) for t in zip(*[read_marks(x) for x,_ in ds])] + [len(ds)]]
    seen['place'] = pickle.loads(pickle.dumps(ds)).place  # for workers that are not forks
    loader = TorchLoader(ds, batch_size=None, num_workers=1, multiprocessing_context='fork')
    try: next(iter(loader))
    except InputError as e: seen['workers'] = str(e)
    ds.set_epoch(3)
    seen['with workers'] = [torch.cat(t) for t in zip(*[read_marks(x) for x,_ in loader])]
    plain = TorchLoader(TensorDataset(torch.arange(2000)), 50, sampler=BalancedSampler(labels, seed=0))
    seen['dropped'] = [i for b, in wrap(plain, rank, world) for i in b.tolist()]
    torch.save(seen, f'{folder}/{world}.{rank}.pt')
    torch.distributed.destroy_process_group()

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp('processes')
    mp.spawn(one_process, (str(path),), nprocs=4)
    return path

@pytest.fixture(params=[2, 4])
def seen(request, folder):
    "What each process saw"
    return [torch.load(folder/f'{request.param}.{r}.pt', weights_only=False) for r in range(request.param)]

labels = torch.arange(5).repeat_interleave(torch.tensor(counts))
def share(y): return torch.as_tensor(y).bincount(minlength=5)/len(y)
alike = torch.full((5,), .2)

def test_sampler(seen):
    "Frequencies on each process and together within 1 %, one epoch for all, no row lost"
    whole = BalancedSampler(labels, n=8000, seed=0, rank=0, world_size=1)
    for epoch in range(2):
        parts = [s['sampler'][epoch] for s in seen]
        assert sum(parts, []) == list(whole)
        for rows in parts+[sum(parts, [])]: torch.testing.assert_close(share(labels[rows]), alike, rtol=.01, atol=0)
        times = torch.tensor(sum(parts, [])).bincount(minlength=2000)
        for c in range(5): assert times[labels == c].max()-times[labels == c].min() <= 1
    want = torch.tensor(counts)**.5/(torch.tensor(counts)**.5).sum()
    for s in seen: torch.testing.assert_close(share(labels[s['loader']]), want, rtol=.01, atol=0)
    assert all('Pass seed=0' in s['no seed'] for s in seen)

@pytest.mark.parametrize('mode', ['symmetric','top_up'])
def test_balance(seen, mode):
    "Whole batches on all processes, as many on each; classes within 1 %; images of its own, real rows shared out"
    world = len(seen)
    for epoch in range(2):
        parts = [s[mode][epoch] for s in seen]
        for new,cls,rows,draws,sizes in parts:
            assert sizes == [bs]*-(-41//world) and new.float().mean() == (.5 if mode == 'symmetric' else .6)
            torch.testing.assert_close(share(cls), alike, rtol=0, atol=.01)
            if mode == 'symmetric': torch.testing.assert_close(share(cls[new]), alike, rtol=0, atol=.01)
            else: assert not (cls[new] == 0).any()
        new,cls,rows,draws = (torch.cat(t) for t in list(zip(*parts))[:4])
        torch.testing.assert_close(share(cls), alike, rtol=0, atol=.01)
        times = rows[~new].bincount(minlength=2000)
        _,own,_,_ = read_marks(marked_images(counts)[0])
        for c in range(5): assert times[own == c].max()-times[own == c].min() <= 1
        assert len({tuple(p[3][p[0]].tolist()) for p in parts}) == world

def test_no_seed(seen):
    "Without a seed the processes still share one epoch, the first one's"
    parts = [s['fresh'][0] for s in seen]
    rows = torch.cat([p[2][~p[0]] for p in parts])
    _,own,_,_ = read_marks(marked_images(counts)[0])
    times = rows.bincount(minlength=2000)
    for c in range(5): assert times[own == c].max()-times[own == c].min() <= 1
    assert len({tuple(p[3][p[0]].tolist()) for p in parts}) == len(seen)

def test_sampler_callback(seen):
    for epoch in range(2):
        parts = [s['rows'][epoch] for s in seen]
        for p in parts: torch.testing.assert_close(share(p[1]), alike, rtol=0, atol=.01)
        assert len(torch.cat([p[2] for p in parts])) == 2000 and share(torch.cat([p[1] for p in parts])).equal(alike)

def test_synthetic_dataset(seen):
    world = len(seen)
    parts = [s['data set'][0] for s in seen]
    for new,cls,rows,draws,n in parts:
        assert n == -(-40//world) and len(new) == n*bs and new.float().mean() == .5
        torch.testing.assert_close(share(cls), alike, rtol=0, atol=.01)
    _,own,_,_ = read_marks(marked_images(counts)[0])
    for parts in (parts, [s['with workers'] for s in seen]):
        times = torch.cat([p[2][~p[0]] for p in parts]).bincount(minlength=2000)
        for c in range(5): assert times[own == c].max()-times[own == c].min() <= 1
        assert len({tuple(p[3][p[0]].tolist()) for p in parts}) == world
    assert all('set_epoch' in s['workers'] and s['place'] == (r,world) for r,s in enumerate(seen))

def test_fastai_drops_a_sampler(seen):
    "Why the callbacks use none: fastai's loader of several processes takes the rows in order instead"
    assert sum([s['dropped'] for s in seen], []) == list(range(2000))

def test_refused_without_a_process_group(monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    for f in (lambda: list(BalancedSampler([0,1], seed=0)), lambda: len(BalancedSampler([0,1], seed=0)), lambda: len(SyntheticDataset(ImagesInMemory(*marked_images((6,3))), Marked(), 4, seed=0))):
        with pytest.raises(InputError, match='init_process_group'): f()
    assert len(BalancedSampler([0,1], rank=0, world_size=2, seed=0)) == 1
    with pytest.raises(InputError, match='Pass seed=0'): list(BalancedSampler([0,1], rank=0, world_size=2))
