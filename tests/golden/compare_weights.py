"""Compare full-size networks with the peers': logits at two sizes, gradients of a training step.

Random weights and statistics of every ResNet of torchvision and of timm's `resnet*d`, saved by the
peer, read by jcls. The narrow networks of `make_weights.py` are in the tests; these take minutes.

    python tests/golden/compare_weights.py --peer_python PYTHON_WITH_TORCH_AND_TIMM

Prints a table of the largest differences over the largest entry; the worst must be below 1e-4 for
logits. Gradients in float32 through fifty layers agree to some 1e-3; --x64 computes both sides in
float64 and shows that they are the same function.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

NETS = {
    'torchvision': (
        'resnet18', 'resnet34', 'resnet50', 'resnet101', 'resnet152', 'resnext50_32x4d',
        'resnext101_32x8d', 'resnext101_64x4d', 'wide_resnet50_2', 'wide_resnet101_2',
    ),
    'timm': (
        'resnet18d', 'resnet26', 'resnet26d', 'resnet34d', 'resnet50d', 'resnet101d', 'resnet152d',
        'resnet200d', 'resnext101_32x4d',
    ),
}  # fmt: skip
SIZES = (224, 161)

PEER = """
import sys, numpy as np, torch
from torch.nn import functional
library, name, out, sizes, wide = sys.argv[1:]
torch.manual_seed(0)
if library == 'timm':
    import timm
    model = timm.create_model(name)
else:
    import torchvision
    model = torchvision.models.get_model(name)
for module in model.modules():
    if isinstance(module, torch.nn.BatchNorm2d):
        module.weight.data.uniform_(0.5, 1.5)
        module.bias.data.normal_(0, 0.1)
        module.running_mean.normal_(0, 0.1)
        module.running_var.uniform_(0.5, 2)
torch.save(model.state_dict(), out + '/weights.pth')
model = model.double() if wide == '1' else model
found = {}
for size in map(int, sizes.split(',')):
    images = torch.randn(2, 3, size, size)
    found[f'images{size}'] = images.numpy()
    with torch.no_grad():
        found[f'logits{size}'] = model.eval()(images.to(model.fc.weight.dtype)).numpy()
images = torch.randn(4, 3, 64, 64)
found['images'] = images.numpy()
logits = model.train()(images.to(model.fc.weight.dtype))
functional.cross_entropy(logits, torch.tensor([1, 2, 3, 4])).backward()
for key, parameter in model.named_parameters():
    found['grads/' + key] = parameter.grad.numpy()
np.savez(out + '/numbers.npz', **found)
"""


def main() -> None:
    """Compare every network, one at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--peer_python', default=sys.executable)
    parser.add_argument('--x64', action='store_true')
    parser.add_argument('--nets', nargs='*', help='only these')
    args = parser.parse_args()
    os.environ['JAX_ENABLE_X64'] = str(int(args.x64))
    import jax
    import jax.numpy as jnp
    import numpy as np
    import optax
    from flax.traverse_util import flatten_dict

    import jcls
    from jcls.weights.foreign import layouts

    def apart(found: object, wanted: np.ndarray) -> float:
        return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())

    print(
        'largest difference'.ljust(30) + ''.join(f'{s} px'.rjust(10) for s in SIZES) + ' gradients'
    )
    for library, names in NETS.items():
        for name in names:
            if args.nets and name not in args.nets:
                continue
            with tempfile.TemporaryDirectory() as folder:
                sizes = ','.join(map(str, SIZES))
                words = ['-c', PEER, library, name, folder, sizes, str(int(args.x64))]
                subprocess.run([args.peer_python, *words], check=True)
                numbers = dict(np.load(Path(folder) / 'numbers.npz'))
                model, variables = jcls.load(Path(folder) / 'weights.pth')
            dtype = jax.dtypes.canonicalize_dtype(float)
            variables = jax.tree.map(lambda leaf, dtype=dtype: leaf.astype(dtype), variables)
            errors = []
            for size in SIZES:
                images = numbers[f'images{size}'].transpose(0, 2, 3, 1)
                logits = jax.jit(model.apply)(variables, images)
                errors.append(apart(logits, numbers[f'logits{size}']))

            def loss(params: object, model=model, variables=variables, numbers=numbers) -> object:
                images = numbers['images'].transpose(0, 2, 3, 1)
                logits, _ = model.apply(
                    {**variables, 'params': params}, images, train=True, mutable=['batch_stats']
                )
                labels = jnp.arange(1, 5)
                return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

            found = {'params': jax.jit(jax.grad(loss))(variables['params'])}
            gradients = flatten_dict(found, sep='/')
            tensors = layouts.tensors(model, layouts.TORCH)
            worst = max(
                apart(gradient, layouts.to_own(numbers[f'grads/{tensors[path]}'], layouts.TORCH))
                for path, gradient in gradients.items()
            )
            print(
                f'{library:12}{name:18}' + ''.join(f'{error:10.1e}' for error in (*errors, worst)),
                flush=True,
            )


if __name__ == '__main__':
    main()
