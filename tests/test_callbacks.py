"Balanced training: batches, what is left behind, company with other callbacks, bad input; rows, samplers, labels."
import math, random, types, warnings
import numpy as np
import pytest, torch
from torch.utils.data import DataLoader as TorchLoader, IterableDataset, Subset, TensorDataset
from fastai.callback.core import Callback, CancelBatchException, CancelEpochException, CancelFitException, CancelTrainException, event
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.schedule import minimum
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation
from fastai.data.block import CategoryBlock, DataBlock, MultiCategoryBlock
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import FuncSplitter, Normalize, RandomSplitter
from fastai.learner import Learner, load_learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import TensorCategory
from fastai.vision.augment import FlipItem, RandomResizedCrop, aug_transforms
from fasttransform import Transform
from fastai.vision.core import PILImage, PILImageBW, TensorImage
from fastai.vision.data import ImageBlock
from hypothesis import given, settings, strategies as st
from PIL import Image
from deepclsmote import callbacks
from deepclsmote.callbacks import *
from deepclsmote.core import InputError, new_generator, to_signed
from deepclsmote.loaders import *
from deepclsmote.oversamplers import DeepCLSMOTE
from marked import *

pytestmark = pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore:User provided device_type', 'ignore:torch.cuda.amp.GradScaler', 'ignore:.*GradScaler')

def test_events_exist():
    "fastai never calls an event whose name is misspelt"
    for cls in (LoaderView, BalanceCallback, BalancedSamplerCallback):
        assert {k for k in dir(cls) if k.startswith(('before_','after_'))} <= set(vars(event))

# The plan ----------------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(counts=st.lists(st.integers(0, 300), min_size=2, max_size=8).filter(lambda c: sum(map(bool, c)) > 1), ratio=st.floats(.01, 1), mode=st.sampled_from(['symmetric','alongside','top_up']))
def test_plan(counts, ratio, mode):
    share,real,synthetic = balance_plan(counts, mode, ratio)
    n,whole = torch.tensor(counts).double(),share*real + (1-share)*synthetic
    assert 0 < share <= 1 and whole.sum().item() == pytest.approx(1) and not whole[n == 0].any()
    if mode == 'symmetric':
        torch.testing.assert_close(whole, (n > 0).double()/(n > 0).sum())
        assert share == pytest.approx(1/(1+ratio)) and real.equal(synthetic)
    elif mode == 'alongside':
        torch.testing.assert_close(real, n/n.sum())
        torch.testing.assert_close(whole*(1+ratio), n/n.sum() + ratio*(n > 0)/(n > 0).sum())
        assert share == pytest.approx(1/(1+ratio))
    else:
        want = torch.where(n > 0, n.clamp(min=ratio*n.max()), 0)
        torch.testing.assert_close(whole, want/want.sum())
        torch.testing.assert_close(real, n/n.sum())

@pytest.mark.parametrize('ratio,made', [('auto',[0,40,54]), ('minority',[0,0,54]), ('not majority',[0,40,54]), ('all',[0,40,54]), ({1: 30},[0,10,0]), ({1: 30, 2: 26},[0,10,20]), (.5,[0,10,24]), (.1,[0,0,0])])
def test_plan_as_imbalanced_learn(ratio, made):
    share,real,synthetic = balance_plan([60,20,6], 'top_up', ratio)
    made = torch.tensor(made).double()
    assert share == pytest.approx(86/(86+made.sum().item()))
    torch.testing.assert_close(synthetic*made.sum(), made)

# Batches -----------------------------------------------------------------------------------------

@pytest.mark.parametrize('mode,ratio', [('symmetric',1.), ('symmetric',.5), ('symmetric',3), ('alongside',1.), ('alongside',.25), ('top_up',1.), ('top_up',.4), ('top_up','auto'), ('top_up','minority'), ('top_up',{1: 30, 2: 46})])
def test_counts_of_batches(mode, ratio):
    "Each batch has its size; classes and synthetic images have their shares, exact to rounding"
    counts,bs = torch.tensor([60,20,6]),32
    got, = epochs_of(BalanceCallback(Marked(), ratio, mode, seed=0), memory_dls(bs=bs))
    share,p,q = balance_plan(counts, mode, ratio)
    keep = round(share*bs)
    assert len(got) == math.ceil(86/bs) and 0 < keep < bs
    real,synthetic = torch.zeros(3),torch.zeros(3)
    for x,y in got:
        new,cls,_,_ = read_marks(x)
        assert len(y) == bs and cls.equal(y) and new.sum() == bs-keep and not new[:keep].any()
        assert ((y[new].bincount(minlength=3) - (bs-keep)*q).abs() < 1+1e-9).all()
        real += y[~new].bincount(minlength=3); synthetic += y[new].bincount(minlength=3)
    assert ((real - len(got)*keep*p).abs() < 1+1e-9).all()
    if mode == 'top_up': assert not synthetic[0]

def test_real_rows_are_real_and_all_are_seen():
    dls = memory_dls()
    known = dls.train_ds.images
    (a,b), = [epochs_of(BalanceCallback(Marked(), seed=0), dls, n=2)]
    for batches in (a, b):
        for x,y in batches:
            new,cls,rows,_ = read_marks(x)
            assert x[~new].equal(to_signed(known[rows[~new]])) and x[new].shape[0] == 8
    rows = torch.cat([read_marks(x)[2][~read_marks(x)[0]] for x,_ in a]).tolist()
    rare = [r for r in rows if dls.train_ds.labels[r] == 2]
    assert max(map(rare.count, set(rare))) - min(map(rare.count, set(rare))) <= 1 and len(set(rare)) == 6
    assert not all(x.equal(z) for (x,_),(z,_) in zip(a, b))

@pytest.mark.parametrize('make', [lambda s: BalanceCallback(Marked(random_state=0), seed=s), lambda s: BalancedSamplerCallback('sqrt', seed=s),
    lambda s: BalanceCallback(DeepCLSMOTE(epochs=1, decoder='compact', device='cpu', random_state=0, progress=False), mode='top_up', seed=s)])
def test_seed_decides(make):
    before = states()
    a,b,c = (epochs_of(make(s), n=2) for s in (0, 0, 1))
    epochs_of(make(None))
    assert states() == before
    same = lambda p,q: all(x.equal(z) and y.equal(w) for e,f in zip(p, q) for (x,y),(z,w) in zip(e, f, strict=True))
    assert same(a, b) and not same(a, c) and not same(a[:1], a[1:])

