"""What was tried on the way, on inner folds: python results/beyond/rungs.py mnist; appends to rungs.csv what it lacks.

The rungs that did not hold have no place in the package and live here."""
import copy, sys, time
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from torch import nn
from deepclsmote.core import new_generator
from deepclsmote.data import load_dataset
from deepclsmote.evaluation import cell_split, evaluate_cell
from deepclsmote.features import FeatureCallback
from deepclsmote.models import Encoder
from deepclsmote.networks import NETWORKS, Network
from deepclsmote.oversamplers import DeepCLSMOTE, augment_shift, donor_rows, to_signed
from deepclsmote.registry import Training, training
from deepclsmote.smote import add_residual, draw_donors

class Tried(DeepCLSMOTE):
    "Other donors and other steps for generation='style'"
    way = '' # '', 'near', 'check', 'towards' or 'across'

    def _centroids(self):
        n = self.labels_.bincount()
        return torch.zeros(len(n), self.codes_.shape[1]).index_add_(0, self.labels_, self.codes_.float())/n[:,None]

    def _rows(self, label, n, generator):
        "'near': donors only from the rich class whose centroid is nearest"
        if self.way != 'near': return super()._rows(label, n, generator)
        own,c = self._own(label),self._centroids()
        if ('near',label) not in self.near_:
            self.near_['near',label] = [min(donor_rows(self.labels_, 'head'), key=lambda rows: torch.dist(c[self.labels_[rows[0]]], c[label]).item())]
        base = own[torch.randint(len(own), (n,), generator=generator)]
        return torch.stack([base, torch.full((n,), -1), *draw_donors(self.near_['near',label], n, generator)], 1), torch.rand(n, generator=generator)

    def _restyle(self, coder, device, rows, weights, generator):
        "'check': half the step, up to four times, until the nearest centroid is the own one. 'towards': towards the donor's place about its centroid, carried to the own centroid. 'across': without the directions in which the centroids differ"
        if self.way not in ('check','towards','across'): return super()._restyle(coder, device, rows, weights, generator)
        a,_,i,j = rows.T
        c,label = self._centroids(),self.labels_[a]
        x = to_signed(self.images_[a].to(device))
        if self.augment_parents: x = augment_shift(x, generator)
        z,w = coder.encode(x).cpu(),(weights*float(self.alpha))[:,None].clone()
        if self.way == 'across':
            step = self._code(j)-self._code(i)
            apart = torch.linalg.qr((c[1:]-c[0]).T)[0]
            new = z + w*(step - step@apart@apart.T)
        elif self.way == 'towards': new = z + w*(self._code(j)-c[self.labels_[j]] - (z-c[label]))
        else:
            step = self._code(j)-self._code(i)
            wrong = lambda: torch.cdist(z + w*step, c).argmin(1) != label
            for _ in range(4): w[wrong()] /= 2
            w[wrong()] = 0
            new = z + w*step
        x_new,x_hat = coder.decode(new.to(device)),coder.decode(z.to(device))
        return add_residual(x_new, x, x, x_hat, x_hat, torch.zeros(len(x)))

class FeatureStyle(FeatureCallback):
    "No pixels: the classifier's features moved by differences between features of one rich class"
    layer = None
    def __init__(self, counts, alpha, seed): self.rich,self.alpha,self.seed = counts > 100,alpha,seed
    def start(self, net): super().start(net); self.generator,self.kept = new_generator(self.seed),{}
    def extra_loss(self, z, y, head, out):
        for c in y.unique().tolist():
            if self.rich[c]: self.kept[c] = torch.cat([z[y == c].detach(), self.kept.get(c, z[:0].detach())])[:64]
        pools = [p for p in self.kept.values() if len(p) > 1]
        if not pools: return None
        i,j = draw_donors(list(torch.arange(sum(map(len, pools))).split([len(p) for p in pools])), len(z), self.generator)
        pool,w = torch.cat(pools),self.alpha*torch.rand(len(z), 1, generator=self.generator)
        return self.learn.loss_func(head((z + w*(pool[j]-pool[i])).relu()), y)

@training('feature_style')
def _feature_style(counts, alpha=1., seed=0): return Training(cbs=[FeatureStyle(counts, alpha, seed)])

class WithoutWrong(Callback):
    "After a third of the steps, new images count only where the classifier gives them to their class"
    def __init__(self, keep, steps): self.keep,self.steps = keep,steps
    def after_pred(self):
        if not self.training or self.learn.train_iter < self.steps: return
        y = self.learn.yb[0]
        fine = (self.learn.pred.argmax(1) == y) | (torch.arange(len(y), device=y.device) < self.keep)
        self.learn.pred,self.learn.yb = self.learn.pred[fine],(y[fine],)

@training('without_wrong')
def _without_wrong(counts, keep=96, steps=500): return Training(cbs=[WithoutWrong(keep, steps)])

def as_network(oversampler):
    "The encoder with a layer for classes, as it was trained and anew"
    def make(c, size, n, encoder=None):
        e = copy.deepcopy(encoder) or Encoder(c, size, SETTINGS['latent_dim'])
        return nn.Sequential(e.features, nn.Linear(e.code.in_features, n))
    NETWORKS['encoder_anew'] = Network(make, 'adam', '')
    NETWORKS['encoder_trained'] = Network(lambda c, size, n: make(c, size, n, oversampler.autoencoder_.encoder.cpu()), 'adam', '')

