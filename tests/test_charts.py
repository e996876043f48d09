"What is in the charts: bars, points, lines and words, read back from the Axes; and the numbers behind them against other ways to them."
import itertools, json
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from pathlib import Path
from scipy.stats import rankdata
from deepclsmote import charts
from deepclsmote.charts import *
from deepclsmote.core import InputError
from deepclsmote.metrics import evaluate
from figures import *

table = pd.DataFrame(dict(many=[.9,.8], medium=[np.nan,.5], few=[0.,1.]), index=['nothing','SMOTE'])
history = dict(recon=[.5,.2,.1], intra=[.3,.2,.15], inter=[.3,.21,.149])
def record(method, right, seed=0, counts=(100,10,2), **metrics):
    return dict(method=method, seed=seed, counts_before=list(counts), 
                confusion=[[r if j == i else 10-r if j == (i+1)%3 else 0 for j in range(3)] for i,r in enumerate(right)], metrics=metrics)
runs = [record('none', (10,6,1), acsa=.5), record('none', (10,8,3), 1, acsa=.7), record('ros', (9,9,5), acsa=.8)]
ratios = pd.DataFrame([dict(method=m, imbalance_ratio=r, acsa=v - .01*r*k) for m,k in (('none',.4),('ros',.2)) for r in (1,10,100) for v in (.5,.6,.7)])
rng = np.random.default_rng(0)
probs = rng.dirichlet([.5]*4, 300)
truth = np.where(rng.random(300) < .6, probs.argmax(1), rng.integers(0, 4, 300))
ranks = {'SMOTE': 3.4, 'ours': 1.2, 'none': 3.6, 'GAN': 1.8}
each = dict(class_histogram=lambda ax: class_histogram([5,3,1], [5,5,5], ax=ax), loss_curves=lambda ax: loss_curves(history, ax=ax), group_recall_bars=lambda ax: group_recall_bars(table, ax=ax),
    recall_by_size=lambda ax: recall_by_size(runs, ax=ax), metric_by_ratio=lambda ax: metric_by_ratio(ratios, ax=ax), rank_bars=lambda ax: rank_bars(ranks, {'SMOTE': .04, 'none': .0001, 'GAN': .3}, 'ours', ax=ax),
    rank_bars_of_measures=lambda ax: rank_bars(pd.DataFrame(dict(acsa=ranks, gm=ranks)), ax=ax), critical_difference_diagram=lambda ax: critical_difference_diagram(ranks, 12, ax=ax),
    confusion_heatmap=lambda ax: confusion_heatmap(runs[0]['confusion'], ax=ax), confusion_of_many=lambda ax: confusion_heatmap(np.eye(20), ax=ax), reliability_diagram=lambda ax: reliability_diagram(truth, probs, ax=ax))
every = pytest.mark.parametrize('name', each)

# What holds for all of them

@every
def test_draws_where_told(name): draws_where_told(each[name])

@every
def test_makes_one_figure_and_shows_nothing(name, monkeypatch): makes_one_figure(each[name], monkeypatch)

@every
def test_sizes_do_not_follow_the_session(name): sizes_do_not_follow_the_session(each[name])

@every
def test_no_words_on_words(name): no_words_on_words(each[name](None).figure)

@every
def test_input_is_left_alone(name):
    kept = lambda: json.dumps([table.to_json(), history, runs, ratios.to_json(), ranks, probs.tolist(), truth.tolist()])
    before = kept()
    each[name](None)
    assert kept() == before

@pytest.mark.parametrize('color', ['#0072B2', '#E69F00', '#009E73', '#D55E00', '#CC79A7', '#56B4E9', '#000000'])
def test_okabe_ito(color): assert color in COLORS.values() and len(COLORS) == 7

