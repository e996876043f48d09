"Images that tell where they come from, and an oversampler whose images tell that they are synthetic."
import random
import numpy as np
import torch
from torch import nn
from fastai.basics import Callback, DataLoaders, Learner
from fastai.losses import CrossEntropyLossFlat
from deepclsmote.core import ImageOversampler, new_generator, to_signed, to_uint8
from deepclsmote.loaders import ImagesInMemory, MemoryLoader

def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()

def marked_images(counts, seed=0, channels=1, shuffle=True):
    "uint8 images of 16 x 16 and labels; the first pixels are: 0, class + 1, two bytes of the row number, 0"
    g,n = new_generator(seed),sum(counts)
    images = torch.randint(30, 90, (n,channels,16,16), generator=g, dtype=torch.uint8)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    if shuffle: labels = labels[torch.randperm(n, generator=g)]
    images[:,:,0,0],images[:,:,0,4] = 0,0
    images[:,:,0,1] = (labels+1).to(torch.uint8)[:,None]
    images[:,:,0,2],images[:,:,0,3] = (torch.arange(n)//256).to(torch.uint8)[:,None],(torch.arange(n)%256).to(torch.uint8)[:,None]
    return images,labels

def read_marks(x, low=-1):
    "(is synthetic, class, row number, draw) of each image of a batch: bytes, or floats from `low` to 1"
    x = x.detach().as_subclass(torch.Tensor).cpu()
    p = (x if x.dtype == torch.uint8 else to_uint8(x if low < 0 else x*2-1))[:,0,0,:5].long()
    assert set(p[:,0].tolist()) <= {0,255}
    return p[:,0] == 255, p[:,1]-1, p[:,2]*256+p[:,3], p[:,4]

class Marked(ImageOversampler):
    "Copies whose pixel 0 is 255, and whose pixel 4 is drawn afresh for each"
    fits = 0
    fail_at = None  # which call of `draw` breaks
    def _fit_images(self, images, labels, seed):
        Marked.fits += 1
        self.kept_,self.calls_ = (images,labels),0
    def _draw_images(self, labels, generator):
        self.calls_ += 1
        if self.fail_at == self.calls_: raise RuntimeError('the decoder broke')
        images,y = self.kept_
        rows = [torch.where(y == c)[0] for c in labels.tolist()]
        rows = torch.stack([r[torch.randint(len(r), (1,), generator=generator)[0]] for r in rows])
        new = to_signed(images[rows]).clone()
        new[:,:,0,0] = 1
        new[:,:,0,4] = to_signed(torch.randint(256, (len(rows),1), generator=generator, dtype=torch.uint8))
        return new
    def _sample_images(self, label, n, generator):
        return self._draw_images(torch.full((n,), label), generator), torch.full((n,2), -1), torch.zeros(n)

class Net(nn.Module):
    "A linear classifier of images of 16 x 16"
    def __init__(self, c=3, channels=1):
        super().__init__()
        with torch.random.fork_rng(devices=[]): self.body,self.head = nn.Sequential(nn.Flatten(), nn.Linear(channels*256, 8)),nn.Linear(8, c)
        g = new_generator(0)
        with torch.no_grad():
            for p in self.parameters(): p.copy_(torch.randn(p.shape, generator=g)/16)
    def forward(self, x): return self.head(torch.relu(self.body(x.float())))

class Spy(Callback):
    "Keeps what the network is trained on, an epoch a list of batches"
    order = 70
    def __init__(self): self.epochs = []
    def before_train(self): self.epochs.append([])
    def before_batch(self):
        if self.training: self.epochs[-1].append((self.x.detach().clone(), self.y.detach().clone()))
    def __getstate__(self): return {**self.__dict__, 'epochs': []}

def memory_dls(counts=(60,20,6), bs=16, low=None, seed=0, vocab=None, **kwargs):
    "Loaders of marked images in memory; validation has four images a class"
    def part(counts, seed):
        x,y = marked_images(counts, seed)
        return ImagesInMemory(x if low is None else to_signed(x) if low < 0 else (to_signed(x)+1)/2, y, vocab)
    dl = MemoryLoader(part(counts, seed), bs, True, new_generator(5), **kwargs)
    return DataLoaders(dl, dl.new(part([4]*len(counts), seed+1), shuffle=False), device=torch.device('cpu'))

def learner(dls, *cbs, c=3, path='.', **kwargs):
    return Learner(dls, Net(c, kwargs.pop('channels', 1)), kwargs.pop('loss_func', CrossEntropyLossFlat()), lr=.01, cbs=list(cbs), path=path, **kwargs)

def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn

def epochs_of(cb, dls=None, n=1, **kwargs):
    "What a learner with this callback is trained on"
    spy = Spy()
    fit(learner(memory_dls() if dls is None else dls, cb, spy, **kwargs), n)
    return spy.epochs
