"What is in the pictures: pixels, places, lines and words, read back from the Axes."
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from sklearn.manifold import trustworthiness
from deepclsmote import charts, plots
from deepclsmote.core import InputError, toy_images
from deepclsmote.plots import flat_map, interpolation_strip, latent_map, nearest_real, parents_and_new, real_and_synthetic
from figures import *

X,y = toy_images((8,4,1))
X_new = ((X[:3].astype(int)+X[3:6])//2).astype('uint8')
made = pd.DataFrame(dict(label=[0,0,1], parent_a=[0,1,2], parent_b=[3,4,5], weight=np.float32([.25,.5,.75])))
rng = np.random.default_rng(0)
codes,labels = rng.normal(size=(40,5)) + np.repeat(np.eye(4,5)*8, 10, 0),np.repeat(list('abcd'), 10)
codes_new,labels_new = codes[:6]+.1,labels[:6]
each = dict(real_and_synthetic=lambda ax: real_and_synthetic(X, y, X[:3], y[:3], title='toys'), interpolation_strip=lambda ax: interpolation_strip(X[:4], ax=ax), parents_and_new=lambda ax: parents_and_new(X, X_new, made, ax=ax),
    with_nearest=lambda ax: parents_and_new(X, X_new, made, nearest=True, ax=ax), pca=lambda ax: latent_map(codes, labels, codes_new, labels_new, 'pca', ax=ax), tsne=lambda ax: latent_map(codes, labels, codes_new, labels_new, ax=ax))
every = pytest.mark.parametrize('name', each)
def corners(ax): return [tuple(int(v) for v in (i.get_extent()[0], i.get_extent()[3])) for i in ax.images]

# What holds for all of them

@pytest.mark.parametrize('name', [n for n in each if n != 'real_and_synthetic'])  # which has no `ax`
def test_draws_where_told(name): draws_where_told(each[name])

@every
def test_makes_one_figure_and_shows_nothing(name, monkeypatch): makes_one_figure(each[name], monkeypatch)

@every
def test_sizes_do_not_follow_the_session(name): sizes_do_not_follow_the_session(each[name])

@every
def test_no_words_on_words(name): no_words_on_words(each[name](None).figure)

def test_one_namespace():
    "All public names of charts are had from plots, and from `import *`"
    space = {}
    exec('from deepclsmote.plots import *', space)
    assert len(charts.__all__) > 20 and all(space[n] is getattr(charts, n) for n in charts.__all__)
    assert {'real_and_synthetic','latent_map','class_histogram','save_figure'} <= space.keys()

# Pixels

forms = dict(hw=lambda a: a[...,0], hwc=lambda a: a, chw=lambda a: a.transpose(0,3,1,2), four=lambda a: np.concatenate([a, a[...,:1]], -1),
             flat=lambda a: a[...,0].reshape(len(a), -1), torch=lambda a: torch.tensor(a), unit=lambda a: (a/255).astype('float32'), signed=lambda a: a/127.5-1)

@pytest.mark.parametrize('form', forms)
def test_pixels_are_those_given(form):
    "Whatever the form, the uint8 pixels are drawn, unsmoothed"
    a = np.random.RandomState(0).randint(0, 256, (5,16,16,3), np.uint8)
    images = forms[form](a)
    copy = images.clone() if form == 'torch' else images.copy()
    for ax in (interpolation_strip(images), real_and_synthetic(images, list('aabbb'), images[:0], [])):
        expected = a[...,0] if form in ('hw','flat') else forms['four'](a) if form == 'four' else a
        assert (np.array(drawn(ax)) == expected).all() and np.array(drawn(ax)).dtype == np.uint8
        assert all(i.get_interpolation() == 'nearest' and i.get_clim() == (0,255) for i in ax.images)
    assert (images == copy).all()

def test_rows_and_places():
    "Real left, synthetic right, the first ones there are, in order; nothing for what does not exist"
    new,label = 255-X,y
    ax = real_and_synthetic(X, y, new[label == 2].repeat(4, 0), [2]*4, classes=[2,0], per_class=3, class_names={0: 'many', 2: 'few'})
    assert corners(ax) == [(0,0), (3,0), (4,0), (5,0), (0,1), (1,1), (2,1)]
    assert (np.array(drawn(ax)) == np.concatenate([X[y==2], *[new[y==2]]*3, X[y==0][:3]])).all()
    assert [t.get_text() for t in ax.get_yticklabels()] == ['few\n1 real','many\n8 real'] and words(ax) == ['real','synthetic']
    left,right = max(i.get_extent()[1] for i in ax.images if i.get_extent()[0] < 3),min(i.get_extent()[0] for i in ax.images if i.get_extent()[0] > 3)
    assert left < ax.lines[0].get_xdata()[0] < right

def test_all_classes_and_labels_of_any_kind():
    "Without `classes` every label of either kind has a row, in sorted order"
    ax = real_and_synthetic(X[:2], ['b','d'], X[:1], ['a'])
    assert [t.get_text() for t in ax.get_yticklabels()] == ['a\n0 real','b\n1 real','d\n1 real'] and len(ax.images) == 3
    assert len(real_and_synthetic(X, torch.tensor(y), X[:0], y[:0]).images) == 6+4+1

def test_strip():
    ax = interpolation_strip(X[:3], [0,.25,.5])
    assert [t.get_text() for t in ax.get_xticklabels()] == ['0.00','0.25','0.50'] and words(ax) == ['parent a'] # b is not reached
    assert words(interpolation_strip(X[:3])) == ['parent a','parent b'] and corners(ax) == [(0,0),(1,0),(2,0)]

# Parents and nearest

def test_columns_of_parents():
    "Base, neighbor, new image, one under the other, with the weights of the parents"
    ax = parents_and_new(X, X_new, made, which=[2,0])
    pictures = np.array(drawn(ax)).reshape(3, 2, 16, 16)
    assert (pictures == np.stack([X[[2,0]], X[[5,3]], X_new[[2,0]]])).all()
    assert [i.get_extent()[0] for i in ax.images] == pytest.approx([.03,1.03]*3) and words(ax) == ['0.25','0.75','0.75','0.25']
    tops = [i.get_extent()[3] for i in ax.images]
    assert tops[0] == tops[1] < tops[2] == tops[3] < tops[4] == tops[5]
    assert [t.get_text() for t in ax.get_yticklabels()] == ['base','neighbor','combined'] and [t.get_text() for t in ax.get_xticklabels()] == ['1','0']

def test_row_of_nearest():
    ax = parents_and_new(X, X_new, made, nearest=True)
    rows,far = nearest_real(X, X_new)
    assert (np.array(drawn(ax))[-3:] == X[rows]).all() and [t.get_text() for t in ax.get_yticklabels()][-1] == 'nearest real'
    kind = ['base' if r == a else 'neighbor' if r == b else 'other' for r,a,b in zip(rows, made.parent_a, made.parent_b)]
    assert words(ax)[-3:] == [f'{d:.0f}\n{k}' for d,k in zip(far, kind)]

def test_nearest_by_another_distance():
    ax = parents_and_new(X, X_new, made, nearest=[0,4,9], which=[1,2])
    assert (np.array(drawn(ax))[-2:] == X[[4,9]]).all() and words(ax)[-2:] == ['neighbor','other']

def test_no_parent_no_picture():
    "Where there is no neighbor, its place is empty and says so; a weight of NaN is not written"
    table = dict(parent_a=[0,-1], parent_b=[-1,-1], weight=[np.nan]*2)
    ax = parents_and_new(X, X_new[:2], table)
    assert len(ax.images) == 3 and words(ax) == ['none']*3 and not any(t.get_text() for t in ax.get_xticklabels())

def test_evenly_spread_without_which():
    table = pd.concat([made.iloc[:1]]*20, ignore_index=True)
    many = np.arange(20, dtype='uint8')[:,None,None]*np.ones((16,16), 'uint8')
    assert [d[0,0] for d in drawn(parents_and_new(X, many, table, n=4))[-4:]] == [0,6,13,19] and len(drawn(parents_and_new(X, X_new, made, n=99))) == 9

def test_color_and_names():
    A,a = toy_images((4,2), (16,24,3))
    ax = parents_and_new(A, A[:2], made[:2], class_names=['a long name','b'], nearest=True)
    assert np.array(drawn(ax)).shape == (8,16,24,3) and [t.get_text() for t in ax.get_xticklabels()] == ['a long name']*2
    no_words_on_words(ax.figure)
    no_words_on_words(parents_and_new(X, np.concatenate([X_new]*6), pd.concat([made]*6), n=18, nearest=True, class_names=['zero','one']).figure)

@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 8), st.integers(1, 9))
@settings(deadline=None, max_examples=25)
def test_nearest_against_loops(seed, n, m, block):
    g = np.random.default_rng(seed)
    real,new = (g.integers(0, 256, (k,16,16), dtype=np.uint8) for k in (n,m))
    rows,far = nearest_real(real, new, block)
    slow = np.array([[((a.astype(float)-b)**2).mean()**.5 for a in real] for b in new])
    assert (rows == slow.argmin(1)).all() and np.allclose(far, slow.min(1), rtol=1e-5)

