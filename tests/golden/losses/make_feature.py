"""Writes feature.npz: feature losses and their gradients as PyTorch has them.

  python3.11 -m venv /tmp/ref && /tmp/ref/bin/pip install torch==2.13.0 numpy
  /tmp/ref/bin/python tests/golden/losses/make_feature.py

Float64, one example at a time (a batch of one), maps as [1, C, H, W] inside.
The order of operations is that of the public code: RepDistiller for hint, AT,
NST, FSP, AB and VID (its sums over a batch of one, without constant factors;
FSP's mean is a sum as in the paper), the authors' for factor transfer, CAT-KD
and overhaul, mdistiller for the three-case form of the partial distance and for
the hierarchical context loss and the fusion of features, the authors' for the
networks of factor transfer. Gaussian NST and the distance of AT's Eq. 2 are
loops over the papers' formulas. Nothing of kt_jax is used.
"""
import itertools
import pathlib

import numpy as np
import torch
from torch.nn import functional as F

B, K = 2, 6
# (H, W, C) of every layer: the student's, the teacher's.
MAPS = {
    'same': [((6, 6, 4), (6, 6, 4)), ((3, 4, 5), (3, 4, 5))],
    'grids': [((8, 6, 4), (5, 9, 4)), ((3, 4, 5), (6, 4, 5))],
    'widths': [((8, 6, 3), (5, 9, 4)), ((4, 4, 5), (4, 4, 7))],
    'flow': [((8, 8, 3), (9, 8, 3)), ((4, 6, 5), (8, 8, 5)),
             ((4, 6, 2), (3, 3, 2))],
    'pyramid': [((s, s, c),) * 2 for s, c in ((8, 3), (5, 4), (2, 5), (1, 6))],
    'last': [((6, 5, 4), (4, 7, 3))],
    'review': [((9, 6, 3), (7, 8, 5)), ((4, 6, 5), (4, 3, 4)),
               ((1, 1, 6), (1, 1, 7))],
}


def meet(s, t):
  """Both on the smaller grid."""
  size = [min(a, b) for a, b in zip(s.shape[2:], t.shape[2:])]
  return F.adaptive_avg_pool2d(s, size), F.adaptive_avg_pool2d(t, size)


def hint(s, t):
  return sum(F.mse_loss(*meet(a, b)) for a, b in zip(s, t))


def attention(f, p):
  return F.normalize(f.abs().pow(p).mean(1).view(f.size(0), -1))


def attention_transfer(s, t, p):
  return sum((attention(a, p) - attention(b, p)).pow(2).mean()
             for a, b in itertools.starmap(meet, zip(s, t)))


def attention_distance(s, t, p):
  total = 0
  for a, b in zip(s, t):
    qs = [sum(x[0, c].abs()**p for c in range(x.shape[1])).flatten()
          for x in meet(a, b)]
    total = total + torch.norm(qs[0] / torch.norm(qs[0])
                               - qs[1] / torch.norm(qs[1]))
  return total


def nst(s, t, kernel):
  total = 0
  for a, b in zip(s, t):
    a, b = (F.normalize(x.flatten(2), dim=2)[0] for x in meet(a, b))
    if kernel == 'polynomial':
      k = lambda x, y: (x.unsqueeze(0) * y.unsqueeze(1)).sum(-1).pow(2)
    elif kernel == 'linear':
      k = lambda x, y: (x.unsqueeze(0) * y.unsqueeze(1)).sum(-1)
    else:
      d = lambda x, y: torch.stack([torch.stack([
          (u - v).pow(2).sum() for v in y]) for u in x])
      width = d(a, b).mean().detach()
      k = lambda x, y: torch.exp(-d(x, y) / (2 * width))
    total = total + k(b, b).mean() + k(a, a).mean() - 2 * k(a, b).mean()
  return total


