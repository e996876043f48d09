"Splits: properties, published counts and fingerprints, refusals."
import functools, hashlib, os, random
from pathlib import Path
import numpy as np
import pandas as pd
import pytest, torch
from hypothesis import given, settings, strategies as st
from deepclsmote import data
from deepclsmote.core import InputError
from deepclsmote.data import *

real = os.environ.get('DEEPCLSMOTE_DATA')
needs_data = pytest.mark.skipif(not real, reason='DEEPCLSMOTE_DATA does not name the folder of the real data sets')
root = Path(__file__).resolve().parents[1]
published = pd.read_csv(root/'results'/'splits.csv')

def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()

# Splits ------------------------------------------------------------------------------------------

def slow_split(labels, counts, fold, n_folds, seed):
    "Section 1 of the methods, written a second time without NumPy's help except for the permutation"
    rows = {}
    for i,y in enumerate(labels): rows.setdefault(y, []).append(i)
    t = min(map(len, rows.values()))//n_folds
    train,test = [],[]
    for j,y in enumerate(sorted(rows)):
        p = np.random.RandomState(seed*1000003+j).permutation(rows[y]).tolist()
        ahead = p[fold*t:]
        test += ahead[:t]
        train += (ahead[t:] + p[:fold*t])[:counts[j]]
    return sorted(train), sorted(test)

@needs_data
def test_peerj_on_mnist():
    y = load_dataset('mnist').labels
    train,test = long_tail_split(y)
    assert len(train) == 7290 and np.bincount(y[train]).tolist() == list(PROTOCOLS['peerj'])
    assert np.bincount(y[test]).tolist() == [1084]*10
    assert split_sha256(train, test) == '1efe50941847848c293cbfba3d568cd962c379dbe41755c78802b28bec34dbab'
    for fold,seed in ((0,0), (4,0), (2,3)):
        fast,slow = long_tail_split(y, fold=fold, seed=seed), slow_split(y.tolist(), PROTOCOLS['peerj'], fold, 5, seed)
        assert [o.tolist() for o in fast] == list(slow)

def test_fingerprint_of_digits():
    "Pinned without files: another value means that old records name other images"
    y = load_dataset('digits').labels
    train,test = long_tail_split(y, 'digits')
    assert split_sha256(train, test) == '197d6c1b72edc3d08c4ca5fdcea0b43f9e0477cce95c71161914bc4c2fc211bf'
    both = b''.join(int(i).to_bytes(8, 'little') for i in [*train, *test])
    assert split_sha256(train.astype('>i8'), test) == hashlib.sha256(both).hexdigest()

@st.composite
def problems(draw):
    "Labels in mixed order, and settings that fit them"
    n_folds,C = draw(st.integers(2, 6)), draw(st.integers(2, 5))
    own = [draw(st.integers(n_folds, 40)) for _ in range(C)]
    t = min(own)//n_folds
    counts = [draw(st.integers(1, n-t)) for n in own]
    names = draw(st.sampled_from([np.arange(C), np.arange(C)*7-9, np.array(list('abcde')[:C])]))
    labels = np.random.default_rng(draw(st.integers(0, 99))).permutation(np.repeat(names, own))
    return labels, counts, n_folds, draw(st.integers(0, 4294))

