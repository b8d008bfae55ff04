"""Majority kernels in a training loop of one's own: three copies of every kernel, collapsed to one at the end."""

import torch
from sklearn.datasets import load_digits

import collegium

torch.manual_seed(0)
data = load_digits()
x, y = torch.tensor(data.data, dtype=torch.float32) / 16, torch.tensor(data.target)
train, test = slice(0, 1200), slice(1200, None)

model = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
collegium.expand(model, expansion=3, seed=0)
optimizer = collegium.fuse(torch.optim.Adam(model.parameters(), lr=2e-3), model)
for _ in range(40):
    for batch in torch.randperm(1200).split(64):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[train][batch]), y[train][batch])
        loss.backward()
        optimizer.step()

collegium.collapse(model)
model.eval()
accuracy = (model(x[test]).argmax(1) == y[test]).float().mean()
print(f"{sum(p.numel() for p in model.parameters()):,} parameters, test accuracy {accuracy:.3f}")
