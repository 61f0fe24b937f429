"""QINCo's models as the files of PyTorch know them: modules, attributes and parameter names. Only to make such files;
torch.save names this module, model_qinco, in them."""

import torch
from torch import nn


class QINCoStep(nn.Module):
    """One step: its codebook and the network f(c, xhat)."""

    def __init__(self, d, K, L, h, lowrank=False):
        super().__init__()
        self.d, self.K, self.L, self.h = d, K, L, h
        self.codebook = nn.Embedding(K, d)
        if lowrank:
            self.MLPconcat = nn.Sequential(nn.Linear(2 * d, h, bias=False), nn.Linear(h, d, bias=False))
        else:
            self.MLPconcat = nn.Linear(2 * d, d)
        self.residual_blocks = []
        for l in range(L):
            block = nn.Sequential(nn.Linear(d, h, bias=False), nn.ReLU(), nn.Linear(h, d, bias=False))
            self.add_module(f"residual_block{l}", block)
            self.residual_blocks.append(block)

    def forward(self, c, xhat):
        z = c + self.MLPconcat(torch.cat([c, xhat], dim=-1))
        for block in self.residual_blocks:
            z = z + block(z)
        return z


class QINCo(nn.Module):
    first_step = 1
    lowrank = False

    def __init__(self, d, K, L, M, h, K_IVF=None):
        super().__init__()
        self.d, self.K, self.L, self.M, self.h = d, K, L, M, h
        self.db_scale = None
        self.codebook0 = nn.Embedding(K_IVF or K, d)
        self.steps = []
        for m in range(self.first_step, M):
            step = QINCoStep(d, K, L, h, self.lowrank)
            self.add_module(f"step{m}", step)
            self.steps.append(step)

    @torch.no_grad()
    def encode(self, x):
        """x [n,d] in the original space -> codes [n, steps + 1], and the smallest relative gap between the best and the
        second candidate."""
        x = x / self.db_scale
        codes, xhat, gap = [], torch.zeros_like(x), 1.0
        for step in [None, *self.steps]:
            c = self.codebook0.weight if step is None else step.codebook.weight
            shape = (len(x), *c.shape)
            y = c.expand(shape) if step is None else xhat[:, None] + step(c.expand(shape), xhat[:, None].expand(shape))
            distances = ((x[:, None] - y) ** 2).sum(dim=-1)
            best = torch.topk(distances, 2, largest=False).values
            gap = min(gap, ((best[:, 1] - best[:, 0]) / best[:, 0]).min().item())
            codes.append(distances.argmin(dim=1))
            xhat = y[torch.arange(len(x)), codes[-1]]
        return torch.stack(codes, dim=1), gap

    @torch.no_grad()
    def decode(self, codes):
        """codes [n, steps + 1] -> vectors [n,d] in the original space."""
        xhat = self.codebook0(codes[:, 0])
        for i, step in enumerate(self.steps):
            xhat = xhat + step(step.codebook(codes[:, i + 1]), xhat)
        return xhat * self.db_scale


class QINCoLR(QINCo):
    lowrank = True


class IVFQINCo(QINCo):
    first_step = 0

    def __init__(self, d, K, L, M, h, K_IVF):
        super().__init__(d, K, L, M, h, K_IVF)
        self.K_IVF = K_IVF


class PQ_QINCo(nn.Module):
    def __init__(self, d, K, L, M, h, nsub, opq_matrix=None):
        super().__init__()
        self.d, self.K, self.L, self.M, self.h, self.nsub = d, K, L, M, h, nsub
        self.sub_quantizers = []
        for j in range(nsub):
            quantizer = QINCo(d // nsub, K, L, M // nsub, h)
            self.add_module(f"sub_quantizer_{j}", quantizer)
            self.sub_quantizers.append(quantizer)
        self.opq_matrix = None if opq_matrix is None else nn.Parameter(opq_matrix)

    @torch.no_grad()
    def encode(self, x):
        """As QINCo's: the codes of all parts side by side."""
        x = x if self.opq_matrix is None else x @ self.opq_matrix.T
        parts = [part.encode(block) for part, block in zip(self.sub_quantizers, x.chunk(self.nsub, dim=1))]
        return torch.cat([codes for codes, _ in parts], dim=1), min(gap for _, gap in parts)

    @torch.no_grad()
    def decode(self, codes):
        blocks = [part.decode(block) for part, block in zip(self.sub_quantizers, codes.chunk(self.nsub, dim=1))]
        x = torch.cat(blocks, dim=1)
        return x if self.opq_matrix is None else x @ self.opq_matrix