@pytest.mark.parametrize('refresh', [1, 3])
def test_refresh(refresh):
    (e,f), = [epochs_of(BalanceCallback(Marked(), refresh=refresh, seed=0), memory_dls((150,40,10), bs=32), n=2)]
    draws = [tuple(read_marks(x)[3][16:].tolist()) for x,_ in e+f]
    assert len(draws) == 14
    for i,j in zip(range(14), range(1, 14)): assert (draws[i] == draws[j]) == (i//refresh == j//refresh)
    if refresh == 3: assert len({tuple(read_marks(x)[2][:16].tolist()) for x,_ in e}) == 7  # real images change all the same

@pytest.mark.parametrize('how,epochs', [('instance',1), ('class',1), ('quarter',1), ('sqrt',1), (.25,1), ('progressive',3)])
def test_sampler_callback(how, epochs):
    counts = torch.tensor([60,20,6])
    seen = epochs_of(BalancedSamplerCallback(how, seed=0), n=epochs)
    for e,batches in enumerate(seen):
        want = 86*class_shares(counts, how, e/max(epochs-1, 1))
        new,cls,rows,_ = (torch.cat(t) for t in zip(*[read_marks(x) for x,_ in batches]))
        assert not new.any() and cls.equal(torch.cat([y for _,y in batches])) and [len(y) for _,y in batches] == [16]*5+[6]
        assert ((cls.bincount(minlength=3)-want).abs() < 1+1e-9).all()
        if how == 'instance': assert sorted(rows.tolist()) == list(range(86))

def test_long_epochs_stay_long():
    dls = memory_dls()
    dls.train.n = 200
    cb = BalancedSamplerCallback(seed=0)
    assert [len(y) for _,y in epochs_of(cb, dls)[0]] == [16]*12+[8] and len(cb.view) == 13
    assert len(epochs_of(BalanceCallback(Marked(), seed=0), dls)[0]) == 13

def test_all_real_when_nothing_is_missing():
    dls = memory_dls((20,20,20))
    got, = epochs_of(BalanceCallback(Marked(), mode='top_up', seed=0), dls)
    assert not any(read_marks(x)[0].any() for x,_ in got)

# Loaders of all kinds ------------------------------------------------------------------------------

@pytest.mark.parametrize('low', [None, 0, -1])
@pytest.mark.parametrize('tuples', [True, False])
def test_plain_fastai_loader(low, tuples):
    "Synthetic images come in the type and range of the real ones"
    x,y = marked_images((40,12,6))
    if low is not None: x = to_signed(x) if low < 0 else (to_signed(x)+1)/2
    ds = TensorDataset(x, y) if tuples else [(a,int(b)) for a,b in zip(x, y)]
    dls = DataLoaders(DataLoader(ds, bs=12, shuffle=True), DataLoader(ds, bs=12), device=torch.device('cpu'))
    before = states()[:2]
    got, = epochs_of(BalanceCallback(Marked(random_state=0), seed=0), dls)
    assert states()[:2] == before  # fastai's own loaders draw a seed from torch for each epoch
    for a,b in got:
        new,cls,_,_ = read_marks(a, -1 if low is None else low)
        assert a.dtype == x.dtype and cls.equal(b) and new.sum() == 6 and len(b) == 12
        if low == 0: assert a.min() >= 0
    for m in (Marked(random_state=0).fit(x, y), Marked().fit(to_signed(x) if low is None else x, y)):
        got, = epochs_of(BalanceCallback(m, seed=0), dls)
        assert all(a.dtype == x.dtype and read_marks(a, -1 if low is None else low)[0].sum() == 6 for a,_ in got)

@pytest.mark.parametrize('low', [0, -1])
def test_memory_floats_keep_their_range(low):
    got, = epochs_of(BalanceCallback(Marked(), seed=0), memory_dls(low=low))
    for x,y in got: assert read_marks(x, low)[1].equal(y) and (x.min() >= low)

class AddThree(Transform):
    "Reaches images alone, by their type"
    order = 90
    def encodes(self, x:TensorImage): return x+3

class AddTen(Transform):
    "In training alone"
    order,split_idx = 91,0
    def encodes(self, x:TensorImage): return x+10

def folder(path, counts=(24,8,4), names=('cat','dog','eel'), color=False, seed=0):
    "PNG files in folders `train` and `valid` of class folders; four a class to validate on"
    for part,each in (('train',counts), ('valid',[4]*len(counts))):
        images,labels = marked_images(each, seed, 3 if color else 1)
        for i,(x,y) in enumerate(zip(images, labels)):
            (path/part/names[y]).mkdir(parents=True, exist_ok=True)
            Image.fromarray(x.permute(1,2,0).numpy() if color else x[0].numpy()).save(path/part/names[y]/f'{i:03d}.png')
        seed += 1
    return path

def block_dls(path, color=False, item_tfms=None, batch_tfms=None, bs=8, num_workers=0, **kwargs):
    block = DataBlock((ImageBlock(PILImage if color else PILImageBW), CategoryBlock), get_items=lambda p: sorted(p.rglob('*.png')), get_y=lambda p: p.parent.name,
        splitter=FuncSplitter(lambda p: p.parents[1].name == 'valid'), item_tfms=item_tfms, batch_tfms=batch_tfms)
    return block.dataloaders(path, bs=bs, num_workers=num_workers, device=torch.device('cpu'), **kwargs)

@pytest.mark.parametrize('num_workers', [0, 2])
def test_datablock(tmp_path, num_workers):
    "Type, batch transforms and split are those of the real images; a training transform stays out of validation"
    dls = block_dls(folder(tmp_path), batch_tfms=[AddThree(), AddTen()], num_workers=num_workers)
    seen = []
    cb = BalanceCallback(Marked(), seed=0)
    spy,valid = Spy(),Callback(before_batch=lambda self: None if self.training else seen.append(float(self.x.min())))
    fit(learner(dls, cb, spy, valid), 2)
    assert len(spy.epochs[0]) == 36//8
    for x,y in spy.epochs[0]+spy.epochs[1]:
        assert x.min() >= 13
        new,cls,_,_ = read_marks(x-13, 0)
        assert new.sum() == 4 and cls.equal(torch.as_tensor(y)) and len(y) == 8
    assert seen and all(3 <= v < 4 for v in seen)
    x,y = next(iter(cb.view))
    assert isinstance(x, TensorImage) and type(y) is TensorCategory

@pytest.mark.parametrize('num_workers', [0, 2])
def test_datablock_with_augmentation(tmp_path, num_workers):
    "Files, random crops, all of fastai's augmentation and Normalize: bright synthetic images among dark real ones"
    class Bright(Marked):
        def _draw_images(self, labels, generator): return torch.ones(len(labels), 3, 16, 16)
    names = tuple(sorted(map(str, range(11))))
    path = folder(tmp_path, (12,)*3+(4,)*8, names, color=True)
    dls = block_dls(path, True, [RandomResizedCrop(16, min_scale=.8), FlipItem()], [*aug_transforms(max_lighting=.1), Normalize.from_stats([.2]*3, [.1]*3)], 16, num_workers)
    before = random.getstate(),str(np.random.get_state())
    read = callbacks.training_images(dls.train)
    assert read[0].dtype == torch.uint8 and read[0].shape == (68,3,16,16) and read[1].bincount().tolist() == [12]*3+[4]*8
    assert (random.getstate(),str(np.random.get_state())) == before and callbacks.training_images(dls.train)[0].equal(read[0])
    got, = epochs_of(BalanceCallback(Bright(), seed=0), dls, c=11, channels=3)
    for x,y in got:
        bright = x.mean((1,2,3)) > 4
        assert x.shape == (16,3,16,16) and bright.sum() == 8 and bright[8:].all()

def test_validation_state_while_reading(tmp_path):
    "The oversampler sees items as validation does; the data set's own state comes back"
    dls = block_dls(folder(tmp_path), item_tfms=RandomResizedCrop(16, min_scale=.1), bs=8)
    a,b = callbacks.training_images(dls.train)[0],callbacks.training_images(dls.train, 5)[0]
    as_test = dls.test_dl(list(dls.train_ds.items))
    as_test.after_batch = lambda b: b
    assert dls.train_ds.split_idx == 0 and b.equal(a[:5]) and a.equal(torch.cat([torch.as_tensor(x) for x, in as_test]))

deep = lambda: DeepCLSMOTE(epochs=2, batch_size=8, decoder='compact', latent_dim=6, random_state=0, device='cpu', precision='float32', progress=False)

@pytest.mark.parametrize('kind', ['folder', 'tensors', 'dataset'])
def test_more_than_memory_holds(kind, tmp_path, monkeypatch):
    "Images are opened batch by batch, never all at once, and what is learned and drawn is the same to the bit"
    x,y = marked_images((24,8,4))
    def run():
        if kind == 'dataset':
            ds = SyntheticDataset(TensorDataset(x, y), deep(), 8, seed=0)
            return list(ds),ds.oversampler
        dls = block_dls(tmp_path, item_tfms=FlipItem()) if kind == 'folder' else DataLoaders(DataLoader(TensorDataset(x, y), bs=8, shuffle=True), DataLoader(TensorDataset(x, y), bs=8), device=torch.device('cpu'))
        cb = BalanceCallback(deep(), seed=0)
        got, = epochs_of(cb, dls)
        return got,cb.oversampler
    if kind == 'folder': folder(tmp_path)
    batches,o = run()
    most,plain = [],callbacks.training_images
    def counting(dl, n=None):
        found = plain(dl, n)
        most.append(len(found[0]))
        return found
    monkeypatch.setattr(callbacks, 'IN_MEMORY', 36*16*16-1)
    monkeypatch.setattr(callbacks, 'training_images', counting)
    streamed,s = run()
    assert max(most, default=0) <= 8 and s.codes_.equal(o.codes_) and not len(s.images_)
    assert all(a.equal(b) for k,a in s.autoencoder_.state_dict().items() for b in [o.autoencoder_.state_dict()[k]])
    if kind != 'folder': assert same(batches, streamed)

# Names of classes ---------------------------------------------------------------------------------

def strings(n): return sorted(map(str, range(n)))

@pytest.mark.parametrize('vocab,classes', [(['a','b','c'], ['a','b','c']), (['a','b','c'], [0,1,2]), (['10','2','3'], [10,2,3]), (['10','2','3'], ['10','2','3']), (['10','2','3'], [0,1,2]), ([7,8,9], [7,8,9]), (None, [0,1,2]), (None, ['0','1','2']), (['c','a','b'], ['c','a','b'])])
def test_oversampler_fitted_on_names_or_numbers(vocab, classes):
    dls = memory_dls(vocab=vocab)
    m = Marked().fit(dls.train_ds.images, np.array(classes)[dls.train_ds.labels])
    fits = Marked.fits
    got, = epochs_of(BalanceCallback(m, seed=0), dls)
    assert all(read_marks(x)[1].equal(y) for x,y in got) and Marked.fits == fits

def test_names_that_sort_as_words():
    "Eleven classes '0', '1', '10', '2', ...: class number 2 is named '10'"
    dls = memory_dls((12,)*2+(4,)*9, vocab=strings(11))
    got, = epochs_of(BalanceCallback(Marked(), seed=0), dls, c=11)
    assert all(read_marks(x)[1].equal(y) for x,y in got)
    numbers = Marked().fit(dls.train_ds.images, dls.train_ds.labels)
    with pytest.raises(InputError, match='one meaning'): epochs_of(BalanceCallback(numbers, seed=0), dls, c=11)

def test_a_class_of_the_vocab_without_images():
    x,y = marked_images((30,0,8))
    mine = ImagesInMemory(x, y, ['a','b','c'])
    dl = MemoryLoader(mine, 16, True, new_generator(0))
    for m in (Marked(), Marked().fit(x, y), Marked().fit(x, np.array(['a','b','c'])[y])):
        got, = epochs_of(BalanceCallback(m, seed=0), DataLoaders(dl, dl.new(shuffle=False)))
        assert all(read_marks(a)[1].equal(b) and not (b == 1).any() for a,b in got)

# Fitting ------------------------------------------------------------------------------------------

def test_fitted_once_and_on_a_copy():
    "An oversampler that serves one fold after another must not carry one fold's images into the next"
    mine,fits = Marked(),Marked.fits
    learn = learner(memory_dls(), BalanceCallback(mine, seed=0))
    with learn.no_bar(): learn.validate(); learn.get_preds()
    assert Marked.fits == fits
    for _ in range(2): fit(learn)
    assert Marked.fits == fits+1 and not mine.__sklearn_is_fitted__() and learn.balance.oversampler.__sklearn_is_fitted__()
    learn.dls = memory_dls((30,20,10), seed=9)
    fit(learn)
    assert Marked.fits == fits+2 and len(learn.balance.oversampler.kept_[0]) == 60
    other = learner(memory_dls(seed=4), BalanceCallback(mine, seed=0))
    fit(other)
    assert Marked.fits == fits+3 and other.balance.oversampler.kept_[0].equal(other.dls.train_ds.images)
    other.dls.to(torch.device('cpu'))
    fit(other)
    assert Marked.fits == fits+3

def test_an_interrupted_fit_begins_again(monkeypatch):
    def stop(self, *args): raise KeyboardInterrupt
    learn = learner(memory_dls(), BalanceCallback(Marked(), seed=0))
    with monkeypatch.context() as m:
        m.setattr(Marked, '_fit_images', stop)
        with pytest.raises(KeyboardInterrupt): fit(learn)
    assert not learn.balance.oversampler.__sklearn_is_fitted__()
    fit(learn)
    assert learn.balance.oversampler.__sklearn_is_fitted__()

# Nothing is left behind -----------------------------------------------------------------------------

def snapshot(learn):
    dl = learn.dls.train
    return dict(dls=id(learn.dls), train=id(dl), valid=id(learn.dls.valid), own=sorted(k for k in dl.__dict__ if k not in ('rng','_DataLoader__idxs','it','_n_inp','_types')), bs=dl.bs, n=dl.n, shuffle=dl.shuffle,
        idxs=getattr(dl.get_idxs, '__func__', dl.get_idxs), batch=id(dl.after_batch) if 'after_batch' in dl.__dict__ else dl.after_batch.__func__, split=getattr(dl.dataset, 'split_idx', None), data=id(dl.dataset),
        hooks=[(len(m._forward_hooks), len(m._forward_pre_hooks), 'forward' in m.__dict__) for m in learn.model.modules()], cbs=sorted(type(o).__name__ for o in learn.cbs), loss=learn.loss_func, model=id(learn.model))

class Break(Callback):
    "Raises once, in the middle of an epoch"
    order = 5
    def __init__(self, where, error): self.where,self.error,self.armed = where,error,True
    def _go(self, where):
        if self.armed and where == self.where and self.training and self.iter == 2: self.armed = False; raise self.error
    def before_batch(self): self._go('before_batch')
    def after_batch(self): self._go('after_batch')
    def after_epoch(self):
        if self.armed and self.where == 'after_epoch': self.armed = False; raise self.error

faults = dict(fine=None, cancel_fit=Break('before_batch', CancelFitException()), cancel_epoch=Break('before_batch', CancelEpochException()), cancel_train=Break('after_batch', CancelTrainException()),
    cancel_batch=Break('before_batch', CancelBatchException()), other_callback=Break('after_batch', RuntimeError('other')), ctrl_c=Break('before_batch', KeyboardInterrupt()), late=Break('after_epoch', RuntimeError('late')), loss=None, draw=None)

@pytest.mark.parametrize('kind', ['memory','files'])
@pytest.mark.parametrize('fault', faults)
def test_nothing_is_left_behind(fault, kind, tmp_path, monkeypatch):
    make = [lambda: BalanceCallback(Marked(), seed=0), lambda: BalancedSamplerCallback(seed=0)]
    for cb in make[:1] if fault == 'draw' else make:
        dls = memory_dls() if kind == 'memory' else block_dls(folder(tmp_path), batch_tfms=[AddThree()])
        loss_func,broken = CrossEntropyLossFlat(),[]
        class Loss(CrossEntropyLossFlat):
            def __call__(self, *args):
                if broken and broken.pop(): raise RuntimeError('loss')
                return super().__call__(*args)
        if faults[fault] is not None: faults[fault].armed = True
        learn = learner(dls, cb(), *([faults[fault]] if faults[fault] else []), loss_func=Loss())
        before = snapshot(learn)
        if fault == 'loss': broken.append(True)
        if fault == 'draw': monkeypatch.setattr(Marked, 'fail_at', 2)
        if fault in ('other_callback','late','loss','draw'):
            with pytest.raises(RuntimeError): fit(learn, 2)
        elif fault == 'ctrl_c':
            with pytest.raises(KeyboardInterrupt): fit(learn, 2)
        else: fit(learn, 2)
        monkeypatch.setattr(Marked, 'fail_at', None)
        assert snapshot(learn) == before
        assert faults[fault] is None or not faults[fault].armed

        plain = Learner(dls, learn.model, CrossEntropyLossFlat(), path=learn.path)
        for ds_idx in (0, 1):
            with learn.no_bar(): mine = learn.get_preds(ds_idx=ds_idx)
            with plain.no_bar(): theirs = plain.get_preds(ds_idx=ds_idx)
            assert len(mine[0]) == len(dls[ds_idx].dataset)
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
        with learn.no_bar(): a = learn.validate()
        with plain.no_bar(): b = plain.validate()
        assert a == b and snapshot(learn) == before
        spy = Spy()
        with learn.added_cbs(spy): fit(learn)
        low = 0 if kind == 'files' else -1
        marks = [(read_marks(x-3 if kind == 'files' else x, low),y) for x,y in spy.epochs[-1]]
        assert all(m[1].equal(torch.as_tensor(y)) for m,y in marks)
        if cb is make[0]: assert all(m[0].sum() == len(y)//2 for m,y in marks)
        assert snapshot(learn) == before
        batches = list(dls.train)
        assert not any(read_marks(x-3 if kind == 'files' else x, low)[0].any() for x,_ in batches)

def test_removed_callback_leaves_plain_training():
    def weights(*cbs):
        learn = learner(memory_dls(), *cbs)
        if cbs: learn.remove_cbs(list(cbs))
        fit(learn)
        return torch.cat([p.detach().flatten() for p in learn.model.parameters()])
    assert weights().equal(weights(BalanceCallback(Marked(), seed=0)))

# In company ---------------------------------------------------------------------------------------

def balanced(spy, n=16): return all(read_marks(x)[0].sum() == n//2 for e in spy.epochs for x,_ in e)

@pytest.mark.parametrize('make', [lambda: BalanceCallback(Marked(), seed=0), lambda: BalancedSamplerCallback(seed=0)])
def test_lr_find(make, tmp_path):
    learn = learner(memory_dls(), make(), path=tmp_path)
    before,weights = snapshot(learn),[p.detach().clone() for p in learn.model.parameters()]
    with learn.no_bar(): found = learn.lr_find(num_it=12, show_plot=False, suggest_funcs=(minimum,))
    assert found.minimum > 0 and snapshot(learn) == before and all(p.equal(q) for p,q in zip(learn.model.parameters(), weights))
    fit(learn)

@pytest.mark.parametrize('kind', ['memory','files'])
def test_export(kind, tmp_path):
    "The file holds settings and weights, no images, no fitted oversampler, and predicts without any training part"
    spot = np.frombuffer(b'TRAINING-IMAGE!!', np.uint8)
    dls = memory_dls() if kind == 'memory' else block_dls(folder(tmp_path))
    if kind == 'memory': dls.train_ds.images[:,0,9] = torch.from_numpy(spot.copy())
    deep = DeepCLSMOTE(epochs=1, decoder='compact', device='cpu', random_state=0, progress=False, generation='residual')
    for cb in (BalanceCallback(deep, seed=0), BalanceCallback(Marked(), seed=0), BalancedSamplerCallback(seed=0)):
        learn = learner(dls, cb, path=tmp_path)
        fit(learn)
        before = snapshot(learn)
        learn.export('learn.pkl')
        assert snapshot(learn) == before and (not hasattr(cb, 'oversampler') or cb.oversampler.__sklearn_is_fitted__())
        data = (tmp_path/'learn.pkl').read_bytes()
        assert spot.tobytes() not in data and len(data) < 120_000, len(data)
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            back = load_learner(tmp_path/'learn.pkl')
        test = dls.valid if kind == 'memory' else back.dls.test_dl(sorted((tmp_path/'valid').rglob('*.png')))
        with learn.no_bar(), back.no_bar(): torch.testing.assert_close(back.get_preds(dl=test)[0], learn.get_preds()[0])
        view = getattr(back, cb.name)
        assert not hasattr(view, 'oversampler') or not view.oversampler.__sklearn_is_fitted__()
        back.dls = dls
        fit(back)

@pytest.mark.parametrize('amp', ['fp16','bf16'])
def test_mixed_precision(amp):
    spy = Spy()
    learn = learner(memory_dls(), BalanceCallback(Marked(), seed=0), spy)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.to_fp16() if amp == 'fp16' else learn.to_bf16()
        before = snapshot(learn)
        fit(learn, 2)
    assert balanced(spy) and snapshot(learn) == before

@pytest.mark.parametrize('cb', [MixUp, CutMix])
def test_mixing(cb):
    learn = learner(memory_dls(), BalanceCallback(Marked(), refresh=3, seed=0), cb())
    before,labels = snapshot(learn),[]
    fit(learn, 2, cbs=Callback(before_batch=lambda self: labels.append(self.y.tolist()) if self.training else None))
    assert snapshot(learn) == before and all(np.bincount(y).max() <= 7 for y in labels) and len(labels) == 12
    got = next(iter(learn.balance.view))
    assert set(read_marks(got[0])[0].tolist()) == {True,False}  # what is kept for later batches was not mixed in place

def test_gradient_accumulation_and_trackers(tmp_path):
    spy = Spy()
    learn = learner(memory_dls(), BalanceCallback(Marked(), seed=0), spy, GradientAccumulation(32), SaveModelCallback(monitor='valid_loss'), path=tmp_path)
    fit(learn, 2)
    assert balanced(spy) and (tmp_path/'models'/'model.pth').exists()

def test_one_cycle_twice():
    spy,fits = Spy(),Marked.fits
    learn = learner(memory_dls(), BalanceCallback(Marked(), seed=0), spy)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(2); learn.fit_one_cycle(2, start_epoch=1)
    assert Marked.fits == fits+1 and balanced(spy) and len(spy.epochs) == 3 and len(learn.recorder.lrs) == 6
    assert not spy.epochs[0][0][0].equal(spy.epochs[2][0][0])

def test_temporary_callback():
    spy,learn = Spy(),learner(memory_dls())
    fit(learn, cbs=[BalanceCallback(Marked(), seed=0), spy])
    assert balanced(spy) and not hasattr(learn, 'balance')

# Bad input ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('make,match', [(lambda: BalanceCallback('deepclsmote'), 'DeepCLSMOTE'), (lambda: BalanceCallback(DeepCLSMOTE), 'DeepCLSMOTE'), (lambda: BalanceCallback(Marked(), mode='both'), 'top_up'),
    *[(lambda r=r,m=m: BalanceCallback(Marked(), ratio=r, mode=m), 'ratio=') for r,m in [(0,'symmetric'), (-1,'symmetric'), (math.nan,'symmetric'), (math.inf,'symmetric'), (True,'symmetric'), ('auto','symmetric'), ({1: 3},'symmetric'), (None,'symmetric'), (1.2,'top_up'), (0,'top_up'), ([1],'top_up'), (None,'top_up')]],
    *[(lambda v=v: BalanceCallback(Marked(), refresh=v), 'refresh=') for v in (0, -1, 1.5, '2', None)], *[(lambda v=v: BalanceCallback(Marked(), seed=v), 'Use random_state=0') for v in (-1, 'x', 1.5)],
    *[(lambda v=v: BalancedSamplerCallback(v), 'how=') for v in ('all', -.1, 1.1, None)], (lambda: BalancedSamplerCallback(seed=-1), 'Use random_state=0')])
def test_settings_are_refused(make, match):
    with pytest.raises(InputError, match=match): make()

def wrong(kind):
    "(loaders, callbacks, words of the message)"
    B,S = lambda *a,**k: BalanceCallback(*(a or (Marked(),)), seed=0, **k),lambda: BalancedSamplerCallback(seed=0)
    x,y = marked_images((30,12,6))
    def plain(ds, valid=None, **k): return DataLoaders(DataLoader(ds, **{'bs': 8, **k}), DataLoader(ds if valid is None else valid, bs=8), device=torch.device('cpu'))
    ds = TensorDataset(x, y)
    class Stream(IterableDataset):
        def __iter__(self): return iter([(x[0], y[0])])
    class Shifted(TensorDataset):
        targets = (y+1)%3
    return dict(
        twice=(memory_dls(), [B(), B()], 'expected one of them'), both=(memory_dls(), [B(), S()], 'BalanceCallback, BalancedSamplerCallback'), two_samplers=(memory_dls(), [S(), S()], 'expected one of them'),
        valid_only=(memory_dls((30,12,0)), [B()], 'class 2 is in the validation part'), valid_only_sampler=(memory_dls((30,0,12)), [S()], 'class 1 is in the validation part'),
        fewer=(memory_dls(), [B(Marked().fit(x, y.clamp(max=1)))], 'expected the same'), more=(memory_dls(), [B(Marked().fit(*marked_images((9,9,9,9))))], 'expected the same'),
        other=(memory_dls(vocab=['a','b','c']), [B(Marked().fit(x, np.array(['a','b','d'])[y]))], 'expected the same'),
        size=(memory_dls(), [B(Marked().fit(torch.zeros(6,1,20,16, dtype=torch.uint8), [0,1,2]*2))], r'\(1, 20, 16\).*\(1, 16, 16\)'), channels=(memory_dls(), [B(Marked().fit(torch.zeros(6,3,16,16, dtype=torch.uint8), [0,1,2]*2))], r'\(3, 16, 16\)'),
        bs1=(memory_dls(bs=1), [B()], 'bs=1'), bs1_sampler=(memory_dls(bs=1), [S()], 'bs=1'), no_bs=(plain(ds, bs=None), [B()], 'bs=None'), empty=(memory_dls(bs=100, drop_last=True), [B()], 'no batch'),
        torch=(DataLoaders(TorchLoader(ds, 8), TorchLoader(ds, 8)), [B()], 'expected a loader of fastai'), torch_sampler=(DataLoaders(TorchLoader(ds, 8), TorchLoader(ds, 8)), [S()], 'expected a loader of fastai'),
        stream=(DataLoaders(DataLoader(Stream(), bs=8), DataLoader(ds, bs=8)), [B()], 'SyntheticDataset'), autoencoder=(memory_dls(autoencode=True), [B()], "autoencoder's"),
        range=(plain(TensorDataset(to_signed(x)*3, y)), [B()], r'\[0, 1\] or \[-1, 1\]'), range_fitted=(plain(TensorDataset(to_signed(x)*3, y)), [B(Marked().fit(x, y))], r'batch_tfms'), nan=(plain(TensorDataset(to_signed(x)*torch.nan, y)), [B(Marked().fit(x, y))], 'nan'),
        three=(plain(TensorDataset(x, x, y)), [B()], 'ImageBlock and CategoryBlock'), flat=(plain(TensorDataset(x.flatten(1), y)), [B()], 'ImageBlock and CategoryBlock'), shifted=(plain(Shifted(x, y)), [B()], 'target_transform'),
        regression=(plain(TensorDataset(x, y.float())), [B()], 'CategoryBlock'), no_class=(memory_dls(), [B(mode='top_up', ratio={9: 70})], r"ratio=\{9: 70\}"), too_few=(memory_dls(), [B(mode='top_up', ratio={0: 7})], 'ratio='), word=(memory_dls(), [B(mode='top_up', ratio='most')], "ratio='most'"),
        one_class=(memory_dls((30,)), [B()], 'one class'))[kind]

kinds = 'twice both two_samplers valid_only valid_only_sampler fewer more other size channels bs1 bs1_sampler no_bs empty torch torch_sampler stream autoencoder range range_fitted nan three flat shifted regression no_class too_few word one_class'.split()

@pytest.mark.parametrize('kind', kinds)
def test_learner_is_refused(kind):
    "Before anything is learned; the message survives fastai"
    dls,cbs,match = wrong(kind)
    fits,learn = Marked.fits,learner(dls, *cbs)
    weights = [p.detach().clone() for p in learn.model.parameters()]
    with pytest.raises(InputError, match=match): fit(learn)
    assert all(p.equal(q) for p,q in zip(learn.model.parameters(), weights)) and Marked.fits == fits

@pytest.mark.parametrize('how', ['callback','data set','fill'])
def test_class_style(how):
    "Images moved by the style of the larger classes come under their labels, those of a class of one image too"
    dls = memory_dls((30,10,1))
    x,y = dls.train_ds.images,dls.train_ds.labels
    o = DeepCLSMOTE(epochs=6, batch_size=8, lr=2e-3, decoder='compact', device='cpu', random_state=0, progress=False, generation='style', donors=2)
    if how == 'fill':
        o.fit(x, y)
        labels,new = SyntheticFill(o, torch.arange(3), torch.full((3,), 1/3), 9, -1., new_generator(3)).draw()
        g = new_generator(3)
        assert labels.bincount().equal(draw_counts(9, torch.full((3,), 1/3), g)) and new.equal(o.draw(labels, g)) and new.abs().max() <= 1
        return
    batches = epochs_of(BalanceCallback(o, seed=0), dls)[0] if how == 'callback' else list(SyntheticDataset(ImagesInMemory(x, y), o, 16, seed=0))
    real = {bytes(to_uint8(i).numpy()): c for i,c in zip(to_signed(x), y.tolist())}
    for a,b in batches:
        known = [real.get(bytes(to_uint8(i).numpy())) for i in a]
        assert len(a) == 16 and known[:8] == b[:8].tolist() and known[8:].count(None) > 4 and b[8:].bincount(minlength=3).min() >= 2  # a tiny step may round to the image itself

# SyntheticDataset -----------------------------------------------------------------------------------

@pytest.mark.parametrize('memory', [True, False])
@pytest.mark.parametrize('mode,ratio', [('symmetric',1.), ('symmetric',.5), ('top_up','auto')])
def test_synthetic_dataset(memory, mode, ratio):
    x,y = marked_images((60,20,6))
    ds = SyntheticDataset(ImagesInMemory(x, y) if memory else TensorDataset(x, y), Marked(random_state=0), 16, ratio, mode, seed=0)
    share,p,q = balance_plan([60,20,6], mode, ratio)
    before = states()
    batches = list(ds)
    assert states() == before and len(batches) == len(ds) == 6 and len(TorchLoader(ds, batch_size=None)) == 6
    real,keep = torch.zeros(3),round(16*share)
    for a,b in batches:
        new,cls,rows,_ = read_marks(a)
        assert a.dtype == (torch.float32 if memory else torch.uint8) and cls.equal(b) and len(b) == 16 and new.sum() == 16-keep
        assert a[~new].equal(to_signed(x[rows[~new]]) if memory else x[rows[~new]])
        assert ((b[new].bincount(minlength=3) - (16-keep)*q).abs() < 1+1e-9).all()
        real += b[~new].bincount(minlength=3)
    assert ((real - 6*keep*p).abs() < 1+1e-9).all()

def same(a, b): return all(x.equal(z) and y.equal(w) for (x,y),(z,w) in zip(a, b, strict=True))

def test_synthetic_dataset_epochs_and_seeds():
    x,y = marked_images((60,20,6))
    make = lambda seed,**k: SyntheticDataset(ImagesInMemory(x, y), Marked(random_state=0), 16, seed=seed, **k)
    a,b,c = make(0),make(0),make(1)
    first,second = list(a),list(a)
    assert a.epoch == 2 and not same(first, second) and same(first, list(b)) and same(second, list(b)) and not same(first, list(c))
    a.set_epoch(0)
    assert same(first, list(a)) and not same(list(make(None)), list(make(None)))
    plain,moved = list(make(0)),list(make(0, transform=lambda t: t+5))
    assert all(p[0].add(5).equal(m[0]) for p,m in zip(plain, moved))
    draws = [tuple(read_marks(t)[3][8:].tolist()) for t,_ in make(0, refresh=3)]
    assert draws[0] == draws[1] == draws[2] != draws[3] == draws[4] == draws[5]

def test_synthetic_dataset_with_workers():
    "Each batch once, other images from each worker, another epoch each time; `set_epoch` decides alone"
    x,y = marked_images((60,20,6))
    make = lambda: SyntheticDataset(ImagesInMemory(x, y), Marked(random_state=0), 16, seed=0)
    def rows(batches): return sorted(read_marks(t)[2][:8].tolist() for t,_ in batches)
    ds = make()
    loader = TorchLoader(ds, batch_size=None, num_workers=2, generator=new_generator(0))
    first,second = list(loader),list(loader)
    assert len(first) == 6 and rows(first) != rows(second)
    seen = torch.cat([read_marks(t)[2][:8] for t,_ in first])
    assert seen[y[seen] == 0].unique().numel() == (y[seen] == 0).sum() == 16
    assert len({tuple(read_marks(t)[3][8:].tolist()) for t,_ in first}) == 6
    assert same(first, list(TorchLoader(make(), batch_size=None, num_workers=2, generator=new_generator(0))))
    one = make(); one.set_epoch(7)
    ds.set_epoch(7)
    assert rows(list(loader)) == rows(list(loader)) == rows(list(one))

def test_synthetic_dataset_takes_fitted_or_fits_a_copy():
    x,y = marked_images((60,20,6))
    mine,fits = Marked(),Marked.fits
    ds = SyntheticDataset(TensorDataset(x, y), mine, 16)
    assert Marked.fits == fits+1 and not mine.__sklearn_is_fitted__() and ds.oversampler.kept_[0].equal(x)
    names = Marked().fit(x, np.array(['b','a','c'])[y])
    for a,b in SyntheticDataset(ImagesInMemory(x, y, ['b','a','c']), names, 16): assert read_marks(a)[1].equal(b)
    for low in (0, -1):
        z = to_signed(x) if low < 0 else (to_signed(x)+1)/2
        for m in (Marked(), Marked().fit(x, y)):
            for a,b in SyntheticDataset(TensorDataset(z, y), m, 16): assert read_marks(a, low)[1].equal(b) and a.min() >= low

@pytest.mark.parametrize('kwargs,match', [(dict(batch_size=1), 'batch_size=1'), (dict(batch_size=2.5), 'batch_size'), (dict(refresh=0), 'refresh=0'), (dict(mode='all'), 'mode='), (dict(ratio=0), 'ratio=0'), (dict(oversampler='x'), 'oversampler is a str'), (dict(seed=-1), 'Use random_state=0'),
    (dict(ratio={7: 90}, mode='top_up'), r'ratio=\{7'), (dict(oversampler=Marked().fit(*marked_images((5,5)))), 'expected the same'), (dict(oversampler=Marked().fit(torch.zeros(6,1,20,20, dtype=torch.uint8), [0,1,2]*2)), r'\(1, 20, 20\)')])
def test_synthetic_dataset_refuses(kwargs, match):
    x,y = marked_images((20,8,4))
    with pytest.raises(InputError, match=match): SyntheticDataset(**{'dataset': TensorDataset(x, y), 'oversampler': Marked(), **kwargs})

def test_synthetic_dataset_refuses_data():
    x,y = marked_images((20,8,4))
    pil = [(Image.fromarray(a[0].numpy()),int(b)) for a,b in zip(x, y)]
    with pytest.raises(InputError, match='PILToTensor'): SyntheticDataset(pil, Marked())
    with pytest.raises(InputError, match='CategoryBlock'): SyntheticDataset(TensorDataset(x, y.float()), Marked())

# Rows -----------------------------------------------------------------------------------------------

many = st.lists(st.integers(0, 25), min_size=2, max_size=8).filter(lambda c: sum(map(bool, c)) > 1)
hows = st.sampled_from(['instance','quarter','sqrt','class',.3])

@settings(max_examples=80, deadline=None)
@given(counts=many, how=hows, m=st.integers(0, 200), seed=st.integers(0, 9))
def test_rows(counts, how, m, seed):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))[torch.randperm(sum(counts), generator=new_generator(seed))]
    shares = class_shares(counts, how)
    rows = draw_rows(labels, m, shares, new_generator(seed))
    assert rows.shape == (m,) and rows.dtype == torch.int64
    got = labels[rows].bincount(minlength=len(counts))
    assert ((got - m*shares).abs() < 1+1e-9).all() and not got[torch.tensor(counts) == 0].any()
    times = rows.bincount(minlength=len(labels))
    for c,n in enumerate(counts):
        if n: assert times[labels == c].max() - times[labels == c].min() <= 1