def test_looks_differ():
    "43 classes can be told by color and marker, 11 lines without color"
    assert len({(look(i)['color'], look(i)['marker']) for i in range(77)}) == 77 and len({look(i)['marker'] for i in range(11)}) == 11
    assert len({(look(i)['linestyle'], look(i)['marker']) for i in range(44)}) == 44

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
def testspread(heights, least):
    got = spread(heights, least)
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

# Recall against size

def test_recalls_of_records():
    "Mean over runs, in the order of class sizes; a bar from the lowest to the highest run where there are two"
    ax = recall_by_size(runs, class_names=['dog','cat','okapi'])
    assert [l.get_label() for l in ax.lines] == ['none','ros'] and [t.get_text() for t in ax.get_legend().get_texts()] == ['none','ros']
    assert ax.lines[0].get_xdata().tolist() == [2,10,100] and np.allclose(ax.lines[0].get_ydata(), [.2,.7,1]) and np.allclose(ax.lines[1].get_ydata(), [.5,.9,.9])
    assert len(ax.collections) == 1 and np.allclose([s[:,1] for s in ax.collections[0].get_segments()], [[.1,.3],[.6,.8],[1,1]])
    assert ax.get_xscale() == 'log' and words(ax) == ['okapi','cat','dog']

def test_points_stand_at_their_sizes():
    "Beside each other by two points of paper, and no more"
    ax = recall_by_size(runs)
    ax.figure.draw_without_rendering()
    x = [l.get_transform().transform(l.get_xydata())[1,0] for l in ax.lines]
    assert x[1]-x[0] == pytest.approx(2/72*ax.figure.dpi) and np.mean(x) == pytest.approx(ax.transData.transform((10,0))[0])

def test_table_with_labels_in_any_order():
    t = pd.DataFrame(dict(a=[.1,.9,np.nan]), index=['x','y','z'])
    ax = recall_by_size(t, dict(z=3, y=50, x=7))
    assert ax.lines[0].get_xdata().tolist() == [3,7,50] and str(ax.lines[0].get_ydata().tolist()) == '[nan, 0.1, 0.9]' and words(ax) == ['z','x','y']
    assert recall_by_size(dict(a=[.5]), [3]).lines[0].get_ydata().tolist() == [.5]  # one class

def test_a_class_without_test_images_has_no_recall():
    r = record('none', (10,6,1))
    r['confusion'][1] = [0,0,0]
    assert np.isnan(recall_by_size([r]).lines[0].get_ydata()).tolist() == [False,True,False]

@pytest.mark.parametrize('n,long', [(10,''), (10,' of no particular kind'), (43,''), (43,' ahead'), (43,'equal')])
def test_names_of_many_classes(n, long):
    sizes = [20]*n if long == 'equal' else rng.integers(5, 3000, n).tolist()
    ax = recall_by_size(dict(a=rng.random(n)), sizes, [f'sign {i}{long}' for i in range(n)])
    assert sorted(words(ax)) == sorted(f'sign {i}{long}' for i in range(n))
    texts,boxes = shown_words(ax.figure)
    boxes = [b for b,t in zip(boxes, texts) if t in ax.texts]
    upright = ax.texts[0].get_rotation() == 90
    for a,b in itertools.combinations(boxes, 2): assert not a.overlaps(b)
    for b in boxes: assert ax.figure.bbox.padded(2).contains(b.x0, b.y0) and ax.figure.bbox.padded(2).contains(b.x1, b.y1)
    assert upright == (n == 43 or long != '')

# A measure against the ratio

def test_mean_and_range():
    ax = metric_by_ratio(ratios)
    assert ax.get_xscale() == 'log' and words(ax) == ['none','ros']
    for line,band,(m,t) in zip(ax.lines, ax.collections, ratios.groupby('method')):
        assert line.get_label() == m and line.get_xdata().tolist() == [1,10,100] and np.allclose(line.get_ydata(), t.groupby('imbalance_ratio').acsa.mean())
        for r,v in t.groupby('imbalance_ratio').acsa:
            edge = [y for x,y in band.get_paths()[0].vertices if x == r]
            assert min(edge) == pytest.approx(v.min()) and max(edge) == pytest.approx(v.max())