def flow(maps):
  out = []
  for bot, top in zip(maps, maps[1:]):
    bot, top = meet(bot, top)
    out.append((bot.unsqueeze(1).flatten(3) * top.unsqueeze(2).flatten(3))
               .mean(-1))
  return out


def fsp(s, t):
  return sum((a - b).pow(2).sum() for a, b in zip(flow(s), flow(t)))


def factor_transfer(s, t, p):
  criterion = torch.nn.L1Loss() if p == 1 else torch.nn.MSELoss()
  unit = lambda x: F.normalize(x.reshape(x.size(0), -1))
  return sum(criterion(unit(a), unit(b))
             for a, b in itertools.starmap(meet, zip(s, t)))


def activation_boundary(s, t, margin, decay):
  total = 0
  for i, (a, b) in enumerate(zip(s, t)):
    a, b = meet(a, b)
    loss = ((a + margin)**2 * ((a > -margin) & (b <= 0)).double()
            + (a - margin)**2 * ((a <= margin) & (b > 0)).double())
    total = total + decay**(len(s) - 1 - i) * loss.abs().sum()
  return total


def vid(s, t, variance):
  total = 0
  for a, b, v in zip(s, t, variance):
    a, b = meet(a, b)
    v = v.view(1, -1, 1, 1)
    total = total + torch.mean(0.5 * ((a - b)**2 / v + torch.log(v)))
  return total


def overhaul(s, t, margin, decay):
  total = 0
  for i, (a, b, m) in enumerate(zip(s, t, margin)):
    a, b = meet(a, b)
    m = m.view(1, -1, 1, 1)
    loss = ((a - m)**2 * ((a > m) & (b <= m)).double()
            + (a - b)**2 * ((a > b) & (b > m) & (b <= 0)).double()
            + (a - b)**2 * (b > 0).double())
    total = total + decay**(len(s) - 1 - i) * loss.sum()
  return total


def review_kd(s, t, levels):
  total = 0
  for a, b in zip(s, t):
    loss, weight, weights = F.mse_loss(a, b), 1.0, 1.0
    for level in levels:
      if level >= a.shape[2]:
        continue
      weight /= 2
      loss = loss + weight * F.mse_loss(F.adaptive_avg_pool2d(a, level),
                                        F.adaptive_avg_pool2d(b, level))
      weights += weight
    total = total + loss / weights
  return total


def class_attention(s, t, heads, pool, how, classes):
  """Maps by a 1x1 convolution, as the authors rebuild the classifier."""
  s, t = (F.conv2d(x, head.T[:, :, None, None])
          for (x,), head in zip((s, t), heads))
  logits = t.mean((2, 3))[0]
  if how == 'binary':
    threshold = torch.norm(t, dim=(2, 3), keepdim=True, p=1) / t[0, 0].numel()
    t = F.relu(t - threshold).bool().double()
  if classes:
    order = sorted(range(K), key=lambda k: float(logits[k]),
                   reverse=classes > 0)
    s, t = (x[:, order[:abs(classes)]] for x in (s, t))
  s, t = (F.adaptive_avg_pool2d(x, (pool, pool)) for x in (s, t))
  if how == 'normal':
    s, t = (F.normalize(x, dim=(2, 3)) for x in (s, t))
  return F.mse_loss(s, t)


class Fusion(torch.nn.Module):
  """ABF of mdistiller; sizes as pairs."""

  def __init__(self, inputs, width, outputs, fuse):
    super().__init__()
    self.conv1 = torch.nn.Conv2d(inputs, width, 1, bias=False)
    self.norm1 = torch.nn.BatchNorm2d(width)
    self.conv2 = torch.nn.Conv2d(width, outputs, 3, padding=1, bias=False)
    self.norm2 = torch.nn.BatchNorm2d(outputs)
    if fuse:
      self.attention = torch.nn.Conv2d(2 * width, 2, 1)

  def forward(self, x, y, size):
    x = self.norm1(self.conv1(x))
    if y is not None:
      y = F.interpolate(y, x.shape[2:], mode='nearest')
      z = torch.sigmoid(self.attention(torch.cat([x, y], dim=1)))
      x = x * z[:, :1] + y * z[:, 1:]
    if tuple(x.shape[2:]) != tuple(size):
      x = F.interpolate(x, size, mode='nearest')
    return self.norm2(self.conv2(x)), x


