"The page of a folder of records: its tables against slow loops, its links and numbers against the records, and what it does with gaps, odd names and full disks."
import base64, csv, errno, io, json, math, os, re, zlib
import xml.etree.ElementTree as ET
from unittest.mock import patch
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image
from scipy.stats import rankdata, t as student_t
from deepclsmote import report
from deepclsmote.charts import critical_difference_diagram
from deepclsmote.cli import main
from deepclsmote.core import InputError
from deepclsmote.evaluation import new_record, read_records, record_path, save_record
from deepclsmote.metrics import evaluate
from deepclsmote.report import *
from deepclsmote.statistics import bayesian_signed_rank, holm, wilcoxon
from figures import *

# --- made-up records and tables ------------------------------------------------------------------------------------

counts = [300, 60, 12, 5]
start = new_record('a', 'x', 0, 0, 'none', 'plain_cnn', {}, 40, 'cpu')

def fake(task='a.x', method='none', fold=0, seed=0, right=.7, classifier='plain_cnn', counts=counts, **changes):
    "A whole record of a classifier that is right on about that share of the images"
    dataset,protocol = task.split('.', 1)
    rng = np.random.default_rng(zlib.crc32(repr((task, method, fold, seed, classifier)).encode()))
    truth = np.repeat(range(4), 25)
    guess = np.where(rng.random(100) < right, truth, rng.integers(0, 4, 100))
    spent = dict(zip(('fit','sample','train','test'), (rng.random(4)*200).round(3).tolist()))
    return dict(start, dataset=dataset, protocol=protocol, fold=fold, seed=seed, method=method, classifier=classifier, settings=dict(oversampler=dict(epochs=3) if 'deep' in method else {}, steps=40, precision='float32'),
                counts_before=list(counts), counts_after=[300]*4, confusion=np.histogram2d(truth, guess, (range(5), range(5)))[0].astype(int).tolist(), metrics=evaluate(truth, guess, None, list(counts)),
                seconds={k: v/2 for k,v in spent.items()}, cpu_seconds=spent, peak_memory_mb=int(rng.integers(200, 900)), status='done') | changes

def fails(error, **cell): return {k: v for k,v in fake(**cell).items() if k in start} | dict(metrics={}, status='failed', error=error)

def grid(root, tasks, methods, folds=(0,1), **more):
    "Records of all cells, each method with its share of right answers"
    for t in tasks:
        for m,right in methods.items():
            for f in folds: save_record(fake(t, m, f, right=right, **more), root)
    return root

def cells(rows):
    "A table of (task, method, fold, seed, score)"
    return pd.DataFrame([dict(task=t, dataset=t.split('.')[0], method=m, classifier='plain_cnn', fold=f, seed=s, minutes=1.+f+s, memory_mb=100+10*f, f1_macro=v, few=v/4+f/8) for t,m,f,s,v in rows])

def scored(scores, task='a.x'):
    "A table of method -> scores of folds 0, 1, ...; None where there is no record"
    return cells([(task, m, f, 0, v) for m,each in scores.items() for f,v in enumerate(each) if v is not None])

def mean(values): return sum(values)/len(values)

def bounds(values, folds=5):
    "Nadeau and Bengio's interval, by the book"
    n,m = len(values),mean(values)
    if n < 2: return math.nan,math.nan
    variance = sum((v-m)**2 for v in values)/(n-1)
    half = student_t.ppf(.975, n-1)*math.sqrt((1/n + (1/folds)/(1-1/folds))*variance)
    return m-half,m+half

def by_fold(table, column='f1_macro', **which):
    "fold -> mean over seeds, in a loop"
    rows = [r for r in table.to_dict('records') if all(r[k] == v for k,v in which.items())]
    return {f: mean([r[column] for r in rows if r['fold'] == f]) for f in dict.fromkeys(r['fold'] for r in rows)}

some_cells = st.dictionaries(st.tuples(st.sampled_from(['b.x','a.x','a.y']), st.sampled_from(['none','smote','deepclsmote','deepclsmote+augment','ros+crt']), st.integers(0,2), st.integers(0,1)), st.integers(0,100), min_size=1, max_size=40)
def some_table(found): return cells([(*c, v/100) for c,v in found.items()])

# --- tables --------------------------------------------------------------------------------------------------------

def test_record_table(tmp_path):
    on_cpu,old = fake(fold=0),fake(fold=1)
    del old['cpu_seconds']
    on_gpu,broken = fake(method='smote', device='NVIDIA H100 80GB HBM3'),fails('Traceback\nno', method='ros')
    for r in (on_cpu, old, on_gpu, broken): save_record(r, tmp_path)
    t = record_table(read_records(tmp_path))
    assert [(r.task, r.dataset, r.method, r.classifier, r.fold, r.seed) for r in t.itertuples()] == [('a.x','a','none','plain_cnn',0,0), ('a.x','a','none','plain_cnn',1,0), ('a.x','a','smote','plain_cnn',0,0)]
    assert t.minutes.tolist() == pytest.approx([sum(r[k].values())/60 for r,k in ((on_cpu,'cpu_seconds'), (old,'seconds'), (on_gpu,'seconds'))])
    assert t.memory_mb.tolist() == [r['peak_memory_mb'] for r in (on_cpu, old, on_gpu)]
    assert t.auc.dtype == float and t.auc.isna().all() and json.loads(record_path(on_cpu, tmp_path).read_text())['metrics']['auc'] is None
    for k in ('f1_macro','few','accuracy'): assert t[k].tolist() == [r['metrics'][k] for r in (on_cpu, old, on_gpu)]

@pytest.mark.parametrize('records', [[], [fails('no'), fails('no', fold=1)]])
def test_no_finished_cell(records):
    with pytest.raises(InputError, match=f'{len(records)} records.*finished.*deepclsmote evaluate'): record_table(records)

@settings(max_examples=30, deadline=None)
@given(some_cells, st.sampled_from(['f1_macro','few']), st.integers(2,6))
def test_leaderboard_against_loops(found, measure, folds):
    t = some_table(found)
    board = leaderboard(t, measure, folds)
    assert sorted(zip(board.task, board.method)) == sorted({(c[0],c[1]) for c in found}) and list(dict.fromkeys(board.task)) == list(dict.fromkeys(t.task))
    for r in board.to_dict('records'):
        each,few,minutes = ([*by_fold(t, c, task=r['task'], method=r['method']).values()] for c in (measure,'few','minutes'))
        assert r['mean'] == pytest.approx(mean(each), abs=1e-9) and r['folds'] == len(each) and (r['low'],r['high']) == pytest.approx(bounds(each, folds), abs=1e-9, nan_ok=True)
        assert (r['few'],r['minutes']) == pytest.approx((mean(few),mean(minutes))) and r['memory_mb'] == max(100+10*c[2] for c in found if c[:2] == (r['task'],r['method']))
    for _,b in board.groupby('task', sort=False): assert all(x >= y for x,y in zip(b['mean'], b['mean'][1:]))

