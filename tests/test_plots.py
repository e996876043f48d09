"What is in the figures: bars, pixels, lines and words, read back from the Axes."
import itertools
import matplotlib
matplotlib.use('Agg')
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from matplotlib.axes import Axes
from PIL import Image
from deepclsmote.core import InputError, toy_images
from deepclsmote.plots import _spread, class_histogram, group_recall_bars, interpolation_strip, loss_curves, real_and_synthetic, save_figure

@pytest.fixture(autouse=True)
def close_figures():
    plt.close('all')
    yield
    plt.close('all')

X,y = toy_images((8,4,1))
table = pd.DataFrame(dict(many=[.9,.8], medium=[np.nan,.5], few=[0.,1.]), index=['nothing','SMOTE'])
history = dict(recon=[.5,.2,.1], intra=[.3,.2,.15], inter=[.3,.21,.149])
with_ax = dict(class_histogram=lambda ax: class_histogram([5,3,1], [5,5,5], ax=ax), interpolation_strip=lambda ax: interpolation_strip(X[:4], ax=ax),
               loss_curves=lambda ax: loss_curves(history, ax=ax), group_recall_bars=lambda ax: group_recall_bars(table, ax=ax))
all_figures = {**{k: (lambda f=f: f(None)) for k,f in with_ax.items()}, 'real_and_synthetic': lambda: real_and_synthetic(X, y, X[:3], y[:3], title='toys')}

def drawn(ax): return [np.asarray(i.get_array()) for i in ax.images]
def words(ax): return [t.get_text() for t in ax.texts]
def corners(ax): return [tuple(int(v) for v in (i.get_extent()[0], i.get_extent()[3])) for i in ax.images]

# What holds for all of them

@pytest.mark.parametrize('name', with_ax)
def test_draws_where_told(name):
    "With `ax` given: that Axes comes back, and no setting, current figure, other Axes or open figure changes"
    fig,axs = plt.subplots(1, 2, layout='constrained')
    other = plt.figure()
    rc,neighbor = dict(matplotlib.rcParams),len(axs[1].get_children())
    assert with_ax[name](axs[0]) is axs[0]
    assert dict(matplotlib.rcParams) == rc and plt.gcf() is other and len(plt.get_fignums()) == 2 and len(axs[1].get_children()) == neighbor and not other.axes

@pytest.mark.parametrize('name', all_figures)
def test_makes_one_figure_and_shows_nothing(name, monkeypatch):
    monkeypatch.setattr(plt, 'show', lambda *a, **k: pytest.fail('plt.show was called'))
    rc = dict(matplotlib.rcParams)
    assert isinstance(all_figures[name](), Axes) and len(plt.get_fignums()) == 1 and dict(matplotlib.rcParams) == rc

@pytest.mark.parametrize('name', all_figures)
def test_sizes_do_not_follow_the_session(name):
    "Font sizes are given in each call"
    def sizes(): return [t.get_fontsize() for t in all_figures[name]().figure.findobj(matplotlib.text.Text) if t.get_text()]
    before = sizes()
    with plt.rc_context({'font.size': 30, 'axes.titlesize': 30, 'axes.labelsize': 30, 'xtick.labelsize': 30, 'ytick.labelsize': 30, 'legend.fontsize': 30}):
        assert sizes() == before and max(before) <= 10

@pytest.mark.parametrize('name', all_figures)
def test_no_words_on_words(name):
    fig = all_figures[name]().figure
    renderer = fig.canvas.get_renderer()
    fig.draw(renderer)
    ax = fig.axes[0]
    ticks = [t for a in (ax.xaxis, ax.yaxis) for v,t in zip(a.get_ticklocs(), a.get_ticklabels()) if min(a.get_view_interval()) <= v <= max(a.get_view_interval())]
    shown = [t for t in [*ticks, *ax.texts, ax.title, ax.xaxis.label, ax.yaxis.label, *(ax.get_legend().get_texts() if ax.get_legend() else [])] if t.get_text()]
    boxes = [matplotlib.text.Text.get_window_extent(t, renderer).shrunk(.9, .9) for t in shown]
    assert len(shown) >= 3
    for (a,s),(b,t) in itertools.combinations(zip(boxes, shown), 2): assert not a.overlaps(b), (s.get_text(), t.get_text())
    for box,t in zip(boxes, shown): assert fig.bbox.padded(1).contains(box.x0, box.y0) and fig.bbox.padded(1).contains(box.x1, box.y1), t.get_text()

