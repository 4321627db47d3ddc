"""The head of a part of `base`, trained on stored states: the encoder does not move, and is computed once.

`tiny.py` says how it is used. A step costs a tenth of one of the whole network, so that the head has seen
most crops before the layers under it are trained with it.
"""
from pathlib import Path
import numpy as np, torch
from crops import StoredCrops
from safetensors.torch import load_file
from spoken_lang.augmentation import spec_augment
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import TrainerCallback

TEACHER_LABELS = 101  # of `base`


class StoredStates(nn.Module):
    "In place of an encoder: its output is its input"
    def forward(self, states, mask):  # (batch, frames, channels), (batch, frames)
        return states.transpose(1, 2), mask[:, None].to(states.dtype)


class StatesOfCrops(StoredCrops):
    "Stored crops, with the states of a part of `base` in place of waves"
    def __init__(self, folders, manifest, labels, part):
        super().__init__(folders, manifest, labels)
        self.ends, self.stored = [], []
        for f in self.folders:
            if not (f/f'{part}.npy').exists():
                raise ValueError(f'{f}: has no states. Make them: python tools/model/tiny.py states {part}')
            ends = np.cumsum([0, *np.load(f/f'{part}.npy')])
            self.ends.append(ends)
            self.stored.append(np.memmap(f/f'{part}.f16', 'float16', 'r').reshape(ends[-1], -1))

    def __getitem__(self, i):
        s, k = self.rows[i]
        start, end = self.ends[s][k:k + 2]
        return dict(states=torch.from_numpy(self.stored[s][start:end].astype('float32')),
                    label=int(self.labels[i]))


class StateCollator:
    "States to a batch; in training, frames and channels are masked"
    def __init__(self, change=False): self.change = change

    def __call__(self, clips):
        found = [c['states'] for c in clips]
        x = pad_sequence(found, batch_first=True)
        mask = pad_sequence([torch.ones(len(s), dtype=torch.long) for s in found], batch_first=True)
        if self.change:
            x = spec_augment(x, torch.Generator().manual_seed(clips[0]['seed']))
        labels = torch.tensor([c['label'] for c in clips])
        return dict(input_features=x, attention_mask=mask, labels=labels)


class AnswerGuide(TrainerCallback):
    "A second linear layer from the embedding to the teacher's answers over all its labels"
    def __init__(self, net, weight, temperature):
        self.weight, self.temperature = weight, temperature
        net.all_answers = nn.Linear(net.head.in_features, TEACHER_LABELS)
        net.dropout.register_forward_hook(self.keep)

    def keep(self, module, inputs, output): self.embedding = output

    def on_train_end(self, args, state, control, model=None, **kwargs):
        del model.all_answers

    def loss(self, model, batch):
        "Divergence from the teacher's answers, at the temperature"
        def soft(logits): return (logits/self.temperature).log_softmax(1)
        guess, wanted = soft(model.all_answers(self.embedding)), soft(batch['all_answers'])
        far = F.kl_div(guess, wanted, log_target=True, reduction='batchmean')
        return self.weight*self.temperature**2*far


def join(net, run):
    "Write a whole network with the head of a run, in place of the head alone"
    folder = Path(run)/'model'
    net.load_state_dict(net.state_dict() | load_file(folder/'model.safetensors'))
    net.save_pretrained(folder)