def test_leaderboard_of_two_classifiers():
    t = pd.concat([scored(dict(none=[.1,.2], smote=[.3,.4])).assign(classifier=c) for c in ('plain_cnn','cnn_svm')], ignore_index=True)
    t.loc[t.classifier == 'cnn_svm','f1_macro'] += .5
    board = leaderboard(t)
    assert len(board) == 4 and board.groupby('classifier')['mean'].max().to_dict() == pytest.approx(dict(cnn_svm=.85, plain_cnn=.35))

@pytest.mark.parametrize('measure', ['f2', 'minutes', 'fold', 'method', 'memory_mb', ''])
def test_unknown_measure(measure):
    t = scored(dict(none=[.1,.2], deepclsmote=[.2,.3]))
    for f in (leaderboard, against_simple, score_matrix):
        with pytest.raises(InputError, match='expected one of f1_macro, few'): f(t, measure)

@settings(max_examples=30, deadline=None)
@given(some_cells, st.booleans(), st.integers(2,6))
def test_against_simple_by_loops(found, variants, folds):
    t = some_table(found)
    beside = against_simple(t, variants=variants, folds=folds)
    ran = {task: {c[1] for c in found if c[0] == task} for task in t.task}
    mine = {task: {m for m in methods if m == 'deepclsmote' or variants and m.startswith('deepclsmote+')} for task,methods in ran.items()}
    for r in beside.to_dict('records'):
        assert r['ours'] in mine[r['task']] and r['simple'] in ran[r['task']] & {'none','smote','ros+crt'}
        ours,simple = (by_fold(t, task=r['task'], method=r[k]) for k in ('ours','simple'))
        d = [ours[f]-simple[f] for f in ours if f in simple]
        if not d: continue
        low,high = bounds(d, folds)
        assert r['difference'] == pytest.approx(mean(d), abs=1e-9) and (r['low'],r['high'],r['folds']) == pytest.approx((low,high,len(d)), abs=1e-9, nan_ok=True)
        assert math.isnan(low) or min(abs(low), abs(high)) < 1e-9 or r['verdict'] == ('above' if low > 0 else 'below' if high < 0 else 'undecided')
    complete = {task for task in ran if {(f,m) for _,m,f,_ in [c for c in found if c[0] == task]} == {(f,m) for f in range(3) for m in ran[task]}}
    for task in complete:
        row = beside[beside.task == task]
        assert len(row) == bool(mine[task] and ran[task] & {'none','smote','ros+crt'})
        if len(row):
            for k,among in (('ours',mine[task]), ('simple',ran[task] & {'none','smote','ros+crt'})): assert mean([*by_fold(t, task=task, method=row[k].item()).values()]) == pytest.approx(max(mean([*by_fold(t, task=task, method=m).values()]) for m in among))

@pytest.mark.parametrize('ours,simple,verdict', [([.80,.81,.82], [.50,.52,.51], 'above'), ([.50,.52,.51], [.80,.81,.82], 'below'), ([.50,.70,.60], [.65,.52,.58], 'undecided'), ([.8], [.1], 'undecided')])
def test_verdicts(ours, simple, verdict):
    b, = against_simple(scored(dict(none=[.01]*len(ours), smote=simple, deepsmote=[.99]*len(ours), deepclsmote=ours))).to_dict('records')
    assert (b['ours'],b['simple'],b['verdict'],b['folds']) == ('deepclsmote','smote',verdict,len(ours)) and (b['mean'],b['simple_mean']) == pytest.approx((mean(ours),mean(simple)))

def test_only_folds_that_both_have():
    b, = against_simple(scored({'none': [.5,.6,.7,.9], 'deepclsmote': [.4,None,.5,None], 'deepclsmote+augment': [.6,.8,None,None]})).to_dict('records')
    assert b['folds'] == 2 and b['difference'] == pytest.approx((-.1-.2)/2)
    b, = against_simple(scored({'none': [.5,.6,.7,.9], 'deepclsmote': [.4,None,.5,None], 'deepclsmote+augment': [.6,.8,None,None]}), variants=True).to_dict('records')
    assert b['ours'] == 'deepclsmote+augment' and b['folds'] == 2 and b['difference'] == pytest.approx(.15)

def test_a_rival_with_fewer_of_our_folds_is_not_asked():
    "One lucky fold would beat every mean, and leave no interval"
    t = scored({'none': [.5,.6,.7], 'ros': [.6,.7,.8], 'transforms': [.99,None,None], 'smote': [None,.99,.99,.99], 'deepclsmote': [.4,.4,.4], 'deepclsmote+augment': [.9,None,None]})
    b, = against_simple(t).to_dict('records')
    assert (b['simple'],b['folds'],b['difference']) == ('ros',3,pytest.approx(-.3)) and not math.isnan(b['low'])
    b, = against_simple(t, variants=True).to_dict('records')
    assert (b['ours'],b['folds']) == ('deepclsmote',3)
    b, = against_simple(t.drop(t[t.method.isin(['none','ros','smote'])].index)).to_dict('records')
    assert (b['simple'],b['folds'],b['difference']) == ('transforms',1,pytest.approx(-.59)), 'where none has them all, the one with most is asked'

def test_the_best_simple_rival_may_be_trained_in_any_way():
    t = scored({'none': [.5,.5], 'ros+balanced_softmax': [.7,.7], 'bagan+augment': [.9,.9], 'deepclsmote': [.6,.6], 'deepclsmote(epochs=3)+ldam': [.8,.8]})
    assert against_simple(t).simple.tolist() == ['ros+balanced_softmax'] and against_simple(t, variants=True).ours.tolist() == ['deepclsmote(epochs=3)+ldam']
    b, = against_simple(t, ours='ros', variants=True).to_dict('records')
    assert (b['ours'],b['simple']) == ('ros+balanced_softmax','none')