def test_other_bands():
    edge = [y for x,y in metric_by_ratio(ratios, band='std').collections[0].get_paths()[0].vertices if x == 1]
    assert max(edge)-min(edge) == pytest.approx(2*np.std([.5,.6,.7], ddof=1)) and not metric_by_ratio(ratios, band='none').collections

def test_ratio_of_records():
    "One run is a point; a measure of NaN or None is no point; the ratio comes from the counts"
    ax = metric_by_ratio([record('a', (1,1,1), acsa=.5), record('a', (1,1,1), counts=(100,10,10), acsa=None), record('b', (1,1,1), acsa=np.nan), record('a', (1,1,1), counts=(9,9,9), acsa=.9)])
    assert [l.get_label() for l in ax.lines] == ['a'] and ax.lines[0].get_xdata().tolist() == [1,50] and ax.lines[0].get_ydata().tolist() == [.9,.5]
    assert np.isfinite(ax.collections[0].get_paths()[0].vertices).all()

def test_one_ratio(): assert metric_by_ratio(ratios[ratios.imbalance_ratio == 10]).lines[0].get_xdata().tolist() == [10]

# Ranks

def bars(ax): return [(round(p.get_y()+p.get_height()/2, 6), p.get_width()) for p in ax.patches]

def test_ranks_of_one_measure():
    ax = rank_bars(ranks, {'SMOTE': .04, 'none': .0001, 'GAN': .3}, 'ours')
    assert [t.get_text() for t in ax.get_yticklabels()] == ['ours','GAN','SMOTE','none'] and sorted(bars(ax)) == [(0,1.2),(1,1.8),(2,3.4),(3,3.6)] and ax.yaxis_inverted()
    assert words(ax) == ['1.20','1.80 n.s.','3.40 *','3.60 ***'] and 'against ours' in ax.get_xlabel()
    own = [p for p in ax.patches if p.get_hatch()]
    assert [p.get_width() for p in own] == [1.2] and own[0].get_facecolor() != ax.patches[0].get_facecolor()

@pytest.mark.parametrize('p,stars', [(.05,'n.s.'), (.049999,'*'), (.01,'*'), (.0099,'**'), (.001,'**'), (.00099,'***'), (0,'***'), (1,'n.s.'), (np.nan,'')])
def test_stars(p, stars): assert words(rank_bars(dict(a=1, b=2), dict(b=p), 'a'))[1] == f'2.00 {stars}'.strip()

def test_ranks_of_measures():
    t = pd.DataFrame(dict(acsa=[1,2,3], gm=[2,1,3.]), index=list('abc'))
    ax = rank_bars(t, pd.DataFrame(dict(acsa=[.001,.5], gm=[.03,.5]), index=list('bc')), 'a')
    assert [t.get_text() for t in ax.get_yticklabels()] == list('abc')*2 and words(ax) == ['1.00','2.00 **','3.00 n.s.','acsa','2.00','1.00 *','3.00 n.s.','gm']
    assert [w for _,w in sorted(bars(ax))] == [1,2,3,2,1,3] and 'against' not in rank_bars(t).get_xlabel()

def test_square_p_values():
    p = pd.DataFrame([[1,.2,.0001],[.2,1,.3],[.0001,.3,1]], list('abc'), list('abc'))
    assert words(rank_bars(dict(a=1, b=2, c=3), p, 'a')) == ['1.00','2.00 n.s.','3.00 ***']

def test_one_method_and_many():
    assert words(rank_bars(dict(alone=1))) == ['1.00']
    no_words_on_words(rank_bars({f'method number {i}': 1+i for i in range(20)}, {f'method number {i}': 10.**-i for i in range(1,20)}, 'method number 0').figure)
    assert words(rank_bars(dict(b=1.5, a=1.5))) == ['1.50','1.50']  # ties

