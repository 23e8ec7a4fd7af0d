"""The LSTM text classifier of AutoQNN (seed 003, section 5.2.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from torch import Tensor


class LstmClassifier(nn.Module):
    """One embedding, one LSTM of 512 units, dense layers of 256 and 128, the classifier.

    The paper names these layers; vocabulary, embedding width and the use of the last state are reconstructed.

    Args:
        classes: number of classes.
        vocabulary: number of token ids.
        embedding: width of the embedding.
        units: hidden units of the LSTM.
    """

    def __init__(self, classes: int = 10, vocabulary: int = 5000, embedding: int = 64, units: int = 512) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.lstm = nn.LSTM(embedding, units, batch_first=True)
        self.fc1 = nn.Linear(units, 256)
        self.fc2 = nn.Linear(256, 128)
        self.fc3 = nn.Linear(128, classes)
        self.relu = nn.ReLU()

    def forward(self, tokens: Tensor) -> Tensor:
        """Token ids int64 [N, length] → logits float32 [N, classes]."""
        states, _ = self.lstm(self.embedding(tokens))
        hidden = self.relu(self.fc1(states[:, -1]))
        logits: Tensor = self.fc3(self.relu(self.fc2(hidden)))
        return logits