@pytest.mark.parametrize('scores', [dict(deepclsmote=[.5,.6]), dict(none=[.5,.6], smote=[.5,.6]), dict(deepclsmote=[.5], bagan=[.6])])
def test_nothing_to_compare(scores):
    b = against_simple(scored(scores))
    assert not len(b) and {'task','difference','verdict'} <= {*b} and 'was not run' in in_a_sentence(b)

def test_no_fold_in_common():
    "There is no difference, so it is not called one"
    t = scored(dict(none=[.5,None], deepclsmote=[None,.6]))
    said = ' '.join([in_a_sentence(against_simple(t)), *first_lines(t)])
    assert 'nan' not in said and 'is above the best' not in said, said

def many(differences, verdicts, spread=.1):
    d = np.array(differences, float)
    return pd.DataFrame(dict(difference=d, low=d-spread, high=d+spread, verdict=verdicts))

def test_in_a_sentence():
    said = in_a_sentence(many([-.1,-.3], ['below','undecided']), 'It')
    assert said == 'It does not beat the best simple rival on any of 2 tasks (on average -0.200; beyond doubt, by a 95 % interval over folds, it is above on 0 and below on 1).'
    said = in_a_sentence(many([-.1,.3,.1,.5], ['below','above','undecided','above']))
    assert said == 'DeepCLSMOTE is above the best simple rival on 3 of 4 tasks (on average +0.200; beyond doubt, by a 95 % interval over folds, it is above on 2 and below on 1).'
    said = in_a_sentence(many([.1,.3], ['undecided']*2, np.nan))
    assert said == 'DeepCLSMOTE is above the best simple rival on 2 of 2 tasks (on average +0.200; one fold, so no interval).'
    assert in_a_sentence(many([], [])) == 'DeepCLSMOTE was not run beside a simple rival.'

def test_equal_is_not_above():
    assert 'does not beat the best simple rival on any of 2 tasks' in in_a_sentence(many([-.1,0.], ['undecided']*2))
    assert 'above the best simple rival on 1 of 2 tasks' in in_a_sentence(many([.1,0.], ['undecided']*2))

def test_first_lines():
    t = scored({'none': [.5,.6], 'deepclsmote': [.4,.5], 'deepclsmote+augment': [.7,.8]})
    plain,best = first_lines(t)
    assert plain.startswith('deepclsmote does not beat') and '-0.100' in plain and best.startswith('deepclsmote with its best way of training is above the best simple rival on 1 of 1') and '+0.200' in best and best.endswith(').')
    both = pd.concat([t, t.assign(classifier='cnn_svm', f1_macro=1-t.f1_macro)], ignore_index=True)
    lines = first_lines(both)
    assert [l.rsplit(')', 1)[1] for l in lines] == [', with plain_cnn.']*2 + [', with cnn_svm.']*2 and lines[0].rsplit(')', 1)[0]+').' == plain and '+0.100' in lines[2]
    variant, = set(first_lines(t, reference='deepclsmote+augment')) - {best}
    assert variant.startswith('deepclsmote+augment is above') and '+0.200' in variant

def test_a_reference_is_read_as_the_registry_reads_it():
    t = scored({'none': [.5,.6], 'deepclsmote': [.4,.5], 'deepclsmote+augment': [.7,.8]})
    assert first_lines(t, reference=' deepclsmote + augment') == first_lines(t, reference='deepclsmote+augment')

def test_first_lines_say_so_when_there_is_nothing_to_compare():
    assert 'was not run beside a simple rival' in ' '.join(first_lines(scored(dict(deepclsmote=[.5,.6]))))

# --- ranks ---------------------------------------------------------------------------------------------------------

@settings(max_examples=30, deadline=None)
@given(some_cells)
def test_score_matrix_by_loops(found):
    t = some_table(found)
    scores = score_matrix(t)
    every = {(task,f,s) for task,_,f,s in found}
    def having(n): return {p for p in every if len({m for task,m,f,s in found if (task,f,s) == p}) >= n}
    def complete(places): return {m for _,m,_,_ in found if all((task,m,f,s) in found for task,f,s in places)}
    sizes = {n: len(having(n))*len(complete(having(n))) for n in range(1, 1+max(len({m for task,m,f,s in found if (task,f,s) == p}) for p in every))}
    places = having(min(n for n in sizes if sizes[n] == max(sizes.values())))
    whole = complete(places)
    assert scores.attrs['runs'] == (len(places), len(every)) and len(scores)
    assert set(scores) == whole and set(scores.attrs['left_out']) == {c[1] for c in found} - whole
    for m in whole:
        assert set(scores.index) == {task[0] for task,_,_ in places}
        for d in scores.index:
            each = [mean([found[task,m,f,s]/100 for x,f,s in places if x == task]) for task in sorted({x for x,_,_ in places}) if task[0] == d]
            assert scores.loc[d,m] == pytest.approx(mean(each), abs=1e-9)

def test_two_splits_are_one_data_set():
    "Though one of them has more folds"
    t = cells([('a.x','none',f,0,v) for f,v in enumerate([.1,.2,.3])] + [('a.y','none',0,0,.8), ('b.x','none',0,0,.4)] + [(task,'ros',f,0,.5) for task,f in (('a.x',0), ('a.x',1), ('a.x',2), ('a.y',0), ('b.x',0))] + [('a.x','smote',0,0,.9), ('b.x','smote',0,0,.9)])
    scores = score_matrix(t)
    assert scores['none'].to_dict() == pytest.approx(dict(a=.5, b=.4)) and list(scores) == ['none','ros'] and scores.attrs['left_out'] == ['smote']
    with pytest.raises(InputError, match='expected one of plain_cnn'): score_matrix(t, classifier='resnet')

# --- published numbers ---------------------------------------------------------------------------------------------

published = pd.DataFrame([('f1','A','MNIST',50.), ('f1','B','MNIST',90.), ('acc','A','MNIST',60.)], columns=['metric','method','dataset','value'])