# Critical difference

def lines(ax, gid): return [l.get_xydata() for l in ax.lines if l.get_gid() == gid]

def loop_groups(joined):
    "Largest groups in which all pairs are joined, by trying all subsets"
    k = len(joined)
    ok = [set(c) for n in range(2, k+1) for c in itertools.combinations(range(k), n) if all(joined[i][j] for i,j in itertools.combinations(c, 2))]
    return sorted(sorted(c) for c in ok if not any(c < d for d in ok))

@given(st.integers(2, 7), st.integers(0, 2**21-1))
@settings(deadline=None, max_examples=60)
def test_groups_against_all_subsets(k, bits):
    joined = np.eye(k, dtype=bool)
    for b,(i,j) in enumerate(itertools.combinations(range(k), 2)): joined[i,j] = joined[j,i] = bits >> b & 1
    assert charts._groups(joined) == loop_groups(joined.tolist())

def test_groups_of_twenty(): assert charts._groups(np.ones((20,20), bool)) == [list(range(20))]

def test_diagram():
    "A line from each rank to its name; bars over those closer than the critical difference"
    ax = critical_difference_diagram(ranks, cd=.7)
    assert [l[0,0] for l in lines(ax, 'method')] == [1.2,1.8,3.4,3.6]
    assert [(round(l[0,0], 1), round(l[1,0], 1)) for l in lines(ax, 'group')] == [(1.2,1.8),(3.4,3.6)] and len(lines(ax, 'members')) == 0
    assert {t.split()[0] if i < 2 else t.split()[-1] for i,t in enumerate(words(ax)[-4:])} == {'ours','GAN','SMOTE','none'} and 'critical difference 0.70' in ' '.join(words(ax))
    assert not lines(critical_difference_diagram(ranks, cd=.1), 'group') and len(lines(critical_difference_diagram(ranks, cd=9), 'group')) == 1

def test_exactly_the_critical_difference_differs(): assert not lines(critical_difference_diagram(dict(a=1.25, b=1.75), cd=.5), 'group')

def test_names_stand_at_their_lines():
    ax = critical_difference_diagram(ranks, 12)
    ax.figure.draw_without_rendering()
    ends = {(round(l[-1,0], 6), round(l[-1,1], 6)) for l in lines(ax, 'method')}
    texts = [t for t in ax.texts if any(m in t.get_text() for m in ranks)]
    assert len(texts) == 4 and {round(t.get_position()[1], 6) for t in texts} == {y for _,y in ends}
    for t in texts: assert f'{ranks[next(m for m in ranks if m in t.get_text())]:.2f}' in t.get_text()

def test_diagram_of_p_values():
    "A group with a stranger between its members has a dot on each member"
    p = pd.DataFrame(1., list('abc'), list('abc'))
    p.loc['a','b'] = p.loc['b','a'] = .01
    ax = critical_difference_diagram(dict(a=1, b=2, c=3), p_values=p)
    assert [[round(v, 1) for v in l[:,0]] for l in lines(ax, 'group')] == [[1,3],[2,3]] and [l[:,0].tolist() for l in lines(ax, 'members')] == [[1,3]]
    assert not any('critical' in w for w in words(ax))

@pytest.mark.parametrize('k', [2,3,8,13,20])
@pytest.mark.parametrize('how', ['spread','equal','close'])
def test_diagram_has_room(k, how):
    "No name on another, none outside, up to 20 long names; nor on a line of the other side"
    v = dict(spread=np.arange(1., k+1), equal=np.full(k, (k+1)/2), close=np.linspace((k+1)/2-.2, (k+1)/2+.2, k))[how]
    ax = critical_difference_diagram({f'a rather long name {i}': r for i,r in enumerate(v)}, n=10)
    no_words_on_words(ax.figure)
    ends = [l[-1] for l in lines(ax, 'method')]
    assert len({round(y, 3) for _,y in ends}) == k or k%2 and how  # no two on one height, so that no two lines read as one

