"""Networks of 1 to 6 million parameters that `tiny.py compare` trains on the same crops.

Those of `NETWORKS` start from random weights and take the 40 bands of `tiny`'s log-mel. Those of
`PARTS_OF_BASE` are the bottom of `base`, with its log-mel, at 25 frames a second. Pooling and head are those
of the package. Padding is masked wherever frames meet: in convolutions, norms, gates and attention.
`tdnn`, `separable` and Whisper's are encoders of the package; another one that is better moves into it.
"""
from pathlib import Path
import torch
from spoken_lang.encoders import MaskedBatchNorm, TdnnLayer
from spoken_lang.model import SpokenLanguageClassifier, SpokenLanguageConfig, whisper_base_config
from spoken_lang.onnx_export import load_run
from spoken_lang.whisper import MaskedWhisperEncoder
from torch import nn
from torch.nn import functional as F
from torchaudio.models.conformer import ConformerLayer
from transformers import WhisperConfig

BASE = 'workspace/base/run'  # that `base.py restore` makes
PARTS = Path('workspace/tiny/parts')  # that `tiny.py prune` makes


class Front(nn.Module):
    "The first two layers of the TDNN: 25 frames a second"
    def __init__(self, bins, width):
        super().__init__()
        self.layers = nn.ModuleList([TdnnLayer(bins, width//2, kernel=5, stride=2),
                                     TdnnLayer(width//2, width, kernel=5, stride=2)])

    def forward(self, features, mask):  # (batch, frames, bins), (batch, frames)
        x, mask = features.transpose(1, 2), mask[:, None].to(features.dtype)
        for layer in self.layers: x, mask = layer(x, mask)
        return x*mask, mask  # (batch, width, frames/4), (batch, 1, frames/4)


class Res2Block(nn.Module):
    "ECAPA's block: groups of channels in turn, each added to the next, a gate, and a residual path"
    def __init__(self, width, dilation, groups=8):
        super().__init__()
        part = width//groups
        self.before, self.after = nn.Conv1d(width, width, 1), nn.Conv1d(width, width, 1)
        self.convs = nn.ModuleList([
            nn.Conv1d(part, part, 3, padding=dilation, dilation=dilation) for _ in range(groups - 1)])
        self.norms = nn.ModuleList([MaskedBatchNorm(part) for _ in range(groups - 1)])
        self.norm_before, self.norm_after = MaskedBatchNorm(width), MaskedBatchNorm(width)
        self.gate = nn.Sequential(nn.Linear(width, width//2), nn.ReLU(),
                                  nn.Linear(width//2, width), nn.Sigmoid())

    def forward(self, x, mask):  # (batch, width, frames), (batch, 1, frames)
        parts = self.norm_before(F.relu(self.before(x)), mask).chunk(len(self.convs) + 1, 1)
        out, last = [parts[0]], 0
        for part, conv, norm in zip(parts[1:], self.convs, self.norms):
            last = norm(F.relu(conv((part + last)*mask)), mask)
            out.append(last)
        y = self.norm_after(F.relu(self.after(torch.cat(out, 1))), mask)*mask
        return x + y*self.gate(y.sum(2)/mask.sum(2))[..., None]


class EcapaEncoder(nn.Module):
    "Three blocks of 256 channels, and a layer over all of them (Desplanques et al., 2020)"
    def __init__(self, config, width=256):
        super().__init__()
        self.front = Front(config.num_mel_bins, width)
        self.blocks = nn.ModuleList([Res2Block(width, d) for d in (2, 3, 4)])
        self.join = nn.Conv1d(3*width, config.hidden_size, 1)

    def forward(self, features, mask):  # (batch, frames, bins), (batch, frames)
        x, mask = self.front(features, mask)
        found = []
        for block in self.blocks:
            x = block(x, mask)
            found.append(x)
        return F.relu(self.join(torch.cat(found, 1))), mask


class MaskedConformerLayer(ConformerLayer):
    "torchaudio's layer, whose convolution and batch norm leave padding out"
    def __init__(self, width, *args, **kwargs):
        super().__init__(width, *args, **kwargs)
        self.conv_module.sequential[3] = MaskedBatchNorm(width)

    def convolution(self, x, mask):  # (batch, frames, width), (batch, 1, frames)
        x = self.conv_module.layer_norm(x).transpose(1, 2)
        for layer in self.conv_module.sequential:
            if isinstance(layer, MaskedBatchNorm): x = layer(x, mask)
            else: x = layer(x*mask if getattr(layer, 'groups', 1) > 1 else x)
        return x.transpose(1, 2)

    def forward(self, x, mask):  # (batch, frames, width), (batch, 1, frames)
        x = x + .5*self.ffn1(x)
        y = self.self_attn_layer_norm(x).transpose(0, 1)
        y = self.self_attn(y, y, y, key_padding_mask=mask[:, 0] == 0, need_weights=False)[0]
        x = x + self.self_attn_dropout(y.transpose(0, 1))
        x = x + self.convolution(x, mask)
        return self.final_layer_norm(x + .5*self.ffn2(x))


class ConformerEncoder(nn.Module):
    "Four small layers of a Conformer (Gulati et al., 2020)"
    def __init__(self, config):
        super().__init__()
        width = config.hidden_size
        self.front = Front(config.num_mel_bins, width)
        self.layers = nn.ModuleList([
            MaskedConformerLayer(width, 3*width, 4, 15, dropout=config.dropout) for _ in range(4)])

    def forward(self, features, mask):  # (batch, frames, bins), (batch, frames)
        x, mask = self.front(features, mask)
        x = x.transpose(1, 2)
        for layer in self.layers: x = layer(x, mask)
        return x.transpose(1, 2), mask


def short_whisper(config):
    "Whisper's encoder with two layers, for 30 s at most"
    width = config.hidden_size
    return MaskedWhisperEncoder(WhisperConfig(
        d_model=width, encoder_layers=2, encoder_attention_heads=4, encoder_ffn_dim=2*width,
        num_mel_bins=config.num_mel_bins, max_source_positions=1500, dropout=config.dropout))


def part_folder(name):
    "Where a pruned part lies; `ValueError` where it is not made"
    if not (PARTS/name).exists():
        raise ValueError(f'{PARTS/name}: is not there. Make it: python tools/model/tiny.py prune {name}')
    return PARTS/name


def with_labels(folder, labels):
    "A pruned part with a new head; its convolutions are not trained"
    names = dict(id2label=dict(enumerate(labels)), label2id={l: i for i, l in enumerate(labels)})
    net = SpokenLanguageClassifier(SpokenLanguageConfig.from_pretrained(folder, **names))
    part = SpokenLanguageClassifier.from_pretrained(folder)
    net.encoder.load_state_dict(part.encoder.state_dict())
    net.encoder.conv1.requires_grad_(False)
    net.encoder.conv2.requires_grad_(False)
    return net


def lowest_layers(labels, layers, neurons, step=2, channels=192, whole=None):
    "Convolutions and first layers of `base`, whose neurons `parts.prune` fits"
    whole = (whole or load_run(BASE)).encoder
    size = {k: getattr(whole.config, k) for k in ('d_model', 'encoder_attention_heads', 'num_mel_bins')}
    size |= dict(encoder_layers=layers, encoder_ffn_dim=neurons, frame_step=step,
                 max_source_positions=whole.config.max_source_positions//step)
    net = SpokenLanguageClassifier(whisper_base_config(
        labels=labels, head='conv', conv_channels=channels, whisper=size))
    state = whole.state_dict()
    state['embed_positions.weight'] = state['embed_positions.weight'][::step]
    ours = net.encoder.state_dict()
    same = {k: v for k, v in state.items() if k in ours and v.shape == ours[k].shape}
    net.encoder.load_state_dict(same, strict=False)
    return net


NETWORKS = {  # name: settings of the network, and the class of its encoder where the package has none
    'tdnn': (dict(hidden_size=256, num_layers=5), None),
    'separable': (dict(encoder='separable', hidden_size=320, num_layers=7), None),
    'ecapa': (dict(hidden_size=384), EcapaEncoder),
    'conformer': (dict(hidden_size=144), ConformerEncoder),
    'short-whisper': (dict(hidden_size=256), short_whisper)}
PARTS_OF_BASE = {  # as in `lowest_layers`
    'lowest-2': dict(layers=2, neurons=2048), 'lowest-3': dict(layers=3, neurons=1536)}
PRETRAINED_RATES = dict(learning_rate=1e-3, encoder_learning_rate=3e-4)  # for parts of `base`


def network(
    name: str,  # one of `NETWORKS` or `PARTS_OF_BASE`
    labels: list,
) -> SpokenLanguageClassifier:
    "An untrained network, or a part of `base` with a new head; `ValueError` for a name it has not"
    if name in PARTS_OF_BASE:
        return with_labels(part_folder(name), labels)
    if name not in NETWORKS:
        raise ValueError(f'{name!r} is none of {", ".join([*NETWORKS, *PARTS_OF_BASE])}.')
    settings, encoder = NETWORKS[name]
    net = SpokenLanguageClassifier(SpokenLanguageConfig(labels=labels, **settings))
    if encoder:
        net.encoder, net.config.encoder = encoder(net.config), name
    return net