def test_beside_published():
    t = scored(dict(none=[.4,.6,.56], smote=[.8,.84,.82], ros=[.9,.9,.9]), 'mnist.peerj').assign(accuracy=.61)
    t.loc[t.fold == 2,'accuracy'] = .58
    b = beside_published(t, published, dict(none='A', smote='B'), {'mnist.peerj': 'MNIST'}, dict(f1_macro='f1'), 100).set_index('method')
    assert list(b.index) == ['none','smote'] and (b.metric == 'f1').all() and (b.dataset == 'MNIST').all() and (b.folds == 3).all()
    assert b.published.tolist() == pytest.approx([.5,.9]) and b.ours.tolist() == pytest.approx([.52,.82]) and b.gap.tolist() == pytest.approx([.02,-.08]) and b.spread.tolist() == pytest.approx([.2,.04])
    assert b.explain.tolist() == [False,True]
    both = beside_published(t, published, dict(none='A'), {'mnist.peerj': 'MNIST'}, dict(f1_macro='f1', accuracy='acc'), 100)
    assert both.metric.tolist() == ['f1','acc'] and both.gap.tolist() == pytest.approx([.02,0]) and both.explain.tolist() == [False,False]
    one = beside_published(t[t.fold == 0], published, dict(none='A'), {'mnist.peerj': 'MNIST'}, dict(f1_macro='f1'))
    assert one.spread.isna().all() and one.gap.item() == pytest.approx(.4-50) and not one.explain.item()
    assert beside_published(t, published, dict(bagan='C'), {'mnist.peerj': 'MNIST'}, dict(f1_macro='f1')).empty

@pytest.mark.parametrize('methods,tasks,measures,says', [(dict(none='C'), {'a.x': 'MNIST'}, dict(f1_macro='f1'), "'C'"), (dict(none='A'), {'a.x': 'SVHN'}, dict(f1_macro='f1'), 'SVHN'), (dict(none='B'), {'a.x': 'MNIST'}, dict(f1_macro='acc'), 'acc'), (dict(none='A'), {'a.x': 'MNIST'}, dict(f2='f1'), 'f2')])
def test_unknown_published_cell(methods, tasks, measures, says):
    with pytest.raises(InputError, match=says): beside_published(scored(dict(none=[.5,.6])), published, methods, tasks, measures)

def test_beside_the_paper():
    "Each cell of its table 5, from records that are .01 above it"
    path = Path(__file__).parent.parent/'nbs/reference/peerj_table5.csv'
    theirs = {(r['metric'],r['method'],r['dataset']): float(r['value']) for r in csv.DictReader(path.open())}
    names,measures = dict(none='Plain', bagan='BAGAN', deepsmote='DeepSMOTE', deepclsmote='DeepCLSMOTE'),dict(accuracy='accuracy', macro_precision='precision', macro_recall='recall', f1_harmonic='f1')
    sets = {f'{d.lower()}.peerj': d for d in ('MNIST','FMNIST','EMNIST','SVHN','GTSRB','CIFAR10')}
    t = pd.DataFrame([dict(task=task, classifier='plain_cnn', method=m, fold=f, seed=0, **{k: theirs[metric,names[m],d]+.01+.002*(f-1) for k,metric in measures.items()}) for task,d in sets.items() for m in names for f in range(3)])
    b = beside_published(t, pd.read_csv(path), names, sets, measures)
    assert len(b) == len(theirs) == 96 and {(r.metric,names[r.method],r.dataset): r.published for r in b.itertuples()} == theirs
    assert np.allclose(b.gap, .01) and np.allclose(b.spread, .004) and b.explain.all()

# --- the chart of costs --------------------------------------------------------------------------------------------

known = ['none','ros+crt','smote','deepclsmote','bagan','deepsmote+augment']

@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1,4), st.integers(0,4)), min_size=1, max_size=6))
def test_cost_chart(points):
    board = pd.DataFrame([dict(method=m, minutes=float(x), mean=y/4) for m,(x,y) in zip(known, points)])
    kept = board.copy()
    with patch.object(report, 'name_ends') as named: ax = cost_chart(board, measure='acsa')
    places = {(float(x),y/4) for x,y in points}
    front = sorted(p for p in places if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in places))
    line, = ax.lines
    assert list(zip(line.get_xdata(), line.get_ydata())) == front and line.get_drawstyle() == 'steps-post'
    ours,simple = (sorted(map(tuple, c.get_offsets().tolist())) for c in ax.collections)
    assert [ours,simple] == [sorted((r.minutes,r.mean) for r in board.itertuples() if (r.method in known[:3]) == s) for s in (False,True)]
    assert {e[2]: e[:2] for e in named.call_args[0][1]} == {r.method: (r.minutes,r.mean) for r in board.itertuples()} and ax.get_ylabel() == 'acsa' and ax.get_xscale() == 'log'
    assert ax.get_xlim()[0] < board.minutes.min() and ax.get_xlim()[1] > board.minutes.max() and board.equals(kept)
    plt.close(ax.figure)

a_board = pd.DataFrame([dict(method=m, minutes=2.**i, mean=.5+.03*(i % 3)) for i,m in enumerate(known)])

def test_cost_chart_as_every_figure(monkeypatch):
    draws_where_told(lambda ax: cost_chart(a_board, ax))
    plt.close('all')
    makes_one_figure(lambda ax: cost_chart(a_board, ax), monkeypatch)
    ax = cost_chart(a_board)
    assert set(words(ax)) == set(known)
    no_words_on_words(ax.figure)

# --- the page ------------------------------------------------------------------------------------------------------

void = {'meta','br','wbr','img','link','input','hr'}

class Page(HTMLParser):
    "Tags, ids, links, tables and headings of a page whose tags are balanced"
    def __init__(self, text):
        super().__init__()
        self.text,self.open,self.tags,self.ids,self.headings,self.tables,self.links,self.images,self.pre,self.first,self.name = text,[],[],[],{},[],[],[],[],'',''
        self.feed(text)
        self.close()
        assert self.open == [], self.open
    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.tags.append((tag,a))
        if tag not in void: self.open.append(tag)
        if tag not in ('svg','image') and 'svg' not in self.open and 'id' in a: self.ids.append(a['id'])
        if tag == 'h2': self.headings[a['id']] = ''
        elif tag == 'h4': self.name = ''
        elif tag == 'table': self.tables.append(dict(section=[*self.headings][-1], name=self.name, head=[], rows=[]))
        elif tag == 'tr': self.row = dict(kind=a.get('class'), cells=[], links=[], best=[], place=[])
        elif tag in ('td','th'): self.row['cells'].append(''); self.row['best'].append(a.get('class') == 'best')
        elif tag == 'a':
            self.links.append(a['href'])
            if 'td' in self.open: self.row['links'].append(a['href'])
        elif tag == 'img': self.images.append(a)
        elif tag == 'pre': self.pre.append('')
    def handle_startendtag(self, tag, attrs):
        a = dict(attrs)
        self.tags.append((tag,a))
        if 'td' in self.open: self.row['place'] += [float(a[k]) for k in ('x1','x2','cx') if k in a]
    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, (tag, self.open, self.getpos())
        if tag == 'tr': self.tables[-1]['rows' if 'tbody' in self.open else 'head'].append(self.row)
    def handle_data(self, data):
        if self.open[-1:] == ['h2']: self.headings[[*self.headings][-1]] += data
        if self.open[-1:] == ['h4']: self.name += data
        if 'td' in self.open or 'th' in self.open: self.row['cells'][-1] += data
        if 'pre' in self.open: self.pre[-1] += data
        if 'p' in self.open and self.tags[::-1][[t for t,_ in self.tags[::-1]].index('p')][1].get('class') == 'first': self.first += data
    def section(self, ident): return [t for t in self.tables if t['section'] == ident]
    def section_of(self, task): return self.section(next(i for i,name in self.headings.items() if name == task))