def test_diagram_in_a_small_place():
    fig,axs = plt.subplots(2, 2, figsize=(7,4), layout='constrained')
    critical_difference_diagram({f'a rather long name {i}': 1+i for i in range(10)}, 10, ax=axs[0,0])
    for a in axs.ravel()[1:]: a.set_axis_off()
    no_words_on_words(fig)

# Confusion

def test_cells():
    m = np.array([[8,2,0],[1,98,1],[0,0,1000]])
    ax = confusion_heatmap(m)
    assert np.allclose(drawn(ax)[0], m/m.sum(1, keepdims=True)) and words(ax) == ['80','20','1','98','1','100']
    assert [tuple(t.get_position()) for t in ax.texts] == [(0,0),(1,0),(0,1),(1,1),(2,1),(2,2)]  # x is the prediction
    assert ax.get_xlabel() == 'predicted' and ax.get_ylabel() == 'true' and ax.yaxis_inverted()
    ax = confusion_heatmap(m, share=False)
    assert (drawn(ax)[0] == m).all() and words(ax) == ['8','2','1','98','1','1000']

def test_names_and_kinds():
    table = pd.DataFrame([[1,0],[0,1]], ['cat','dog'], ['cat','dog'])
    for ax in (confusion_heatmap(table), confusion_heatmap(torch.eye(2), ['cat','dog'])):
        assert [t.get_text() for t in ax.get_xticklabels()] == [t.get_text() for t in ax.get_yticklabels()] == ['cat','dog']

def test_words_can_be_read_on_their_shade():
    "Black on light, white on dark: a contrast of 3 at least"
    ax = confusion_heatmap(np.array([[50+5*i if i == j else 5 for j in range(10)] for i in range(10)]))
    light = lambda c: sum(w*(v/12.92 if v <= .04045 else ((v+.055)/1.055)**2.4) for w,v in zip((.2126,.7152,.0722), c[:3]))
    image = ax.images[0]
    for t in ax.texts:
        back,front = light(image.cmap(image.norm(image.get_array()[t.get_position()[::-1]]))),light(matplotlib.colors.to_rgb(t.get_color()))
        assert (max(back,front)+.05)/(min(back,front)+.05) > 3, t.get_text()

def test_shades_rise_in_grey():
    "The darker, the more"
    ax = confusion_heatmap(np.eye(2))
    grey = [np.dot((.299,.587,.114), ax.images[0].cmap(ax.images[0].norm(v))[:3]) for v in np.linspace(0, 1, 50)]
    assert (np.diff(grey) < 0).all()

def test_classes_without_images_are_hatched():
    ax = confusion_heatmap([[3,1],[0,0]])
    assert [(p.get_y(), p.get_hatch()) for p in ax.patches] == [(.5,'////')] and words(ax) == ['75','25']
    assert len(confusion_heatmap(np.zeros((2,2))).patches) == 2 and words(confusion_heatmap([[5]])) == ['100']

@pytest.mark.parametrize('names', [None, [f'no passing {i}' for i in range(43)]])
def test_43_classes(names):
    m = np.eye(43, dtype=int)*95
    m[:,[3,40]] += 5 # two classes that all others are taken for
    ax = confusion_heatmap(m, names)
    assert len(ax.child_axes) == 1 and ax.child_axes[0].get_yticklabels()[-1].get_text() == '100 %'
    assert len(ax.texts) == 43*3-2 and words(ax)[:3] == ['90','5','5'] and ax.texts[0].get_fontsize() >= 4.5
    texts,boxes = shown_words(ax.figure)
    for axis in (ax.get_xticklabels(), ax.get_yticklabels()):
        own = [b for b,t in zip(boxes, texts) if t in axis]
        assert len(own) == 43
        for a,b in itertools.pairwise(own): assert not a.overlaps(b)
    for b,t in zip(boxes, texts): assert ax.figure.bbox.padded(1).contains(b.x0, b.y0) and ax.figure.bbox.padded(1).contains(b.x1, b.y1), t.get_text()