def matrix(conv):
  """A layer's kernel as Flax has it."""
  weight = conv.weight.detach().numpy().transpose(2, 3, 1, 0)
  return weight[0, 0] if weight.shape[:2] == (1, 1) else weight


def networks(out, tensors):
  """`name/param/...`, paths as in kt_jax; `name/out/...`; `name/stat/...`."""
  torch.manual_seed(0)
  width, shapes = 4, MAPS['review']
  fusions = [Fusion(s[-1], width, t[-1], i < len(shapes) - 1).double()
             for i, (s, t) in enumerate(shapes)]
  y = None
  for i in reversed(range(len(shapes))):
    net, at = fusions[i], f'review/param/fusions/{i}'
    for norm in (net.norm1, net.norm2):
      torch.nn.init.uniform_(norm.weight, 0.5, 2)
      torch.nn.init.normal_(norm.bias)
    x, y = net(tensors('review/student')[i], y, shapes[i][1][:2])
    out[f'review/out/{i}'] = x.detach().permute(0, 2, 3, 1)
    for ours, conv, norm in (('conv1', net.conv1, net.norm1),
                             ('conv2', net.conv2, net.norm2)):
      out[f'{at}/{ours}/linear/kernel'] = matrix(conv)
      out[f'{at}/{ours}/norm/scale'] = norm.weight.detach()
      out[f'{at}/{ours}/norm/bias'] = norm.bias.detach()
      out[f'review/stat/fusions/{i}/{ours}/norm/mean'] = norm.running_mean
    if i < len(shapes) - 1:
      out[f'{at}/attention/linear/kernel'] = matrix(net.attention)
      out[f'{at}/attention/linear/bias'] = net.attention.bias.detach()

  (s, _), (t, _) = tensors('same/student'), tensors('grids/teacher')
  for name, x, widths in (('translator', s, (4, 4, 2, 2)),
                          ('encoder', t, (4, 4, 2, 2)),
                          ('decoder', None, (2, 2, 4, 4))):
    x = code if x is None else x
    for i, (a, b) in enumerate(zip(widths, widths[1:])):
      # Of stride 1: a convolution by the kernel turned round.
      conv = (torch.nn.ConvTranspose2d if name == 'decoder'
              else torch.nn.Conv2d)(a, b, 3, padding=1).double()
      x = F.leaky_relu(conv(x), 0.1)
      kernel = conv.weight.detach()
      if name == 'decoder':
        kernel = kernel.flip(2, 3).transpose(0, 1)
      at = f'factor/param/{name}/{i}/linear'
      out[f'{at}/kernel'] = kernel.numpy().transpose(2, 3, 1, 0)
      out[f'{at}/bias'] = conv.bias.detach()
    out[f'factor/out/{name}'] = x.detach().permute(0, 2, 3, 1)
    code = x