def test_nearest_of_copies_and_of_none():
    rows,far = nearest_real(np.concatenate([X, X]), X)
    assert rows.tolist() == list(range(len(X))) and not far.any()  # exactly 0, and the first one of equals
    assert [v.shape for v in nearest_real(X, X[:0])] == [(0,),(0,)] and nearest_real(X/255, X[:2]/255)[1].tolist() == [0,0]

# Maps

def scattered(ax): return {s.get_label(): np.asarray(s.get_offsets()) for s in ax.collections}

def test_places_as_they_are():
    ax = latent_map(codes[:,:2], labels, codes_new[:,:2], labels_new, method=None)
    for c in 'abcd': assert (scattered(ax)[f'{c}, real'] == codes[labels == c,:2]).all()
    assert (scattered(ax)['a, synthetic'] == codes_new[:,:2]).all() and ax.get_xlabel() == ''

def test_filled_and_hollow():
    "A class has one color and one marker; synthetic codes have no face"
    ax = latent_map(codes, labels, codes_new, labels_new, 'pca')
    by = {s.get_label(): s for s in ax.collections}
    assert set(by) == {'a, synthetic','a, real','b, real','c, real','d, real'} and len(by['a, synthetic'].get_facecolor()) == 0 and len(by['a, real'].get_facecolor()) == 1
    assert (by['a, synthetic'].get_edgecolor() == by['a, real'].get_facecolor()).all()
    path = lambda s: by[s].get_paths()[0].vertices.tolist()
    assert path('a, synthetic') == path('a, real') != path('b, real')
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [*'abcd','real','synthetic']
    assert [t.get_text() for t in latent_map(codes, labels, method='pca').get_legend().get_texts()] == [*'abcd']