@settings(max_examples=60, deadline=None)
@given(counts=many, how=hows, m=st.integers(1, 300), w=st.integers(1, 60), seed=st.integers(0, 9))
def test_rows_are_spread(counts, how, m, w, seed):
    "In an interval of the epoch each class is off by less than 2, one at either end; a window of w rows is such an interval, of uncertain length"
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    y = labels[draw_rows(labels, m, class_shares(counts, how), new_generator(seed))]
    one = torch.nn.functional.one_hot(y, len(counts)).double()
    seen = torch.cat([torch.zeros(1, len(counts)), one.cumsum(0)]).double()
    p = one.mean(0)
    bound = 2*(1-p) + 2*p*((p > 0).sum()-1)
    w = min(w, m)
    assert ((seen[w:]-seen[:-w] - w*p).abs() < bound+1e-9).all()

@pytest.mark.parametrize('bs', [10, 32, 40])
def test_batches_hold_every_class(bs):
    labels = torch.arange(10).repeat_interleave(torch.tensor([130,88,60,40,27,18,12,8,6,4]))
    for seed in range(5):
        for b in draw_rows(labels, 20*bs, class_shares(labels.bincount()), new_generator(seed)).split(bs):
            n = labels[b].bincount(minlength=10)
            assert n.min() >= math.floor(bs/10)-1 and n.max() <= math.ceil(bs/10)+1

