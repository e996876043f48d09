"Methods by name: what strings mean, every method through `fit_resample`, every way of training through a classifier."
import inspect, random, warnings
import numpy as np
import pytest, torch
from hypothesis import given, settings, strategies as st
from deepclsmote import registry
from deepclsmote.callbacks import balance_plan
from deepclsmote.classifiers import train_classifier, predict
from deepclsmote.core import InputError, class_counts
from deepclsmote.data import ImageSet, protocol_counts
from deepclsmote.evaluation import evaluate_cell
from deepclsmote.registry import Combination, Filling, Training, fit_classifier, make, parse

# how to make the long ones short
quick = dict(bagan=dict(autoencoder_steps=4, steps=4, batch_size=16), gamo=dict(steps=4), gamo2pix=dict(steps=4, vae_steps=4), wgan_gp=dict(steps=4),
    deepsmote=dict(epochs=1, decoder='compact'), deepclsmote=dict(epochs=1, decoder='compact'), mc_rbo=dict(steps=20))
kept = set(registry.oversamplers()) - {'rus'}
def states(): return random.getstate(), str(np.random.get_state()), torch.random.get_rng_state().tolist()
def sampler(name, **more):
    takes = inspect.signature(registry.oversamplers()[name]).parameters
    return make(name, **{k: v for k,v in {**dict(random_state=0, progress=False, device='cpu'), **quick.get(name, {}), **more}.items() if k in takes})

@pytest.fixture(scope='module')
def tail():
    "Three classes of 16 x 16 told apart by where a bright square lies: 30, 8 and 4 images"
    rng = np.random.RandomState(0)
    y = np.repeat([0, 1, 2], [30, 8, 4])
    X = rng.randint(0, 60, (42,16,16)).astype('uint8')
    for i,c in enumerate(y): X[i,5*c:5*c+5,5*c:5*c+5] = 250 - rng.randint(60)
    order = rng.permutation(42)
    return X[order],y[order]

