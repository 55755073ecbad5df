"""Collapse of a network that is no PyTorch module: scikit-learn's MLPClassifier."""

import warnings

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

import nclib

if __name__ == "__main__":
    x, y = load_digits(return_X_y=True)
    x = x[:600] / 16
    y = y[:600]
    net = MLPClassifier((64,), alpha=1e-2, max_iter=20, random_state=0)
    for steps in (5, 100):
        net.max_iter = steps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            net.fit(x, y)
        features = np.maximum(x @ net.coefs_[0] + net.intercepts_[0], 0)
        report = nclib.measure(
            torch.tensor(features), torch.tensor(y), torch.tensor(net.coefs_[1].T),
            torch.tensor(net.intercepts_[1]),
        )
        print(f"{steps} epochs: nc1 {report.nc1:.3g}, nc2 {report.nc2_etf:.3g}")