@settings(max_examples=60, deadline=None)
@given(shares=st.lists(st.floats(0, 1), min_size=1, max_size=9).filter(lambda s: sum(s) > .01), m=st.integers(0, 10**6), seed=st.integers(0, 9))
def test_counts_agree_with_the_total(shares, m, seed):
    p = torch.tensor(shares).double()
    p = p/p.sum()
    got = draw_counts(m, p, new_generator(seed))
    assert got.sum() == m and ((got-m*p).abs() < 1+1e-6).all() and not got[p == 0].any() and got.min() >= 0

def test_rounding_has_the_right_mean():
    p,g = torch.tensor([.55,.3,.15]).double(),new_generator(0)
    mean = torch.stack([draw_counts(3, p, g) for _ in range(4000)]).double().mean(0)
    torch.testing.assert_close(mean, 3*p, atol=.03, rtol=0)

def test_sampler():
    labels = np.array(['a']*50 + ['b']*9 + ['c'])
    s = BalancedSampler(labels, n=300, seed=0)
    a,b = list(s),list(s)
    assert len(s) == len(a) == 300 and s.epoch == 2 and a != b and all(isinstance(i, int) for i in a)
    assert np.unique(labels[a], return_counts=True)[1].tolist() == [100]*3
    s.set_epoch(0)
    assert list(s) == a == list(BalancedSampler(labels, n=300, seed=0)) and list(BalancedSampler(labels, n=300, seed=1)) != a
    assert sorted(BalancedSampler(labels, 'instance', seed=0)) == list(range(60))
    before = states()
    list(BalancedSampler(labels))
    assert states() == before