def read(path): return Page(Path(path).read_text())
def number(text): return float(text) if text else math.nan
def numbers(text): return [float(v) for v in text.split(' to ')] if text else [math.nan]*2
def close(text, v): return math.isnan(v) and not text or abs(number(text)-v) < .00051

def check_page(path, root):
    "What holds for every page; returns it parsed"
    p,records = read(path),read_records(root)
    text = p.text
    assert text.startswith('<!doctype html>') and 'nan' not in re.sub(r'(?s)<svg.*?</svg>|<style.*?</style>|base64,[^"]*', '', text).lower()
    assert len(p.ids) == len(set(p.ids)) and set(p.headings) <= set(p.ids)
    within = [l[1:] for l in p.links if l.startswith('#')]
    assert set(within) <= set(p.ids) and set(p.headings) <= set(within)
    outside = [(Path(path).parent/unquote(l)).resolve() for l in p.links if not l.startswith('#')]
    assert sorted(outside) == sorted(record_path(r, root).resolve() for r in records if r['status'] == 'done') and not any(':' in l for l in p.links)
    self_contained(p)
    done = record_table(records)
    for c in dict.fromkeys(done.classifier):
        for task in dict.fromkeys(done[done.classifier == c].task): check_task(p, path, root, records, done, task, c)
    return p

def self_contained(p):
    "Nothing is loaded, and a shape that several drawings define under one name is the same in all of them"
    for tag,a in p.tags:
        assert tag not in ('script','link','iframe','object','embed','base','form','video','audio')
        for k,v in a.items():
            if k in ('src','srcset','href','xlink:href','data','poster','action') and tag != 'a': assert v.startswith(('#','data:image/')), (tag, k, v)
            assert not k.startswith('on') and not re.search(r'url\((?!#)', v or '')
    assert '@import' not in p.text and not re.search(r'url\((?!#)', p.text)
    shapes,used = {},set()
    for svg in re.findall(r'(?s)<svg [^>]*xmlns=.*?</svg>', p.text):
        used |= set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
        for e in ET.fromstring(svg).iter():
            if 'id' in e.attrib: shapes.setdefault(e.attrib['id'], set()).add(ET.tostring(e).strip())
    assert all(len(shapes[i]) == 1 for i in used) and not set(shapes) & set(p.ids)

def check_task(p, path, root, records, done, task, classifier, measure='f1_macro', folds=5):
    "The table of a task against the leaderboard and, link by link, against the records"
    several = done.classifier.nunique() > 1
    table, = p.section_of(task + several*f', {classifier}')
    board = leaderboard(done[(done.task == task) & (done.classifier == classifier)], measure, folds)
    assert [r['cells'][0] for r in table['rows']] == board.method.tolist() and table['head'][0]['cells'][1] == measure
    dots = []
    for r,b in zip(table['rows'], board.to_dict('records')):
        _,mean,_,interval,few,minutes,memory,_ = r['cells']
        assert close(mean, b['mean']) and close(few, b['few']) and numbers(interval) == pytest.approx([b['low'],b['high']], abs=.00051, nan_ok=True)
        assert abs(float(minutes)-b['minutes']) < .051 and int(memory) == int(b['memory_mb'])
        assert r['kind'] == ('simple' if re.match(r'(none|rus|ros|smote|transforms)\b', b['method']) else 'ours' if b['method'].startswith('deepclsmote') else '')
        own = sorted((x for x in records if x['status'] == 'done' and (f"{x['dataset']}.{x['protocol']}",x['method'],x['classifier']) == (task,b['method'],classifier)), key=lambda x: (x['fold'], x['seed']))
        linked = [json.loads((Path(path).parent/unquote(l)).read_text()) for l in r['links']]
        assert linked == own and all(close(t, x['metrics'][measure]) for t,x in zip(re.findall(r'-?\d*\.\d{3}', r['cells'][-1]), own))
        if not math.isnan(b['low']): dots += zip((b['low'],b['high'],b['mean']), r['place'])
        else: assert not r['place']
    if len({v for v,_ in dots}) > 1:
        v,x = map(np.array, zip(*dots))
        slope,start = np.polyfit(v, x, 1)
        assert slope > 0 and np.abs(slope*v+start-x).max() < .2 and 0 <= x.min() and x.max() <= 160

odd = "ros+balanced_softmax(counts='original')"
methods = {'none': .5, odd: .66, 'deepclsmote': .6, 'deepclsmote+augment': .72}
tasks = ['a.x','a.y','b.peerj-b/by track']
last = tasks[-1]
trouble = 'Traceback (most recent call last):\n  File "x.py", line 1\nValueError: <script>alert("1 & 2")</script>'

@pytest.fixture(scope='module')
def root(tmp_path_factory):
    "Three tasks of two data sets, four methods, one that lacks folds, one that failed"
    root = grid(tmp_path_factory.mktemp('records of a & b')/'run 1', tasks, methods)
    for m,right in methods.items(): save_record(fake('a.x', m, 0, seed=1, right=right), root)
    save_record(fake(last, 'deepsmote', 0, right=.9), root)
    save_record(fails(trouble, task=last, method='bagan', fold=1), root)
    for m in ('ros','deepclsmote'):
        folder = root/'b.peerj-b, by track'/m
        folder.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(len(m)).integers(0, 255, (9, 60*len(m)), np.uint8)).save(folder/'fold0-seed0.png')
    return root