@pytest.fixture(scope='module')
def peerj():
    "The PeerJ counts in images of 16 x 16: a class is a bright bar of its own direction and place"
    rng,counts = np.random.RandomState(0),protocol_counts('peerj')
    y = rng.permutation(np.repeat(np.arange(10), counts))
    X = rng.randint(0, 40, (len(y),16,16)).astype('uint8')
    for i,c in enumerate(y):
        at = 1 + 3*(c//2) + rng.randint(2)
        if c % 2: X[i,at] = 220 + rng.randint(30)
        else: X[i,:,at] = 220 + rng.randint(30)
    return X,y,list(counts)

@pytest.mark.filterwarnings('ignore')  # alarms: hardly trained
@pytest.mark.parametrize('name', sorted(registry.oversamplers()))
def test_peerj_counts(name, peerj):
    "Every method brings 3000, 2000, ..., 4 to 3000 each (undersampling: to 4), originals first and untouched, labels in sorted order"
    X,y,counts = peerj
    o = sampler(name)
    X1,y1 = o.fit_resample(X.copy(), y)
    if name == 'rus': assert class_counts(y1) == dict.fromkeys(range(10), 4); return
    assert class_counts(y1) == dict.fromkeys(range(10), 3000) and X1.shape == (30_000,16,16) and X1.dtype == np.uint8
    assert (X1[:len(X)] == X).all() and (y1[:len(X)] == y).all()
    assert y1[len(X):].tolist() == np.repeat(np.arange(10), [3000-n for n in counts]).tolist() == o.provenance_.label.tolist()
    kin = o.provenance_.parent_a.to_numpy()
    assert ((kin == -1) | (y[kin] == y1[len(X):])).all()

def test_the_names_that_stay():
    asked = 'ros, rus, smote, borderline1, borderline2, adasyn, amdo, mc_ccr, mc_rbo, transforms, bagan, gamo, gamo2pix, wgan_gp, deepsmote, deepclsmote'.split(', ')
    assert set(asked) <= set(registry.oversamplers()) and all(inspect.isclass(c) for c in registry.oversamplers().values())
    table = registry.methods()
    assert set(table.name) == set(registry.oversamplers()) | set(registry.trainings()) and (table.paper != '').all() and (table.cost != '').all()

@pytest.mark.parametrize('name', sorted(kept))
def test_every_oversampler_balances(name, tail):
    "Originals first and untouched, exact counts, no global generator moved"
    X,y = tail
    X0,before = X.copy(),states()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        X1,y1 = sampler(name).fit_resample(X, y)
    assert states() == before and (X == X0).all()
    assert (X1[:42] == X).all() and X1.dtype == X.dtype and X1.shape[1:] == X.shape[1:] and class_counts(y1) == {0: 30, 1: 30, 2: 30}

def test_undersampling(tail):
    X,y = tail
    X1,y1 = sampler('rus').fit_resample(X, y)
    assert class_counts(y1) == {0: 4, 1: 4, 2: 4} and all((x == X).all((1,2)).any() for x in X1)

def alone():
    for name in registry.trainings(): yield ('ros+' if name in registry.FILLINGS else 'none+')+name
@pytest.mark.parametrize('text', [*alone(), 'none+ldam+drw+augment', 'ros+remix+drw', 'smote+mamix', 'none+balanced_softmax+sampler+augment', 'none+crt+augment', "ros+balanced_softmax(counts='original')"])
def test_every_way_of_training(text, tail):
    "Exact number of steps, finite probabilities, the same twice, nothing global moved"
    X,y = tail
    def run():
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            judge = parse(text).fit(X, y, 3, steps=10, seed=1, device='cpu')
        return judge,judge.scores(X)
    before = states()
    (judge,p),(_,q) = run(),run()
    assert states() == before
    assert p.shape == (42,3) and np.isfinite(p).all() and judge.probabilities and np.allclose(p.sum(1), 1, atol=1e-5) and (p == q).all()

def test_plain_is_train_classifier(tail):
    "'none' adds nothing of its own"
    X,y = tail
    learn = train_classifier(torch.from_numpy(X)[:,None], torch.from_numpy(y), 3, steps=5, seed=3, progress=False, device='cpu')
    np.testing.assert_array_equal(parse('none').fit(X, y, 3, steps=5, seed=3, device='cpu').scores(X), predict(learn, torch.from_numpy(X)[:,None]))

def test_post_hoc_adjustment_divides_by_the_prior(tail):
    X,y = tail
    plain,adjusted = (parse(t).fit(X, y, 3, steps=5, seed=3, device='cpu').scores(X).astype(float) for t in ('none', 'none+logit_adjustment(tau=.5)'))
    want = plain/(np.array([30, 8, 4])/42)**.5
    np.testing.assert_allclose(adjusted, want/want.sum(1, keepdims=True), rtol=1e-4)

def test_two_stages_share_the_steps(tail):
    X,y = tail
    judge = parse('none+crt(share=.8)').fit(X, y, 3, steps=10, seed=0, device='cpu')
    plain = parse('none').fit(X, y, 3, steps=8, seed=0, device='cpu')
    body = lambda j: [p.detach() for n,p in j.learn.model.named_parameters() if n.startswith('features')]
    assert all(a.equal(b) for a,b in zip(body(judge), body(plain), strict=True)), 'stage two moved the features, or stage one was not eight steps'

@pytest.mark.parametrize('classifier', ['plain_cnn','resnet32','thesis_cnn','cnn_svm','gamo_net'])
def test_every_classifier(classifier, tail):
    X,y = tail
    scores = parse('none').fit(X, y, 4, classifier=classifier, steps=4, seed=0, device='cpu').scores(X)
    assert scores.shape == (42,4) and not np.isnan(scores).any()
    if classifier == 'gamo_net':
        with pytest.raises(InputError, match='way of training of its own'): parse('none+focal').fit(X, y, 3, classifier=classifier, steps=4)

settings_ = st.dictionaries(st.sampled_from(['epochs','lr','decoder']), st.one_of(st.integers(1, 99), st.floats(.001, 1), st.sampled_from(['papers','compact'])), max_size=3)
@settings(max_examples=60, deadline=None)
@given(settings_, st.lists(st.sampled_from(sorted(registry.trainings())), max_size=3).filter(lambda names: sum(n in registry.FILLINGS for n in names) < 2))
def test_strings_come_back(s, names):
    c = Combination(('deepclsmote', s), tuple((n, {}) for n in names))
    assert parse(str(c)) == c and str(parse(str(c))) == str(c)

@pytest.mark.parametrize('text', ['', '+', 'smote+', 'smote++ldam', 'smote-ldam', 'smote(', 'smote()()', 'a.b', 'smote+(ldam+drw)', 'smote(k_neighbors=x)', 'smote(**{})', 'smote(5)', '__import__("os")', None, 3, b'smote'])
def test_what_cannot_be_read(text):
    with pytest.raises(InputError): parse(text)

def test_two_losses_are_refused_before_training(tail):
    X,y = tail
    with pytest.raises(InputError, match='two methods change the loss'): parse('none+ldam+focal').fit(X, y, 3, steps=1)
    with pytest.raises(InputError, match="counts='some'"): parse("none+ldam(counts='some')").fit(X, y, 3, steps=1)

def test_a_name_is_taken_once():
    with pytest.raises(InputError, match='taken'): registry.oversampler('smote')(type('Other', (), {}))
    with pytest.raises(InputError, match='unknown'): make('smoke')
    with pytest.raises(InputError, match='is no oversampler'): make('ldam')

@pytest.mark.parametrize('mode', registry.FILLINGS)
@settings(max_examples=30, deadline=None)
@given(counts=st.lists(st.integers(0, 40), min_size=2, max_size=6).filter(lambda c: sum(map(bool, c)) > 1), ratio=st.sampled_from([.01, .25, 1, 2.5]))
def test_how_many_of_each(mode, counts, ratio):
    "What `fill` makes, what `counts` says and, within a rounded image a class, what batches drawn afresh are made of"
    y,filling = np.repeat(np.arange(len(counts)), counts),Filling(mode, ratio)
    X = np.zeros((len(y),16,16), 'uint8')
    made = np.bincount(registry.fill(make('ros', random_state=0).fit(X, y), X, y, filling)[1], minlength=len(counts))
    assert made.tolist() == filling.counts(counts).tolist()
    share,real,new = balance_plan(counts, mode, ratio)
    whole = (share*real + (1-share)*new).numpy()
    real_images = sum(counts) if mode == 'alongside' else max(counts)*sum(map(bool, counts))
    assert np.abs(made - whole*real_images/share).max() <= 1 + 1e-6

@pytest.mark.parametrize('mode', registry.FILLINGS)
def test_afresh(tail, mode):
    "Batches of real and new images in the mixture's shares, other new ones each time; the loss knows the mixture; same seed, same scores; the fitted sampler is not changed"
    X,y = tail
    text = f'deepclsmote(latent_dim=2)+{mode}(ratio=0.5, afresh=True)+balanced_softmax'
    judges = [parse(text).fit(X, y, 3, steps=6, seed=s, device='cpu', epochs=1, decoder='compact') for s in (0, 0, 1)]
    scores = [j.scores(X) for j in judges]
    assert np.array_equal(*scores[:2]) and not np.array_equal(*scores[1:])
    drawn = judges[0].learn.balance.counts
    keep = round(128/1.5)
    assert drawn.real.sum() == 6*keep and drawn.synthetic.sum() == pytest.approx(6*(128-keep), abs=2) and drawn.synthetic.max() - drawn.synthetic.min() <= 1
    share = drawn.real/drawn.real.sum()
    np.testing.assert_allclose(share, [1/3]*3 if mode == 'symmetric' else [30/42, 8/42, 4/42], atol=.01)
    batches = list(judges[0].learn.balance.view)
    assert not torch.equal(batches[0][0][keep:], batches[1][0][keep:])
    record,(_,_,fit,sample,fitted) = evaluate_cell(ImageSet(X, y, 'bars', ('a','b','c')), 'exp-2', text, settings=dict(epochs=1, decoder='compact', progress=False), steps=3, device='cpu', held_out=ImageSet(X, y, 'bars', ('a','b','c')))
    assert record['counts_after'] == parse(text).filling.counts(record['counts_before']).tolist() and not sample.any() and fit.all()
    before = fitted.generator_.get_state()
    list(judges[0].learn.balance.view)
    assert torch.equal(before, fitted.generator_.get_state())

@pytest.mark.parametrize('text,match', [('ros+alongside(ratio=0)', 'ratio=0'), ("ros+symmetric(ratio='auto')", "ratio='auto'"), ("ros+alongside(afresh='yes')", "afresh='yes'"), ('ros+alongside(afresh=True)+sampler', "Leave 'sampler' out"), ('none+alongside(afresh=True)', 'makes no images')])
def test_fillings_are_refused(text, match):
    with pytest.raises(InputError, match=match): parse(text)

@pytest.mark.parametrize('filling', registry.FILLINGS)
def test_a_sampler_from_its_file_fills_too(tail, tmp_path, filling):
    X,y = tail
    o = sampler('deepclsmote').fit(X, y)
    o.save(tmp_path/'o.safetensors')
    a,b = (registry.fill(s, X, y, Filling(filling)) for s in (o, type(o).load(tmp_path/'o.safetensors')))
    assert np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1])
    assert class_counts(a[1]) == ({0: 60, 1: 60, 2: 60} if filling == 'symmetric' else {0: 44, 1: 22, 2: 18})