@pytest.mark.parametrize('color', ['#0072B2', '#E69F00', '#009E73', '#D55E00', '#CC79A7', '#56B4E9', '#000000'])
def test_okabe_ito(color):
    from deepclsmote.plots import _colors
    assert color in _colors.values() and len(_colors) == 7

# Counts

def test_bars_are_the_counts():
    ax = class_histogram({'b': 3, 'a': 5}, {'a': 5, 'b': 4, 'c': 2})
    bars = [(p.get_y(), p.get_height()) for p in ax.patches]
    assert bars == [(0,5),(0,3),(0,0), (5,0),(3,1),(0,2)]
    assert [t.get_text() for t in ax.get_xticklabels()] == ['a','b','c']
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['real','synthetic']
    assert ax.patches[0].get_facecolor() != ax.patches[3].get_facecolor() and ax.patches[3].get_hatch()

@pytest.mark.parametrize('log', [False, True])
def test_counts_are_written(log):
    "All images above the bar, real ones where they end; equal ones once"
    ax = class_histogram([300,40,3], [300]*3, log=log)
    assert sorted((round(t.xy[0]), t.xy[1], t.get_text()) for t in ax.texts) == [(0,300,'300'), (1,40,'40'), (1,300,'300'), (2,3,'3'), (2,300,'300')]
    assert ax.get_yscale() == ('log' if log else 'linear') and ax.get_ylim()[1] > 300

def test_numbers_that_do_not_fit_are_left_out():
    assert words(class_histogram([1000+i for i in range(100)])) == []
    assert len(words(class_histogram([1000]*5))) == 5

def test_real_alone_has_no_legend():
    ax = class_histogram([4,2], class_names=['cat','dog'])
    assert ax.get_legend() is None and len(ax.patches) == 2 and [t.get_text() for t in ax.get_xticklabels()] == ['cat','dog']

def test_empty_classes_are_drawn(): assert words(class_histogram([0,0])) == ['0','0'] and words(class_histogram([0,0], log=True)) == ['0','0']

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

# Losses

def test_lines():
    ax = loss_curves(pd.DataFrame(history).assign(epoch=[3,4,5], empty=np.nan))
    assert [l.get_label() for l in ax.lines] == words(ax) == list(history)
    for line,v in zip(ax.lines, history.values()): assert line.get_xdata().tolist() == [3,4,5] and line.get_ydata().tolist() == v
    assert len({(l.get_color(), l.get_linestyle()) for l in ax.lines}) == 3 and ax.get_legend() is None

@pytest.mark.parametrize('log,values,scale', [(True,[1,.1],'log'), (True,[1,0],'linear'), (True,[1,-1],'linear'), (False,[1,.1],'linear'), (True,[1,np.nan],'log')])
def test_scale(log, values, scale): assert loss_curves(dict(a=values), log=log).get_yscale() == scale

def test_log_labels():
    "Plain numbers; 2 and 5 between the powers of ten where they are few"
    def labels(values):
        ax = loss_curves(dict(a=values))
        ax.figure.draw_without_rendering()
        return {t.get_text() for m in (False, True) for v,t in zip(ax.get_yticks(minor=m), ax.get_yticklabels(minor=m)) if t.get_text() and ax.get_ylim()[0] <= v <= ax.get_ylim()[1]}
    assert labels([.6,.015]) == {'0.02','0.05','0.1','0.2','0.5'} and labels([1e-4,1]) == {'0.0001','0.001','0.01','0.1','1'}

def test_holes():
    "A value that is not finite is no point; one point alone is seen as a dot"
    ax = loss_curves(dict(a=[1,np.nan,2], b=[np.nan,np.inf,3.]))
    assert ax.lines[0].get_xdata().tolist() == [1,3] and ax.lines[1].get_xdata().tolist() == [3] and ax.lines[1].get_marker() == 'o'

@pytest.mark.parametrize('log', [False, True])
def test_names_stand_at_the_line_ends(log):
    ax = loss_curves(dict(low=[9,1.], high=[1,10.], middle=[2,4.]), log=log)
    ax.figure.draw_without_rendering()
    for t in ax.texts: assert ax.transAxes.transform(t.xyann)[1] == pytest.approx(ax.transData.transform(t.xy)[1], abs=2)