SETTINGS = dict(generation='style', augment_parents=True, latent_dim=64, balanced=.5, augment=True, epochs=26, decoder='compact', schedule='one-cycle')
BATCH = 'ros+alongside(ratio=.33,afresh=True)' # in the place of ros comes the fitted autoencoder
HALF = 'ros+alongside(afresh=True)'
ONE,TWO = '+balanced_softmax+augment',"+balanced_softmax(counts='original')+augment" # the prior of the mix, or of the training images
MOVED_ONCE = dict(augment_parents=False) # the classifier moves new images like all others, and a parent that was moved before is moved twice
SIX = dict(MOVED_ONCE, epochs=6)
RUNGS = { # name: method, settings of sampling
    'balanced softmax': ('none'+ONE, {}),
    'a half balanced': ('none+sampler(share=.5)'+ONE, {}),
    'a quarter balanced': ('none+sampler(share=.25)'+ONE, {}),
    'half copies, prior of the mix': (HALF+ONE, dict(alpha=1e-6)),
    'half style, prior of the mix': (HALF+ONE, {}),
    'half style, natural prior': (HALF+TWO, {}),
    'half style, half steps, prior of the mix': (HALF+ONE, dict(alpha=.5)),
    'half towards donors, prior of the mix': (HALF+ONE, dict(way='towards')),
    'a quarter style': (BATCH+TWO, {}),
    'a quarter style, half steps': (BATCH+TWO, dict(alpha=.5)),
    'a quarter style, steps checked': (BATCH+TWO, dict(way='check')),
    'a quarter style, nearest donors': (BATCH+TWO, dict(way='near')),
    'a quarter style, nearest donors, half steps': (BATCH+TWO, dict(way='near', alpha=.5)),
    'a quarter residual': (BATCH+TWO, dict(generation='residual', augment_parents=False)),
    'a quarter style, 256 numbers a code': (BATCH+TWO, dict(latent_dim=256)),
    'a quarter style, moved once': (BATCH+TWO, MOVED_ONCE),
    'half style, moved once, prior of the mix': (HALF+ONE, MOVED_ONCE),
    'half style, moved once, natural prior': (HALF+TWO, MOVED_ONCE),
    'a quarter style, moved once, nearest donors': (BATCH+TWO, dict(MOVED_ONCE, way='near')),
    'six epochs': (BATCH+TWO, SIX),
    'six epochs, no centroid losses': (BATCH+TWO, dict(SIX, loss_weights=(1,0,0))),
    'six epochs, half steps': (BATCH+TWO, dict(SIX, alpha=.5)),
    'six epochs, half restyled': (BATCH+TWO, dict(SIX, restyled=.5)),
    'six epochs, no centroid losses, half restyled': (BATCH+TWO, dict(SIX, loss_weights=(1,0,0), restyled=.5)),
    'six epochs, wrong ones left out': (BATCH+TWO+'+without_wrong', SIX),
    'six epochs, steps across the classes': (BATCH+TWO, dict(SIX, way='across')),
    'six epochs, residual': (BATCH+TWO, dict(SIX, generation='residual')),
    'a quarter balanced, encoder anew': ('none+sampler(share=.25)'+ONE, dict(classifier='encoder_anew')),
    'a quarter balanced, encoder as trained': ('none+sampler(share=.25)'+ONE, dict(SIX, classifier='encoder_trained')),
    'a half balanced, style of features': ('none+sampler(share=.5)+feature_style'+ONE, {}),
}

def climb(dataset, rungs=tuple(RUNGS), folds=(0,1), seeds=(0,1), file=Path(__file__).with_name('rungs.csv')):
    "The rungs that `file` lacks, one after the other"
    data,fitted = load_dataset(dataset),{}
    for fold in folds:
        train,_ = cell_split(data, 'peerj/inner', fold)
        X,y = data.images[train],data.labels[train]
        for rung in rungs:
            for seed in seeds:
                have = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=['dataset','fold','seed','rung'])
                if ((have.dataset == dataset) & (have.fold == fold) & (have.seed == seed) & (have.rung == rung)).any(): continue
                method,settings = RUNGS[rung]
                settings,nothing = dict(settings),np.zeros(2)
                way,classifier = settings.pop('way', ''),settings.pop('classifier', 'plain_cnn')
                learnt = {k: v for k,v in settings.items() if k not in ('generation','alpha','restyled','augment_parents')}
                key = (fold, *learnt.items())
                if ('afresh' in method or 'trained' in classifier) and key not in fitted: fitted[key] = Tried(**{**SETTINGS, **learnt}, random_state=0, progress=False).fit(X, y)
                o = fitted.get(key)
                if o is not None: o.set_params(**{**SETTINGS, 'alpha': 1., 'restyled': 1., **settings}); o.way,o.near_ = way,{}
                as_network(o)
                start = time.perf_counter()
                m = evaluate_cell(data, 'peerj/inner', method, fold, seed, classifier=classifier, resampled=(X, y, nothing, nothing, *([o] if 'afresh' in method else [])))[0]['metrics']
                row = dict(dataset=dataset, fold=fold, seed=seed, rung=rung, f1_macro=round(m['f1_macro'], 4), many=round(m['many'], 3), few=round(m['few'], 3), seconds=round(time.perf_counter()-start))
                pd.DataFrame([row]).to_csv(file, mode='a', header=not file.exists(), index=False)
                print(*row.values(), flush=True)

if __name__ == '__main__':
    torch.set_num_threads(1)
    climb(sys.argv[1], *[[a] for a in sys.argv[2:3]])