@settings(max_examples=100, deadline=None)
@given(problems())
def test_split_properties(problem):
    labels,counts,n_folds,seed = problem
    before,kept = states(),labels.copy()
    C,own = np.unique(labels, return_counts=True)
    tested = []
    for fold in range(n_folds):
        train,test = long_tail_split(labels, counts, fold, n_folds, seed)
        assert [o.tolist() for o in (train,test)] == [o.tolist() for o in long_tail_split(labels.tolist(), tuple(counts), fold, n_folds, seed)]
        assert (train.tolist(), test.tolist()) == slow_split(labels.tolist(), counts, fold, n_folds, seed)
        assert train.dtype == test.dtype == np.int64 and (np.diff(train) > 0).all() and (np.diff(test) > 0).all()
        assert not set(train) & set(test)
        assert [(labels[train] == c).sum() for c in C] == counts and [(labels[test] == c).sum() for c in C] == [min(own)//n_folds]*len(C)
        tested.append(test)
    assert len(np.unique(np.concatenate(tested))) == sum(map(len, tested))
    assert states() == before and (labels == kept).all()

y3 = np.repeat([0,1,2], [20,12,8])
@pytest.mark.parametrize('args,match', [
    (('peer',), 'peerj, peerj-gtsrb, peerj-small'), (([5,4],), '3 classes and protocol has 2'), (([5,4,0],), 'above 0'), (([5,4,1.5],), 'above 0'), (([3],), 'at least two'), ((7,), 'expected a name'),
    (([5,12,1],), 'class 1 has 12 images; expected at least 13: 12 to train and 1 to test'), (([5,4,3],5), '0 to 4'), (([5,4,3],-1), '0 to 4'), (([5,4,3],.5), '0 to 4'),
    (([5,4,3],0,1), 'n_folds=1'), (([5,4,3],0,9), 'class 2 has 8 images; expected at least 9'), (([5,4,3],0,5,-1), 'seed=-1'), (([5,4,3],0,5,4295), '0 to 4294'), (([5,4,3],0,5,None), 'seed=None')])
def test_split_refuses(args, match):
    with pytest.raises(InputError, match=match): long_tail_split(y3, *args)

def test_largest_seed(): assert len(long_tail_split(y3, [5,4,3], seed=4294)[0]) == 12

# Images that belong together ---------------------------------------------------------------------

def slow_group_split(labels, counts, fold, n_folds, seed, groups):
    "The rule for bags, image by image: each ring is a list of (bag, row)"
    rings = []
    for j,c in enumerate(sorted(set(labels))):
        rows = [i for i,y in enumerate(labels) if y == c]
        own,rng = sorted({groups[i] for i in rows}), np.random.RandomState(seed*1000003+j)
        order = [own[k] for k in rng.permutation(len(own))]
        inside = dict(zip(rows, rng.permutation(len(rows)).tolist()))
        rings.append([(g,i) for g in order for _,i in sorted((inside[i],i) for i in rows if groups[i] == g)])
    def cut(ring, t):
        "Fold -> its bags in ring order, or None where the ring is too short"
        folds,at = [],0
        for f in range(n_folds):
            n,mine = 0,[]
            while n < t:
                if at == len(ring): return None
                if ring[at][0] not in mine: mine.append(ring[at][0])
                n,at = n+1,at+1
            while at < len(ring) and mine and ring[at][0] == mine[-1]: at += 1
            folds.append(mine)
        return folds
    t = max(t for t in range(len(labels)) if all(cut(r, t) for r in rings))
    train,test = [],[]
    for ring,n in zip(rings, counts):
        mine = cut(ring, t)[fold]
        held = [i for g,i in ring if g in mine]
        first = [g for g,_ in ring].index(mine[0])
        turned = ring[first:] + ring[:first]
        seen,rest = {},[]
        for g,i in turned:
            if g not in mine: rest.append((seen.setdefault(g, 0), len(rest), i)); seen[g] += 1
        train += [i for *_,i in sorted(rest)][:n]
        test += held[:t]
    return sorted(train), sorted(test), t

@st.composite
def group_problems(draw):
    n_folds,C = draw(st.integers(2, 4)), draw(st.integers(2, 4))
    sizes = [[draw(st.integers(1, 6)) for _ in range(draw(st.integers(n_folds, 12)))] for _ in range(C)]
    labels = np.repeat(np.arange(C)*3, [sum(s) for s in sizes])
    groups = np.concatenate([np.repeat(np.arange(len(s)), s) for s in sizes])  # the same numbers in every class
    p = np.random.default_rng(draw(st.integers(0, 99))).permutation(len(labels))
    return labels[p], groups[p], n_folds, draw(st.integers(0, 20)), draw(st.integers(0, 10**6))

@settings(max_examples=60, deadline=None)
@given(group_problems())
def test_group_split_properties(problem):
    labels,groups,n_folds,seed,pick = problem
    C = np.unique(labels)
    rest = [long_tail_split(labels, 'natural', f, n_folds, seed, groups)[0] for f in range(n_folds)]
    counts = [1 + pick % min((labels[r] == c).sum() for r in rest) for c in C]
    tested = []
    for fold in range(n_folds):
        train,test = long_tail_split(labels, counts, fold, n_folds, seed, groups)
        *slow,t = slow_group_split(labels.tolist(), counts, fold, n_folds, seed, groups.tolist())
        assert [train.tolist(), test.tolist()] == slow
        keys = [{*zip(labels[r], groups[r])} for r in (train,test)]
        assert not keys[0] & keys[1]
        assert [(labels[train] == c).sum() for c in C] == counts and [(labels[test] == c).sum() for c in C] == [t]*len(C)
        assert set(train) <= set(rest[fold])
        tested.append(keys[1])
    assert len(set.union(*tested)) == sum(map(len, tested))  # folds share no bag

@settings(max_examples=50, deadline=None)
@given(problems())
def test_bags_of_one_are_images(problem):
    labels,counts,n_folds,seed = problem
    for fold in range(n_folds):
        a,b = (long_tail_split(labels, counts, fold, n_folds, seed, g) for g in (None, [f'{i:04}' for i in range(len(labels))]))
        assert all((x == y).all() for x,y in zip(a, b))

def test_groups_of_any_kind():
    g = np.where(y3 < 2, np.arange(40)//2, np.arange(40))
    a = long_tail_split(y3, [5,4,3], groups=g)
    for same in (g.tolist(), torch.tensor(g), [f'{i:02}' for i in g], g+100):
        assert all((x == y).all() for x,y in zip(a, long_tail_split(y3, [5,4,3], groups=same)))

@pytest.mark.parametrize('groups,match', [(np.arange(39), r'groups has shape \(39,\)'), (np.arange(40)[:,None], 'groups has shape'), ([1.]*39+[np.nan], 'no value in row 39'), (np.arange(40)%4, 'class 0 has 4 groups; expected at least 5'), (7, 'groups has shape')])
def test_groups_refused(groups, match):
    with pytest.raises(InputError, match=match): long_tail_split(y3, [5,4,3], groups=groups)

def test_counts_that_whole_groups_cannot_give():
    g = np.concatenate([np.arange(20)//4, np.arange(12)//2, np.arange(8)])
    with pytest.raises(InputError, match='class 0 has 20 images; expected at least 21: 17 to train and 4 to test'): long_tail_split(y3, [17,4,3], groups=g)

# Protocols ---------------------------------------------------------------------------------------

reference = root/'nbs'/'reference'
def labels_of(*own): return np.repeat(np.arange(len(own)), own)
as_mnist = labels_of(5923,6742,5958,6131,5842,5421,5918,6265,5851,5949)

@pytest.mark.parametrize('protocol,dataset,own', [('deepsmote-grey','MNIST',as_mnist), ('deepsmote-grey','FMNIST',labels_of(*[6000]*10)), ('deepsmote-colour','CIFAR10',labels_of(*[6000]*10)), ('deepsmote-celeba','CELEBA',labels_of(40000,30000,20000,6000,3000))])
def test_deepsmote(protocol, dataset, own):
    t = pd.read_csv(reference/'deepsmote_table1_counts.csv').query('dataset == @dataset')
    for fold in range(5):
        (train,balanced),(same,imbalanced) = (long_tail_split(own, protocol, fold, test=o) for o in ('balanced','imbalanced'))
        assert (train == same).all() and np.bincount(own[train]).tolist() == t.train.tolist()
        assert np.bincount(own[balanced]).tolist() == t.balanced_test.tolist() and np.bincount(own[imbalanced]).tolist() == t.imbalanced_test.tolist()
        assert not set(train) & {*balanced, *imbalanced}
        for c,(m,b) in enumerate(zip(t.imbalanced_test, t.balanced_test)):
            small,large = sorted([set(balanced[own[balanced] == c]), set(imbalanced[own[imbalanced] == c])], key=len)
            assert small <= large

def test_printed_tests_overlap_each_other_where_a_class_is_too_small():
    tests = [long_tail_split(as_mnist, 'deepsmote-grey', f)[1] for f in range(5)]
    again = np.intersect1d(tests[0], tests[4])
    assert np.bincount(as_mnist[again], minlength=10).tolist() == [max(0, 6000-n) for n in np.bincount(as_mnist)]
    assert all(not len(np.intersect1d(tests[a], tests[b])) for a in range(5) for b in range(a) if b-a != -4)
    with pytest.raises(InputError, match="class 0 has 5000 images; expected at least 5500: 4500 to train and 1000 to test.*split='all'"): long_tail_split(labels_of(*[5000]*10), 'deepsmote-colour')

@pytest.mark.parametrize('protocol,n,dataset', [('thesis-fmnist',6000,'FMNIST'), ('thesis-cifar10',5000,'CIFAR10')])
def test_thesis(protocol, n, dataset):
    y,t = labels_of(*[n]*10), pd.read_csv(reference/'thesis_drops.csv').query('dataset == @dataset')
    folds = [long_tail_split(y, protocol, f) for f in range(5)]
    for train,test in folds:
        left = np.bincount(y[train])
        assert not len(test) and test.dtype == np.int64 and left[t['index']].tolist() == t.left.tolist() and np.delete(left, t['index']).tolist() == [n]*6
    assert len({split_sha256(*f) for f in folds}) == 5
    assert (folds[3][0] == long_tail_split(y, protocol, 0, seed=3)[0]).all()

@pytest.mark.parametrize('ratio', [1, 2, 10, 12.5, 50, 100, 200])
@pytest.mark.parametrize('own', [[5000]*10, [7,900,640], [501,500]])
def test_profiles(ratio, own):
    y,C,n = labels_of(*own), len(own), min(own)
    if ratio > n:
        for kind in ('exp','step'):
            with pytest.raises(InputError, match=f'ratio={ratio:g} leaves no image'): long_tail_split(y, f'{kind}-{ratio}')
        return
    for kind,expected in (('exp', [int(n*ratio**(-j/(C-1))) for j in range(C)]), ('step', [n if j < C//2 else int(n/ratio) for j in range(C)])):
        train,test = long_tail_split(y, f'{kind}-{ratio}', 2, seed=5)
        assert np.bincount(y[train]).tolist() == expected and not len(test)
        for c in range(C): assert set(train[y[train] == c]) == set(np.random.RandomState(1000003*7+c).permutation(np.flatnonzero(y == c))[:expected[c]])

def test_deepsmote_ratios():
    names = deepsmote_ratios()
    assert names[0] == 'deepsmote-ratio-20' and names[-1] == 'deepsmote-ratio-400' and len(set(names)) == 20
    steps = np.diff([float(n.split('-')[-1]) for n in names])
    assert (steps == steps[0]).all()
    for n in names:
        c = protocol_counts(n, np.bincount(as_mnist))
        r = float(n.split('-')[-1])
        assert c[0] == 4000 and c[9] == int(4000/r) and (np.diff(c) < 0).all() and all(abs(a/b - r**(1/9)) < .2 for a,b in zip(c, c[1:]))
        train,test = long_tail_split(as_mnist, n, 4)
        assert np.bincount(as_mnist[train]).tolist() == list(c) and np.bincount(as_mnist[test]).tolist() == [1084]*10
    assert protocol_counts('deepsmote-ratio-20', [4800]*10)[0] == 3840

def test_natural():
    for fold in range(5):
        train,test = long_tail_split(as_mnist, 'natural', fold)
        assert sorted([*train, *test]) == [*range(len(as_mnist))] and set(np.bincount(as_mnist[test])) == {1084}
    assert protocol_counts('natural', [10,20,30]) == (8,18,28)

@pytest.mark.parametrize('protocol', ['exp-', 'exp-x', 'exp--5', 'step-1e3', 'exp-100 ', 'deepsmote-ratio', 'deepsmote-ratio-', 'EXP-100', 'exp-1.', ''])
def test_names_that_are_none(protocol):
    with pytest.raises(InputError, match='is not known'): long_tail_split(y3, protocol)

def test_ratios_refused():
    for p in ('exp-0.5', 'step-0', 'deepsmote-ratio-0.5'):
        with pytest.raises(InputError, match='expected at least 1'): long_tail_split(y3, p)
    with pytest.raises(InputError, match='follows the data'): protocol_counts('exp-100')
    for p in ([5,4], 'natural', 'exp-2'):
        with pytest.raises(InputError, match='1 classes|2 classes'): long_tail_split(np.zeros(9), p)
    with pytest.raises(InputError, match='0 classes'): long_tail_split([], 'natural')

def test_settings_of_redrawn_protocols():
    assert len(long_tail_split(y3, 'exp-2', 4, seed=4290)[0])
    with pytest.raises(InputError, match='0 to 4290'): long_tail_split(y3, 'exp-2', 0, seed=4291)
    for test in ('both', None):
        with pytest.raises(InputError, match="'balanced' or 'imbalanced'"): long_tail_split(y3, [5,4,3], test=test)
    for p in ('peerj-small', 'exp-2', 'natural', [5,4,3]):
        with pytest.raises(InputError, match='prints no such test|10 counts'): long_tail_split(y3, p, test='imbalanced')

# Splitter ----------------------------------------------------------------------------------------

def test_splitter():
    items = [Path(f'{"abc"[c]}/{i}.png') for i,c in enumerate(y3)]
    train,valid = LongTailSplitter([5,4,3], fold=1, seed=2)(items)
    assert [list(train), list(valid)] == [o.tolist() for o in long_tail_split(y3, [5,4,3], 1, seed=2)] and all(type(i) is int for i in [*train, *valid])
    g = np.where(y3 < 2, np.arange(40)//2, np.arange(40))
    for groups in (g, lambda o: int(g[int(o.stem)])):
        assert [list(o) for o in LongTailSplitter([5,4,3], groups=groups)(items)] == [o.tolist() for o in long_tail_split(y3, [5,4,3], groups=g)]
    assert list(LongTailSplitter('exp-2', get_y=lambda o: o.parts[0])(items)[1]) == []
    with pytest.raises(InputError, match='3 entries and there are 40 items'): LongTailSplitter(labels=[0,1,2])(items)
    with pytest.raises(InputError, match='3 classes'): LongTailSplitter()(items)

# Real labels and fingerprints --------------------------------------------------------------------

@functools.cache
def loaded(name, split):
    from deepclsmote.sets import load_dataset
    if (name,split) == ('cifar10','train'):  # its JPEG files are decoded once
        both = loaded(name, 'all')
        return ImageSet(both.images[:50000], both.labels[:50000], both.classes, both.name)
    return load_dataset(name, split=split)

@needs_data
def test_published_fingerprints():
    made = published_splits(lambda name, split: loaded(name, split))
    pd.testing.assert_frame_equal(made, published)

def test_published_table():
    assert not published.duplicated(['dataset','part','protocol','fold']).any() and published.sha256.str.fullmatch('[0-9a-f]{64}').all() and published.sha256.nunique() >= len(published)*.8
    own = published[(published.dataset == 'digits') & (published.protocol == 'digits')]
    assert own.sha256.tolist() == [split_sha256(*long_tail_split(load_dataset('digits').labels, 'digits', f)) for f in range(5)]

@needs_data
def test_tracks():
    "By image nearly every tested sign was trained on too; by track none"
    d = loaded('gtsrb10', 'train')
    for fold in (0, 4):
        (train,test),(clean,held) = (long_tail_split(d.labels, 'peerj-gtsrb', fold, groups=g) for g in (None, d.groups))
        assert np.isin(d.groups[test], d.groups[train]).any() and not np.isin(d.groups[held], d.groups[clean]).any()
        assert np.bincount(d.labels[train]).tolist() == np.bincount(d.labels[clean]).tolist() == list(PROTOCOLS['peerj-gtsrb'])
        assert set(np.bincount(d.labels[test])) == {294} and set(np.bincount(d.labels[held])) == {270}
        known = [np.isin(d.groups[test[d.labels[test] == c]], d.groups[train]).mean() for c in range(10)]
        assert min(known[:5]) > .95 and .05 < known[9] < .2
        assert [len(set(d.groups[clean[d.labels[clean] == c]])) for c in range(5, 10)] == [12,10,8,6,4]  # a rare sign's frames are of as many signs
    full = loaded('gtsrb', 'train')
    train,test = long_tail_split(full.labels, 'natural', groups=full.groups)
    assert not np.isin(full.groups[test], full.groups[train]).any() and np.bincount(full.labels[test]).tolist() == [30]*43
    image = long_tail_split(full.labels, 'natural')
    assert np.isin(full.groups[image[1]], full.groups[image[0]]).all()  # random frames: every tested sign was trained on