def main():
  r = np.random.default_rng(0)
  out = {'versions': np.array([f'torch {torch.__version__}',
                               f'numpy {np.__version__}'])}

  # Numbers that float32 holds, so that both sides read the same.
  draw = lambda *shape: r.normal(size=shape).astype(np.float32)
  for maps, shapes in MAPS.items():
    for i, pair in enumerate(shapes):
      for who, shape in zip(('student', 'teacher'), pair):
        out[f'{maps}/{who}/{i}'] = draw(B, *shape)

  def tensors(name):
    """What is stored as `name/0`, `name/1`, ..."""
    found = []
    while f'{name}/{len(found)}' in out:
      x = torch.tensor(out[f'{name}/{len(found)}'], dtype=torch.double)
      found.append(x.permute(0, 3, 1, 2) if x.ndim == 4 else x)
    return found

  def record(name, fn, maps, *extra):
    """`name/maps`, `name/loss` and `name/grad/0`, ...; `extra` is stored."""
    s, t, *more = map(tensors, (f'{maps}/student', f'{maps}/teacher', *extra))
    for x in s:
      x.requires_grad_()
    values = torch.stack([
        fn([x[i:i + 1] for x in s], [x[i:i + 1] for x in t], *more)
        for i in range(B)])
    out[f'{name}/maps'] = maps
    out[f'{name}/loss'] = values.detach().numpy()
    for i, g in enumerate(torch.autograd.grad(values.sum(), s)):
      out[f'{name}/grad/{i}'] = g.permute(0, 2, 3, 1).numpy().astype(np.float32)

  record('hint/same', hint, 'same')
  record('hint/grids', hint, 'grids')
  for p in (1, 2, 4):
    record(f'attention_transfer/{p}/mean',
           lambda s, t: attention_transfer(s, t, p), 'widths')
    record(f'attention_transfer/{p}/distance',
           lambda s, t: attention_distance(s, t, p), 'widths')
  for kernel in ('polynomial', 'linear', 'gaussian'):
    record(f'nst/{kernel}', lambda s, t: nst(s, t, kernel), 'widths')
  record('fsp', fsp, 'flow')
  for p in (1, 2):
    record(f'factor_transfer/{p}',
           lambda s, t: factor_transfer(s, t, p), 'grids')
  for margin, decay in ((1.0, 0.5), (0.4, 1.0)):
    record(f'activation_boundary/{margin}/{decay}',
           lambda s, t: activation_boundary(s, t, margin, decay), 'grids')
  for i, (pair, _) in enumerate(MAPS['grids']):
    out[f'variance/{i}'] = np.abs(draw(pair[-1])) + np.float32(0.1)
    out[f'margin/{i}'] = -np.abs(draw(pair[-1]))
  for i, shape in enumerate(MAPS['last'][0]):
    out[f'head/{i}'] = draw(shape[-1], K)
  record('vid', vid, 'grids', 'variance')
  for decay in (0.5, 1.0):
    record(f'overhaul/{decay}', lambda *args: overhaul(*args, decay), 'grids',
           'margin')
  for levels in ((4, 2, 1), (3,)):
    record(f'review_kd/{",".join(map(str, levels))}',
           lambda s, t: review_kd(s, t, levels), 'pyramid')
  for case in ((2, 'plain', 0), (1, 'plain', 0), (3, 'normal', 0),
               (2, 'binary', 0), (2, 'plain', 2), (2, 'plain', -3),
               (2, 'binary', 1)):
    record('/'.join(map(str, ('class_attention', *case))),
           lambda *args: class_attention(*args, *case), 'last', 'head')

  x = draw(2, 7, 10, 3)
  out['pool/x'] = x
  for h, w in itertools.product((1, 2, 3, 5, 7, 9), (1, 4, 5, 7, 10, 12)):
    out[f'pool/{h}/{w}'] = F.adaptive_avg_pool2d(
        torch.tensor(x).permute(0, 3, 1, 2), (h, w)).permute(0, 2, 3, 1)
  networks(out, tensors)
  for h, w in ((3, 9), (10, 4), (9, 14)):
    for mode in ('nearest', 'bilinear'):
      if mode == 'nearest' or h >= 7 and w >= 10:
        out[f'resize/{mode}/{h}/{w}'] = F.interpolate(
            torch.tensor(x).permute(0, 3, 1, 2), (h, w), mode=mode
            ).permute(0, 2, 3, 1)
  np.savez_compressed(pathlib.Path(__file__).parent / 'feature.npz', **out)


if __name__ == '__main__':
  main()
