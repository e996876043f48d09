"""Why do the pixel methods score higher here than in DeepSMOTE's Table III? The same images for weaker judges: python results/deepsmote/why.py mnist; appends to why.csv what it lacks.

The plain CNN stopped early, and three classifiers of scikit-learn on pixels (their seed is the method's)."""
import json, sys
from pathlib import Path
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import SGDClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.tree import DecisionTreeClassifier
from deepclsmote.data import load_dataset
from deepclsmote.evaluation import cell_split, evaluate_cell
from deepclsmote.metrics import evaluate

HERE = Path(__file__).parent
PROTOCOLS = dict(mnist='deepsmote-grey', fashion_mnist='deepsmote-grey', cifar10='deepsmote-colour')
METHODS = ('none','ros','smote','amdo','mc_ccr','mc_rbo','gamo','deepsmote')
JUDGES = {
    **{f'plain CNN, {n} steps': n for n in (20,40,80,160,320)},
    'nearest neighbor': lambda: KNeighborsClassifier(1),
    'decision tree': lambda: DecisionTreeClassifier(random_state=0),
    'linear': lambda: SGDClassifier(loss='log_loss', average=True, random_state=0),
}

def flat(x): return np.asarray(x, np.float32).reshape(len(x), -1)/255

def weigh(dataset, file=HERE/'why.csv'):
    "The judges that `file` lacks, one after the other; a method's images are made once"
    grid = json.loads((HERE/('../deepsmote_colour' if dataset == 'cifar10' else '.')/'grid.json').read_text())
    data,protocol = load_dataset(dataset, split='all' if dataset == 'cifar10' else 'train'),PROTOCOLS[dataset]
    train,test = cell_split(data, protocol, 0)
    colour = dataset == 'cifar10' # two rivals and two judges left out for time
    for method in METHODS:
        made = None
        for judge,build in JUDGES.items():
            if colour and (method.startswith('mc_') or judge in ('decision tree','linear')): continue
            have = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=['dataset','method','judge'])
            if ((have.dataset == dataset) & (have.method == method) & (have.judge == judge)).any(): continue
            if made is None or isinstance(build, int): record,made = evaluate_cell(data, protocol, method, settings=grid['settings'].get(method), steps=build if isinstance(build, int) else 1, resampled=made)
            if isinstance(build, int): acsa = record['metrics']['acsa']
            else: acsa = evaluate(data.labels[test], build().fit(flat(made[0]), made[1]).predict(flat(data.images[test])))['acsa']
            row = dict(dataset=dataset, method=method, judge=judge, acsa=round(acsa, 4))
            pd.DataFrame([row]).to_csv(file, mode='a', header=not file.exists(), index=False)
            print(*row.values(), flush=True)

if __name__ == '__main__':
    torch.set_num_threads(1)
    for name in sys.argv[1:] or PROTOCOLS: weigh(name)