def files(root): return {str(f.relative_to(root)): (f.read_bytes(),f.stat().st_mtime_ns) for f in Path(root).rglob('*') if f.is_file() and f.suffix != '.html'}

@pytest.fixture
def no_figures(monkeypatch):
    "Pages in a tenth of the time"
    monkeypatch.setattr(report, '_svg', lambda ax: '')
    for f in ('cost_chart','recall_by_size','critical_difference_diagram'): monkeypatch.setattr(report, f, lambda *a, **k: None)

@pytest.fixture(scope='module')
def written(root):
    "The page, written while a figure of the user is open; the records and the session are as before"
    plt.close('all')
    mine = plt.figure()
    before,session = files(root),states()
    path = write_report(root)
    assert path == root/'report.html' and files(root) == before and states() == session and plt.get_fignums() == [mine.number] and plt.gcf() is mine
    return path

def test_page(written, root):
    p = check_page(written, root)
    assert [*p.headings] == ['all-plain_cnn', *[i for i in p.headings if i.endswith('-plain_cnn') and not i.startswith('all-')], 'failed', 'how'] and [*p.headings.values()][1:4] == tasks
    assert re.search('<h1>(.*)</h1>', p.text)[1] == 'run 1: the leaderboard'
    t = record_table(read_records(root))
    assert all(l in p.first for l in first_lines(t)) and len(first_lines(t)) == 2
    assert '29 cells: 3 tasks, 5 methods, up to 2 folds, 2 seeds.' in p.text and '377 training images in 4 classes, from 300 to 5; 100 test images a fold' in p.text
    assert '<li>deepclsmote: epochs = 3</li>' in p.text and '<li>plain_cnn: 40 steps in float32</li>' in p.text and 'from 30 records' in p.text

def test_overview(written, root):
    "Means, ranks and minutes of all tasks"
    p,t = read(written),record_table(read_records(root))
    table = p.section('all-plain_cnn')[0]
    board,scores = leaderboard(t).set_index(['task','method']),score_matrix(t)
    ranks = {m: mean([rankdata(-row)[j] for row in scores.to_numpy()]) for j,m in enumerate(scores)}
    assert set(ranks) == set(methods) and scores.attrs['left_out'] == ['deepsmote'] and list(scores.index) == ['a','b']
    assert table['head'][0]['cells'] == ['f1_macro', 'averagerank', *tasks, 'minutes']
    rows = {r['cells'][0]: r for r in table['rows']}
    assert set(rows) == {*methods,'deepsmote'} and [ranks.get(m, 9) for m in rows] == sorted(ranks.get(m, 9) for m in rows)
    for m,r in rows.items():
        rank,*each,minutes = r['cells'][1:]
        assert rank == (f'{ranks[m]:.2f}' if m in ranks else '')
        for task,text,best in zip(tasks, each, r['best'][2:]):
            if (task,m) not in board.index: assert text == '' and not best
            else: assert close(text, board.loc[(task,m),'mean']) and best == (board.loc[(task,m),'mean'] == board.loc[task]['mean'].max())
        assert abs(float(minutes) - mean([board.loc[i,'minutes'] for i in board.index if i[1] == m])) < .051
    assert 'Not ranked, as they lack folds or data sets: deepsmote.' in p.text and 'Tasks of the same data set were averaged' in p.text and 'over 2 data sets' in p.text
    wide = overview(t)
    assert list(wide.index) == list(rows) and wide['rank'].dropna().to_dict() == ranks and list(wide)[:3] == tasks and wide[last].to_dict() == pytest.approx(board.loc[last]['mean'].to_dict())

def test_beside_the_best_simple_rival(written, root):
    p,t = read(written),record_table(read_records(root))
    shown = p.section('all-plain_cnn')[1:3]
    for table,b,name in zip(shown, (against_simple(t), against_simple(t, variants=True)), ('deepclsmote','deepclsmote with its best way of training')):
        assert table['name'] == name and len(b) == 3
        for r,x in zip(table['rows'], b.to_dict('records')):
            task,ours,simple,theirs,difference,interval,verdict = r['cells']
            *who,score = ours.split()
            assert (task,simple,verdict) == (x['task'],x['simple'],x['verdict']) and who == [x['ours']]*(x['ours'] != name)
            assert close(score, x['mean']) and close(theirs, x['simple_mean']) and close(difference, x['difference']) and difference[0] in '+-' and numbers(interval) == pytest.approx([x['low'],x['high']], abs=.00051)

def test_pairs(written, root):
    "Each line of tests is ours beside theirs, whichever ranks first"
    scores,table = score_matrix(record_table(read_records(root))),read(written).section('all-plain_cnn')[3]
    names = [*scores]
    p = dict(zip([(a,b) for i,a in enumerate(names) for b in names[i+1:]], holm(np.array([wilcoxon(scores[a], scores[b]).p for i,a in enumerate(names) for b in names[i+1:]]))))
    assert {r['cells'][0] for r in table['rows']} == {*names} - {'deepclsmote'}
    signs = set()
    for m,difference,won,lost,holms,ours,equal,theirs in (r['cells'] for r in table['rows']):
        d = [scores.loc[i,'deepclsmote']-scores.loc[i,m] for i in scores.index]
        assert close(difference, mean(d)) and (int(won),int(lost)) == (sum(v > 0 for v in d),sum(v < 0 for v in d))
        assert float(holms) == pytest.approx(p.get((m,'deepclsmote'), p.get(('deepclsmote',m))), rel=.1)
        assert [float(v) for v in (ours, equal, theirs)] == pytest.approx([*bayesian_signed_rank(scores.deepclsmote, scores[m], ROPE, draws=5000)], abs=.03)
        signs.add(np.sign(mean(d)))
    assert signs == {-1,1} and 'With 2 data sets no two-sided Wilcoxon test can go below p = 0.5' in read(written).text

def test_failed_cells_are_shown_as_text(written):
    p = read(written)
    assert p.pre == [trouble] and escape(trouble.splitlines()[-1], quote=False) in p.text.replace('&#34;', '"') and 'script' not in {t for t,_ in p.tags}
    assert '<a href="#failed">' in p.text and 'b.peerj-b/by track, bagan, plain_cnn, fold 1, seed 0: ValueError' in p.text and not any('bagan' in r['cells'] for t in p.tables for r in t['rows'])