def test_numbers_that_cannot_be_read_are_left_out():
    ax = confusion_heatmap(np.eye(200))
    assert not ax.texts and len(ax.child_axes) == 1 and not any(t.get_text() for t in ax.get_xticklabels())

# Reliability

@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(1, 60), st.sampled_from([.1,1.,20.]))
@settings(deadline=None, max_examples=15)
def test_points_of_the_bins(seed, n_bins, n, sharp):
    "By plain loops, at any number of bins; the ECE of 15 bins is that of `evaluate`"
    g = np.random.default_rng(seed)
    p,y = g.dirichlet([sharp]*3, n),g.integers(0, 3, n)
    ax = reliability_diagram(y, p, n_bins)
    inside = [[(max(q), q.argmax() == c) for q,c in zip(p, y) if b/n_bins < max(q) <= (b+1)/n_bins] for b in range(n_bins)]
    assert np.allclose(ax.lines[1].get_xydata(), [np.mean(b, axis=0) for b in inside if b])
    assert [r.get_height() for r in ax.child_axes[0].patches] == [len(b) for b in inside]
    gaps = [(r.get_y(), r.get_height()) for r in ax.patches]
    assert np.allclose(gaps, [(np.mean(b, axis=0)[0], -np.subtract(*np.mean(b, axis=0))) for b in inside if b])
    if n_bins == 15: assert words(ax)[0] == f"ECE {evaluate(y, p.argmax(1), p, [1,1,1])['ece']:.3f}\n{n} images"
    plt.close('all')

def test_ece_is_that_of_evaluate():
    ece = evaluate(truth, probs.argmax(1), probs)['ece']
    assert words(reliability_diagram(truth, probs)) == [f'ECE {ece:.3f}\n300 images'] and words(reliability_diagram(torch.tensor(truth), torch.tensor(probs))) == words(reliability_diagram(truth, probs))

def test_one_image_and_edges():
    "A confidence on the edge of two bins is in the lower one; one class alone has the confidence 1"
    ax = reliability_diagram([0], [[.6,.4]], n_bins=5)
    assert [p.get_height() for p in ax.child_axes[0].patches] == [0,0,1,0,0] and ax.lines[1].get_xydata().tolist() == [[.6,1]]
    assert words(reliability_diagram([0,0], [[1.],[1.]])) == ['ECE 0.000\n2 images']

