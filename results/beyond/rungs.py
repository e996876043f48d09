"""What was tried on the way, on inner folds: python results/beyond/rungs.py mnist; appends to rungs.csv what it lacks.

The rungs that did not hold have no place in the package and live here."""
import copy, sys, time
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback
from torch import nn
from torch.nn import functional as F
from deepclsmote.core import new_generator
from deepclsmote.data import load_dataset
from deepclsmote.evaluation import cell_split, evaluate_cell
from deepclsmote.features import FeatureCallback
from deepclsmote.losses import intra_class_loss
from deepclsmote.models import Encoder, build
from deepclsmote.networks import NETWORKS, Network
from deepclsmote.oversamplers import DeepCLSMOTE, augment_shift, donor_rows, to_signed
from deepclsmote.registry import Training, parse, training
from deepclsmote.smote import add_residual, draw_donors
from deepclsmote.training import Objective

IDENTITY = 16 # of the numbers of a code, where identity and style are kept apart

class Apart(Objective):
    "The first numbers of a code gather about their class's mean; a judge learns to tell the class from the others, and the encoder to leave it without a clue"
    def __init__(self, latent_dim, n_classes, weight=10.):
        super().__init__((1.,0.,0.))
        self.weight,self.judge = weight,build(lambda: nn.Sequential(nn.Linear(latent_dim-IDENTITY, 128), nn.ReLU(), nn.Linear(128, n_classes)), 0)
        self.opt = torch.optim.Adam(self.judge.parameters(), 1e-3)

    def __call__(self, pred, x, y):
        total,(own,style) = super().__call__(pred, x, y),pred[1].split([IDENTITY, pred[1].shape[1]-IDENTITY], 1)
        for _ in range(3):
            self.opt.zero_grad()
            F.cross_entropy(self.judge(style.detach()), y).backward()
            self.opt.step()
        at_a_loss = -self.judge(style).log_softmax(1).mean()
        self.terms['total'] = total + self.weight*(at_a_loss + intra_class_loss(own, y))
        return self.terms['total']

class Sharp(Objective):
    "Half of the loss is what a classifier's first layers see of the difference"
    def __init__(self, layers): super().__init__((1.,0.,0.)); self.layers = layers
    def __call__(self, pred, x, y):
        total = super().__call__(pred, x, y)
        seen = (self.layers(pred[0]) - self.layers(x)).square().flatten(1).sum(1).mean()
        self.terms['total'] = total + seen*(total/seen).detach()
        return self.terms['total']

def first_layers(X, y):
    "The convolutions of a plain CNN after 500 steps on the same images"
    net = parse('none+balanced_softmax+augment').fit(X, y, len(np.unique(y)), steps=500).learn.model
    return net.features[:5].eval().requires_grad_(False)

class Tried(DeepCLSMOTE):
    "Other donors, other steps and other losses for generation='style'"
    way,loss = '',None # '', 'near', 'check', 'towards', 'across' or 'style'; an `Objective`

    def _objective(self): return self.loss or super()._objective()

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
        "'check': half the step, up to four times, until the nearest centroid is the own one. 'towards': towards the donor's place about its centroid, carried to the own centroid. 'across': without the directions in which the centroids differ. 'style': along the numbers that say nothing of identity"
        if self.way not in ('check','towards','across','style'): return super()._restyle(coder, device, rows, weights, generator)
        a,_,i,j = rows.T
        c,label = self._centroids(),self.labels_[a]
        x = to_signed(self.images_[a].to(device))
        if self.augment_parents: x = augment_shift(x, generator)
        z,w = coder.encode(x).cpu(),(weights*float(self.alpha))[:,None].clone()
        if self.way in ('across','style'):
            step = self._code(j)-self._code(i)
            apart = torch.linalg.qr((c[1:]-c[0]).T)[0] if self.way == 'across' else torch.eye(z.shape[1])[:,:IDENTITY]
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

class Push(Callback):
    "After a third of the steps, new images take three steps towards their class, as the classifier sees it"
    def __init__(self, keep, steps, size): self.keep,self.steps,self.size = keep,steps,size
    def before_batch(self):
        if not self.training or self.learn.train_iter < self.steps: return
        x,y = self.xb[0].clone(),self.yb[0][self.keep:]
        self.model.eval()
        for _ in range(3):
            new = x[self.keep:].requires_grad_()
            g, = torch.autograd.grad(F.cross_entropy(self.model(new), y, reduction='sum'), new)
            x = torch.cat([x[:self.keep], (new - self.size*g/g.flatten(1).norm(dim=1).clamp(min=1e-12)[:,None,None,None]).clamp(-1, 1).detach()])
        self.model.train()
        self.learn.xb = (x,)