def test_pictures_of_new_images(written, root):
    shown = read(written).images
    assert len(shown) == 2
    ranked = leaderboard(record_table(read_records(root))).query('task == @last').method
    assert [i['alt'] for i in shown] == [f'new images of {m}' for m in dict.fromkeys(m.split('+')[0] for m in ranked) if m in ('ros','deepclsmote')]
    for i in shown:
        data = base64.b64decode(i['src'].removeprefix('data:image/png;base64,'), validate=True)
        path = root/'b.peerj-b, by track'/i['alt'].removeprefix('new images of ')/'fold0-seed0.png'
        assert data == path.read_bytes() and int(i['width']) == min(900, 2*Image.open(io.BytesIO(data)).width)

def test_same_records_same_bytes(written, root, tmp_path):
    "Saved in another order, in another folder, in a session with another state of the generator and a figure open"
    other = tmp_path/'run 1'
    for r in reversed(read_records(root)): save_record(r, other)
    for p in root.rglob('*.png'):
        (other/p.relative_to(root)).parent.mkdir(exist_ok=True)
        (other/p.relative_to(root)).write_bytes(p.read_bytes())
    plt.figure()
    np.random.seed(3)
    assert write_report(other).read_bytes() == written.read_bytes()

def test_in_another_folder(tmp_path, monkeypatch, no_figures):
    "Links lead from wherever the page is, and of wherever it was made"
    root = grid(tmp_path/'some records #1'/'50%', ['gtsrb10.peerj-gtsrb/by track'], {'none': .5, odd: .6}, folds=[0])
    check_page(write_report(root, tmp_path/'pages'/'new'/'p.html'), root)
    monkeypatch.chdir(tmp_path/'pages')
    assert write_report('../some records #1/50%', 'p.html', title='A & <b>').resolve() == tmp_path/'pages'/'p.html'
    p = check_page(tmp_path/'pages'/'p.html', root)
    assert '<h1>A &amp; &lt;b&gt;</h1>' in p.text and p.section_of('gtsrb10.peerj-gtsrb/by track')[0]['rows'][0]['links'][0].startswith('../some%20records%20%231/50%25/')

def test_odd_names(tmp_path, no_figures):
    "A data set is named after the folder of its images"
    root = grid(tmp_path, ['R&D <b>.x'], {'none': .5}, folds=[0])
    p = check_page(write_report(root), root)
    assert p.section('all-plain_cnn')[0]['head'][0]['cells'][1] == 'R&D <b>.x'

@pytest.mark.parametrize('folder', ['', 'a.x'])
def test_a_folder_above_or_below(tmp_path, folder, no_figures):
    "Refused, or with links that lead somewhere"
    run = grid(tmp_path/'run', ['a.x'], {'none': .5}, folds=[0])
    try: path = write_report(run/folder if folder else tmp_path)
    except InputError as e: assert 'folder' in str(e)
    else: assert all((path.parent/unquote(l)).exists() for l in read(path).links if not l.startswith('#'))

def test_one_method_in_one_fold_of_one_task(tmp_path):
    root = grid(tmp_path, ['a.x'], {'deepclsmote': .6}, folds=[2])
    p = check_page(write_report(root), root)
    assert len(p.section('all-plain_cnn')[0]['rows']) == 1 and len(p.section_of('a.x')[0]['rows']) == 1 and 'failed' not in p.headings

def test_a_page_without_a_rival_says_so(tmp_path, no_figures):
    assert 'was not run beside a simple rival' in read(write_report(grid(tmp_path, ['a.x'], {'deepclsmote': .6}, folds=[0]))).first

def test_one_fold(tmp_path, no_figures):
    root = grid(tmp_path, ['a.x','b.x'], {'none': .5, 'deepclsmote': .6}, folds=[0])
    p = check_page(write_report(root), root)
    assert all(r['cells'][-1] == 'undecided' and r['cells'][-2] == '' for t in p.section('all-plain_cnn')[1:3] for r in t['rows']) and 'average rank' not in p.text
    assert len(p.section('all-plain_cnn')[3]['rows']) == 1

def test_one_task(tmp_path, no_figures):
    root = grid(tmp_path, ['a.x'], {'none': .5, 'smote': .6, 'deepclsmote+crt': .8})
    p = check_page(write_report(root, reference='deepclsmote+crt'), root)
    assert p.section('all-plain_cnn')[0]['head'][0]['cells'] == ['f1_macro','a.x','minutes'] and 'Friedman' not in p.text and p.first.startswith('deepclsmote+crt ')

def test_two_classifiers(tmp_path, no_figures):
    root = grid(tmp_path, ['a.x','b.x'], {'none': .5, 'deepclsmote': .6})
    grid(root, ['a.x'], {'none': .7, 'deepclsmote': .4}, classifier='cnn_svm')
    p = check_page(write_report(root), root)
    assert [*p.headings.values()] == ['All tasks, cnn_svm', 'All tasks, plain_cnn', 'a.x, cnn_svm', 'a.x, plain_cnn', 'b.x, plain_cnn', 'How it was made']
    assert p.first.count('with cnn_svm.') == 2 and p.first.count('with plain_cnn.') == 2

def test_all_alike(tmp_path, no_figures, monkeypatch):
    "No method is ahead on any data set; the diagram of ranks is drawn"
    monkeypatch.setattr(report, 'critical_difference_diagram', critical_difference_diagram)
    for t in ('a.x','b.x'):
        for m in ('none','smote','deepclsmote'):
            for f in (0,1): save_record(dict(fake(t, 'none', f), method=m), tmp_path)
    p = check_page(write_report(tmp_path), tmp_path)
    assert 'does not beat the best simple rival on any of 2 tasks' in p.first and {r['cells'][1] for r in p.section('all-plain_cnn')[0]['rows']} == {'2.00'}

def test_counts_that_differ_between_folds(tmp_path):
    "As with the protocol 'natural/by track'"
    for f in (0,1):
        for m in ('none','deepclsmote'): save_record(fake('a.natural/by track', m, f, counts=[300+f, 60-f, 12, 5+f]), tmp_path)
    check_page(write_report(tmp_path), tmp_path)