def test_real_records():
    "Those of the repository"
    root = Path(__file__).resolve().parents[1]/'results/spine/mnist.peerj'
    records = [json.loads(p.read_text()) for p in sorted(root.rglob('fold0-seed*.json'))]
    ax = recall_by_size(records)
    for line in ax.lines: assert np.mean(line.get_ydata()) == pytest.approx(np.mean([r['metrics']['macro_recall'] for r in records if r['method'] == line.get_label()]))
    for line in metric_by_ratio(records, 'macro_recall').lines: assert line.get_xydata().tolist() == [[750., pytest.approx(np.mean([r['metrics']['macro_recall'] for r in records if r['method'] == line.get_label()]))]]

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
    uneven=lambda: loss_curves(dict(a=[1,2], b=[1])), no_epochs=lambda: loss_curves({}),
    words=lambda: loss_curves(dict(a=['x'])), all_nan=lambda: loss_curves(dict(a=[np.nan])), per_cent=lambda: group_recall_bars(table*100), empty_table=lambda: group_recall_bars(table[:0]),
    no_groups=lambda: group_recall_bars(table.rename(columns=str.upper)),
    no_records=lambda: recall_by_size([]), half_a_record=lambda: recall_by_size([dict(method='a')]), not_a_record=lambda: recall_by_size(['a']), two_protocols=lambda: recall_by_size([runs[0], record('a', (1,1,1), counts=(9,9,9))]),
    wrong_matrix=lambda: recall_by_size([{**runs[0], 'confusion': [[1]]}]), no_counts=lambda: recall_by_size(dict(a=[.1])), other_counts=lambda: recall_by_size(dict(a=[.1]), [1,2]), empty_class=lambda: recall_by_size(dict(a=[.1]), [0]),
    nan_class=lambda: recall_by_size(dict(a=[.1]), [np.nan]), recall_per_cent=lambda: recall_by_size(dict(a=[10.]), [3]), recall_name=lambda: recall_by_size(dict(a=[.1]), [3], ['x'][:0]),
    no_metric=lambda: metric_by_ratio(runs, 'gm'), no_column=lambda: metric_by_ratio(ratios, 'gm'), band=lambda: metric_by_ratio(ratios, band='x'), no_runs=lambda: metric_by_ratio([]), below_one=lambda: metric_by_ratio(ratios.assign(imbalance_ratio=.01)),
    no_value=lambda: metric_by_ratio(ratios.assign(acsa=np.nan)), empty_in_record=lambda: metric_by_ratio([record('a', (1,1,1), counts=(5,5,0), acsa=1)]),
    no_ranks=lambda: rank_bars({}), nan_rank=lambda: rank_bars(dict(a=1, b=np.nan)), rank_of_zero=lambda: rank_bars(dict(a=0)), twice=lambda: rank_bars(pd.Series([1,2], ['a','a'])), no_reference=lambda: rank_bars(ranks, ranks),
    unknown=lambda: rank_bars(ranks, {}, 'x'), lacks_p=lambda: rank_bars(ranks, {'GAN': .1}, 'ours'), p_of_two=lambda: rank_bars(dict(a=1, b=2), dict(b=2), 'a'),
    one_method=lambda: critical_difference_diagram(dict(a=1), 5), nothing_to_compare=lambda: critical_difference_diagram(ranks), both=lambda: critical_difference_diagram(ranks, 5, cd=1), no_difference=lambda: critical_difference_diagram(ranks, cd=0),
    nan_difference=lambda: critical_difference_diagram(ranks, cd=np.nan), nan_in_diagram=lambda: critical_difference_diagram(dict(a=1, b=np.nan), 5), too_high=lambda: critical_difference_diagram(dict(a=1, b=3), 5),
    alpha=lambda: critical_difference_diagram(ranks, 5, 5), p_lacks=lambda: critical_difference_diagram(ranks, p_values=pd.DataFrame(1., ['ours'], ['ours'])),
    not_square=lambda: confusion_heatmap([[1,2]]), empty_matrix=lambda: confusion_heatmap(np.zeros((0,0))), negative=lambda: confusion_heatmap([[-1]]), nan_count=lambda: confusion_heatmap([[np.nan]]), short_names=lambda: confusion_heatmap(np.eye(2), ['a']),
    no_bins=lambda: reliability_diagram([0], [[1.]], 0), no_images=lambda: reliability_diagram([], np.zeros((0,3))), scores=lambda: reliability_diagram([0], [[3.,1.]]), nan_probs=lambda: reliability_diagram([0], [[np.nan,1.]]),
    outside=lambda: reliability_diagram([2], [[.5,.5]]), word_labels=lambda: reliability_diagram(['a'], [[1.]]), short_labels=lambda: reliability_diagram([0], [[1.],[1.]]), flat=lambda: reliability_diagram([0], [1.]),
    ending=lambda: save_figure(class_histogram([1]), 'a.pdf'), nothing=lambda: save_figure([], 'a.png'), number=lambda: save_figure(3, 'a.png'))

@pytest.mark.parametrize('name', bad)
def test_refused(name):
    with pytest.raises(InputError) as e: bad[name]()
    assert 40 < len(str(e.value)) < 400
    if name not in ('ending','nothing','number'): assert not plt.get_fignums()  # before a figure is made