@training('push')
def _push(counts, keep=96, steps=500, size=.3): return Training(cbs=[Push(keep, steps, size)])

class Together(FeatureCallback):
    "The classifier's features go on being unfolded into the image"
    layer = None
    def __init__(self, weight): self.weight = weight
    def extra_loss(self, z, y, head, out): return self.weight*F.mse_loss(self.learn.model.unfold(z), self.learn.xb[0])

@training('together')
def _together(counts, weight=1.): return Training(cbs=[Together(weight)])

class Unfolding(nn.Module):
    "Encoder, a layer for classes, and what makes the image again"
    def __init__(self, encoder, decoder, n):
        super().__init__()
        self.features,self.unfold,self.head = encoder.features,nn.Sequential(encoder.code, decoder),nn.Linear(encoder.code.in_features, n)
    def forward(self, x): return self.head(self.features(x))

def as_network(oversampler):
    "The encoder with a layer for classes, as it was trained and anew, alone or with the decoder"
    def make(c, size, n, encoder=None):
        e = copy.deepcopy(encoder) or Encoder(c, size, SETTINGS['latent_dim'])
        return nn.Sequential(e.features, nn.Linear(e.code.in_features, n))
    NETWORKS['encoder_anew'] = Network(make, 'adam', '')
    NETWORKS['autoencoder_trained'] = Network(lambda c, size, n: Unfolding(copy.deepcopy(oversampler.autoencoder_.encoder).cpu(), copy.deepcopy(oversampler.autoencoder_.decoder).cpu(), n), 'adam', '')
    NETWORKS['encoder_trained'] = Network(lambda c, size, n: make(c, size, n, oversampler.autoencoder_.encoder.cpu()), 'adam', '')

SETTINGS = dict(generation='style', augment_parents=True, latent_dim=64, balanced=.5, augment=True, epochs=26, decoder='compact', schedule='one-cycle')
BATCH = 'ros+alongside(ratio=.33,afresh=True)' # in the place of ros comes the fitted autoencoder
HALF = 'ros+alongside(afresh=True)'
ONE,TWO = '+balanced_softmax+augment',"+balanced_softmax(counts='original')+augment" # the prior of the mix, or of the training images
MOVED_ONCE = dict(augment_parents=False) # the classifier moves new images like all others, and a parent that was moved before is moved twice
SIX = dict(MOVED_ONCE, epochs=6)
FROZEN = dict(SIX, loss_weights=(1,0,0), restyled=.5)
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
    'six epochs, no centroid losses, half restyled': (BATCH+TWO, FROZEN),
    'six epochs, wrong ones left out': (BATCH+TWO+'+without_wrong', SIX),
    'six epochs, steps across the classes': (BATCH+TWO, dict(SIX, way='across')),
    'six epochs, residual': (BATCH+TWO, dict(SIX, generation='residual')),
    'a quarter balanced, encoder anew': ('none+sampler(share=.25)'+ONE, dict(classifier='encoder_anew')),
    'a quarter balanced, encoder as trained': ('none+sampler(share=.25)'+ONE, dict(SIX, classifier='encoder_trained')),
    'a quarter balanced, encoder goes on unfolding': ('none+sampler(share=.25)+together'+ONE, dict(SIX, loss_weights=(1,0,0), classifier='autoencoder_trained')),
    'six epochs, half restyled, encoder as trained': (BATCH+TWO, dict(FROZEN, classifier='encoder_trained')),
    'six epochs, half restyled, new images pushed': (BATCH+TWO+'+push', FROZEN),
    'six epochs, half restyled, identity and style apart': (BATCH+TWO, dict(FROZEN, loss='apart', way='style')),
    'six epochs, half restyled, sharper': (BATCH+TWO, dict(FROZEN, loss='sharp')),
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
                way,classifier,loss = settings.pop('way', ''),settings.pop('classifier', 'plain_cnn'),settings.pop('loss', None)
                learnt = {k: v for k,v in settings.items() if k not in ('generation','alpha','restyled','augment_parents')}
                key = (fold, loss, *learnt.items())
                if ('afresh' in method or 'trained' in classifier) and key not in fitted:
                    o = fitted[key] = Tried(**{**SETTINGS, **learnt}, random_state=0, progress=False)
                    o.loss = Apart(SETTINGS['latent_dim'], len(set(y))) if loss == 'apart' else Sharp(first_layers(X, y)) if loss == 'sharp' else None
                    o.fit(X, y)
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