def test_progressive_sampler():
    s = BalancedSampler([0]*900+[1]*100, 'progressive', epochs=5, seed=0)
    rare = [sum(i >= 900 for i in s) for _ in range(7)]
    assert rare[0] == 100 and rare[4:] == [500]*3 and all(abs(r-w) <= 1 for r,w in zip(rare, (100,200,300,400,500)))

@pytest.mark.parametrize('kwargs,match', [(dict(how='all'), 'how='), (dict(how='progressive'), 'Pass epochs'), (dict(how='progressive', epochs=0), 'Pass epochs'), (dict(n=0), 'n=0'), (dict(n=1.5), 'n=1.5'), (dict(rank=0), 'both or neither'),
    (dict(rank=2, world_size=2), '0 to 1'), (dict(rank=-1, world_size=2), '0 to 1'), (dict(seed=-1), 'Use random_state=0')])
def test_sampler_refuses(kwargs, match):
    with pytest.raises(InputError, match=match): BalancedSampler([0,0,1], **kwargs)

# Labels ----------------------------------------------------------------------------------------------

def test_labels_without_opening_an_image(tmp_path, monkeypatch):
    dls = block_dls(folder(tmp_path))
    def never(*args, **kwargs): raise AssertionError('an image was opened')
    for kind in (PILImageBW, Image): monkeypatch.setattr(kind, 'create' if kind is PILImageBW else 'open', never)
    assert labels_of(dls.train).bincount().tolist() == [24,8,4] and labels_of(dls.valid).bincount().tolist() == [4,4,4]
    assert class_names(dls) == ['cat','dog','eel']
    check_classes(types.SimpleNamespace(dls=dls))
    from torchvision.datasets import ImageFolder
    found = ImageFolder(tmp_path/'train')
    assert labels_of(found).tolist() == found.targets == labels_of(TorchLoader(found)).tolist() and labels_of(Subset(found, [30, 1])).tolist() == [1,0]

