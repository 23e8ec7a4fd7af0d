"""Run by an interpreter that has Brevitas: `python export_brevitas.py model.onnx samples.npz`.

Writes a small network as Brevitas exports QONNX, and samples with what Brevitas computes.
"""

import sys

import brevitas.nn as qnn
import numpy as np
import torch
from brevitas.export import export_qonnx
from brevitas.quant import Int8WeightPerChannelFloat, SignedBinaryWeightPerTensorConst


class Network(torch.nn.Module):
    """Weights per channel, depthwise, bipolar; a residual connection; Relu and signed activations."""

    def __init__(self):
        super().__init__()
        self.quant_in = qnn.QuantIdentity(bit_width=8, return_quant_tensor=True)
        per_channel = {"weight_quant": Int8WeightPerChannelFloat, "padding": 1}
        self.conv1 = qnn.QuantConv2d(3, 8, 3, weight_bit_width=4, bias=True, **per_channel)
        self.relu1 = qnn.QuantReLU(bit_width=4, return_quant_tensor=True)
        self.conv2 = qnn.QuantConv2d(8, 8, 3, padding=1, groups=8, weight_bit_width=3, bias=False)
        self.shared = qnn.QuantIdentity(bit_width=5, return_quant_tensor=True)
        self.relu2 = qnn.QuantReLU(bit_width=3, return_quant_tensor=True)
        self.conv3 = qnn.QuantConv2d(8, 4, 1, bias=True, weight_quant=SignedBinaryWeightPerTensorConst)
        self.relu3 = qnn.QuantReLU(bit_width=2)
        self.fc = qnn.QuantLinear(4 * 36, 5, weight_bit_width=8, bias=True)

    def forward(self, x):
        """Logits."""
        x = self.relu1(self.conv1(self.quant_in(x)))
        x = self.relu2(self.shared(self.conv2(x)) + self.shared(x))
        return self.fc(self.relu3(self.conv3(x)).flatten(1))


torch.manual_seed(0)
network = Network().train()
for _ in range(20):
    network(torch.randn(16, 3, 6, 6))
network.eval()
x = torch.randn(64, 3, 6, 6)
export_qonnx(network, args=x, export_path=sys.argv[1])
found = network(x)
found = found.value if hasattr(found, "value") else found
np.savez(sys.argv[2], x=x.numpy(), y=found.detach().numpy())