@pytest.mark.filterwarnings('error')
def test_a_measure_that_some_tasks_lack(tmp_path):
    "No class of b has under 20 images"
    grid(tmp_path, ['a.x'], {'none': .5, 'smote': .6, 'deepclsmote': .7})
    grid(tmp_path, ['b.x'], {'none': .5, 'smote': .6, 'deepclsmote': .7}, counts=[300,60,30,20])
    p = read(write_report(tmp_path, measure='few'))
    check_task(p, tmp_path/'report.html', tmp_path, read_records(tmp_path), record_table(read_records(tmp_path)), 'a.x', 'plain_cnn', 'few')
    assert {r['cells'][1] for t in p.tables if p.headings[t['section']] == 'b.x' for r in t['rows']} <= {''} and [r['cells'][0] for r in p.section('all-plain_cnn')[1]['rows']] == ['a.x'] and 'on 1 of 1 task' in p.first

def test_a_measure_that_one_classifier_lacks(tmp_path, no_figures):
    "cnn_svm gives no probabilities"
    grid(tmp_path, ['a.x'], {'none': .5, 'deepclsmote': .6}, classifier='cnn_svm')
    for f in (0,1):
        for m,v in (('none',.4), ('deepclsmote',.7)): save_record(fake('a.x', m, f, metrics=dict(fake()['metrics'], auc=v+f/10)), tmp_path)
    p = read(write_report(tmp_path, measure='auc'))
    assert 'on 1 of 1 task (on average +0.300' in p.first and any([r['cells'][:2] for r in t['rows']] == [['deepclsmote','.750'],['none','.450']] for t in p.tables)

def test_a_measure_that_nobody_took(tmp_path, no_figures):
    "As 'auc' of classifiers without probabilities"
    with pytest.raises(InputError, match='auc'): write_report(grid(tmp_path, ['a.x'], {'none': .5, 'deepclsmote': .6}), measure='auc')

def test_bounds_beyond_ten(tmp_path, no_figures):
    "Two folds with nothing in common"
    for m in ('none','deepclsmote'):
        for f,right in enumerate((0., 1.)): save_record(fake('a.x', m, f, right=1, metrics=dict(fake()['metrics'], f1_macro=right)), tmp_path)
    p = read(write_report(tmp_path, folds=2))
    check_task(p, tmp_path/'report.html', tmp_path, read_records(tmp_path), record_table(read_records(tmp_path)), 'a.x', 'plain_cnn', folds=2)

def test_other_measures_and_folds(tmp_path, no_figures):
    root = grid(tmp_path, ['a.x'], {'none': .5, 'smote': .6, 'deepclsmote': .7})
    p = read(write_report(root, measure='gm', folds=10))
    check_task(p, root/'report.html', root, read_records(root), record_table(read_records(root)), 'a.x', 'plain_cnn', 'gm', 10)
    assert [r['cells'][0] for r in p.section('all-plain_cnn')[0]['rows']] == leaderboard(record_table(read_records(root)), 'gm').method.tolist()

def test_overview_refuses():
    with pytest.raises(InputError, match='expected one of plain_cnn'): overview(scored(dict(none=[.1], ros=[.2])), classifier='resnet')
    with pytest.raises(InputError, match='expected one of f1_macro'): overview(scored(dict(none=[.1], ros=[.2])), 'f2')

@pytest.mark.parametrize('make', [lambda p: None, lambda p: p.write_text('x')])
def test_no_folder(tmp_path, make):
    make(tmp_path/'records')
    with pytest.raises(InputError, match='no folder'): write_report(tmp_path/'records')
    assert not list(tmp_path.rglob('*.html'))

# --- the command ---------------------------------------------------------------------------------------------------

@pytest.fixture
def small(tmp_path): return grid(tmp_path/'records', ['a.x'], {'none': .5, 'smote': .6, 'deepclsmote': .7})

def test_command(small, tmp_path, capsys, no_figures):
    assert main(['report', str(small)]) == 0
    out,err = capsys.readouterr()
    lines = first_lines(record_table(read_records(small)))
    assert out.splitlines()[:2] == lines and str(small/'report.html') in out and not err and all(l in read(small/'report.html').first for l in lines)
    assert main(['report', str(small), '--out', str(tmp_path/'p.html'), '--measure', 'accuracy', '--reference', 'none', '--title', 'T', '--folds', '3']) == 0
    assert (tmp_path/'p.html').read_bytes() == write_report(small, tmp_path/'q.html', 'accuracy', 'none', 'T', 3).read_bytes() and capsys.readouterr().out.startswith('none ')

def refused(capsys, *args, says, code=2):
    "One line on stderr, nothing on stdout"
    assert main(['report', *map(str, args)]) == code
    out,err = capsys.readouterr()
    assert not out and err.startswith('deepclsmote report: ') and len(err.strip().splitlines()) == 1 and says in err, err

@pytest.mark.parametrize('args,says', [(['--measure','f2'], 'f1_macro'), (['--measure','minutes'], 'minutes'), (['--reference','nothing'], 'nothing'), (['--folds','0'], 'folds'), (['--folds','1'], '1')])
def test_command_refuses(small, capsys, args, says, no_figures):
    (small/'report.html').write_text('old')
    refused(capsys, small, *args, says=says)
    assert (small/'report.html').read_text() == 'old'

def test_command_refuses_folders_and_records(small, tmp_path, capsys):
    refused(capsys, tmp_path/'elsewhere', says='elsewhere')
    (tmp_path/'empty').mkdir()
    refused(capsys, tmp_path/'empty', says='0 records')
    path = next(small.rglob('fold*.json'))
    path.write_text(path.read_text()[:50])
    refused(capsys, small, says=path.name)

@pytest.mark.parametrize('step', ['replace','fsync','chmod'])
def test_full_disk(small, capsys, monkeypatch, no_figures, step):
    "The page of before is whole, and nothing else is left"
    (small/'report.html').write_text('old')
    before = sorted(small.rglob('*'))
    def full(*a, **k): raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with monkeypatch.context() as m:
        m.setattr(os, step, full)
        refused(capsys, small, says='No space left', code=1)
    assert (small/'report.html').read_text() == 'old' and sorted(small.rglob('*')) == before

def test_no_place_to_write(small, tmp_path, capsys, no_figures):
    (tmp_path/'file').write_text('kept')
    (tmp_path/'folder').mkdir()
    refused(capsys, small, '--out', tmp_path/'file'/'p.html', says='file', code=1)
    refused(capsys, small, '--out', tmp_path/'folder', says='folder', code=1)
    assert (tmp_path/'file').read_text() == 'kept' and sorted(p.name for p in tmp_path.iterdir()) == ['file','folder','records'] and not list((tmp_path/'folder').iterdir())