def test_labels_of_everything():
    x,y = marked_images((6,4,2))
    plain = TensorDataset(x, y)
    sub,subsub = Subset(plain, [11,3,4]),Subset(Subset(plain, [11,3,4]), (2,0))
    for ds,want in ((plain, y), (sub, y[[11,3,4]]), (subsub, y[[4,11]]), ([(a,b) for a,b in plain], y), ([(a,int(b)) for a,b in plain], y), ([(a,np.int64(b)) for a,b in plain], y), (Subset(plain, []), y[:0]), ([], y[:0])):
        assert labels_of(ds).equal(want) and labels_of(ds).dtype == torch.int64
        if len(ds): assert labels_of(DataLoader(ds, bs=2)).equal(want) and labels_of(TorchLoader(ds, 2)).equal(want)
    held = types.SimpleNamespace(targets=y.tolist())
    assert labels_of(held).equal(y) and labels_of(types.SimpleNamespace(targets=y.numpy().astype(np.uint8))).equal(y)
    assert labels_of(types.SimpleNamespace(dl=DataLoader(sub, bs=2), world_size=2)).equal(y[[11,3,4]])

@pytest.mark.parametrize('ds', [TensorDataset(torch.zeros(3,1), torch.rand(3)), TensorDataset(torch.zeros(3,1), torch.zeros(3,2).long()), TensorDataset(torch.zeros(3,1), torch.tensor([0,-1,2])), [(0,1.5)], [(0,'cat')], [(0,None)], [(0,[1,2]),(0,[1])], [(0,-1)], iter([]), object()])
def test_wrong_labels_are_refused(ds):
    with pytest.raises(InputError): labels_of(ds)

def test_multi_label_block_is_refused(tmp_path):
    block = DataBlock((ImageBlock(PILImageBW), MultiCategoryBlock), get_items=lambda p: sorted(p.rglob('*.png')), get_y=lambda p: [p.parent.name, 'any'], splitter=RandomSplitter(seed=0))
    dls = block.dataloaders(folder(tmp_path), bs=4, num_workers=0, device=torch.device('cpu'))
    with pytest.raises(InputError): labels_of(dls.train)