def test_pca_keeps_distances():
    "Of codes that lie in a plane all distances are kept, and the shares sum to 1"
    plane = rng.normal(size=(30,2))@np.linalg.qr(rng.normal(size=(7,2)))[0].T + 3
    places,done = flat_map(plane, 'pca')
    d = lambda z: np.linalg.norm(z[:,None]-z, axis=2)
    assert np.allclose(d(places), d(plane)) and sum(done['share']) == pytest.approx(1) and (np.diff(done['share']) <= 0).all()

def test_real_and_synthetic_share_one_map():
    ax = latent_map(codes, labels, codes_new, labels_new, 'pca')
    places,done = flat_map(np.concatenate([codes, codes_new]), 'pca')
    assert np.allclose(scattered(ax)['a, synthetic'], places[40:]) and np.allclose(scattered(ax)['b, real'], places[10:20])
    assert ax.get_xlabel() == f"component 1: {100*done['share'][0]:.0f} % of the variance"

def test_tsne_keeps_neighbors():
    places,done = flat_map(codes)
    assert trustworthiness(codes, places, n_neighbors=5) > .8 and done == dict(method='tsne', perplexity=13, random_state=0)
    center = [places[10*i:10*i+10].mean(0) for i in range(4)]
    assert all(np.linalg.norm(p - center[i//10]) == min(np.linalg.norm(p-c) for c in center) for i,p in enumerate(places))

def test_seed_decides():
    before = states()
    a,b,c = (flat_map(codes, random_state=s)[0] for s in (0,0,1))
    assert (a == b).all() and states() == before and flat_map(codes[:20], random_state=7)[1]['random_state'] == 7 and c.shape == a.shape and not np.allclose(a, c)
    assert (flat_map(torch.tensor(codes, dtype=torch.float32), 'pca')[0].shape) == (40,2)

@pytest.mark.parametrize('n', [1,2,3,4,5,8])
@pytest.mark.parametrize('d', [1,2,20])
def test_few_codes(n, d):
    "Any number of codes of any length has places; the perplexity stays below their number"
    places,done = flat_map(rng.normal(size=(n,d)))
    assert places.shape == (n,2) and np.isfinite(places).all() and done['method'] == ('tsne' if n > 3 else 'pca') and 0 < done.get('perplexity', .5) < n

def test_equal_codes(): assert not flat_map(np.ones((9,4)))[0].any() and not flat_map(np.ones((9,4)), 'pca')[0].any()

def test_43_classes_can_be_told():
    z,c = rng.normal(size=(86,2)),np.tile(np.arange(43), 2)
    ax = latent_map(z, c, z[:5], c[:5], method=None)
    looks = {(tuple(s.get_facecolor()[0]), str(s.get_paths()[0].vertices)) for s in ax.collections if 'real' in s.get_label()}
    assert len(looks) == 43 and len(ax.get_legend().get_texts()) == 45
    no_words_on_words(ax.figure)

bad = dict(
    shape=lambda: real_and_synthetic(X, y, X[:,:,:-1], y), dtype=lambda: real_and_synthetic(X, y, X/255, y), range=lambda: real_and_synthetic(X/255, y, X/127.5-1, y),
    not_images=lambda: real_and_synthetic(X[:,0,0], y, X, y), short=lambda: real_and_synthetic(X, y[1:], X, y), short_new=lambda: real_and_synthetic(X, y, X, y[1:]),
    unknown=lambda: real_and_synthetic(X, y, X, y, classes=[9]), no_class=lambda: real_and_synthetic(X, y, X, y, classes=[]), zero=lambda: real_and_synthetic(X, y, X, y, per_class=0),
    weights=lambda: interpolation_strip(X[:3], [0,1]), no_images=lambda: interpolation_strip(X[:0]),
    short_table=lambda: parents_and_new(X, X_new, made[:2]), no_columns=lambda: parents_and_new(X, X_new, made[['label']]), other_rows=lambda: parents_and_new(X[:3], X_new, made), below=lambda: parents_and_new(X, X_new, made.assign(parent_b=-2)),
    no_new=lambda: parents_and_new(X, X[:0], made[:0]), none_wanted=lambda: parents_and_new(X, X_new, made, n=0), too_far=lambda: parents_and_new(X, X_new, made, which=[3]), other_form=lambda: parents_and_new(X, X_new/255, made),
    seed=lambda: flat_map(codes, random_state=-1), nearest=lambda: parents_and_new(X, X_new, made, nearest=[0]), nearest_outside=lambda: parents_and_new(X, X_new, made, nearest=[0,1,99]), nameless=lambda: parents_and_new(X, X_new, made, class_names={}),
    no_codes=lambda: latent_map(np.zeros((0,3)), []), nan=lambda: latent_map([[np.nan,1]], [0]), method=lambda: latent_map(codes, labels, method='umap'), three_numbers=lambda: latent_map(codes, labels, method=None), labels=lambda: latent_map(codes, labels[1:]),
    labels_new=lambda: latent_map(codes, labels, codes_new), lengths=lambda: latent_map(codes, labels, codes_new[:,1:], labels_new), perplexity=lambda: latent_map(codes, labels, perplexity=0), names=lambda: latent_map(codes, labels, class_names={'a': 'A'}),
    images=lambda: latent_map(X, y))

@pytest.mark.parametrize('name', bad)
def test_refused(name):
    with pytest.raises(InputError) as e: bad[name]()
    assert 40 < len(str(e.value)) < 400 and not plt.get_fignums()  # before a figure is made