@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(.01, .12))
@settings(deadline=None, max_examples=100)
def test_spread(heights, least):
    got = _spread(heights, least)
    assert (np.diff(np.sort(got)) >= least-1e-9).all() and got.max() <= max(1, least*(len(heights)-1))+1e-9
    assert all(got[i] <= got[j] for i in range(len(got)) for j in range(len(got)) if heights[i] < heights[j])

# Recalls

def test_recalls():
    ax = group_recall_bars(table)
    assert [round(p.get_width(), 9) for p in ax.patches if np.isfinite(p.get_width())] == [.9,.8,.5,0,1] and len(ax.patches) == 6
    assert words(ax) == ['0.900','0.800','no class','0.500','0.000','1.000']
    assert [t.get_text() for t in ax.get_yticklabels()] == ['nothing','SMOTE'] and [t.get_text() for t in ax.get_legend().get_texts()] == ['many','medium','few']
    top = [t for t in ax.texts if t.get_text() == '0.900'][0]
    assert abs(top.xy[1]) < .5 and ax.yaxis_inverted() # the first row is on top

def test_some_groups(): assert len(group_recall_bars(table[['few','many']]).patches) == 4

# Files

def test_save(tmp_path):
    ax = class_histogram([3,1])
    data = [save_figure(f, tmp_path/'a.png', dpi=100).read_bytes() for f in (ax, ax.figure, np.array([[ax]]))]
    assert data[0] == data[1] == data[2] and Image.open(tmp_path/'a.png').width == pytest.approx(650, abs=30)
    assert Image.open(save_figure(ax, str(tmp_path/'b.PNG'), dpi=50)).width < 360 and [f.name for f in sorted(tmp_path.iterdir())] == ['a.png','b.PNG']
    assert b'matplotlib' not in data[0].lower()

def test_a_failed_save_keeps_the_file(tmp_path, monkeypatch):
    path = save_figure(class_histogram([3,1]), tmp_path/'a.png')
    before = path.read_bytes()
    monkeypatch.setattr('os.replace', lambda *a: (_ for _ in ()).throw(OSError('disk full')))
    with pytest.raises(OSError): save_figure(class_histogram([9,9,9]), path)
    assert path.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ['a.png']

bad = dict(
    fewer=lambda: class_histogram([5,5], [5,4]), lost=lambda: class_histogram({'a': 1}, {}), none=lambda: class_histogram([]), below=lambda: class_histogram([-1]),
    nan=lambda: class_histogram([float('nan')]), nameless=lambda: class_histogram([1,2], class_names=['one']), nameless_words=lambda: class_histogram({'a': 1}, class_names=['one']),
    shape=lambda: real_and_synthetic(X, y, X[:,:,:-1], y), dtype=lambda: real_and_synthetic(X, y, X/255, y), range=lambda: real_and_synthetic(X/255, y, X/127.5-1, y),
    not_images=lambda: real_and_synthetic(X[:,0,0], y, X, y), short=lambda: real_and_synthetic(X, y[1:], X, y), short_new=lambda: real_and_synthetic(X, y, X, y[1:]),
    unknown=lambda: real_and_synthetic(X, y, X, y, classes=[9]), no_class=lambda: real_and_synthetic(X, y, X, y, classes=[]), zero=lambda: real_and_synthetic(X, y, X, y, per_class=0),
    weights=lambda: interpolation_strip(X[:3], [0,1]), no_images=lambda: interpolation_strip(X[:0]), uneven=lambda: loss_curves(dict(a=[1,2], b=[1])), no_epochs=lambda: loss_curves({}),
    words=lambda: loss_curves(dict(a=['x'])), all_nan=lambda: loss_curves(dict(a=[np.nan])), per_cent=lambda: group_recall_bars(table*100), empty_table=lambda: group_recall_bars(table[:0]),
    no_groups=lambda: group_recall_bars(table.rename(columns=str.upper)), ending=lambda: save_figure(class_histogram([1]), 'a.pdf'), nothing=lambda: save_figure([], 'a.png'),
    number=lambda: save_figure(3, 'a.png'))

@pytest.mark.parametrize('name', bad)
def test_refused(name):
    with pytest.raises(InputError) as e: bad[name]()
    assert 40 < len(str(e.value)) < 400

@pytest.mark.parametrize('name', [n for n in bad if n not in ('ending','nothing','number')])
def test_refused_before_a_figure_is_made(name):
    with pytest.raises(InputError): bad[name]()
    assert not plt.get_fignums()
